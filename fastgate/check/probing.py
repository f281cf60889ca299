"""Weights that are hidden: the maps of the gates are read off the outputs of a step, and with them the cell.

rnn    the inverse of each activation is tried: the right one makes the output affine in x and h
lstm   c' is 0 at c = 0 exactly where a_g is: bisection along random lines finds a_g but for its scale, and the scale is the one
       that makes logit(c' / tanh(a_g)) affine, which is a_i. Where a_g = 0, c' = f * c; and o = h' / tanh(c')
gru    with h = s e_k unit k is a GRU of one unit, in which reset before and after are one function: fitted along a line, then
       one input at a time. How h_k acts on unit j then tells before from after

What outputs cannot tell is the order of gates, how a bias is split in two, and which side z keeps (z and 1 - z are one function
with the weights of z negated).
"""

import itertools
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


def _limited(a: np.ndarray, limit: float | None) -> np.ndarray:
    return a if limit is None else np.where(np.abs(a.real) < limit, a, limit * np.sign(a.real))


def _gate(name: str, a: np.ndarray, limit: float | None) -> np.ndarray:
    """A gate of clipped pre-activations, for complex arguments, too."""
    a = _limited(a, limit)
    if name == "sigmoid":
        return smooth_sigmoid(a)
    slope = 0.2 if name == "hard_sigmoid" else 1 / 6
    y = slope * a + 0.5
    return np.where((y.real > 0) & (y.real < 1), y, 1.0 * (y.real > 0.5))


# --- clips ------------------------------------------------------------------------------------------------------------


def clips(step: Step, rng: np.random.Generator) -> dict[str, float | None]:
    """Limits on c and on pre-activations, seen where huge values come in."""
    found: dict[str, float | None] = {"cell_clip": None, "preact_clip": None}
    x, h, *c = step.probe(rng, 24)
    if step.has_c:
        size = np.abs(np.concatenate([step.run(x, h, scale * c[0])[1] for scale in (1e2, 1e4, 1e7)]))
        if size.max() < 1e5 and (size >= size.max() * (1 - 1e-12)).sum() >= 24:
            found["cell_clip"] = float(size.max())
        limit = found["cell_clip"]
        width = 1.0 if limit is None else min(1.0, limit / 4)
        ends = [step.run(1e7 * x, 1e7 * h, k * width * np.ones_like(h))[1] for k in (0.5, 0)]
        f = (ends[0] - ends[1]) / (0.5 * width)
        if limit is not None:
            f = f[(np.abs(ends[0]) < 0.99 * limit) & (np.abs(ends[1]) < 0.99 * limit)]
        # the saturated forget gate is sigmoid(±limit)
        if f.size >= 8 and f.min() > 1e-7 and f.max() < 1 - 1e-7:
            sides = logit(f)
            if np.ptp(np.abs(sides)) <= 1e-4 * np.abs(sides).max():
                found["preact_clip"] = float(np.median(np.abs(sides)))
    else:
        y = np.abs(step.run(1e7 * x, 1e7 * h)[0])
        if y.max() < 1 - 1e-12 and y.max() > 0.1 and np.ptp(y) <= 1e-12:
            found["preact_clip"] = float(np.arctanh(y.max()))
    for name, value in found.items():  # a limit is a number that someone wrote
        if value is not None and abs(round(value, 4) - value) <= 1e-5 * value:
            found[name] = round(value, 4)
    return found


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


# --- lstm -------------------------------------------------------------------------------------------------------------


def lstm(step: Step, rng: np.random.Generator, limits: dict[str, float | None]) -> Found:
    """Per unit: a_g by its zeros, a_i by what is left, then f where a_g = 0, then o."""
    D, H = step.D, step.H
    n = D + H
    limit = limits["preact_clip"]
    weights = np.zeros((4, n + 1, H))
    peephole = np.zeros((3, H))
    gates, outputs, sees = set(), set(), set()
    activation = "tanh"
    lines = _zeros_of_product(step, rng)
    if lines is None:
        return Found(words=["lstm: i * g, which is c' at c = 0, has no zeros to be found: the candidate is no tanh"])
    reach = 1.0 if limits["cell_clip"] is None else min(1.0, limits["cell_clip"] / 2)
    for j in range(H):
        zeros = lines[j]
        _, values, rows = np.linalg.svd(np.column_stack([zeros, np.ones(len(zeros))]))
        plane = rows[-1] / np.linalg.norm(rows[-1][:n])
        if values[-1] > 1e-6 * values[0] * np.sqrt(len(zeros)):
            return Found(words=["lstm: i * g, which is c' at c = 0, is zero on no plane of x and h"])
        # a_g is a multiple of the plane: the one that leaves an affine a_i
        base = _on_plane(rng.normal(size=(40 * (n + 4), n)) * 0.8, plane)
        offset = rng.uniform(0.2, 1.5, len(base)) * rng.choice([-1, 1], len(base))
        points = base + offset[:, None] * plane[:n]
        product = _unit_c(step, points, 0.0, j)
        if limits["cell_clip"] is not None:
            product = np.where(np.abs(product) < 0.999 * limits["cell_clip"], product, np.nan)
        if np.nanmedian(np.sign(product * offset)) < 0:
            plane, offset = -plane, -offset
        best = _scale(points, offset, product, limit)
        if best is None:
            return Found(words=["lstm: i * g is no sigmoid times tanh of affine maps of x and h"])
        kappa, a_i, gate, activation_j = best
        weights[2, :, j] = kappa * plane
        weights[0, :, j] = a_i
        gates.add(gate)
        activation = activation_j if j == 0 or activation == activation_j else "?"
        # where a_g = 0, c' = f * c
        base = _on_plane(0.6 * rng.normal(size=(8 * (n + 4), n)), plane)
        c = reach * rng.uniform(0.2, 1, len(base)) * rng.choice([-1, 1], len(base))
        h_new, c_new = _unit(step, base, c, j)
        with np.errstate(all="ignore"):
            f = INVERSES[gate](c_new / c)
        f = np.where(np.abs(f) < (0.99 * limit if limit else 9), f, np.nan)
        w, error = affine(np.column_stack([base, c]), f)
        if error > AFFINE:
            return Found(words=[f"lstm: the forget gate c'/c is no {gate} of a map that is affine in x, h and c"])
        weights[1, :, j], peephole[1, j] = np.append(w[:n], w[-1]), w[n]
        # off the plane f has one more unknown, its slope across it; so has i, its peephole
        points = 0.6 * rng.normal(size=(8 * (n + 4), n))
        c = reach * rng.uniform(0.2, 1, len(points)) * rng.choice([-1, 1], len(points))
        h_new, c_new = _unit(step, points, c, j)
        kept = np.abs(c_new) < (0.999 * limits["cell_clip"] if limits["cell_clip"] else np.inf)
        one = np.column_stack([points, np.ones(len(points))])
        across, a_f, a_i = one @ plane, one @ weights[1, :, j] + peephole[1, j] * c, one @ weights[0, :, j]
        g = model.ACTIVATIONS[activation_j](model.clipped(one @ weights[2, :, j], limit))

        def residual(q: np.ndarray, across: np.ndarray = across, a_f: np.ndarray = a_f, a_i: np.ndarray = a_i,
                     g: np.ndarray = g, c: np.ndarray = c, y: np.ndarray = c_new, kept: np.ndarray = kept,
                     gate: str = gate) -> np.ndarray:  # fmt: skip
            f, i = _gate(gate, a_f + q[0] * across, limit), _gate(gate, a_i + q[1] * c, limit)
            return (f * c + i * g - y)[kept]

        for start in ((0.0, 0.0), (2.0, 0.0), (-2.0, 0.0), (0.0, 1.0), (0.0, -1.0), (5.0, 0.0), (-5.0, 0.0)):
            q, error = fit(residual, np.array(start))
            if error < 1e-7:
                break
        else:
            return Found(words=["lstm: c' is not f * c + i * g with the same i as at c = 0"])
        weights[1, :, j] += q[0] * plane
        peephole[0, j] = q[1]
        read = _output_gate(points, c, h_new, c_new, gate, limit)
        if read is None:
            return Found(words=["lstm: h is no sigmoid gate times tanh(c) or c"])
        w, output, seen = read
        weights[3, :, j], peephole[2, j] = np.append(w[:n], w[-1]), w[n]
        outputs.add(output)
        if abs(peephole[2, j]) > 1e-6:
            sees.add(seen)
    if activation == "?" or len(gates) != 1 or len(outputs) != 1 or len(sees) > 1:
        return Found(words=["lstm: units differ in their activations or peepholes"])
    coupled = bool(np.allclose(weights[0], -weights[1], atol=1e-4) and np.allclose(peephole[0], -peephole[1], atol=1e-4))
    found = {"Wx": np.hstack(list(weights[:, :D])), "Wh": np.hstack(list(weights[:, D:n])), "b": weights[:, n].ravel()}
    if np.abs(peephole).max() > 1e-5:
        found["peephole"] = peephole.ravel()
    variant = Variant(
        "lstm", activation=activation, coupled=coupled, output=outputs.pop(), gates=gates.pop(),
        output_peephole=sees.pop() if sees else "new", cell_clip=limits["cell_clip"], preact_clip=limit,
    )  # fmt: skip
    return Found(variant, found)


def _output_gate(
    points: np.ndarray, c: np.ndarray, h_new: np.ndarray, c_new: np.ndarray, gate: str, limit: float | None
) -> tuple[np.ndarray, str, str] | None:
    """(coefficients of x, h, c and 1; the activation of c; which c the peephole sees)."""
    for output in ("tanh", "identity", "sigmoid"):
        with np.errstate(all="ignore"):
            o = INVERSES[gate](h_new / model.ACTIVATIONS[output](c_new))
        o = np.where((np.abs(o) < (0.99 * limit if limit else 9)) & (np.abs(c_new) > 1e-3), o, np.nan)
        for seen, state in (("new", c_new), ("old", c)):
            w, error = affine(np.column_stack([points, state]), o)
            if error <= AFFINE:
                return w, output, seen
    return None


def _unit(step: Step, points: np.ndarray, c: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray]:
    """(h', c') of unit j; c: its own, the others' are 0."""
    states = np.zeros((len(points), step.H))
    states[:, j] = c
    h, c_new = step.run(points[:, : step.D], points[:, step.D :], states)
    return h[:, j], c_new[:, j]


def _unit_c(step: Step, points: np.ndarray, c: float, j: int) -> np.ndarray:
    return _unit(step, points, np.full(len(points), c), j)[1]


def _on_plane(points: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """The nearest points where points · plane[:-1] + plane[-1] = 0; plane[:-1] has length 1."""
    away = points @ plane[:-1] + plane[-1]
    return points - away[:, None] * plane[:-1]


def _zeros_of_product(step: Step, rng: np.random.Generator) -> list[np.ndarray] | None:
    """For each unit, points where its c' is 0 at c = 0, by bisection along lines, all units at once."""
    n, H = step.D + step.H, step.H
    wanted = n + 6
    pool = np.concatenate([scale * rng.normal(size=(40 * wanted, n)) for scale in (0.5, 1.0, 3.0)])
    zero = np.zeros((len(pool), H))
    signs = np.sign(step.run(pool[:, : step.D], pool[:, step.D :], zero)[1])
    low, high = [], []
    for j in range(H):
        up, down = np.flatnonzero(signs[:, j] > 0), np.flatnonzero(signs[:, j] < 0)
        if not len(up) or not len(down):
            return None
        low.append(pool[rng.choice(down, wanted)])
        high.append(pool[rng.choice(up, wanted)])
    a, b, owner = np.concatenate(low), np.concatenate(high), np.repeat(np.arange(H), wanted)
    for _ in range(56):
        middle = 0.5 * (a + b)
        c_new = step.run(middle[:, : step.D], middle[:, step.D :], np.zeros((len(middle), H)))[1]
        above = (c_new[np.arange(len(middle)), owner] > 0)[:, None]
        a, b = np.where(above, a, middle), np.where(above, middle, b)
    found = 0.5 * (a + b)
    return [found[owner == j] for j in range(H)]


def _scale(
    points: np.ndarray, offset: np.ndarray, product: np.ndarray, limit: float | None
) -> tuple[float, np.ndarray, str, str] | None:
    """(κ, coefficients of a_i, the gate's activation, the candidate's): product = gate(a_i) φ(κ offset), a_i affine.

    A grid of κ shows where what is left of the product comes near a gate of an affine map; least squares from there.
    """
    bound = min(0.99 * limit, 4.0) if limit else 4.0
    one = np.column_stack([points, np.ones(len(points))])
    kept = np.isfinite(product)
    grid = np.linspace(np.log(1e-3), np.log(1e2), 240)

    for gate, activation in itertools.product(("sigmoid", "hard_sigmoid", "hard_sigmoid6"), ("tanh", "softsign", "identity")):

        def near(log_kappa: float, gate: str = gate, activation: str = activation) -> tuple[np.ndarray, float]:
            a_g = np.exp(log_kappa) * offset
            with np.errstate(all="ignore"):
                a = INVERSES[gate](product / model.ACTIVATIONS[activation](a_g))
            a = np.where((np.abs(a) < bound) & (np.abs(a_g) < min(bound, 3.0)), a, np.nan)
            w, worst = affine(points, a)
            count = int(np.isfinite(a).sum())
            return w, worst * len(a) / count if count >= 2 * (points.shape[1] + 4) else np.inf

        def residual(q: np.ndarray, gate: str = gate, activation: str = activation) -> np.ndarray:
            a_g = _limited(np.exp(q[0]) * offset, limit)
            g = (
                np.tanh(a_g)
                if activation == "tanh"
                else a_g / (1 + a_g * np.sign(a_g.real))
                if activation == "softsign"
                else a_g
            )
            return (_gate(gate, one @ q[1:], limit) * g - product)[kept]

        tried = [near(k) for k in grid]
        errors = np.array([np.inf, *(error for _, error in tried), np.inf])
        dips = np.flatnonzero((errors[1:-1] <= errors[:-2]) & (errors[1:-1] <= errors[2:]) & np.isfinite(errors[1:-1]))
        for k in dips[np.argsort(errors[1 + dips])][:6]:
            q, error = fit(residual, np.array([grid[k], *tried[k][0]]))
            if error < 1e-9:
                return float(np.exp(q[0])), q[1:], gate, activation
    return None


# --- gru --------------------------------------------------------------------------------------------------------------


def gru(step: Step, rng: np.random.Generator) -> Found:
    """Each unit by itself first; then how one unit's state acts on another, by either reset."""
    D, H = step.D, step.H
    Wx, own = np.zeros((3, D, H)), np.zeros((3, H))
    b, bh_n = np.zeros((3, H)), np.zeros(H)
    for k in range(H):
        unit = _scalar_gru(step, rng, k) or _scalar_gru(step, rng, k) or _scalar_gru(step, rng, k)  # along other lines
        if unit is None:
            return Found(words=["gru: a unit on its own is no (1 - z) * n + z * h with gates that are sigmoids of affine maps"])
        Wx[:, :, k], own[:, k], b[:, k], bh_n[k] = unit
    for reset in ("before", "after") if H > 1 else ("after",):
        if reset == "before" and np.abs(bh_n).max() > 1e-5:
            continue
        Wh = _others(step, rng, reset, Wx, own, b, bh_n)
        if Wh is not None:
            bh = np.zeros(3 * H)
            bh[2 * H :] = bh_n
            W = {"Wx": np.hstack(list(Wx)), "Wh": np.hstack(list(Wh)), "b": b.ravel(), "bh": bh}
            alike = ("before", "after") if H == 1 and np.abs(bh_n).max() <= 1e-5 else (reset,)
            return Found(Variant("gru", reset=reset), W, resets=alike)
    return Found(
        words=["gru: a unit on its own is one of a gru, but its state acts on others neither by reset before nor after"]
    )


def _single(p: np.ndarray, t: np.ndarray, s: np.ndarray) -> np.ndarray:
    """A GRU of one unit along a line: p = 3 biases, 3 slopes in t, 3 in s, δ; n = tanh(… + r (p_8 s + δ))."""
    r, z = (smooth_sigmoid(p[k] + p[3 + k] * t + p[6 + k] * s) for k in (0, 1))
    n = np.tanh(p[2] + p[5] * t + r * (p[8] * s + p[9]))
    return (1 - z) * n + z * s


Observe = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (inputs, own state) -> new state


def _along_a_line(observe: Observe, rng: np.random.Generator, reach: float) -> np.ndarray | None:
    """The parameters of _single.

    Where the new state equals the old, s, it is n, whatever z: atanh(s) = p_2 + p_5 t + r (p_8 s + p_9), linear but for r.
    With n known, z = (h' - n) / (s - n).
    """
    t = rng.uniform(-reach, reach, 120)
    low, high = -np.ones(120), np.ones(120)
    for _ in range(50):
        s = 0.5 * (low + high)
        above = observe(t, s) > s
        low, high = np.where(above, s, low), np.where(above, high, s)
    kept = np.abs(s) < 0.9999
    if kept.sum() < 20:
        return None
    t_0, s_0 = t[kept], s[kept]
    y = np.arctanh(s_0)

    def linear(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r = smooth_sigmoid(q[0] + q[1] * t_0 + q[2] * s_0)
        A = np.column_stack([np.ones(len(t_0)), t_0, r * s_0, r])
        w, *_ = np.linalg.lstsq(A, y, rcond=1e-12)
        return w, A @ w - y

    t, s = rng.uniform(-reach, reach, 160), rng.uniform(-3, 3, 160)
    h = observe(t, s)
    for _ in range(12):
        q, error = fit(lambda q: linear(q)[1], rng.normal(size=3), 40, step=1e-7)
        if not error < 1e-5:
            continue
        w, _ = linear(q)
        n = np.tanh(w[0] + w[1] * t + smooth_sigmoid(q[0] + q[1] * t + q[2] * s) * (w[2] * s + w[3]))
        with np.errstate(all="ignore"):
            a_z = logit((h - n) / (s - n))
        a_z = np.where((np.abs(s - n) > 0.1) & (np.abs(a_z) < 6), a_z, np.nan)
        z, _ = affine(np.column_stack([t, s]), a_z)
        p = np.array([q[0], z[2], w[0], q[1], z[0], w[1], q[2], z[1], w[2], w[3]])
        p, error = fit(lambda p: _single(p, t, s) - h, p, 200)
        if error < 1e-8:
            return p
    return None


def _scalar_gru(step: Step, rng: np.random.Generator, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float] | None:
    """(Wx of r z n (3, D), Wh_kk (3,), b (3,), bh_n) of unit k, all with h = s e_k."""
    D, H = step.D, step.H

    def observe(x: np.ndarray, s: np.ndarray) -> np.ndarray:
        h = np.zeros((len(s), H))
        h[:, k] = s
        return step.run(x, h)[0][:, k]

    start = None
    for attempt in range(8):
        line = rng.normal(size=D)
        line /= np.linalg.norm(line)
        reach = (2.0, 4.0, 1.0, 8.0)[attempt % 4]
        start = _along_a_line(lambda t, s, line=line: observe(t[:, None] * line, s), rng, reach)  # type: ignore[misc]
        if start is not None:
            break
    if start is None:
        return None
    # one input at a time, the rest being known
    slopes = np.zeros((3, D))
    fixed = start
    for d in range(D):
        t, s = rng.uniform(-2, 2, 60), rng.uniform(-2, 2, 60)
        x = np.zeros((60, D))
        x[:, d] = t
        y = observe(x, s)

        def residual(q: np.ndarray, t: np.ndarray = t, s: np.ndarray = s, y: np.ndarray = y) -> np.ndarray:
            return _single(np.concatenate([fixed[:3], q, fixed[6:]]), t, s) - y

        for _ in range(30):
            q, error = fit(residual, 0.7 * rng.normal(size=3))
            if error < 1e-7:
                break
        else:
            return None
        slopes[:, d] = q
    # all at once
    m = 12 * (D + 3)
    x, s = 0.8 * rng.normal(size=(m, D)), rng.uniform(-3, 3, m)
    y = observe(x, s)

    def whole(q: np.ndarray) -> np.ndarray:
        W = q[10 - 3 :].reshape(3, D)
        r, z = (smooth_sigmoid(q[g] + x @ W[g] + q[3 + g] * s) for g in (0, 1))
        n = np.tanh(q[2] + x @ W[2] + r * (q[5] * s + q[6]))
        return (1 - z) * n + z * s - y

    q, error = fit(whole, np.concatenate([fixed[:3], fixed[6:10], slopes.ravel()]))
    if error > 1e-8:
        return None
    return q[7:].reshape(3, D), q[3:6], q[:3], float(q[6])


def _others(step: Step, rng: np.random.Generator, reset: str, Wx: np.ndarray, own: np.ndarray, b: np.ndarray,
            bh_n: np.ndarray) -> np.ndarray | None:  # fmt: skip
    """Wh (3, H, H): the effect of h_k on unit j, for one reset; None where it does not explain the outputs."""
    D, H = step.D, step.H
    Wh = np.zeros((3, H, H))
    for g in range(3):
        np.fill_diagonal(Wh[g], own[g])
    M = 48

    def known(x: np.ndarray, g: int, j: int) -> np.ndarray:
        return x @ Wx[g, :, j] + b[g, j]

    for k in range(H):
        x, s = rng.normal(size=(M, D)), rng.uniform(-3, 3, M)
        h = np.zeros((M, H))
        h[:, k] = s
        y = step.run(x, h)[0]
        r_k = smooth_sigmoid(known(x, 0, k) + own[0, k] * s)
        for j in range(H):
            if j == k:
                continue

            def residual(q: np.ndarray, j: int = j, x: np.ndarray = x, s: np.ndarray = s, y: np.ndarray = y,
                         r_k: np.ndarray = r_k) -> np.ndarray:  # fmt: skip
                z = smooth_sigmoid(known(x, 1, j) + q[0] * s)
                if reset == "before":
                    inner = r_k * s * q[1]
                else:
                    inner = smooth_sigmoid(known(x, 0, j) + q[2] * s) * (q[1] * s + bh_n[j])
                return (1 - z) * np.tanh(known(x, 2, j) + inner) - y[:, j]

            for _ in range(25):
                q, error = fit(residual, 0.5 * rng.normal(size=2 if reset == "before" else 3))
                if error < 1e-7:
                    break
            else:
                return None
            Wh[1, k, j], Wh[2, k, j] = q[0], q[1]
            if reset == "after":
                Wh[0, k, j] = q[2]
    if reset == "after":
        return Wh
    # reset before: h_k acts on r_j where h_j is not 0, seen in unit j and in unit k
    for k in range(H):
        for j in range(k):
            x, s, u = rng.normal(size=(M, D)), rng.uniform(-3, 3, M), rng.uniform(-3, 3, M)
            h = np.zeros((M, H))
            h[:, k], h[:, j] = s, u
            y = step.run(x, h)[0]

            def both(q: np.ndarray, k: int = k, j: int = j, x: np.ndarray = x, s: np.ndarray = s, u: np.ndarray = u,
                     y: np.ndarray = y, h: np.ndarray = h) -> np.ndarray:  # fmt: skip
                r_k = smooth_sigmoid(known(x, 0, k) + own[0, k] * s + q[0] * u)
                r_j = smooth_sigmoid(known(x, 0, j) + own[0, j] * u + q[1] * s)
                parts = []
                for m in range(H):
                    z = smooth_sigmoid(known(x, 1, m) + Wh[1, k, m] * s + Wh[1, j, m] * u)
                    n = np.tanh(known(x, 2, m) + r_k * s * Wh[2, k, m] + r_j * u * Wh[2, j, m])
                    parts.append((1 - z) * n + z * h[:, m] - y[:, m])
                return np.concatenate(parts)

            for _ in range(25):
                q, error = fit(both, 0.5 * rng.normal(size=2))
                if error < 1e-6:
                    break
            else:
                return None
            Wh[0, j, k], Wh[0, k, j] = q
    return Wh
