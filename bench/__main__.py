"""Measure fastgate beside its peers: table in the terminal, JSON file, picture."""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "FASTGATE_NUM_THREADS",
)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--cells", nargs="+", default=["lstm", "gru"], help="any public cell (default: lstm gru)")
    parser.add_argument("--what", nargs="+", default=["forward", "training"], choices=["forward", "training"])
    parser.add_argument(
        "--rows",
        nargs="+",
        default=["grid", "models"],
        help="grid, models, a model's name, or any shape as T,N,D,H (default: grid models)",
    )
    parser.add_argument("--peers", nargs="+", help="modules of bench/contenders to run beside ours (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="for all contenders (default: 1)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--budget", type=float, default=4.0, help="seconds of timing per row (default: 4)")
    parser.add_argument("--quick", action="store_true", help="the grid with a budget of half a second per row")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=["wall", "cpu"],
        help="cpu leaves out the times when another process has the core: for busy machines, one thread only",
    )
    parser.add_argument("--cold", action="store_true", help="empty the caches before every call")
    parser.add_argument("--json", type=Path, default=RESULTS / "latest.json")
    parser.add_argument("--picture", type=Path, help="default: beside the JSON file")
    chosen = parser.parse_args()
    if chosen.clock == "cpu" and chosen.threads > 1:
        parser.error("--clock cpu adds the times of all threads: use it with --threads 1")
    if chosen.quick:
        chosen.rows, chosen.budget = ["grid"], 0.5
    return chosen


def set_threads(threads: int) -> None:
    """Libraries read these when they are imported."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)


def prefer_installed() -> None:
    """Measure the installed package; the source folder beside this one only where none is installed."""
    elsewhere = [path for path in sys.path if Path(path).resolve() != ROOT]
    before, sys.path[:] = sys.path[:], elsewhere
    if find_spec("fastgate") is None:
        sys.path[:] = before


def main() -> int:
    chosen = options()
    set_threads(chosen.threads)
    prefer_installed()
    from . import report
    from .run import run

    record = run(chosen)
    print(report.terminal(record))
    record.save(chosen.json)
    picture = chosen.picture or chosen.json.with_suffix(".png")
    try:
        from .picture import draw
    except ImportError as reason:
        print(f"\nNo picture: {reason}")
    else:
        draw(record, picture)
        print(f"\nWritten: {chosen.json}, {picture}")
    return 1 if record.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
