"""Checks the protocol of the team of threads (team.pml) with the model checker spin. Without spin it says so and is content.

python tests/model.py
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = Path(__file__).with_name("team.pml")
CHECKS = [  # what is checked, sizes, and how the checker is built and run
    ("safety", {"HELPERS": 1, "CALLERS": 1, "PIECES": 4}, ["-DSAFETY", "-DNOCLAIM"], []),
    ("safety", {"HELPERS": 1, "CALLERS": 2, "PIECES": 3}, ["-DSAFETY", "-DNOCLAIM"], []),
    ("safety", {"HELPERS": 2, "CALLERS": 1, "PIECES": 2}, ["-DSAFETY", "-DNOCLAIM"], []),
    ("safety", {"HELPERS": 2, "CALLERS": 1, "PIECES": 2, "SPURIOUS": 1}, ["-DSAFETY", "-DNOCLAIM"], []),
    ("every caller finishes", {"HELPERS": 1, "CALLERS": 1, "PIECES": 3}, ["-DNFAIR=4"], ["-a", "-f"]),
    ("every caller finishes", {"HELPERS": 2, "CALLERS": 1, "PIECES": 1}, ["-DNFAIR=4"], ["-a", "-f"]),
]


def check(sizes, build, options):
    """(whether it holds, what the checker printed)."""
    with tempfile.TemporaryDirectory() as folder:
        defines = [f"-D{name}={value}" for name, value in sizes.items()]
        for command in (
            ["spin", *defines, "-a", str(MODEL)],
            ["cc", "-O2", "-w", "-DCOLLAPSE", *build, "-o", "pan", "pan.c"],
            ["./pan", "-m1000000", *options],
        ):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            printed = done.stdout + done.stderr
            if done.returncode:
                return False, printed
        return "errors: 0" in printed and "search not completed" not in printed.lower(), printed


def main():
    if not (shutil.which("spin") and shutil.which("cc")):
        print("skipped: no spin, or no C compiler, on this machine")
        return 0
    red = 0
    for what, sizes, build, options in CHECKS:
        good, printed = check(sizes, build, options)
        states = re.search(r"(\S+) states, stored", printed)
        named = ", ".join(f"{value} {name.lower()}" for name, value in sizes.items() if name != "SPURIOUS")
        named += ", futexes that wake by themselves" * ("SPURIOUS" in sizes)
        print(f"{'ok' if good else 'FAILED':8} {what}: {named}; {states[1] if states else '?'} states", flush=True)
        if not good:
            print(printed)
            red = 1
    return red


if __name__ == "__main__":
    sys.exit(main())
