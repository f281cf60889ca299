"""Measure fastgate beside its peers: table in the terminal, JSON file, pictures.

python -m bench compare OLD NEW   what changed between two JSON files
python -m bench count             instructions of a call, by valgrind
"""

import argparse
import sys
from pathlib import Path

from .process import fresh, measured, prefer_installed, set_threads

RESULTS = Path(__file__).parent / "results"


def options(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--cells", nargs="+", default=["lstm", "gru"], help="any public cell (default: lstm gru)")
    parser.add_argument(
        "--what",
        nargs="+",
        default=["forward", "prepared", "training"],
        choices=["forward", "prepared", "training"],
        help="prepared: forward by a cell that holds its packed weights",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        help="a group of bench/grid.py, a model's name, or any shape as T,N,D,H (default: grid models)",
    )
    parser.add_argument("--peers", nargs="*", help="modules of bench/contenders to run beside ours (default: all)")
    parser.add_argument("--threads", nargs="+", type=int, help="for all contenders, one run for each number (default: 1)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--budget", type=float, help="seconds of timing per row (default: 4)")
    parser.add_argument("--quick", action="store_true", help="rows: grid, budget: half a second")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=["wall", "cpu"],
        help="cpu leaves out the times when another process has the core: for busy machines, one thread only",
    )
    parser.add_argument("--cold", action="store_true", help="empty the caches before every call")
    parser.add_argument("--json", type=Path, default=RESULTS / "latest.json")
    parser.add_argument("--picture", type=Path, help="default: beside the JSON file")
    chosen = parser.parse_args(words)
    if chosen.clock == "cpu" and chosen.threads not in (None, [1]):
        parser.error("--clock cpu adds the times of all threads: use it with --threads 1")
    chosen.rows = chosen.rows or (["grid"] if chosen.quick else ["grid", "models"])
    chosen.budget = chosen.budget or (0.5 if chosen.quick else 4.0)
    return chosen


def thread_counts(chosen: argparse.Namespace) -> list[int]:
    """Those asked for; else one, and for the scaling rows every number up to the cores, if the library takes threads."""
    if chosen.threads:
        return chosen.threads
    if "scaling" in chosen.rows:
        import fastgate

        from .machine import cores

        if hasattr(fastgate, "set_num_threads"):
            return list(range(1, cores() + 1))
    return [1]


def main() -> int:
    set_threads(1)
    prefer_installed()
    if sys.argv[1:2] == ["compare"]:
        from .compare import main as compare

        return compare(sys.argv[2:])
    if sys.argv[1:2] == ["count"]:
        from .count import main as count

        return count(sys.argv[2:])
    chosen = options()
    counts = thread_counts(chosen)
    if len(counts) == 1:
        set_threads(counts[0])
        record = measured(chosen, counts[0])
    else:  # most libraries take their threads when they start
        record, *others = [fresh(threads, measured, chosen, threads) for threads in counts]
        for other in others:
            record.add(other)
    from . import report

    print(report.terminal(record))
    record.save(chosen.json)
    picture = chosen.picture or chosen.json.with_suffix(".png")
    try:
        from .picture import draw
    except ImportError as reason:
        print(f"\nNo picture: {reason}")
    else:
        print("\nWritten:", ", ".join(map(str, [chosen.json, *draw(record, picture)])))
    return 1 if record.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
