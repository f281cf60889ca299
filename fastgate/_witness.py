"""Watches the ranks of one machine, from a process of its own: `python _witness.py rank:process …`.

Most launchers kill all ranks as soon as one dies, faster than another could say which one it was. This process is in a
session of its own, outlives them, and says it. Then it ends with status 1, by which the ranks that are left know. An "x" on
standard input sends it home without a word.
"""

import os
import select
import sys

SPOKEN = 1


def watch(ranks: dict[int, tuple[str, str]]) -> int:
    """Returns the exit status. ranks: {descriptor of a process: (rank, process)}. epoll tells what happened in the order in which it happened."""
    events = select.epoll()
    for fd in (0, *ranks):
        events.register(fd, select.EPOLLIN)
    while True:
        for fd, _ in events.poll():
            if fd in ranks:
                rank, process = ranks[fd]
                os.write(2, f"fastgate.parallel: rank {rank} (process {process}) died; the run ends here\n".encode())
                return SPOKEN
            if os.read(0, 1) == b"x":
                return 0
            events.unregister(0)  # the rank that started this process died; its own descriptor tells


if __name__ == "__main__":
    words = [word.split(":") for word in sys.argv[1:]]
    sys.exit(watch({os.pidfd_open(int(process)): (rank, process) for rank, process in words}))
