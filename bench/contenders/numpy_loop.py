"""The plain NumPy loop over time steps: fastgate's own reference."""

import numpy as np

from fastgate import reference

from ..cases import Case
from . import LOOP, Calls
from .ours import calls_of

NAME = LOOP


def version() -> str:
    return np.__version__


def prepare(case: Case, threads: int) -> Calls:
    return calls_of(reference, case)
