"""identify: what a step function computes, and the fastgate call that computes the same."""

import functools
import inspect
import keyword
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import fastgate
from fastgate import reference
from fastgate.check import conventions, model, probing, probing_gru, probing_lstm
from fastgate.check.conventions import Candidate
from fastgate.check.found import Identification
from fastgate.check.model import Variant
from fastgate.check.pair import CannotDescribe, quiet
from fastgate.check.stepping import Step, understand
from fastgate.layers import _judge

LARGEST = 96  # D + H up to which hidden weights are read off
NAMES = ("fastgate", "np", "float", "weights", "x", "h")  # of a call's own; c is one where the step has it
OTHER_NAMES = "expected names that can stand in the text of a call"
ROWS = {"rows": "{}", "columns": "{}.T", "vector": "{}[None]", "column": "{}.T"}
ACTIVATIONS = {  # those that fastgate has: of rnn, leaky and memory, of the candidate of the others
    "rnn": reference.rnn.OPTIONS["activation"],
    "leaky": reference.leaky.OPTIONS["activation"],
    "memory": reference.memory.OPTIONS["activation"],
    "gru": reference.gru.OPTIONS["candidate"],
    "lstm": reference.lstm.OPTIONS["candidate"],
    "lstm_norm": ("tanh",),
    "gru_norm": ("tanh",),
}


def identify(
    step_function: Callable[..., Any],
    input_size: int,
    hidden_size: int,
    *,
    weights: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Identification:
    """Find out what a step function computes, and the fastgate call that computes the same.

        step(x, h) -> h        step(x, h, c) -> h, c        step(x, (h, c)) -> h, (h, c)

    States come one by one, in a tuple or in a list, in either order, before x or after it; parameters that have a default are
    given only where it must be. They return anywhere in tuples, lists and dicts, beside outputs and a cache: h and c are the
    two that stand together first, `h, c, cache`, `y, (h, c)`, `(h, c), y`. x is (N, D), (D, N), (D,) or (D, 1), h and c alike
    with H; which of all this it is is found by trying. The function must be the same every time and treat each row by itself.

    input_size, hidden_size : D and H, the width of c where h is a projection with a width of its own
    weights : {name: array}, the arrays that the function uses: as parameters of these names (or one parameter `params` that is
        the dict), or inside. Any of Wx and Wh, (D, G·H) or transposed; one W for [x, h] or [h, x]; one array per gate (Wf, Wi,
        Wc, Wo); up to two biases, each of all gates or of some, in one array or in one for each gate; peepholes, projection,
        gains, leaks (numbers, too). Names mean nothing but the text of the call (so none of its own: x, h, c, np,
        float, fastgate, weights); shapes and numbers decide. None, and the function takes weights as parameters (Wx, Wh, b, …):
        random ones are used. None, and it does not: they are hidden.
    seed : of the random inputs

    With weights, all readings that the shapes allow are compared with the outputs: gate orders, layouts, biases, GRU variants,
    peepholes, activations, clips, leaks, projections, and layer normalisation with an eps of 1e-3, 1e-4, 1e-5, 1e-6, 1e-8 or
    1e-12. With hidden weights the maps of the gates are read off the outputs in float64; then .weights holds them and the call
    uses them; layer normalisation is not tried then. The order of gates, the split of a bias in two and the side z keeps are
    names for hidden numbers, which no output depends on: they stay None, and .notes says so. What several readings explain
    alike stays None, too.

    Returns an Identification; its call was run on fresh random inputs, and .error is the largest difference. Where nothing
    matches, .cell is None and str() says what was tried. Raises ValueError or TypeError naming the argument where the function
    cannot be called in any of these ways.

    Gate equations and their variants: those of fastgate.rnn_forward, leaky_forward, memory_forward, lstm_forward, gru_forward,
    lstm_norm_forward, gru_norm_forward; peepholes: Gers and Schmidhuber (2000).
    """
    D, H = _judge.size("input_size", input_size), _judge.size("hidden_size", hidden_size)
    seed = _judge.size("seed", seed, least=0)
    held = _weights(weights)
    try:
        step = understand(step_function, D, H, held)
    except CannotDescribe as error:
        raise ValueError(f"step_function: {error}") from None
    if step.has_c and "c" in step.weights:
        raise ValueError(f"weights: {OTHER_NAMES}, got 'c', a name that the call uses itself")
    found = Identification(called=step.words(), tried=_tried(step))
    rng = np.random.default_rng(seed)
    with quiet():
        if step.weights:
            _with_weights(step, rng, found)
        else:
            _hidden(step, rng, found)
    return found


def _tried(step: Step) -> str:
    """What is tried, and what fastgate has and is not."""
    norm = "lstm_norm" if step.has_c else "gru_norm"
    cells = "memory, lstm (with or without a projection)" if step.has_c else "rnn, leaky, memory, gru"
    return f"{cells}, {norm}" if step.weights else f"{cells}; not tried: {norm}, whose weights= must be known"


def _weights(weights: Any) -> dict[str, np.ndarray] | None:
    if weights is None:
        return None
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights: expected a dict of arrays, got {type(weights).__name__}")
    held = {}
    for name, a in weights.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"weights: expected names that are identifiers, got {name!r}")
        if keyword.iskeyword(name) or name in NAMES:
            what = "a keyword of Python" if keyword.iskeyword(name) else "a name that the call uses itself"
            raise ValueError(f"weights: {OTHER_NAMES}, got {name!r}, {what}")
        if isinstance(a, (float, np.floating)):  # a leak
            held[name] = np.array(a, np.float64)
            continue
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
    accounts = probing.clips(step, rng)
    near = _mixed(step, rng, (0.3, 1.0, 2.0))
    far = _mixed(step, rng, (5.0, 25.0))
    outputs, outputs_far = step.run(*near), step.run(*far)

    def holds(candidate: Candidate) -> bool:
        return _explains(candidate, far, outputs_far, tolerance)

    tried = (conventions.candidates(step, limits, near, outputs, tolerance, holds) for limits in accounts)
    matches = next(filter(None, tried), [])
    if not matches:
        names = ", ".join(f"{name} {a.shape}" for name, a in step.weights.items())
        if step.generated or tolerance > 1e-9:
            found.unmatched.append(f"no reading of the weights ({names}) as one of these cells gives the outputs")
            return
        _hidden(step, rng, found)
        words = f"no reading of the weights given ({names}) gives the outputs"
        if found.cell is None:
            found.unmatched.insert(0, words)
        else:
            found.notes.insert(0, f"{words}: those in .weights, read off the outputs, do")
        return
    best = matches[0]
    _describe(step, best.variant, found)
    found.layout, found.gate_order = best.reading.layout, best.gate_order
    found.bias = (best.bias if "gru" in best.variant.cell else best.bias.split(",")[0]) + _covered(best)
    _extras(best, found)
    _ambiguities(matches, found)
    for name in step.weights:
        if name not in best.names:
            found.notes.append(f"{name} is not used by the step")
    _call(step, best, found)
    _verify(step, rng, found, tolerance, lambda x, h, c: model.step(best.variant, x, h, c, best.weights()))


def _covered(candidate: Candidate) -> str:
    """Which gates have a bias, where not all do."""
    some = [bias for bias in candidate.reading.biases if bias.covers is not None]
    letters = candidate.gate_order or ""
    words = [" ".join(letters[k] for k in bias.covers or ()) for bias in some]
    if len(candidate.reading.biases) == 1:
        return "".join(f", on {gates} only" for gates in words)
    return "".join(f", one of them on {gates} only" for gates in words)


def _extras(candidate: Candidate, found: Identification) -> None:
    """Peephole, alpha, projection and eps."""
    extra = candidate.extra
    if "peephole" in extra:
        found.peephole = _peephole_order(candidate)
    if "Wr" in extra:
        found.projection = extra["Wr"].array.shape[1]
    if candidate.variant.cell.endswith("_norm"):
        found.eps = candidate.variant.eps
    if "alpha" in extra:
        alpha = extra["alpha"]
        found.alpha = float(alpha.array[0]) if np.ptp(alpha.array) == 0 else alpha.array.copy()
        if alpha.text.startswith("weights["):
            found.weights = {"alpha": alpha.array.astype(candidate.reading.Wx.array.dtype)}
            found.notes.append("alpha: .weights of this result holds it, read off the outputs")


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
    given, canonical = (np.split(a.array, 3) for a in (candidate.reading.peephole, candidate.extra["peephole"]))
    return "".join("ifo"[next(k for k in range(3) if np.array_equal(part, canonical[k]))] for part in given)


def _ambiguities(matches: list[Candidate], found: Identification) -> None:
    """Attributes about which the readings that explain all outputs disagree are not known."""
    best = matches[0]
    rivals = [m for m in matches if len(m.names) == len(best.names)]
    told: dict[str, set[Any]] = {
        "gate_order": {m.gate_order for m in rivals},
        "layout": {m.reading.layout for m in rivals},
        "bias": {m.bias + _covered(m) for m in rivals},
        "reset": {m.variant.reset for m in rivals if m.variant.cell == "gru"},
        "update": {m.variant.update for m in rivals if m.variant.cell == "gru"},
        "activation": {m.variant.activation for m in rivals},
        "coupled": {m.variant.coupled for m in rivals},
        "eps": {m.variant.eps for m in rivals},
    }
    for name, values in told.items():
        if len(values) < 2:
            continue
        words = " and ".join(sorted(map(str, values)))
        found.notes.append(f"{name}: {words} give the same outputs with these weights; the call uses {getattr(found, name)}")
        setattr(found, name, False if name == "coupled" else None)


def _describe(step: Step, v: Variant, found: Identification) -> None:
    found.cell, found.activation, found.coupled = v.cell, v.activation, v.coupled
    found.output = v.output if v.cell == "memory" else None
    if v.cell in ("gru", "gru_norm"):
        found.reset, found.update = v.reset, v.update
    found.clip = {name: value for name in ("cell_clip", "preact_clip") if (value := getattr(v, name)) is not None}
    choices = ACTIVATIONS[v.cell]
    if v.activation not in choices:
        what = "the activation" if v.cell in ("rnn", "leaky", "memory") else "the candidate's activation"
        found.unmatched.append(f"{what} is {_words(v.activation)}; fastgate has {', '.join(choices)}")
    if v.gates != "sigmoid":
        found.unmatched.append(f"gates are {_words(v.gates)}; fastgate's are logistic sigmoids")
    if v.output != "tanh" and v.cell != "memory":
        how = "c" if v.output == "identity" else f"{v.output}(c)"
        found.unmatched.append(f"h = o * {how}; fastgate computes h = o * tanh(c)")
    if v.output_peephole == "old":
        found.unmatched.append("the output gate sees c_prev through its peephole; fastgate's sees the new c")
    if v.cell == "memory" and not step.has_c:
        found.notes.append("h is the only state: the call takes it as h_prev and as c_prev")
    if v.cell == "rnn" and v.preact_clip is not None:
        found.unmatched.append(f"pre-activations are clipped to ±{v.preact_clip:g}; fastgate clips those of an lstm only")


def _words(activation: str) -> str:
    return model.WORDS.get(activation, activation)


def _options(v: Variant, gate_order: str | None, extra: Mapping[str, str]) -> dict[str, str]:
    """The keyword arguments of the call, those with their defaults left out; extra: weights by their text."""
    options = dict(extra)
    if gate_order is not None:
        options["gate_order"] = f'"{gate_order}"'
    if v.activation != "tanh":
        options["activation" if v.cell in ("rnn", "leaky", "memory") else "candidate"] = f'"{v.activation}"'
    if v.cell == "gru":
        options["reset"] = f'"{v.reset}"'
        if v.update != "old":
            options["update"] = f'"{v.update}"'
    if v.cell == "memory" and v.output != "tanh":
        options["output"] = f'"{v.output}"'
    if v.coupled:
        options["coupled"] = "True"
    for name in ("cell_clip", "preact_clip"):
        if getattr(v, name) is not None:
            options[name] = repr(getattr(v, name))
    if v.cell.endswith("_norm") and v.eps != 1e-5:
        options["eps"] = repr(v.eps)
    return options


def _states(step: Step, cell: str) -> str:
    names = ("x", "h", "c") if step.has_c else ("x", "h", "h") if cell == "memory" else ("x", "h")
    return ", ".join(ROWS[step.axes].format(name) for name in names)


def _call(step: Step, candidate: Candidate, found: Identification) -> None:
    if found.unmatched:
        return
    v, r = candidate.variant, candidate.reading
    b, bh = candidate.b, candidate.bh
    if v.cell == "gru" and v.reset == "before" and len(r.biases) == 2:
        b, bh = r.biases
    texts = {name: a.text for name, a in (("b", b), ("bh", bh), *candidate.extra.items()) if a is not None}
    if v.cell == "gru_norm" and v.update == "new":
        texts = _with_z_negated(texts, candidate)
    options = _options(v, candidate.gate_order, {name: text for name, text in texts.items() if name != "b"})
    arguments = [_states(step, v.cell), r.Wx.text, r.Wh.text, *([texts["b"]] if "b" in texts else [])]
    arguments += [f"{name}={value}" for name, value in options.items()]
    found.call = f"fastgate.{v.cell}_step_forward({', '.join(arguments)})"
    if step.axes == "vector":
        found.notes.append("x and the states are single rows; the call's results are (1, H)")
    elif step.axes != "rows":
        found.notes.append("x and the states stand feature by feature; the call's results are rows (N, H)")
    _missing_options(v.cell, options, found)


def _with_z_negated(texts: Mapping[str, str], candidate: Candidate) -> dict[str, str]:
    """gru_norm has no update="new", but 1 - sigmoid(a) is sigmoid(-a): z's blocks of gains and biases change their sign."""
    W = candidate.reading.Wx.array
    signs = ", ".join("-1" if letter == "z" else "1" for letter in candidate.gate_order or "")
    sign = f"np.repeat(np.{W.dtype}([{signs}]), {W.shape[1] // 3})"
    negated = {name: f"{sign} * {text}" for name, text in texts.items()}
    return {name: sign for name in ("gain_x", "gain_h")} | negated


def _missing_options(cell: str, options: Mapping[str, str], found: Identification) -> None:
    known = inspect.signature(getattr(fastgate, f"{cell}_step_forward")).parameters
    lacking = [name for name in options if name not in known]
    if lacking:
        found.notes.append(f"this version of fastgate.{cell}_step_forward has no {', '.join(lacking)}")


def _verify(step: Step, rng: np.random.Generator, found: Identification, tolerance: float, modelled: Any) -> float:
    """Run the call on fresh inputs; where fastgate lacks an option, the model of it. Returns the largest difference."""
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
    error = max(_error(a, b) for a, b in zip(outputs, expected, strict=True))
    if error <= tolerance:
        found.error = error
    else:
        found.unmatched.append(f"the call gives other numbers on fresh inputs, by {error:.1e}")
        found.call = ""
    return error


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
    limited = probing_lstm.lstm if step.has_c else probing.rnn
    kinds: list[Any] = [functools.partial(limited, limits=limits) for limits in probing.clips(step, rng)]
    kinds = [probing.memory, *kinds] if step.has_c else [*kinds, probing.leaky, probing.memory, probing_gru.gru]
    tried: list[probing.Found] = []
    while kinds and not (tried and tried[-1].variant):
        tried.append(kinds.pop(0)(step, rng))
    read = tried[-1]
    if read.variant is None:
        found.unmatched += dict.fromkeys(words for attempt in tried for words in attempt.words)
        return
    v, W = read.variant, read.weights
    small = 1e-6 * max(1.0, float(np.abs(W["Wx"]).max()))
    if v.cell == "gru" and np.abs(W["bh"]).max() <= small:
        del W["bh"]
    for name in ("b", "bh"):
        if name in W and np.abs(W[name]).max() <= small:
            del W[name]
    _describe(step, v, found)
    found.bias = _bias_of(v, W, step.H, small)
    if "peephole" in W:
        found.peephole = "ifo"
    if "Wr" in W:
        found.projection = step.P
    if "alpha" in W:
        found.alpha = W["alpha"]
        if np.ptp(W["alpha"]) <= 1e-8:
            mean = float(W["alpha"].mean())
            found.alpha = round(mean, 6) if abs(round(mean, 6) - mean) <= 1e-8 else mean
            W["alpha"] = np.full(step.H, found.alpha)
    if v.cell in ("lstm", "gru"):
        order = "ifgo" if v.cell == "lstm" else "rzn"
        found.notes.append(f"gate order: a name for hidden blocks, which weights= would tell; .weights has {order}")
    if v.cell == "gru":
        found.update = None
        found.notes.append("update: z and 1 - z are one function of hidden weights; in .weights z keeps h")
        if len(read.resets) > 1:
            found.reset = None
            found.notes.append("reset: before and after are one function for H = 1 without a bias inside")
        elif "bh" not in W and v.reset == "before" and step.H == 1:
            found.reset = None
    if "b" in W and "inside" not in found.bias:
        found.notes.append("bias: the one in .weights may be the sum of two")
    found.weights = W
    if not found.unmatched:
        options = _options(v, None, {})
        text = "".join(f", {name}={value}" for name, value in options.items())
        found.call = f"fastgate.{v.cell}_step_forward({_states(step, v.cell)}, **weights{text})"
        found.notes.insert(0, "weights: .weights of this result, read off the outputs")
        _missing_options(v.cell, options | {k: "" for k in W if k == "peephole"}, found)
    error = _verify(step, rng, found, 1e-5, lambda x, h, c: model.step(v, x, h, c, W))
    if error > 1e-5:
        words = f"near one {v.cell} for some inputs, but not the same function: difference {error:.1e}"
        vars(found).update(vars(Identification(called=found.called, tried=found.tried, unmatched=[words])))


def _bias_of(v: Variant, W: dict[str, np.ndarray], H: int, small: float) -> str:
    """The words for biases that were read off; what is as small as an error of reading is made 0."""
    letters = conventions.LETTERS[v.cell]
    has: dict[str, set[str]] = {"b": set(), "bh": set()}
    for name in has.keys() & W.keys():
        blocks = W[name].reshape(len(letters), H)
        blocks[np.abs(blocks).max(axis=1) <= small] = 0
        has[name] = {letter for letter, block in zip(letters, blocks, strict=True) if block.any()}
    gates = has["b"] | has["bh"]
    words = "one" if gates else "none"
    if v.cell == "gru" and v.reset == "after" and "n" in gates:
        inside = "one, b_n inside r * (...)" if "n" not in has["b"] else "two, bh_n inside r * (...)"
        words = inside if "n" in has["bh"] else "one, b_n outside r * (...)"
    return words + (f", on {' '.join(x for x in letters if x in gates)} only" if 0 < len(gates) < len(letters) else "")
