"""Weights that are known: which reading of them, and which variant of a cell, gives the numbers of the step."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastgate.check import model
from fastgate.check.model import Variant
from fastgate.check.stepping import Step

LSTM, GRU = "ifgo", "rzn"
CELLS = {1: "rnn", 3: "gru", 4: "lstm"}
RNN_ACTIVATIONS = tuple(model.ACTIVATIONS)
ACTIVATIONS = ("tanh", "sigmoid", "relu", "identity")
GATES = ("sigmoid", "hard_sigmoid", "hard_sigmoid6")


@dataclass(frozen=True)
class Named:
    """An array and the source text that makes it from the user's arrays."""

    text: str
    array: np.ndarray


@dataclass(frozen=True)
class Reading:
    """The weights read in one way: right-multiplying, gates side by side in the user's own order."""

    layout: str
    G: int
    Wx: Named  # (D, G·H)
    Wh: Named  # (H, G·H)
    biases: tuple[Named, ...]  # each (G·H,): none, one, or two
    peephole: Named | None  # (3·H,)
    unused: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A reading and a variant: a complete account of what the step computes."""

    reading: Reading
    variant: Variant
    gate_order: str | None
    bias: str  # none, one, two, or where they sit
    b: Named | None
    bh: Named | None
    peephole: Named | None  # in the order i f o

    def weights(self) -> dict[str, np.ndarray]:
        """Canonical gate order, as model.step takes them."""
        H = self.reading.Wh.array.shape[0]
        letters = {"lstm": LSTM, "gru": GRU, "rnn": "a"}[self.variant.cell]
        order = self.gate_order or letters
        columns = np.concatenate([np.arange(H) + order.index(letter) * H for letter in letters])
        W = {"Wx": self.reading.Wx.array[:, columns], "Wh": self.reading.Wh.array[:, columns]}
        W |= {name: a.array[columns] for name, a in (("b", self.b), ("bh", self.bh)) if a is not None}
        return W | ({"peephole": self.peephole.array} if self.peephole is not None else {})


# --- readings ---------------------------------------------------------------------------------------------------------


def readings(weights: Mapping[str, np.ndarray], D: int, H: int) -> Iterator[Reading]:
    """Every way to read the arrays that their shapes allow."""
    arrays = _stacked(weights, H)
    vectors = [a for a in arrays if _bias_like(a.array, H)]
    peepholes = [a for a in arrays if a.array.size == 3 * H and a.array.ndim <= 2 and a.array.shape[-1] in (3 * H, H, 1)]
    peepholes += _three(weights, H)
    for layout, G, Wx, Wh, used in _matrices(arrays, D, H):
        usable = [v for a in vectors if a.text not in used for v in _biases(a, G, H)]
        choices: list[tuple[Named, ...]] = [()]
        choices += [(v,) for v in usable]
        choices += [pair for pair in itertools.combinations(usable, 2) if pair[0].text != pair[1].text]
        for biases in sorted(choices, key=len, reverse=True):
            taken = used | {_root(b.text) for b in biases}
            pipes: list[Named | None] = [None]
            if G == 4:
                pipes = [_flat(p) for p in peepholes if _root(p.text) not in taken] + [None]
            for peephole in pipes:
                names = taken | ({_root(peephole.text)} if peephole is not None else set())
                text = " ".join(names) + " " + " ".join([Wx.text, Wh.text, *(b.text for b in biases)])
                text += f" {peephole.text}" if peephole is not None else ""
                unused = tuple(name for name in weights if not _mentions(text, name))
                yield Reading(layout, G, Wx, Wh, biases, peephole, unused)


def _mentions(text: str, name: str) -> bool:
    words = "".join(ch if ch.isalnum() or ch == "_" else " " for ch in text).split()
    return name in words or repr(name) in text


def _root(text: str) -> str:
    return text.split("[")[0].split(".")[0] if not text.startswith("np.") else text


def _flat(a: Named) -> Named:
    return a if a.array.ndim == 1 else Named(f"{a.text}.ravel()", a.array.ravel())


def _bias_like(a: np.ndarray, H: int) -> bool:
    if a.ndim == 1:
        return a.size % H == 0
    return a.ndim == 2 and (1 in a.shape or a.shape[0] == 2) and a.size % H == 0


def _biases(a: Named, G: int, H: int) -> Iterator[Named]:
    """The vectors (G·H,) in an array: itself, or its two halves."""
    size, array = G * H, a.array
    if array.size == size and 1 in (array.ndim, *array.shape):
        yield _flat(a)
    if array.shape == (2, size):
        yield Named(f"{a.text}[0]", array[0])
        yield Named(f"{a.text}[1]", array[1])
    elif array.size == 2 * size and 1 in (array.ndim, *array.shape):
        flat = _flat(a)
        yield Named(f"{flat.text}[:{size}]", flat.array[:size])
        yield Named(f"{flat.text}[{size}:]", flat.array[size:])


def _stacked(weights: Mapping[str, np.ndarray], H: int) -> list[Named]:
    """Arrays as they are, and those of single gates (Wf, Wi, Wc, Wo) side by side."""
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, a in weights.items():
        if a.ndim in (1, 2) and H in a.shape:
            groups.setdefault((name[:-1], a.shape), []).append(name)
    found = [Named(name, np.asarray(a)) for name, a in weights.items()]
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
            found.append(Named(f"np.concatenate([{', '.join(names)}]{suffix})", np.concatenate(gates, axis=axis)))
    return found


def _three(weights: Mapping[str, np.ndarray], H: int) -> Iterator[Named]:
    """Three vectors (H,), one for each peephole, wherever their names differ from all others'."""
    names = [name for name, a in weights.items() if a.size == H and a.ndim <= 2]
    for three in itertools.combinations(names, 3):
        if len(names) <= 7 and len({n[:-1] for n in three}) == 1:
            yield Named(f"np.concatenate([{', '.join(f'{n}.ravel()' for n in three)}])",
                        np.concatenate([weights[n].ravel() for n in three]))  # fmt: skip


def _matrices(arrays: list[Named], D: int, H: int) -> Iterator[tuple[str, int, Named, Named, set[str]]]:
    """(layout, G, Wx, Wh, names used): two matrices, or one for [x, h] or [h, x]."""
    matrices = [a for a in arrays if a.array.ndim == 2]

    def sides(a: Named, rows: int) -> Iterator[tuple[bool, int, Named]]:
        """(multiplies from the left, G, (rows, G·H))"""
        if a.array.shape[0] == rows and a.array.shape[1] in [g * H for g in CELLS]:
            yield False, a.array.shape[1] // H, a
        if a.array.shape[1] == rows and a.array.shape[0] in [g * H for g in CELLS]:
            yield True, a.array.shape[0] // H, Named(f"{a.text}.T", a.array.T)

    for first, second in itertools.permutations(matrices, 2):
        for (left_x, G, Wx), (left_h, G_h, Wh) in itertools.product(sides(first, D), sides(second, H)):
            if G == G_h:
                layout = {
                    (False, False): "x @ Wx + h @ Wh", (True, True): "Wx @ x + Wh @ h",
                    (False, True): "x @ Wx + Wh @ h", (True, False): "Wx @ x + h @ Wh",
                }[left_x, left_h]  # fmt: skip
                yield layout, G, Wx, Wh, {first.text, second.text}
    for a in matrices:
        for left, G, W in sides(a, D + H):
            name, array = a.text, W.array
            cut = (lambda rows, name=name: f"{name}[:, {rows}].T") if left else (lambda rows, name=name: f"{name}[{rows}]")
            for word, x_rows, h_rows in (("[x, h]", (0, D), (D, D + H)), ("[h, x]", (H, D + H), (0, H))):

                def part(rows: tuple[int, int], cut: Any = cut, array: np.ndarray = array) -> Named:
                    start, stop = rows
                    text = f"{start}:" if stop == D + H else f":{stop}"
                    return Named(cut(text), array[start:stop])

                yield f"W @ {word}" if left else f"{word} @ W", G, part(x_rows), part(h_rows), {name}


# --- candidates -------------------------------------------------------------------------------------------------------


def candidates(step: Step, clips: Mapping[str, float | None], samples: list[np.ndarray], found: tuple[np.ndarray, ...],
               tolerance: float) -> list[Candidate]:  # fmt: skip
    """Those that give `found` from `samples` (x, h and c), the simplest first."""
    matches: list[Candidate] = []

    def gives(output: np.ndarray, k: int = 0) -> bool:
        return _error(output, found[k]) <= tolerance

    fitting = [r for r in readings(step.weights, step.D, step.H) if (CELLS[r.G] == "lstm") == step.has_c]
    for plain in (True, False):  # cells with the usual activations first: the others are eleven times as many
        for reading in fitting:
            kind = {"rnn": _rnn, "gru": _gru, "lstm": _lstm}[CELLS[reading.G]]
            matches += kind(reading, clips, samples, gives, plain)
        if matches:
            break
    return sorted(matches, key=_plainness)


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    error = float(np.abs(found - expected).max())
    return error / max(float(np.abs(expected).max()), 1e-300) if np.isfinite(error) else np.inf


def _plainness(candidate: Candidate) -> tuple[Any, ...]:
    """Unused arrays last, then the plainest account first."""
    v, r = candidate.variant, candidate.reading
    changed = sum(getattr(v, name) != default for name, default in _DEFAULTS.items())
    mixed = r.layout in ("x @ Wx + Wh @ h", "Wx @ x + h @ Wh")
    return len(r.unused), mixed, changed, len(candidate.bias)


_DEFAULTS = {"coupled": False, "output": "tanh", "output_peephole": "new", "cell_clip": None, "preact_clip": None,
             "reset": "after", "update": "old", "activation": "tanh", "gates": "sigmoid"}  # fmt: skip


def _sum(biases: tuple[Named, ...]) -> Named | None:
    if not biases:
        return None
    return Named(" + ".join(b.text for b in biases), np.sum([b.array for b in biases], axis=0))


def _counted(biases: tuple[Named, ...]) -> str:
    return ("none", "one", "two")[len(biases)]


def _apart(biases: tuple[Named, ...]) -> tuple[Named | None, Named | None]:
    """b and bh."""
    return (biases[0] if biases else None), (biases[1] if len(biases) > 1 else None)


Gives = Callable[..., bool]


def _rnn(
    reading: Reading, clips: Mapping[str, float | None], samples: list[np.ndarray], gives: Gives, plain: bool
) -> Iterator[Candidate]:
    x, h = samples
    total = _sum(reading.biases)
    a = x @ reading.Wx.array + h @ reading.Wh.array + (0 if total is None else total.array)
    b, bh = _apart(reading.biases)
    for activation in ACTIVATIONS if plain else RNN_ACTIVATIONS:
        v = Variant("rnn", activation=activation, preact_clip=clips["preact_clip"])
        if gives(model.rnn(v, a)):
            yield Candidate(reading, v, None, _counted(reading.biases), b, bh, None)


def _lstm(
    reading: Reading, clips: Mapping[str, float | None], samples: list[np.ndarray], gives: Gives, plain: bool
) -> Iterator[Candidate]:
    x, h, c = samples
    total = _sum(reading.biases)
    a = np.split(x @ reading.Wx.array + h @ reading.Wh.array + (0 if total is None else total.array), 4, axis=1)
    H = h.shape[1]
    b, bh = _apart(reading.biases)
    pipes: list[tuple[Named | None, tuple[np.ndarray, ...] | None]] = [(None, None)]
    sees = ("new",)
    if reading.peephole is not None:
        parts, text = np.split(reading.peephole.array, 3), reading.peephole.text
        pipes, sees = [], ("new", "old")  # type: ignore[assignment]
        for order in itertools.permutations(range(3)):
            slices = [f"{text}[{k * H}:{(k + 1) * H}]" for k in order]
            named = text if order == (0, 1, 2) else f"np.concatenate([{', '.join(slices)}])"
            p = tuple(parts[k] for k in order)
            pipes.append((Named(named, np.concatenate(p)), p))
    orders = [(order, tuple(a[order.index(letter)] for letter in LSTM)) for order in map("".join, itertools.permutations(LSTM))]
    for (named, p), activation, coupled, gates, (order, blocks) in itertools.product(
        pipes, ACTIVATIONS[: 1 if plain else 4], (False, True)[: 1 if plain else 2], GATES[: 1 if plain else 3], orders
    ):
        v = Variant("lstm", activation=activation, coupled=coupled, gates=gates,
                    cell_clip=clips["cell_clip"], preact_clip=clips["preact_clip"])  # fmt: skip
        c_new = model.lstm_c(v, blocks, c, p)
        if not gives(c_new, 1):
            continue
        for output, seen in itertools.product(("tanh", "identity", "sigmoid", "relu"), sees):
            whole = replace(v, output=output, output_peephole=seen)
            if gives(model.lstm_h(whole, blocks, c, c_new, p)):
                yield Candidate(reading, whole, order, _counted(reading.biases), b, bh, named)


def _gru(
    reading: Reading, clips: Mapping[str, float | None], samples: list[np.ndarray], gives: Gives, plain: bool
) -> Iterator[Candidate]:
    x, h = samples
    H = h.shape[1]
    ax, ah = np.split(x @ reading.Wx.array, 3, axis=1), np.split(h @ reading.Wh.array, 3, axis=1)
    Wh = np.split(reading.Wh.array, 3, axis=1)
    zero = np.zeros(H, x.dtype)
    total = _sum(reading.biases)
    parts = [np.split(bias.array, 3) for bias in reading.biases]
    sums = [zero] * 3 if total is None else np.split(total.array, 3)
    for order in map("".join, itertools.permutations(GRU)):
        r, z, n = (order.index(letter) for letter in GRU)
        own_ax = (ax[r] + sums[r], ax[z] + sums[z], ax[n])
        own_ah = (ah[r], ah[z], ah[n])
        for rule, b, bh, b_n, bh_n in _bias_rules(reading.biases, total, [p[n] for p in parts], zero):
            resets = ("after",) if "inside" in rule else ("after", "before")
            for reset, update, gates, activation in itertools.product(
                resets, ("old", "new"), GATES[: 1 if plain else 3], ACTIVATIONS[: 1 if plain else 4]
            ):
                if reset == "before" and len(reading.biases) == 2:
                    words = "two"
                else:
                    words = rule if reset == "after" else _counted(reading.biases)
                v = Variant("gru", activation=activation, reset=reset, update=update, gates=gates)
                if gives(model.gru(v, own_ax, own_ah, h, Wh[n], b_n, bh_n)):
                    yield Candidate(reading, v, order, words, b, bh, None)


def _bias_rules(biases: tuple[Named, ...], total: Named | None, n: list[np.ndarray], zero: np.ndarray) -> Iterator[Any]:
    """(words, b, bh, b_n, bh_n): which bias stands outside r * (…), which inside."""
    if not biases:
        yield "none", None, None, zero, zero
    elif len(biases) == 1:
        yield "one, b_n outside r * (...)", biases[0], None, n[0], zero
        yield "one, b_n inside r * (...)", None, biases[0], zero, n[0]
    else:
        yield "two, bh_n inside r * (...)", biases[0], biases[1], n[0], n[1]
        yield "two, bh_n inside r * (...)", biases[1], biases[0], n[1], n[0]
        yield "two, both outside r * (...)", total, None, n[0] + n[1], zero
        yield "two, both inside r * (...)", None, total, zero, n[0] + n[1]
