"""Compiles csrc/ with each compiler at hand, runs selftest.c at every level, and compares what comes out.

    python tests/selftest.py                 gcc, clang, and aarch64 under qemu
    python tests/selftest.py aarch64         one of them
    python tests/selftest.py --sanitize address gcc    with AddressSanitizer and UndefinedBehaviorSanitizer
    python tests/selftest.py --sanitize thread clang   with ThreadSanitizer
    … --objects build/sanitize/objects/csrc            the kernels not compiled but linked from there

Every level with FMA must print the same hash, on x86-64 and on arm64, whoever compiled it: nothing in the core may depend on
the compiler, its optimisation, or the width of a vector. A compiler that is not there is skipped, with a line that says so.
The program runs alone and, but under qemu, with 3 threads for every call and several callers at once; with a sanitizer, only
so, and the team of threads is exercised by itself, too (team_stress.c). ThreadSanitizer sees the best level only. Flags come
from setup.py, but for -O1, which compiles in less time; warnings are errors.
"""

import argparse
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = runpy.run_path(str(ROOT / "setup.py"))
MACHINE = platform.machine()
BITS = (32, 64)
SANITIZERS = {
    None: [],
    "address": ["-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-g1", "-fsanitize=thread"],
}
STRESS_SECONDS = "8"


def levels_here():
    """The levels that this CPU has."""
    from fastgate import _kernels

    return {level: BUILD["LEVELS"][level] for level in _kernels.LEVELS}


def links(name, sanitizers):
    """Whether a compiler has the libraries of sanitizers: on Debian, those of clang are a package of their own."""
    command = [name, *sanitizers, "-x", "c", "-", "-o", os.devnull]
    return not subprocess.run(command, input=b"int main(void) { return 0; }", capture_output=True, check=False).returncode


def compilers(sanitizers):
    """name -> command, levels, how to run a program; or the reason why not."""
    found = {}
    for name in ("gcc", "clang"):
        found[name] = ([name], levels_here(), []) if shutil.which(name) else f"no {name} on this machine"
        if shutil.which(name) and not links(name, sanitizers):
            found[name] = f"{name} links no program with {' '.join(sanitizers) or 'its library'} on this machine"
    cross, emulator = "aarch64-linux-gnu-gcc", shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if MACHINE in ("aarch64", "arm64"):
        found["aarch64"] = "this machine is one: see gcc"
    elif not (shutil.which(cross) and emulator):
        found["aarch64"] = f"no {cross} or no qemu-aarch64 on this machine"
    else:
        found["aarch64"] = ([cross, "-static"], {"baseline": []}, [emulator])
    return found


def common_flags():
    return [*("-O1" if flag == "-O2" else flag for flag in BUILD["COMPILE"]), "-Werror", "-I", str(ROOT / "csrc")]


def stress(name, command, sanitizer, folder):
    """Whether the team passed alone, and what the program printed."""
    program = str(Path(folder, f"{name}-stress"))
    sources = [str(ROOT / "tests/team_stress.c"), str(ROOT / "csrc/team.c")]
    arguments = [*common_flags(), *SANITIZERS[sanitizer], *sources, "-pthread", "-o", program]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        no_forks = ["no-fork"] if (name, sanitizer) == ("gcc", "thread") else []  # it cannot start threads in a child
        done = subprocess.run([program, STRESS_SECONDS, *no_forks], capture_output=True, text=True, check=False)
    return done.returncode == 0, "\n".join((done.stdout + done.stderr).strip().splitlines()[:60])


def run(name, command, flags, sanitizers, level, bits, runner, folder, objects):
    """(name, level, bits, hash or None, what the program printed)."""
    kernels, program = str(Path(objects or folder, f"isa_{level}_f{bits}.o")), str(Path(folder, f"{name}-{level}-{bits}"))
    common = common_flags()
    compiled = [*common, *flags, *sanitizers, "-c", str(ROOT / f"csrc/isa_{level}_f{bits}.c"), "-o", kernels]
    for arguments in (
        *([] if objects else [compiled]),
        [
            *common,
            f"-DISA={level}",
            f"-DDTYPE={bits}",
            str(ROOT / "tests/selftest.c"),
            str(ROOT / "csrc/team.c"),
            kernels,
            *sanitizers,
            "-lm",
            "-pthread",
            "-o",
            program,
        ],
    ):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            return name, level, bits, None, "\n".join(done.stderr.splitlines()[:20])
    found, words = set(), []
    for threads in ("1",) if runner else ("3",) if sanitizers else ("1", "3"):
        done = subprocess.run([*runner, program, threads], capture_output=True, text=True, check=False)
        found.add(done.stdout.split()[0] if done.stdout.split() and done.returncode == 0 else None)
        words.append((done.stdout + done.stderr).strip())
    if len(found) > 1 or None in found:
        return name, level, bits, None, "\n".join(words)
    return name, level, bits, found.pop(), words[0]


def main():
    parser = argparse.ArgumentParser(description="The C core without Python, at every level, by every compiler.")
    parser.add_argument("names", nargs="*", metavar="gcc|clang|aarch64", help="default: all")
    parser.add_argument("--sanitize", choices=("address", "thread"), help="with ASan and UBSan, or with TSan")
    parser.add_argument("--objects", metavar="FOLDER", help="that holds the kernels as setup.py has compiled them")
    chosen = parser.parse_args()
    if chosen.objects and len(chosen.names) != 1:
        parser.error("--objects: name the compiler that made them")
    os.environ["ASAN_OPTIONS"] = "detect_leaks=1"
    os.environ["TSAN_OPTIONS"] = "halt_on_error=1:die_after_fork=0"
    os.environ.pop("LD_PRELOAD", None)

    jobs, stresses = [], []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        sanitizers = SANITIZERS[chosen.sanitize]
        for name, found in compilers(sanitizers).items():
            if chosen.names and name not in chosen.names:
                continue
            if isinstance(found, str):
                print(f"skipped  {name:8} {found}")
                continue
            command, levels, runner = found
            if chosen.sanitize:
                stresses.append((name, pool.submit(stress, name, command, chosen.sanitize, folder)))
            for level, flags in list(levels.items())[: 1 if chosen.sanitize == "thread" else None]:
                for bits in BITS:
                    jobs.append(pool.submit(run, name, command, flags, sanitizers, level, bits, runner, folder, chosen.objects))

    red, hashes = 0, {}
    for job in jobs:
        name, level, bits, value, words = job.result()
        fma = level != "baseline" or name == "aarch64" or MACHINE in ("aarch64", "arm64")
        expected = hashes.setdefault((bits, fma), value)
        good = value is not None and value == expected
        red += not good
        print(f"{'ok' if good else 'FAILED':8} {name:8} {level:9} f{bits}  {words}{'' if good else f'  expected {expected}'}")
    for name, job in stresses:
        good, words = job.result()
        red += not good
        print(f"{'ok' if good else 'FAILED':8} {name:8} the team alone  {words}")
    return red > 0


if __name__ == "__main__":
    sys.exit(main())
