"""What a lesson is, and how one is run by itself.

A lesson is a file here. Its docstring is its text: a title, what is done, and a paragraph that begins with "See:". It has

    measure()     -> what was found, the same on every run
    claims(found) -> pairs (sentence, bool), what the figure is said to show
    draw(found)   -> a matplotlib figure
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, FAINT = "#26323a", "#b9c2c7"
COLOURS = ("#2a7f62", "#c8442f", "#35618f", "#b98a1c", "#7a4f8b", "#4aa3c7")

sys.path.insert(0, str(Path(__file__).parents[1]))  # optimizers.py, for the lessons that train

plt.rcParams.update(
    {
        "figure.dpi": 110,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.titlesize": 9,
        "axes.prop_cycle": plt.cycler(color=COLOURS),
        "legend.frameon": False,
    }
)


def run(lesson, folder):
    """Measures, checks every claim, and draws to folder/NAME.png. A claim that does not hold is an error."""
    found = lesson.measure()
    for sentence, holds in lesson.claims(found):
        print(f"{'yes' if holds else 'NO':4} {sentence}")
        if not holds:
            raise SystemExit(f"{lesson.__name__}: not so: {sentence}")
    path = Path(folder) / f"{Path(lesson.__file__).stem}.png"
    figure = lesson.draw(found)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    print(path)
    return path


def main():
    """The file that was started, as a lesson; the picture goes to the present folder."""
    run(sys.modules["__main__"], Path.cwd())
