"""A GRU whose weights are hidden, read off: each unit by itself, then how units act on each other."""

from collections.abc import Callable

import numpy as np

from fastgate.check.model import Variant
from fastgate.check.probing import Found, affine, fit, logit, smooth_sigmoid
from fastgate.check.stepping import Step


def gru(step: Step, rng: np.random.Generator) -> Found:
    """Each unit by itself first; then how one unit's state acts on another, by either reset."""
    D, H = step.D, step.H
    Wx, own = np.zeros((3, D, H)), np.zeros((3, H))
    b, bh_n = np.zeros((3, H)), np.zeros(H)
    rounds, lines = (3, 8) if _saturates(step, rng) else (1, 2)  # a unit is tried along other lines before it is given up
    for k in range(H):
        unit = next((u for _ in range(rounds) if (u := _scalar_gru(step, rng, k, lines)) is not None), None)
        if unit is None:
            return Found(
                words=[
                    "gru: a unit on its own is no (1 - z) * n + z * h with a tanh n and gates that are sigmoids of affine maps"
                ]
            )
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


def _saturates(step: Step, rng: np.random.Generator) -> bool:
    """Whether h' is h, 1 or -1 for huge x, and at h = 0 not always 0, as that of every gru whose three gates see x."""
    x, h = 1e7 * rng.normal(size=(24, step.D)), rng.uniform(-0.9, 0.9, (24, step.H))
    y, at_zero = step.run(x, h)[0], step.run(x, 0 * h)[0]
    ends = np.minimum(np.abs(y - h), np.abs(np.abs(y) - 1))
    return bool(ends.max() < 1e-6 and np.abs(at_zero).max(axis=0).min() > 0.5)


def _scalar_gru(
    step: Step, rng: np.random.Generator, k: int, lines: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float] | None:
    """(Wx of r z n (3, D), Wh_kk (3,), b (3,), bh_n) of unit k, all with h = s e_k."""
    D, H = step.D, step.H

    def observe(x: np.ndarray, s: np.ndarray) -> np.ndarray:
        h = np.zeros((len(s), H))
        h[:, k] = s
        return step.run(x, h)[0][:, k]

    start = None
    for attempt in range(lines):
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
