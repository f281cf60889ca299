"""Arrays whose meaning nobody tells: every way in which their shapes allow to read them as the weights of a cell."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

CELLS = {1: "rnn", 3: "gru", 4: "lstm"}  # number of gates -> cell
PLACEMENTS = 400  # of biases of single gates: as many are tried


@dataclass(frozen=True, eq=False)
class Named:
    """An array and the source text that makes it from the user's arrays `names`.

    covers: of a bias, the blocks that it has numbers for where these are not all; the others hold zeros.
    """

    text: str
    array: np.ndarray
    names: frozenset[str]
    covers: tuple[int, ...] | None = None

    def made(self, text: str, array: np.ndarray) -> "Named":
        """Another array from the same ones; {} in the text stands for this one."""
        return Named(text.replace("{}", self.text), array, self.names)


@dataclass(frozen=True)
class Reading:
    """The weights read in one way: right-multiplying, gates side by side in the user's own order."""

    layout: str
    G: int
    Wx: Named  # (D, G·H)
    Wh: Named  # (P, G·H)
    biases: tuple[Named, ...] = ()  # each (G·H,): none, one, or two
    peephole: Named | None = None  # (3·H,)
    Wr: Named | None = None  # (H, P)

    @property
    def names(self) -> frozenset[str]:
        extra = [a for a in (self.peephole, self.Wr) if a is not None]
        return frozenset().union(*(a.names for a in (self.Wx, self.Wh, *self.biases, *extra)))


def readings(weights: Mapping[str, np.ndarray], D: int, H: int, P: int, cells: tuple[str, ...]) -> list[Reading]:
    """Every way to read the arrays that their shapes allow; those that leave the fewest unused come first."""
    arrays = stacked(weights, H)
    peepholes = [a for a in arrays if a.array.size == 3 * H and a.array.ndim <= 2 and a.array.shape[-1] in (3 * H, H, 1)]
    peepholes += _three(weights, H)
    found = []
    for base in matrices(arrays, D, H, P):
        if CELLS[base.G] not in cells:
            continue
        projections = _projections(arrays, base, H, P) if base.G == 4 else [None]
        for Wr in projections:
            taken = base.names | (Wr.names if Wr is not None else frozenset())
            for biases in _bias_choices(arrays, base.G, H, taken):
                used = taken.union(*(b.names for b in biases))
                pipes: list[Named | None] = [None]
                if base.G == 4:
                    pipes = [flat(p) for p in peepholes if not p.names & used] + [None]
                found += [Reading(base.layout, base.G, base.Wx, base.Wh, biases, p, Wr) for p in pipes]
    return sorted(found, key=lambda reading: (len(weights) - len(reading.names), -len(reading.biases)))


# --- vectors ----------------------------------------------------------------------------------------------------------


def flat(a: Named) -> Named:
    return a if a.array.ndim == 1 else a.made("{}.ravel()", a.array.ravel())


def is_vector(a: np.ndarray) -> bool:
    return a.ndim == 1 or (a.ndim == 2 and 1 in a.shape)


def whole(a: Named, G: int, H: int) -> Iterator[Named]:
    """The vectors (G·H,) in an array: itself, its two rows, or its two halves."""
    size, array = G * H, a.array
    if array.size == size and is_vector(array):
        yield flat(a)
    if array.shape == (2, size):
        yield a.made("{}[0]", array[0])
        yield a.made("{}[1]", array[1])
    elif array.size == 2 * size and is_vector(array):
        one = flat(a)
        yield one.made(f"{{}}[:{size}]", one.array[:size])
        yield one.made(f"{{}}[{size}:]", one.array[size:])


def _bias_choices(arrays: list[Named], G: int, H: int, taken: frozenset[str]) -> list[tuple[Named, ...]]:
    """None, one or two biases; each of all gates, or of some, in any blocks."""
    free = [a for a in arrays if not a.names & taken]
    full = [v for a in free for v in whole(a, G, H)]
    choices: list[tuple[Named, ...]] = [(), *((v,) for v in full)]
    choices += [pair for pair in itertools.combinations(full, 2) if pair[0].text != pair[1].text]
    parts = [flat(a) for a in free if len(a.names) == 1 and is_vector(a.array) and a.array.size in [m * H for m in range(1, G)]]
    some = list(itertools.islice(_placed(parts, G, H), PLACEMENTS))
    choices += [(v,) for v in some]
    choices += [(v, s) for v in full for s in some if not v.names & s.names]
    if G == 3 and len(some) <= 40:  # the two biases of a gru's candidate, inside r * (…) and outside
        pairs = [(a, b) for a, b in itertools.combinations(some, 2) if not a.names & b.names]
        choices += [(a, b) for a, b in pairs if set(a.covers or range(G)) & set(b.covers or range(G))]
    return choices


def _placed(parts: list[Named], G: int, H: int) -> Iterator[Named]:
    """Biases of single gates, [b_i, b_f, b_o] or one array of them, put into blocks in every way; zeros elsewhere."""
    for count in range(1, min(G, len(parts)) + 1):
        for chosen in itertools.combinations(parts, count):
            names = frozenset().union(*(a.names for a in chosen))
            if sum(len(a.names) for a in chosen) > len(names):
                continue  # one array twice: by itself and in a stack
            blocks = [
                a if a.array.size == H else a.made(f"{{}}[{k * H}:{(k + 1) * H}]", a.array[k * H : (k + 1) * H])
                for a in chosen for k in range(a.array.size // H)
            ]  # fmt: skip
            if len(blocks) > G or math.perm(G, len(blocks)) > PLACEMENTS:
                continue
            for places in itertools.permutations(range(G), len(blocks)):
                array, texts = np.zeros(G * H, blocks[0].array.dtype), [f"np.zeros({H})"] * G
                if array.dtype == np.float32:
                    texts = [f"np.zeros({H}, np.float32)"] * G
                for place, block in zip(places, blocks, strict=True):
                    array[place * H : (place + 1) * H] = block.array
                    texts[place] = block.text
                covers = None if len(places) == G else tuple(sorted(places))
                yield Named(f"np.concatenate([{', '.join(texts)}])", array, names, covers)


def _three(weights: Mapping[str, np.ndarray], H: int) -> Iterator[Named]:
    """Three vectors (H,), one for each peephole, wherever their names differ from all others'."""
    names = [name for name, a in weights.items() if a.size == H and a.ndim <= 2]
    for three in itertools.combinations(names, 3):
        if len(names) <= 7 and len({n[:-1] for n in three}) == 1:
            text = ", ".join(name if weights[name].ndim == 1 else f"{name}.ravel()" for name in three)
            yield Named(f"np.concatenate([{text}])", np.concatenate([weights[n].ravel() for n in three]), frozenset(three))


# --- matrices ---------------------------------------------------------------------------------------------------------


def stacked(weights: Mapping[str, np.ndarray], H: int) -> list[Named]:
    """Arrays as they are, and those of single gates (Wf, Wi, Wc, Wo) side by side."""
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, a in weights.items():
        if a.ndim in (1, 2) and H in a.shape:
            groups.setdefault((name[:-1], a.shape), []).append(name)
    found = [Named(name, np.asarray(a), frozenset([name])) for name, a in weights.items()]
    orders: dict[frozenset[str], list[str]] = {}
    for (_, shape), names in groups.items():
        if len(names) not in (3, 4):
            continue
        letters = orders.setdefault(frozenset(name[-1] for name in names), [name[-1] for name in names])
        names = sorted(names, key=lambda name, letters=letters: letters.index(name[-1]))  # type: ignore[misc]
        gates = [weights[name] for name in names]
        axes = [k for k, n in enumerate(shape) if n == H]
        for axis in axes if len(shape) == 2 else axes[:1]:
            suffix = f", axis={axis}" if axis or len(shape) == 2 else ""
            text = f"np.concatenate([{', '.join(names)}]{suffix})"
            found.append(Named(text, np.concatenate(gates, axis=axis), frozenset(names)))
    return found


def _sides(a: Named, rows: int, H: int) -> Iterator[tuple[bool, int, Named]]:
    """(multiplies from the left, G, (rows, G·H)), in each way in which a is a matrix of `rows` rows."""
    if a.array.shape[0] == rows and a.array.shape[1] in [g * H for g in CELLS]:
        yield False, a.array.shape[1] // H, a
    if a.array.shape[1] == rows and a.array.shape[0] in [g * H for g in CELLS]:
        yield True, a.array.shape[0] // H, a.made("{}.T", a.array.T)


def matrices(arrays: list[Named], D: int, H: int, P: int) -> Iterator[Reading]:
    """Readings of the matrices alone: two of them, or one for [x, h] or [h, x]."""
    both = [a for a in arrays if a.array.ndim == 2]
    for first, second in itertools.permutations(both, 2):
        if first.names & second.names:
            continue
        for (left_x, G, Wx), (left_h, G_h, Wh) in itertools.product(_sides(first, D, H), _sides(second, P, H)):
            if G == G_h:
                layout = {
                    (False, False): "x @ Wx + h @ Wh", (True, True): "Wx @ x + Wh @ h",
                    (False, True): "x @ Wx + Wh @ h", (True, False): "Wx @ x + h @ Wh",
                }[left_x, left_h]  # fmt: skip
                yield Reading(layout, G, Wx, Wh)
    for a in both:
        for left, G, W in _sides(a, D + P, H):
            for word, x_rows, h_rows in (("[x, h]", (0, D), (D, D + P)), ("[h, x]", (P, D + P), (0, P))):

                def part(rows: tuple[int, int], a: Named = a, left: bool = left, W: Named = W) -> Named:
                    start, stop = rows
                    cut = f"{start}:" if stop == D + P else f":{stop}"
                    return a.made(f"{{}}[:, {cut}].T" if left else f"{{}}[{cut}]", W.array[start:stop])

                yield Reading(f"W @ {word}" if left else f"{word} @ W", G, part(x_rows), part(h_rows))


def _projections(arrays: list[Named], base: Reading, H: int, P: int) -> list[Named | None]:
    """Wr (H, P): each matrix that has its shape, or is its transpose; none at all where h is as wide as c."""
    found: list[Named | None] = [None] if P == H else []
    for a in arrays:
        if a.array.ndim == 2 and not a.names & base.names:
            if a.array.shape == (H, P):
                found.append(a)
            if a.array.shape == (P, H):
                found.append(a.made("{}.T", a.array.T))
    return found
