"""fastgate as a user calls it: public functions on NumPy arrays, allocation and packing included; or a prepared cell,
which holds the packed weights as the peers' modules and sessions do."""

from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

import fastgate

from ..cases import PREPARED, STEP, Case
from ..clip import Gradients
from . import OURS, Calls, named

NAME = OURS


def version() -> str:
    return fastgate.__version__


def prepare(case: Case, threads: int) -> Calls:
    set_threads(threads)
    return prepared(case) if case.what == PREPARED else calls_of(fastgate, case)


def set_threads(threads: int) -> None:
    if hasattr(fastgate, "set_num_threads"):
        fastgate.set_num_threads(threads)


def calls_of(functions: ModuleType, case: Case, lengths: np.ndarray | None = None) -> Calls:
    """The case's calls with the public functions, or with their twins in the reference."""
    if case.what == STEP:
        step = getattr(functions, f"{case.cell}_step_forward")
        arguments = (case.x[:, 0].copy(), *case.states.values(), case.Wx, case.Wh, case.b)
        return Calls(partial(step, *arguments, training=False), lambda outputs: of_step(case, outputs[:-1]))

    forward = partial(
        getattr(functions, f"{case.cell}_forward"),
        case.x,
        *case.states.values(),
        case.Wx,
        case.Wh,
        case.b,
        lengths=case.lengths,
    )
    if not case.training:
        return Calls(partial(forward, training=False), lambda outputs: outputs._asdict())

    backward = getattr(functions, f"{case.cell}_backward")

    def call() -> tuple[Any, Any]:
        outputs = forward()
        return outputs, backward(case.dh, outputs.cache)

    return Calls(call, lambda pair: pair[0]._asdict() | pair[1]._asdict())


def prepared(case: Case) -> Calls:
    name = next(name for name in fastgate.__all__ if name.lower() == f"{case.cell.replace('_', '')}cell")
    cell = getattr(fastgate, name)(case.Wx, case.Wh, case.b)
    states = case.states.values()
    if case.x.shape[1] > 1:
        call = partial(cell.forward, case.x, *states, lengths=case.lengths, training=False)
        return Calls(call, lambda outputs: outputs._asdict())
    call = partial(cell.step, case.x[:, 0].copy(), *states)
    return Calls(call, lambda found: of_step(case, found if isinstance(found, tuple) else (found,)))


def of_step(case: Case, states: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    return named(case, states[0][:, None], states)


def clip(gradients: Gradients, threads: int) -> Calls:
    set_threads(threads)
    arrays, limits = gradients.copies(), gradients.limits()
    return Calls(lambda: fastgate.clip_grad_norm(arrays, next(limits)), lambda norm: gradients.results(norm, arrays))
