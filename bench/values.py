"""Values that slow a kernel down where it meets them unprepared: subnormal numbers above all."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .cases import Case

NORMAL = "normal"


def subnormal(case: Case) -> Case:
    """Inputs, states and upstream gradients so small that products and states are subnormal; no bias to hide them."""
    tiny = np.finfo(case.dtype).tiny

    def small(a: np.ndarray) -> np.ndarray:
        return (a * tiny).astype(a.dtype)

    states = {name: small(state) for name, state in case.states.items()}
    return replace(case, x=small(case.x), states=states, b=0 * case.b, dh=small(case.dh))


def decaying(case: Case) -> Case:
    """States, and the gradient of the last step alone, that start just above the subnormal numbers and decay through them:
    nothing is put in."""
    start = np.finfo(case.dtype).tiny * 100
    states = {name: (state * start).astype(state.dtype) for name, state in case.states.items()}
    dh = 0 * case.dh
    dh[:, -1] = case.dh[:, -1] * start
    return replace(case, x=0 * case.x, states=states, b=0 * case.b, dh=dh)


def constant(case: Case) -> Case:
    """Input, weights and bias all -0.1, the values that oneDNN's users saw slow: at H = 1024 gates shut so far that their
    products are subnormal. Rounding grows to the size of the values here, so any finite result counts as right."""
    arrays = {name: np.full_like(getattr(case, name), -0.1) for name in ("x", "Wx", "Wh", "b")}
    return replace(case, **arrays, limit=2**24)


def saturated(case: Case) -> Case:
    """Gates wide open or shut: pre-activations of some tens."""
    return replace(case, x=30 * case.x)


def zeros(case: Case) -> Case:
    """No input, no state, no bias, no gradient."""
    states = {name: 0 * state for name, state in case.states.items()}
    return replace(case, x=0 * case.x, states=states, b=0 * case.b, dh=0 * case.dh)


VALUES: dict[str, Callable[[Case], Case]] = {
    NORMAL: lambda case: case,
    "subnormal": subnormal,
    "decaying": decaying,
    "constant": constant,
    "saturated": saturated,
    "zeros": zeros,
}
