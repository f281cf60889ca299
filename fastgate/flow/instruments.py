"""What a Trace, or a weight, says about the flow of gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastgate import _arguments
from fastgate.flow._dual import Dual
from fastgate.flow._trace import Array, Trace, block_of, one
from fastgate.layers import _judge
from fastgate.layers._types import Rng
from fastgate.reference import sequence

SLOPES = {"tanh": 1.0, "relu": 1.0, "identity": 1.0, "sigmoid": 0.25}
Floats = NDArray[np.float64]


def gradient_norms(trace: Any, block: str = "state") -> Floats:
    """||dL/dh_t|| for each row and step, (N, T); NaN past a row's length.

    block : "h", the norm of dh_total; "c", that of dc_total; "state", that of both side by side, for a cell without c the
        same as "h". Norms are taken in float64, whose squares may be too large or too small for it.
    """
    t = one(trace)
    names = {"h": ("dh_total",), "c": ("dc_total",), "state": ("dh_total", "dc_total")[: 1 + t.has_c]}[block_of(t, block)]
    return np.where(t.alive, norm_of_rows([getattr(t, name).astype(np.float64) for name in names]), np.nan)


def norm_of_rows(arrays: list[Floats]) -> Floats:
    """Along the last axis, of arrays side by side, whatever their size."""
    joined = np.concatenate(arrays, axis=-1)
    scale = np.abs(joined).max(axis=-1, initial=0)
    safe = np.where((scale > 0) & np.isfinite(scale), scale, 1)
    with np.errstate(over="ignore"):
        return np.asarray(np.linalg.norm(joined / safe[..., None], axis=-1) * safe)


class JacobianNorms(NamedTuple):
    """What jacobian_norms returns, for K distances, the shortest first."""

    distance: NDArray[np.int64]  # (K,), t - k > 0
    norm: Floats  # (N, K), ||ds_t/ds_k||; NaN where a row has no such step, or its states are NaN
    estimate_error: float  # the largest relative change of a norm in the last iteration


def jacobian_norms(trace: Any, block: str = "state", *, points: int = 16, iterations: int = 24) -> JacobianNorms:
    """The largest singular value of ds_t/ds_k, t the last step of each row, for several k.

    The state s of a cell without c is h; that of an lstm or a memory is (h, c) side by side. block : "state"; "h" or "c", the
    block dh_t/dh_k (with c_k held constant) or dc_t/dc_k (with h_k held constant).
    points : at how many distances t - k, spread evenly on a logarithmic scale from 1 to the longest row.
    iterations : of the bidiagonalisation of Golub and Kahan (1965; Golub and Van Loan, Matrix Computations, section 10.4) with
        full reorthogonalisation. Each takes one product of the Jacobian with a vector, by dual numbers through the definition
        of the cell, and one of a vector with it, by the backward kernels. No Jacobian is formed. The norm grows with them
        towards the largest singular value, and is exact at `iterations` >= the size of the block.

    All in float64, whatever the dtype of the trace, so that norms as small as 1e-300 are seen; one that it cannot hold is inf.
    """
    t = one(trace)
    block_of(t, block)
    points, iterations = _judge.size("points", points), _judge.size("iterations", iterations)
    longest = int(t.lengths.max(initial=0))
    distance = np.unique(np.geomspace(1, longest, points).round().astype(np.int64)) if longest else np.zeros(0, np.int64)
    with np.errstate(all="ignore"):  # as silent about infinities as the kernels are
        product = _Product(t, distance, block)
        norm, error = _largest_singular_value(product, min(iterations, product.width))
    broken = np.any([np.isnan(a).any(axis=(1, 2)) for a in (t.h, t.c) if a is not None], axis=0)
    return JacobianNorms(distance, np.where(product.exists & ~broken[:, None], norm, np.nan), error)


class _Product:
    """ds_t/ds_k of N rows and K starts: times a vector, and a vector times it. Vectors are (K, N, width)."""

    def __init__(self, t: Trace, distance: NDArray[np.int64], block: str):
        self.cell, self.W, _ = t.definition()
        K, N = len(distance), len(t.x)
        self.shape = (K, N)
        self.parts = {"h": ("h",), "c": ("c",), "state": ("h", "c")[: 1 + t.has_c]}[block]
        self.all_parts = ("h", "c")[: 1 + t.has_c]
        self.sizes = {p: getattr(t, p).shape[-1] for p in self.all_parts}
        self.width = sum(self.sizes[p] for p in self.parts)
        self.exists = distance <= t.lengths[:, None]  # (N, K)
        x, lengths = t.in_order(t.x).astype(np.float64), t.lengths
        before = {p: t.in_order(t.previous(p)).astype(np.float64) for p in self.all_parts}
        # Rows end together: step j is the one at distance T - j from the end.
        T = x.shape[1]
        shift = T - lengths
        self.steps = T
        self.x = np.zeros((T, *x[:, 0].shape)) if T else np.zeros((0, N, x.shape[-1]))
        self.first = {p: np.zeros((T, N, size)) for p, size in self.sizes.items()}
        self.holds, self.held = t.held is not None, np.zeros((T, N, t.hidden_size), bool)
        held = t.in_order(np.zeros((N, T, 1), bool) if t.held is None else t.held)
        for n in range(N):
            self.x[shift[n] :, n] = x[n, : lengths[n]]
            for p in self.all_parts:
                self.first[p][shift[n] :, n] = before[p][n, : lengths[n]]
            self.held[shift[n] :, n] = held[n, : lengths[n]]
        self.begins = {int(T - d): i for i, d in enumerate(distance)}
        # The backward kernels, on flat rows: for each start and row the steps from there to the end.
        starts = [(i, n) for i in range(K) for n in range(N) if self.exists[n, i]]
        self.index = tuple(np.array([s[a] for s in starts], np.int64) for a in (0, 1))
        pieces = [self.x[T - distance[i] :, n] for i, n in starts]
        rows = np.concatenate(pieces) if pieces else np.zeros((0, x.shape[-1]))
        offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
        initial = [
            np.array([self.first[p][T - distance[i], n] for i, n in starts]).reshape(-1, size) for p, size in self.sizes.items()
        ]
        pieces = [self.held[T - distance[i] :, n] for i, n in starts] if self.holds else []
        masks = t.zoneout(np.concatenate(pieces)) if pieces else {}
        forward = t.function("ragged_forward")
        self.cache = forward(rows, *initial, **t.arguments(), **masks, offsets=offsets).cache
        self.backward = t.function("ragged_backward")

    def split(self, v: Floats) -> dict[str, Floats]:
        ends = np.cumsum([self.sizes[p] for p in self.parts])[:-1]
        return dict(zip(self.parts, np.split(v, ends, axis=-1), strict=True))

    def transposed(self, u: Floats) -> Floats:
        """u ds_t/ds_k, by the backward kernels."""
        given = {p: np.ascontiguousarray(part[self.index]) for p, part in self.split(u).items()}
        upstream = [given.get(p) for p in self.all_parts]
        found = self.backward(None, self.cache, *upstream, need=tuple(f"d{p}0" for p in self.all_parts))
        result = np.zeros((*self.shape, self.width))
        result[self.index] = np.concatenate([getattr(found, f"d{p}0") for p in self.parts], axis=-1)
        return result

    def forwards(self, v: Floats) -> Floats:
        """ds_t/ds_k v, by dual numbers: one pass over the steps, which each start joins where it begins."""
        given = self.split(v)
        tangents = {p: np.zeros((*self.shape, size)) for p, size in self.sizes.items()}
        running = False
        for j in range(self.steps):
            if j in self.begins:
                running, i = True, self.begins[j]
                for p in self.parts:
                    tangents[p][i] = given[p][i]
            if running:
                states = tuple(Dual(self.first[p][j], tangents[p]) for p in self.all_parts)
                after, _ = sequence.cell_forward(self.cell, self.x[j], states, self.W)
                moved = {p: np.array(s.tangent) for p, s in zip(self.all_parts, after, strict=True)}
                tangents = moved if not self.holds else {p: np.where(self.held[j], tangents[p], moved[p]) for p in moved}
        return np.concatenate([tangents[p] for p in self.parts], axis=-1)


def _largest_singular_value(product: _Product, iterations: int) -> tuple[Floats, float]:
    """(N, K), and the largest relative change in the last iteration. Golub-Kahan, each row and start on its own; where a
    Krylov space is exhausted, the rest of its rows are zeros."""
    K, N = product.shape
    if not K or not N or not product.width:
        return np.zeros((N, K)), 0.0
    v = np.random.default_rng(0).standard_normal((K, N, product.width))
    v /= np.linalg.norm(v, axis=-1, keepdims=True)
    right, left = [v], list[Floats]()  # orthonormal vectors on both sides
    B = np.zeros((K, N, iterations, iterations + 1))
    norms = [np.zeros((K, N)), np.zeros((K, N))]
    for k in range(iterations):
        u, alpha = _new_direction(product.forwards(right[-1]), left)
        left.append(u)
        B[:, :, k, k] = alpha
        v, beta = _new_direction(product.transposed(u), right)
        right.append(v)
        B[:, :, k, k + 1] = beta
        norms = [norms[-1], _norm_of(B[:, :, : k + 1, : k + 2])]
    change = np.nan_to_num((norms[-1] - norms[0]) / norms[-1]) * product.exists.T
    return norms[-1].T, float(np.abs(change).max(initial=0))


def _norm_of(B: Floats) -> Floats:
    """The largest singular value, of matrices of any size down to the smallest numbers; inf where one is too large."""
    scale = np.abs(B).max(axis=(-2, -1))
    finite = np.isfinite(scale)
    safe = np.where(finite & (scale > 0), scale, 1)[..., None, None]
    found = np.linalg.svd(np.where(finite[..., None, None], B / safe, 0), compute_uv=False)[..., 0]
    return np.where(finite, found * scale, np.inf)


def _new_direction(w: Floats, basis: list[Floats]) -> tuple[Floats, Floats]:
    """(the unit vector of what w adds to an orthonormal basis, its length); zeros where that is rounding error."""
    scale = np.abs(w).max(axis=-1, keepdims=True)
    w = w / np.where(scale > 0, scale, 1)
    whole = np.linalg.norm(w, axis=-1, keepdims=True)
    for _ in range(2):
        for q in basis:
            w = w - (w * q).sum(axis=-1, keepdims=True) * q
    length = np.linalg.norm(w, axis=-1, keepdims=True)
    length = np.where(length > 1e-12 * whole, length, 0)
    return np.where(length > 0, w / np.where(length > 0, length, 1), 0), (length * scale)[..., 0]


def bound(Wh: Array, distance: Any, activation: str = "tanh") -> Floats:
    """(gamma_u gamma_f)^(t-k), which ||dh_t/dh_k|| of the plain recurrent cell never exceeds, for each distance t - k >= 0.

    Wh : (H, H). gamma_u is its largest singular value, gamma_f the largest slope of the activation: 1 for "tanh", "relu" and
    "identity", 1/4 for "sigmoid". Below 1 the product vanishes for sure; above 1 it may explode (Pascanu, Mikolov and Bengio
    2013, section 2.1).
    """
    activation = _arguments.option("activation", activation, tuple(SLOPES))
    gamma = _singular_values(_square("Wh", Wh))[0] * SLOPES[activation]
    steps = np.asarray(distance)
    if steps.dtype.kind not in "iu" or (steps < 0).any():
        raise ValueError(f"distance: expected integers >= 0, got {steps.dtype}" + " below 0" * (steps.dtype.kind == "i"))
    with np.errstate(over="ignore"):
        return np.asarray(np.power(gamma, steps.astype(np.float64)))


class Spectrum(NamedTuple):
    """The spectrum of a square matrix."""

    eigenvalues: NDArray[np.complex128]  # (H,), the largest modulus first
    singular_values: Floats  # (H,), the largest first

    @property
    def radius(self) -> float:
        """The largest modulus of an eigenvalue: h -> h Wh grows like radius^t in the end."""
        return float(np.abs(self.eigenvalues).max(initial=0))

    @property
    def gain(self) -> float:
        """gamma_u, the largest singular value: what one step can grow by at most."""
        return float(self.singular_values.max(initial=0))

    def growth(self, steps: Any) -> Floats:
        """radius^steps, the growth that the linear recurrence h -> h Wh predicts (Goodfellow et al., Deep Learning, 10.7)."""
        with np.errstate(over="ignore"):
            return np.asarray(self.radius ** np.asarray(steps, np.float64))


def spectrum(Wh: Array, gate: int = 0) -> Spectrum:
    """Eigenvalues and singular values of one block of a recurrent weight.

    Wh : (H, G·H), finite. gate : which of its G blocks, from 0, in the order in which they stand.
    """
    Wh = _matrix("Wh", Wh)
    H = Wh.shape[0]
    gate = _judge.size("gate", gate, 0)
    if H == 0 or Wh.shape[1] % H:
        raise ValueError(f"Wh: expected (H, G·H), H > 0, got {Wh.shape}")
    if gate >= Wh.shape[1] // H:
        raise ValueError(f"gate: expected 0..G-1 = 0..{Wh.shape[1] // H - 1}, got {gate}")
    block = Wh[:, gate * H : (gate + 1) * H]
    eigenvalues = np.linalg.eigvals(block).astype(np.complex128)
    return Spectrum(eigenvalues[np.argsort(-np.abs(eigenvalues), kind="stable")], _singular_values(block))


def _matrix(name: str, a: Any) -> Floats:
    a = _arguments._array(name, a, _arguments.KERNEL).astype(np.float64)
    if a.ndim != 2:
        raise ValueError(f"{name}: expected (H, G·H), got {a.shape}")
    if not np.isfinite(a).all():
        raise ValueError(f"{name}: expected finite numbers")
    return a


def _square(name: str, a: Any) -> Floats:
    a = _matrix(name, a)
    if a.shape[0] != a.shape[1] or not a.size:
        raise ValueError(f"{name}: expected (H, H), H > 0, got {a.shape}")
    return a


def _singular_values(a: Floats) -> Floats:
    return np.asarray(np.linalg.svd(a, compute_uv=False), np.float64)


def gates(trace: Any) -> dict[str, Floats]:
    """The values of all gates, and of the candidate, letter -> (N, T, H) in float64; 0 past a row's length, and
    where a unit holds by its period.

    lstm : i f g o. gru : r z n. rnn : h, which has no gates but saturates itself. leaky : y, what is averaged. memory : y, what
    is added, and h. Recomputed by the definition of the cell from x, the states and the weights, in one product over all steps.
    With coupled=True i is 1 - f.
    """
    t = one(trace)
    cell, W, _ = t.definition()
    states = tuple(t.flat(t.previous(p)) for p in ("h", "c")[: 1 + t.has_c])
    after, kept = sequence.cell_forward(cell, t.flat(t.x), states, W)
    if t.cell == "rnn":
        values = {"h": after[0]}
    elif t.cell == "leaky":
        values = {"y": kept}
    elif t.cell == "memory":
        values = dict(zip("yh", kept, strict=True))
    elif t.cell == "gru":
        keeps = kept[1]
        values = {"r": kept[0], "z": 1 - keeps if t.options.get("update") == "new" else keeps, "n": kept[2]}
    else:
        values = dict(zip(t.gates, kept[:4], strict=True))
    return {letter: np.where(t.moves, t.spread(a), 0) for letter, a in values.items()}


class Saturation(NamedTuple):
    """Of one gate, for each unit: the share of its values at either end of its range."""

    low: Floats  # (H,), below 0.1; of tanh: below -0.9
    high: Floats  # (H,), above 0.9
    two_sided: bool  # whether the range is -1..1 (tanh) or 0..1

    @property
    def share(self) -> float:
        """Of all values, those at either end, where the slope is below 0.19 (tanh) or 0.09 (sigmoid)."""
        return float(np.mean(self.low + self.high)) if self.low.size else 0.0


def saturation(trace: Any) -> dict[str, Saturation]:
    """For each gate the share of values in 0..1 below 0.1 and above 0.9; of those of tanh, below -0.9 and above 0.9.

    Over all rows and the steps at which a unit moves, unit by unit (Karpathy, Johnson and Fei-Fei 2015). A unit of relu is dead
    where `low`, the share of zeros, is 1; its `high` and those of an identity are 0.
    """
    t = one(trace)
    result = {}
    steps = np.maximum(t.moves.sum(axis=(0, 1)), 1)
    for letter, values in gates(t).items():
        kind = _kind(t, letter)
        nowhere = np.zeros(values.shape, bool)
        if kind == "relu":
            low, high = values <= 0, nowhere
        elif kind == "identity":
            low = high = nowhere
        else:
            low, high = values < (-0.9 if kind == "tanh" else 0.1), values > 0.9
        low, high = (np.sum(a & t.moves, axis=(0, 1)) / steps for a in (low, high))
        result[letter] = Saturation(low, high, kind == "tanh")
    return result


def _kind(t: Trace, letter: str) -> str:
    """The activation of a gate."""
    if t.cell == "memory" and letter == "h":
        return t.options.get("output", "tanh")
    if letter in "hy":
        return t.options.get("activation", "tanh")
    if letter in "gn":
        return t.options.get("candidate", "tanh")
    return "sigmoid"


def time_constants(trace: Any) -> Floats:
    """-1/ln of what a unit keeps of its state in a step on average, for each unit, (H,): the steps in which a gate that stood
    at its mean would let the state fall to 1/e.

    lstm : the mean of f over rows and steps. gru : the mean of z, with update="new" of 1 - z. leaky : alpha. memory : 1. What
    keeps all gives inf, what keeps nothing 0. With a period only the steps at which a unit moves count, and its time constant
    is so many times longer. The link between forget gates and time constants: Tallec and Ollivier (2018). rnn keeps nothing of
    its state: a ValueError.
    """
    t = one(trace)
    if t.cell == "rnn":
        raise ValueError(
            "trace: expected that of an lstm, gru, leaky or memory, got that of rnn, where nothing keeps the state"
        )
    if t.cell in ("leaky", "memory"):
        mean = np.broadcast_to(t.arguments().get("alpha", 1.0), (t.hidden_size,))
    else:
        values = gates(t)
        keeps = values["f"] if t.cell == "lstm" else values["z"]
        if t.options.get("update") == "new":
            keeps = np.where(t.moves, 1 - keeps, 0)
        steps = t.moves.sum(axis=(0, 1))
        mean = np.where(steps > 0, keeps.sum(axis=(0, 1)) / np.maximum(steps, 1), np.nan)
    with np.errstate(divide="ignore"):
        return np.asarray((1 if t.period is None else t.period) / np.abs(np.log(mean)))


class ProductVariance(NamedTuple):
    """What product_variance returns."""

    scales: Floats  # (S,)
    depths: NDArray[np.int64]  # (P,)
    measured: Floats  # (S, P), the mean over draws of |v W_1 ... W_n|^2 / |v|^2
    predicted: Floats  # (S, P), scale^(2n)


def product_variance(
    scales: Any = (0.7, 0.9, 1.0, 1.1, 1.3), depths: Any = (1, 2, 5, 10, 20, 50), *, hidden_size: int = 64, draws: int = 50,
    tied: bool = False, rng: Rng = 0,
) -> ProductVariance:  # fmt: skip
    """How the variance of a signal changes in a product of random weights: depth times scale.

    The weights W_1 … W_n are (H, H), drawn from a normal distribution with standard deviation scale/sqrt(H), so that each
    multiplies the expected square of a vector by scale^2, and n of them by scale^(2n): to keep it, the scale must be 1
    (Sussillo and Abbott 2014; Goodfellow et al., Deep Learning, 8.2.5). tied : one W for all depths, as in a recurrent net;
    then scale^(2n) is no longer exact. hidden_size : H, 1 gives products of numbers.
    """
    scales = np.atleast_1d(np.asarray(scales, np.float64))
    if scales.ndim != 1 or not (np.isfinite(scales) & (scales > 0)).all():
        raise ValueError("scales: expected numbers > 0")
    depths = np.atleast_1d(np.asarray(depths))
    if depths.ndim != 1 or depths.dtype.kind not in "iu" or depths.size == 0 or (depths < 1).any():
        raise ValueError("depths: expected integers >= 1")
    H, draws = _judge.size("hidden_size", hidden_size), _judge.size("draws", draws)
    tied, rng = _arguments.flag("tied", tied), _judge.generator(rng)
    # Drawn with scale 1; a scale only multiplies.
    squares = np.zeros(int(depths.max()))
    for _ in range(draws):
        v = rng.standard_normal(H)
        v /= np.linalg.norm(v)
        W = rng.standard_normal((H, H)) / np.sqrt(H)
        for n in range(len(squares)):
            v = v @ W
            squares[n] += v @ v / draws
            if not tied:
                W = rng.standard_normal((H, H)) / np.sqrt(H)
    predicted = scales[:, None] ** (2.0 * depths)
    return ProductVariance(scales, depths.astype(np.int64), predicted * squares[depths - 1], predicted)
