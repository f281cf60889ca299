"""What accelerate(model) brings to the training of a PyTorch model on the CPU: `python -m bench.torch_training`.

Character models on English text: embedding, recurrent layers, head; truncated backpropagation with carried states,
cross-entropy, clipping by the norm, Adam. Two copies of a model, one of them accelerated, take their steps in turn, so that the
machine's drift meets both; the whole step is timed. Before that both take STEPS steps, whose losses must agree.

python -m bench.torch_training                 1 and 2 threads, the table into docs/swap/pytorch.md
python -m bench.torch_training --dry           only printed
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .process import fresh, prefer_installed
from .timer import CLOCKS, Ratio, geometric_mean, measure, ratio
from .update_readme import replace_between_markers

PAGE = Path(__file__).parent.parent / "docs" / "swap" / "pytorch.md"
BEGIN, END = "<!-- torch-training:begin -->", "<!-- torch-training:end -->"
STEPS = 20
LIMIT = 1e-3  # of the first loss: rounding in float32 grows from step to step, another gate order is far off


class Setup(NamedTuple):
    """A model and its batches."""

    cell: str  # "GRU" or "LSTM"
    layers: int
    T: int
    N: int
    D: int  # width of the embedding
    H: int

    def __str__(self) -> str:
        return f"nn.{self.cell}, {self.layers} layer{'s' * (self.layers > 1)}, {self[2:]}"


SIZES = [(1, 100, 1, 64, 64), (1, 100, 8, 64, 128), (1, 50, 32, 128, 128), (2, 50, 32, 128, 256), (1, 50, 64, 512, 512)]
SETUPS = [Setup(cell, *sizes) for cell in ("GRU", "LSTM") for sizes in SIZES]
SWAPS = [Setup(cell, *sizes) for cell in ("GRU", "LSTM") for sizes in SIZES[1:3]]


class Row(NamedTuple):
    setup: Setup
    threads: int
    before: float  # seconds a step
    after: float
    ratio: Ratio  # before / after
    losses: tuple[float, float]  # the first and the last of STEPS
    difference: float  # the largest between the two curves


class Training:
    """A character model, its text, its optimiser: `step` takes the next batch and returns the loss."""

    def __init__(self, setup: Setup, faster: bool) -> None:
        import numpy as np
        import torch
        from torch import nn

        from fastgate.compat.torch import accelerate
        from fastgate.demo.text import Streams, encode, read_text, vocabulary

        text = read_text("")
        chars = vocabulary(text)
        self.batches = Streams(encode(text, chars), setup.N, setup.T, np.random.default_rng(0))
        torch.manual_seed(0)
        embedding = nn.Embedding(len(chars), setup.D)
        recurrent = getattr(nn, setup.cell)(setup.D, setup.H, setup.layers, batch_first=True)
        self.model = nn.ModuleList([embedding, recurrent, nn.Linear(setup.H, len(chars))])
        if faster:
            accelerate(self.model)
        self.optimiser = torch.optim.Adam(self.model.parameters(), 2e-3)
        self.state: Any = None

    def step(self) -> float:
        import torch
        from torch import nn

        x, y, begins = self.batches.next()
        embedding, recurrent, head = self.model
        h, state = recurrent(embedding(torch.from_numpy(x)), None if begins else self.state)
        self.state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        loss = nn.functional.cross_entropy(head(h).flatten(0, 1), torch.from_numpy(y).flatten())
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return loss.item()


def pair(setup: Setup) -> tuple[Training, Training]:
    return Training(setup, faster=False), Training(setup, faster=True)


def swap_cases() -> Iterator[tuple[str, Callable[[], float], Callable[[], float]]]:
    """For bench/swap.py: (name, before, after), each call a step of training, which returns the loss."""
    for setup in SWAPS:
        before, after = pair(setup)
        yield f"PyTorch, training of nn.{setup.cell}, {setup[2:]}, float32", before.step, after.step


def run(setups: list[Setup], threads: int, budget: float, clock: str) -> list[Row]:
    """The rows, measured in this process."""
    import torch

    import fastgate

    torch.set_num_threads(threads)
    fastgate.set_num_threads(threads)
    rows = []
    for setup in setups:
        before, after = pair(setup)
        curves = [(before.step(), after.step()) for _ in range(STEPS)]
        difference = max(abs(a - b) for a, b in curves)
        if not difference <= LIMIT * curves[0][0]:
            raise RuntimeError(f"{setup}: the losses differ by {difference:.1e}")
        times = measure({"before": before.step, "after": after.step}, budget, clock=CLOCKS[clock])
        found = ratio(times["before"], times["after"])
        ends = curves[0][0], curves[-1][0]
        rows.append(Row(setup, threads, times["before"].median, times["after"].median, found, ends, difference))
        print(f"{setup}, {threads} thread{'s' * (threads > 1)}: {found.median:.2f}", file=sys.stderr)
    return rows


def table(rows: list[Row]) -> str:
    """Markdown: a line for each model, columns for each number of threads. Rows that lose are bold."""
    counts = sorted({row.threads for row in rows})
    heads = [f"{n} thread{'s' * (n > 1)}: torch, ms | fastgate, ms | torch / fastgate" for n in counts]
    lines = [
        "Time of a whole step of training (embedding, layers, head, loss, backward, clipping, Adam), float32, (T, N, D, H).",
        "",
        "| " + " | ".join(["", *heads, f"largest difference of the losses in {STEPS} steps"]) + " |",
        "| " + " | ".join(["---", *["---:"] * (3 * len(counts) + 1)]) + " |",
    ]
    for setup in dict.fromkeys(row.setup for row in rows):
        found = {row.threads: row for row in rows if row.setup == setup}
        cells = [str(setup)]
        for n in counts:
            r = found[n].ratio.median
            cells += [f"{1e3 * found[n].before:.3g}", f"{1e3 * found[n].after:.3g}", f"{r:.2f}" if r >= 1 else f"**{r:.2f}**"]
        lines.append("| " + " | ".join([*cells, f"{max(row.difference for row in found.values()):.0e}"]) + " |")
    for cell in dict.fromkeys(row.setup.cell for row in rows):
        ratios = [[row.ratio.median for row in rows if (row.setup.cell, row.threads) == (cell, n)] for n in counts]
        cells = [entry for each in ratios for entry in ("", "", f"{geometric_mean(each):.2f}")]
        lines.append("| " + " | ".join([f"nn.{cell}, geometric mean", *cells, ""]) + " |")
    return "\n".join(lines)


def setting() -> str:
    import platform

    import torch

    import fastgate

    config = fastgate.get_config()
    versions = f"fastgate {fastgate.__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}"
    return f"Measured with `python -m bench.torch_training` on {config['cpu']}, {config['isa']}; {versions}; medians, in turn."


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.torch_training", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", default=["GRU", "LSTM"], choices=["GRU", "LSTM"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--budget", type=float, default=8.0, help="seconds of timing per row")
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="cpu: for busy machines, one thread only")
    parser.add_argument("--dry", action="store_true", help="print the table, write nothing")
    options = parser.parse_args(words)
    if options.clock == "cpu" and options.threads != [1]:
        parser.error("--clock cpu adds the times of all threads: use it with --threads 1")
    prefer_installed()
    setups = [setup for setup in SETUPS if setup.cell in options.cells]
    rows = [row for n in options.threads for row in fresh(n, run, setups, n, options.budget, options.clock)]
    found = f"{table(rows)}\n\n{fresh(1, setting)}"
    print(found)
    if not options.dry:
        PAGE.write_text(replace_between_markers(PAGE.read_text(encoding="utf-8"), found, BEGIN, END), encoding="utf-8")


if __name__ == "__main__":
    main()
