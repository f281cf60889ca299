"""Watches the ranks of one machine, from a process of its own: `python _witness.py rank:process …`.

Most launchers kill all ranks as soon as one dies, faster than another could say which one it was. This process is in a
session of its own, outlives them, and says it. Then it ends with the status SPOKEN, by which the ranks that are left know. An
"x" on standard input sends it home without a word.
"""

import os
import select
import sys

SPOKEN = 3


def watch(ranks: dict[str, str]) -> int:
    """ranks: {rank: process}. epoll tells what happened in the order in which it happened. Returns the exit status."""
    events, names = select.epoll(), {}
    for rank, process in ranks.items():
        try:
            fd = os.pidfd_open(int(process))
        except ProcessLookupError:
            return spoken(rank, process)
        names[fd] = rank
        events.register(fd, select.EPOLLIN)
    events.register(0, select.EPOLLIN)
    while True:
        for fd, _ in events.poll():
            if fd in names:
                return spoken(names[fd], ranks[names[fd]])
            if os.read(0, 1) == b"x":
                return 0
            events.unregister(0)  # the rank that started this process died; its own descriptor tells


def spoken(rank: str, process: str) -> int:
    os.write(2, f"fastgate.parallel: rank {rank} (process {process}) died; the run ends here\n".encode())
    return SPOKEN


if __name__ == "__main__":
    sys.exit(watch(dict(word.split(":") for word in sys.argv[1:])))
