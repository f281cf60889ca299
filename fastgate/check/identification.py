"""identify: what a step function computes, and the fastgate call that computes the same."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastgate
from fastgate.check import conventions, model, probing
from fastgate.check.conventions import Candidate, Named
from fastgate.check.model import Variant
from fastgate.check.pair import CannotDescribe, quiet
from fastgate.check.stepping import Step, understand

LARGEST = 96  # D + H up to which hidden weights are read off
ROWS = {"rows": "{}", "columns": "{}.T", "vector": "{}[None]", "column": "{}.T"}
ACTIVATIONS = {  # those that fastgate has: of an rnn, of the candidate of the others
    "rnn": ("tanh", "relu", "sigmoid", "identity"),
    "gru": ("tanh",),
    "lstm": ("tanh", "sigmoid"),
}


@dataclass
class Identification:
    """The result of identify. bool(found): fastgate computes the same. str(found): the report.

    cell : "rnn", "lstm", "gru", or None where it is none of them
    gate_order : letters in the order of the blocks of the weights; None where no weights are known, or for rnn
    layout : how weights multiply: "x @ Wx + h @ Wh", "Wx @ x + Wh @ h", "[x, h] @ W", "W @ [h, x]", …; None for hidden weights
    bias : "none", "one", "two", and for a gru with reset "after" where b_n and bh_n sit
    reset, update : of a gru, as the options of fastgate.gru_forward; None where outputs cannot tell
    activation : of an rnn; of the candidate of lstm and gru
    peephole : None, or the order of the three parts of the peephole weights, "ifo"
    clip : {"cell_clip": v, "preact_clip": v}, those that there are
    call : source text of the fastgate call that reproduces the step; x, h, c and the weights under the user's names
    weights : those the call uses by **weights, where they were hidden and read off
    error : largest difference between step and call on fresh random inputs, relative to the largest value
    unmatched : sentences about what fastgate cannot reproduce; empty where all of it is
    notes : what could not be told apart, and what else is worth knowing
    """

    cell: str | None = None
    gate_order: str | None = None
    layout: str | None = None
    bias: str | None = None
    reset: str | None = None
    update: str | None = None
    activation: str | None = None
    peephole: str | None = None
    clip: dict[str, float] = field(default_factory=dict)
    coupled: bool = False
    call: str = ""
    error: float | None = None
    unmatched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    called: str = ""

    def __bool__(self) -> bool:
        return self.cell is not None and not self.unmatched

    def __str__(self) -> str:
        head = self.cell or "no rnn, lstm or gru (leaky units, memory cells, layer normalisation and projections are not tried)"
        if self.gate_order:
            head += f", gate order {self.gate_order}"
        lines = [head, f"  called      {self.called}"]
        for name in ("layout", "bias", "reset", "update", "activation", "peephole"):
            value = getattr(self, name)
            if value is not None:
                lines.append(f"  {name:10}  {value}")
        if self.coupled:
            lines.append("  coupled     i = 1 - f")
        for name, value in self.clip.items():
            lines.append(f"  {name:10}  {value:g}")
        lines += [f"  cannot match: {words}" for words in self.unmatched]
        if self.call:
            lines += ["  the same in fastgate:", f"    {self.call}"]
        if self.error is not None:
            lines.append(f"  largest difference on random inputs: {self.error:.1e}")
        lines += [f"  note: {words}" for words in self.notes]
        return "\n".join(lines)


def identify(
    step_function: Callable[..., Any],
    input_size: int,
    hidden_size: int,
    *,
    weights: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Identification:
    """Find out what a step function computes, and the fastgate call that computes the same.

        step(x, h) -> h        step(x, h, c) -> h, c        step(x, (h, c)) -> (h, c)

    Further results (a cache, an output) are passed over. x is (N, D), (D, N), (D,) or (D, 1), h and c alike with H; which of
    them is found by trying. The function must be the same every time and treat each row by itself.

    input_size, hidden_size : D and H
    weights : {name: array}, the arrays that the function uses: as parameters of these names (or one parameter `params` that is
        the dict), or inside. Any of Wx and Wh, (D, G·H) or transposed; one W for [x, h] or [h, x]; one array per gate (Wf, Wi,
        Wc, Wo); up to two biases; peepholes. Names mean nothing but the text of the call; shapes and numbers decide. None,
        and the function takes weights as parameters (Wx, Wh, b, …): random ones are used. None, and it does not: the weights
        are hidden.
    seed : of the random inputs

    With weights, all readings that the shapes allow are compared with the outputs: gate orders, layouts, biases, GRU variants,
    peepholes, activations, clips. With hidden weights the maps of the gates are read off the outputs in float64; then
    .weights holds them and the call uses them. The order of gates, the split of a bias in two and the side z keeps are names
    for hidden numbers, which no output depends on: they stay None, and .notes says so. What several readings explain alike
    stays None, too.

    Returns an Identification; its call was run on fresh random inputs, and .error is the largest difference. Raises ValueError
    or TypeError naming the argument where the function cannot be called in any of these ways.

    Gate equations and their variants: those of fastgate.lstm_forward, gru_forward, rnn_forward; peepholes: Gers and Schmidhuber
    (2000).
    """
    D, H = _size("input_size", input_size), _size("hidden_size", hidden_size)
    held = _weights(weights)
    try:
        step = understand(step_function, D, H, held)
    except CannotDescribe as error:
        raise ValueError(f"step_function: {error}") from None
    found = Identification(called=step.words())
    rng = np.random.default_rng(seed)
    with quiet():
        if step.weights:
            _with_weights(step, rng, found)
        else:
            _hidden(step, rng, found)
    return found


def _size(name: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer >= 1, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}: expected an integer >= 1, got {value}")
    return int(value)


def _weights(weights: Any) -> dict[str, np.ndarray] | None:
    if weights is None:
        return None
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights: expected a dict of arrays, got {type(weights).__name__}")
    held = {}
    for name, a in weights.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"weights: expected names that are identifiers, got {name!r}")
        if not isinstance(a, np.ndarray) or a.dtype not in (np.float32, np.float64):
            kind = a.dtype if isinstance(a, np.ndarray) else type(a).__name__
            raise TypeError(f"weights[{name!r}]: expected a float32 or float64 array, got {kind}")
        held[name] = a
    if not held:
        raise ValueError("weights: expected at least one array, got an empty dict; pass None where they are hidden")
    return held


# --- weights known ----------------------------------------------------------------------------------------------------


def _with_weights(step: Step, rng: np.random.Generator, found: Identification) -> None:
    single = step.dtype == np.float32 or any(a.dtype == np.float32 for a in step.weights.values())
    tolerance = 1e-4 if single or step.result_dtype() == np.float32 else 1e-9
    limits = probing.clips(step, rng)
    near = _mixed(step, rng, (0.3, 1.0, 2.0))
    far = _mixed(step, rng, (5.0, 25.0))
    outputs, outputs_far = step.run(*near), step.run(*far)
    matches = conventions.candidates(step, limits, near, outputs, tolerance)
    matches = [m for m in matches if _explains(m, far, outputs_far, tolerance)]
    if not matches:
        names = ", ".join(f"{name} {a.shape}" for name, a in step.weights.items())
        if step.generated or tolerance > 1e-9:
            found.unmatched.append(f"no reading of the weights ({names}) as an rnn, lstm or gru gives the outputs")
            return
        _hidden(step, rng, found)
        words = f"no reading of the weights given ({names}) gives the outputs"
        if found.cell is None:
            found.unmatched.insert(0, words)
        else:
            found.notes.insert(0, f"{words}: those in .weights, read off the outputs, do")
        return
    best = matches[0]
    _describe(best.variant, found)
    found.layout, found.bias, found.gate_order = best.reading.layout, best.bias, best.gate_order
    if best.variant.cell != "gru":
        found.bias = best.bias.split(",")[0]
    if best.peephole is not None:
        found.peephole = _peephole_order(best)
    _ambiguities(matches, found)
    for name in best.reading.unused:
        found.notes.append(f"{name} is not used by the step")
    _call(step, best, found)
    _verify(step, rng, found, tolerance, lambda x, h, c: model.step(best.variant, x, h, c, best.weights()))


def _mixed(step: Step, rng: np.random.Generator, scales: tuple[float, ...]) -> list[np.ndarray]:
    parts = [step.probe(rng, 5, x=scale, state=scale) for scale in scales]
    return [np.concatenate(arrays).astype(step.dtype).astype(float) for arrays in zip(*parts, strict=True)]


def _explains(candidate: Candidate, samples: list[np.ndarray], outputs: tuple[np.ndarray, ...], tolerance: float) -> bool:
    x, h, *c = samples
    modelled = model.step(candidate.variant, x, h, c[0] if c else None, candidate.weights())
    return all(_error(a, b) <= tolerance for a, b in zip(modelled, outputs, strict=True))


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    error = float(np.abs(found - expected).max())
    return error / max(float(np.abs(expected).max()), 1e-300) if np.isfinite(error) else np.inf


def _peephole_order(candidate: Candidate) -> str:
    """The letters of the user's array in its own order."""
    assert candidate.reading.peephole is not None
    assert candidate.peephole is not None
    given, canonical = (np.split(a.array, 3) for a in (candidate.reading.peephole, candidate.peephole))
    return "".join("ifo"[next(k for k in range(3) if np.array_equal(part, canonical[k]))] for part in given)


def _ambiguities(matches: list[Candidate], found: Identification) -> None:
    """Attributes about which the readings that explain all outputs disagree are not known."""
    best = matches[0]
    rivals = [m for m in matches if len(m.reading.unused) == len(best.reading.unused)]
    told: dict[str, set[Any]] = {
        "gate_order": {m.gate_order for m in rivals},
        "layout": {m.reading.layout for m in rivals},
        "bias": {m.bias for m in rivals},
        "reset": {m.variant.reset for m in rivals if m.variant.cell == "gru"},
        "update": {m.variant.update for m in rivals if m.variant.cell == "gru"},
        "activation": {m.variant.activation for m in rivals},
        "coupled": {m.variant.coupled for m in rivals},
    }
    for name, values in told.items():
        if len(values) < 2:
            continue
        words = " and ".join(sorted(map(str, values)))
        found.notes.append(f"{name}: {words} give the same outputs with these weights; the call uses {getattr(found, name)}")
        setattr(found, name, False if name == "coupled" else None)


def _describe(v: Variant, found: Identification) -> None:
    found.cell, found.activation, found.coupled = v.cell, v.activation, v.coupled
    if v.cell == "gru":
        found.reset, found.update = v.reset, v.update
    found.clip = {name: value for name in ("cell_clip", "preact_clip") if (value := getattr(v, name)) is not None}
    choices = ACTIVATIONS[v.cell]
    if v.activation not in choices:
        what = "the activation" if v.cell == "rnn" else "the candidate's activation"
        found.unmatched.append(f"{what} is {_words(v.activation)}; fastgate has {', '.join(choices)}")
    if v.gates != "sigmoid":
        found.unmatched.append(f"gates are {_words(v.gates)}; fastgate's are logistic sigmoids")
    if v.output != "tanh":
        how = "c" if v.output == "identity" else f"{v.output}(c)"
        found.unmatched.append(f"h = o * {how}; fastgate computes h = o * tanh(c)")
    if v.output_peephole == "old":
        found.unmatched.append("the output gate sees c_prev through its peephole; fastgate's sees the new c")
    if v.cell == "rnn" and v.preact_clip is not None:
        found.unmatched.append(f"pre-activations are clipped to ±{v.preact_clip:g}; fastgate clips those of an lstm only")


def _words(activation: str) -> str:
    return model.WORDS.get(activation, activation)


def _options(v: Variant, gate_order: str | None, peephole: str | None) -> dict[str, str]:
    """The keyword arguments of the call, those with their defaults left out."""
    options: dict[str, str] = {}
    if gate_order is not None:
        options["gate_order"] = f'"{gate_order}"'
    if v.cell == "rnn" and v.activation != "tanh":
        options["activation"] = f'"{v.activation}"'
    if v.cell == "gru":
        options["reset"] = f'"{v.reset}"'
        if v.update != "old":
            options["update"] = f'"{v.update}"'
    if v.cell == "lstm":
        if peephole is not None:
            options["peephole"] = peephole
        if v.activation != "tanh":
            options["candidate"] = f'"{v.activation}"'
        if v.coupled:
            options["coupled"] = "True"
        for name in ("cell_clip", "preact_clip"):
            if getattr(v, name) is not None:
                options[name] = repr(getattr(v, name))
    return options


def _states(step: Step) -> str:
    names = ("x", "h", "c") if step.has_c else ("x", "h")
    return ", ".join(ROWS[step.axes].format(name) for name in names)


def _call(step: Step, candidate: Candidate, found: Identification) -> None:
    if found.unmatched:
        return
    v, r = candidate.variant, candidate.reading
    b, bh = candidate.b, candidate.bh
    if v.cell == "gru" and v.reset == "before" and len(r.biases) == 2:
        b, bh = r.biases
    options = ({} if bh is None else {"bh": bh.text}) | _options(v, candidate.gate_order, _text(candidate.peephole))
    arguments = [_states(step), r.Wx.text, r.Wh.text, *([] if b is None else [b.text])]
    arguments += [f"{name}={value}" for name, value in options.items()]
    found.call = f"fastgate.{v.cell}_step_forward({', '.join(arguments)})"
    if step.axes != "rows":
        found.notes.append("x, h and c stand feature by feature; the call's results are rows (N, H)")
    _missing_options(v.cell, options, found)


def _text(named: Named | None) -> str | None:
    return None if named is None else named.text


def _missing_options(cell: str, options: Mapping[str, str], found: Identification) -> None:
    known = inspect.signature(getattr(fastgate, f"{cell}_step_forward")).parameters
    lacking = [name for name in options if name not in known]
    if lacking:
        found.notes.append(f"this version of fastgate.{cell}_step_forward has no {', '.join(lacking)}")


def _verify(step: Step, rng: np.random.Generator, found: Identification, tolerance: float, modelled: Any) -> None:
    """Run the call on fresh inputs; where fastgate lacks an option, the model of it."""
    x, h, *rest = _mixed(step, rng, (0.5, 1.0, 4.0))
    c = rest[0] if rest else None
    expected = step.run(x, h, c)
    runs = found.call and not any(note.startswith("this version") for note in found.notes)
    if runs:
        results = [
            _evaluate(step, found, x[m : m + 1], h[m : m + 1], None if c is None else c[m : m + 1]) for m in range(len(x))
        ]
        outputs: tuple[np.ndarray, ...] = tuple(np.concatenate(parts) for parts in zip(*results, strict=True))
    else:
        outputs = modelled(x, h, c)
    found.error = max(_error(a, b) for a, b in zip(outputs, expected, strict=True))
    if found.error > tolerance:
        found.unmatched.append(f"the call gives other numbers on fresh inputs, by {found.error:.1e}")
        found.call = ""


def _evaluate(step: Step, found: Identification, x: np.ndarray, h: np.ndarray, c: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """The text of the call, evaluated as the user would."""
    names: dict[str, Any] = {"fastgate": fastgate, "np": np, "weights": found.weights, **step.weights}
    dtype = np.float32 if any(a.dtype == np.float32 for a in step.weights.values()) else np.float64
    for name, a in (("x", x), ("h", h), ("c", c)):
        if a is not None:
            a = a.astype(dtype)
            names[name] = a[0] if step.axes == "vector" else a.T if step.axes in ("columns", "column") else a
    return tuple(np.asarray(a, float) for a in eval(found.call, names)[: 1 + step.has_c])


# --- weights hidden ---------------------------------------------------------------------------------------------------


def _hidden(step: Step, rng: np.random.Generator, found: Identification) -> None:
    if step.result_dtype() == np.float32:
        found.unmatched.append(
            "the step computes in float32, too coarse to read hidden weights off; let it compute in float64, or pass weights="
        )
        return
    if step.D + step.H > LARGEST:
        found.unmatched.append(
            f"hidden weights are read off up to D + H = {LARGEST}; pass weights=, or a smaller cell of the kind"
        )
        return
    limits = probing.clips(step, rng)
    if step.has_c:
        tried = [probing.lstm(step, rng, limits)]
    else:
        tried = [probing.rnn(step, rng, limits)]
        if tried[0].variant is None:
            tried.append(probing.gru(step, rng))
    read = tried[-1]
    if read.variant is None:
        found.unmatched += [words for attempt in tried for words in attempt.words]
        return
    v, W = read.variant, read.weights
    small = 1e-6 * max(1.0, float(np.abs(W["Wx"]).max()))
    if v.cell == "gru" and np.abs(W["bh"]).max() <= small:
        del W["bh"]
    for name in ("b", "bh"):
        if name in W and np.abs(W[name]).max() <= small:
            del W[name]
    _describe(v, found)
    found.bias = "none" if "b" not in W and "bh" not in W else "one"
    H = step.H
    if "bh" in W:
        inside = "b" not in W or np.abs(W["b"][2 * H :]).max() <= small
        found.bias = "one, b_n inside r * (...)" if inside else "two, bh_n inside r * (...)"
    elif v.cell == "gru" and v.reset == "after" and found.bias == "one":
        found.bias = "one, b_n outside r * (...)"
    if "peephole" in W:
        found.peephole = "ifo"
    if v.cell != "rnn":
        order = "ifgo" if v.cell == "lstm" else "rzn"
        found.notes.append(f"gate order: a name for hidden blocks, which weights= would tell; .weights has {order}")
    if v.cell == "gru":
        found.update = None
        found.notes.append("update: z and 1 - z are one function of hidden weights; in .weights z keeps h")
        if len(read.resets) > 1:
            found.reset = None
            found.notes.append("reset: before and after are one function for H = 1 without a bias inside")
        elif "bh" not in W and v.reset == "before" and H == 1:
            found.reset = None
    if "b" in W and "inside" not in found.bias:
        found.notes.append("bias: the one in .weights may be the sum of two")
    found.weights = W
    if not found.unmatched:
        options = _options(v, None, None)
        text = "".join(f", {name}={value}" for name, value in options.items())
        found.call = f"fastgate.{v.cell}_step_forward({_states(step)}, **weights{text})"
        found.notes.insert(0, "weights: .weights of this result, read off the outputs")
        _missing_options(v.cell, options | {k: "" for k in W if k == "peephole"}, found)
    _verify(step, rng, found, 1e-5, lambda x, h, c: model.step(v, x, h, c, W))
    if found.error is not None and found.error > 1e-5:
        words = f"near one {v.cell} for some inputs, but not the same function: difference {found.error:.1e}"
        vars(found).update(vars(Identification(called=found.called, unmatched=[words])))
