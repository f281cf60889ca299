"""The lessons of examples/gallery: each has its words; the short ones are run, and what they claim holds.

`make gallery` runs all of them.
"""

import importlib
import runpy
import sys
from pathlib import Path

import pytest

GALLERY = Path(__file__).parents[1] / "examples" / "gallery"
pytestmark = pytest.mark.skipif(not GALLERY.exists(), reason="examples/ is not beside tests/")
SHORT = ("vanishing_gradients", "cliff", "exploding_training", "omega")
page = runpy.run_path(str(GALLERY / "__main__.py"), run_name="gallery") if GALLERY.exists() else {"LESSONS": ()}


@pytest.fixture
def lessons(monkeypatch):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(GALLERY), *sys.path])
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(GALLERY) in sys.modules[name].__file__:
            del sys.modules[name]


def test_every_lesson_is_listed_once():
    files = {path.stem for path in GALLERY.glob("*.py")} - {"__main__", "lesson"}
    assert sorted(page["LESSONS"]) == sorted(files)


@pytest.mark.parametrize("name", page["LESSONS"])
def test_a_lesson_has_a_title_a_text_and_what_to_see(name):
    title, paragraphs, see = page["text_of"](name)
    assert title
    assert paragraphs
    assert see.endswith(".")
    assert f'<img src="{name}.png"' in page["section"](name, 1.0)


@pytest.mark.usefixtures("lessons")
@pytest.mark.parametrize("name", SHORT)
def test_a_short_lesson_shows_what_it_claims(name, tmp_path):
    run = importlib.import_module("lesson").run
    path = run(importlib.import_module(name), tmp_path)
    assert path.stat().st_size > 10_000


@pytest.mark.usefixtures("lessons")
def test_a_claim_that_does_not_hold_is_an_error(tmp_path):
    lesson, cliff = importlib.import_module("lesson"), importlib.import_module("cliff")

    class Wrong:
        __name__, __file__, draw = "wrong", cliff.__file__, cliff.draw
        measure = staticmethod(dict)

        @staticmethod
        def claims(found):
            yield "one is two", False

    with pytest.raises(SystemExit, match="one is two"):
        lesson.run(Wrong, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_lesson_is_named(capsys):
    with pytest.raises(SystemExit):
        page["main"](["opera"])
    assert "opera" in capsys.readouterr().err
