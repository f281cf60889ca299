"""bench.swap: every source's code before and after agrees, at small sizes; the table. Nothing here asserts a time."""

import numpy as np
import pytest

from bench import swap, swap_imports
from bench.swap import Case, Row
from bench.timer import Ratio

TINY = [(3, 2, 5, 4), (2, 3, 4, 6)]
OURS = ["hand_written", "cs231n", "dlfs2", "autograd", "jax", "keras", "onnx"]


def cases(name, monkeypatch):
    monkeypatch.setitem(swap.SHAPES, name, TINY)
    monkeypatch.setattr(swap_imports, "SHAPES", TINY)
    try:
        return [Case(*case) for case in swap.SOURCES[name]()]
    except ImportError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", OURS)
def test_before_and_after_agree(name, monkeypatch):
    """To rounding, and each case says its shape."""
    found = cases(name, monkeypatch)
    assert len({case.name for case in found}) == len(found) >= 4
    monkeypatch.setattr(swap, "LIMIT", 1e-12 if name in ("hand_written", "autograd") else 1e-5)
    for case in found:
        assert any(str(shape) in case.name for shape in TINY)
        for _ in range(2):  # nothing goes on from call to call
            swap.compare(case.name, case.before(), case.after())


def test_a_row_is_timed():
    row = swap.timed(Case("sums", lambda: np.ones(999).sum(), lambda: np.float64(999)), 0.01)
    assert row.name == "sums"
    assert min(row.before, row.after, row.ratio.median) > 0


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (np.ones(3), np.ones(4), r"name: shape \(3,\) before, \(4,\) after"),
        ((np.ones(3), 1.0), (np.ones(3),), "name: 2 results before, 1 after"),
        ((1.0, np.ones(3)), [1.0, np.array([1, 1, 1.1])], "name, result 1: differs by 1.0e-01"),
        (np.ones(2), np.array([1, np.nan]), "name: differs by nan"),
    ],
)
def test_other_numbers_are_an_error(before, after, words):
    with pytest.raises(swap.WrongResult, match=f"^{words}$"):
        swap.timed(Case("name", lambda: before, lambda: after), 0.01)


def test_a_source_that_is_missing_is_skipped_with_the_reason(monkeypatch):
    def missing():
        raise ImportError("No module named 'peer'")
        yield

    monkeypatch.setattr(swap, "SOURCES", {"peer": missing, "ours": lambda: [("a case", lambda: 1.0, lambda: 1.0)]})
    rows, skipped = swap.run(["peer", "ours"], 1, 0.01)
    assert [row.name for row in rows] == ["a case"]
    assert skipped == {"peer": "No module named 'peer'"}


def test_the_table_shows_gains_and_losses():
    rows = [Row("fast", 2e-3, 1e-4, Ratio(20.0, 19, 21)), Row("slow", 1e-3, 2e-3, Ratio(0.5, 0.4, 0.6))]
    found = swap.table(rows, {"peer": "not installed"}, "A CPU")
    assert "| fast | 2 | 0.1 | 20.0 |" in found
    assert "| slow | 1 | 2 | **0.50** |" in found
    assert "on A CPU;" in found
    assert "Not measured: peer (not installed)." in found


def test_the_table_is_written_between_its_markers(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{swap.BEGIN}\nSTALE\n{swap.END}\n\nThe rest.\n")
    monkeypatch.setattr(swap, "fresh", lambda threads, call, *arguments: f"{call.__name__} {threads} {arguments}")
    monkeypatch.setattr(swap, "prefer_installed", lambda: None)
    swap.main(["--page", str(page), "--dry", "cs231n"])
    assert "STALE" in page.read_text()
    swap.main(["--page", str(page), "cs231n", "dlfs2"])
    assert page.read_text() == (
        f"# Title\n\n{swap.BEGIN}\nmeasured 1 (['cs231n', 'dlfs2'], 1, 2.0, 'wall')\n{swap.END}\n\nThe rest.\n"
    )
    assert capsys.readouterr().out.count("measured 1") == 2
    with pytest.raises(SystemExit):
        swap.main(["--clock", "cpu", "--threads", "2"])
    assert (swap.DOCS / "swap-it-in.md").read_text(encoding="utf-8").count(swap.BEGIN) == 1
