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
    """Input and weights all -0.1, which let the gradients decay to nothing: the values of oneDNN's issue 561."""
    return replace(case, **{name: np.full_like(getattr(case, name), -0.1) for name in ("x", "Wx", "Wh", "b")})


def saturated(case: Case) -> Case:
    """Every gate wide open or shut: pre-activations of some hundred."""
    return replace(case, x=300 * case.x)


def zeros(case: Case) -> Case:
    """No input, no state, no bias, no gradient."""
    states = {name: 0 * state for name, state in case.states.items()}
    return replace(case, x=0 * case.x, states=states, b=0 * case.b, dh=0 * case.dh)


VALUES: dict[str, Callable[[Case], Case]] = {
    NORMAL: lambda case: case,
    "subnormal": subnormal,
    "decaying": decaying,
    "saturated": saturated,
    "zeros": zeros,
}
