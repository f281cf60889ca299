"""Runs the lessons, each in a process of its own, as many at a time as there are CPUs, and builds one page of them.

python examples/gallery [--folder gallery] [lesson …]
"""

import argparse
import html
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
LESSONS = (
    "vanishing_gradients", "cliff", "exploding_training", "adding_problem", "copy_problem", "leaky_units", "badly_scaled",
    "lstm_variants", "forget_bias", "omega", "omega_of_gates", "truncated", "time_scales", "slow_and_fast_weights",
    "deep_transitions", "tagging", "few_data", "missing_values", "membrane", "teacher_forcing", "addition", "three_endings",
    "search", "autoencoder", "expression_trees",
)  # fmt: skip

STYLE = """body { max-width: 54rem; margin: 3rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #26323a }
img { max-width: 100%; display: block; margin: 1rem 0 } h2 { margin-top: 3rem } small { color: #6c7a82 }
.see { border-left: 3px solid #2a7f62; padding-left: 1rem }"""


def text_of(name):
    """Title, paragraphs and the sentence of what to see, out of a lesson's docstring; nothing of it is run."""
    source = (HERE / f"{name}.py").read_text(encoding="utf-8")
    title, *paragraphs = source.split('"""', 2)[1].strip().split("\n\n")
    see = next(p for p in paragraphs if p.startswith("See:"))
    return title.rstrip("."), [p for p in paragraphs if p is not see], see.removeprefix("See:").strip()


def words(text):
    """Text as HTML, what stands between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def section(name, seconds):
    title, paragraphs, see = text_of(name)
    body = "".join(f"<p>{words(p)}</p>" for p in paragraphs)
    return (
        f'<h2 id="{name}">{html.escape(title)}</h2>{body}<img src="{name}.png" alt="{html.escape(title)}">'
        f'<p class="see">{words(see[0].upper() + see[1:])}</p><small>examples/gallery/{name}.py, {seconds:.0f} s</small>'
    )


def page(sections):
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>fastgate: lessons</title><style>{STYLE}</style>'
        f"<h1>What recurrent nets can and cannot learn, seen</h1>{''.join(sections)}</html>\n"
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python examples/gallery", description="Run the lessons and build one page of them.")
    parser.add_argument("lessons", nargs="*", help=f"default: all ({', '.join(LESSONS)})")
    parser.add_argument("--folder", type=Path, default=Path("gallery"), help="for the page and its figures (default: gallery)")
    chosen = parser.parse_args(arguments)
    for name in chosen.lessons:
        if name not in LESSONS:
            parser.error(f"lessons: expected {', '.join(LESSONS)}, got {name!r}")
    chosen.folder.mkdir(parents=True, exist_ok=True)

    environment = os.environ | {"FASTGATE_NUM_THREADS": "1"}

    def run(name):
        start = time.perf_counter()
        command = [sys.executable, HERE / f"{name}.py"]
        done = subprocess.run(
            command,
            cwd=chosen.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done, time.perf_counter() - start

    names, sections, failed = chosen.lessons or LESSONS, [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, (done, seconds) in zip(names, pool.map(run, names), strict=True):
            print(f"\n{name}\n{done.stdout}", end="", flush=True)
            sections.append(section(name, seconds))
            failed += [name] * (done.returncode != 0)
    if failed:
        raise SystemExit(f"\nfailed: {', '.join(failed)}")
    index = chosen.folder / "index.html"
    index.write_text(page(sections), encoding="utf-8")
    print(f"\n{index}")


if __name__ == "__main__":
    main()
