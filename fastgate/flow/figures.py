"""A picture for each instrument. Each function returns a matplotlib Figure, or draws on `axes` and returns theirs; nothing is
shown, nothing of matplotlib's own state is touched."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastgate import _arguments
from fastgate._files import plain, replacing
from fastgate.flow import instruments
from fastgate.flow._omega import Omega, omega
from fastgate.flow._trace import Trace
from fastgate.flow.instruments import Floats, JacobianNorms, ProductVariance, Spectrum

INK, FAINT, RULE = "#26323a", "#aab4ba", "#e3e8eb"
COLORS = ("#1f4e8c", "#d9822b", "#2a7f62", "#a23b72", "#6b6ecf", "#7a6a53", "#4aa3c7", "#c8442f")
LOW, MIDDLE, HIGH = "#3b6fb0", "#e6eaed", "#d9822b"


def new_figure(width: float = 6.4, height: float = 4.2) -> Any:
    """An empty Figure; an ImportError says which extra brings matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("fastgate.flow draws with matplotlib: pip install 'fastgate[demo]'") from error
    return Figure(figsize=(width, height), layout="constrained", dpi=130)


def judge_path(figure: Any, path: str | os.PathLike[str]) -> str:
    """The format that the path ends in, of one where a file can be put."""
    ending = os.path.splitext(plain(path))[1].lstrip(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if ending not in known:
        raise ValueError(f"path: expected a name that ends in one of .{', .'.join(sorted(known))}, got {plain(path)!r}")
    replacing(path)
    return ending


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure, in the format that the path ends in."""
    ending = judge_path(figure, path)
    with replacing(path) as file:
        figure.savefig(file, format=ending)


def plot_gradient_norms(traces: Any, block: str = "state", axes: Any = None) -> Any:
    """||dL/ds_t|| over time: the median row, and the band between the 10th and the 90th percentile."""
    axes = _axes(axes)
    for trace, look in _looks(traces):
        norms = instruments.gradient_norms(trace, block)
        _over_rows(axes, np.arange(norms.shape[1]), norms, trace.name, look)
    _finish(axes, "Gradient of the loss at each step", "step $t$", rf"$\|\partial L / \partial {_state(traces, block)}_t\|$")
    _log(axes)
    return axes.figure


def plot_jacobian_norms(traces: Any, found: Any = None, block: str = "state", axes: Any = None) -> Any:
    """||ds_t/ds_k|| over the distance t - k; of a plain recurrent cell the bound, dotted.

    found : what jacobian_norms returned for the traces, one or a list; None computes it.
    """
    axes = _axes(axes)
    traces = _several(traces)
    found = [found] if isinstance(found, JacobianNorms) else found or [instruments.jacobian_norms(t, block) for t in traces]
    for (trace, look), norms in zip(_looks(traces), found, strict=True):
        _over_rows(axes, norms.distance, norms.norm, trace.name, look | {"marker": "o", "markersize": 3})
        if trace.cell == "rnn" and trace.period is None and len(norms.distance):
            distance = np.arange(1, norms.distance[-1] + 1)
            limit = instruments.bound(trace.weights["Wh"], distance, trace.options.get("activation", "tanh"))
            axes.plot(distance, _positive(limit), ":", color=look["color"], linewidth=1.2, label=f"{trace.name}, bound")
    axes.axhline(1, color=FAINT, linewidth=0.8, zorder=0)
    state = _state(traces, block)
    _finish(
        axes, "What a state still means, steps later", "distance $t - k$", rf"$\|\partial {state}_t / \partial {state}_k\|$"
    )
    _log(axes)
    return axes.figure


def plot_spectrum(spectra: Any, axes: Any = None) -> Any:
    """Eigenvalues in the complex plane, beside the unit circle. spectra : a Spectrum, or a dict of them by name."""
    axes = _axes(axes, 4.6, 4.6)
    spectra = _named(spectra)
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), color=INK, linewidth=0.8, zorder=1)
    reach = 1.15
    for look, (name, found) in zip(_looks_of(list(spectra)), spectra.items(), strict=True):
        label = f"{name}{', ' * bool(name)}radius {found.radius:.2f}, largest σ {found.gain:.2f}"
        mark = "x" if name.endswith("reverse") else "o"
        axes.plot(*_plane(found.eigenvalues), mark, color=look["color"], alpha=0.6, markersize=3.5, label=label)
        reach = max(reach, 1.1 * found.radius)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    _finish(axes, "Eigenvalues of Wh, and the unit circle", "real", "imaginary", legend="below")
    return axes.figure


def plot_singular_values(spectra: Any, axes: Any = None) -> Any:
    """The singular values in order and, dotted, the moduli of the eigenvalues. spectra : as in plot_spectrum."""
    axes = _axes(axes)
    spectra = _named(spectra)
    for look, (name, found) in zip(_looks_of(list(spectra)), spectra.items(), strict=True):
        units = (np.arange(len(found.singular_values)) + 0.5) / max(len(found.singular_values), 1)
        axes.plot(units, found.singular_values, linewidth=1.6, label=f"{name} σ".strip(), **look)
        axes.plot(units, np.abs(found.eigenvalues), ":", color=look["color"], linewidth=1.4, label=f"{name} |λ|".strip())
    axes.axhline(1, color=FAINT, linewidth=0.8, zorder=0)
    axes.set_xlim(0, 1)
    _finish(axes, "What one product with Wh can do", "share of units", "singular value σ, modulus |λ|")
    axes.set_ylim(0, max(1.1, 1.05 * axes.get_ylim()[1]))
    return axes.figure


def plot_saturation(traces: Any, axes: Any = None) -> Any:
    """For each gate the shares of its values at both ends of its range, over all rows, steps and units."""
    several = _several(traces)
    rows = [
        (f"{trace.name}  {letter}".strip() if len(several) > 1 else letter, gate)
        for trace in several
        for letter, gate in instruments.saturation(trace).items()
    ]
    axes = _axes(axes, 6.4, 1.4 + 0.34 * len(rows))
    for y, (_, gate) in enumerate(rows):
        low, high = (float(a.mean()) if a.size else 0.0 for a in (gate.low, gate.high))
        for left, width, color in ((0, low, LOW), (low, 1 - low - high, MIDDLE), (1 - high, high, HIGH)):
            axes.barh(y, width, left=left, color=color, height=0.72)
        for at, share in ((0.012, low), (0.988, high)):
            if share >= 0.01:
                shown = {"ha": "left" if at < 0.5 else "right", "va": "center", "fontsize": 7}
                axes.text(at, y, f"{share:.0%}", color="white" if share > 0.08 else INK, **shown)
    spare = max(0, 4 - len(rows)) / 2
    axes.set(
        yticks=range(len(rows)),
        yticklabels=[name for name, _ in rows],
        ylim=(len(rows) - 0.4 + spare, -0.6 - spare),
        xlim=(0, 1),
    )
    axes.set_xticks([0, 0.5, 1], ["0", "half", "all values"])
    _finish(axes, "Values at the ends of their range", "", "", legend=None)
    handles = [axes.barh([0], [0], color=color) for color in (LOW, HIGH)]
    words = ["< 0.1 (tanh: < −0.9)", "> 0.9"]
    axes.legend(handles, words, frameon=False, fontsize=7.5, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    axes.grid(False)
    return axes.figure


def plot_time_constants(traces: Any, axes: Any = None) -> Any:
    """The time constants of all units, sorted, beside the length of the sequences. Of all cells but rnn."""
    axes = _axes(axes)
    steps = 1
    for trace, look in _looks(traces):
        constants = np.sort(instruments.time_constants(trace))
        units = (np.arange(len(constants)) + 0.5) / max(len(constants), 1)
        median = np.median(constants) if len(constants) else np.nan
        axes.plot(units, _positive(constants), label=f"{trace.name}, median {median:.3g}", **look)
        steps = max(steps, int(trace.lengths.max(initial=0)))
    axes.axhline(steps, color=FAINT, linewidth=0.8)
    axes.text(0.0, steps, f" {steps} steps: the longest row", fontsize=7.5, color=INK, va="bottom")
    axes.set_xlim(0, 1)
    _finish(axes, "How long the units remember", "share of units", "time constant, steps")
    _log(axes)
    return axes.figure


def plot_omega(traces: Any, found: Any = None, axes: Any = None) -> Any:
    """By how much each step back multiplies the norm of the error signal: median and 10th to 90th percentile over rows.

    found : what omega returned for the traces, one or a list; None computes it.
    """
    axes = _axes(axes)
    traces = _several(traces)
    found = [found] if isinstance(found, Omega) else found or [omega(t) for t in traces]
    for (trace, look), value in zip(_looks(traces), found, strict=True):
        _over_rows(axes, np.arange(value.ratio.shape[1]), value.ratio, f"{trace.name}, Ω = {value.value:.3g}", look)
    axes.axhline(1, color=FAINT, linewidth=0.8, zorder=0)
    _finish(
        axes,
        "What one step back does to the error signal",
        "step $t$",
        rf"$\|\delta_t\,\partial {_state(traces)}_t / \partial {_state(traces)}_{{t-1}}\|\;/\;\|\delta_t\|$",
    )
    axes.set_ylim(0, max(1.1, 1.05 * axes.get_ylim()[1]))
    return axes.figure


def plot_product_variance(found: ProductVariance, axes: Any = None) -> Any:
    """The variance of a signal after n random weights, measured (dots) and scale^(2n) (lines)."""
    axes = _axes(axes)
    for k, scale in enumerate(found.scales):
        color = COLORS[k % len(COLORS)]
        axes.plot(found.depths, _positive(found.predicted[k]), color=color, linewidth=1.2, label=f"scale {scale:g}")
        axes.plot(found.depths, _positive(found.measured[k]), "o", color=color, markersize=4)
    _finish(axes, "Products of random weights", "depth $n$", "variance / variance before")
    _log(axes)
    return axes.figure


# --- what they share ---------------------------------------------------------------------------------------------


def _several(traces: Any) -> list[Trace]:
    found = [traces] if isinstance(traces, Trace) else list(traces) if isinstance(traces, (list, tuple)) else None
    if not found or not all(isinstance(t, Trace) for t in found):
        raise TypeError(
            f"traces: expected a Trace or several, what fastgate.flow.trace returns, got {_arguments._kind(traces)}"
        )
    return found


def _named(spectra: Any) -> dict[str, Spectrum]:
    found = {"": spectra} if isinstance(spectra, Spectrum) else spectra
    if not isinstance(found, dict) or not found or not all(isinstance(s, Spectrum) for s in found.values()):
        raise TypeError(f"spectra: expected a Spectrum or a dict of them, got {_arguments._kind(spectra)}")
    return found


def _plane(values: Any) -> tuple[Floats, Floats]:
    return values.real, values.imag


def _looks(traces: Any) -> list[tuple[Trace, dict[str, Any]]]:
    found = _several(traces)
    return list(zip(found, _looks_of([t.name for t in found]), strict=True))


def _looks_of(names: list[str]) -> list[dict[str, Any]]:
    """A colour for each layer; the reverse direction dashed."""
    layers = list(dict.fromkeys(name.split(",")[0] for name in names))
    colors = [COLORS[layers.index(name.split(",")[0]) % len(COLORS)] for name in names]
    return [{"color": c, "linestyle": "--" if n.endswith("reverse") else "-"} for c, n in zip(colors, names, strict=True)]


def _axes(axes: Any, width: float = 6.4, height: float = 4.2) -> Any:
    return new_figure(width, height).subplots() if axes is None else axes


def _positive(a: Floats) -> Floats:
    """What a logarithmic axis can show."""
    return np.where((a > 0) & np.isfinite(a), a, np.nan)


def _over_rows(axes: Any, at: Any, values: Floats, label: str, look: dict[str, Any]) -> None:
    """Median and band over the rows of (N, …)."""
    shown = np.flatnonzero(np.isfinite(values).any(axis=0))
    low, middle, high = np.nanpercentile(values[:, shown], (10, 50, 90), axis=0) if len(shown) else np.zeros((3, 0))
    axes.plot(at[shown], _positive(middle), label=label, linewidth=1.6, **look)
    if len(values) > 1:
        axes.fill_between(at[shown], _positive(low), _positive(high), color=look["color"], alpha=0.15, linewidth=0)


def _state(traces: Any, block: str = "state") -> str:
    """The letter of what is differentiated: s stands for (h, c)."""
    return ("s" if any(t.has_c for t in _several(traces)) else "h") if block == "state" else block


def _log(axes: Any) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if not any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
        axes.set_ylim(0.1, 10)
    elif high / low < 100:
        middle = np.sqrt(high * low)
        axes.set_ylim(min(low, middle / 10), max(high, middle * 10))


def _finish(axes: Any, title: str, x: str, y: str, legend: str | None = "best") -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=8.5, color=INK)
    axes.set_ylabel(y, fontsize=8.5, color=INK)
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.set_axisbelow(True)
    axes.grid(color=RULE, linewidth=0.7)
    if legend and axes.get_legend_handles_labels()[1]:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)} if legend == "below" else {"loc": legend}
        axes.legend(frameon=False, fontsize=7.5, **below)
