"""docs/adding-a-cell.md does what it says: a copy of the tree plus its files and lines has the cell, and the tests find it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("Cython")

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/adding-a-cell.md"
LISTS = ("csrc/cells.def", "fastgate/reference/__init__.py", "fastgate/__init__.py")


USE = """
import fastgate, numpy as np
from fastgate import reference
assert "mgu" in fastgate.get_config()["cells"]
rng = np.random.default_rng(1)
arguments = [rng.standard_normal(shape) for shape in ((3, 9, 5), (3, 7), (5, 14), (7, 14), 14)]
results = [m.mgu_backward(m.mgu_forward(*arguments).h, m.mgu_forward(*arguments).cache) for m in (fastgate, reference)]
for ours, exact in zip(*results, strict=True):
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-12 * abs(exact).max())
x, h_prev, *weights = arguments
step = fastgate.mgu_step_forward(x[:, 0], h_prev, *weights)
np.testing.assert_array_equal(fastgate.MGUCell(*weights).step(x[:, 0], h_prev), step.h_next)
print(fastgate.__file__)
"""


def additions_of_page(name):
    """What the page adds to a list, in pieces that an empty line parts."""
    found = re.search(rf"^`{re.escape(name)}`,[^\n]*\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return [piece.strip("\n") + "\n" for piece in found[1].split("\n\n")]


def add(path, pieces):
    """Each piece after the lines of the GRU that are most like it: `mgu` for `gru`, `MGU` for `GRU`."""
    text = path.read_text(encoding="utf-8")
    for piece in pieces:
        like = piece.replace("mgu", "gru").replace("MGU", "GRU")
        like = like.replace("gru.inc", "gru_before.inc").replace("(gru)", "(gru_before)")
        assert text.count(like) == 1, like
        text = text.replace(like, like + piece)
    path.write_text(text, encoding="utf-8")


def with_the_cell(tree):
    """The project with the new cell, in `tree`."""
    skipped = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("csrc", "fastgate", "tests", "bench"):
        shutil.copytree(ROOT / name, tree / name, ignore=skipped)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tree)
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}

    shutil.copytree(ROOT / "docs/mgu", tree, ignore=skipped, dirs_exist_ok=True)
    for name in LISTS:
        add(tree / name, additions_of_page(name))

    changed = {str(path.relative_to(tree)) for path, content in before.items() if path.read_bytes() != content}
    assert changed == set(LISTS)
    added = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file() and path not in before}
    assert added == {"csrc/cells/mgu.inc", "fastgate/mgu.py", "fastgate/mgu.pyi", "fastgate/reference/mgu.py"}


def run(tree, *command, **variables):
    """Python in the tree, away from the package under test and from a sanitizer that was loaded for it."""
    left_out = ("LD_PRELOAD", "FASTGATE_SANITIZE", "FASTGATE_ISA", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"PYTHONPATH": str(tree), **variables}
    done = subprocess.run(
        [sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_page_quotes_the_files():
    page = PAGE.read_text(encoding="utf-8")
    quotes = {"csrc/cells/mgu.inc": r"```c\n(static const .*?)```", "fastgate/mgu.py": r"```python\n(class .*?)```"}
    for name, quote in quotes.items():
        assert re.search(quote, page, re.S)[1] in (ROOT / "docs/mgu" / name).read_text(encoding="utf-8")


def test_the_page_does_what_it_says(tmp_path):
    tree = tmp_path / "fastgate"
    with_the_cell(tree)
    run(tree, "setup.py", "-q", "build_ext", "--inplace", FASTGATE_DEBUG="1")
    assert run(tree, "-c", USE).strip() == str(tree / "fastgate/__init__.py")

    # The tests iterate the lists: the cell gets its own without an edit.
    files = [f"tests/test_{name}.py" for name in ("house", "reference", "kernels", "ragged", "prepared", "memory")]
    printed = run(tree, "-m", "pytest", "-p", "no:cacheprovider", "-k", "mgu", *files, FASTGATE_CASES="16")
    assert int(re.search(r"(\d+) passed", printed)[1]) >= 100, printed[-4000:]
