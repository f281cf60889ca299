"""Every test runs with the memory of the kernels filled with NaN before use."""

import os

# The reference multiplies small matrices: more threads only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

import fastgate
from fastgate import _kernels

fastgate.set_num_threads(1)  # the workers of pytest-xdist share the CPUs; tests of threads set their own number


@pytest.fixture(autouse=True, scope="session")
def memory_full_of_nan():
    _kernels._prefill(0xFF)
    yield
    _kernels._prefill(-1)
