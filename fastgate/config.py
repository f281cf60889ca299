"""What this build and this machine have."""

import platform

import numpy as np

from fastgate import _kernels
from fastgate._version import __version__


def get_config():
    """A dict: `version`, `isa` (the instruction-set level in use), `isa_levels` (all that this CPU and this build
    have, best first),
    `cells`, `cpu`, `numpy`, `python`."""
    return {
        "version": __version__,
        "isa": _kernels.ISA,
        "isa_levels": list(_kernels.LEVELS),
        "cells": list(_kernels.CELLS),
        "cpu": cpu_name(),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def show_config():
    """Print get_config(), a line each. The environment variable FASTGATE_ISA, read at import, chooses another level."""
    for name, value in get_config().items():
        print(f"{name:12} {', '.join(value) if isinstance(value, list) else value}")


def cpu_name():
    """The CPU by its maker's name, where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(("model name", "Model")):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
