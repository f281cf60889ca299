"""The small C files of this folder, compiled on demand for this very CPU and kept in build/bench/."""

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "bench"
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")


@cache
def load(source: str, *flags: str) -> ctypes.CDLL:
    """`source` of this folder as a library, or OSError with the reason why there is none."""
    compiler = (*shlex.split(os.environ.get("CC", "cc")), *FLAGS, *flags)
    text = (HERE / source).read_text(encoding="utf-8")
    digest = hashlib.sha256(repr((text, compiler, platform.processor(), os.uname())).encode()).hexdigest()
    library = BUILD / f"{Path(source).stem}-{digest[:12]}.so"
    if not library.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        unfinished = library.with_suffix(f".{os.getpid()}")
        done = subprocess.run([*compiler, str(HERE / source), "-o", str(unfinished)], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{source} does not compile: {next(iter(done.stderr.splitlines()), compiler[0])}")
        unfinished.replace(library)
    return ctypes.CDLL(str(library))
