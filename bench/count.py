"""Instructions of a call, counted by valgrind: `python -m bench count`, for machines too noisy to time.

One process under callgrind runs every row twice and counts the second call; what the way into Python costs is counted
by an empty call and taken off. valgrind knows no AVX-512: the level is avx2 instead. The counts of a single build
repeat to a few thousandths; an instruction is not a unit of time.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from fastgate import get_config

from . import cases, compiled, contenders, grid
from .contenders import ours
from .process import ROOT

DEFAULT = ["1,1,64,64", "100,1,64,64", "20,16,64,64"]  # valgrind is fifty times as slow
VALGRIND = ("valgrind", "--tool=callgrind", "--collect-atstart=no")


def unavailable() -> str:
    """The reason why nothing can be counted here, or ""."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        return "valgrind does not run beside AddressSanitizer"
    try:
        _library()
    except OSError as reason:
        return str(reason)
    return ""


def counts(rows: list[str], cells: list[str], whats: list[str], dtype: str) -> dict[str, int]:
    """Instructions of one call, by its name."""
    plan = [(cell, what, row) for what in whats for cell in cells for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        dumps = Path(folder) / "dump"
        python = [sys.executable, "-P", "-m", "bench.count", json.dumps([plan, dtype])]
        command = [*VALGRIND, f"--callgrind-out-file={dumps}", *python]
        level = get_config()["isa"]
        environment = os.environ | {"FASTGATE_ISA": "avx2" if level == "avx512" else level, "PYTHONHASHSEED": "0"}
        environment["PYTHONPATH"] = os.pathsep.join([path for path in sys.path if path] + [str(ROOT)])
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the process under valgrind failed:\n{done.stderr[-2000:]}")
        found = [_instructions(Path(f"{dumps}.{k}")) for k in range(1, 2 + len(plan))]
    empty, *calls = found
    return {f"{cell} {what} {row}": n - empty for (cell, what, row), n in zip(plan, calls, strict=True)}


def _instructions(dump: Path) -> int:
    return int(re.search(r"^(?:summary|totals): (\d+)", dump.read_text(encoding="utf-8"), re.MULTILINE)[1])


def _library():
    return compiled.load("count.c")


def run_counted(plan: list[tuple[str, str, str]], dtype: str) -> None:
    """In the process under valgrind: an empty call, then one call of each row, each warmed up by one before it."""
    requests = _library()

    def count(call: Callable[[], object]) -> None:
        requests.toggle()
        call()
        requests.toggle()
        requests.dump()

    count(lambda: None)
    for cell, what, word in plan:
        (row,) = grid.select([word])
        call = contenders.begin(ours, cases.make_case(cell, what, *row.shape, dtype), 1).call
        call()
        count(call)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench count", description=__doc__)
    parser.add_argument("--cells", nargs="+", default=["lstm", "gru"])
    parser.add_argument("--what", nargs="+", default=["forward", "training"], choices=["forward", "training"])
    parser.add_argument("--rows", nargs="+", default=DEFAULT, help=f"shapes as T,N,D,H (default: {' '.join(DEFAULT)})")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--json", type=Path, help="write the counts there, too")
    chosen = parser.parse_args(arguments)
    if reason := unavailable():
        print(f"skipped: {reason}")
        return 0
    found = counts(chosen.rows, chosen.cells, chosen.what, chosen.dtype)
    width = max(map(len, found))
    for name, instructions in found.items():
        print(f"{name:{width}}  {instructions:15,}")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_counted(*json.loads(sys.argv[1]))
