"""An LSTM whose weights are hidden, read off unit by unit; with a projection, too."""

import itertools

import numpy as np

from fastgate.check import model
from fastgate.check.model import Variant
from fastgate.check.probing import AFFINE, INVERSES, Found, affine, fit, gate_of, limited, smooth_sigmoid
from fastgate.check.stepping import Step


def lstm(step: Step, rng: np.random.Generator, limits: dict[str, float | None]) -> Found:
    """Per unit: a_g by its zeros, a_i by what is left, then f where a_g = 0, then o."""
    D, H, n = step.D, step.H, step.D + step.P
    limit = limits["preact_clip"]
    weights = np.zeros((4, n + 1, H))
    peephole = np.zeros((3, H))
    gates, outputs, sees = set(), set(), set()
    activation = "tanh"
    projected: np.ndarray | None = None  # Wr (H, P), where h is a projection
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
            f, i = gate_of(gate, a_f + q[0] * across, limit), gate_of(gate, a_i + q[1] * c, limit)
            return (f * c + i * g - y)[kept]

        for start in ((0.0, 0.0), (2.0, 0.0), (-2.0, 0.0), (0.0, 1.0), (0.0, -1.0), (5.0, 0.0), (-5.0, 0.0)):
            q, error = fit(residual, np.array(start))
            if error < 1e-7:
                break
        else:
            return Found(words=["lstm: c' is not f * c + i * g with the same i as at c = 0"])
        weights[1, :, j] += q[0] * plane
        peephole[0, j] = q[1]
        if projected is None and step.P == H:
            read = _output_gate(points, c, h_new[:, j], c_new, gate, limit)
            if read is not None:
                w, output, seen = read
                weights[3, :, j], peephole[2, j] = np.append(w[:n], w[-1]), w[n]
                outputs.add(output)
                if abs(peephole[2, j]) > 1e-6:
                    sees.add(seen)
                continue
        if projected is None and j > 0 and step.P == H:
            return Found(words=["lstm: h of some units is no gate times tanh(c) or c"])
        through = _projected(step, rng, j, gate, limit)
        if through is None:
            return Found(words=["lstm: h is no sigmoid gate times tanh(c) or c, nor a projection of such"])
        w, row = through
        weights[3, :, j], peephole[2, j] = np.append(w[:n], w[-1]), w[n]
        projected = np.zeros((H, step.P)) if projected is None else projected
        projected[j] = row
        outputs.add("tanh")
    if activation == "?" or len(gates) != 1 or len(outputs) != 1 or len(sees) > 1:
        return Found(words=["lstm: units differ in their activations or peepholes"])
    coupled = bool(np.allclose(weights[0], -weights[1], atol=1e-4) and np.allclose(peephole[0], -peephole[1], atol=1e-4))
    found = {"Wx": np.hstack(list(weights[:, :D])), "Wh": np.hstack(list(weights[:, D:n])), "b": weights[:, n].ravel()}
    if np.abs(peephole).max() > 1e-5:
        found["peephole"] = peephole.ravel()
    if projected is not None:
        found["Wr"] = projected
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


def _projected(
    step: Step, rng: np.random.Generator, j: int, gate: str, limit: float | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """(coefficients of x, h, c and 1 of a_o, row j of Wr) of h = (o * tanh(c')) Wr.

    From the c of unit j where its c' is 0, to another, h moves by o_j tanh(c'_j) Wr_j: a direction that stays, and a length
    that is o_j times that of Wr_j, which is seen where o_j is 1.
    """
    n = step.D + step.P

    def moves(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """o_j Wr_j (M, P) and c'_j (M,); NaN where no c is found for which c' is 0."""
        before, start = np.zeros(len(points)), np.full(len(points), 0.5)
        c_before, c_start = (_unit(step, points, c, j)[1] for c in (before, start))
        for _ in range(12):  # the secant rule; without peepholes c' is affine in c, and the first step is the last
            with np.errstate(all="ignore"):
                slope = (c_start - c_before) / (start - before)
            there = (np.abs(c_start) < 1e-14) | ~(np.abs(slope) > 1e-3) | ~(np.abs(start) < 20)
            before, c_before = np.where(there, before, start), np.where(there, c_before, c_start)
            with np.errstate(all="ignore"):
                start = np.where(there, start, start - c_start / slope)
            c_start = _unit(step, points, start, j)[1]
        kept = (np.abs(c_start) < 1e-12) & (np.abs(start) < 20)
        start = np.where(kept, start, 0.0)
        end = start + rng.uniform(0.3, 1.0, len(points)) * rng.choice([-1, 1], len(points))
        (h_start, _), (h_end, c_end) = _unit(step, points, start, j), _unit(step, points, end, j)
        kept &= np.abs(c_end) > 1e-2
        with np.errstate(all="ignore"):
            return np.where(kept[:, None], (h_end - h_start) / np.tanh(c_end)[:, None], np.nan), c_end

    points = 0.6 * rng.normal(size=(10 * (n + 6), n))
    far, _ = moves(1e4 * rng.normal(size=(400, n)))
    near, c_end = moves(points)
    far, kept = far[np.isfinite(far).all(axis=1)], np.isfinite(near).all(axis=1)
    if len(far) < 20 or kept.sum() < 2 * (n + 4):
        return None
    length = np.linalg.norm(far, axis=1).max()
    row = far[np.argmax(np.linalg.norm(far, axis=1))] / (1.0 if limit is None else smooth_sigmoid(np.array(limit)))
    along = near[kept] @ row / (row @ row)
    if not length > 1e-9 or np.abs(near[kept] - along[:, None] * row).max() > 1e-6 * length:
        return None
    with np.errstate(all="ignore"):
        a_o = INVERSES[gate](along)
    a_o = np.where(np.abs(a_o) < (0.99 * limit if limit else 9), a_o, np.nan)
    w, error = affine(np.column_stack([points[kept], c_end[kept]]), a_o)
    return (w, row) if error <= 10 * AFFINE else None


def _unit(step: Step, points: np.ndarray, c: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray]:
    """(h' (M, P), c' of unit j); c: its own, the others' are 0."""
    states = np.zeros((len(points), step.H))
    states[:, j] = c
    h, c_new = step.run(points[:, : step.D], points[:, step.D :], states)
    return h, c_new[:, j]


def _unit_c(step: Step, points: np.ndarray, c: float, j: int) -> np.ndarray:
    return _unit(step, points, np.full(len(points), c), j)[1]


def _on_plane(points: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """The nearest points where points · plane[:-1] + plane[-1] = 0; plane[:-1] has length 1."""
    away = points @ plane[:-1] + plane[-1]
    return points - away[:, None] * plane[:-1]


def _zeros_of_product(step: Step, rng: np.random.Generator) -> list[np.ndarray] | None:
    """For each unit, points where its c' is 0 at c = 0, by bisection along lines, all units at once."""
    n, H = step.D + step.P, step.H
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
            a_g = limited(np.exp(q[0]) * offset, limit)
            g = (
                np.tanh(a_g)
                if activation == "tanh"
                else a_g / (1 + a_g * np.sign(a_g.real))
                if activation == "softsign"
                else a_g
            )
            return (gate_of(gate, one @ q[1:], limit) * g - product)[kept]

        tried = [near(k) for k in grid]
        errors = np.array([np.inf, *(error for _, error in tried), np.inf])
        dips = np.flatnonzero((errors[1:-1] <= errors[:-2]) & (errors[1:-1] <= errors[2:]) & np.isfinite(errors[1:-1]))
        for k in dips[np.argsort(errors[1 + dips])][:6]:
            q, error = fit(residual, np.array([grid[k], *tried[k][0]]))
            if error < 1e-9:
                return float(np.exp(q[0])), q[1:], gate, activation
    return None
