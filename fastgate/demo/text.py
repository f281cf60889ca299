"""Characters -> numbers -> batches that follow one another."""

import hashlib

import numpy as np

from .options import DemoError


def read_text(path):
    """The text of a UTF-8 file; for "" the help texts that every Python carries."""
    if path:
        try:
            with open(path, encoding="utf-8") as file:
                return file.read()
        except OSError as error:
            raise DemoError(f"--text {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise DemoError(f"--text {path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DemoError("this Python was installed without pydoc_data; pass --text FILE") from None
    return "\n\n".join(topics.values())


def vocabulary(text):
    """The characters of a text, sorted: a character's place here is its number."""
    return "".join(sorted(set(text)))


def encode(text, chars):
    """Characters -> numbers. Every character of `text` must be in `chars`."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return np.searchsorted(np.frombuffer(chars.encode("utf-32-le"), np.uint32), points)


def digest(text):
    """A fingerprint, by which --resume knows the text again."""
    return hashlib.sha256(text.encode()).hexdigest()


class Streams:
    """`batch` readers, evenly spread over the text bent into a ring; each gets `length` characters at a time.

    They go on where they stopped, so states can be carried. After a pass (every reader has come to where its
    neighbour began) all start anew from a random place, so the text is cut elsewhere.
    """

    def __init__(self, ids, batch, length, rng):
        if len(ids) < batch * (length + 1):
            raise DemoError(
                f"the text has {len(ids):,} characters, too few for --batch {batch} --length {length}: "
                f"at least {batch * (length + 1):,}"
            )
        self.ids, self.length, self.rng = ids, length, rng
        self.spacing = len(ids) // batch
        self.first = self.spacing * np.arange(batch)[:, None]
        self.rewind()

    def rewind(self):
        self.start, self.position = int(self.rng.integers(len(self.ids))), 0

    def next(self):
        """x (N, T), y (N, T): characters and the ones after them; and whether a new pass begins."""
        if self.position + self.length >= self.spacing:
            self.rewind()
        fresh = self.position == 0
        places = self.start + self.first + self.position + np.arange(self.length + 1)
        self.position += self.length
        piece = self.ids.take(places, mode="wrap")
        return piece[:, :-1], piece[:, 1:], fresh
