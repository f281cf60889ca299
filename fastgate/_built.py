"""Imports the kernels before anything else does; where they are not compiled, the ImportError says how to."""

import importlib
import os
import sys

try:
    importlib.import_module("fastgate._kernels")
except ModuleNotFoundError as error:
    if error.name != "fastgate._kernels":
        raise
    raise ImportError(
        f"fastgate: the kernels are not compiled in {os.path.dirname(__file__)} for {sys.implementation.cache_tag}; run, in "
        f"{os.path.dirname(os.path.dirname(__file__))}, `make build`, or `pip install .` and start Python in another folder",
        name=error.name,
    ) from None
