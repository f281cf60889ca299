"""How many threads a call may use."""

import math
import operator
import os
import sys
import threading
from contextlib import contextmanager

from fastgate import _kernels


def set_num_threads(threads):
    """Use at most `threads` threads for a call from now on, in the whole process.

    threads : int >= 1. Whatever is set, a call uses no more threads than the CPUs that its thread may run on and the
    container's CPU quota allow, no more than are worth while at its sizes, and one while another call is using the
    others. Results have the same bits for every number. At import: the environment variable FASTGATE_NUM_THREADS,
    else OMP_NUM_THREADS, else all CPUs. A number below 1 is a ValueError, no integer a TypeError.
    """
    try:
        threads = operator.index(threads)
    except TypeError:
        raise TypeError(f"threads: expected an integer, got {type(threads).__name__}") from None
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    _kernels.set_num_threads(min(threads, cpu_limit()))


def get_num_threads():
    """The most threads that a call uses."""
    return _kernels.get_num_threads()


@contextmanager
def num_threads(threads):
    """`with num_threads(1): …` sets the number of threads, and in the end the one before. It holds for the whole
    process, as set_num_threads does."""
    before = get_num_threads()
    set_num_threads(threads)
    try:
        yield
    finally:
        _kernels.set_num_threads(before)


def cpu_limit():
    """CPUs that this process may use: by its affinity, and by the quota of its cgroup (version 1 or 2), rounded up."""
    quota = min((q for q in (_quota_v2(), _quota_v1()) if q is not None), default=_kernels.cpus())
    return max(1, min(_kernels.cpus(), math.ceil(quota)))


def _quota_v2():
    """The least `cpu.max` from the cgroup of this process up to the root, in CPUs; None: no limit."""
    return min(_quotas("/sys/fs/cgroup", _cgroup(""), lambda folder: _words(f"{folder}/cpu.max")), default=None)


def _quota_v1():
    """The same by version 1; inside a container the path may not exist, then the root counts."""

    def words(folder):
        return _words(f"{folder}/cpu.cfs_quota_us") + _words(f"{folder}/cpu.cfs_period_us")

    return min(_quotas("/sys/fs/cgroup/cpu", _cgroup("cpu"), words), default=None)


def _quotas(root, path, words):
    """The quotas of the cgroup at `path` and of those above it; words(folder): quota and period, in microseconds."""
    names = [] if path is None else path.strip("/").split("/")
    for depth in range(len(names), -1, -1) if path is not None else ():
        numbers = [_positive(word) for word in words("/".join([root, *filter(None, names[:depth])]))]
        if len(numbers) == 2 and all(numbers):
            yield numbers[0] / numbers[1]


def _cgroup(controller):
    """The path of this process's cgroup under a controller of version 1, or "" for version 2."""
    for line in _lines("/proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(",") if controller else (number, controllers) == ("0", ""):
            return path
    return None


def _lines(path):
    try:
        with open(path, encoding="utf-8") as lines:
            return lines.read().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _words(path):
    lines = _lines(path)
    return lines[0].split() if lines else []


def _positive(word):
    """The number > 0 that a word spells, or None."""
    try:
        number = int(word)
    except ValueError:  # of too many digits, too
        return None
    return number if number > 0 else None


def _from_environment():
    """The number that the environment asks for; OMP_NUM_THREADS may hold a list, of which the first counts."""
    for name in ("FASTGATE_NUM_THREADS", "OMP_NUM_THREADS"):
        if (number := _positive(os.environ.get(name, "").split(",")[0])) is not None:
            return number
    return sys.maxsize


def register_controller():
    """Make threadpoolctl see and limit fastgate's threads: threadpool_info() then lists them, threadpool_limits()
    sets them. Done at import where threadpoolctl was imported before; call it where it comes later."""
    import threadpoolctl

    class Controller(threadpoolctl.LibController):
        user_api = "fastgate"
        internal_api = "fastgate"
        filename_prefixes = ("_kernels",)
        check_symbols = ("fg_get_num_threads", "fg_set_num_threads")

        def get_num_threads(self):
            return self.dynlib.fg_get_num_threads()

        def set_num_threads(self, num_threads):
            set_num_threads(max(1, num_threads))

        def get_version(self):
            from fastgate._version import __version__

            return __version__

    threadpoolctl.register(Controller)


_kernels.set_num_threads(min(_from_environment(), cpu_limit()))
_kernels._set_main_thread(threading.main_thread().ident)  # which may not be the one that imports
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _kernels._set_main_thread(threading.get_ident()))
if "threadpoolctl" in sys.modules:
    register_controller()
