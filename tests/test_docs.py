"""The Python blocks of docs/ run as they stand: page by page, in order, in one namespace; those of the README on small arrays.

A page that needs packages says so in its first line, <!-- needs: name name -->; without them it is skipped. What a block prints
stands behind it, as ```text, and is compared: the words and the integers as they are, other numbers roughly.
"""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastgate
from bench.swap import blocks

DOCS = Path(__file__).parents[1] / "docs"
ELSEWHERE = {"adding-a-cell.md": "test_adding_a_cell.py adds its code to a copy of the tree"}
PAGES = sorted(page for folder in (DOCS, DOCS / "swap") for page in folder.glob("*.md"))
HOUSE = [DOCS.parent / name for name in ("README.md", "CONTRIBUTING.md")]
UNSHOWN = {"check.md": "what is printed there holds rounding errors; the page says in words what it is"}
PRINTED = re.compile(r"^```python\n((?:(?!```).*\n)*)```\n\n```text\n((?:(?!```).*\n)*)```$", re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?%?")
LINK = re.compile(r"\]\(([^)\s]+)\)")

pytestmark = pytest.mark.skipif(not PAGES, reason="docs/ is not beside tests/")


def needs(page):
    found = re.match(r"<!-- needs: (.*) -->\n", page.read_text(encoding="utf-8"))
    return found[1].split() if found else []


def printed(text):
    """{source of a Python block: what the page shows below it}."""
    return dict(PRINTED.findall(text))


def assert_printed(found, shown):
    """The same words, spaces aside, and numbers: an integer as it is, a percentage within 2 points, any other number within a
    tenth or one unit of the last digit that is shown."""
    assert NUMBER.sub("#", found).split() == NUMBER.sub("#", shown).split()
    for a, b in zip(NUMBER.findall(found), NUMBER.findall(shown), strict=True):
        if b.endswith("%"):
            assert abs(float(a[:-1]) - float(b[:-1])) <= 2, (a, b)
        elif set(b) <= set("-0123456789"):
            assert a == b
        else:
            digits, _, power = b.partition("e")
            unit = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
            assert abs(float(a) - float(b)) <= max(abs(float(b)) / 10, 1.01 * unit), (a, b)


pages = pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=str(page.relative_to(DOCS)), marks=[pytest.mark.beside] * bool(needs(page))) for page in PAGES],
)


@pytest.fixture
def as_it_was(tmp_path, monkeypatch):
    """A folder of its own, and settings put back: a page may set the environment and the number of threads."""
    monkeypatch.chdir(tmp_path)
    environment, threads = dict(os.environ), fastgate.get_num_threads()
    yield
    os.environ.clear()
    os.environ.update(environment)
    fastgate.set_num_threads(threads)


@pages
@pytest.mark.usefixtures("as_it_was")
def test_the_code_of_a_page_runs(page, capsys):
    if page.name in ELSEWHERE:
        pytest.skip(ELSEWHERE[page.name])
    for name in needs(page):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    text = page.read_text(encoding="utf-8")
    found, shown = blocks(text), printed(text)
    if not found:
        pytest.skip("no Python on this page")
    namespace = {"__name__": page.stem}
    for line, source in found:
        exec(compile("\n" * line + source, page, "exec"), namespace)
        if page.name not in UNSHOWN:
            assert_printed(capsys.readouterr().out, shown.get(source, ""))


@pages
def test_every_python_block_is_found(page):
    """Fences in pairs, and none that the pattern does not see: indented, or with words behind `python`."""
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^\s*```", text, re.MULTILINE)) % 2 == 0
    assert len(re.findall(r"```[ \t]*(?:python|py)\b", text)) == len(blocks(text))
    assert text.count("```text") == len(printed(text))


def test_what_is_printed_is_held_against_what_is_shown():
    shown = "loss 0.21 -> 3e-07, 93%\n  [1 -2]\n"
    for found in (shown, "loss 0.215 -> 2.8e-7, 94%\n [1 -2]", "loss 0.2 -> 0.0000004, 91% [1 -2]"):
        assert_printed(found, shown)
    for right, wrong in (
        ("loss", "lost"),
        ("0.21", "0.25"),
        ("e-07", "e-05"),
        ("93", "96"),
        ("-2", "2"),
        ("]", " 3]"),
        (shown, ""),
    ):
        with pytest.raises(AssertionError):
            assert_printed(shown.replace(right, wrong), shown)
    text = "```python\nx = 1\n```\n\n```python\nprint(x)\n```\n\n```text\n1\n```\n"
    assert printed(text) == {"print(x)\n": "1\n"}


@pytest.mark.usefixtures("as_it_was")
def test_the_code_of_the_readme_runs():
    """The loop and what replaces it return the same numbers; so does the cell, step by step."""
    N, T, D, H = 3, 5, 4, 6
    rng = np.random.default_rng(0)
    sizes = {"x": (N, T, D), "h0": (N, H), "c0": (N, H), "Wx": (D, 4 * H), "Wh": (H, 4 * H), "b": (4 * H,), "dh": (N, T, H)}
    given = {name: rng.standard_normal(shape) for name, shape in sizes.items()}
    loop, call, cell, layer = (source for _, source in blocks(HOUSE[0].read_text(encoding="utf-8")))
    here = given | {"np": np, "sigmoid": lambda a: 1 / (1 + np.exp(-a)), "stream": given["x"].swapaxes(0, 1), "N": N, "H": H}

    exec(loop, here)
    h, _, c_T = here["lstm_forward"](*(given[name] for name in ("x", "h0", "c0", "Wx", "Wh", "b")))
    exec(call, here)
    np.testing.assert_allclose(here["h"], h, rtol=0, atol=1e-12)
    np.testing.assert_allclose(here["c_T"], c_T, rtol=0, atol=1e-12)
    assert fastgate.clip_grad_norm([here["grads"].dWx, here["grads"].dWh, here["grads"].db], np.inf) == pytest.approx(1)

    exec(cell, here)
    expected = fastgate.lstm_forward(given["x"], None, None, given["Wx"], given["Wh"], given["b"])
    np.testing.assert_array_equal(here["h"], expected.h_T)
    np.testing.assert_array_equal(here["c"], expected.c_T)

    here |= {"x": rng.standard_normal((N, T, 64), np.float32), "dh": rng.standard_normal((N, T, 256), np.float32)}
    exec(layer, here)
    np.testing.assert_array_equal(fastgate.LSTM.load("model.npz").parameters, here["layer"].parameters)


def test_the_equations_of_the_readme_are_those_of_help():
    section = HOUSE[0].read_text(encoding="utf-8").split("## What is computed\n")[1].split("```\n")[1]
    found = {}
    for title, *lines in (part.splitlines() for part in section.split("\n\n")):
        cell, order = title.split(", ")
        found[cell] = [line.split("  ")[0] for line in map(str.strip, lines)]
        function = getattr(fastgate, f"{cell.lower()}_forward")
        assert f"Gate order {order}" in function.__doc__
        words = " ".join(function.__doc__.split())
        for equation in found[cell]:
            assert equation in words, equation
    assert {cell: len(equations) for cell, equations in found.items()} == {"LSTM": 5, "GRU": 4}


@pytest.mark.parametrize("page", [*PAGES, *HOUSE], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


def test_pages_of_before_and_after_compare_numbers():
    """A page of docs/swap asserts that what it swaps in gives the numbers of what it replaces."""
    for page in PAGES:
        if page.parent.name == "swap":
            assert any("assert" in source for _, source in blocks(page.read_text(encoding="utf-8"))), page.name


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "swap"], ids=lambda page: page.name)
def test_a_page_is_reached_from_swap_it_in(page):
    assert f"](swap/{page.name})" in (DOCS / "swap-it-in.md").read_text(encoding="utf-8")


def test_a_failing_block_is_reported_at_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\nassert x == 2\n```\n", encoding="utf-8")
    ((line, source),) = blocks(page.read_text(encoding="utf-8"))
    with pytest.raises(AssertionError) as caught:
        exec(compile("\n" * line + source, page, "exec"), {})
    assert caught.traceback[-1].lineno + 1 == 5


def test_the_textbook_names_what_exists():
    """Every function of docs/textbook.md is reached from `import fastgate`, and every lesson of the gallery has its row."""
    text = (DOCS / "textbook.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(fastgate\.[\w.]+)`", text))
    assert len(names) > 20
    for name in sorted(names):
        *path, last = name.split(".")
        assert hasattr(importlib.import_module(".".join(path)), last), name
    reached = ["import fastgate", "assert {'LSTM', 'StreamPool', 'flow', 'layers'} < {*dir(fastgate)}", *sorted(names)]
    subprocess.run([sys.executable, "-c", "\n".join(reached)], check=True)
    lessons = {path.stem for path in (DOCS.parent / "examples" / "gallery").glob("*.py")} - {"__main__", "lesson"}
    assert lessons == {Path(link).stem for link in LINK.findall(text) if "/gallery/" in link}
