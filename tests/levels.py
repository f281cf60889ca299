"""Instruction-set levels. A level is chosen when fastgate is imported, so each runs in a process of its own.

LEVELS     what this CPU and this build have, best first; those with FMA agree bit for bit
output_at  what a script prints at a level
"""

import os
import subprocess
import sys

from fastgate import _kernels

LEVELS = _kernels.LEVELS
FMA_LEVELS = [level for level in LEVELS if level != "baseline"]


def output_at(level, file, *arguments):
    environment = os.environ | {"FASTGATE_ISA": level, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.run([sys.executable, file, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout
