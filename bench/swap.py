"""What it brings to swap fastgate in: code before and after, timed in turn, as the table of docs/swap-it-in.md.

python -m bench.swap                  all sources that are installed
python -m bench.swap cs231n dlfs2     some; the table has then only these
python -m bench.swap --dry            only printed

The code before is that of the pages in docs/swap, run from them. A source is one entry of SOURCES: a function that yields Cases
or (name, before, after), imports what it needs, and is skipped, with the reason, where that is missing. Before and after
must return the same numbers, or it is an error and no row.
"""

import argparse
import importlib
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .process import fresh, prefer_installed
from .timer import CLOCKS, Ratio, measure, ratio
from .update_readme import replace_between_markers

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- swap:begin -->", "<!-- swap:end -->"
LIMIT = 1e-3  # of the largest value: another gate order is far off, float32 over many steps is not

# (T, N, D, H), those of the sources' own models where they have any
SHAPES = {
    "hand_written": [(100, 1, 64, 64), (100, 1, 256, 256), (50, 8, 32, 64), (50, 32, 128, 128)],
    "cs231n": [(16, 25, 256, 512), (16, 50, 256, 512)],  # the captioning model, and a larger batch
    "dlfs2": [(35, 20, 100, 100), (35, 20, 650, 650), (29, 128, 16, 256)],  # chapters 6 (both models) and 8
    "autograd": [(30, 20, 128, 40), (50, 32, 128, 128)],  # its example of an LSTM, and a larger one
    "jax": [(100, 1, 64, 64), (50, 32, 128, 128), (35, 20, 650, 650)],
}


class Case(NamedTuple):
    name: str
    before: Callable[[], Any]
    after: Callable[[], Any]


class Row(NamedTuple):
    name: str
    before: float  # seconds
    after: float
    ratio: Ratio  # before / after


class WrongResult(Exception):
    """Before and after return different numbers."""


# --- the sources --------------------------------------------------------------------------------------------------


def blocks(text: str) -> list[tuple[int, str]]:
    """(number of the line before its first, source) of each Python block of a page."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, block.start(1)), block[1]) for block in found]


def page(name: str) -> dict[str, Any]:
    """What docs/swap/<name>.md defines, its own comparisons made on the way."""
    path = DOCS / "swap" / f"{name}.md"
    names: dict[str, Any] = {"__name__": name}
    for line, source in blocks(path.read_text(encoding="utf-8")):
        exec(compile("\n" * line + source, path, "exec"), names)
    return names


def arrays(shape: tuple[int, ...], gates: int, dtype: str) -> dict[str, Any]:
    """x, dh, h0, c0, Wx, Wh, b of a layer."""
    import numpy as np

    (T, N, D, H), random = shape, np.random.default_rng(shape)
    bound, G = H**-0.5, gates * H
    normal = {"x": (N, T, D), "dh": (N, T, H), "h0": (N, H), "c0": (N, H)}
    uniform = {"Wx": (D, G), "Wh": (H, G), "b": (G,)}
    made = {name: random.standard_normal(size) for name, size in normal.items()}
    made |= {name: random.uniform(-bound, bound, size) for name, size in uniform.items()}
    return {name: a.astype(dtype) for name, a in made.items()}


def hand_written() -> Iterator[Case]:
    import numpy as np

    import fastgate

    code = page("hand-written-loop")
    for shape in SHAPES["hand_written"]:
        a = arrays(shape, 4, "float64")
        split = zip("ifgo", *(np.split(w, 4, axis=-1) for w in (a["Wh"], a["Wx"], a["b"])), strict=True)
        p = {}
        for gate, Wh, Wx, b in split:
            p |= {f"W{gate}": np.concatenate([Wh, Wx]), f"b{gate}": b}
        states = a["x"], a["h0"], a["c0"], p

        def both(forward, backward, states=states, dh=a["dh"]):
            h, cache = forward(*states)
            *gradients, dp = backward(dh, cache)
            return h, *gradients, *(dp[name] for name in sorted(dp))

        name = f"LSTM loop, {shape}, float64"
        yield Case(
            f"{name}, forward",
            lambda states=states: code["loop_forward"](*states)[0],
            lambda states=states: fastgate.lstm_forward(*states[:3], *code["pack"](states[3]), training=False).h,
        )
        yield Case(
            f"{name}, forward + backward",
            lambda both=both: both(code["loop_forward"], code["loop_backward"]),
            lambda both=both: both(code["forward"], code["backward"]),
        )
        a = arrays(shape, 3, "float64")
        gru = a["x"], a["h0"], a["Wx"], a["Wh"], a["b"]
        yield Case(
            f"GRU loop, {shape}, float64, forward",
            lambda gru=gru: code["gru_loop"](*gru),
            lambda gru=gru: fastgate.gru_forward(*gru, gate_order="zrn", reset="before", training=False).h,
        )


def cs231n() -> Iterator[Case]:
    from fastgate.compat import cs231n as ours

    theirs = page("cs231n")
    for shape in SHAPES["cs231n"]:
        a = arrays(shape, 4, "float32")
        call = a["x"], a["h0"], a["Wx"], a["Wh"], a["b"]

        def both(forward, backward, call=call, dh=a["dh"]):
            h, cache = forward(*call)
            return h, *backward(dh, cache)

        name = f"CS231n, LSTM, {shape}, float32"
        yield Case(
            f"{name}, forward",
            lambda call=call: theirs["lstm_forward"](*call)[0],
            lambda call=call: ours.lstm_forward(*call)[0],
        )
        yield Case(
            f"{name}, forward + backward",
            lambda both=both: both(theirs["lstm_forward"], theirs["lstm_backward"]),
            lambda both=both: both(ours.lstm_forward, ours.lstm_backward),
        )


def dlfs2() -> Iterator[Case]:
    from fastgate.compat import dlfs2 as ours

    theirs = page("dlfs2")
    for shape in SHAPES["dlfs2"]:
        a = arrays(shape, 4, "float32")
        before, after = (kind(a["Wx"], a["Wh"], a["b"]) for kind in (theirs["TimeLSTM"], ours.TimeLSTM))

        def both(layer, a=a):
            return layer.forward(a["x"]), layer.backward(a["dh"]), *layer.grads

        name = f"DLFS2, TimeLSTM, {shape}, float32"
        yield Case(
            f"{name}, forward",
            lambda layer=before, x=a["x"]: layer.forward(x),
            lambda layer=after, x=a["x"]: layer.forward(x),
        )
        yield Case(
            f"{name}, forward + backward",
            lambda both=both, layer=before: both(layer),
            lambda both=both, layer=after: both(layer),
        )


def autograd() -> Iterator[Case]:
    from autograd import grad

    from fastgate.compat.autograd import lstm as ours

    code = page("autograd")
    lstm_loop, gradients = code["lstm_loop"], (grad(code["loss_before"]), grad(code["loss_after"]))
    for shape in SHAPES["autograd"]:
        a = arrays(shape, 4, "float64")
        x, y = a.pop("x"), a.pop("dh")[:, :, :3]
        call = x, *a.values()
        params = a | {"V": a["Wh"][:, :3]}

        def derive(gradient, arguments=(params, x, y)):
            found = gradient(*arguments)
            return [found[name] for name in sorted(found)]

        name = f"autograd, LSTM, {shape}, float64"
        yield Case(f"{name}, forward", lambda call=call: lstm_loop(*call), lambda call=call: ours(*call))
        yield Case(
            f"{name}, grad",
            lambda derive=derive: derive(gradients[0]),
            lambda derive=derive: derive(gradients[1]),
        )


def jax() -> Iterator[Case]:
    import jax

    from fastgate.compat.jax import lstm as ours

    code = page("jax")
    scan, after = jax.jit(code["lstm_scan"]), jax.jit(ours)
    gradients = [jax.jit(jax.grad(code[f"loss_{when}"])) for when in ("before", "after")]
    for shape in SHAPES["jax"]:
        a = {name: jax.numpy.asarray(value) for name, value in arrays(shape, 4, "float32").items()}
        x, y = a.pop("x"), a.pop("dh")[:, :, :3]
        call = x, *a.values()
        params = a | {"V": a["Wh"][:, :3]}

        def derive(gradient, arguments=(params, x, y)):
            return jax.tree.leaves(jax.block_until_ready(gradient(*arguments)))

        name = f"JAX, LSTM, {shape}, float32"
        yield Case(
            f"{name}, forward",
            lambda call=call: jax.block_until_ready(scan(*call)),
            lambda call=call: jax.block_until_ready(after(*call)),
        )
        yield Case(
            f"{name}, grad",
            lambda derive=derive: derive(gradients[0]),
            lambda derive=derive: derive(gradients[1]),
        )


def of(module: str, function: str = "swap_cases") -> Callable[[], Iterable[tuple]]:
    """The source whose cases stand in a module of their own."""
    return lambda: getattr(importlib.import_module(f"{__package__}.{module}"), function)()


SOURCES: dict[str, Callable[[], Iterable[tuple]]] = {
    "hand_written": hand_written,
    "cs231n": cs231n,
    "dlfs2": dlfs2,
    "autograd": autograd,
    "jax": jax,
    "pytorch": of("torch_training"),
    "keras": of("swap_imports", "keras_cases"),
    "onnx": of("swap_imports", "onnx_cases"),
}


# --- measuring ----------------------------------------------------------------------------------------------------


def run(names: list[str], threads: int, budget: float, clock: str = "wall") -> tuple[list[Row], dict[str, str]]:
    """The rows, and for the sources that are missing the reason why."""
    import fastgate

    fastgate.set_num_threads(threads)
    rows, skipped = [], {}
    for name in names:
        try:
            for case in SOURCES[name]():
                row = timed(Case(*case), budget, clock)
                print(f"{row.name}: {row.ratio.median:.1f}", file=sys.stderr)
                rows.append(row)
        except ImportError as reason:
            skipped[name] = str(reason)
    return rows, skipped


def timed(case: Case, budget: float, clock: str = "wall") -> Row:
    compare(case.name, case.before(), case.after())
    times = measure({"before": case.before, "after": case.after}, budget, clock=CLOCKS[clock])
    before, after = times["before"], times["after"]
    return Row(case.name, before.median, after.median, ratio(before, after))


def compare(name: str, before: Any, after: Any) -> None:
    """Arrays, numbers, or tuples and lists of them."""
    import numpy as np

    if isinstance(before, (tuple, list)):
        if len(before) != len(after):
            raise WrongResult(f"{name}: {len(before)} results before, {len(after)} after")
        for k, (a, z) in enumerate(zip(before, after, strict=True)):
            compare(f"{name}, result {k}", a, z)
        return
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if before.shape != after.shape:
        raise WrongResult(f"{name}: shape {before.shape} before, {after.shape} after")
    if before.size and not np.abs(before - after).max() <= LIMIT * np.abs(before).max():
        raise WrongResult(f"{name}: differs by {np.abs(before - after).max():.1e}")


# --- the table ----------------------------------------------------------------------------------------------------


def table(rows: list[Row], skipped: dict[str, str], setting: str) -> str:
    lines = [
        "Time before / time after, shapes (T, N, D, H); above 1 it is faster after.",
        "",
        "| | before, ms | after, ms | before / after |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {row.name} | {1e3 * row.before:.3g} | {1e3 * row.after:.3g} | {_ratio(row.ratio.median)} |" for row in rows),
        "",
        f"Measured with `python -m bench.swap` on {setting}; medians of bursts taken in turn.",
    ]
    if skipped:
        lines += ["", "Not measured: " + "; ".join(f"{name} ({reason})" for name, reason in skipped.items()) + "."]
    return "\n".join(lines)


def _ratio(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"**{value:.2f}**"


def setting(threads: int) -> str:
    import numpy as np

    import fastgate

    config = fastgate.get_config()
    versions = f"fastgate {fastgate.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
    return f"{config['cpu']}, {config['isa']}, {threads} thread{'s' * (threads > 1)}; {versions}"


def measured(names: list[str], threads: int, budget: float, clock: str = "wall") -> str:
    """The table, made in this process."""
    return table(*run(names, threads, budget, clock), setting(threads) + ", cpu time" * (clock == "cpu"))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.swap", description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*", choices=[*SOURCES, []], help="default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=2.0, help="seconds of timing per row")
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="cpu: for busy machines, one thread only")
    parser.add_argument("--page", type=Path, default=DOCS / "swap-it-in.md", help="where the table is written")
    parser.add_argument("--dry", action="store_true", help="print the table, write nothing")
    options = parser.parse_args(words)
    if options.clock == "cpu" and options.threads > 1:
        parser.error("--clock cpu adds the times of all threads: use it with --threads 1")
    prefer_installed()
    sources = options.sources or list(SOURCES)
    found = fresh(options.threads, measured, sources, options.threads, options.budget, options.clock)
    print(found)
    if not options.dry:
        text = options.page.read_text(encoding="utf-8")
        options.page.write_text(replace_between_markers(text, found, BEGIN, END), encoding="utf-8")


if __name__ == "__main__":
    main()
