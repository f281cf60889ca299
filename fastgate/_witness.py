"""Watches the ranks of one machine, from a process of its own: `python _witness.py rank:process:pipe …`.

Most launchers kill all ranks as soon as one dies, faster than another could say which one it was. This process is in a
session of its own, outlives them, and says it. Then it ends with the status SPOKEN, by which the ranks that are left know. An
"x" on standard input sends it home without a word. When it has begun to watch it writes a byte to standard output.

Each rank holds the writing end of a pipe, of whose reading end `pipe` is the number. A rank that leaves the block writes a
byte; one that dies closes the pipe without. Linux closes the files of a dying process, the highest number first, and only when
all its threads are gone is it dead. The pipe has a high number; so a launcher, which has a socket to the rank or waits for its
death, hears of it after this pipe is closed, and the ranks that it kills then close theirs later still. Deaths alone have no
such order: a rank that was killed first may have been the last to die. They tell where a pipe does not: a process that the
rank forked may hold it open.
"""

import os
import select
import sys

SPOKEN = 3


def watch(ranks: list[list[str]]) -> int:
    """ranks: [rank, process, pipe] of each. epoll tells what happened in the order in which it happened. Returns the status."""
    events, pipes, deaths = select.epoll(), {}, {}
    for rank, process, pipe in ranks:
        try:
            fd = os.open(f"/proc/{process}/fd/{pipe}", os.O_RDONLY | os.O_NONBLOCK)
        except OSError:  # it died before, or /proc is not there or may not be read
            pass
        else:
            pipes[fd] = rank, process
            events.register(fd, select.EPOLLIN)
        try:
            fd = os.pidfd_open(int(process))
        except ProcessLookupError:
            return spoken(rank, process)
        deaths[fd] = rank, process
        events.register(fd, select.EPOLLIN)
    events.register(0, select.EPOLLIN)
    os.write(1, b"r")
    left: set[tuple[str, str]] = set()
    is_alone = False
    while not (is_alone and len(left) == len(ranks)):
        for fd, event in events.poll():
            if fd in pipes and event & select.EPOLLIN:
                left.add(pipes[fd])
                events.unregister(fd)
            elif fd != 0:
                who = pipes.get(fd) or deaths[fd]
                if who not in left:
                    return spoken(*who)
                events.unregister(fd)
            elif os.read(0, 1) == b"x":
                return 0
            else:
                is_alone = True  # the rank that started this process died, or left in haste; its pipe tells
                events.unregister(0)
    return 0


def spoken(rank: str, process: str) -> int:
    os.write(2, f"fastgate.parallel: rank {rank} (process {process}) died; the run ends here\n".encode())
    return SPOKEN


if __name__ == "__main__":
    sys.exit(watch([word.split(":") for word in sys.argv[1:]]))
