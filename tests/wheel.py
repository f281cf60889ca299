"""Run by `make wheel` inside a fresh environment that has the wheel: what a user gets who installs it.

python wheel.py fastgate-….whl
"""

import subprocess
import sys
import zipfile
from pathlib import Path

LARGEST = 1.25e6  # bytes
IMPORT_ADDS = 30.0  # milliseconds to `import numpy`
RUNS = 15
TIMED = """
import numpy, time
start = time.perf_counter()
import fastgate
print(1e3 * (time.perf_counter() - start))
"""


def main():
    wheel = Path(sys.argv[1])
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for needed in ("fastgate/py.typed", "fastgate/lstm.pyi", "fastgate/reference/lstm.py", "fastgate/demo/train.py"):
        assert needed in names, f"{needed} is not in the wheel"
    strangers = {name.split("/")[0] for name in names} - {"fastgate"}
    assert all(name.endswith(".dist-info") for name in strangers), f"in the wheel: {strangers}"
    sources = [name for name in names if name.endswith((".c", ".inc", ".pyx"))]
    assert not sources, f"in the wheel: {sources}"
    size = wheel.stat().st_size
    assert size <= LARGEST, f"{size} bytes, at most {LARGEST:.0f}"

    import fastgate

    assert Path(fastgate.__file__).is_relative_to(sys.prefix), fastgate.__file__
    fastgate.show_config()

    command = [sys.executable, "-c", TIMED]
    times = sorted(float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(RUNS))
    best, middle = times[0], times[RUNS // 2]
    print(f"{wheel.name}: {size / 1e6:.2f} MB; import adds {middle:.1f} ms to numpy's (best {best:.1f} of {RUNS})")
    assert best <= IMPORT_ADDS, f"import: {best} ms, at most {IMPORT_ADDS}"


if __name__ == "__main__":
    main()
