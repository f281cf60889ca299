"""A tagger learns to colour Python source: is a character part of a keyword, a name, a number, a string, a comment?

The lines are those of Python's own library, the truth is what its tokenizer says. Two bidirectional layers read each line, a
softmax upon them names the kind of each character; lines are of different lengths. Ends in a few seconds.

python examples/train_a_layer.py [steps]
"""

import io
import keyword
import pathlib
import sys
import token
import tokenize

import numpy as np
from optimizers import Adam

import fastgate

KINDS = ("other", "keyword", "name", "number", "string", "comment")
COLOURS = ("0", "35", "0", "36", "32", "90")
FILES = (
    "argparse",
    "ast",
    "bisect",
    "calendar",
    "configparser",
    "contextlib",
    "dataclasses",
    "datetime",
    "difflib",
    "textwrap",
)
WIDTH = 80  # characters of a line, at most
K = 128  # characters: ASCII, all others are number 127


def tagged_lines(source):
    """(characters, kinds) of each line that is no part of a longer string, both as arrays of integers."""
    lines = source.splitlines()
    kinds = [np.zeros(len(line), np.int64) for line in lines]
    for found in tokenize.generate_tokens(io.StringIO(source).readline):
        (row, begin), (last, end) = found.start, found.end
        if row != last:
            kinds[row - 1 : last] = [None] * (last - row + 1)
        elif row <= len(lines) and kinds[row - 1] is not None:
            kinds[row - 1][begin:end] = kind_of(found)
    pairs = zip(lines, kinds, strict=True)
    return [
        (np.minimum([ord(c) for c in line], K - 1), kind) for line, kind in pairs if kind is not None and 3 < len(line) <= WIDTH
    ]


def kind_of(found):
    name = token.tok_name[found.type]
    if name == "NAME":
        name = "keyword" if keyword.iskeyword(found.string) else "name"
    elif "STRING" in name:  # f-strings have kinds of their own since Python 3.12
        name = "string"
    return KINDS.index(name.lower()) if name.lower() in KINDS else 0


def read_lines():
    folder = pathlib.Path(io.__file__).parent
    texts = [(folder / f"{name}.py").read_text(encoding="utf-8") for name in FILES]
    return [pair for text in texts for pair in tagged_lines(text)]


def padded(pairs):
    """ids, kinds (N, T) with zeros behind each row's end, lengths (N,)."""
    lengths = np.array([len(characters) for characters, _ in pairs])
    ids, kinds = np.zeros((2, len(pairs), lengths.max()), np.int64)
    for n, (characters, kind) in enumerate(pairs):
        ids[n, : lengths[n]], kinds[n, : lengths[n]] = characters, kind
    return ids, kinds, lengths


class Tagger:
    """x = E[ids]; h = two bidirectional layers; o = h V + c."""

    def __init__(self, rng):
        self.layer = fastgate.GRU(32, 64, num_layers=2, bidirectional=True, merge="sum", dropout=0.1, rng=rng)
        self.E = rng.standard_normal((K, 32), np.float32)
        self.V = rng.standard_normal((64, len(KINDS)), np.float32) / 8
        self.c = np.zeros(len(KINDS), np.float32)
        self.parameters = [self.layer.parameters, self.E, self.V, self.c]

    def outputs(self, ids, lengths, training):
        h, _, cache = self.layer.forward(self.E[ids], lengths=lengths, training=training)
        return h @ self.V + self.c, h, cache

    def gradients(self, ids, kinds, lengths):
        """Mean loss of a character, and the gradients of `parameters`."""
        o, h, cache = self.outputs(ids, lengths, training=True)
        counts = np.arange(ids.shape[1]) < lengths[:, None]
        loss, do = fastgate.softmax_cross_entropy(o, kinds, mask=counts, reduction="mean")
        dx = self.layer.backward(do @ self.V.T, cache).dx
        dE = np.zeros_like(self.E)
        np.add.at(dE, ids, dx)
        return loss, [self.layer.gradients, dE, np.einsum("nth,ntk->hk", h, do), do.sum(axis=(0, 1))]


def coloured(characters, kinds):
    """The line as a terminal shows it in colours."""
    text, ends = "", [*(np.flatnonzero(np.diff(kinds)) + 1), len(kinds)]
    for begin, end in zip([0, *ends], ends, strict=False):
        text += f"\033[{COLOURS[kinds[begin]]}m{''.join(map(chr, characters[begin:end]))}\033[m"
    return text


def main(steps=200):
    rng = np.random.default_rng(0)
    lines = read_lines()
    rng.shuffle(lines)
    held_out, lines = lines[:500], lines[500:]
    model = Tagger(rng)
    adam = Adam(model.parameters, rate=3e-3)
    print(model.layer)
    for step in range(1, steps + 1):
        batch = [lines[k] for k in rng.integers(0, len(lines), 32)]
        loss, gradients = model.gradients(*padded(batch))
        fastgate.clip_grad_norm(gradients, 1.0)
        adam.step(gradients)
        if step % max(steps // 10, 1) == 0:
            print(f"step {step:4}   loss {loss:.3f}")

    ids, kinds, lengths = padded(held_out)
    guess = model.outputs(ids, lengths, training=False)[0].argmax(axis=2)
    counts = np.arange(ids.shape[1]) < lengths[:, None]
    print(f"of the characters of 500 other lines, {np.mean(guess[counts] == kinds[counts]):.1%} are named rightly")
    for n in range(8 * sys.stdout.isatty()):
        print(coloured(ids[n, : lengths[n]], guess[n, : lengths[n]]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
