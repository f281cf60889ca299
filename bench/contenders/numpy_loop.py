"""Plain NumPy: the loop over time steps of fastgate's own reference, and the usual lines that clip."""

import numpy as np

from fastgate import reference

from ..cases import Case
from ..clip import Gradients
from . import LOOP, Calls
from .ours import calls_of

NAME = LOOP


def version() -> str:
    return np.__version__


def prepare(case: Case, threads: int) -> Calls:
    return calls_of(reference, case)


def clip(gradients: Gradients, threads: int) -> Calls:
    arrays, limits = gradients.copies(), gradients.limits()

    def call() -> float:
        max_norm = next(limits)
        norm = np.sqrt(sum(np.sum(a**2) for a in arrays))
        if norm > max_norm:
            for a in arrays:
                a *= max_norm / norm
        return norm

    return Calls(call, lambda norm: gradients.results(norm, arrays))
