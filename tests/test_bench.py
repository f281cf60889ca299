"""The benchmark's own logic. Nothing here asserts a time."""

import gc
import itertools
import json
import math
import os
import re
import shutil
from ast import literal_eval
from dataclasses import replace

import numpy as np
import pytest

import fastgate
from bench import __main__ as command
from bench import (
    busy,
    cases,
    clip,
    compare,
    compiled,
    contenders,
    count,
    grid,
    machine,
    memory,
    process,
    report,
    run,
    timer,
    update_readme,
    values,
)
from bench.contenders import LOOP, OURS, PADDED, numpy_loop, ours, padded
from bench.record import Line, Measure, Memory, Record, largest_error, losses_first, mean_ratio, peers_of
from bench.timer import Ratio, Timing
from fastgate import reference

SHAPE = (3, 2, 5, 4)  # T, N, D, H
PEERS = [peer for peer in contenders.PEERS if peer != "numpy_loop"]


def measure(ratio, seconds=1e-3, error=1e-7):
    return Measure(seconds, error, 5, 10, Ratio(ratio, 0.9 * ratio, 1.1 * ratio))


def find(peer):
    found, skipped = contenders.find((peer,))
    if skipped:
        pytest.skip(skipped[peer])
    return found[0]


def begin(module, case):
    try:
        return contenders.begin(module, case, 1)
    except cases.Unsupported as reason:
        pytest.skip(str(reason))


def line(name, torch, ort=None, *, cell="lstm", what="forward", group="grid"):
    measures = {OURS: measure(1.0), "PyTorch": measure(torch, error=3e-7), LOOP: measure(9.0)}
    if ort is not None:
        measures["ONNX Runtime"] = measure(ort)
    shape = literal_eval(name) if group == "grid" else SHAPE
    return Line(group, name, cell, what, *shape, 10**6, 5e-4, measures, nbytes=10**6)


@pytest.fixture
def record():
    limits = {"FMA": 1e11, "L1": 2e11, "memory": 2e10}
    machine = {"cpu": "A CPU", "isa": "avx2", "cores": 2, "threads": [1], "limits": {"1": limits}, "measured_by": "peak.c"}
    settings = {"dtype": "float32", "caches": "warm", "clock": "wall", "budget": 1.0, "rows": ["grid"]}
    lines = [
        line("(3, 2, 5, 4)", 2.0, 4.0),
        line("(6, 2, 5, 4)", 0.5, 0.8),
        line("(9, 2, 5, 4)", 3.0, 0.9),
        line("(3, 2, 5, 4)", 8.0, what="training"),
        line("a model", 1.5, group="models"),
    ]
    return Record(machine, {OURS: "1.2", "PyTorch": "9.8"}, settings, lines)


# timer


def test_ratio_is_of_the_medians_and_its_spread_is_of_the_rounds():
    peer, ours_ = Timing([2.0, 4.0, 6.0, 8.0, 100.0], 1), Timing([1.0, 2.0, 2.0, 2.0, 50.0], 1)
    found = timer.ratio(peer, ours_)
    assert found.median == 3.0
    assert (found.low, found.high) == (2.0, 3.0)


def test_ratio_of_a_contender_that_left_early_uses_the_rounds_of_both():
    found = timer.ratio(Timing([10.0], 1), Timing([2.0, 1.0, 1.0], 1))
    assert found == Ratio(10.0, 5.0, 5.0)


def test_geometric_mean():
    assert timer.geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)
    assert math.isnan(timer.geometric_mean([]))


def test_measure_alternates_and_batches_tiny_calls():
    seen = []
    timings = timer.measure({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, budget=0.05)
    assert [len(timing.bursts) for timing in timings.values()] == [len(timings["a"].bursts)] * 2
    assert len(timings["a"].bursts) >= timer.MIN_ROUNDS
    assert timings["a"].calls > 100
    turns = sum(one != other for one, other in itertools.pairwise(seen))
    assert turns >= len(timings["a"].bursts)


def test_a_slow_contender_leaves_when_its_share_is_spent():
    clock = itertools.count()  # every look at it takes a second

    def slow():
        for _ in range(100):
            next(clock)

    timings = timer.measure({"fast": lambda: None, "slow": slow}, budget=0.0, clock=lambda: next(clock))
    assert len(timings["slow"].bursts) == 1
    assert len(timings["fast"].bursts) == timer.MIN_ROUNDS


def test_cold_calls_are_each_swept():
    events = []
    timer.measure({"a": lambda: events.append("call")}, budget=0.0, sweep=lambda: events.append("sweep"))
    timed = events[events.index("sweep") :]
    assert timed == ["sweep", "call"] * timer.MIN_ROUNDS


def test_garbage_collection_is_put_back_after_an_error():
    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        timer.measure({"a": fail}, budget=0.0)
    assert gc.isenabled()


# grid


def test_rows_are_groups_names_or_any_shape():
    assert len(grid.select(["grid"])) == 14
    assert len(grid.select(["grid", "models"])) == 23
    assert grid.select(["PTB small"])[0].shape == (20, 20, 200, 200)
    assert grid.select(["7,3,5,2", "7,3,5,2"])[0].shape == (7, 3, 5, 2)
    assert len(grid.select(["7,3,5,2", "7,3,5,2"])) == 1
    assert all(grid.select([group]) for group in grid.GROUPS)
    with pytest.raises(ValueError, match="expected grid"):
        grid.select(["7,3,5"])


def test_the_plan_has_each_call_once():
    plan = run.plan(grid.select(["grid", "training", "grid"]), ["lstm", "gru"], ["training"])
    assert len(plan) == 14 * 2
    plan = run.plan(grid.select(["clipping", "step", "RL step"]), ["lstm", "gru"], ["forward"])
    assert [cell for row, cell, _ in plan if row.group == "clipping"] == [""] * len(grid.LISTS)
    assert {(cell, what) for row, cell, what in plan if row.group == "step"} == {
        (cell, what) for cell in ("lstm", "gru") for what in ("step", "prepared")
    }
    assert [(cell, what) for row, cell, what in plan if row.group == "models"] == [("gru", "forward")]
    assert run.plan(grid.select(["RL step"]), ["lstm"], ["forward"]) == []


def test_scaling_varies_one_size():
    rows = grid.scaling()
    assert {row.N for row in rows if row.name.startswith("T")} == {grid.FIXED["N"]}
    assert all(row.D == row.H for row in rows)
    assert [row.T for row in rows if row.name.startswith("T")] == list(grid.VARIED["T"])


def test_every_row_makes_its_case():
    for group, rows in grid.GROUPS.items():
        row = rows()[0]._replace(T=3, N=2, D=5, H=4)
        for what in row.whats or (cases.FORWARD,):
            case = row.case(row.cell or "lstm", what, "float32")
            assert case.sizes[1:] == row.shape[1:], group
            assert (case.what, case.dtype) == (what, "float32")
            assert case.flops > 0
            assert case.nbytes >= case.reads_from > 0


def test_a_rest_lasts_until_no_thread_is_busy(monkeypatch):
    slept, used = [], iter([0.0, 0.03, 0.03, 0.05, 0.05, 0.051])  # before and after each pause: busy, busy, idle
    monkeypatch.setattr(timer.time, "sleep", slept.append)
    monkeypatch.setattr(timer.time, "process_time", lambda: next(used))
    timer.rest(0.03)
    assert slept == [0.03] * 3
    timer.rest(0.0)
    assert len(slept) == 3


# contenders


def lacks(module, cell, what):
    """Whether a cell has no prepared object."""
    return module is not numpy_loop and what == cases.PREPARED and not hasattr(fastgate, f"{cell.upper()}Cell")


@pytest.mark.parametrize("what", [cases.FORWARD, cases.PREPARED, cases.TRAINING])
@pytest.mark.parametrize("cell", cases.cells())
@pytest.mark.parametrize("ragged", [False, True])
def test_ours_and_the_loop_are_right_for_every_cell(cell, what, ragged):
    case = cases.make_case(cell, what, *SHAPE, ragged=ragged)
    expected = case.exact()
    assert set(expected) >= {"h"} | ({"h_T"} - {"h_T" * ragged}) | (set(cases.GRADIENTS) if case.training else set())
    for module in (ours, numpy_loop, *([padded] if ragged else [])):
        if lacks(module, cell, what):
            continue
        calls = module.prepare(case, 1)
        assert cases.check(module.NAME, case, calls.results(calls.call()), expected) < 1e-5


@pytest.mark.parametrize("what", [cases.STEP, cases.PREPARED])
@pytest.mark.parametrize("cell", cases.cells())
def test_one_step_is_right_for_every_cell(cell, what):
    case = cases.make_case(cell, what, 1, 3, 5, 4)
    for module in (ours, numpy_loop):
        if lacks(module, cell, what):
            with pytest.raises(cases.Unsupported, match="Cell"):
                module.prepare(case, 1)
            continue
        calls = module.prepare(case, 1)
        assert cases.check(module.NAME, case, calls.results(calls.call()), case.exact()) < 1e-5


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_prepared_step_is_that_of_the_object(cell, monkeypatch):
    class Cell:
        def __init__(self, *weights):
            self.weights = weights

        def step(self, *arrays):
            *states, _ = getattr(fastgate, f"{cell}_step_forward")(*arrays, *self.weights, training=False)
            return tuple(states) if len(states) > 1 else states[0]

    monkeypatch.setattr(fastgate, f"{cell.upper()}Cell", Cell, raising=False)
    case = cases.make_case(cell, cases.PREPARED, 1, 3, 5, 4)
    calls = ours.prepare(case, 1)
    assert cases.check(OURS, case, calls.results(calls.call()), case.exact()) < 1e-6


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("what", [cases.FORWARD, cases.TRAINING, cases.STEP])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.filterwarnings("ignore")  # the peers' own
def test_weights_reach_a_peer_in_its_own_conventions(peer, cell, what, ragged):
    T, *sizes = SHAPE
    case = cases.make_case(cell, what, 1 if what == cases.STEP else T, *sizes, ragged=ragged)
    calls = begin(find(peer), case)
    for _ in range(2):  # gradients are fresh at every call
        error = cases.check(peer, case, calls.results(calls.call()), case.exact())
    assert error < 1e-5


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.filterwarnings("ignore")
def test_a_peer_is_right_in_float64_or_says_that_it_has_none(peer):
    case = cases.make_case("gru", cases.FORWARD, *SHAPE, "float64")
    calls = begin(find(peer), case)
    assert cases.check(peer, case, calls.results(calls.call()), case.exact()) < 1e-13


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["ours", "numpy_loop", "pytorch"])
def test_clipping_scales_at_every_call(name, dtype):
    gradients = clip.make_gradients(3, 4, 5, dtype)
    before = gradients.copies()
    calls = begin(ours if name == "ours" else find(name), gradients)
    found = calls.results(calls.call())
    error = cases.check(name, gradients, found, gradients.exact())
    assert error < (1e-6 if dtype == "float32" or name == "pytorch" else 1e-14)  # PyTorch adds 1e-6 to the norm
    for _ in range(3):
        norm = float(calls.call())
        assert norm < found["norm"]
        found["norm"] = norm
    np.testing.assert_array_equal(gradients.arrays, before)


def test_no_cell_clips_and_not_every_contender():
    with pytest.raises(cases.Unsupported, match="clipping"):
        contenders.begin(padded, clip.make_gradients(1, 2, 2), 1)


@pytest.mark.parametrize("kind", values.VALUES)
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_adversarial_values_have_right_results(cell, kind):
    case = values.VALUES[kind](cases.make_case(cell, cases.TRAINING, 12, 2, 5, 4))
    expected = case.exact()
    calls = ours.prepare(case, 1)
    found = calls.results(calls.call())
    assert cases.check(OURS, case, found, expected) < (1e-2 if kind == "constant" else 3e-5)
    tiny = float(np.finfo(np.float32).tiny)
    if kind in ("subnormal", "decaying"):
        assert 0 < np.abs(expected["h"]).min() < tiny
    if kind == "zeros":
        assert not any(value.any() for value in expected.values())


def test_gates_are_reordered_as_the_reference_reads_them():
    case = cases.make_case("lstm", cases.FORWARD, *SHAPE)
    weights = [contenders.reorder_gates(w, case.gates, "iofg") for w in (case.Wx, case.Wh, case.b)]
    h = reference.lstm_forward(case.x, *case.states.values(), *weights, gate_order="iofg").h
    np.testing.assert_array_equal(h, numpy_loop.prepare(case, 1).call().h)
    assert not np.array_equal(weights[0], case.Wx)


def test_a_missing_peer_is_named_with_its_reason():
    found, skipped = contenders.find(("numpy_loop", "no_such_peer"))
    assert found == [numpy_loop]
    assert "no_such_peer" in skipped["no_such_peer"]


@pytest.mark.parametrize("harm", ["value", "nan", "shape", "missing"])
def test_a_wrong_result_is_an_error(harm):
    case = cases.make_case("gru", cases.TRAINING, *SHAPE)
    expected = case.exact()
    results = {name: value.astype(np.float32) for name, value in expected.items()}
    assert cases.check("peer", case, results, expected) < 1e-6
    if harm == "missing":
        del results["dWh"]
    elif harm == "shape":
        results["dWh"] = results["dWh"].T
    else:
        results["dWh"][1, 2] += np.nan if harm == "nan" else 1e-3 * np.abs(results["dWh"]).max()
    with pytest.raises(cases.WrongResult, match="peer"):
        cases.check("peer", case, results, expected)


def test_operations_of_a_case():
    T, N, D, H = SHAPE
    assert cases.make_case("gru", "forward", *SHAPE).flops == 2 * T * N * (D + H) * 3 * H
    assert cases.make_case("lstm", "training", *SHAPE).flops == 3 * 2 * T * N * (D + H) * 4 * H
    ragged = cases.make_case("lstm", "forward", *SHAPE, ragged=True)
    assert ragged.flops == 2 * ragged.lengths.sum() * (D + H) * 4 * H


def test_bytes_of_a_case():
    T, _, D, H = SHAPE
    forward = cases.make_case("lstm", "forward", *SHAPE)
    assert forward.nbytes == 4 * (D + T * H) * 4 * H
    assert forward.reads_from == 4 * H * 4 * H
    assert cases.make_case("lstm", "training", *SHAPE).nbytes == 2 * forward.nbytes + 4 * (D + H) * 4 * H
    assert clip.make_gradients(2, 3, 4).nbytes == 3 * 2 * 3 * 4 * 4


def test_upstream_gradients_stop_at_a_rows_length():
    case = cases.make_case("lstm", "training", 20, 8, 3, 4, ragged=True)
    assert (case.lengths >= 1).all()
    assert (case.lengths <= 20).all()
    for row, length in enumerate(case.lengths):
        assert case.dh[row, :length].all()
        assert not case.dh[row, length:].any()


# machine


@pytest.fixture(params=["compiler", "no compiler"])
def short_tries(request, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "MIN_TRIES", 1)
    monkeypatch.setattr(machine, "TRIES", 1)
    monkeypatch.setattr(machine, "LARGEST", 2**20)
    monkeypatch.setattr(compiled, "BUILD", tmp_path)
    cached = (compiled.load, machine.library, machine.fma_peak, machine.bandwidth)
    for function in cached:
        function.cache_clear()
    if request.param == "no compiler":
        monkeypatch.setenv("CC", "no-such-compiler")
    elif shutil.which("cc") is None:
        pytest.skip("no C compiler")
    yield request.param
    for function in cached:
        function.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_limits_are_measured_with_and_without_a_compiler(short_tries, dtype, capsys):
    for threads in (1, 2):
        found = machine.describe(threads, dtype)
        limits = found["limits"][str(threads)]
        assert list(limits) == ["FMA", *machine.caches(), "memory"]
        assert all(rate > 0 for rate in limits.values())
        assert found["measured_by"] == ("peak.c" if short_tries == "compiler" else "NumPy's products")
    assert ("no peak.c" in capsys.readouterr().err) == (short_tries == "no compiler")
    json.dumps(found)


def test_a_library_that_does_not_compile_says_why(tmp_path, monkeypatch):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    monkeypatch.setattr(compiled, "BUILD", tmp_path)
    monkeypatch.setattr(compiled, "HERE", tmp_path)
    (tmp_path / "wrong.c").write_text("this is not C")
    with pytest.raises(OSError, match=r"wrong\.c does not compile: .*error"):
        compiled.load("wrong.c")


def test_the_limit_of_a_call_is_the_later_of_two(monkeypatch):
    monkeypatch.setattr(machine, "caches", lambda: {"L1": 100, "L2": 1000})
    monkeypatch.setattr(machine, "fma_peak", lambda dtype, threads: 10.0 * threads)
    monkeypatch.setattr(machine, "bandwidth", lambda place, threads: {"L1": 8.0, "L2": 4.0, "memory": 2.0}[place])
    assert machine.limit(100, 40, 50, "float32") == (10.0, "FMA")
    assert machine.limit(100, 160, 50, "float32") == (20.0, "L1")
    assert machine.limit(100, 160, 500, "float32") == (40.0, "L2")
    assert machine.limit(100, 160, 5000, "float32") == (80.0, "memory")
    assert machine.limit(100, 160, 150, "float32", threads=2) == (20.0, "L1")  # each core has its own
    assert machine.limit(100, 160, 1500, "float32", threads=2) == (80.0, "memory")  # the last is shared


# processes, threads, memory


def test_a_fresh_process_starts_with_its_threads():
    before = dict(os.environ)
    for threads in (1, 3):
        assert process.fresh(threads, os.getenv, "OMP_NUM_THREADS") == str(threads)
    assert dict(os.environ) == before
    assert process.fresh(1, os.getpid) != os.getpid()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="CPUs cannot be chosen here")
def test_a_busy_machine_has_a_row_for_each_situation(tmp_path, capsys):
    cpus, threads, file = os.sched_getaffinity(0), fastgate.get_num_threads(), tmp_path / "busy.json"
    busy.main(["--rows", "3,1,4,5", "--cells", "gru", "--calls", "3", "--threads", "2", "--out", str(file)])
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert [row["situation"] for row in rows] == list(busy.SITUATIONS)
    assert all(row["ratio"] == row["all_threads"] / row["one_thread"] for row in rows)
    assert all(row["longest"] >= row["median"] > 0 for row in rows)
    assert rows[0]["ratio"] == rows[0]["ratio_of_free"]
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(rows)
    assert (os.sched_getaffinity(0), fastgate.get_num_threads()) == (cpus, threads)


def test_memory_of_a_call_holds_at_least_its_results():
    if reason := memory.unavailable():
        pytest.skip(reason)
    shape = (100, 16, 64, 64)
    found = memory.measure(shape, "lstm", "training", "float32", 1, ["numpy_loop"])
    assert list(found.peaks) == [OURS, LOOP]
    assert found.results > 4 * 2 * 100 * 16 * 64  # h and dx
    assert found.peaks[OURS] > 0.8 * found.results
    assert found.peaks[OURS] < 100 * found.results


# a whole run, with tiny budgets


def arguments(tmp_path, *words):
    return [*words, "--budget", "0.001", "--json", str(tmp_path / "record.json")]


@pytest.fixture
def quick(monkeypatch):
    """A run in this process: no limits measured, short bursts."""
    rates = {"FMA": 1e11, "L1": 2e11, "L2": 1e11, "L3": 5e10, "memory": 1e10}
    monkeypatch.setattr(machine, "fma_peak", lambda *_: rates["FMA"])
    monkeypatch.setattr(machine, "bandwidth", lambda place, *_: rates[place])
    monkeypatch.setattr(machine, "caches", lambda: {"L1": 2**15, "L2": 2**20, "L3": 2**25})
    monkeypatch.setattr(timer, "BURST", 1e-4)
    monkeypatch.setattr(run, "PAUSE", 0.0)

    def quickly(tmp_path, *words):
        chosen = command.options(arguments(tmp_path, *words))
        return run.run(chosen, 1)

    return quickly


def test_a_run_of_every_kind_of_row(quick, tmp_path, monkeypatch, capsys):
    for name, rows in (
        ("STEPS", [(1, 1, 8, 8)]), ("RAGGED", [(5, 3, 8, 8)]), ("LISTS", [(3, 4, 4)]), ("MAP", [(2, 2, 8, 8), (2, 4, 8, 8)]),
        ("ODD_SHAPES", {(3, 2, 4, 4): ("normal", "subnormal")}), ("PEAKS", []),
    ):  # fmt: skip
        monkeypatch.setattr(grid, name, rows)
    words = "step ragged clipping map values memory 3,2,5,4 --cells lstm --peers numpy_loop no_such_peer".split()
    record = quick(tmp_path, "--rows", *words)
    assert {line.group for line in record.lines} >= {"step", "ragged", "clipping", "map", "values", "grid"}
    assert not record.wrong
    assert "skipped: no_such_peer: No module" in capsys.readouterr().err
    for found in record.lines:
        assert found.limit in ("FMA", "L1", "L2", "L3", "memory")
        assert found.attainable > 0
        assert found.ours.low <= found.ours.seconds <= found.ours.high
        assert (PADDED in found.measures) == (found.group == "ragged")
        assert (found.fastest is None) == (found.what != "clipping")
    text = report.terminal(record)
    assert "One streaming step, LSTM one step\n" in text
    assert "subnormal (3, 2, 4, 4)" in text[text.index("Time / time of the same contender") :]
    record.save(tmp_path / "saved.json")
    assert Record.load(tmp_path / "saved.json") == record
    assert "| 3 × (4, 4) |" in report.markdown(record)


def test_the_command_line(tmp_path):
    chosen = command.options([])
    assert (chosen.rows, chosen.budget, chosen.peers) == (["grid", "models"], 4.0, None)
    assert command.thread_counts(chosen) == [1]
    chosen = command.options(["--quick", "--threads", "1", "2", "--peers"])
    assert (chosen.rows, chosen.budget, chosen.peers) == (["grid"], 0.5, [])
    assert command.thread_counts(chosen) == [1, 2]
    assert command.options(["--quick", "--rows", "step"]).rows == ["step"]
    with pytest.raises(SystemExit):
        command.options(["--clock", "cpu", "--threads", "2"])
    scaling = command.thread_counts(command.options(["--rows", "scaling"]))
    assert scaling == (list(range(1, machine.cores() + 1)) if hasattr(fastgate, "set_num_threads") else [1])


# count


def test_instructions_are_counted_or_the_reason_is_said(tmp_path, capsys):
    file = tmp_path / "counts.json"
    words = ["--rows", "2,1,8,8", "9,1,8,8", "--cells", "lstm", "--what", "forward", "--json", str(file)]
    assert count.main(words) == 0
    printed = capsys.readouterr().out
    if reason := count.unavailable():
        assert printed == f"skipped: {reason}\n"
        pytest.skip(reason)
    found = json.loads(file.read_text())
    assert list(found) == ["lstm forward 2,1,8,8", "lstm forward 9,1,8,8"]
    assert 1000 < found["lstm forward 2,1,8,8"] < found["lstm forward 9,1,8,8"] < 10**7


def test_without_valgrind_nothing_is_counted(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert count.main([]) == 0
    assert capsys.readouterr().out == "skipped: valgrind is not installed\n"


# compare


def faster(record, factor):
    """The record of the same machine on which our times are multiplied by `factor`."""
    lines = []
    for found in record.lines:
        measures = {}
        for name, m in found.measures.items():
            ratio = Ratio(*(r / factor for r in m.ratio)) if name != OURS else m.ratio
            measures[name] = replace(m, ratio=ratio, seconds=m.seconds * (factor if name == OURS else 1))
        lines.append(replace(found, measures=measures))
    return replace(record, lines=lines)


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, ""), (1.03, ""), (1.1, ""), (1.4, "SLOWER"), (0.7, "faster")])
def test_a_row_has_changed_when_it_changed_by_more_than_its_spread(record, factor, verdict):
    found = compare.changes(record, faster(record, factor))
    assert len(found) == len(record.lines)
    for change in found:
        assert change.by.median == pytest.approx(factor)
        assert change.by.low < factor < change.by.high
        assert change.verdict(0.05) == verdict
    assert compare.words(record, faster(record, factor))[1] == (verdict == "SLOWER")


def test_peers_of_another_version_prove_nothing(record):
    newer = replace(record, versions={OURS: "1.3", "PyTorch": "10.0"}, lines=[record.lines[0]])
    ours_ = newer.lines[0].measures
    ours_[OURS] = replace(ours_[OURS], seconds=2e-3, low=1.9e-3, high=2.1e-3)
    older = replace(record, lines=[line("(3, 2, 5, 4)", 2.0, 4.0)])
    older.lines[0].measures[OURS] = replace(measure(1.0), low=0.9e-3, high=1.1e-3)
    (change,) = compare.changes(older, newer)
    assert change.by == pytest.approx((2.0, 1.9 / 1.1, 2.1 / 0.9))


def test_compare_reads_two_files_and_says_what_became_worse(record, tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    record.memory = [Memory("lstm", "forward", *SHAPE, 100, {OURS: 1000})]
    record.save(old)
    assert compare.main([str(old), str(old)]) == 0
    slow = faster(record, 1.5)
    slow.lines = slow.lines[1:]
    slow.wrong = ["it computes something else"]
    slow.memory = [Memory("lstm", "forward", *SHAPE, 100, {OURS: 1200})]
    slow.save(new)
    capsys.readouterr()
    assert compare.main([str(old), str(new)]) == 1
    printed = capsys.readouterr().out
    assert "SLOWER  Grid, LSTM forward (6, 2, 5, 4)" in printed
    assert "4 rows, geometric mean 1.500: 4 slower, 0 faster" in printed
    assert "1 rows are in one of the two only" in printed
    assert "MORE MEMORY: lstm forward" in printed
    assert "WRONG RESULT in the new one: it computes something else" in printed


# record, tables, README


def test_a_record_survives_its_file(record, tmp_path):
    path = tmp_path / "deep" / "record.json"
    record.save(path)
    assert Record.load(path) == record
    assert json.loads(path.read_text())["machine"]["isa"] == "avx2"


def test_the_fastest_peer_is_the_one_to_beat_and_the_loop_is_none(record):
    assert record.lines[0].fastest == ("PyTorch", Ratio(2.0, 1.8, 2.2))
    assert record.lines[2].fastest[0] == "ONNX Runtime"
    assert peers_of(record.lines) == ["PyTorch", LOOP, "ONNX Runtime"]
    assert mean_ratio(record.lines[:3]) == pytest.approx((2.0 * 0.5 * 0.9) ** (1 / 3))
    assert mean_ratio(record.lines[:3], LOOP) == pytest.approx(9.0)
    assert largest_error(record.lines, "PyTorch") == 3e-7


def test_losses_stand_first(record):
    assert [line.fastest[1].median for line in losses_first(record.lines[:3])] == [0.5, 0.9, 2.0]
    words = report.terminal(record)
    assert words.index("*  (6, 2, 5, 4)") < words.index("*  (9, 2, 5, 4)") < words.index("   (3, 2, 5, 4)")
    assert "1.0e-07    3.0e-07  1.0e-07" in words
    assert "2 of 5 rows lose against the fastest peer\n  0.50  LSTM forward (6, 2, 5, 4) (PyTorch)\n  0.90" in words


def test_the_readme_shows_every_row_and_its_losses(record, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{update_readme.BEGIN}\nSTALE\n{update_readme.END}\n\nThe rest.\n")
    for _ in range(2):  # a second time changes nothing
        update_readme.update(readme, record)
        text = readme.read_text()
        assert text.startswith("# Title\n\n<!-- bench:begin -->\n")
        assert text.endswith("<!-- bench:end -->\n\nThe rest.\n")
        assert "STALE" not in text
        assert "| (3, 2, 5, 4) | 2.00 | 8.00 |" in text
        assert "| (6, 2, 5, 4) | **0.50** | – |" in text
        assert "a model, LSTM (3, 2, 5, 4) | 1.50 |" in text
        assert "2 of 5 rows lose against the fastest peer (bold)." in text
        assert "A CPU" in text
        assert "PyTorch 9.8" in text


@pytest.mark.parametrize("text", ["", "<!-- bench:begin -->", "<!-- bench:end -->\n<!-- bench:begin -->"])
def test_a_readme_without_its_markers_is_refused(text):
    with pytest.raises(ValueError, match="bench:begin"):
        update_readme.replace_between_markers(text, "table")


def test_a_record_without_peers_has_tables_too(record):
    record.lines = [line("(3, 2, 5, 4)", 2.0)]
    del record.lines[0].measures["PyTorch"]
    assert "No peer was installed" in report.terminal(record)
    assert "| (3, 2, 5, 4) | – |" in report.markdown(record)


def test_runs_on_several_threads_are_one_record(record):
    two = Record(record.machine | {"threads": [2], "limits": {"2": {"FMA": 2e11}}}, record.versions, record.settings)
    two.lines = [replace(record.lines[0], threads=2)]
    record.add(two)
    assert record.machine["threads"] == [1, 2]
    assert "Grid, LSTM forward, 2 threads" in report.terminal(record)
    assert "1 and 2 threads, float32" in report.terminal(record)
    assert "| LSTM forward, 2 threads |" in report.markdown(record)


def test_limits_stand_in_the_report(record):
    assert "1 thread: FMA 100 GF/s; reads L1 200, memory 20 GB/s" in report.terminal(record)
    found = replace(record.lines[0], limit="L2", attainable=2.5e-4, nbytes=3 * 10**6)
    record.lines[0] = found
    assert report.rate(found) == "3.0 GB/s"
    assert re.search(r"3\.0 GB/s +25% L2 ", report.terminal(record))
    assert report.rate(record.lines[1]) == "1.0 GF/s"


def test_slow_values_stand_first(record):
    normal = replace(line("(3, 2, 5, 4)", 2.0), group="values")
    slow, slower = (
        replace(normal, name=name, values=name, measures=normal.measures | {OURS: measure(1.0, seconds)})
        for name, seconds in (("zeros", 2e-3), ("subnormal", 4e-3))
    )
    record.lines = [normal, slow, slower]
    words = report.slowdowns(record).splitlines()
    assert words[2].split() == ["*", "LSTM", "forward", "subnormal", "4.00", "1.00", "1.00"]
    assert words[3].split() == ["LSTM", "forward", "zeros", "2.00", "1.00", "1.00"]


def test_memory_has_a_table(record):
    record.memory = [
        Memory("lstm", "forward", *SHAPE, 10**6, {OURS: 2 * 10**6, "PyTorch": 3 * 10**6}),
        Memory("gru", "training", *SHAPE, 10**6, {OURS: 4 * 10**6, "PyTorch": 3 * 10**6}),
    ]
    words = report.memory(record).splitlines()
    assert words[2].startswith("*  GRU forward + backward (3, 2, 5, 4)")
    assert words[3].split()[-4:] == ["2.0", "3.0", "(1.50)", "1.0"]
    assert words[0] in report.terminal(record)


def test_the_pictures_are_drawn(record, tmp_path):
    picture = pytest.importorskip("bench.picture", reason="matplotlib is not installed")
    assert len(picture.draw(record, tmp_path / "picture.png")) == 2
    record.lines += [replace(line(f"(3, {N}, 4, {H})", 0.3 * N), group="map", N=N, H=H) for N in (1, 8) for H in (4, 8)]
    record.lines.append(replace(record.lines[0], threads=2))
    record.machine["limits"]["2"] = record.machine["limits"]["1"]
    record.lines.append(replace(line("3 × (4, 4)", 2.0, group="clipping"), what="clipping", cell=""))
    drawn = picture.draw(record, tmp_path / "picture.png")
    assert [path.name for path in drawn] == ["picture.png", "picture-roofline.png", "picture-map.png"]
    for path in drawn:
        assert path.read_bytes().startswith(b"\x89PNG")
