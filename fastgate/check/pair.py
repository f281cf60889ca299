"""A hand-written forward/backward pair, described: what its arguments are called, their shapes, which result is what.

describe    reads signatures, tries the shapes that the names allow on small arrays, and keeps the one that works
Pair        calls both functions with float64 arrays by name

Everything else in this package speaks to a Pair, so that it knows nothing of orders of arguments or layouts.
"""

import contextlib
import copy
import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fastgate.check.shapes import Shape, Sizes, numbers

Arrays = dict[str, np.ndarray]
ERRORS = (Exception, SystemExit)  # of a user's code: one that exits ends its own call, not the report

SIZES = {"N": 3, "T": 5, "D": 4, "H": 6}

# What people call an argument, without underscores, in lower case.
NAMES = {
    "x": "x xt xs inputs input xseq inp inputt data",
    "h0": "h0 hprev prevh h hinit hiddenstate hidden hin hold state aprev a0 h_t1 ht1 s0 initialh initialstate htm1",
    "c0": "c0 cprev prevc c cinit cellstate cell cin cold ct1 ctm1 initialc",
    "Wx": "wx wxh wih wi weightih kernel wax wgx win winput wihl0 weightihl0 wxs",
    "Wh": "wh whh weighthh recurrentkernel waa wrec r wgh wr whhl0 weighthhl0 whs",
    "W": "w weights weight wcat wxhcat wall u v kernelall",
    "b": "b bias bx bih biasih ba bi bxh",
    "bh": "bh bhh biashh br rb biash",
    "peephole": "peephole p peepholes wc wpeephole wp pc",
    "lengths": "lengths length seqlens seqlengths sequencelengths seqlen lens",
    "mask": "mask masks",
}
ROLE = {alias: role for role, aliases in NAMES.items() for alias in aliases.split()}
CACHES = {"cache", "caches", "ctx", "saved", "memory", "mem", "tape", "context", "kept"}

X_SHAPES = ("N T D", "T N D", "[T] N D", "N D", "D N", "T D N", "[T] D N", "D N T", "T D", "D")
STATE_SHAPES = {
    "N T D": "N H", "T N D": "N H", "[T] N D": "N H", "N D": "N H", "D N": "H N", "T D N": "H N", "[T] D N": "H N",
    "D N T": "H N", "T D": "H", "D": "H",
}  # fmt: skip
WEIGHT_SHAPES = {
    "Wx": ("D GH", "GH D"),
    "Wh": ("H GH", "GH H"),
    "W": ("D+H GH", "GH D+H", "D GH", "GH D", "H GH", "GH H"),
    "b": ("GH", "GH 1", "1 GH"),
    "bh": ("GH", "GH 1", "1 GH"),
    "peephole": ("3H", "3 H", "H"),
}


class CannotDescribe(ValueError):
    """The pair could not be understood from its signatures; the message says which argument of certify helps."""


def role_of(name: str) -> str | None:
    return ROLE.get(name.replace("_", "").lower())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hand-written code overflows and warns; what counts is its result."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    if not callable(function):
        raise TypeError(f"{name}: expected a function, got {type(function).__name__}")
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a function whose signature Python can read; wrap it in a def") from None
    return [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def as_array(value: Any) -> np.ndarray | None:
    """An output as one array; a list of arrays of one shape is stacked along a new first axis."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value
    if isinstance(value, np.generic) and value.dtype.kind == "f":
        return np.asarray(value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, np.ndarray) and v.dtype.kind == "f" for v in value):
        return np.stack(value) if len({v.shape for v in value}) == 1 else None
    return None


class Pair:
    """A described pair. `arguments`: leaf name -> Shape, in the order of forward; `paths`: where each leaf goes.

    forward(values) -> (outputs by name, cache); backward(upstream by output name, cache) -> gradients by leaf name.
    """

    def __init__(self, forward: Callable[..., Any], backward: Callable[..., Any] | None, sizes: Sizes) -> None:
        self.forward_function, self.backward_function = forward, backward
        self.sizes = dict(sizes)
        self.arguments: dict[str, Shape] = {}
        self.paths: dict[str, tuple[str, ...]] = {}
        self.keywords: set[str] = set()
        self.positional: list[str] = []
        self.lengths_name: str | None = None
        self.lengths_kind = ""
        self.lengths_required = False
        self.outputs: list[str | None] = []  # names in the order of forward's result; None: the cache
        self.listed: dict[str, bool] = {}  # outputs that are Python lists
        self.output_axes: dict[str, tuple[str, ...]] = {}  # output -> a letter per axis, "" where it has none
        self.upstream: dict[str, str | None] = {}  # parameter of backward -> output; None: the cache
        self.optional: set[str] = set()  # parameters of backward that may be left out or None by default
        self.gradients: list[str | None] = []  # leaf names in the order of backward's result

    # --- calls ---

    def draw(self, rng: np.random.Generator, sizes: Sizes | None = None, states: float = 0.7, x: float = 1.0) -> Arrays:
        """Random float64 arguments; weights of the size that keeps gates lively."""
        sizes = self.sizes | dict(sizes or {})
        values = {}
        for name, shape in self.arguments.items():
            role, size = self.role(name), shape.sizes(sizes)
            if role == "x":
                scale = x
            elif role in ("h0", "c0"):
                scale = states
            elif role in ("b", "bh", "peephole"):
                scale = 0.5
            else:
                scale = 1 / np.sqrt((sizes["D"] if role == "Wx" else sizes["H"]) + 1)
            values[name] = scale * rng.normal(size=size)
        return values

    def role(self, name: str) -> str | None:
        return role_of(name.split(".")[-1])

    def lengths(self, lengths: np.ndarray | None, sizes: Sizes) -> Any:
        N, T = sizes["N"], sizes["T"]
        lengths = np.full(N, T) if lengths is None else lengths
        if self.lengths_kind == "lengths":
            return lengths
        mask = (np.arange(T) < lengths[:, None]).astype(np.float64)
        return mask.T.copy() if self.time_axis("x") == 0 else mask

    def leaf(self, role: str) -> str | None:
        return next((name for name in self.arguments if self.role(name) == role), None)

    def time_axis(self, role: str) -> int | None:
        name = self.leaf(role)
        return None if name is None else self.arguments[name].axis_of("T")

    @property
    def is_sequence(self) -> bool:
        return any(shape.axis_of("T") is not None for shape in self.arguments.values())

    def call_forward(self, values: Arrays, lengths: np.ndarray | None = None, sizes: Sizes | None = None) -> Any:
        sizes = self.sizes | dict(sizes or {})
        given: dict[str, Any] = {}
        for name, value in values.items():
            value = self.arguments[name].given(value)
            first, *rest = self.paths[name]
            if rest:
                given.setdefault(first, {})[rest[0]] = value
            else:
                given[first] = value
        if self.lengths_name and (lengths is not None or self.lengths_required):
            given[self.lengths_name] = self.lengths(lengths, sizes)
        args = []
        for name in self.positional:
            if name not in given:
                break
            args.append(given.pop(name))
        return self.forward_function(*args, **given)

    def forward(self, values: Arrays, lengths: np.ndarray | None = None, sizes: Sizes | None = None) -> tuple[Arrays, Any]:
        result = self.call_forward(values, lengths, sizes)
        result = result if isinstance(result, tuple) else (result,)
        if len(result) != len(self.outputs):
            raise ValueError(f"forward returned {len(result)} results, {len(self.outputs)} before")
        outputs, cache = {}, None
        for name, value in zip(self.outputs, result, strict=True):
            if name is None:
                cache = value
            elif (array := as_array(value)) is not None:
                outputs[name] = array
            elif name in self.output_axes:
                raise ValueError(f"forward returned {type(value).__name__} for {name}, an array before")
        return outputs, cache

    def backward(self, upstream: Mapping[str, np.ndarray | None], cache: Any, leave_out: Iterable[str] = ()) -> dict[str, Any]:
        """Upstream gradients by output name, None as None; those of parameters in `leave_out` are not passed at all."""
        return self.read_gradients(self.call_backward(upstream, cache, leave_out))

    def call_backward(self, upstream: Mapping[str, np.ndarray | None], cache: Any, leave_out: Iterable[str] = ()) -> Any:
        assert self.backward_function is not None
        args, keywords = [], {}
        positional = True
        for parameter, output in self.upstream.items():
            if parameter in leave_out:
                positional = False
                continue
            value = cache if output is None else upstream[output]
            if output is not None and value is not None and self.listed.get(output):
                value = list(value)
            if positional and parameter not in self.keywords:
                args.append(value)
            else:
                keywords[parameter] = value
        return self.backward_function(*args, **keywords)

    def read_gradients(self, result: Any) -> dict[str, Any]:
        """By leaf name. A dict is read by its keys, a tuple by place; both may be nested. Lists of arrays are stacked."""
        found = dict(self._flat(result))
        if self.gradients and all(isinstance(key, int) for key in found):
            if len(found) != len(self.gradients):
                raise ValueError(f"backward returned {len(found)} gradients, {len(self.gradients)} before")
            return {name: found[k] for k, name in enumerate(self.gradients) if name is not None}
        return {name: value for key, value in found.items() if (name := self._leaf_of(key)) is not None}

    def _flat(self, result: Any, place: list[int] | None = None) -> Iterator[tuple[Any, Any]]:
        place = [0] if place is None else place
        if isinstance(result, Mapping):
            for key, value in result.items():
                if isinstance(value, Mapping):
                    yield from self._flat(value, place)
                else:
                    yield key, value
        elif hasattr(result, "_fields"):
            yield from self._flat(result._asdict(), place)
        elif isinstance(result, tuple):
            for value in result:
                if isinstance(value, Mapping):
                    yield from self._flat(value, place)
                else:
                    yield place[0], value
                    place[0] += 1
        else:
            yield place[0], result
            place[0] += 1

    def _leaf_of(self, key: Any) -> str | None:
        if isinstance(key, int):
            names = self.gradients or [n for n in self.arguments]
            return names[key] if key < len(names) else None
        words = str(key)
        for candidate in (words, re.sub(r"^(d|grad_|grad|g_)", "", words)):
            for name in self.arguments:
                if name == candidate or name.split(".")[-1] == candidate:
                    return name
        stripped = role_of(re.sub(r"^(d|grad_)", "", words))
        return self.leaf(stripped) if stripped else None

    # --- axes ---

    def axis(self, name: str, letter: str) -> int | None:
        """The axis of an argument that is N or T."""
        return self.arguments[name].axis_of(letter)

    def along(self, output: str, letter: str) -> int | None:
        """The axis of an output that is N or T."""
        axes = self.output_axes.get(output, ())
        return axes.index(letter) if letter in axes else None

    def carried(self) -> list[tuple[str, str, bool]] | None:
        """(state argument, output that is its successor, whether the last step of it) for each state; None: not known."""
        found = []
        for role, letter in (("h0", "h"), ("c0", "c")):
            leaf = self.leaf(role)
            if leaf is None:
                continue
            outputs = [name for name in self.output_axes if name.startswith(letter)]
            final = [name for name in outputs if "T" not in self.output_axes[name]]
            if final:
                found.append((leaf, final[0], False))
            elif outputs:
                found.append((leaf, outputs[0], True))
            else:
                return None
        covered = set(self.upstream.values())
        return found if found and all(output in covered for _, output, _ in found) else None


# --- describing -------------------------------------------------------------------------------------------------------


def describe(
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None,
    *,
    arguments: Mapping[str, Any] | None = None,
    outputs: Any = None,
    upstream: Mapping[str, str] | None = None,
    gradients: Any = None,
    gates: int | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Pair:
    """The Pair of two functions; what is not given is read from names and found by trying. Raises CannotDescribe."""
    if upstream is not None and not isinstance(upstream, Mapping):
        raise TypeError(f"upstream: expected a dict of parameters and outputs, got {type(upstream).__name__}")
    chosen = SIZES | dict(sizes or {})
    found = parameters(forward, "forward")
    base = Pair(forward, backward, chosen)
    candidates, leaves = _candidates(base, found, arguments)
    tried, failure = 0, ""
    working: list[tuple[float, Pair]] = []
    with quiet():
        for G in _gate_counts(forward, leaves, gates):
            base.sizes = chosen | {"G": G}
            for shapes in _assignments(leaves, candidates):
                tried += 1
                pair = copy.copy(base)
                pair.arguments = dict(zip(leaves, shapes, strict=True))
                verdict = _try(pair, outputs, upstream, gradients)
                if isinstance(verdict, str):
                    failure = failure or verdict
                else:
                    working.append((verdict, pair))
                    if verdict == 0:
                        break
            else:
                continue
            break
    if not working:
        listed = ", ".join(f"{name} {' or '.join(map(repr, candidates[name]))}" for name in leaves)
        raise CannotDescribe(
            f"forward: {_name(forward)} worked with none of the {tried} combinations of shapes that its names allow "
            f'({listed}); say them, e.g. arguments={{"x": "N T D", "h0": "N H", "W": "D+H 4H", "b": "4H"}}. '
            f"The first try ended with: {failure}"
        )
    return min(working, key=lambda entry: entry[0])[1]


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _candidates(pair: Pair, found: list[inspect.Parameter], arguments: Mapping[str, Any] | None) -> Any:
    candidates: dict[str, list[Shape]] = {}
    if arguments is not None:
        if not isinstance(arguments, Mapping):
            raise TypeError(f"arguments: expected a dict of names and shapes, got {type(arguments).__name__}")
        known = {p.name for p in found}
        for name in arguments:
            if name not in known:
                raise ValueError(f"arguments: expected names among {', '.join(sorted(known))}, got {name!r}")
    for p in found:
        if arguments is not None and p.name not in arguments:
            if p.default is p.empty:
                raise ValueError(f"arguments: expected a shape for {p.name}, which forward needs; got none")
            continue
        if p.kind == p.KEYWORD_ONLY:
            pair.keywords.add(p.name)
        else:
            pair.positional.append(p.name)
        given = None if arguments is None else arguments[p.name]
        if isinstance(given, Mapping):
            for key, text in given.items():
                leaf = f"{p.name}.{key}"
                candidates[leaf] = [Shape(text, f"arguments[{p.name!r}]")]
                pair.paths[leaf] = (p.name, key)
            continue
        role = role_of(p.name)
        if p.default is not p.empty and role in {pair.role(name) for name in candidates}:
            role = None  # a second one that may be left out, as a projection Wr beside Wh
        if given in ("lengths", "mask") or (given is None and role in ("lengths", "mask")):
            pair.lengths_name, pair.lengths_kind = p.name, given or role or ""
            pair.lengths_required = p.default is p.empty
            continue
        if given is not None:
            if not isinstance(given, str):
                raise TypeError(f"arguments[{p.name!r}]: expected a shape in letters or a dict, got {type(given).__name__}")
            shapes = [Shape(given, f"arguments[{p.name!r}]")]
        elif role == "x":
            shapes = [Shape(text) for text in X_SHAPES]
        elif role in ("h0", "c0"):
            shapes = [Shape(text) for text in ("N H", "H N", "H")]
        elif role is not None:
            shapes = [Shape(text) for text in WEIGHT_SHAPES[role]]
        elif p.default is not p.empty:
            if p.name in pair.positional:
                pair.positional.remove(p.name)
            continue
        else:
            raise CannotDescribe(
                f"forward: no shape is known for its parameter {p.name!r}; "
                f'say them all, e.g. arguments={{"x": "N T D", "h0": "N H", "{p.name}": "D GH"}}'
            )
        candidates[p.name] = shapes
        pair.paths[p.name] = (p.name,)
    if not candidates:
        raise CannotDescribe(f"forward: {_name(pair.forward_function)} has no parameter that an array could be handed to")
    return candidates, list(candidates)


def _gate_counts(forward: Callable[..., Any], leaves: list[str], gates: int | None) -> tuple[int, ...]:
    if gates is not None:
        return (gates,)
    words = f"{_name(forward)} {getattr(forward, '__qualname__', '')} {getattr(forward, '__module__', '')}".lower()
    if "lstm" in words or any(role_of(name.split(".")[-1]) == "c0" for name in leaves):
        return (4, 3, 1, 2)
    if "gru" in words:
        return (3, 2, 1, 4)
    return (1, 4, 3, 2)


def _assignments(leaves: list[str], candidates: dict[str, list[Shape]]) -> Iterator[tuple[Shape, ...]]:
    """All combinations that agree with each other: states lie as x does, weights of one side stand alike."""
    joined = [name for name in leaves if role_of(name.split(".")[-1]) == "W"]
    matrices = [name for name in leaves if role_of(name.split(".")[-1]) in ("Wx", "Wh", "W")]
    for shapes in itertools.product(*(candidates[name] for name in leaves)):
        texts = dict(zip(leaves, (shape.text for shape in shapes), strict=True))
        roles = {role_of(name.split(".")[-1]): texts[name] for name in leaves}
        if len(candidates[leaves[0]]) > 1 and "x" in roles:
            state = STATE_SHAPES.get(roles["x"])
            if any(roles.get(role, state) != state for role in ("h0", "c0")):
                continue
        free = [texts[name] for name in matrices if len(candidates[name]) > 1]
        if len({text.startswith("GH") for text in free}) > 1:
            continue
        if len(joined) == 1 and len(matrices) == 1 and len(free) == 1 and "+" not in free[0]:
            continue
        if len(joined) == 2 and len(free) == 2 and (sorted(t.replace("GH", "").strip() for t in free) != ["D", "H"]):
            continue
        biases = {texts[name] for name in leaves if role_of(name.split(".")[-1]) in ("b", "bh") and len(candidates[name]) > 1}
        if len(biases) <= 1:
            yield shapes


def _try(pair: Pair, outputs: Any, upstream: Any, gradients: Any) -> float | str:
    """Run a candidate once. A number: how ill it fits (0: well); words: why not at all."""
    pair.outputs, pair.listed, pair.output_axes = [], {}, {}
    rng = np.random.default_rng(20)
    values = pair.draw(rng)
    try:
        result = pair.call_forward({name: a.copy() for name, a in values.items()})
    except ERRORS as error:
        return f"{type(error).__name__}: {error}"
    if (words := _read_outputs(pair, result, outputs)) is not None:
        return words
    try:
        first, cache = pair.forward({name: a.copy() for name, a in values.items()})
    except ERRORS as error:
        return f"{type(error).__name__}: {error}"
    penalty = 0.0
    if not any("H" in axes for axes in pair.output_axes.values()):
        return f"no output has an axis of H = {pair.sizes['H']}: " + ", ".join(f"{k} {v.shape}" for k, v in first.items())
    if any(not np.isfinite(a).all() for a in first.values()):
        penalty += 4
    if not _rows_apart(pair, values, first):
        penalty += 2
    if pair.backward_function is None:
        return penalty
    _read_upstream(pair, upstream)
    sent = {name: rng.normal(size=a.shape) for name, a in first.items()}
    try:
        result = pair.call_backward(sent, cache)
    except ERRORS:
        return penalty + 8  # certify says it in words
    return penalty + _read_gradients(pair, result, values, gradients)


def _rows_apart(pair: Pair, values: Arrays, first: Arrays) -> bool:
    """Another row 0 leaves the other rows' outputs; a later x leaves earlier outputs."""
    x = pair.leaf("x")
    axis = None if x is None else pair.arguments[x].axis_of("N")
    if x is None or axis is None:
        return True
    other = {name: a.copy() for name, a in values.items()}
    np.moveaxis(other[x], axis, 0)[0] += 1
    try:
        outputs, _ = pair.forward(other)
    except ERRORS:
        return False
    for name, a in outputs.items():
        along = pair.along(name, "N")
        if along is None:
            continue
        now, before = (np.moveaxis(b, along, 0)[1:] for b in (a, first[name]))
        if now.shape != before.shape or not np.allclose(now, before, rtol=1e-9, atol=1e-12):
            return False
    return True


def _names(argument: str, given: Any) -> list[Any]:
    if isinstance(given, str):
        return given.replace(",", " ").split()
    if not isinstance(given, Iterable):
        raise TypeError(f"{argument}: expected names in a string or a list, got {type(given).__name__}")
    return list(given)


def _read_outputs(pair: Pair, result: Any, outputs: Any) -> str | None:
    fields = list(getattr(result, "_fields", ()))
    results = result if isinstance(result, tuple) else (result,)
    names: list[str | None]
    if outputs is not None:
        given = _names("outputs", outputs)
        if len(given) != len(results):
            raise ValueError(f"outputs: expected {len(results)} names, one for each result of forward, got {len(given)}")
        names = [None if name in (None, "cache") else str(name) for name in given]
    elif fields:
        names = [None if field.lower() in CACHES else field for field in fields]
    else:
        names = ["" for _ in results]
        if pair.backward_function is not None and len(results) > 1:
            names[-1] = None
    letters = {pair.sizes[letter]: letter for letter in ("N", "T", "H", "D") if letter in pair.sizes}
    finals, sequences = ["h", "c"], ["h", "c"]
    for k, (name, value) in enumerate(zip(names, results, strict=True)):
        if name is None:
            continue
        array = as_array(value)
        if array is None:
            names[k] = name or f"result{k}"
            continue
        axes = tuple(letters.get(n, "") for n in array.shape)
        if not name:
            if "T" in axes:
                name = sequences.pop(0) if sequences else f"result{k}"
            elif "H" in axes and finals:
                name = finals.pop(0) + ("_T" if pair.is_sequence else "_next")
            else:
                name = f"result{k}"
            if name in names:
                return f"forward returned results of shapes that cannot be told apart: {array.shape}"
        names[k] = name
        pair.listed[name] = isinstance(value, (list, tuple))
        pair.output_axes[name] = axes
        if array.size and array.dtype.kind != "f":
            return f"{name} is no array of floats"
    pair.outputs = names
    return None


def _read_upstream(pair: Pair, given: Mapping[str, str] | None) -> None:
    assert pair.backward_function is not None
    found = parameters(pair.backward_function, "backward")
    names = list(pair.output_axes)
    pair.upstream, pair.optional = {}, set()
    pair.keywords |= {p.name for p in found if p.kind == p.KEYWORD_ONLY}
    output: str | None
    for name, output in (given or {}).items():
        if name not in {p.name for p in found}:
            raise ValueError(f"upstream: expected parameters of backward ({', '.join(p.name for p in found)}), got {name!r}")
        if output != "cache" and output not in names:
            raise ValueError(
                f"upstream[{name!r}]: expected an output of forward ({', '.join(names)}) or 'cache', got {output!r}"
            )
    for p in found:
        if given is not None and p.name in given:
            pair.upstream[p.name] = None if given[p.name] == "cache" else given[p.name]
        elif p.name.lower() in CACHES:
            pair.upstream[p.name] = None
        elif (output := _output_of(p.name, names, pair)) is not None and output not in pair.upstream.values():
            pair.upstream[p.name] = output
        elif p.default is not p.empty:
            continue
        elif None not in pair.upstream.values():
            pair.upstream[p.name] = None
        else:
            raise CannotDescribe(
                f"backward: its parameter {p.name!r} is no gradient of an output of forward ({', '.join(names)}); "
                f'say it, e.g. upstream={{"dh": "h", "{p.name}": "cache"}}, or name the results: outputs="h c_T cache"'
            )
        if p.default is not p.empty:
            pair.optional.add(p.name)


def _output_of(parameter: str, names: list[str], pair: Pair) -> str | None:
    """Which output the upstream gradient belongs to: dh, dout, dnext_c, dh_T, grad_h …"""
    words = re.sub(r"^(grad_?|d_?|g_)", "", parameter)
    if words in names:
        return words
    plain = words.replace("_", "").lower()
    if parameter == words and not parameter.lower().startswith("d"):
        return None
    sequences = [name for name in names if "T" in pair.output_axes[name]]
    states = [name for name in names if "T" not in pair.output_axes[name]]
    last = any(word in words.lower() for word in ("last", "final", "next", "prev")) or words.endswith(("T", "n", "N"))
    order = states + sequences if last else sequences + states
    letter = "c" if "c" in plain.replace("next", "").replace("rec", "") else "h"
    return next((name for name in order if name.startswith(letter)), order[0] if order and letter == "h" else None)


def _read_gradients(pair: Pair, result: Any, values: Arrays, gradients: Any) -> float:
    """Which result of backward belongs to which argument. Returns a penalty for shapes that do not fit."""
    keyed = dict(pair._flat(result))
    pair.gradients = []
    if gradients is not None:
        names = _names("gradients", gradients)
        if len(names) != len(keyed):
            raise ValueError(f"gradients: expected {len(keyed)} names, one for each result of backward, got {len(names)}")
        for name in names:
            leaf = None if name in (None, "_") else pair._leaf_of(str(name))
            if leaf is None and name not in (None, "_"):
                raise ValueError(f"gradients: expected names of arguments ({', '.join(pair.arguments)}) or None, got {name!r}")
            pair.gradients.append(leaf)
    places = [k for k in keyed if isinstance(k, int)]
    if not pair.gradients and len(places) == len(keyed):
        shapes = [getattr(as_array(value), "shape", None) for value in keyed.values()]
        pair.gradients = _matched(list(pair.arguments), {n: a.shape for n, a in values.items()}, shapes)
    elif not pair.gradients and places:
        rest = [name for name in pair.arguments if name not in {pair._leaf_of(k) for k in keyed if not isinstance(k, int)}]
        pair.gradients = list(rest[: len(places)])
    wrong = 0.0
    for name, gradient in pair.read_gradients(result).items():
        array = as_array(gradient)
        wrong += array is None or array.shape != values[name].shape
    return wrong / 8


def _matched(names: list[str], shapes: dict[str, tuple[int, ...]], found: list[Any]) -> list[str | None]:
    """Arguments for gradients that come without names: in order; where some are missing or moved, by their shapes."""
    if len(found) == len(names) and all(shapes[name] == shape for name, shape in zip(names, found, strict=True)):
        return list(names)
    options = [[name for name in names if shapes[name] == shape] for shape in found]
    kept = [
        list(choice) for choice in itertools.product(*options)
        if len(set(choice)) == len(choice) and [names.index(name) for name in choice] == sorted(names.index(n) for n in choice)
    ]  # fmt: skip
    if len(kept) == 1:
        return list(kept[0])
    if sorted(map(str, found)) == sorted(str(shapes[name]) for name in names) and all(len(option) == 1 for option in options):
        return [option[0] for option in options]
    if len(found) <= len(names):
        return list(names[: len(found)])
    raise CannotDescribe(
        f"backward: returned {len(found)} gradients ({', '.join(numbers(s) if s else '?' for s in found)}) "
        f'for {len(names)} arguments ({", ".join(names)}); name them: gradients="dx dh0 dWx dWh db"'
    )
