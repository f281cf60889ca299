"""Layer normalisation, weights known: which arrays are gains, which are biases, and how large eps is.

a = gain_x N(x Wx) + gain_h N(h Wh) + b + bh
    N over all G·H numbers of a row, as fastgate.lstm_norm_forward and gru_norm_forward have it

A normalisation of each gate for itself, of the sum of both products, or with a bias inside N is another cell: none of these
gives the numbers of one of the above.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from fastgate.check import model
from fastgate.check.model import Variant
from fastgate.check.readings import CELLS, Named, Reading, flat, is_vector, matrices, stacked, whole

EPS = (1e-5, 1e-3, 1e-6, 1e-8, 1e-12, 1e-4)  # those that libraries have
MOST = 6  # vectors (G·H,), of which gains and biases are chosen

Gains = dict[str, Named]
Biases = tuple[Named | None, Named | None]  # b, bh


def matches(weights: Mapping[str, np.ndarray], D: int, H: int, has_c: bool, samples: list[np.ndarray],
            gives: Callable[..., bool]) -> Iterator[tuple[Reading, Variant, str, Biases, Gains]]:  # fmt: skip
    """(matrices, variant, gate order, (b, bh), gains by name) of all that give the outputs."""
    arrays = stacked(weights, H)
    for reading in matrices(arrays, D, H, H):
        if CELLS[reading.G] != ("lstm" if has_c else "gru"):
            continue
        free = [a for a in arrays if not a.names & reading.names]
        vectors = [v for a in free for v in whole(a, reading.G, H)][:MOST]
        units = [flat(a) for a in free if a.array.size == H and is_vector(a.array)]
        for eps in EPS:
            n_x, n_h = (model.normalised(a @ W.array, eps) for a, W in ((samples[0], reading.Wx), (samples[1], reading.Wh)))
            for gain_x, gain_h, biases in _roles(vectors):
                y_x = n_x if gain_x is None else gain_x.array * n_x
                y_h = n_h if gain_h is None else gain_h.array * n_h
                gains = {name: a for name, a in (("gain_x", gain_x), ("gain_h", gain_h)) if a is not None}
                if has_c:
                    found = _lstm(y_x, y_h, samples[2], biases, units, eps, gives)
                else:
                    found = _gru(y_x, y_h, samples[1], biases, eps, gives)
                for variant, order, b_bh, own in found:
                    yield reading, variant, order, b_bh, gains | own


def _roles(vectors: list[Named]) -> Iterator[tuple[Named | None, Named | None, tuple[Named, ...]]]:
    """(gain_x, gain_h, biases); one array may be both gains."""
    for gain_x, gain_h in itertools.product([*vectors, None], repeat=2):
        used = frozenset().union(*(g.names for g in (gain_x, gain_h) if g is not None))
        if gain_x is not None and gain_h is not None and gain_x is not gain_h and gain_x.text == gain_h.text:
            continue
        free = [v for v in vectors if v not in (gain_x, gain_h) and not (v.names & used and v.text in used)]
        for count in (2, 1, 0):
            for biases in itertools.combinations(free, count):
                yield gain_x, gain_h, biases


def _lstm(
    y_x: np.ndarray, y_h: np.ndarray, c: np.ndarray, biases: tuple[Named, ...], units: list[Named], eps: float,
    gives: Callable[..., bool],
) -> Iterator[tuple[Variant, str, Biases, Gains]]:  # fmt: skip
    a = np.split(y_x + y_h + sum(b.array for b in biases), 4, axis=1)
    s, t = [model.sigmoid(block) for block in a], [np.tanh(block) for block in a]
    v = Variant("lstm_norm", eps=eps)
    b, bh = (*biases, None, None)[:2]
    for order in map("".join, itertools.permutations("ifgo")):
        i, f, g, o = (order.index(letter) for letter in "ifgo")
        c_new = s[f] * c + s[i] * t[g]
        if not gives(c_new, 1):
            continue
        if gives(s[o] * np.tanh(c_new)):
            yield v, order, (b, bh), {}
        n_c = model.normalised(c_new, eps)
        for gain, beta in itertools.product(units, [*units, None]):
            if beta is gain:
                continue
            if gives(s[o] * np.tanh(gain.array * n_c + (0 if beta is None else beta.array))):
                yield v, order, (b, bh), {"gain_c": gain} | ({} if beta is None else {"beta_c": beta})


def _gru(
    y_x: np.ndarray, y_h: np.ndarray, h: np.ndarray, biases: tuple[Named, ...], eps: float, gives: Callable[..., bool]
) -> Iterator[tuple[Variant, str, Biases, Gains]]:
    H = h.shape[1]
    zero = np.zeros(H)
    for b, bh in itertools.permutations((*biases, None, None)[:2]) if biases else [(None, None)]:
        parts = [np.split(y + (0 if bias is None else bias.array), 3, axis=1) for y, bias in ((y_x, b), (y_h, bh))]
        for order in map("".join, itertools.permutations("rzn")):
            ax, ah = (tuple(part[order.index(letter)] for letter in "rzn") for part in parts)
            for update in ("old", "new"):
                v = Variant("gru_norm", update=update, eps=eps)
                if gives(model.gru(v, ax, ah, h, np.zeros((H, H)), zero, zero)):
                    yield v, order, (b, bh), {}
