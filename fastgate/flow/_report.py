"""One page that says whether and where gradients vanish or explode."""

from __future__ import annotations

import os
import textwrap
from typing import Any, NamedTuple

import numpy as np

from fastgate.flow import figures, instruments
from fastgate.flow._omega import omega
from fastgate.flow._trace import Array, Trace, trace
from fastgate.flow.instruments import JacobianNorms
from fastgate.layers._types import Lengths, Rng

LARGE = 1000.0  # a product of Jacobians that grows by more explodes, one that shrinks by more vanishes
SEEN = 100.0  # the factor whose distance is named
WIDTH = 200  # letters in a line
SIGNS = {"vanish": "#3b6fb0", "explode": "#c8442f", "flow": "#2a7f62"}
CANDIDATE = {"lstm": "g", "gru": "n"}  # the others have one block


class Verdict(NamedTuple):
    """About one layer and direction."""

    name: str
    word: str  # "vanish", "explode" or "flow"
    factor: float  # the median over rows of ||ds_T/ds_0||, over `steps` steps
    steps: int
    per_step: float  # factor^(1/steps)
    distance: float | None  # after how many steps 1 % is left, or it has grown a hundredfold; None where it never does
    words: str  # all that in a sentence or two, and why


class Report(NamedTuple):
    """What report returns."""

    figure: Any  # a matplotlib Figure; None without matplotlib
    verdicts: tuple[Verdict, ...]
    text: str  # the words of all verdicts
    traces: tuple[Trace, ...]


@np.errstate(all="ignore")  # of a net that has run away the words speak
def report(
    model: Any, x: Array, h0: Array | None = None, c0: Array | None = None, *, dh: Array | None = None,
    dh_T: Array | None = None, dc_T: Array | None = None, lengths: Lengths = None, reverse: bool = False, rng: Rng = 0,
    path: str | os.PathLike[str] | None = None, title: str | None = None,
) -> Report:  # fmt: skip
    """A page of figures, and words, about the gradients of a layer or a prepared cell on the sequences x.

    model, x, h0, c0, dh, dh_T, dc_T, lengths, reverse, rng : as trace takes them. Without dh, dh_T, dc_T the loss looks at the
    last state alone. path : where the page is written, .png, .pdf or .svg; None writes nothing.

    The verdict about a layer comes from ||ds_T/ds_k||, the largest factor by which anything that happened at step k can still
    matter at the end: below 1/1000 over the whole length gradients vanish, above 1000 they explode. It is about
    the way through time in that layer; a gradient may also come down from the layer above. It takes a second or two for 64
    units, 8 rows and 100 steps, most of it for drawing. Without matplotlib (the extra `demo`) there are the words alone, figure
    is None, and a path is an ImportError. A path with another ending is a ValueError, one in a folder that does not exist an
    OSError, both before anything is computed.
    """
    page = _empty_page(path)
    traces = trace(model, x, h0, c0, dh=dh, dh_T=dh_T, dc_T=dc_T, lengths=lengths, reverse=reverse, rng=rng)
    jacobians = [instruments.jacobian_norms(t, points=12, iterations=12) for t in traces]
    verdicts = tuple(judge(t, norms) for t, norms in zip(traces, jacobians, strict=True))
    if page is not None:
        N, T, _ = traces[0].x.shape
        usual = f"Gradient flow: {type(model).__name__}, {traces[0].hidden_size} units, {N} rows of {T} steps"
        _draw(page, traces, jacobians, verdicts, usual if title is None else title)
        if path is not None:
            figures.save(page, path)
    return Report(page, verdicts, "\n".join(v.words for v in verdicts), traces)


def _empty_page(path: str | os.PathLike[str] | None) -> Any:
    """A Figure; None without matplotlib, where none is to be written."""
    try:
        page = figures.new_figure(13, 8.6)
    except ImportError:
        if path is not None:
            raise
        return None
    if path is not None:
        figures.judge_path(page, path)
    return page


def _draw(
    page: Any, traces: tuple[Trace, ...], jacobians: list[JacobianNorms], verdicts: tuple[Verdict, ...], title: str
) -> None:  # fmt: skip
    """The six figures below the title and the words."""
    wrapped = [textwrap.fill(v.words, WIDTH, subsequent_indent="    ") for v in verdicts]
    lines = sum(words.count("\n") + 1 for words in wrapped)
    page.set_figheight(8 + 0.19 * lines)
    heading, body = page.subfigures(2, 1, height_ratios=[0.45 + 0.19 * lines, 7.5])
    panels = body.subplots(2, 3)
    figures.plot_gradient_norms(traces, axes=panels[0, 0])
    figures.plot_jacobian_norms(traces, jacobians, axes=panels[0, 1])
    figures.plot_omega(traces, [omega(t) for t in traces], axes=panels[0, 2])
    figures.plot_saturation(traces, axes=panels[1, 0])
    spectra = {t.name: spectrum_of(t) for t in traces if "Wh" in t.weights}
    if traces[0].cell in ("rnn", "memory"):
        figures.plot_singular_values(spectra, axes=panels[1, 1])
    else:
        figures.plot_time_constants(traces, axes=panels[1, 1])
    if spectra:
        figures.plot_spectrum(spectra, axes=panels[1, 2])
    else:
        panels[1, 2].set_axis_off()
    if traces[0].cell in CANDIDATE:
        panels[1, 2].set_title(f"Eigenvalues of {loop_of(traces[0])}", loc="left", fontsize=10, color=figures.INK)

    height = 0.45 + 0.19 * lines  # inches
    heading.text(0.012, 1 - 0.08 / height, title, fontsize=14, fontweight="bold", color=figures.INK, va="top")
    at = 0.42
    for verdict, words in zip(verdicts, wrapped, strict=True):
        heading.text(0.012, 1 - at / height, "■", fontsize=9, color=SIGNS[verdict.word], va="top")
        heading.text(0.026, 1 - at / height, words, fontsize=9, color=figures.INK, va="top", linespacing=1.3)
        at += 0.19 * (words.count("\n") + 1)


def spectrum_of(t: Trace) -> instruments.Spectrum:
    """Of the block of Wh through which the state reaches the candidate; beside a projection that of Wr Wh."""
    gate = t.options.get("gate_order", t.gates).index(CANDIDATE.get(t.cell, t.gates))
    Wh = t.weights["Wh"]
    if "Wr" in t.weights:
        Wh = np.matmul(t.weights["Wr"], Wh, dtype=np.float64)
    return instruments.spectrum(Wh, gate)


def loop_of(t: Trace) -> str:
    """What that is, in words."""
    name = "Wr Wh" if "Wr" in t.weights else "Wh"
    return f"{name} of {CANDIDATE[t.cell]}" if t.cell in CANDIDATE else name


def judge(t: Trace, norms: JacobianNorms) -> Verdict:
    """The verdict about one trace."""
    if not t.lengths.any():
        return Verdict(t.name, "flow", 1.0, 0, 1.0, None, f"{t.name}: no steps.")
    seen = ~np.isnan(norms.norm).all(axis=0)
    if not seen.any():
        words = f"{t.name}: gradients explode. The states are NaN. {_why(t)}"
        return Verdict(t.name, "explode", np.inf, int(t.lengths.max()), np.inf, None, words)
    distance, middle = norms.distance[seen], np.nanmedian(norms.norm[:, seen], axis=0)
    factor, steps = float(middle[-1]), int(distance[-1])
    per_step = factor ** (1 / steps)
    word = "vanish" if factor < 1 / LARGE else "explode" if factor > LARGE else "flow"
    crossing = _crossing(distance, middle, 1 / SEEN if factor < 1 else SEEN)
    words = f"{t.name}: gradients {word}. "
    if word == "flow":
        words += f"Over {steps} steps {factor:.2g} of a change of the state is left at most, {per_step:.3f} per step."
    else:
        words += (
            f"A change of the state has {'shrunk' if word == 'vanish' else 'grown'} a hundredfold after {crossing:.0f} steps"
        )
        words += f", to {factor:.0e} after {steps}: {per_step:.2f} per step."
    return Verdict(t.name, word, factor, steps, per_step, crossing, f"{words} {_why(t)}")


def _crossing(distance: Any, middle: Any, level: float) -> float | None:
    """The distance from which on the norm stays beyond a level, between two points on a logarithmic scale."""
    with np.errstate(divide="ignore"):
        away = np.log(np.maximum(middle, 1e-300) / level) * (1 if level > 1 else -1)
    inside = np.flatnonzero(away < 0)
    last = int(inside[-1]) if len(inside) else -1
    if last + 1 == len(away):
        return None
    if last < 0:
        return float(distance[0])
    share = -away[last] / (away[last + 1] - away[last])
    return float(distance[last] + share * (distance[last + 1] - distance[last]))


def _why(t: Trace) -> str:
    """What the weights and gates say about it."""
    found = spectrum_of(t) if "Wh" in t.weights else None
    ends = {letter: gate.share for letter, gate in instruments.saturation(t).items()}
    if t.cell == "rnn" and found is not None:
        slope = instruments.SLOPES[t.options.get("activation", "tanh")]
        words = f"Wh has radius {found.radius:.2f}, largest singular value {found.gain:.2f}"
        if found.gain * slope < 1 and t.period is None:
            words += f", below 1 with slopes of at most {slope:g}: they cannot but vanish"
        share = ends["h"]
        if share > 0.05:
            words += f"; {share:.0%} of the values are " + ("0" if t.options.get("activation") == "relu" else "saturated")
        return words + "."
    if t.cell == "memory":
        words = "The loop keeps all"
    else:
        constants = instruments.time_constants(t)
        gate = {"lstm": "Gate f", "leaky": "alpha"}.get(t.cell, "Gate 1 - z" if t.options.get("update") == "new" else "Gate z")
        keeps = float(np.exp(-1 / np.median(constants))) if np.median(constants) > 0 else 0.0
        words = f"{gate} keeps {keeps:.2f} per step (median unit; time constant {np.median(constants):.2g} steps)"
    if found is not None:
        words += f"; {loop_of(t)} has radius {found.radius:.2f}"
    most = max(ends, key=ends.__getitem__)
    if ends[most] > 0.3:
        words += f"; {ends[most]:.0%} of {most} are at the ends of their range"
    return words + "."
