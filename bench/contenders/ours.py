"""fastgate as a user calls it: public functions on NumPy arrays, allocation and packing included."""

from functools import partial
from types import ModuleType
from typing import Any

import fastgate

from ..cases import FORWARD, Case
from . import OURS, Calls

NAME = OURS


def version() -> str:
    return fastgate.__version__


def prepare(case: Case, threads: int) -> Calls:
    return calls_of(fastgate, case)


def calls_of(functions: ModuleType, case: Case) -> Calls:
    """The case's calls with the public functions, or with their twins in the reference."""
    forward = getattr(functions, f"{case.cell}_forward")
    arguments = (case.x, *case.states.values(), case.Wx, case.Wh, case.b)
    if case.what == FORWARD:
        return Calls(partial(forward, *arguments, training=False), lambda outputs: outputs._asdict())

    backward = getattr(functions, f"{case.cell}_backward")

    def call() -> tuple[Any, Any]:
        outputs = forward(*arguments)
        return outputs, backward(case.dh, outputs.cache)

    return Calls(call, lambda pair: pair[0]._asdict() | pair[1]._asdict())
