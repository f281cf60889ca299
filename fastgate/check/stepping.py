"""A user's step function, called in its own way: which arguments it takes, how its arrays lie, what it returns."""

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fastgate.check.pair import ERRORS, CannotDescribe, describe, parameters, quiet, role_of

ROWS = 3  # of the first probes: differs from what sizes usually are
AXES = ("rows", "columns", "vector", "column")
# How the states are passed; the first that works is taken. A tuple stands before a list: most code takes either.
PASSED: dict[str, Callable[[list[np.ndarray]], list[Any]]] = {
    "h": list,
    "h, c": list,
    "(h, c)": lambda states: [tuple(states)],
    "(h,)": lambda states: [tuple(states)],
    "[h, c]": lambda states: [list(states)],
    "[h]": lambda states: [list(states)],
}
STATE_NAMES = ("state", "states", "hc", "hx", "carry", "hidden", "prev_state", "state_prev")  # of what may hold both
Place = tuple[int, ...]  # of an array in nested results: the way to it


class Step:
    """run(x (M, D), h (M, P), c (M, H) or None) -> (h, c) or (h,), whatever the function's own way of passing them.

    P: the width of h, H but for a projection. states: a key of PASSED; axes: "rows" (N, D), "columns" (D, N), "vector" (D,),
    "column" (D, 1); state_first: the states come before x; c_first: c before h. taken: where in the results h and c stand.
    passed: names of the weights that are arguments.
    """

    def __init__(self, function: Callable[..., Any], D: int, H: int, weights: Mapping[str, np.ndarray] | None) -> None:
        self.function, self.D, self.H, self.P = function, D, H, H
        self.weights = dict(weights or {})
        self.passed: dict[str, Any] = {}
        self.generated = False
        self.states, self.axes = "h", "rows"
        self.state_first = self.c_first = False
        self.taken: tuple[Place, ...] = ()
        self.dtype: np.dtype = np.dtype(np.float64)
        self.last_dtype: np.dtype = self.dtype  # of the last result

    @property
    def has_c(self) -> bool:
        return "c" in self.states

    # --- calls ---

    def run(self, x: np.ndarray, h: np.ndarray, c: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        with quiet():
            if self.axes in ("rows", "columns"):
                return self._once(x, h, c)
            each = [self._once(x[m : m + 1], h[m : m + 1], None if c is None else c[m : m + 1]) for m in range(len(x))]
        return tuple(np.concatenate(parts) for parts in zip(*each, strict=True))

    def _once(self, x: np.ndarray, h: np.ndarray, c: np.ndarray | None) -> tuple[np.ndarray, ...]:
        arrays = self.arrays(self.call(x, h, c), len(x))
        try:
            return tuple(arrays[place] for place in self.taken)
        except KeyError:
            raise ValueError("the results have another shape for other numbers of rows") from None

    def call(self, x: np.ndarray, h: np.ndarray, c: np.ndarray | None) -> Any:
        """The function's own result."""
        states = [self._given(h)] + ([self._given(c)] if c is not None and self.has_c else [])
        passed = PASSED[self.states](states[::-1] if self.c_first else states)
        own = self._given(x)
        return self.function(*([*passed, own] if self.state_first else [own, *passed]), **self.passed)

    def _given(self, a: np.ndarray) -> np.ndarray:
        a = a.astype(self.dtype)
        if self.axes == "rows":
            return a
        if self.axes == "columns":
            return a.T.copy()
        return a[0] if self.axes == "vector" else a[0][:, None]

    def arrays(self, result: Any, M: int, place: Place = ()) -> dict[Place, np.ndarray]:
        """The arrays of a result that have the shape of a state, as rows, by their places in it."""
        if isinstance(result, (tuple, list, Mapping)):
            parts = result.values() if isinstance(result, Mapping) else result
            found: dict[Place, np.ndarray] = {}
            for k, part in enumerate(parts):
                found |= self.arrays(part, M, (*place, k))
            return found
        if not isinstance(result, (np.ndarray, np.generic)) or result.dtype.kind != "f":
            return {}
        a = np.asarray(result)
        if a.shape not in (self._shape(M, self.H), self._shape(M, self.P)):
            return {}
        self.last_dtype = a.dtype
        a = a.astype(np.float64)
        return {place: a if self.axes == "rows" else a.T if self.axes == "columns" else a.reshape(1, -1)}

    def _shape(self, M: int, width: int) -> tuple[int, ...]:
        return {"rows": (M, width), "columns": (width, M), "vector": (width,), "column": (width, 1)}[self.axes]

    def result_dtype(self) -> np.dtype:
        """Of what the function returns."""
        self.run(*self.probe(np.random.default_rng(0), 1))
        return self.last_dtype

    def probe(self, rng: np.random.Generator, rows: int, x: float = 1.0, state: float = 0.7) -> list[np.ndarray]:
        """Random x, h and, for a cell that has it, c."""
        arrays = [x * rng.normal(size=(rows, self.D)), state * np.tanh(rng.normal(size=(rows, self.P)))]
        return arrays + ([2 * state * rng.normal(size=(rows, self.H))] if self.has_c else [])

    def words(self) -> str:
        """How it is called."""
        names = {"rows": "(N, D)", "columns": "(D, N)", "vector": "(D,)", "column": "(D, 1)"}
        state = self.states.replace("h, c", "c, h") if self.c_first else self.states
        arguments = f"{state}, x" if self.state_first else f"x, {state}"
        return f"step({arguments}{''.join(f', {name}' for name in self.passed)}), x {names[self.axes]}"


def understand(function: Callable[..., Any], D: int, H: int, weights: Mapping[str, Any] | None) -> Step:
    """The Step of a function, found by trying. Raises ValueError naming step_function where no way of calling it works."""
    if not callable(function):
        raise TypeError(f"step_function: expected a function, got {type(function).__name__}")
    try:
        found = parameters(function, "step_function")
    except ValueError:
        found = []
    names = [p.name for p in found]
    held: dict[str, np.ndarray] = {name: np.asarray(a) for name, a in (weights or {}).items()}
    step = Step(function, D, H, held)
    passed = [n for n in names if n in held]
    whole = [
        p.name for p in found if weights and p.name not in held and p.name.lower() in ("params", "parameters", "weights", "w")
    ]
    if passed or whole:
        step.passed = {name: weights[name] for name in passed} | {name: weights for name in whole}  # type: ignore[index]
    elif weights is None and any(role_of(p.name) in ("Wx", "Wh", "W") for p in found):
        _generate(step, function, D, H)
    if step.dtype == np.float64 and held and all(a.dtype == np.float32 for a in held.values()):
        step.dtype = np.dtype(np.float32)
    own = [p for p in found if p.name not in step.passed]
    first = role_of(names[0]) if names else None
    failures = []
    most = np.inf if _takes_any_number(function) else len(own)
    for states, axes, state_first, P in _ways(own, most, first, H, held):
        step.states, step.axes, step.state_first, step.P, step.c_first = states, axes, state_first, P, False
        words = _works(step)
        if words is not None and P != H:  # a tuple (c, h): widths that differ fit in one order alone
            step.c_first = True
            words = _works(step)
        if words is None:
            if P == H and step.has_c:
                _find_order(step)
            return step
        failures.append(words)
    reasons = "; ".join(dict.fromkeys(failures)) if failures else f"it takes {len(own)} arguments"
    raise ValueError(
        "step_function: expected step(x, h) -> h, step(x, h, c) -> (h, c) or step(x, (h, c)) -> (h, (h, c)) for "
        f"D = {D}, H = {H}, with x (N, D), (D, N), (D,) or (D, 1); none of them worked ({reasons[:300]})"
    )


def _takes_any_number(function: Callable[..., Any]) -> bool:
    try:
        return any(p.kind == p.VAR_POSITIONAL for p in inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return True


def _ways(own: list[inspect.Parameter], most: float, first: str | None, H: int,
          held: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str, bool, int]]:  # fmt: skip
    """(states, axes, state_first, P): those that use the parameters without a default first; projections last."""
    needed = len([p for p in own if p.default is p.empty])
    counts = {states: 3 if states == "h, c" else 2 for states in PASSED}
    exact = [states for states in PASSED if not needed or counts[states] == needed]
    optional = [states for states in PASSED if states not in exact and needed < counts[states] <= most]
    firsts = (True, False) if first in ("h0", "c0") else (False, True)
    for group in (exact, optional):
        for states, axes in itertools.product(group, AXES):
            for state_first in firsts:
                yield states, axes, state_first, H
    widths = {n for a in held.values() if a.ndim == 2 for n in a.shape} if held else set(range(1, 2 * H + 1))
    for P in sorted(widths - {H, 0}):
        for states, axes in itertools.product([s for s in (*exact, *optional) if s in ("h, c", "(h, c)", "[h, c]")], AXES):
            for state_first in firsts:
                yield states, axes, state_first, P


def _works(step: Step) -> str | None:
    """None, with step.taken set, or why a way of calling the function does not work."""
    rng = np.random.default_rng(1)
    rows = ROWS + 2 * (ROWS in (step.D, step.H)) + 4 * (ROWS + 2 in (step.D, step.H))
    x, h, *c = step.probe(rng, rows)
    try:
        step.taken = _places(step, x, h, *c)
        first = step.run(x, h, *c)
        moved = step.run(np.concatenate([x[:1], x[1:] + 1]), np.concatenate([h[:1], h[1:] - 0.3]), *c)
        turned = step.run(x[::-1], h[::-1], *(a[::-1] for a in c))
        sees_c = not step.has_c or _sees_c(step)
    except ERRORS as error:
        return f"{type(error).__name__}: {str(error)[:80]}"
    same = [(a[0], b[0]) for a, b in zip(first, moved, strict=True)]
    same += [(a[::-1], b) for a, b in zip(first, turned, strict=True)]
    if not all(np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in same):
        return "rows of the batch depend on each other, or the same call gives other numbers"
    return None if sees_c else "the results do not depend on c"


def _sees_c(step: Step) -> bool:
    """Whether c changes a result; with ordinary x, or with x so large that it turns on what is off."""
    for scale in (1.0, 30.0):
        x, h, c = step.probe(np.random.default_rng(3), 24, x=scale)
        if any(not np.array_equal(a, b) for a, b in zip(step.run(x, h, c), step.run(x, h, c + 0.3), strict=True)):
            return True
    return False


def _places(step: Step, x: np.ndarray, h: np.ndarray, c: np.ndarray | None = None) -> tuple[Place, ...]:
    """Where the new states stand in the results, which may hold outputs, a cache, and a state twice.

    Of h and c: the first tuple (or list) that has two arrays of its own, `h, c, cache` or the inner one of `y, (h, c)`, and of
    these the first two that differ, if any do, as in `h, h, c`. Of h alone: the first array, or the one that comes as the
    state came, `y, [h]`.
    """
    rows, one = (x, h, c), slice(0, 1)
    if step.axes in ("vector", "column"):
        rows = (x[one], h[one], None if c is None else c[one])
    with quiet():
        arrays = step.arrays(step.call(*rows), len(rows[0]))
    arguments = [a for a in rows if a is not None]

    def given(a: np.ndarray) -> bool:
        return any(a.shape == other.shape and np.array_equal(a, other.astype(step.dtype)) for other in arguments)

    places = [place for place, a in arrays.items() if not given(a)] or list(arrays)
    if not step.has_c:
        alone = [p for p in places if p and step.states != "h" and sum(q[:-1] == p[:-1] for q in arrays) == 1 and len(p) > 1]
        if not places:
            raise ValueError("no result of the shape of a state")
        return ((alone or places)[0],)
    for chosen in (places, list(arrays)):  # the second where a step hands a state on as it is
        for group in dict.fromkeys(place[:-1] for place in sorted(chosen, key=lambda place: (len(place), place))):
            members = [place for place in chosen if place[:-1] == group]
            pair = _fitting(step, arrays, members) or _fitting(step, arrays, members, equal=True)
            if pair is not None:
                return pair
        pair = _fitting(step, arrays, chosen)
        if pair is not None:
            return pair
    raise ValueError("no 2 results of the shape of a state")


def _fitting(
    step: Step, arrays: dict[Place, np.ndarray], places: list[Place], equal: bool = False
) -> tuple[Place, Place] | None:
    """The first two arrays, not equal but where that is allowed, that have the widths of h and c."""
    for one, two in itertools.combinations(places, 2):
        a, b = arrays[one], arrays[two]
        if (a.shape[1], b.shape[1]) == (step.P, step.H) and (equal or not np.array_equal(a, b)):
            return one, two
        if (b.shape[1], a.shape[1]) == (step.P, step.H) and step.P != step.H:
            return two, one
    return None


def _find_order(step: Step) -> None:
    """Which state is c, which result: a unit sees its own c alone, and a large c makes the new c large, the larger result.

    Where c is clipped and there is one unit, c comes second.
    """
    rng = np.random.default_rng(2)
    x, *states = step.probe(rng, 40, x=3.0)  # wide, so that no relu is off in all rows

    def own_alone(which: int) -> bool:
        """Whether a result's unit 0 does not see unit 1 of this state, while unit 1 does."""
        moved = [a.copy() for a in states]
        moved[which][:, 1] += 0.1
        for a, b in zip(step.run(x, *states), step.run(x, *moved), strict=True):
            if np.array_equal(a[:, 0], b[:, 0]) and not np.array_equal(a[:, 1], b[:, 1]):
                return True
        return False

    def grows(which: int) -> bool:
        return max(np.abs(a).max() for a in step.run(x, *(1e3 * a if k == which else a for k, a in enumerate(states)))) > 20

    first_is_c, second_is_c = (own_alone(k) if step.H > 1 else grows(k) for k in (0, 1))
    step.c_first = first_is_c and not second_is_c
    new = [np.abs(a).sum() for a in step.run(x, states[0], 1e3 * states[1])]
    if new[0] > new[1]:
        step.taken = step.taken[::-1]


def _generate(step: Step, function: Callable[..., Any], D: int, H: int) -> None:
    """Weights of our own, for a function that takes them as arguments."""
    arguments = dict(inspect.signature(function).parameters)
    N = next(n for n in (3, 5, 7, 11) if n not in (D, H, D + H))
    T = next(n for n in (2, 13, 17, 19, 23) if n not in (D, H, D + H, N))
    sizes = {"N": N, "T": T, "D": D, "H": H}
    try:
        pair = describe(function, None, sizes=sizes)
    except CannotDescribe as error:
        apart = _apart(function)
        if apart is None:
            raise
        try:
            pair = describe(apart, None, sizes=sizes)
        except CannotDescribe:
            raise error from None
    values = pair.draw(np.random.default_rng(7))
    for name, a in values.items():
        if pair.role(name) not in ("x", "h0", "c0") and name in arguments:
            step.weights[name] = a
    step.passed = dict(step.weights)
    step.generated = True


def _apart(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """A function of (h, c) in one parameter, as one of h and c in two; None where there is no such parameter."""
    given = parameters(function, "step_function")
    tied = [p.name for p in given if p.name in STATE_NAMES]
    if len(tied) != 1:
        return None

    def apart(*args: Any, **keywords: Any) -> Any:
        values = apart.__signature__.bind(*args, **keywords).arguments  # type: ignore[attr-defined]
        state = values.pop("h0"), values.pop("c0")
        return function(**values, **{tied[0]: state})

    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    two = [inspect.Parameter(name, positional) for name in ("h0", "c0")]
    changed = [q for p in given for q in (two if p.name == tied[0] else [p.replace(kind=positional)])]
    apart.__signature__ = inspect.Signature(changed)  # type: ignore[attr-defined]
    return apart
