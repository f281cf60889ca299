"""Weights that are hidden: the maps of the gates are read off the outputs of a step, and with them the cell.

rnn    the inverse of each activation is tried: the right one makes the output affine in x and h
leaky  where a is huge, h' moves with h by α alone; less α h, it is a plain rnn
memory c' - c is a plain rnn
lstm   probing_lstm.py: c' is 0 at c = 0 exactly where a_g is: bisection along random lines finds a_g but for its scale, and the
       scale is the one that makes logit(c' / tanh(a_g)) affine, which is a_i. Where a_g = 0, c' = f * c; and o = h' / tanh(c')
gru    probing_gru.py: with h = s e_k unit k is a GRU of one unit, in which reset before and after are one function: fitted
       along a line, then one input at a time. How h_k acts on unit j then tells before from after

What outputs cannot tell is the order of gates, how a bias is split in two, and which side z keeps (z and 1 - z are one function
with the weights of z negated).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fastgate.check import model
from fastgate.check.model import Variant
from fastgate.check.stepping import Step

AFFINE = 1e-6  # largest residual, relative, of a map that is called affine


@dataclass
class Found:
    """A cell that was read off, or why none was."""

    variant: Variant | None = None
    weights: dict[str, np.ndarray] = field(default_factory=dict)  # canonical, of fastgate
    resets: tuple[str, ...] = ()  # of gru: those that cannot be told apart
    words: list[str] = field(default_factory=list)


# --- helpers ----------------------------------------------------------------------------------------------------------


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p) - np.log1p(-p)


INVERSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": logit,
    "tanh": np.arctanh,
    "identity": lambda y: y,
    "softsign": lambda y: y / (1 - np.abs(y)),
    "softplus": lambda y: y + np.log(-np.expm1(-y)),
    "hard_sigmoid": lambda y: np.where((y > 1e-6) & (y < 1 - 1e-6), (y - 0.5) / 0.2, np.nan),
    "hard_sigmoid6": lambda y: np.where((y > 1e-6) & (y < 1 - 1e-6), (y - 0.5) * 6, np.nan),
    "relu": lambda y: np.where(y > 0, y, np.nan),
}


def affine(points: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """(coefficients (P + 1,), largest residual relative to the spread) of y ≈ points · w + w_0; rows of NaN are left out."""
    kept = np.isfinite(y)
    width = points.shape[1] + 1
    if kept.sum() < width + 3:
        return np.zeros(width), np.inf
    A = np.column_stack([points[kept], np.ones(int(kept.sum()))])
    w, *_ = np.linalg.lstsq(A, y[kept], rcond=None)
    residual = np.abs(A @ w - y[kept])
    return w, float(residual.max() / max(np.abs(y[kept]).max(), 1e-3))


def fit(
    residual: Callable[[np.ndarray], np.ndarray], start: np.ndarray, rounds: int = 60, step: float | None = None
) -> tuple[np.ndarray, float]:
    """Levenberg–Marquardt; (parameters, largest residual). Derivatives by the complex step, or by real ones of size `step`."""
    p, damping = start.astype(float), 1e-2
    r = residual(p)
    cost = float(r @ r)
    for _ in range(rounds):
        J = np.empty((len(r), len(p)))
        for k in range(len(p)):
            moved = p.astype(complex if step is None else float)
            moved[k] += 1e-30j if step is None else step
            J[:, k] = residual(moved).imag / 1e-30 if step is None else (residual(moved) - r) / step
        if not np.isfinite(J).all():
            return p, np.inf
        A, g = J.T @ J, J.T @ r
        for _ in range(12):
            try:
                move = np.linalg.solve(A + damping * np.diag(np.diag(A) + 1e-12), g)
            except np.linalg.LinAlgError:
                damping *= 10
                continue
            r_new = residual(p - move)
            cost_new = float(r_new @ r_new)
            if cost_new < cost:
                p, r, gain, cost = p - move, r_new, cost - cost_new, cost_new
                damping = max(damping / 10, 1e-15)
                if gain < 1e-14 * cost:
                    return p, float(np.abs(r).max())
                break
            damping *= 10
        else:
            break
        if cost < 1e-30 * len(r):
            break
    return p, float(np.abs(r).max())


def smooth_sigmoid(a: np.ndarray) -> np.ndarray:
    """σ for complex arguments, too."""
    return 0.5 * (1 + np.tanh(0.5 * a))


def limited(a: np.ndarray, limit: float | None) -> np.ndarray:
    return a if limit is None else np.where(np.abs(a.real) < limit, a, limit * np.sign(a.real))


def gate_of(name: str, a: np.ndarray, limit: float | None) -> np.ndarray:
    """A gate of clipped pre-activations, for complex arguments, too."""
    a = limited(a, limit)
    if name == "sigmoid":
        return smooth_sigmoid(a)
    slope = 0.2 if name == "hard_sigmoid" else 1 / 6
    y = slope * a + 0.5
    return np.where((y.real > 0) & (y.real < 1), y, 1.0 * (y.real > 0.5))


# --- clips ------------------------------------------------------------------------------------------------------------


def clips(step: Step, rng: np.random.Generator) -> list[dict[str, float | None]]:
    """Limits on c and on pre-activations, seen where huge values come in; those that may be, the likeliest first.

    A clipped gate takes both ends as x does; one that stays at one end may be constant, and no limit comes first.
    """
    found: dict[str, float | None] = {"cell_clip": None, "preact_clip": None}
    turns = True
    x, h, *c = step.probe(rng, 24)
    if step.has_c:
        size = np.abs(np.concatenate([step.run(x, h, scale * c[0])[1] for scale in (1e2, 1e4, 1e7)]))
        if size.max() < 1e5 and (size >= size.max() * (1 - 1e-12)).sum() >= 24:
            found["cell_clip"] = float(size.max())
        limit = found["cell_clip"]
        width = 1.0 if limit is None else min(1.0, limit / 4)
        ends = [step.run(1e7 * x, 1e7 * h, k * width * np.ones_like(c[0]))[1] for k in (0.5, 0)]
        f = (ends[0] - ends[1]) / (0.5 * width)
        inside = np.maximum(np.abs(ends[0]), np.abs(ends[1])) < (np.inf if limit is None else 0.99 * limit)
        seen = f[inside]
        # the saturated forget gate is sigmoid(±limit)
        if seen.size >= 8 and seen.min() > 1e-7 and seen.max() < 1 - 1e-7:
            sides = np.abs(logit(seen))
            if np.ptp(sides) <= 1e-4 * sides.max():
                found["preact_clip"] = float(np.median(sides))
                turns = _both_sides(np.where(inside, f - 0.5, 0))
    else:
        signed = step.run(1e7 * x, 1e7 * h)[0]
        y = np.abs(signed)
        if y.max() < 1 - 1e-12 and y.max() > 0.1 and np.ptp(y) <= 1e-12:
            found["preact_clip"] = float(np.arctanh(y.max()))
            turns = _both_sides(signed)
    for name, value in found.items():  # a limit is a number that someone wrote, and above 0
        if value is not None and value < 1e-6:
            found[name] = None
        elif value is not None and abs(round(value, 4) - value) <= 1e-5 * value:
            found[name] = round(value, 4)
    return [found] if turns else [found | {"preact_clip": None}, found]


def _both_sides(a: np.ndarray) -> bool:
    """Whether any unit is above 0 in one row, below in another."""
    return bool(((a > 0).any(axis=0) & (a < 0).any(axis=0)).any())


# --- rnn --------------------------------------------------------------------------------------------------------------


def rnn(step: Step, rng: np.random.Generator, limits: dict[str, float | None]) -> Found:
    n = step.D + step.H
    x, h = (np.concatenate(parts) for parts in zip(*(step.probe(rng, 40, x=s, state=s) for s in (1, 5, 20)), strict=True))
    far, expected = np.hstack([x, h]), step.run(x, h)[0]
    for scale in (1.0, 3.0, 0.3, 0.1, 0.03):
        x, h = step.probe(rng, 30 * (n + 4), x=scale, state=scale)
        y = step.run(x, h)[0]
        points = np.hstack([x, h])
        for activation, inverse in INVERSES.items():
            with np.errstate(all="ignore"):
                a = inverse(y)
            if activation == "relu":
                a = np.where(y > 0, y, np.nan)
            elif np.isfinite(a).mean() < 0.9:
                continue
            elif activation in ("tanh", "sigmoid"):
                a = np.where(np.abs(a) < 9, a, np.nan)
            if limits["preact_clip"] is not None:
                a = np.where(np.abs(a) < 0.999 * limits["preact_clip"], a, np.nan)
            maps = [affine(points, a[:, j]) for j in range(step.H)]
            if max(error for _, error in maps) > AFFINE:
                continue
            if activation == "identity" and limits["preact_clip"] is not None:
                continue
            W = np.stack([w for w, _ in maps], axis=1)
            variant = Variant("rnn", activation=activation, preact_clip=limits["preact_clip"])
            modelled = model.rnn(variant, far @ W[:n] + W[n])
            if np.abs(modelled - expected).max() > 1e-5 * np.abs(expected).max():
                continue
            return Found(variant, {"Wx": W[: step.D], "Wh": W[step.D : n], "b": W[n]})
    return Found(words=[f"rnn: h is no {', '.join(INVERSES)} of a map that is affine in x and h"])


# --- leaky ------------------------------------------------------------------------------------------------------------


def leaky(step: Step, rng: np.random.Generator) -> Found:
    """h' = α h + (1 - α) φ(a). Where a is huge φ(a) no longer moves: there h' moves with h by α, and α known, φ(a) is.

    That of identity is an rnn: nobody tells its α from a part of Wh.
    """
    D, H = step.D, step.H
    alpha = _kept_where_saturated(step, rng)
    if alpha is None:
        return Found(words=["leaky: where a is huge, no unit keeps a share of its h"])
    x, h = step.probe(rng, 30 * (D + H + 4))
    points, y = np.hstack([x, h]), (step.run(x, h)[0] - alpha * h) / (1 - alpha)
    far = [np.concatenate(parts) for parts in zip(*(step.probe(rng, 40, x=s, state=s) for s in (1, 5, 20)), strict=True)]
    expected = step.run(*far)[0]
    for activation in ("tanh", "sigmoid", "relu"):
        with np.errstate(all="ignore"):
            a = INVERSES[activation](y)
        a = np.where(y > 1e-9, a, np.nan) if activation == "relu" else np.where(np.abs(a) < 9, a, np.nan)
        maps = [affine(points, a[:, j]) for j in range(H)]
        if max(error for _, error in maps) > AFFINE:
            continue
        W = np.stack([w for w, _ in maps], axis=1)
        variant = Variant("leaky", activation=activation)
        modelled = model.leaky(variant, np.hstack(far) @ W[:-1] + W[-1], far[1], alpha)
        if np.abs(modelled - expected).max() <= 1e-5 * np.abs(expected).max():
            return Found(variant, {"Wx": W[:D], "Wh": W[D:-1], "b": W[-1], "alpha": alpha})
    return Found(words=["leaky: h' less its share of h is no tanh, sigmoid or relu of a map that is affine in x and h"])


def _kept_where_saturated(step: Step, rng: np.random.Generator) -> np.ndarray | None:
    """α (H,), or None where it is not the same wherever a unit's h' stays small for huge x."""
    M = 40
    x, h = 1e7 * rng.normal(size=(M, step.D)), rng.uniform(-1, 1, (M, step.H))
    moved = h + rng.uniform(0.5, 1, h.shape)
    ends = [step.run(x, state)[0] for state in (h, moved)]
    shares = (ends[1] - ends[0]) / (moved - h)
    small = np.maximum(np.abs(ends[0]), np.abs(ends[1])) < 1e3  # a relu that is off; all of a tanh or a sigmoid
    alpha = np.empty(step.H)
    for j in range(step.H):
        own = shares[small[:, j], j]
        if len(own) < M // 8 or not np.ptp(own) < 1e-7 or not 1e-6 < np.median(own) < 1 - 1e-6:
            return None
        alpha[j] = np.median(own)
    return alpha


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(step: Step, rng: np.random.Generator) -> Found:
    """c' - c = φ(a); where h is the only state, it is c. Without c that of identity is an rnn."""
    n = step.D + step.H
    if step.P != step.H:
        return Found(words=["memory: h has another width than c"])
    far = [np.concatenate(parts) for parts in zip(*(step.probe(rng, 40, x=s, state=s) for s in (1, 5, 20)), strict=True)]
    expected = step.run(*far)
    for scale in (1.0, 0.1):
        x, h, *c = step.probe(rng, 30 * (n + 4), x=scale, state=scale)
        points, y = np.hstack([x, h]), step.run(x, h, *c)[-1] - (c[0] if c else h)
        for activation in ("tanh", "sigmoid", "relu", "identity"):
            with np.errstate(all="ignore"):
                a = INVERSES[activation](y)
            a = np.where(y > 1e-9, a, np.nan) if activation == "relu" else a
            a = np.where(np.abs(a) < 9, a, np.nan) if activation in ("tanh", "sigmoid") else a
            maps = [affine(points, a[:, j]) for j in range(step.H)]
            if max(error for _, error in maps) > AFFINE:
                continue
            W = np.stack([w for w, _ in maps], axis=1)
            for output in ("tanh", "identity") if c else ("identity",):
                variant = Variant("memory", activation=activation, output=output)
                modelled = model.memory(variant, np.hstack(far[:2]) @ W[:n] + W[n], far[-1])
                if all(np.abs(a - b).max() <= 1e-5 * np.abs(b).max() for a, b in zip(modelled, expected, strict=False)):
                    return Found(variant, {"Wx": W[: step.D], "Wh": W[step.D : n], "b": W[n]})
    return Found(words=["memory: c' - c is no tanh, sigmoid, relu or identity of a map that is affine in x and h"])
