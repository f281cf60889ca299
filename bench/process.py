"""Fresh processes, and what must be set before one imports a library."""

import argparse
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NPROC",  # XLA's
    "FASTGATE_NUM_THREADS",
)


def set_threads(threads: int) -> None:
    """Libraries read these when they are imported."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)


def prefer_installed() -> None:
    """Measure the installed package; the source folder beside this one only where none is installed. New processes inherit
    the path."""
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != ROOT] + [str(ROOT)]


def fresh(threads: int, call: Callable[..., Any], *arguments: Any) -> Any:
    """The value of the call in a new process, whose libraries start with so many threads."""
    before = dict(os.environ)
    set_threads(threads)
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(call, *arguments).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def measured(options: argparse.Namespace, threads: int) -> Any:
    """The record of a run in this process."""
    from .run import run

    return run(options, threads)
