"""Weights that are known: which reading of them, and which variant of a cell, gives the numbers of the step."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastgate.check import model, norms
from fastgate.check.model import Variant
from fastgate.check.readings import CELLS, Named, Reading, readings
from fastgate.check.stepping import Step

LETTERS = {"rnn": "a", "leaky": "a", "memory": "a", "lstm": "ifgo", "gru": "rzn", "lstm_norm": "ifgo", "gru_norm": "rzn"}
RNN_ACTIVATIONS = tuple(model.ACTIVATIONS)
ACTIVATIONS = ("tanh", "sigmoid", "relu", "identity")
GATES = ("sigmoid", "hard_sigmoid", "hard_sigmoid6")
UNUSUAL = 60  # readings that are tried with activations that fastgate lacks


@dataclass(frozen=True)
class Candidate:
    """A reading and a variant: a complete account of what the step computes."""

    reading: Reading
    variant: Variant
    gate_order: str | None
    bias: str  # none, one, two, or where they sit
    b: Named | None
    bh: Named | None
    extra: Mapping[str, Named]  # weights beside Wx, Wh, b, bh: peephole (in the order i f o), Wr, alpha, gains, betas

    @property
    def names(self) -> frozenset[str]:
        """The user's arrays that it uses."""
        return self.reading.names.union(*(a.names for a in self.extra.values()))

    def weights(self) -> dict[str, np.ndarray]:
        """Canonical gate order, as model.step takes them."""
        H = self.reading.Wx.array.shape[1] // self.reading.G
        letters = LETTERS[self.variant.cell]
        order = self.gate_order or letters
        columns = np.concatenate([np.arange(H) + order.index(letter) * H for letter in letters])
        W = {"Wx": self.reading.Wx.array[:, columns], "Wh": self.reading.Wh.array[:, columns]}
        W |= {name: a.array[columns] for name, a in (("b", self.b), ("bh", self.bh)) if a is not None}
        gains = ("gain_x", "gain_h")
        return W | {name: a.array[columns] if name in gains else a.array for name, a in self.extra.items()}


# --- candidates -------------------------------------------------------------------------------------------------------


def candidates(step: Step, clips: Mapping[str, float | None], samples: list[np.ndarray], found: tuple[np.ndarray, ...],
               tolerance: float, holds: Callable[[Candidate], bool]) -> list[Candidate]:  # fmt: skip
    """Those that give `found` from `samples` (x, h and c) and hold elsewhere, too, the simplest first.

    Usual activations come first, since the others are many times as many; the readings that leave the fewest arrays unused
    come first; layer normalisation comes last.
    """

    def gives(output: np.ndarray, k: int = 0) -> bool:
        return _error(output, found[k]) <= tolerance

    cells = ("lstm", "rnn") if step.has_c else ("rnn", "gru")
    known = readings(step.weights, step.D, step.H, step.P, cells)
    kinds = {"rnn": _memory if step.has_c else _rnn, "gru": _gru, "lstm": _lstm}
    for plain in (True, False):
        for _, group in itertools.groupby(known if plain else known[:UNUSUAL], key=lambda reading: len(reading.names)):
            tier = list(group)
            matches = [m for r in tier for m in kinds[CELLS[r.G]](r, clips, samples, gives, plain)]
            if not matches and not step.has_c and plain:
                matches = [m for r in tier if r.G == 1 for m in _leaky(r, step, samples, found[0], tolerance)]
            matches = [m for m in matches if holds(m)]
            if matches:
                return sorted(matches, key=lambda m: _plainness(m, step))
        if plain:
            matches = [m for m in _norms(step, samples, gives) if holds(m)]
            if matches:
                return matches
    return []


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    error = float(np.abs(found - expected).max())
    return error / max(float(np.abs(expected).max()), 1e-300) if np.isfinite(error) else np.inf


def _plainness(candidate: Candidate, step: Step) -> tuple[Any, ...]:
    """Unused arrays last, then the plainest account first."""
    v, r = candidate.variant, candidate.reading
    changed = sum(getattr(v, name) != default for name, default in _DEFAULTS.items())
    mixed = r.layout in ("x @ Wx + Wh @ h", "Wx @ x + h @ Wh")
    return len(step.weights) - len(candidate.names), mixed, changed, len(candidate.bias)


_DEFAULTS = {"coupled": False, "output": "tanh", "output_peephole": "new", "cell_clip": None, "preact_clip": None,
             "reset": "after", "update": "old", "activation": "tanh", "gates": "sigmoid"}  # fmt: skip


def _sum(biases: tuple[Named, ...]) -> Named | None:
    if not biases:
        return None
    names = frozenset().union(*(b.names for b in biases))
    return Named(" + ".join(b.text for b in biases), np.sum([b.array for b in biases], axis=0), names)


def _counted(biases: tuple[Named, ...]) -> str:
    return ("none", "one", "two")[len(biases)]


def _apart(biases: tuple[Named, ...]) -> tuple[Named | None, Named | None]:
    """b and bh."""
    return (biases[0] if biases else None), (biases[1] if len(biases) > 1 else None)


Gives = Callable[..., bool]


def _joined(reading: Reading, samples: list[np.ndarray]) -> np.ndarray:
    """a = x Wx + h Wh + all biases"""
    total = _sum(reading.biases)
    return samples[0] @ reading.Wx.array + samples[1] @ reading.Wh.array + (0 if total is None else total.array)


def _rnn(
    reading: Reading, clips: Mapping[str, float | None], samples: list[np.ndarray], gives: Gives, plain: bool
) -> Iterator[Candidate]:
    a = _joined(reading, samples)
    b, bh = _apart(reading.biases)
    for activation in ACTIVATIONS if plain else RNN_ACTIVATIONS:
        v = Variant("rnn", activation=activation, preact_clip=clips["preact_clip"])
        if gives(model.rnn(v, a)):
            yield Candidate(reading, v, None, _counted(reading.biases), b, bh, {})
    yield from _memory(reading, clips, samples, gives, plain)


def _memory(
    reading: Reading, clips: Mapping[str, float | None], samples: list[np.ndarray], gives: Gives, plain: bool
) -> Iterator[Candidate]:
    """c' = c + φ(a); where h is the only state, it is c."""
    a = _joined(reading, samples)
    b, bh = _apart(reading.biases)
    for activation, output in itertools.product(ACTIVATIONS, ("tanh", "identity") if len(samples) == 3 else ("identity",)):
        v = Variant("memory", activation=activation, output=output)
        h_new, c_new = model.memory(v, a, samples[-1])
        if gives(h_new) and (len(samples) == 2 or gives(c_new, 1)):
            yield Candidate(reading, v, None, _counted(reading.biases), b, bh, {})


def _leaky(reading: Reading, step: Step, samples: list[np.ndarray], found: np.ndarray, tolerance: float) -> Iterator[Candidate]:
    """h' = α h + (1 - α) φ(a): with y = φ(a) known, α is the slope of h' - y over h - y, for each unit."""
    a, h = _joined(reading, samples), samples[1]
    b, bh = _apart(reading.biases)
    for activation in ACTIVATIONS:
        y = model.ACTIVATIONS[activation](a)
        alpha = ((found - y) * (h - y)).sum(axis=0) / ((h - y) ** 2).sum(axis=0)
        if not (np.isfinite(alpha).all() and alpha.min() > 1e-6 and alpha.max() < 1 - 1e-6):
            continue
        if _error(alpha * h + (1 - alpha) * y, found) <= tolerance:
            named = _named_alpha(alpha, step.weights, reading, max(tolerance, 1e-8))
            yield Candidate(reading, Variant("leaky", activation), None, _counted(reading.biases), b, bh, {"alpha": named})


def _named_alpha(alpha: np.ndarray, weights: Mapping[str, np.ndarray], reading: Reading, tolerance: float) -> Named:
    """alpha (H,) as one of the user's arrays, as a number, or as what was read off."""
    makers = (
        ("{}", lambda a: a), ("1 - {}", lambda a: 1 - a), ("1 / (1 + np.exp(-{}))", model.sigmoid),
        ("1 / (1 + np.exp({}))", lambda a: model.sigmoid(-a)),
    )  # fmt: skip
    for name, a in weights.items():
        if name in reading.names or a.size not in (1, alpha.size):
            continue
        text = name if a.ndim == 1 and a.size > 1 else f"{name}.ravel()"
        if a.size == 1:
            text = f"float({name})" if a.ndim == 0 else f"float({name}.ravel()[0])"
        for words, make in makers:
            value = make(a.ravel().astype(float))
            if np.abs(value - alpha).max() <= 100 * tolerance:
                return Named(words.replace("{}", text), np.broadcast_to(value, alpha.shape), frozenset([name]))
    if np.ptp(alpha) <= tolerance:
        mean = float(alpha.mean())
        number = next((n for digits in range(1, 9) if abs((n := round(mean, digits)) - mean) <= tolerance / 10), mean)
        return Named(repr(number), np.full(alpha.shape, number), frozenset())
    return Named('weights["alpha"]', alpha, frozenset())


def _lstm(
    reading: Reading, clips: Mapping[str, float | None], samples: list[np.ndarray], gives: Gives, plain: bool
) -> Iterator[Candidate]:
    a, c = np.split(_joined(reading, samples), 4, axis=1), samples[2]
    H = c.shape[1]
    b, bh = _apart(reading.biases)
    pipes: list[tuple[dict[str, Named], tuple[np.ndarray, ...] | None]] = [({}, None)]
    sees = ("new",)
    if reading.peephole is not None:
        parts = np.split(reading.peephole.array, 3)
        pipes, sees = [], ("new", "old")  # type: ignore[assignment]
        for places in itertools.permutations(range(3)):
            p = tuple(parts[k] for k in places)
            text = f"np.concatenate([{', '.join(f'{{}}[{k * H}:{(k + 1) * H}]' for k in places)}])"
            named = reading.peephole.made("{}" if places == (0, 1, 2) else text, np.concatenate(p))
            pipes.append(({"peephole": named}, p))
    Wr = {} if reading.Wr is None else {"Wr": reading.Wr}
    for (peephole, p), activation, coupled, gates in itertools.product(
        pipes, ACTIVATIONS[: 1 if plain else 4], (False, True)[: 1 if plain else 2], GATES[: 1 if plain else 3]
    ):
        v = Variant("lstm", activation=activation, coupled=coupled, gates=gates,
                    cell_clip=clips["cell_clip"], preact_clip=clips["preact_clip"])  # fmt: skip
        for order, c_new in _new_cells(v, a, c, p):
            if not gives(c_new, 1):
                continue
            blocks = tuple(a[order.index(letter)] for letter in LETTERS["lstm"])
            for output, seen in itertools.product(("tanh", "identity", "sigmoid", "relu"), sees):
                whole = replace(v, output=output, output_peephole=seen)
                m = model.lstm_h(whole, blocks, c, c_new, p)
                if gives(m if reading.Wr is None else m @ reading.Wr.array):
                    yield Candidate(reading, whole, order, _counted(reading.biases), b, bh, peephole | Wr)


def _new_cells(
    v: Variant, a: list[np.ndarray], c: np.ndarray, p: tuple[np.ndarray, ...] | None
) -> Iterator[tuple[str, np.ndarray]]:
    """(gate order, c') for every order. Without peepholes the activations of the four blocks are those of all orders."""
    orders = map("".join, itertools.permutations(LETTERS["lstm"]))
    if p is not None:
        for order in orders:
            yield order, model.lstm_c(v, tuple(a[order.index(letter)] for letter in LETTERS["lstm"]), c, p)
        return
    limited = [model.clipped(block, v.preact_clip) for block in a]
    gate = [model.ACTIVATIONS[v.gates](block) for block in limited]
    candidate = [model.ACTIVATIONS[v.activation](block) for block in limited]
    for order in orders:
        i, f, g = (order.index(letter) for letter in "ifg")
        yield order, model.clipped(gate[f] * c + ((1 - gate[f]) if v.coupled else gate[i]) * candidate[g], v.cell_clip)


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
    for order in map("".join, itertools.permutations(LETTERS["gru"])):
        r, z, n = (order.index(letter) for letter in LETTERS["gru"])
        own_ax = (ax[r] + sums[r], ax[z] + sums[z], ax[n])
        own_ah = (ah[r], ah[z], ah[n])
        for rule, b, bh, b_n, bh_n in _bias_rules(reading.biases, total, n, [p[n] for p in parts], zero):
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
                    yield Candidate(reading, v, order, words, b, bh, {})


def _bias_rules(
    biases: tuple[Named, ...], total: Named | None, place: int, n: list[np.ndarray], zero: np.ndarray
) -> Iterator[Any]:
    """(words, b, bh, b_n, bh_n): which bias stands outside r * (…), which inside; n: their parts of the block at `place`."""
    of_n = [bias for bias in biases if bias.covers is None or place in bias.covers]
    count = _counted(biases)
    if not of_n:
        b, bh = _apart(biases)
        yield count, b, bh, zero, zero
    elif len(of_n) == 1:
        one = biases.index(of_n[0])
        other = biases[1 - one] if len(biases) == 2 else None
        yield f"{count}, b_n outside r * (...)", biases[one], other, n[one], zero
        yield f"{count}, {'b_n' if other is None else 'bh_n'} inside r * (...)", other, biases[one], zero, n[one]
    else:
        yield "two, bh_n inside r * (...)", biases[0], biases[1], n[0], n[1]
        yield "two, bh_n inside r * (...)", biases[1], biases[0], n[1], n[0]
        yield "two, both outside r * (...)", total, None, n[0] + n[1], zero
        yield "two, both inside r * (...)", None, total, zero, n[0] + n[1]


# --- layer normalisation ----------------------------------------------------------------------------------------------


def _norms(step: Step, samples: list[np.ndarray], gives: Gives) -> list[Candidate]:
    """lstm_norm and gru_norm, those that leave the fewest arrays unused."""
    if step.P != step.H:
        return []
    matches = []
    for reading, variant, order, (b, bh), gains in norms.matches(step.weights, step.D, step.H, step.has_c, samples, gives):
        biases = tuple(bias for bias in (b, bh) if bias is not None)
        words = _counted(biases)
        if variant.cell == "gru_norm" and bh is not None:
            words = "two, bh_n inside r * (...)" if b is not None else "one, b_n inside r * (...)"
        matches.append(Candidate(replace(reading, biases=biases), variant, order, words, b, bh, gains))
    return sorted(matches, key=lambda m: _plainness(m, step))
