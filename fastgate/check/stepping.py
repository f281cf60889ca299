"""A user's step function, called in its own way: which arguments it takes, how its arrays lie, what it returns."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fastgate.check.pair import describe, parameters, quiet, role_of

ROWS = 3  # of the first probes: differs from what sizes usually are
STATES = ("h", "h, c", "(h, c)")
AXES = ("rows", "columns", "vector", "column")


class Step:
    """run(x (M, D), h (M, H), c (M, H) or None) -> (h, c) or (h,), whatever the function's own way of passing them.

    states: "h", "h, c" or "(h, c)"; axes: "rows" (N, D), "columns" (D, N), "vector" (D,), "column" (D, 1);
    state_first: h comes before x; c_first: (c, h), as arguments, as results. passed: names of the weights that are arguments.
    """

    def __init__(self, function: Callable[..., Any], D: int, H: int, weights: Mapping[str, np.ndarray] | None) -> None:
        self.function, self.D, self.H = function, D, H
        self.weights = dict(weights or {})
        self.passed: dict[str, Any] = {}
        self.generated = False
        self.states, self.axes = "h", "rows"
        self.state_first = self.c_first = self.c_first_out = False
        self.dtype: np.dtype = np.dtype(np.float64)
        self.last_dtype: np.dtype = self.dtype  # of the last result

    @property
    def has_c(self) -> bool:
        return self.states != "h"

    def _given(self, a: np.ndarray) -> np.ndarray:
        a = a.astype(self.dtype)
        if self.axes == "rows":
            return a
        if self.axes == "columns":
            return a.T.copy()
        return a[0] if self.axes == "vector" else a[0][:, None]

    def _taken(self, a: Any, M: int) -> np.ndarray | None:
        a = np.asarray(a) if isinstance(a, (np.ndarray, np.generic)) else None
        if a is None or a.dtype.kind != "f":
            return None
        expected = {"rows": (M, self.H), "columns": (self.H, M), "vector": (self.H,), "column": (self.H, 1)}[self.axes]
        if a.shape != expected:
            return None
        self.last_dtype = a.dtype
        a = a.astype(np.float64)
        return a if self.axes == "rows" else a.T if self.axes == "columns" else a.reshape(1, -1)

    def run(self, x: np.ndarray, h: np.ndarray, c: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        with quiet():
            if self.axes in ("rows", "columns"):
                return self._once(x, h, c)
            each = [self._once(x[m : m + 1], h[m : m + 1], None if c is None else c[m : m + 1]) for m in range(len(x))]
        return tuple(np.concatenate(parts) for parts in zip(*each, strict=True))

    def _once(self, x: np.ndarray, h: np.ndarray, c: np.ndarray | None) -> tuple[np.ndarray, ...]:
        own = self._given(h)
        arguments: list[Any] = [self._given(x)]
        if c is None or not self.has_c:
            states: list[Any] = [own]
        else:
            states = [own, self._given(c)]
            if self.c_first:
                states.reverse()
            if self.states == "(h, c)":
                states = [tuple(states)]
        arguments = states + arguments if self.state_first else arguments + states
        found = list(self._states(self.function(*arguments, **self.passed), len(x)))
        wanted = 2 if self.has_c else 1
        if len(found) < wanted:
            raise ValueError(f"no {wanted} results of the shape of a state")
        found = found[:wanted]
        if self.c_first_out:
            found.reverse()
        return tuple(found)

    def _states(self, result: Any, M: int) -> Iterator[np.ndarray]:
        if isinstance(result, (tuple, list)):
            for value in result:
                yield from self._states(value, M)
        elif (a := self._taken(result, M)) is not None:
            yield a

    def result_dtype(self) -> np.dtype:
        """Of what the function returns."""
        self.run(*self.probe(np.random.default_rng(0), 1))
        return self.last_dtype

    def probe(self, rng: np.random.Generator, rows: int, x: float = 1.0, state: float = 0.7) -> list[np.ndarray]:
        """Random x, h and, for a cell that has it, c."""
        arrays = [x * rng.normal(size=(rows, self.D)), state * np.tanh(rng.normal(size=(rows, self.H)))]
        return arrays + ([2 * state * rng.normal(size=(rows, self.H))] if self.has_c else [])

    def words(self) -> str:
        """How it is called."""
        names = {"rows": "(N, D)", "columns": "(D, N)", "vector": "(D,)", "column": "(D, 1)"}
        state = {"h": "h", "h, c": "c, h" if self.c_first else "h, c", "(h, c)": "(c, h)" if self.c_first else "(h, c)"}[
            self.states
        ]
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
    count = len([p for p in found if p.default is p.empty and p.name not in step.passed])
    if step.dtype == np.float64 and held and all(a.dtype == np.float32 for a in held.values()):
        step.dtype = np.dtype(np.float32)
    first = role_of(names[0]) if names else None
    failures = []
    for states in STATES:
        if count and count != (3 if states == "h, c" else 2):
            continue
        for axes in AXES:
            for state_first in (True, False) if first in ("h0", "c0") and states != "h, c" else (False, True):
                step.states, step.axes, step.state_first = states, axes, state_first
                words = _works(step)
                if words is None:
                    if states == "h, c" and len(names) > 2:
                        roles = [role_of(n) for n in names]
                        step.c_first = "c0" in roles and "h0" in roles and roles.index("c0") < roles.index("h0")
                    return step
                failures.append(words)
    reasons = "; ".join(dict.fromkeys(failures)) if failures else f"it takes {count} arguments"
    raise ValueError(
        "step_function: expected step(x, h) -> h, step(x, h, c) -> (h, c) or step(x, (h, c)) -> (h, c) for "
        f"D = {D}, H = {H}, with x (N, D), (D, N), (D,) or (D, 1); none of them worked ({reasons[:300]})"
    )


def _works(step: Step) -> str | None:
    rng = np.random.default_rng(1)
    rows = ROWS + 2 * (ROWS in (step.D, step.H)) + 4 * (ROWS + 2 in (step.D, step.H))
    x, h, *c = step.probe(rng, rows)
    try:
        first = step.run(x, h, *c)
        moved = step.run(np.concatenate([x[:1], x[1:] + 1]), np.concatenate([h[:1], h[1:] - 0.3]), *c)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:80]}"
    if not all(np.allclose(a[0], b[0], rtol=1e-4, atol=1e-6) for a, b in zip(first, moved, strict=True)):
        return "rows of the batch depend on each other, or the same call gives other numbers"
    return None


def _generate(step: Step, function: Callable[..., Any], D: int, H: int) -> None:
    """Weights of our own, for a function that takes them as arguments."""
    arguments = dict(inspect.signature(function).parameters)
    N = next(n for n in (3, 5, 7, 11) if n not in (D, H, D + H))
    T = next(n for n in (2, 13, 17, 19, 23) if n not in (D, H, D + H, N))
    pair = describe(function, None, sizes={"N": N, "T": T, "D": D, "H": H})
    values = pair.draw(np.random.default_rng(7))
    for name, a in values.items():
        if pair.role(name) not in ("x", "h0", "c0") and name in arguments:
            step.weights[name] = a
    step.passed = dict(step.weights)
    step.generated = True
