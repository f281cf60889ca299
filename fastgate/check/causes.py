"""Why a gradient is wrong: the returned one is compared with what the mistakes people really make would give.

The Jacobian of all outputs with respect to an argument, by central differences, holds every gradient that any upstream
gradient leads to: the right one, the one without the last step's dh, the one of each step on its own. `explain` looks for the
returned gradient among them.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np

from fastgate.check.pair import Arrays, Pair
from fastgate.check.shapes import Shape

STEP = 1e-4  # of the central differences; their error is about its square
CLOSE = 1e-5


def close(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or not a.size:
        return False
    largest = max(float(np.abs(b).max()), 1e-12)
    return bool(np.abs(a - b).max() <= CLOSE * largest)


class Jacobian:
    """The derivatives of every output with respect to one argument: contracted with upstream gradients, a gradient."""

    def __init__(self, pair: Pair, values: Arrays, name: str, sizes: Mapping[str, int] | None = None) -> None:
        self.shape = values[name].shape
        columns: dict[str, list[np.ndarray]] = {}
        for place in np.ndindex(self.shape):
            ends = []
            for move in (STEP, -STEP):
                moved = {key: a.copy() for key, a in values.items()}
                moved[name][place] += move
                ends.append(pair.forward(moved, sizes=sizes)[0])
            for output, a in ends[0].items():
                columns.setdefault(output, []).append((a - ends[1][output]) / (2 * STEP))
        self.of = {output: np.stack(rows) for output, rows in columns.items()}

    def steps(self, pair: Pair) -> list[int]:
        """The number of steps of each output that has a time axis."""
        axes = {output: pair.along(output, "T") for output in self.of}
        return [self.of[output].shape[1 + axis] for output, axis in axes.items() if axis is not None]

    def gradient(self, upstream: Mapping[str, np.ndarray]) -> np.ndarray:
        total = np.zeros(int(np.prod(self.shape)))
        for output, dy in upstream.items():
            total += self.of[output].reshape(len(total), -1) @ dy.ravel()
        return total.reshape(self.shape)


def explain(
    pair: Pair, values: Arrays, name: str, returned: np.ndarray, upstream: Arrays, gates: str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> str:  # fmt: skip
    """A sentence about the cause, or ""."""
    jacobian = Jacobian(pair, values, name, sizes)
    right = jacobian.gradient(upstream)
    return _explain(pair, values, name, returned, upstream, gates, jacobian, right)


def _explain(
    pair: Pair, values: Arrays, name: str, returned: np.ndarray, upstream: Arrays, gates: str | None,
    jacobian: Jacobian, right: np.ndarray,
) -> str:  # fmt: skip
    shape = pair.arguments[name]
    if returned.shape != right.shape:
        return _shape(pair, returned, right)
    if not np.isfinite(returned).all():
        return "not finite"
    if not returned.any():
        return "all zero: it is never computed"
    for words, found in (
        _factor(pair, returned, right),
        _transposed(returned, right),
        _upstream(pair, name, returned, upstream, jacobian),
        _added(values, name, returned, right),
    ):
        if found:
            return words
    by_step = "" if sum(jacobian.steps(pair)) <= 1 else _steps(pair, values, name, returned, upstream)
    return by_step or _blocks(shape, pair, returned, right, gates)


def _shape(pair: Pair, returned: np.ndarray, right: np.ndarray) -> str:
    if returned.shape == right.T.shape and close(returned.T, right):
        return "transposed"
    if returned.size == right.size and close(returned.reshape(right.shape), right):
        return "right numbers in the wrong shape"
    N, T = pair.sizes["N"], pair.sizes["T"]
    if right.ndim == 1 and returned.size in (N, T, N * T, 1):
        return "summed over the wrong axis"
    return "the wrong shape"


def _factor(pair: Pair, returned: np.ndarray, right: np.ndarray) -> tuple[str, bool]:
    scale = float((right * right).sum())
    if scale == 0:
        return "should be zero", True
    factor = float((returned * right).sum()) / scale
    if not close(returned, factor * right) or abs(factor) < 1e-6:
        return "", False
    N, T = pair.sizes["N"], pair.sizes["T"]
    known = {
        -1.0: "the sign is wrong", 2.0: "twice too large", 0.5: "half of what it should be",
        1 / N: "divided by N: the mean over the batch instead of the sum", N: "multiplied by N",
        1 / T: "divided by T: the mean over the steps instead of the sum", T: "multiplied by T",
        1 / (N * T): "divided by N·T: the mean instead of the sum",
    }  # fmt: skip
    for value, words in known.items():
        if abs(factor - value) <= CLOSE * abs(value):
            return words, True
    return f"{factor:.6g} times the right one", True


def _transposed(returned: np.ndarray, right: np.ndarray) -> tuple[str, bool]:
    return "transposed", returned.ndim == 2 and returned.shape[0] == returned.shape[1] and close(returned, right.T)


def _upstream(pair: Pair, name: str, returned: np.ndarray, upstream: Arrays, jacobian: Jacobian) -> tuple[str, bool]:
    """Upstream gradients that did not arrive, or not as they should."""
    changes: list[tuple[str, Callable[[], Arrays]]] = []
    parameter = {output: p for p, output in pair.upstream.items() if output is not None}
    for output in upstream:
        word = parameter.get(output, f"d{output}")
        for factor, words in ((0, "is ignored"), (2, "is counted twice"), (-1, "arrives with the wrong sign")):
            changes.append((f"{word} {words}", lambda o=output, f=factor: upstream | {o: f * upstream[o]}))  # type: ignore[misc]
        if len(upstream) > 1:
            changes.append((f"only {word} arrives", lambda o=output: {o: upstream[o]}))  # type: ignore[misc]
        axis = pair.along(output, "T")
        if axis is None or upstream[output].shape[axis] < 2:
            continue
        T = upstream[output].shape[axis]

        def only(output: str, axis: int, steps: list[int], others: bool = True) -> Arrays:
            kept = np.zeros_like(upstream[output])
            np.moveaxis(kept, axis, 0)[steps] = np.moveaxis(upstream[output], axis, 0)[steps]
            return (upstream if others else {}) | {output: kept}

        def shifted(output: str, axis: int, by: int) -> Arrays:
            moved = np.zeros_like(upstream[output])
            to, source = np.moveaxis(moved, axis, 0), np.moveaxis(upstream[output], axis, 0)
            if by > 0:
                to[by:] = source[:-by]
            else:
                to[:by] = source[-by:]
            return upstream | {output: moved}

        for words, steps in (
            (f"{word} of the last step is missing", list(range(T - 1))),
            (f"{word} of the first step is missing", list(range(1, T))),
            (f"only the last step's {word} arrives: {word} is not added to the recurrent gradient", [T - 1]),
            (f"only the first step's {word} arrives", [0]),
        ):
            changes.append((words, lambda o=output, a=axis, s=steps: only(o, a, s)))  # type: ignore[misc]
            if len(upstream) > 1:
                changes.append((f"{words}, nor anything else", lambda o=output, a=axis, s=steps: only(o, a, s, False)))  # type: ignore[misc]
        for by in (1, -1):
            changes.append((f"{word} is taken from a neighbouring step", lambda o=output, a=axis, b=by: shifted(o, a, b)))  # type: ignore[misc]
    for words, change in changes:
        if close(returned, jacobian.gradient(change())):
            return words, True
    if pair.role(name) == "x" and close(returned, _of_its_own_step(pair, name, upstream, jacobian)):
        return "only dh of the same step arrives: the gradient that comes from the next step is lost", True
    return "", False


def _of_its_own_step(pair: Pair, name: str, upstream: Arrays, jacobian: Jacobian) -> np.ndarray:
    """The gradient of x where each step's upstream gradient ends at that step."""
    axis = pair.axis(name, "T")
    total = np.zeros(jacobian.shape)
    if axis is None:
        return total
    for t in range(jacobian.shape[axis]):
        own = {}
        for output, dy in upstream.items():
            along = pair.along(output, "T")
            own[output] = np.zeros_like(dy) if along is not None or t < jacobian.shape[axis] - 1 else dy
            if along is not None:
                np.moveaxis(own[output], along, 0)[t] = np.moveaxis(dy, along, 0)[t]
        np.moveaxis(total, axis, 0)[t] = np.moveaxis(jacobian.gradient(own), axis, 0)[t]
    return total


def _added(values: Arrays, name: str, returned: np.ndarray, right: np.ndarray) -> tuple[str, bool]:
    """The argument itself, or a multiple of it, was added to its gradient."""
    extra, value = returned - right, values[name]
    factor = float((extra * value).sum()) / max(float((value * value).sum()), 1e-300)
    if abs(factor) > 1e-3 and close(extra, factor * value):
        times = "" if abs(factor - 1) < CLOSE else f"{factor:.6g} times "
        return f"{times}{name} itself is added to its gradient", True
    return "", False


def _blocks(shape: Shape, pair: Pair, returned: np.ndarray, right: np.ndarray, gates: str | None) -> str:
    """Which gates are wrong, where the rest is right."""
    axis = shape.gates_axis()
    H, G = pair.sizes["H"], pair.sizes["G"]
    if axis is None or G == 1 or returned.shape[axis] != G * H:
        return ""
    found, true = (np.split(a, G, axis) for a in (returned, right))
    letters = gates if gates and len(gates) == G else None
    names = [f"{k + 1} ({letters[k]})" if letters else str(k + 1) for k in range(G)]
    wrong = [k for k in range(G) if not close(found[k], true[k])]
    if not wrong:
        return ""
    for order in itertools.permutations(wrong):
        if all(close(found[k], true[other]) for k, other in zip(wrong, order, strict=True)):
            moves = ", ".join(f"block {names[k]} holds {names[j]}" for k, j in zip(wrong, order, strict=True))
            return f"gates swapped: {moves}"
    if len(wrong) == G:
        return ""
    words = []
    for k in wrong:
        why = "is wrong"
        if not found[k].any():
            why = "is zero"
        else:
            factor = float((found[k] * true[k]).sum()) / max(float((true[k] ** 2).sum()), 1e-300)
            if close(found[k], factor * true[k]):
                why = f"is {factor:.6g} times the right one"
        words.append(f"block {names[k]} {why}")
    return f"{', '.join(words)}; the other gates of {G} are right"


# --- step by step -----------------------------------------------------------------------------------------------------


def _steps(pair: Pair, values: Arrays, name: str, returned: np.ndarray, upstream: Arrays) -> str:
    """Which steps' contributions to the gradient of a weight are there; all compared along a few directions."""
    if pair.role(name) in ("x", "h0", "c0"):
        return ""
    directions = np.random.default_rng(5).normal(size=(4, *returned.shape))
    along = _by_calls(pair, values, name, upstream, directions)
    if along is None:
        contributions = _by_columns(pair, values, name, upstream)
        if contributions is None or contributions.shape[1:] != returned.shape:
            return ""
        along = np.tensordot(contributions.reshape(len(contributions), -1), directions.reshape(4, -1), (1, 1))
    found, total = directions.reshape(4, -1) @ returned.ravel(), along.sum(axis=0)
    for words, candidate in (
        ("only the first step's contribution is left: it is overwritten at every step", along[0]),
        ("only the last step's contribution is there", along[-1]),
        ("the first step's contribution is missing", total - along[0]),
        ("the last step's contribution is missing", total - along[-1]),
    ):
        if close(found, candidate):
            return words
    return ""


def _by_calls(pair: Pair, values: Arrays, name: str, upstream: Arrays, directions: np.ndarray) -> np.ndarray | None:
    """(T, directions): what each step adds, by T calls of one step, one of which has a moved weight."""
    carried, x = pair.carried(), pair.leaf("x")
    axis = None if x is None else pair.axis(x, "T")
    if carried is None or x is None or axis is None or (pair.leaf("c0") and len(carried) < 2):
        return None
    xs = np.split(values[x], values[x].shape[axis], axis)

    def loss(at: int, moved: np.ndarray) -> float:
        total, own = 0.0, {key: a for key, a in values.items() if key != x}
        for t, x_t in enumerate(xs):
            given = own | {x: x_t} | ({name: moved} if t == at else {})
            outputs = pair.forward({key: a.copy() for key, a in given.items()}, sizes={"T": 1})[0]
            for leaf, output, last in carried:
                along = pair.along(output, "T")
                own[leaf] = outputs[output].take(-1, along) if last else outputs[output]
            for output, dy in upstream.items():
                along = pair.along(output, "T")
                if along is not None:
                    total += float((outputs[output] * dy.take([t], along)).sum())
                elif t == len(xs) - 1:
                    total += float((outputs[output] * dy).sum())
        return total

    def slope(t: int, v: np.ndarray) -> float:
        return (loss(t, values[name] + STEP * v) - loss(t, values[name] - STEP * v)) / (2 * STEP)

    return np.array([[slope(t, v) for v in directions] for t in range(len(xs))])


def _by_columns(pair: Pair, values: Arrays, name: str, upstream: Arrays) -> np.ndarray | None:
    """The same for Wx and b, where states are not handed on: x gets one more column per row and step, 1 there and 0 elsewhere,
    with weights 0, whose gradients are those of the pre-activations."""
    x, Wx = pair.leaf("x"), pair.leaf("Wx")
    if x is None or Wx is None or pair.role(name) not in ("b", "Wx"):
        return None
    N, T, D = (pair.sizes[letter] for letter in "NTD")
    sizes = pair.sizes | {"D": D + N * T}
    axes = [axis for letter in "NTD" if (axis := pair.arguments[x].axis_of(letter)) is not None]
    axis_W = pair.arguments[Wx].axis_of("D")
    if len(axes) < 3 or axis_W is None or values[Wx].ndim != 2:
        return None
    wide = dict(values)
    wide[x] = np.zeros(pair.arguments[x].sizes(sizes))
    ordered = np.transpose(wide[x], axes)  # (N, T, D + N·T), a view
    ordered[..., :D] = np.transpose(values[x], axes)
    for n, t in np.ndindex(N, T):
        ordered[n, t, D + n * T + t] = 1
    wide[Wx] = np.zeros(pair.arguments[Wx].sizes(sizes))
    np.moveaxis(wide[Wx], axis_W, 0)[:D] = np.moveaxis(values[Wx], axis_W, 0)
    width = wide[Wx].shape[1 - axis_W]
    da = np.zeros((N * T, width))
    for k, g in np.ndindex(da.shape):
        ends = []
        for move in (STEP, -STEP):
            moved = wide | {Wx: wide[Wx].copy()}
            np.moveaxis(moved[Wx], axis_W, 0)[D + k, g] += move
            outputs = pair.forward(moved, sizes=sizes)[0]
            ends.append(sum(float((outputs[o] * dy).sum()) for o, dy in upstream.items()))
        da[k, g] = (ends[0] - ends[1]) / (2 * STEP)
    steps = da.reshape(N, T, width).swapaxes(0, 1)  # (T, N, G·H)
    if pair.role(name) == "b":
        return steps.sum(axis=1).reshape(T, *values[name].shape) if values[name].size == width else None
    products = np.transpose(values[x], [axes[1], axes[2], axes[0]]) @ steps
    return products if axis_W == 0 else products.swapaxes(1, 2)
