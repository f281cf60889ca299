"""The process that says which rank died, beside stand-ins for ranks: which of them it names, and when it is silent."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from fastgate import _witness, parallel

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open")

RANK = """
import os, sys, time
reading, writing = os.pipe()
print(reading, flush=True)
for line in sys.stdin:
    if line == "close\\n":  # as a dying process does before its last thread is gone
        os.close(writing)
    elif line == "leave\\n":
        os.write(writing, b"x")
    elif line == "fork\\n" and os.fork() == 0:
        os.closerange(0, 3)
        time.sleep(20)
        os._exit(0)
    print("done", flush=True)
"""
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


class Rank:
    """A process with the pipe that a rank has."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-I", "-S", "-c", RANK], start_new_session=True, **PIPES)
        self.pipe = int(self.process.stdout.readline())

    def does(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def dies(self):
        self.process.kill()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)  # its group stays until the end of the test


@pytest.fixture
def ranks():
    found = [Rank() for _ in range(3)]
    yield found
    for rank in found:
        os.killpg(rank.process.pid, signal.SIGKILL)  # with what it forked
        rank.process.communicate()


@contextmanager
def watched(words):
    """The witness of ranks in words; stopped in the block, so that it finds all that happened there at once."""
    command = [sys.executable, "-I", "-S", _witness.__file__, *words]
    witness = subprocess.Popen(command, stderr=subprocess.PIPE, **PIPES)
    if witness.stdout.read(1):
        witness.send_signal(signal.SIGSTOP)
    yield witness
    witness.send_signal(signal.SIGCONT)


def words_of(ranks):
    return [f"{k}:{rank.process.pid}:{rank.pipe}" for k, rank in enumerate(ranks)]


def assert_named(witness, ranks, k):
    _, err = witness.communicate(timeout=20)
    assert err == f"fastgate.parallel: rank {k} (process {ranks[k].process.pid}) died; the run ends here\n"
    assert witness.returncode == _witness.SPOKEN


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_first_to_close_its_pipe_is_named_whoever_is_dead_first(ranks, first):
    with watched(words_of(ranks)) as witness:
        ranks[first].does("close")
        for rank in (*ranks[:first], *ranks[first + 1 :], ranks[first]):
            rank.dies()
    assert_named(witness, ranks, first)


def test_a_rank_that_left_may_end(ranks):
    with watched(words_of(ranks)) as witness:
        ranks[0].does("leave")
        ranks[0].dies()
        ranks[2].dies()
        ranks[1].dies()
    assert_named(witness, ranks, 2)


def test_a_rank_whose_child_holds_the_pipe(ranks):
    ranks[1].does("fork")
    with watched(words_of(ranks)) as witness:
        ranks[1].dies()
    assert_named(witness, ranks, 1)


def test_a_pipe_that_cannot_be_seen(ranks):
    ranks[1].pipe = 999
    with watched(words_of(ranks)) as witness:
        ranks[1].dies()
    assert_named(witness, ranks, 1)


def test_a_rank_that_died_before(ranks):
    ranks[1].dies()
    with watched(words_of(ranks)) as witness:
        pass
    assert_named(witness, ranks, 1)


def test_it_goes_home_when_all_ranks_left_in_haste(ranks):
    """Its standard input is closed without the word that sends it home."""
    with watched(words_of(ranks)) as witness:
        witness.stdin.close()
        for rank in ranks:
            rank.does("leave")
    assert witness.wait(timeout=20) == 0
    assert witness.stderr.read() == ""
    witness.stdout.close()
    witness.stderr.close()


def test_a_pipe_has_a_number_above_those_of_sockets():
    """So that a dying rank closes it before its launcher hears of it."""
    reading, writing = parallel._pipe()
    try:
        os.write(writing, b"x")
        assert os.read(reading, 1) == b"x"
        assert writing >= 900
        assert not os.get_inheritable(writing)
    finally:
        os.close(reading)
        os.close(writing)


def test_it_goes_home_without_a_word(ranks):
    with watched(words_of(ranks)) as witness:
        ranks[0].does("leave")
    _, err = witness.communicate("x", timeout=20)
    assert (witness.returncode, err) == (0, "")
