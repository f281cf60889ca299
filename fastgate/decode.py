"""Sequences out of a model, symbol by symbol: greedy, sampled, by beam search; and the inputs of scheduled teacher forcing.

    step(y, state) -> (scores, state)

is all that is known of a model: y (R,) are the last symbols of R rows, integers; scores (R, K) those of the next ones, float32
or float64, of which softmax makes probabilities. `state` is what the step keeps of each row: arrays whose first axis is the
rows, in tuples, lists and dicts as deep as one likes, or None. Rows come and go (one that has ended leaves, a beam forks and
drops them), so all that belongs to a row lies in its state. A state of another form comes with select(state, rows) -> the state
of these rows, of which one may come twice; as an argument, or as a method of `step`. LayerStep is such a step, of a layer.

A row ends in three ways (Goodfellow et al., Deep Learning, section 10.2.3), one or several of them at once:

    eos=k         after the symbol k, which is its last one
    stop=True     by an output of its own: scores (R, K + 1), whose last column is the logit s of ending with the symbol that
                  is chosen with it. P(end) = sigmoid(s), and log P = log softmax(scores[:K])[y] + log sigmoid(±s)
    lengths=(N,)  after so many symbols, predicted beforehand: P(y) = P(T) P(y | T) (equation 10.34). The step is called with
                  a third argument, step(y, state, left): left (R,) int64, the symbols still to come, T - t at t = 0, 1, …

and, in any case, after max_length symbols. Without lengths= there must be one.

Results: symbols are int64, -1 past a row's end; probabilities are taken in float64. Ties are broken for the lowest symbol. A
row gives the same result in any batch, where the step's own rows do so. What does not fit is a ValueError or TypeError that
names the argument; scores may hold -inf, a symbol that is impossible, but neither NaN nor +inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastgate import _arguments
from fastgate.layers import _affine, _judge
from fastgate.layers._layer import Layer, Prepared, one_direction
from fastgate.layers._symbols import SymbolRows
from fastgate.layers._types import Array, Lengths, Rng

__all__ = [
    "greedy", "sample", "beam", "LayerStep", "scheduled_inputs",
    "linear_schedule", "exponential_schedule", "inverse_sigmoid_schedule", "Decoded", "Beams",
]  # fmt: skip

Symbols = NDArray[np.int64]
Select = Callable[[Any, NDArray[np.int64]], Any]
Rngs = Rng | Sequence[np.random.Generator | int]


class Decoded(NamedTuple):
    """What greedy and sample return."""

    y: Symbols  # (N, T), T the longest row's length; -1 past a row's length
    lengths: Symbols  # (N,), symbols of each row, an EOS symbol among them
    log_prob: NDArray[np.float64]  # (N,), log P of the row under the model
    ended: NDArray[np.bool_]  # (N,), False where max_length cut it


class Beams(NamedTuple):
    """What beam returns: the hypotheses of each row, the best first."""

    y: Symbols  # (N, width, T), -1 past a hypothesis' length
    lengths: Symbols  # (N, width)
    log_prob: NDArray[np.float64]  # (N, width), -inf where there are fewer hypotheses than width
    score: NDArray[np.float64]  # (N, width), log_prob / lengths ** length_norm
    ended: NDArray[np.bool_]  # (N, width)


# --- decoding ------------------------------------------------------------------------------------------------------------


def greedy(
    step: Callable[..., Any], y0: Any, state: Any = None, *, max_length: int | None = None, eos: int | None = None,
    stop: bool = False, lengths: Lengths = None, select: Select | None = None,
) -> Decoded:  # fmt: skip
    """The most probable symbol at every step; returns (y, lengths, log_prob, ended).

    step, state, select, eos, stop, lengths, max_length : see the module. y0 : (N,) integers, the symbols that come before.

    Of equal scores the lowest symbol is taken; a row stops by its output where sigmoid(s) > 1/2.
    """
    run = _Run(step, y0, state, max_length, eos, stop, lengths, select)
    return _walk(run, lambda rows, z, s: (z.argmax(axis=1), None if s is None else s > 0))


def sample(
    step: Callable[..., Any], y0: Any, state: Any = None, *, rng: Rngs, temperature: float = 1.0, top_k: int | None = None,
    max_length: int | None = None, eos: int | None = None, stop: bool = False, lengths: Lengths = None,
    select: Select | None = None,
) -> Decoded:  # fmt: skip
    """Symbols drawn one after the other; returns (y, lengths, log_prob, ended).

        P(k) ∝ exp(scores_k / temperature) over the top_k largest scores

    step, state, select, eos, stop, lengths, max_length : see the module. y0 : (N,) integers, the symbols that come before.
    rng : a numpy Generator or a seed, of which one number for each row, row after row, seeds a generator of the row's own; or a
        list of N Generators or seeds, one for each row, whose draws then are the same wherever the row stands. Each step takes
        one uniform number of a row's generator, two with stop=True.
    temperature : a finite number > 0; towards 0 the draws become those of greedy. It does not act upon the stop output.
    top_k : an integer > 0, or None = all; where scores are equal the lowest symbols are kept (Fan, Lewis and Dauphin 2018).

    log_prob is that of the symbols under the model itself, temperature 1 and all symbols.
    """
    temperature = _finite("temperature", temperature, positive=True)
    k = None if top_k is None else _judge.size("top_k", top_k)
    run = _Run(step, y0, state, max_length, eos, stop, lengths, select)
    rngs = _generators(rng, run.N)

    def choose(rows, z, s):
        u = _uniform(rngs, rows, 1 if s is None else 2)
        return _draw(z, u[:, 0], temperature, k), None if s is None else u[:, 1] < _probability(s)

    return _walk(run, choose)


def beam(
    step: Callable[..., Any], y0: Any, state: Any = None, *, width: int, max_length: int | None = None, eos: int | None = None,
    stop: bool = False, lengths: Lengths = None, length_norm: float = 0.0, select: Select | None = None,
) -> Beams:  # fmt: skip
    """The best sequences that a search of `width` hypotheses for each row finds; returns (y, lengths, log_prob, score, ended).

        score = log P(y) / length(y) ** length_norm

    step, state, select, eos, stop, lengths, max_length : see the module. y0 : (N,) integers, the symbols that come before.
    width : an integer > 0, the hypotheses kept of each row. With 1 it is greedy; with as many as there are sequences nothing is
        lost, and the first one is the most probable of all.
    length_norm : a finite number >= 0. With 0 the longer of two sequences has the worse score, since probabilities are below 1;
        with 1 the score is the mean log probability of a symbol (Wu et al. 2016, section 7).

    At each step all hypotheses that go on are extended by every symbol (with stop=True twice, going on and ending), and the
    `width` best of these and of those that have ended stay. A hypothesis that has ended keeps its place by its score. Of equal
    scores comes first: what has ended before, then what extends the better hypothesis, then the lowest symbol, then going on.
    The rows of the step are the hypotheses that go on, row by row of the batch, best first; `select` forks their states.
    Where there are fewer sequences than `width`, the last ones have log_prob = score = -inf and length 0.
    """
    width = _judge.size("width", width)
    length_norm = _finite("length_norm", length_norm)
    run = _Run(step, y0, state, max_length, eos, stop, lengths, select)
    beams = [[_Hypothesis(0.0, 0.0, None, 0, run.limits[n] == 0 and run.fixed)] for n in range(run.N)]
    owners = np.flatnonzero([not beams[n][0].ended for n in range(run.N)])
    if len(owners) < run.N and len(owners):
        run.keep(owners)
    y = run.y0[owners]
    t = 0
    while len(owners) and t < run.longest:
        _, log_p, s = run.scores(y, owners, t)
        end = _ends(log_p, s, run, owners, t)
        parents, symbols, begin = [], [], 0
        for n in np.unique(owners):
            live = [h for h in beams[n] if not h.ended]
            own = slice(begin, begin + len(live))
            beams[n], chosen = _extended(beams[n], live, log_p[own], None if s is None else s[own], end[own], width,
                                         length_norm, t)  # fmt: skip
            parents += [begin + k for k, _ in chosen]
            symbols += [symbol for _, symbol in chosen]
            begin += len(live)
        t += 1
        y, rows = np.array(symbols, np.int64), np.array(parents, np.int64)
        owners = owners[rows]
        if len(rows):
            run.keep(rows)
    return _beams(beams, width)


def scheduled_inputs(
    step: Callable[..., Any],
    y0: Any,
    y: Any,
    state: Any = None,
    *,
    probability: float,
    rng: Rngs,
    lengths: Lengths = None,
    choice: Literal["sample", "greedy"] = "sample",
    select: Select | None = None,
) -> Symbols:
    """The inputs of scheduled teacher forcing; returns (N, T) symbols.

    At each step of each row a coin is tossed: with `probability` the input is the true symbol before, y[:, t - 1], else one
    that the model chose itself from what it had been given so far (Bengio, Vinyals, Jaitly and Shazeer 2015, "Scheduled
    sampling"). The first input is y0. With probability 1 the inputs are y shifted by one, with 0 the model runs freely.

    step, state, select : see the module. y0 : (N,) integers. y : (N, T) integers, the true symbols.
    probability : 0..1, that of the truth; it falls while a model learns: linear_schedule, exponential_schedule,
        inverse_sigmoid_schedule.
    rng : as in `sample`; each step takes two uniform numbers of a row's generator.
    lengths : (N,) integers 0..T or None = T; past a row's length its inputs are 0, whatever y holds there.
    choice : "sample" draws from the model, "greedy" takes its most probable symbol.

    No gradient passes the choices, as in the paper: run the model forward over these inputs as over any others, all steps at
    once, and backward from the loss of y.
    """
    probability = _finite("probability", probability)
    if probability > 1:
        raise ValueError(f"probability: expected 0..1, got {probability}")
    best = _arguments.option("choice", choice, ("sample", "greedy")) == "greedy"
    y = _arguments._integers("y", y)
    if y.ndim != 2:
        raise ValueError(f"y: expected (N, T), got {y.shape}")
    N, T = y.shape
    steps = np.full(N, T) if lengths is None else _arguments._lengths(lengths, N, T)
    y = _symbols("y", np.where(np.arange(T) < steps[:, None], y, y.dtype.type(0)))
    run = _Run(step, y0, state, max(T, 1), None, False, None, select)
    if run.N != N:
        raise ValueError(f"y0: expected (N,) = ({N},) as y, got {run.y0.shape}")
    rngs = _generators(rng, N)
    inputs = np.zeros((N, T), np.int64)
    rows, now = np.arange(N), run.y0
    for t in range(T):
        keep = np.flatnonzero(steps[rows] > t)
        if len(keep) < len(rows):
            rows, now = rows[keep], now[keep]
            if len(keep) and t + 1 < T:
                run.keep(keep)
        if not len(rows):
            break
        inputs[rows, t] = now
        if t + 1 == T:
            break
        u = _uniform(rngs, rows, 2)
        z, _, _ = run.scores(now, rows, t)
        own = z.argmax(axis=1) if best else _draw(z, u[:, 1], 1.0, None)
        now = np.where(u[:, 0] < probability, y[rows, t], own)
    return inputs


# --- schedules -------------------------------------------------------------------------------------------------------------


def linear_schedule(i: float, k: float = 1.0, c: float = 1e-3, least: float = 0.0) -> float:
    """The probability of the truth at update i: max(least, k - c i), at most 1 (Bengio et al. 2015, section 2.4).

    k : what it begins with, c : how much less it is with each update, both >= 0. least : 0..1, where it stays.
    """
    i, k, c, least = (_finite(name, value) for name, value in (("i", i), ("k", k), ("c", c), ("least", least)))
    if least > 1:
        raise ValueError(f"least: expected 0..1, got {least}")
    return min(1.0, max(least, k - c * i))


def exponential_schedule(i: float, k: float = 0.999) -> float:
    """The probability of the truth at update i: k ** i with 0 <= k < 1 (Bengio et al. 2015, section 2.4)."""
    i, k = _finite("i", i), _finite("k", k)
    if k >= 1:
        raise ValueError(f"k: expected a number < 1, got {k}")
    return k**i


def inverse_sigmoid_schedule(i: float, k: float = 100.0) -> float:
    """The probability of the truth at update i: k / (k + exp(i / k)) with k >= 1 (Bengio et al. 2015, section 2.4): near 1 for
    long, 1/2 at i = k log k, 0 in the end."""
    i, k = _finite("i", i), _finite("k", k)
    if k < 1:
        raise ValueError(f"k: expected a number >= 1, got {k}")
    return float(_probability(np.float64(math.log(k) - i / k)))


# --- a layer as a step -----------------------------------------------------------------------------------------------------


class LayerStep:
    """A layer between symbols and scores, as the step that greedy, sample, beam and scheduled_inputs take.

        x = E[y]                       or, without E, the one-hot row of y, input_size wide
        h = layer.step(x)
        scores = h V + c

    layer : an RNN, LSTM, GRU, … of one direction without a period, any number of layers. V : (H, K), or (H, K + 1) with
        stop=True in decoding; of an LSTM with proj_size=P, P for H.
    c : (K,) as V has columns, or None. E : (number of symbols, D) or None. All of the layer's dtype.
    remaining : True makes the last column of x the symbols still to come, for lengths=; E then is D - 1 wide.

    step(y, state=None, left=None) -> (scores, state) : state None is zeros, else a tuple of arrays (num_layers, N, H), as
    layer.state or the (h_T,) or (h_T, c_T) of forward; arrays that come are never written. select(state, rows) : those rows.

    Weights are copied here: what is trained afterwards counts for a new LayerStep. A row has the same bits in any batch. A
    symbol that E, or x, has no row for is a ValueError.
    """

    def __init__(self, layer: Layer, V: Array, c: Array | None = None, E: Array | None = None, *, remaining: bool = False):
        if not isinstance(layer, Layer):
            raise TypeError(f"layer: expected a layer as fastgate.LSTM is, got {_arguments._kind(layer)}")
        one_direction(layer, "layer")
        if layer._cycle is not None:
            raise ValueError("layer: expected one without a period, for a state does not say which step it is at")
        dtype = layer.dtype
        V = _arguments._array("V", V, (dtype,), "the layer")[...]
        if V.ndim != 2 or len(V) != layer.output_size or V.shape[1] == 0:
            raise ValueError(f"V: expected ({layer._letter_of_h}, K) = ({layer.output_size}, K >= 1), got {V.shape}")
        c = None if c is None else _judge.array("c", c, dtype, ("K",), (V.shape[1],))
        self._symbols = SymbolRows(E, layer.input_size, "D", dtype, "the layer", remaining)
        self._prepared = Prepared(layer)
        self._output = _affine.Prepared(V, c)
        self._State, self._state_shapes, self._dtype = layer._State, layer._state_shapes, dtype

    def __call__(self, y: Any, state: Any = None, left: Any = None) -> tuple[Array, Any]:
        x = self._symbols.rows(y, left)
        layers = len(self._prepared.cells)
        if state is None:
            states: list[Any] = [[None] * layers] * len(self._state_shapes)
        else:
            states = _judge.state("state", state, self._state_shapes, (layers, len(x)), self._dtype)
        x, after = self._prepared.step(x, states)
        return self._output(x), self._State._make(after)

    def select(self, state: Any, rows: NDArray[np.int64]) -> Any:
        """The states of these rows, copies; a row may come twice. None stays None."""
        return None if state is None else self._State._make(np.take(a, rows, axis=1) for a in state)


# --- what decoding shares --------------------------------------------------------------------------------------------------


class _Run:
    """The judged arguments of a decoding, and the state of the rows that go on."""

    def __init__(self, step, y0, state, max_length, eos, stop, lengths, select):
        if not callable(step):
            raise TypeError(f"step: expected a function step(y, state) -> (scores, state), got {_arguments._kind(step)}")
        y0 = _arguments._integers("y0", y0)
        if y0.ndim != 1:
            raise ValueError(f"y0: expected (N,), got {y0.shape}" + _arguments._ask(f"[{y0}]" if y0.ndim == 0 else None))
        self.y0 = _symbols("y0", y0)
        self.N = len(y0)
        self.stop = _arguments.flag("stop", stop)
        self.fixed = lengths is not None
        if eos is not None:
            if isinstance(eos, (bool, np.bool_)) or not isinstance(eos, Integral):
                raise TypeError(f"eos: expected an integer >= 0 or None, got {_arguments._kind(eos)}")
            if eos < 0:
                raise ValueError(f"eos: expected an integer >= 0 or None, got {eos}")
        self.eos = eos
        if max_length is not None:
            max_length = _judge.size("max_length", max_length, 0)
        if self.fixed:
            self.limits = _arguments._lengths(lengths, self.N, 2**62)
            self.longest = int(self.limits.max(initial=0))
            if max_length is not None:
                self.longest = min(self.longest, max_length)
        elif max_length is None:
            raise ValueError("max_length: expected an integer >= 0 where there is no lengths=, got None")
        else:
            self.limits, self.longest = np.full(self.N, max_length), max_length
        if select is not None and not callable(select):
            raise TypeError(f"select: expected a function select(state, rows), got {_arguments._kind(select)}")
        self._select = select or getattr(step, "select", None) or self._rows_of_arrays
        self._step, self._state, self._R, self._K = step, state, self.N, None

    def scores(self, y, rows, t):
        """Of the next symbols of these rows of the batch, in float64: scores (R, K) less the largest one of their row, log
        probabilities (R, K), stop logits (R,) or None."""
        found = self._step(y, self._state, self.limits[rows] - t) if self.fixed else self._step(y, self._state)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(f"step: expected to return (scores, state), got {_arguments._kind(found)}")
        scores, self._state = found
        scores = _arguments._array("scores", scores, _arguments.KERNEL)
        least, letters = (2, "(R, K + 1)") if self.stop else (1, "(R, K)")
        if scores.ndim != 2 or len(scores) != len(y) or scores.shape[1] < least:
            raise ValueError(f"scores: expected {letters} = ({len(y)}, …) of step {t}, got {scores.shape}")
        if self._K not in (None, scores.shape[1]):
            raise ValueError(f"scores: expected as many columns as before, {self._K}, got {scores.shape[1]} in step {t}")
        self._K = scores.shape[1]
        if self.eos is not None and self.eos > self._K - least:
            raise ValueError(f"eos: expected a symbol 0..{self._K - least}, got {self.eos}")
        scores = scores.astype(np.float64, order="C")
        wrong = ~(scores < np.inf)  # NaN, too
        if wrong.any():
            r, k = np.argwhere(wrong)[0]
            raise ValueError(f"scores: expected no NaN and no +inf, got {scores[r, k]} in row {rows[r]} of step {t}")
        s = None
        if self.stop:
            scores, s = scores[:, :-1].copy(), scores[:, -1]
        top = scores.max(axis=1, keepdims=True)
        if np.isneginf(top).any():
            raise ValueError(
                f"scores: expected a finite one in each row, got -inf in all of row {rows[int(top.argmin())]}, step {t}"
            )
        with np.errstate(over="ignore"):  # to -inf
            scores -= top
        return scores, scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)), s

    def keep(self, rows):
        """Only these rows go on; a row may come twice."""
        self._state = self._select(self._state, rows)
        self._R = len(rows)

    def _rows_of_arrays(self, state, rows):
        return _selected(state, rows, self._R)


def _walk(run, choose):
    """One sequence for each row, whose symbols and ends are chosen by choose(rows, scores less the largest, stop logits) ->
    (symbols, stops or None)."""
    rows = np.flatnonzero(run.limits > 0)
    columns, log_prob = [], np.zeros(run.N)
    lengths, ended = np.zeros(run.N, np.int64), (run.limits == 0) & run.fixed
    if 0 < len(rows) < run.N:
        run.keep(rows)
    y = run.y0[rows]
    for t in range(run.longest):
        if not len(rows):
            break
        z, log_p, s = run.scores(y, rows, t)
        y, stops = choose(rows, z, s)
        log_prob[rows] += log_p[np.arange(len(y)), y]
        if s is not None:
            log_prob[rows] += _log_probability(np.where(stops, s, -s))
        columns.append(np.full(run.N, -1))
        columns[-1][rows] = y
        lengths[rows] = t + 1
        over = _over(y, stops, run, rows, t)
        ended[rows[over]] = True
        left = np.flatnonzero(~over)
        if 0 < len(left) < len(rows) and t + 1 < run.longest:
            run.keep(left)
        rows, y = rows[left], y[left]
    table = np.stack(columns, axis=1) if columns else np.empty((run.N, 0), np.int64)
    return Decoded(table, lengths, log_prob, ended)


def _over(y, stops, run, rows, t):
    """Which rows end with their symbol of step t."""
    over = np.zeros(len(y), bool) if stops is None else stops.copy()
    if run.eos is not None:
        over |= y == run.eos
    if run.fixed:
        over |= run.limits[rows] == t + 1
    return over


def _ends(log_p, s, run, rows, t):
    """Which extensions (R, K), with a stop output (R, K, 2), have ended."""
    end = np.zeros(log_p.shape if s is None else (*log_p.shape, 2), bool)
    if s is not None:
        end[..., 1] = True
    if run.eos is not None:
        end[:, run.eos] = True
    if run.fixed:
        end[run.limits[rows] == t + 1] = True
    return end


class _Hypothesis(NamedTuple):
    score: float
    log_prob: float
    path: Any  # (path before, symbol), or None
    length: int
    ended: bool


def _extended(before, live, log_p, s, end, width, length_norm, t):
    """The `width` best of all extensions of the live hypotheses and of those that have ended; and (live parent, symbol) of
    those that go on."""
    total = np.array([h.log_prob for h in live])[:, None] + log_p
    if s is not None:
        total = total[..., None] + _log_probability(np.stack([-s, s], axis=1))[:, None]
    done = [h for h in before if h.ended]
    scores = np.concatenate([[h.score for h in done], total.ravel() / (t + 1.0) ** length_norm])
    if width < len(scores):
        bound = np.partition(scores, len(scores) - width)[len(scores) - width]
        best = np.flatnonzero(scores >= bound)
    else:
        best = np.arange(len(scores))
    best = best[np.argsort(-scores[best], kind="stable")][:width]
    after, chosen = [], []
    for place in best:
        if place < len(done):
            after.append(done[place])
        elif scores[place] > -np.inf:
            at = np.unravel_index(place - len(done), total.shape)
            k, symbol = int(at[0]), int(at[1])
            after.append(_Hypothesis(float(scores[place]), float(total[at]), (live[k].path, symbol), t + 1, bool(end[at])))
            if not after[-1].ended:
                chosen.append((k, symbol))
    return after, chosen


def _beams(beams, width):
    N, T = len(beams), max((h.length for hypotheses in beams for h in hypotheses), default=0)
    y, lengths = np.full((N, width, T), -1), np.zeros((N, width), np.int64)
    log_prob, score, ended = np.full((N, width), -np.inf), np.full((N, width), -np.inf), np.zeros((N, width), bool)
    for n, hypotheses in enumerate(beams):
        for k, h in enumerate(hypotheses):
            lengths[n, k], log_prob[n, k], score[n, k], ended[n, k] = h.length, h.log_prob, h.score, h.ended
            path = h.path
            for t in reversed(range(h.length)):
                path, y[n, k, t] = path
    return Beams(y, lengths, log_prob, score, ended)


def _selected(state, rows, R):
    """These rows of all arrays in a state of R rows."""
    if state is None:
        return None
    if isinstance(state, dict):
        return {name: _selected(part, rows, R) for name, part in state.items()}
    if isinstance(state, (tuple, list)):
        parts = [_selected(part, rows, R) for part in state]
        return state._make(parts) if isinstance(state, tuple) and hasattr(state, "_make") else type(state)(parts)
    if not isinstance(state, np.ndarray):
        raise TypeError(f"state: expected arrays in tuples, lists or dicts, or select=, got {_arguments._kind(state)}")
    if state.ndim == 0 or len(state) != R:
        raise ValueError(
            f"state: expected arrays (R, …) = ({R}, …) with a row for each symbol, got {state.shape}; or pass select="
        )
    return state[rows]


def _symbols(name, y):
    wrong = (y < 0) | (y > np.iinfo(np.int64).max)
    if wrong.any():
        raise ValueError(f"{name}: expected symbols 0..2**63-1, got {y[wrong][0]}")
    return y.astype(np.int64)


def _finite(name, value, *, positive=False):
    value = _arguments.number(name, value, positive=positive)
    if value == math.inf:
        raise ValueError(f"{name}: expected a finite number, got inf")
    return value


def _generators(rng, N):
    """A generator for each row."""
    if isinstance(rng, (list, tuple)):
        if len(rng) != N:
            raise ValueError(f"rng: expected N = {N} generators or seeds, or one, got {len(rng)}")
        if any(each is None for each in rng):
            raise TypeError("rng: expected a numpy Generator or an integer seed for each row, got None")
        return [_judge.generator(each) for each in rng]
    if rng is None:
        raise TypeError("rng: expected a numpy Generator, an integer seed, or one for each row, got None")
    seeds = _judge.generator(rng).integers(2**63, size=N)
    return [np.random.default_rng(seed) for seed in seeds]


def _uniform(rngs, rows, count):
    return np.array([rngs[n].random(count) for n in rows]).reshape(len(rows), count)


def _draw(z, u, temperature, top_k):
    """A symbol of each row: the first whose cumulated probability exceeds u. The largest z of a row is 0."""
    with np.errstate(over="ignore"):
        p = np.exp(z / temperature)
    if top_k is not None and top_k < z.shape[1]:
        np.put_along_axis(p, np.argsort(-z, axis=1, kind="stable")[:, top_k:], 0.0, axis=1)
    cumulated = p.cumsum(axis=1)
    found = (cumulated <= (u * cumulated[:, -1])[:, None]).sum(axis=1)
    last = p.shape[1] - 1 - (p[:, ::-1] > 0).argmax(axis=1)
    return np.minimum(found, last)


def _log_probability(s):
    """log sigmoid(s)."""
    return -np.logaddexp(0.0, -s)


def _probability(s):
    """sigmoid(s)."""
    return np.exp(_log_probability(s))
