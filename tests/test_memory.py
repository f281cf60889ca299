"""memory=: the same gradients bit for bit within so many bytes, for the work that is reported.

FASTGATE_CASES sets how many calls are drawn per cell, option and dtype. tests/test_threads.py draws budgets, too.
"""

import itertools
import os
import re
import subprocess
import sys
import time
from functools import cache as once

import numpy as np
import pytest
from support import CELLS, KINDS, VARIANTS, assert_same, digest, each, prepare, random_call, run, upstream, variant_id

import fastgate
from fastgate import _checkpoints, _kernels

CASES = int(os.environ.get("FASTGATE_CASES", "96")) // 8
SIZES = [  # N, T, D, H
    (1, 1, 3, 4), (3, 5, 4, 6), (2, 40, 5, 17), (7, 33, 9, 16),
    (33, 30, 8, 15), (5, 300, 3, 7), (1, 700, 2, 8), (9, 90, 33, 31),
]  # fmt: skip
variants = pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=map(variant_id, VARIANTS))
dtypes = each("dtype", [np.float32, np.float64])
lstm = next(cell for cell in CELLS if cell.name == "lstm")


def least_bytes(call, **keywords):
    """The bytes that the error of a hopeless call asks for."""
    with pytest.raises(ValueError, match=r"^memory: expected at least \d+ bytes for N, T, D, H = .*, got 1; ") as error:
        call(memory=1, **keywords)
    return int(re.search(r"least (\d+)", str(error.value))[1])


# --- the same bits -----------------------------------------------------------------------------------------------


@variants
@dtypes
def test_gradients_are_those_of_the_full_run(cell, options, dtype):
    """Sequences and ragged rows, both directions, budgets from the least on; a second backward on the same cache."""
    rng = np.random.default_rng(3)
    for i in range(CASES):
        N, T, D, H = SIZES[i % len(SIZES)]
        call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype)
        gradients, lengths = upstream(cell, rng, call), rng.integers(0, T + 1, N)
        keywords = dict(options) | {"reverse": bool(rng.integers(2))}
        ragged = bool(rng.integers(2) and lengths.any())
        if ragged:
            rows = np.arange(T) < lengths[:, None]
            call["x"], gradients["dh"] = call["x"][rows], gradients["dh"][rows]
            keywords["offsets"] = np.append(0, lengths.cumsum())
        elif rng.integers(2) and lengths.any():
            keywords["lengths"] = lengths
        forward = cell.function(fastgate, "ragged_forward" if ragged else "forward")
        backward = cell.function(fastgate, "ragged_backward" if ragged else "backward")
        expected = run(cell, fastgate, call, gradients, ragged=ragged, **keywords)
        least = least_bytes(forward, **call, **keywords)
        for share in (1, 1.02, 1.3, 4):
            found = forward(memory=int(least * share), **call, **keywords)
            once, again = (backward(cache=found.cache, **gradients)._asdict() for _ in range(2))
            assert_same(once, again)
            assert_same(found._asdict() | once, expected, expected)


@pytest.mark.parametrize(("cell", "options"), KINDS, ids=map(variant_id, KINDS))
def test_prepared_cells_and_some_gradients(cell, options):
    rng = np.random.default_rng(4)
    call = random_call(cell, rng, N=5, T=200, D=7, H=33, dtype=np.float32)
    gradients = upstream(cell, rng, call)
    expected = run(cell, fastgate, call, gradients, **dict(options))
    prepared, left = prepare(cell, call, **dict(options))
    found = prepared.forward(**left, memory=least_bytes(prepared.forward, **left))
    assert found.cache.recomputed >= 1
    backward = cell.function(fastgate, "backward")
    assert_same(found._asdict() | backward(cache=found.cache, **gradients)._asdict(), expected, expected)
    for name in expected:
        if name.startswith("d"):
            some = backward(cache=found.cache, **gradients, need=(name,))._asdict()
            assert [other for other, a in some.items() if a is not None] == [name]
            assert_same(some, expected, [name])
    for missing in gradients:
        given = {name: a for name, a in gradients.items() if name != missing}
        whole = run(cell, fastgate, call, {missing: None} | given, **dict(options))
        some = backward(cache=found.cache, **{"dh": None} | given)._asdict()
        assert_same(some, whole, some)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_budget_from_the_least_on_is_enough(threads):
    """However large the pieces in which the allocator hands memory out; more of it never means more work."""
    call = random_call(lstm, np.random.default_rng(12), N=16, T=300, D=1, H=66)
    _kernels._share_everything(threads > 1)
    _kernels.set_num_threads(threads)
    try:
        least = least_bytes(fastgate.lstm_forward, **call)
        caches = [fastgate.lstm_forward(**call, memory=int(least * share)).cache for share in np.linspace(1, 1.5, 60)]
        recomputed = [cache.recomputed for cache in caches]
        assert recomputed == sorted(recomputed, reverse=True)
    finally:
        _kernels._share_everything(False)
        _kernels.set_num_threads(1)


def test_no_state_of_the_caller_is_needed_again():
    """The first states are kept, x and the weights are referred to, as without memory=."""
    rng = np.random.default_rng(5)
    call = random_call(lstm, rng, N=3, T=900, D=4, H=9)
    gradients = upstream(lstm, rng, call)
    expected = run(lstm, fastgate, call, gradients)
    found = fastgate.lstm_forward(**call, memory=least_bytes(fastgate.lstm_forward, **call))
    assert found.cache.recomputed >= 1
    before = digest(call["x"], call["Wx"], call["Wh"])
    for array in (call["h0"], call["c0"], found.h, found.h_T, found.c_T):
        array[...] = np.nan
    back = fastgate.lstm_backward(cache=found.cache, **gradients)._asdict()
    assert_same(back, expected, back)
    assert digest(call["x"], call["Wx"], call["Wh"]) == before


@pytest.mark.parametrize(("N", "T", "lengths"), [(0, 5, None), (3, 0, None), (3, 5, [0, 0, 0])])
def test_nothing_to_keep(N, T, lengths):
    call = random_call(lstm, np.random.default_rng(6), N=3, T=5)
    call = call | {"x": call["x"][:N, :T], "h0": call["h0"][:N], "c0": call["c0"][:N]}
    gradients = {"dh": None, "dh_T": call["h0"] * 2, "dc_T": call["c0"] * 3}
    expected = run(lstm, fastgate, call, gradients, lengths=lengths)
    assert_same(run(lstm, fastgate, call, gradients, lengths=lengths, memory=10**6), expected)


# --- bytes and work ----------------------------------------------------------------------------------------------


@dtypes
def test_more_memory_is_less_work(dtype):
    call = random_call(lstm, np.random.default_rng(7), N=4, T=5000, D=5, H=40, dtype=dtype)
    whole = fastgate.lstm_forward(**call).cache
    assert whole.recomputed == 0
    least = least_bytes(fastgate.lstm_forward, **call)
    assert least < whole.nbytes
    caches = [fastgate.lstm_forward(**call, memory=int(least * share)).cache for share in (1, 1.1, 1.3, 1.6, 2, 3, 100)]
    assert all(more.recomputed <= less.recomputed for less, more in itertools.pairwise(caches))
    assert caches[0].recomputed > 1
    assert 1 <= caches[-2].recomputed < 2
    assert caches[-1].recomputed == 0
    assert all(cache.nbytes <= whole.nbytes for cache in caches)


def test_the_error_names_a_budget_for_little_work():
    call = random_call(lstm, np.random.default_rng(12), N=4, T=5000, D=5, H=40, dtype=np.float32)
    with pytest.raises(ValueError, match=r"; with \d+ backward runs the steps of forward at most twice again$") as error:
        fastgate.lstm_forward(**call, memory=1)
    least, modest = (int(re.search(words, str(error.value))[1]) for words in (r"least (\d+)", r"with (\d+)"))
    assert least < modest < fastgate.lstm_forward(**call).cache.nbytes
    assert fastgate.lstm_forward(**call, memory=least).cache.recomputed > 2
    assert 1 <= fastgate.lstm_forward(**call, memory=modest).cache.recomputed <= 2


def test_a_budget_counts_the_floats_that_bools_become():
    N, T, H = 4, 500, 24
    call = random_call(lstm, np.random.default_rng(12), N=N, T=T, D=5, H=H)
    bools = np.random.default_rng(3).random((N, T, H)) < 0.3
    least = []
    for masks in (
        {"zoneout_h": bools, "zoneout_c": 0.5},
        {"zoneout_h": bools.astype(float), "zoneout_c": 0.5},
        {"zoneout_h": np.broadcast_to(bools[:, :1], (N, T, H)), "zoneout_c": 0.5},
    ):
        with pytest.raises(ValueError, match=r"^memory: expected at least \d+ bytes") as error:
            fastgate.lstm_forward(**call, **masks, memory=1)
        least.append(int(re.search(r"least (\d+)", str(error.value))[1]))
        assert fastgate.lstm_forward(**call, **masks, memory=least[-1]).cache.recomputed > 1
        with pytest.raises(ValueError, match=r"^memory: expected at least"):
            fastgate.lstm_forward(**call, **masks, memory=least[-1] - 1)
    assert (least[0] - least[1], least[2] - least[1]) == (N * T * H * 8, N * H * 8)


@once
def passed(n, places):
    """Segments passed to reverse n of them by the best of all schedules, the first pass included; by brute force."""
    if n <= 1 or places == 1:
        return n * (n - 1) // 2
    return min(m + passed(n - m, places - 1) + passed(m, places) for m in range(1, n))


@pytest.mark.parametrize("checkpoints", [0, 1, 2, 3, 5, 9])
def test_the_work_reported_is_nearly_the_least(checkpoints):
    """With one step a segment: every step once, and what is passed but for the first pass, which forward does."""
    for T in (1, 2, 3, 5, 8, 13, 30, 47):
        call = random_call(lstm, np.random.default_rng(8), N=1, T=T)
        run_ = fastgate.lstm_forward(**call).cache._run
        _, steps = run_.needs(1, min(checkpoints, T - 1))
        best = passed(T, min(checkpoints, T - 1) + 1)
        assert T + best - (T - 1) * (checkpoints > 0) <= steps <= T + best


@pytest.mark.parametrize("T", [1, 2, 7, 33, 1000, 10**6])
def test_plans(T):
    """With made-up sizes: 1000 bytes, 10 a step that is kept, 3 a state."""

    class Call:
        N, D, H = 1, 1, 1

    def needs(segment, checkpoints):
        segments = -(-T // segment) if segment else 0
        assert not segment or 0 <= checkpoints < max(segments, 1)
        return 1000 + 10 * (segment or T) + 3 * checkpoints, segments / (checkpoints + 1) * T if segment else 0.0

    Call.T = T
    for memory in (1000, 1009):
        Call.memory = memory
        with pytest.raises(ValueError, match="memory: expected at least 1010 bytes"):
            _checkpoints.choose(Call, needs)
    for memory in (1010, 1100, 3000, 10**5, 10**8):
        Call.memory = memory
        plan = _checkpoints.choose(Call, needs)
        assert plan.nbytes <= memory
        assert (plan.segment == 0) == (1000 + 10 * T <= memory)
        assert plan.checkpoints <= _checkpoints.MOST


@pytest.mark.parametrize("page", [1, 64, 2000])
def test_the_plan_is_the_best_that_fits(page):
    """Whatever the pages in which memory is handed out: one state may take a page more, or none."""

    class Call:
        N, T, D, H, memory = 1, 1000, 1, 1, 0

    def needs(segment, checkpoints):
        nbytes = 1000 + 10 * (segment or Call.T) + 30 * checkpoints
        return -(-nbytes // page) * page, -(-Call.T // segment) / (checkpoints + 1) * Call.T if segment else 0.0

    for Call.memory in (2000, 3000, 4000, 5999, 6000, 8000):
        plans = [needs(size, n) for size in _checkpoints._segments(Call.T) for n in range(min(256, -(-Call.T // size)))]
        plan = _checkpoints.choose(Call, needs)
        assert plan.nbytes <= Call.memory
        assert plan.recomputed == min(recomputed for nbytes, recomputed in plans if nbytes <= Call.memory)


def test_a_budget_of_many_steps_is_refused_at_once():
    """Before the work of a plan is counted segment by segment, which would take as long as the call."""
    x, W = np.broadcast_to(np.float32(1), (1, 10**8, 1)), np.ones((1, 1), np.float32)
    start = time.perf_counter()
    with pytest.raises(ValueError, match="memory: expected at least"):
        fastgate.rnn_forward(x, None, W, W, memory=1, return_sequences=False)
    assert time.perf_counter() - start < 2


def growth(share):
    """Prints the bytes asked for, those that were let, and by how much the process grew. Run in a process of its own."""
    rng = np.random.default_rng(9)
    N, T, D, H = 16, 1500, 32, 96
    call = random_call(lstm, rng, N=N, T=T, D=D, H=H, dtype=np.float32)
    dh = rng.standard_normal((N, T, H), dtype=np.float32)
    h, dx = np.ones((N, T, H), np.float32), np.ones((N, T, D), np.float32)
    few = {name: a[:, :2] if name == "x" else a for name, a in call.items()}
    fastgate.lstm_backward(dh[:, :2], fastgate.lstm_forward(**few).cache)  # code and small arrays are there
    whole = _kernels.Run(*_whole(call)).needs(0, 0)[0]
    memory = int(whole * float(share))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = peak()
    found = fastgate.lstm_forward(**call, out={"h": h}, memory=memory)
    fastgate.lstm_backward(dh, found.cache, out=dx)
    print(memory, peak() - before, found.cache.recomputed)


def _whole(call):
    from fastgate import _arguments, _call

    judged = _arguments.forward("lstm", **{"b": None, "bh": None} | call, step=False, gates="ifgo", has_c=True, memory=10**9)
    return _kernels.CELLS["lstm"], judged, _call.PLAIN, None, judged.N * judged.T


def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no peak of memory to be read here")
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer keeps what is freed")
@pytest.mark.parametrize("share", [1.0, 0.5, 0.25, 0.15])
def test_the_process_grows_no_further(share):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, __file__, str(share)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
    memory, grown, recomputed = map(float, printed.split())
    assert (recomputed > 0) == (share < 1)
    assert grown <= memory + 2**20  # Python's own


# --- bad calls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "error", "words"),
    [
        (0, ValueError, r"memory: expected an integer > 0 \(bytes\) or None, got 0"),
        (-5, ValueError, "got -5"),
        (True, TypeError, r"memory: expected an integer > 0 \(bytes\) or None, got bool"),
        (1e9, TypeError, "got float"),
        ("1 GB", TypeError, "got str"),
        (100, ValueError, r"memory: expected at least \d+ bytes for N, T, D, H = 3, 5, 4, 6, got 100"),
    ],
)
@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_budgets_that_are_none(cell, memory, error, words):
    call = random_call(cell, np.random.default_rng(10))
    before = digest(call)
    out = np.full((3, 5, 6), 7.0)
    prepared, left = prepare(cell, call)
    for function, arguments in ((cell.function(fastgate, "forward"), call), (prepared.forward, left)):
        with pytest.raises(error, match=words):
            function(**arguments, memory=memory, out=out)
    assert digest(call) == before
    assert (out == 7).all()


def test_a_call_that_keeps_nothing_has_no_budget():
    call = random_call(lstm, np.random.default_rng(11))
    with pytest.raises(ValueError, match="memory: expected None with training=False, got 1000000"):
        fastgate.lstm_forward(**call, training=False, memory=10**6)


if __name__ == "__main__":
    growth(sys.argv[1])
