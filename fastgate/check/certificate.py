"""certify: whether a hand-written forward/backward pair is right, and which gradient is wrong where it is not."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fastgate import _arguments
from fastgate.check import causes
from fastgate.check.pair import ERRORS, Arrays, Pair, as_array, describe, quiet
from fastgate.check.report import DIFFERS, Certificate, Check, Finding
from fastgate.check.shapes import Shape, numbers
from fastgate.layers import _judge

REACH = 1e-3  # of the central differences along a direction
SAME = 1e-9  # two ways to the same numbers


class _Failed(Exception):
    """The functions under test raised, or returned what cannot be read."""

    def __init__(self, what: str, words: str) -> None:
        super().__init__(words)
        self.what, self.words = what, words


def certify(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    *,
    arguments: Mapping[str, Any] | None = None,
    outputs: Any = None,
    upstream: Mapping[str, str] | None = None,
    gradients: Any = None,
    gates: int | str | None = None,
    sizes: Mapping[str, int] | None = None,
    directions: int = 4,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> Certificate:
    """Prove a recurrent forward/backward pair right, or name the gradients that are wrong, by how much, and a likely cause.

        forward(x, h0, …, Wx, Wh, b) -> h, …, cache            whole sequences, or one step
        backward(dh, …, cache)       -> dx, dh0, …, dWx, dWh, db

    What a parameter is and which shape it has is read from its name (x, h0 or prev_h, c0, Wx, Wh, W, b, bh, peephole, lengths,
    mask and their kin) and settled by trying: batch-first, time-first, feature-major and list-of-steps arrays, weights on the
    right or on the left, 1, 3 or 4 gates. What cannot be read so is said:

    arguments : {parameter of forward: shape in letters}, N rows, T steps, D = input size, H = hidden size, G gates:
        {"xs": "[T] N D", "W": "D+H 4H", "b": "1 4H"}; "[T] N D" is a list of T arrays; a dict for a parameter that is a dict of
        arrays; "lengths" or "mask" for a parameter of that meaning. Only the named parameters are passed.
    outputs : names of forward's results in order, "h c_T cache"; "cache" is what backward takes
    upstream : {parameter of backward: output whose gradient it is, or "cache"}
    gradients : names of backward's results in order, "dx dh0 dWx dWh db", "_" for one to leave out
    gates : the number of gates, or their letters in the order of the weights, "ifgo", which the report then uses
    sizes : {"N": 3, "T": 5, "D": 4, "H": 6}, any of them; all different and above 1, so that no two axes can be confused
    directions : random directions along which each gradient is compared with finite differences
    tolerance : largest error of a gradient, relative to its largest directional derivative
    seed : of the random arrays. The same seed gives the same report.

    A class becomes a pair by two small functions, e.g. forward returning (h, the object) and backward calling its method.

    Checks, all in float64: finite differences (four-point central, along random directions) of every gradient at once, from
    one upstream gradient alone, for the first and the last step, T = 1, zero and large states, ragged lengths, steps or
    sequences chained (the arrays that come back are handed on); linearity in the upstream gradients; missing ones (None
    equals zeros); a call or a backward repeated; arguments and upstream gradients left as they were; arrays that are one
    another, read-only, not contiguous; each row alone as in its batch. Where a gradient is wrong, its full Jacobian is
    compared with the mistakes people make.

    Returns a Certificate: .ok, .findings, .checks, .wrong, .uncertified, .summary(), .to_dict(), str(). Raises ValueError or
    TypeError, naming the argument, where the pair cannot be called at all. A backward that returns no gradient is wrong; where
    it leaves out some, the others are certified, and the report's heading names those that are not.

    Directional gradient checks: autograd's test_util.check_vjp; four-point differences: Abramowitz and Stegun 25.3.6.
    """
    letters = gates if isinstance(gates, str) else None
    sizes = _sizes(sizes)
    directions, seed = _judge.size("directions", directions), _judge.size("seed", seed, least=0)
    tolerance = _arguments.number("tolerance", tolerance, positive=True)
    if gates is not None and not letters and (not isinstance(gates, int) or isinstance(gates, bool) or gates < 1):
        raise ValueError(f"gates: expected a number of gates or their letters, got {gates!r}")
    if not callable(backward):
        raise TypeError(f"backward: expected a function, got {type(backward).__name__}")
    pair = describe(
        forward, backward, arguments=arguments, outputs=outputs, upstream=upstream, gradients=gradients,
        gates=len(gates) if isinstance(gates, str) else gates, sizes=sizes,
    )  # fmt: skip
    with quiet():
        return _Run(pair, letters, directions, tolerance, seed).run()


def _sizes(sizes: Mapping[str, int] | None) -> dict[str, int]:
    if sizes is not None and not isinstance(sizes, Mapping):
        raise TypeError(f"sizes: expected a dict with any of N, T, D, H, got {type(sizes).__name__}")
    for letter, size in (sizes or {}).items():
        if letter not in ("N", "T", "D", "H"):
            raise ValueError(f"sizes: expected any of N, T, D, H, got {letter!r}")
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 2:
            raise ValueError(f"sizes: expected integers above 1, got {letter}={size!r}")
    chosen = {"N": 3, "T": 5, "D": 4, "H": 6} | {k: int(v) for k, v in (sizes or {}).items()}
    if len(set(chosen.values())) < 4:
        raise ValueError(f"sizes: expected N, T, D, H that all differ, got {chosen}")
    return chosen


class _Run:
    """The checks of one pair."""

    def __init__(self, pair: Pair, gates: str | None, directions: int, tolerance: float, seed: int) -> None:
        self.pair, self.gates, self.directions, self.tolerance = pair, gates, directions, tolerance
        self.rng = np.random.default_rng(seed)
        self.names = list(pair.arguments)
        covered = [name for name in pair.upstream.values() if name is not None]
        self.covered = covered
        names = [f"d{name}" for name in pair.gradients if name is not None] if pair.gradients else [f"d{n}" for n in self.names]
        self.report = Certificate(
            _title(pair.forward_function), _title(pair.backward_function),
            {name: shape.words(pair.sizes.get("G", 1)) for name, shape in pair.arguments.items()} | _lengths_entry(pair),
            list(pair.output_axes), names,
        )  # fmt: skip
        for name in pair.output_axes:
            if name not in covered:
                self.report.notes.append(f"{name} is returned, but backward takes no gradient of it: not certified")
        self.check: Check | None = None

    def run(self) -> Certificate:
        report, pair = self.report, self.pair
        sequence = pair.is_sequence
        steps: list[tuple[str, Callable[[], Any] | None, str]] = [
            ("precision", self.precision, ""),
            ("gradients", self.gradients, ""),
            ("each upstream gradient alone", self.alone if len(self.covered) > 1 else None, "only one upstream gradient"),
            ("linear in upstream gradients", self.linear, ""),
            ("missing upstream gradients", self.missing, ""),
            ("first step", (lambda: self.one_step(0)) if self._has_steps() else None, "no output per step"),
            ("last step", (lambda: self.one_step(-1)) if self._has_steps() else None, "no output per step"),
            ("T = 1", self.single if sequence else None, "a single step"),
            ("zero states", self.zero if self._states() else None, "no initial states"),
            ("large states and inputs", self.large, ""),
            ("ragged lengths", self.ragged if pair.lengths_name else None, "takes no lengths"),
            ("chained calls", self.chained if pair.carried() else None, "final states are not returned with their gradients"),
            ("repeated calls", self.repeated, ""),
            ("arguments are left as they were", self.unchanged, ""),
            ("shared and read-only arrays", self.shared, ""),
            ("non-contiguous arrays", self.strided, ""),
            ("each row alone", self.rows if self._has_rows() else None, "no batch axis"),
        ]
        for name, method, why_not in steps:
            self.check = Check(name)
            report.checks.append(self.check)
            if method is None:
                self.check.passed, self.check.words = None, why_not
                continue
            try:
                method()
            except _Failed as failed:
                self.find(failed.what, None, failed.words)
        self.conclude()
        return report

    def conclude(self) -> None:
        """What the checks tell together, for gradients whose cause was not found."""
        findings = self.report.findings
        if not self.pair.is_sequence:
            return
        single = {f.what for f in findings if f.check == "T = 1"}
        for k, finding in enumerate(findings):
            told = any(f.cause for f in findings if f.what == finding.what)
            if finding.check == "gradients" and finding.words == DIFFERS and not told and finding.what not in single:
                cause = "right at T = 1: the fault is in what a step hands to the step before it, or in how steps are summed"
                findings[k] = replace(finding, cause=cause)

    # --- helpers ---

    def _states(self) -> list[str]:
        return [name for name in self.names if self.pair.role(name) in ("h0", "c0")]

    def _has_steps(self) -> bool:
        return any(self.pair.along(name, "T") is not None for name in self.covered)

    def _has_rows(self) -> bool:
        x = self.pair.leaf("x")
        return x is not None and self.pair.axis(x, "N") is not None

    def find(self, what: str, error: float | None, words: str, cause: str = "") -> None:
        assert self.check is not None
        self.check.passed = False
        self.check.words = self.check.words or f"{what}: {words}"
        if error is not None:
            self.see(error)
        self.report.findings.append(Finding(self.check.name, what, error, words, cause))

    def see(self, error: float) -> None:
        assert self.check is not None
        self.check.error = error if self.check.error is None else max(error, self.check.error)

    def forward(self, values: Arrays, **keywords: Any) -> tuple[Arrays, Any]:
        try:
            return self.pair.forward(values, **keywords)
        except ERRORS as error:
            raise _Failed("forward", f"raised {type(error).__name__}: {_short(error)}") from error

    def backward(self, upstream: Mapping[str, np.ndarray | None], cache: Any, leave_out: tuple[str, ...] = ()) -> Arrays:
        try:
            found = self.pair.backward(upstream, cache, leave_out)
        except ERRORS as error:
            raise _Failed("backward", f"raised {type(error).__name__}: {_short(error)}") from error
        gradients = {}
        for name, value in found.items():
            if value is None:
                continue
            array = as_array(value)
            if array is None:
                raise _Failed(f"d{name}", f"is {type(value).__name__}, expected an array of floats")
            gradients[name] = array
        return gradients

    def both(self, values: Arrays, upstream: Mapping[str, np.ndarray | None], **keywords: Any) -> tuple[Arrays, Arrays]:
        """Outputs and gradients, from arrays of this call's own."""
        outputs, cache = self.forward(copies(values), **keywords)
        outputs = copies(outputs)
        return outputs, copies(self.backward({k: None if a is None else a.copy() for k, a in upstream.items()}, cache))

    def upstream(self, outputs: Arrays, only: tuple[str, ...] | None = None) -> Arrays:
        """Random gradients of the outputs that backward takes; zeros for those not in `only`."""
        return {
            name: self.rng.normal(size=outputs[name].shape) * (only is None or name in only)
            for name in self.covered if name in outputs
        }  # fmt: skip

    def compare(self, found: Arrays, expected: Arrays, words: str, prefix: str = "", tolerance: float = SAME) -> None:
        for name, right in expected.items():
            if name not in found:
                self.find(prefix + name, None, f"{words}: it is missing")
            elif found[name].shape != right.shape:
                self.find(prefix + name, None, f"{words}: shape {numbers(found[name].shape)}, expected {numbers(right.shape)}")
            else:
                error = difference(found[name], right)
                self.see(error)
                if not error <= tolerance:
                    self.find(prefix + name, error, words)

    def differences(self, values: Arrays, upstream: Arrays, *, diagnose: bool = False, **keywords: Any) -> None:
        """Every gradient against four-point differences along random directions."""
        _, gradients = self.both(values, upstream, **keywords)

        def loss(moved: Arrays) -> float:
            outputs, _ = self.forward(copies(moved), **keywords)
            return sum(float((outputs[name] * dy).sum()) for name, dy in upstream.items())

        def explain(name: str, gradient: np.ndarray) -> str:
            told = any(finding.what == f"d{name}" and finding.cause for finding in self.report.findings)
            if not diagnose or told:
                return ""
            sizes = keywords.get("sizes")
            cause = causes.explain(self.pair, values, name, gradient, upstream, self.gates, sizes)
            return f"at T = 1 {cause}" if cause and sizes else cause

        for name, gradient in gradients.items():
            value = values[name]
            if gradient.shape != value.shape:
                words_ = f"shape {numbers(gradient.shape)}, expected {numbers(value.shape)}"
                self.find(f"d{name}", None, words_, explain(name, gradient))
                continue
            pairs = []
            for _ in range(self.directions):
                direction = self.rng.normal(size=value.shape)
                direction /= max(np.sqrt((direction**2).mean()) * np.sqrt(1 + value.size / 8), 1e-300)
                slope = float((gradient * direction).sum())
                exact = self._slope(lambda s, v=direction, name=name: loss(values | {name: values[name] + s * v}), slope)  # type: ignore[misc]
                pairs.append((exact, slope))
            right, found = np.array(pairs).T
            noise = 1e-13 / REACH * max(abs(loss(values)), 1.0)
            scale = max(float(np.abs(right).max()), float(np.abs(found).max()), noise / self.tolerance, 1e-300)
            error = float(np.abs(found - right).max()) / scale
            if not np.isfinite(gradient).all():
                error = np.inf
            self.see(error)
            if not error <= self.tolerance:
                self.find(f"d{name}", error, DIFFERS, explain(name, gradient))

    def _slope(self, loss: Callable[[float], float], given: float) -> float:
        """The derivative at 0 by four points; where there is a kink within reach, closer by."""
        best, least = 0.0, np.inf
        for reach in (REACH, REACH / 10, REACH / 100, REACH / 1000):
            ends = [loss(k * reach) for k in (1, -1, 2, -2)]
            near, far = (ends[0] - ends[1]) / (2 * reach), (ends[2] - ends[3]) / (4 * reach)
            if not abs(near - far) >= least:
                best, least = (4 * near - far) / 3, abs(near - far)
            smooth = least <= 1e-6 * max(abs(near), abs(given), 1e-6)
            if smooth or abs(best - given) <= self.tolerance / 10 * max(abs(best), abs(given)):
                break
        return best

    # --- checks ---

    def precision(self) -> None:
        """Whether float64 goes in, through and out: a function rounded to float32 inside has no slope at a small scale."""
        values = self.pair.draw(self.rng)
        outputs, cache = self.forward(copies(values))
        for name, a in outputs.items():
            if a.dtype != np.float64:
                self.find(name, None, f"float64 came in, {a.dtype} came out")
        upstream = self.upstream(outputs)
        gradients = self.backward(copies(upstream), cache)
        for name, a in gradients.items():
            if a.dtype != np.float64:
                self.find(f"d{name}", None, f"float64 came in, {a.dtype} came out")
        again, _ = self.forward(copies(values))
        for name, a in outputs.items():
            if difference(again[name], a) > SAME:
                self.find(name, difference(again[name], a), "the same call gives other numbers the second time")
                return
        rough = self._roughness(values, outputs)
        for name, error in rough.items():
            if error > 1e-3:
                self.find(name, error, "its slope at a scale of 1e-7 differs", "something inside is rounded to float32")
        doubled = self.both(values, {name: a / 3 for name, a in upstream.items()})[1]
        for name, a in gradients.items():
            if name in doubled and a.shape == doubled[name].shape and a.size:
                error = difference(3 * doubled[name], a)
                if 1e-10 < error < 1e-4:
                    self.find(f"d{name}", error, "a third of the upstream gradients gives no third of it",
                              "something inside is rounded to float32")  # fmt: skip

    def _roughness(self, values: Arrays, outputs: Arrays) -> dict[str, float]:
        direction = {name: self.rng.normal(size=a.shape) for name, a in values.items()}
        slopes = []
        for reach in (1e-7, 2e-7):
            ends = [self.forward({k: a + sign * reach * direction[k] for k, a in values.items()})[0] for sign in (1, -1)]
            slopes.append({name: (ends[0][name].astype(float) - ends[1][name]) / (2 * reach) for name in outputs})
        found = {}
        for name in outputs:
            near, far = slopes[0][name], slopes[1][name]
            if near.size:  # the median: a kink within reach moves few of them
                found[name] = float(np.median(np.abs(near - far)) / max(float(np.abs(far).max()), 1e-12))
        return found

    def gradients(self) -> None:
        values = self.pair.draw(self.rng)
        upstream = self.upstream(self.forward(copies(values))[0])
        _, gradients = self.both(values, upstream)
        self.report.gradients = [f"d{name}" for name in gradients]
        self.report.uncertified = [f"d{name}" for name in self.names if name not in gradients]
        if not gradients:
            self.find("backward", None, "returns no gradient of any argument")
            return
        self.report.notes += [f"backward returns no {name}: not certified" for name in self.report.uncertified]
        self.differences(values, upstream, diagnose=True)

    def alone(self) -> None:
        values = self.pair.draw(self.rng)
        outputs, _ = self.forward(copies(values))
        for name in self.covered:
            upstream = self.upstream(outputs, (name,))
            self.differences(values, upstream)

    def linear(self) -> None:
        values = self.pair.draw(self.rng)
        outputs, _ = self.forward(copies(values))
        one, two = self.upstream(outputs), self.upstream(outputs)
        sums = {name: 40 * one[name] - 3 * two[name] for name in one}
        (_, a), (_, b), (_, c) = (self.both(values, u) for u in (one, two, sums))
        expected = {name: 40 * a[name] - 3 * b[name] for name in a if a[name].shape == b[name].shape}
        self.compare(c, expected, "is not linear in the upstream gradients", "d")

    def missing(self) -> None:
        values = self.pair.draw(self.rng)
        outputs, _ = self.forward(copies(values))
        refused = []
        for parameter, output in self.pair.upstream.items():
            if output is None:
                continue
            upstream: dict[str, np.ndarray | None] = {**self.upstream(outputs)}
            assert upstream[output] is not None
            zeros = upstream | {output: np.zeros_like(outputs[output])}
            _, expected = self.both(values, zeros)
            for left_out in (False, True)[: 1 + (parameter in self.pair.optional)]:
                _, cache = self.forward(copies(values))
                try:
                    found = self.backward(upstream | {output: None}, cache, (parameter,) if left_out else ())
                except _Failed as failed:
                    if parameter in self.pair.optional:
                        self.find(parameter, None, f"its default is missing gradients, but backward {failed.words}")
                    else:
                        refused.append(parameter)
                    continue
                self.compare(found, expected, f"{parameter}=None is not the same as zeros", "d")
        if refused and self.check is not None and self.check.passed:
            if len(refused) == len(self.covered):
                self.check.passed = None
            self.check.words = f"backward does not take None for {', '.join(refused)}"

    def one_step(self, step: int) -> None:
        values = self.pair.draw(self.rng)
        outputs, _ = self.forward(copies(values))
        upstream = self.upstream(outputs)
        for name, dy in upstream.items():
            axis = self.pair.along(name, "T")
            kept = np.zeros_like(dy)
            if axis is not None:
                np.moveaxis(kept, axis, 0)[step] = np.moveaxis(dy, axis, 0)[step]
            upstream[name] = kept
        self.differences(values, upstream)

    def single(self) -> None:
        sizes = {"T": 1}
        values = self.pair.draw(self.rng, sizes)
        outputs, _ = self.forward(copies(values), sizes=sizes)
        self.differences(values, self.upstream(outputs), sizes=sizes, diagnose=True)

    def zero(self) -> None:
        values = self.pair.draw(self.rng)
        for name in self._states():
            values[name] = np.zeros_like(values[name])
        self.differences(values, self.upstream(self.forward(copies(values))[0]))

    def large(self) -> None:
        """Gradients from states of several units; finite numbers from inputs and states in the ten thousands."""
        values = self.pair.draw(self.rng, states=4.0, x=2.0)
        self.differences(values, self.upstream(self.forward(copies(values))[0]))
        values = self.pair.draw(self.rng, states=1e4, x=1e4)
        outputs, _ = self.forward(copies(values))
        upstream = self.upstream(outputs)
        outputs, gradients = self.both(values, upstream)
        for found, prefix in ((outputs, ""), (gradients, "d")):
            for name, a in found.items():
                if not np.isfinite(a).all():
                    self.find(prefix + name, None, "is not finite for inputs and states of 1e4")

    def ragged(self) -> None:
        """Finite differences with lengths; values in the padding that nothing may see; a row as long as the whole."""
        pair, N, T = self.pair, self.pair.sizes["N"], self.pair.sizes["T"]
        lengths = np.array([T, *(1 + k % T for k in range(N - 1))])
        values = pair.draw(self.rng)
        outputs, _ = self.forward(copies(values), lengths=lengths)
        upstream = self.upstream(outputs)
        self.differences(values, upstream, lengths=lengths)
        x = pair.leaf("x")
        assert x is not None
        n, t = pair.axis(x, "N"), pair.axis(x, "T")
        if n is None or t is None:
            return
        padding = np.arange(T) >= lengths[:, None]
        other = copies(values)
        np.moveaxis(other[x], (n, t), (0, 1))[padding] += 7.5
        first, second = self.both(values, upstream, lengths=lengths), self.both(other, upstream, lengths=lengths)
        for found, expected, prefix in ((second[0], first[0], ""), (second[1], first[1], "d")):
            self.compare(found, expected, "depends on what stands in the padding", prefix)
        if x in first[1]:
            error = float(np.abs(np.moveaxis(first[1][x], (n, t), (0, 1))[padding]).max())
            if error > 0:
                self.find(f"d{x}", error, "is not zero in the padding")
        whole, _ = self.both(values, upstream, lengths=np.full(N, T))
        for name, a in whole.items():
            along = pair.along(name, "N")
            if along is not None:
                self.compare({name: np.moveaxis(outputs[name], along, 0)[:1]}, {name: np.moveaxis(a, along, 0)[:1]},
                             "of a row of full length depends on the lengths of others")  # fmt: skip

    def chained(self) -> None:
        """Three calls, states handed on as they are; all forward, then all backward, gradients handed on as they are."""
        pair, calls = self.pair, 3
        carried = pair.carried()
        assert carried is not None
        states = [leaf for leaf, _, _ in carried]
        chunks = [pair.draw(self.rng) for _ in range(calls)]
        shared = {name: a for name, a in chunks[0].items() if pair.role(name) != "x"}
        x = pair.leaf("x")
        assert x is not None
        sent: list[Arrays] = []

        def forward(moved: Arrays, xs: list[np.ndarray]) -> tuple[list[Arrays], list[Any]]:
            outputs, caches, values = [], [], copies(moved)
            for own in xs:
                found, cache = self.forward(values | {x: own.copy()})
                outputs.append(copies(found))
                caches.append(cache)
                values = values | {leaf: self._last(found, output, last) for leaf, output, last in carried}
            return outputs, caches

        xs = [chunk[x] for chunk in chunks]
        outputs, caches = forward(shared, xs)
        sent = [self.upstream(found) for found in outputs]
        total: Arrays = {}
        dxs: list[np.ndarray | None] = [None] * calls
        handed: Arrays = {}
        for k in range(calls - 1, -1, -1):
            upstream = copies(sent[k])
            for leaf, output, last in carried:
                if leaf not in handed:
                    continue
                if last:
                    axis = pair.along(output, "T")
                    assert axis is not None
                    np.moveaxis(upstream[output], axis, 0)[-1] += handed[leaf]
                elif output in sent[k] and k < calls - 1 and output.startswith("c"):
                    upstream[output] = handed[leaf]  # the very array
                    sent[k][output] = np.zeros_like(sent[k][output])
                else:
                    upstream[output] += handed[leaf]
            gradients = self.backward(upstream, caches[k])
            dxs[k] = gradients[x].copy() if x in gradients else None
            handed = {leaf: gradients[leaf] for leaf in states if leaf in gradients}
            for name, a in gradients.items():
                if name != x and name not in states:
                    total[name] = total[name] + a if name in total else a.copy()
        if len(handed) < len(states):
            assert self.check is not None
            self.check.passed, self.check.words = None, "backward returns no gradients of the initial states"
            return
        total |= copies(handed)

        def loss(moved: Arrays, own: list[np.ndarray]) -> float:
            found, _ = forward(moved, own)
            return sum(float((a[name] * dy).sum()) for a, u in zip(found, sent, strict=True) for name, dy in u.items())

        for name, a in total.items():
            if a.shape != shared[name].shape:
                continue  # told by the first check
            worst, largest = 0.0, 1e-9
            for _ in range(self.directions):
                v = self.rng.normal(size=a.shape) / np.sqrt(1 + a.size / 8)
                slope = float((a * v).sum())
                exact = self._slope(lambda s, name=name, v=v: loss(shared | {name: shared[name] + s * v}, xs), slope)  # type: ignore[misc]
                worst, largest = max(worst, abs(exact - slope)), max(largest, abs(exact))
            self._judge(f"d{name}", worst / largest)
        for k, dx in enumerate(dxs):
            if dx is None or dx.shape != xs[k].shape:
                continue
            v = self.rng.normal(size=dx.shape)
            slope = float((dx * v).sum())
            exact = self._slope(lambda s, k=k, v=v: loss(shared, [*xs[:k], xs[k] + s * v, *xs[k + 1 :]]), slope)  # type: ignore[misc]
            self._judge(f"d{x}", abs(exact - slope) / max(abs(exact), abs(slope), 1e-3))

    def _judge(self, what: str, error: float) -> None:
        self.see(error)
        if not error <= self.tolerance * 10:
            self.find(what, error, DIFFERS)

    def _last(self, outputs: Arrays, output: str, last: bool) -> np.ndarray:
        if not last:
            return outputs[output]
        axis = self.pair.along(output, "T")
        assert axis is not None
        return np.moveaxis(outputs[output], axis, 0)[-1]

    def repeated(self) -> None:
        """Backward twice on one cache; another call in between; results that the next call leaves alone."""
        values, other = self.pair.draw(self.rng), self.pair.draw(self.rng)
        outputs, cache = self.forward(copies(values))
        upstream = self.upstream(outputs)
        first = self.backward(copies(upstream), cache)
        kept_outputs, kept = copies(outputs), copies(first)
        again = self.backward(copies(upstream), cache)
        self.compare(again, kept, "is another the second time backward is called on one cache", "d")
        _, later = self.forward(copies(other))
        self.compare(outputs, kept_outputs, "is overwritten by the next call of forward")
        self.compare(self.backward(copies(upstream), cache), kept, "is another after forward was called on other values", "d")
        self.backward(self.upstream(outputs), later)
        self.compare(first, kept, "is overwritten by the next call of backward", "d")
        _, anew = self.both(values, upstream)
        self.compare(anew, kept, "is another when the same call is made again", "d")

    def unchanged(self) -> None:
        values = self.pair.draw(self.rng)
        given = copies(values)
        outputs, cache = self.forward(given)
        damage(self, given, values, "forward writes into it")
        upstream = self.upstream(outputs)
        sent, before = copies(upstream), copies(given)
        self.backward(sent, cache)
        parameter = {output: p for p, output in self.pair.upstream.items() if output is not None}
        for name, dy in upstream.items():
            damage(self, {parameter[name]: sent[name]}, {parameter[name]: dy}, "backward writes into it")
        damage(self, given, before, "backward writes into it")

    def shared(self) -> None:
        """h0 and c0 one array, upstream gradients views of one array, and none of them writeable."""
        values = self.pair.draw(self.rng)
        states = self._states()
        if len(states) > 1 and values[states[0]].shape == values[states[1]].shape:
            values[states[1]] = values[states[0]]
        outputs, _ = self.forward(copies(values))
        upstream = self.upstream(outputs)
        expected = self.both(values, upstream)
        given, sent = locked(values), locked(upstream)
        if len(states) > 1 and values[states[0]] is values[states[1]]:
            given[states[1]] = given[states[0]]
        try:
            outputs, cache = self.forward(given)
            outputs = copies(outputs)
            gradients = self.backward(sent, cache)
        except _Failed as failed:
            self.find(failed.what, None, f"does not take arrays that are shared or read-only: {failed.words}")
            return
        self.compare(outputs, expected[0], "differs where arrays are shared")
        self.compare(gradients, expected[1], "differs where arrays are shared", "d")

    def strided(self) -> None:
        values = self.pair.draw(self.rng)
        outputs, _ = self.forward(copies(values))
        upstream = self.upstream(outputs)
        expected = self.both(values, upstream)
        try:
            outputs, cache = self.forward({name: strided(a) for name, a in values.items()})
            outputs = copies(outputs)
            gradients = self.backward({name: strided(a) for name, a in upstream.items()}, cache)
        except _Failed as failed:
            self.find(failed.what, None, f"does not take arrays that are not contiguous: {failed.words}")
            return
        self.compare(outputs, expected[0], "differs for arrays that are not contiguous")
        self.compare(gradients, expected[1], "differs for arrays that are not contiguous", "d")

    def rows(self) -> None:
        """Each row alone: outputs and its own gradients as in the batch, weights' gradients summing to the batch's."""
        pair, N = self.pair, self.pair.sizes["N"]
        values = pair.draw(self.rng)
        outputs, _ = self.forward(copies(values))
        upstream = self.upstream(outputs)
        outputs, gradients = self.both(values, upstream)
        sums: Arrays = {}
        own: dict[str, list[np.ndarray]] = {}
        for row in range(N):

            def take(a: np.ndarray, axis: int | None, row: int = row) -> np.ndarray:
                return a if axis is None else a.take([row], axis)

            alone, found = self.both(
                {name: take(a, pair.axis(name, "N")) for name, a in values.items()},
                {name: take(a, pair.along(name, "N")) for name, a in upstream.items()}, sizes={"N": 1},
            )  # fmt: skip
            expected = {name: take(a, pair.along(name, "N")) for name, a in outputs.items()}
            self.compare(alone, expected, "of a row alone differs from the row in its batch")
            for name, a in found.items():
                if pair.axis(name, "N") is None:
                    sums[name] = sums[name] + a if name in sums else a
                else:
                    own.setdefault(name, []).append(a)
        for name, rows in own.items():
            axis = pair.axis(name, "N")
            assert axis is not None
            try:
                sums[name] = np.concatenate(rows, axis)
            except ValueError:
                self.find(f"d{name}", None, "of rows alone has another shape than in the batch")
        right = {name: a for name, a in gradients.items() if name in sums}
        self.compare(right, sums, "of the batch is not that of its rows alone", "d")


# --- arrays -----------------------------------------------------------------------------------------------------------


def copies(arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {name: a.copy() for name, a in arrays.items()}


def difference(found: np.ndarray, right: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    if not right.size:
        return 0.0
    largest = float(np.abs(right).max())
    error = float(np.abs(found - right).max())
    if error == 0:
        return 0.0
    return error / max(largest, 1e-12) if np.isfinite(error) else np.inf


def damage(run: _Run, now: Arrays, before: Arrays, words: str) -> None:
    for name, a in before.items():
        if now[name].tobytes() != a.tobytes():
            run.find(name, difference(now[name], a), words)


def locked(arrays: Arrays) -> Arrays:
    """Read-only, all of them views of one piece of memory."""
    memory = np.concatenate([a.ravel() for a in arrays.values()])
    memory.flags.writeable = False
    views, start = {}, 0
    for name, a in arrays.items():
        views[name] = memory[start : start + a.size].reshape(a.shape)
        start += a.size
    return views


def strided(a: np.ndarray) -> np.ndarray:
    """The same values, axes in the opposite memory order, every second place, the last axis backwards."""
    wide = np.full([2 * n for n in a.shape[::-1]], np.nan).T
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view = view[..., ::-1] if a.ndim else view
    view[...] = a
    return view


def _short(error: BaseException) -> str:
    words = str(error).split("\n")[0]
    return words if len(words) <= 160 else words[:157] + "..."


def _title(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def _lengths_entry(pair: Pair) -> dict[str, str]:
    return {pair.lengths_name: Shape("N").text if pair.lengths_kind == "lengths" else "mask"} if pair.lengths_name else {}
