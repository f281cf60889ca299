"""The benchmark's own logic. Nothing here asserts a time."""

import gc
import itertools
import json
import math
from ast import literal_eval

import numpy as np
import pytest

from bench import cases, contenders, grid, report, timer, update_readme
from bench.contenders import LOOP, OURS, numpy_loop, ours
from bench.record import Line, Measure, Record, largest_error, losses_first, mean_ratio, peers_of
from bench.timer import Ratio, Timing
from fastgate import reference

SHAPE = (3, 2, 5, 4)  # T, N, D, H


def measure(ratio, seconds=1e-3, error=1e-7):
    return Measure(seconds, error, 5, 10, Ratio(ratio, 0.9 * ratio, 1.1 * ratio))


def line(name, torch, ort=None, *, cell="lstm", what="forward", group="grid"):
    measures = {OURS: measure(1.0), "PyTorch": measure(torch, error=3e-7), LOOP: measure(9.0)}
    if ort is not None:
        measures["ONNX Runtime"] = measure(ort)
    shape = literal_eval(name) if group == "grid" else SHAPE
    return Line(group, name, cell, what, *shape, 10**6, 5e-4, measures)


@pytest.fixture
def record():
    machine = {"cpu": "A CPU", "isa": "avx2", "cores": 2, "threads": 1, "fma_peak": 1e11, "load": 0.0}
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
    with pytest.raises(ValueError, match="expected grid"):
        grid.select(["7,3,5"])


# contenders


@pytest.mark.parametrize("what", cases.WHATS)
@pytest.mark.parametrize("cell", cases.cells())
def test_ours_and_the_loop_are_right_for_every_cell(cell, what):
    case = cases.make_case(cell, what, *SHAPE)
    expected = cases.exact(case)
    assert set(expected) >= {"h", "h_T"} | (set(cases.GRADIENTS) if what == cases.TRAINING else set())
    for module in (ours, numpy_loop):
        calls = module.prepare(case, 1)
        assert cases.check(module.NAME, case, calls.results(calls.call()), expected) < 1e-5


@pytest.mark.parametrize("what", cases.WHATS)
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("peer", ["pytorch", "onnx_runtime"])
def test_weights_reach_a_peer_in_its_own_conventions(peer, cell, what):
    found, skipped = contenders.find((peer,))
    if skipped:
        pytest.skip(skipped[peer])
    case = cases.make_case(cell, what, *SHAPE)
    try:
        calls = found[0].prepare(case, 1)
    except cases.Unsupported as reason:
        pytest.skip(str(reason))
    for _ in range(2):  # gradients are fresh at every call
        error = cases.check(peer, case, calls.results(calls.call()), cases.exact(case))
    assert error < 1e-5


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
    expected = cases.exact(case)
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


def test_the_picture_is_drawn(record, tmp_path):
    picture = pytest.importorskip("bench.picture", reason="matplotlib is not installed")
    picture.draw(record, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
