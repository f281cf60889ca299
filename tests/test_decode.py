"""Decoding: greedy, sampled, by beam; the ways to end; scheduled teacher forcing; a layer as a step."""

import itertools
import math

import numpy as np
import pytest
from support import digest, values

import fastgate
from fastgate import decode
from fastgate.layers import _affine

KINDS = [fastgate.RNN, fastgate.LSTM, fastgate.GRU]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def model(kind=fastgate.LSTM, K=5, *, dtype=np.float64, stop=False, remaining=False, embedded=True, num_layers=2, seed=0):
    """(layer, V, c, E) with weights that make lively scores."""
    rng = np.random.default_rng(seed)
    D = 3 + remaining if embedded else K + remaining
    layer = kind(D, 6, num_layers=num_layers, dtype=dtype, rng=seed)
    layer.parameters[...] = values(rng, layer.parameters.shape, dtype, 0.8)
    V = values(rng, (6, K + stop), dtype, 2.0)
    return layer, V, values(rng, (K + stop,), dtype), values(rng, (K, 3), dtype) if embedded else None


def step_of(*arguments, **keywords):
    remaining = keywords.get("remaining", False)
    return decode.LayerStep(*model(*arguments, **keywords), remaining=remaining)


def log_softmax(o):
    o = o.astype(np.float64)
    o = o - o.max(axis=-1, keepdims=True)
    return o - np.log(np.exp(o).sum(axis=-1, keepdims=True))


def constant(scores):
    """A step whose scores are always these."""
    return lambda y, state: (np.tile(np.asarray(scores, float), (len(y), 1)), state)


def markov(P, stop=None):
    """A step whose scores depend on the last symbol alone; its state counts the steps of a row."""

    def step(y, state, left=None):
        scores = np.log(P)[y]
        if stop is not None:
            scores = np.concatenate([scores, stop[y][:, None]], axis=1)
        return scores, state + 1

    return step


def every_sequence(step, y0, *, longest, K, eos=None, stop=False, T=None):
    """{symbols: log P} of all sequences of one row that end within `longest` symbols or are cut there, by recursion."""
    found = {}

    def visit(path, y, state, log_p):
        if len(path) == longest:
            found[(*path, "cut")] = log_p
            return
        scores, state = step(np.array([y]), state) if T is None else step(np.array([y]), state, np.array([T - len(path)]))
        if stop:
            scores, s = scores[:, :-1], float(scores[0, -1])
        p = log_softmax(scores)[0]
        for k in range(K):
            q = log_p + p[k]
            if stop:
                found[(*path, k, "stop")] = q - math.log1p(math.exp(-s))
                q -= math.log1p(math.exp(s))
            if k == eos or (T is not None and len(path) + 1 == T):
                found[(*path, k, "end")] = q
            else:
                visit((*path, k), k, state, q)

    visit((), y0, None if hasattr(step, "select") else np.zeros(1, int), 0.0)
    return found


# --- a layer as a step ---------------------------------------------------------------------------------------------------


@kinds
@dtypes
@pytest.mark.parametrize("embedded", [True, False])
def test_a_layer_step_is_the_layer(kind, dtype, embedded):
    """States bit for bit those of forward, scores those of the affine map, which is h V + c."""
    layer, V, c, E = model(kind, K=150, dtype=dtype, embedded=embedded)
    step = decode.LayerStep(layer, V, c, E)
    rng = np.random.default_rng(1)
    y = rng.integers(150, size=(4, 7))
    found = layer.forward(E[y] if embedded else np.eye(150, dtype=dtype)[y], training=False)
    state, scores = None, []
    for t in range(7):
        before = digest(state)
        o, after = step(y[:, t], state)
        assert digest(state) == before
        scores.append(o)
        state = after
    np.testing.assert_array_equal(state.h, found.h_T)
    assert isinstance(state, layer._State)
    expected, _ = _affine.forward(found.h, V, c)
    np.testing.assert_array_equal(np.stack(scores, axis=1), expected)
    np.testing.assert_allclose(
        expected, found.h.astype(np.float64) @ V + c, rtol=0, atol=3e-5 if dtype == np.float32 else 1e-13
    )
    rows = np.array([2, 2, 0])
    for a, b in zip(step.select(state, rows), state, strict=True):
        np.testing.assert_array_equal(a, b[:, rows])


def test_what_is_trained_afterwards_does_not_count():
    layer, V, c, E = model()
    step = decode.LayerStep(layer, V, c, E)
    before = step([1, 2])[0]
    for a in (layer.parameters, V, c, E):
        a += 1
    np.testing.assert_array_equal(step([1, 2])[0], before)


@dtypes
@pytest.mark.parametrize("K", [1, 7, 64, 65, 130])
def test_the_affine_map_and_its_gradients(dtype, K):
    """Rows have the same bits in any batch; gradients are those of x W + b."""
    rng = np.random.default_rng(K)
    x, W, b = values(rng, (4, 3, 9), dtype), values(rng, (9, K), dtype), values(rng, (K,), dtype)
    y, cache = _affine.forward(x, W, b)
    dy = values(rng, y.shape, dtype)
    dW, db = np.empty_like(W), np.empty_like(b)
    dx = _affine.backward(dy, cache, dW, db)
    close = {"rtol": 0, "atol": 1e-4 if dtype == np.float32 else 1e-12}
    np.testing.assert_allclose(y, x.astype(np.float64) @ W + b, **close)
    np.testing.assert_allclose(dx, dy.astype(np.float64) @ W.T, **close)
    np.testing.assert_allclose(dW, np.einsum("ntd,ntk->dk", x.astype(np.float64), dy), **close)
    np.testing.assert_allclose(db, dy.astype(np.float64).sum(axis=(0, 1)), **close)
    np.testing.assert_array_equal(_affine.forward(x[2:3, 1], W, b, training=False)[0][0], y[2, 1])
    np.testing.assert_array_equal(_affine.Prepared(W, b)(x[3]), y[3])
    assert _affine.backward(dy, cache, need_dx=False) is None


# --- greedy --------------------------------------------------------------------------------------------------------------


@kinds
@dtypes
def test_greedy_is_a_loop(kind, dtype):
    layer, V, c, E = model(kind, dtype=dtype)
    found = decode.greedy(decode.LayerStep(layer, V, c, E), [0, 3, 2], max_length=12, eos=1)
    for n, y in enumerate([0, 3, 2]):
        symbols, log_p = [], 0.0
        layer.reset()
        while len(symbols) < 12 and y != 1:
            p = log_softmax(_affine.forward(layer.step(E[[y]]), V, c)[0])[0]
            y = int(p.argmax())
            symbols.append(y)
            log_p += p[y]
        assert found.y[n].tolist() == symbols + [-1] * (found.y.shape[1] - len(symbols))
        assert found.lengths[n] == len(symbols)
        assert found.ended[n] == (symbols[-1] == 1)
        assert found.log_prob[n] == pytest.approx(log_p, rel=1e-14)
    assert found.y.shape[1] == found.lengths.max()


def test_ties_are_broken_for_the_lowest_symbol():
    scores = [0.0, 2.0, 2.0, 1.0]
    found = decode.greedy(constant(scores), [3, 3], max_length=2)
    assert found.y.tolist() == [[1, 1]] * 2
    beams = decode.beam(constant(scores), [3], width=4, max_length=1)
    assert beams.y[0, :, 0].tolist() == [1, 2, 3, 0]
    largest = np.finfo(float).max  # differences that no float holds
    for row, best in (([-largest, largest], 1), ([largest, -largest], 0)):
        assert decode.greedy(constant(row), [0], max_length=2).log_prob == 0
        assert decode.beam(constant(row), [0], width=3, max_length=2).y[0, 0].tolist() == [best, best]
    # Scores that differ by less than rounding leaves of their probabilities are no tie.
    near = constant([0.0, np.nextafter(0, 1)])
    assert decode.greedy(near, [0], max_length=1).y.tolist() == [[1]]
    assert decode.sample(near, [0], max_length=1, top_k=1, rng=0).y.tolist() == [[1]]


# --- the three ways to end -------------------------------------------------------------------------------------------------

P = np.array([[0.1, 0.6, 0.3], [0.2, 0.1, 0.7], [0.5, 0.3, 0.2]])


def test_eos_is_the_last_symbol():
    found = decode.greedy(markov(P), [0, 1, 2], np.zeros(3, int), max_length=5, eos=2)
    assert found.y.tolist() == [[1, 2, -1], [2, -1, -1], [0, 1, 2]]
    assert found.lengths.tolist() == [2, 1, 3]
    assert found.ended.all()
    np.testing.assert_allclose(found.log_prob, np.log([0.6 * 0.7, 0.7, 0.5 * 0.6 * 0.7]), rtol=1e-14)


def test_a_stop_output_ends_with_its_symbol():
    s = np.array([-1.0, 0.5, 2.0])
    found = decode.greedy(markov(P, s), [0, 1, 2], np.zeros(3, int), max_length=5, stop=True)
    assert found.y.tolist() == [[1, 2], [2, -1], [0, -1]]
    sigmoid = 1 / (1 + np.exp(-s))
    expected = [0.6 * (1 - sigmoid[0]) * 0.7 * sigmoid[1], 0.7 * sigmoid[1], 0.5 * sigmoid[2]]
    np.testing.assert_allclose(found.log_prob, np.log(expected), rtol=1e-14)
    assert found.ended.all()
    never = decode.greedy(markov(P, np.full(3, -np.inf)), [0], np.zeros(1, int), max_length=4, stop=True)
    assert (never.lengths, never.ended) == ([4], [False])
    assert never.log_prob == pytest.approx(np.log([0.6 * 0.7 * 0.5 * 0.6]))


@kinds
def test_a_predicted_length_is_run_and_told(kind):
    """`left` counts down to 1, and is the last column of x."""
    layer, V, c, E = model(kind, remaining=True)
    step = decode.LayerStep(layer, V, c, E, remaining=True)
    seen = []

    def watched(y, state, left):
        seen.append(left.tolist())
        return step(y, state, left)

    found = decode.greedy(watched, [0, 1, 2, 3], lengths=[2, 0, 3, 1], select=step.select)
    assert seen == [[2, 3, 1], [1, 2], [1]]
    assert found.lengths.tolist() == [2, 0, 3, 1]
    assert found.ended.all()
    x = np.concatenate([E[[2, *found.y[2, :2]]], np.array([[3.0], [2.0], [1.0]])], axis=1)
    o = _affine.forward(layer.forward(x[None], training=False).h, V, c)[0][0]
    assert found.y[2].tolist() == o.argmax(axis=1).tolist()
    cut = decode.greedy(step, [0, 1, 2, 3], lengths=[2, 0, 3, 1], max_length=2)
    assert cut.ended.tolist() == [True, True, False, True]
    assert cut.lengths.tolist() == [2, 0, 2, 1]


@pytest.mark.parametrize("how", [decode.greedy, decode.beam, decode.sample], ids=lambda how: how.__name__)
def test_nothing_to_decode(how):
    more = {"rng": 0} if how is decode.sample else {"width": 2} if how is decode.beam else {}
    for y0, ends in (
        ([], {"max_length": 3}),
        ([1, 2], {"max_length": 0}),
        ([1, 2], {"lengths": [0, 0]}),
        ([], {"lengths": []}),
    ):
        found = how(lambda y, state: 1 / 0, y0, **ends, **more)
        assert found.lengths.sum() == 0
        assert found.y.shape[0] == len(y0)
        assert found.y.shape[-1] == 0
        first = found.ended[:, 0] if how is decode.beam else found.ended
        assert first.tolist() == ["lengths" in ends] * len(y0)


# --- a row is the same in any batch ----------------------------------------------------------------------------------------


@kinds
@dtypes
@pytest.mark.parametrize("how", ["greedy", "sample", "beam"])
def test_a_row_alone_is_the_row_in_a_batch(kind, dtype, how):
    stop = kind is fastgate.GRU
    step = step_of(kind, K=70, dtype=dtype, stop=stop)
    y0 = np.arange(9)
    ends = {"max_length": 15, "stop": True} if stop else {"max_length": 15, "eos": 4}

    def run(rows):
        if how == "sample":
            return decode.sample(step, y0[rows], rng=[100 + n for n in rows], temperature=1.3, top_k=50, **ends)
        return (
            decode.beam(step, y0[rows], width=4, length_norm=0.7, **ends)
            if how == "beam"
            else decode.greedy(step, y0[rows], **ends)
        )

    together = run(list(range(9)))
    for rows in ([0], [5], [8, 2]):
        alone = run(rows)
        T = alone.y.shape[-1]
        np.testing.assert_array_equal(together.y[rows][..., :T], alone.y)
        assert (together.y[rows][..., T:] == -1).all()
        for name in alone._fields[1:]:
            np.testing.assert_array_equal(getattr(together, name)[rows], getattr(alone, name), err_msg=name)


# --- sampling --------------------------------------------------------------------------------------------------------------


def frequencies(log_p, draws=20_000, **options):
    found = decode.sample(constant(log_p), np.zeros(draws, int), max_length=1, rng=0, **options)
    return np.bincount(found.y[:, 0], minlength=len(log_p)) / draws


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (2.5, 3), (1.0, 4), (1.0, 99)])
def test_samples_have_their_probabilities(temperature, top_k):
    scores = np.log([0.05, 0.3, 0.1, 0.3, 0.25])
    p = np.exp(scores / temperature)
    if top_k == 3:
        p[[0, 2]] = 0
    if top_k == 4:
        p[0] = 0
    p /= p.sum()
    found = frequencies(scores, temperature=temperature, top_k=top_k)
    assert (np.abs(found - p) <= 5 * np.sqrt(p * (1 - p) / 20_000)).all()


def test_of_equal_scores_the_lowest_symbols_are_kept():
    assert (frequencies(np.zeros(5), draws=200, top_k=2)[2:] == 0).all()


def test_stops_have_their_probability():
    found = decode.sample(constant([0.0, 0.0, 0.4]), np.zeros(4000, int), max_length=60, stop=True, rng=1)
    q = 1 / (1 + np.exp(-0.4))
    assert found.ended.all()
    assert abs(found.lengths.mean() - 1 / q) < 5 * np.sqrt((1 - q) / q**2 / 4000)
    np.testing.assert_allclose(
        found.log_prob, found.lengths * np.log(0.5) + (found.lengths - 1) * np.log(1 - q) + np.log(q), rtol=1e-12
    )


def test_samples_come_of_their_generators():
    step = step_of()
    one = decode.sample(step, [0, 1, 2], rng=7, max_length=9)
    assert digest(*one) == digest(*decode.sample(step, [0, 1, 2], rng=np.random.default_rng(7), max_length=9))
    first = decode.sample(step, [0, 1], rng=7, max_length=9)
    np.testing.assert_array_equal(first.y, one.y[:2])
    rng = np.random.default_rng(7)
    assert digest(*decode.sample(step, [0] * 8, rng=rng, max_length=9)) != digest(
        *decode.sample(step, [0] * 8, rng=rng, max_length=9)
    )


def test_low_temperatures_are_greedy_and_impossible_symbols_never_come():
    step = step_of(K=30)
    for temperature in (1e-4, 1e-300, 5e-324):
        np.testing.assert_array_equal(
            decode.sample(step, [0, 1, 2], rng=0, temperature=temperature, max_length=9).y,
            decode.greedy(step, [0, 1, 2], max_length=9).y,
        )
    found = frequencies(np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf]), draws=500)
    assert (found > 0).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_possible_symbols(u):
    """For many sums that are rounded up and down."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        z = values(rng, (1, 6))
        z[:, [0, 5]] = -np.inf
        assert decode._draw(z - z.max(), np.array([u]), 1.0, None) == (1 if u == 0 else 4)


# --- beam ------------------------------------------------------------------------------------------------------------------

ENDS = {"cut": {}, "eos": {"eos": 2}, "stop": {"stop": True}, "length": {"lengths": [3]}}


@pytest.mark.parametrize("norm", [0.0, 1.0, 0.6])
@pytest.mark.parametrize("end", ENDS)
@kinds
def test_a_beam_of_all_sequences_finds_them_all_in_order(kind, end, norm):
    options = ENDS[end]
    step = step_of(kind, K=3, stop=end == "stop", remaining=end == "length")
    every = every_sequence(
        step, 1, longest=3, K=3, eos=options.get("eos"), stop=end == "stop", T=3 if end == "length" else None
    )
    found = decode.beam(step, [1], width=len(every) + 2, max_length=3, length_norm=norm, **options)
    assert (found.log_prob[0, -2:] == -np.inf).all()
    assert (found.y[0, -2:] == -1).all()
    assert found.lengths[0, -2:].tolist() == [0, 0]
    seen = {}
    for k in range(len(every)):
        path = tuple(found.y[0, k, : found.lengths[0, k]].tolist())
        way = "cut" if not found.ended[0, k] else "stop" if end == "stop" else "end"
        seen[(*path, way)] = found.log_prob[0, k]
        assert found.score[0, k] == found.log_prob[0, k] / len(path) ** norm
    assert seen.keys() == every.keys()
    for path, log_p in every.items():
        assert seen[path] == pytest.approx(log_p, rel=1e-12)
    assert (np.diff(found.score[0, : len(every)]) <= 0).all()
    assert np.exp(list(seen.values())).sum() == pytest.approx(1, rel=1e-12)


@kinds
@dtypes
@pytest.mark.parametrize("end", ENDS)
def test_a_beam_of_one_is_greedy(kind, dtype, end):
    ends = ENDS[end] | {"max_length": 8} if end != "length" else {"lengths": [3, 7, 0]}
    step = step_of(kind, K=6, dtype=dtype, stop=end == "stop", remaining=end == "length")
    found, greedy = decode.beam(step, [0, 1, 2], width=1, **ends), decode.greedy(step, [0, 1, 2], **ends)
    for name in greedy._fields:
        np.testing.assert_array_equal(getattr(found, name)[:, 0], getattr(greedy, name), err_msg=name)


def plain_beam(step, y0, width, longest, eos, norm):
    """One row, by sorting whole lists; states are forked by running every path anew from the beginning."""
    beam = [(0.0, 0.0, ())]
    for t in range(longest):
        candidates = [h for h in beam if h[2][-1:] == (eos,)]
        for _, log_p, path in beam:
            if path[-1:] == (eos,):
                continue
            state = None
            for y in (y0, *path):
                scores, state = step(np.array([y]), state)
            p = log_softmax(scores)[0]
            candidates += [((log_p + p[k]) / (t + 1) ** norm, log_p + p[k], (*path, k)) for k in range(len(p))]
        beam = sorted(candidates, key=lambda h: -h[0])[:width]
    return beam


@kinds
@pytest.mark.parametrize(("width", "norm"), [(2, 0.0), (3, 1.0), (7, 0.6)])
def test_a_beam_is_the_plain_search(kind, width, norm):
    step = step_of(kind, K=6)
    found = decode.beam(step, [0, 5, 3], width=width, max_length=7, eos=1, length_norm=norm)
    for n, y0 in enumerate([0, 5, 3]):
        for k, (score, log_p, path) in enumerate(plain_beam(step, y0, width, 7, 1, norm)):
            assert found.y[n, k, : found.lengths[n, k]].tolist() == list(path)
            assert (found.score[n, k], found.log_prob[n, k]) == pytest.approx((score, log_p), rel=1e-12)
            assert found.ended[n, k] == (path[-1] == 1)


@kinds
def test_states_in_a_stream_pool_and_in_plain_arrays(kind):
    """What decodes over StreamPool is what decodes over arrays: an id for each row is the state."""
    layer, V, c, E = model(kind)
    own = decode.LayerStep(layer, V, c, E)
    output = _affine.Prepared(V, c)
    pool = fastgate.StreamPool(layer, 40)

    def step(y, ids):
        return output(pool.step(ids, E[y])), ids

    def select(ids, rows):
        new = pool.fork(ids[rows])
        pool.close(ids)
        return new

    for options in ({"eos": 2}, {}):
        found = decode.beam(step, [0, 1, 3], pool.open(3), width=4, max_length=6, select=select, **options)
        assert digest(*found) == digest(*decode.beam(own, [0, 1, 3], width=4, max_length=6, **options))
        pool.close(pool.ids)


def test_nested_states_are_selected():
    state = {"a": (np.arange(6.0).reshape(3, 2), [np.arange(3), None]), "b": decode.Decoded(*(np.arange(3),) * 4)}
    found = decode._selected(state, np.array([2, 0, 0]), 3)
    assert found["a"][0].tolist() == [[4, 5], [0, 1], [0, 1]]
    assert found["a"][1][0].tolist() == [2, 0, 0]
    assert found["a"][1][1] is None
    assert isinstance(found["b"], decode.Decoded)


# --- scheduled teacher forcing ---------------------------------------------------------------------------------------------


def test_schedules_are_those_of_the_paper():
    assert [decode.linear_schedule(i, 0.9, 0.25, 0.1) for i in (0, 1, 2, 3, 4)] == pytest.approx([0.9, 0.65, 0.4, 0.15, 0.1])
    assert decode.linear_schedule(0, 3.0, 1.0) == 1.0
    assert decode.exponential_schedule(3, 0.9) == pytest.approx(0.729)
    for k in (1.0, 5.0, 200.0):
        for i in (0, 1, 7.5, 100):
            assert decode.inverse_sigmoid_schedule(i, k) == pytest.approx(k / (k + math.exp(i / k)), rel=1e-12)
    assert decode.inverse_sigmoid_schedule(1e6, 1.0) == 0.0


@kinds
@pytest.mark.parametrize("choice", ["sample", "greedy"])
def test_scheduled_inputs(kind, choice):
    """Probability 1: the truth; 0: what the model says, as by greedy and by sample; between: by its coin."""
    step = step_of(kind, K=8)
    rng = np.random.default_rng(3)
    y0, y, lengths = np.array([0, 1, 2, 3]), rng.integers(8, size=(4, 9)), [9, 4, 0, 6]
    y[1, 4:], y[2:, 6:] = 10**6, -1
    before = digest(y0, y)
    seeds = [5, 6, 7, 8]
    truth = np.concatenate([y0[:, None], y[:, :-1]], axis=1)
    inside = np.arange(9) < np.array(lengths)[:, None]

    def run(p):
        return decode.scheduled_inputs(step, y0, y, probability=p, rng=seeds, lengths=lengths, choice=choice)

    np.testing.assert_array_equal(run(1.0), np.where(inside, truth, 0))
    free = run(0.0)
    if choice == "greedy":
        expected = decode.greedy(step, y0, max_length=8).y
        np.testing.assert_array_equal(free[:, 1:], np.where(inside[:, 1:], expected, 0))
    mixed = run(0.5)
    counts = [0, 0]
    for n in range(4):
        own = np.random.default_rng(seeds[n])
        state, now = None, y0[n]
        for t in range(lengths[n]):
            assert mixed[n, t] == now
            if t == 8:
                break
            coin, u = own.random(2)
            scores, state = step(np.array([now]), state)
            z = scores - scores.max()
            now = (
                y[n, t] if coin < 0.5 else z[0].argmax() if choice == "greedy" else decode._draw(z, np.array([u]), 1.0, None)[0]
            )
            counts[int(coin < 0.5)] += 1
    assert min(counts) > 3
    assert digest(y0, y) == before
    alone = decode.scheduled_inputs(step, y0[3:], y[3:], probability=0.5, rng=seeds[3:], lengths=[6], choice=choice)
    np.testing.assert_array_equal(alone, mixed[3:])
    assert decode.scheduled_inputs(step, [], np.empty((0, 4), int), probability=0.5, rng=0).shape == (0, 4)
    assert decode.scheduled_inputs(step, [1], np.empty((1, 0), int), probability=0.5, rng=0).shape == (1, 0)


# --- what does not fit -------------------------------------------------------------------------------------------------------

STEP = {"step": constant(np.zeros(3)), "y0": [0, 1], "state": None, "max_length": 3}
BAD = [
    ("greedy", {"step": 3}, TypeError, "step: expected a function"),
    ("greedy", {"y0": 1}, ValueError, r"y0: expected \(N,\), got \(\)"),
    ("greedy", {"y0": [0.5]}, TypeError, "y0: expected integers"),
    ("greedy", {"y0": [-1]}, ValueError, r"y0: expected symbols 0\.\.2\*\*63-1, got -1"),
    ("greedy", {"y0": np.full(2, 2**63, np.uint64)}, ValueError, r"y0: expected symbols 0\.\.2\*\*63-1, got 9"),
    ("greedy", {"max_length": None}, ValueError, "max_length: expected an integer"),
    ("greedy", {"max_length": 2.0}, TypeError, "max_length: expected an integer"),
    ("greedy", {"max_length": -1}, ValueError, "max_length: expected an integer"),
    ("greedy", {"eos": True}, TypeError, "eos: expected an integer"),
    ("greedy", {"eos": -1}, ValueError, "eos: expected an integer"),
    ("greedy", {"eos": 3}, ValueError, r"eos: expected a symbol 0\.\.2, got 3"),
    ("greedy", {"eos": 2, "stop": True}, ValueError, r"eos: expected a symbol 0\.\.1, got 2"),
    ("greedy", {"stop": 1}, TypeError, "stop: expected True or False"),
    ("greedy", {"lengths": [1]}, ValueError, r"lengths: expected \(N,\) = \(2,\)"),
    ("greedy", {"lengths": [1, -1]}, ValueError, "lengths: expected"),
    ("greedy", {"select": 1}, TypeError, "select: expected a function"),
    ("greedy", {"step": lambda y, state: np.zeros((2, 3))}, TypeError, "step: expected to return"),
    ("greedy", {"step": lambda y, state: (np.zeros((3, 3)), state)}, ValueError, r"scores: expected \(R, K\) = \(2, …\)"),
    ("greedy", {"step": lambda y, s: (np.zeros((2, 1)), s), "stop": True}, ValueError, r"scores: expected \(R, K \+ 1\)"),
    ("greedy", {"step": lambda y, state: (np.zeros((2, 3), int), state)}, TypeError, "scores: expected float32 or float64"),
    ("greedy", {"step": lambda y, state: (np.array([[0, np.nan]] * 2), state)}, ValueError, "scores: expected no NaN"),
    ("greedy", {"step": lambda y, state: (np.array([[0, 0], [np.inf, 0]]), state)}, ValueError, r"scores: .* got inf in row 1"),
    ("greedy", {"step": lambda y, state: (np.array([[0, 0], [-np.inf] * 2]), state)}, ValueError, "scores: .* all of row 1"),
    ("greedy", {"step": lambda y, s: (np.eye(3 + s[0])[:2], s + 1), "state": np.zeros(2, int)}, ValueError, "scores: .* as "),
    ("greedy", {"step": lambda y, s: (np.eye(3)[:2], s), "state": 3.0, "eos": 0}, TypeError, "state: expected arrays"),
    ("greedy", {"step": lambda y, s: (np.eye(3)[:2], s), "state": np.zeros(1), "eos": 0}, ValueError, r"state: .* \(2, …\)"),
    ("beam", {"step": lambda y, s: (np.eye(3)[:2], s), "state": np.zeros((3, 2, 5))}, ValueError, r"state: .* got \(3, 2, 5\)"),
    ("sample", {"rng": None}, TypeError, "rng: expected a numpy Generator"),
    ("sample", {"rng": [1]}, ValueError, "rng: expected N = 2 generators or seeds, or one, got 1"),
    ("sample", {"rng": [1, None]}, TypeError, "rng: expected"),
    ("sample", {"rng": "x"}, TypeError, "rng: expected"),
    ("sample", {"temperature": 0}, ValueError, "temperature: expected a number > 0"),
    ("sample", {"temperature": np.inf}, ValueError, "temperature: expected a finite number"),
    ("sample", {"temperature": np.nan}, ValueError, "temperature: expected"),
    ("sample", {"top_k": 0}, ValueError, "top_k: expected an integer >= 1"),
    ("beam", {"width": 0}, ValueError, "width: expected an integer >= 1"),
    ("beam", {"width": True}, TypeError, "width: expected an integer"),
    ("beam", {"length_norm": -0.5}, ValueError, "length_norm: expected a number >= 0"),
    ("scheduled_inputs", {"probability": 1.5}, ValueError, r"probability: expected 0\.\.1"),
    ("scheduled_inputs", {"y": [0, 1]}, ValueError, r"y: expected \(N, T\), got \(2,\)"),
    ("scheduled_inputs", {"y": [[0, -1], [0, 0]]}, ValueError, "y: expected symbols 0"),
    ("scheduled_inputs", {"y0": [0]}, ValueError, r"y0: expected \(N,\) = \(2,\) as y"),
    ("scheduled_inputs", {"choice": "best"}, ValueError, "choice: expected"),
    ("scheduled_inputs", {"lengths": [3, 0]}, ValueError, r"lengths: expected 0\.\.T"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changed", "kind", "words"), BAD)
def test_what_does_not_fit_is_named(name, changed, kind, words):
    arguments = dict(STEP)
    if name == "sample":
        arguments["rng"] = 0
    if name == "beam":
        arguments["width"] = 2
    if name == "scheduled_inputs":
        arguments = {"step": constant(np.zeros(3)), "y0": [0, 1], "y": [[0, 1], [2, 0]], "probability": 0.5, "rng": 0}
    with pytest.raises(kind, match=f"^{words}"):
        getattr(decode, name)(**(arguments | changed))


def test_what_does_not_fit_a_layer_step_is_named():
    layer, V, c, E = model()
    make = decode.LayerStep
    both = fastgate.GRU(3, 6, bidirectional=True, dtype=np.float64)
    for kind, words, call in (
        (TypeError, "layer: expected a layer as fastgate.LSTM is, got int", lambda: make(3, V)),
        (ValueError, "layer: expected a layer of one direction", lambda: make(both, V)),
        (TypeError, "V: expected float64 as the layer", lambda: make(layer, V.astype(np.float32))),
        (ValueError, r"V: expected \(H, K\) = \(6, K >= 1\), got \(5, 6\)", lambda: make(layer, V.T)),
        (ValueError, r"c: expected \(K,\) = \(5,\), got \(4,\)", lambda: make(layer, V, c[:4])),
        (ValueError, r"E: expected \(number of symbols, D\) = \(…, 3\)", lambda: make(layer, V, c, E[:, :2])),
        (ValueError, "remaining: expected False", lambda: make(fastgate.RNN(1, 6, dtype=np.float64), V, remaining=True)),
        (ValueError, r"y: expected symbols 0\.\.4, got 5 in row 1", lambda: make(layer, V, c, E)([1, 5])),
        (ValueError, r"y: expected symbols 0\.\.2, got 3", lambda: make(layer, V, c)([3])),
        (ValueError, "left: expected None with remaining=False", lambda: make(layer, V, c, E)([1], None, [2])),
        (ValueError, r"left: expected \(N,\)", lambda: make(layer, V, c, remaining=True)([1])),
        (ValueError, r"left: expected \(N,\) = \(1,\)", lambda: make(layer, V, c, remaining=True)([1], None, [1, 2])),
        (ValueError, "state: expected a tuple of 2", lambda: make(layer, V, c, E)([1], (np.zeros((2, 1, 6)),))),
        (ValueError, "state.h: expected", lambda: make(layer, V, c, E)([1], (np.zeros((2, 2, 6)),) * 2)),
    ):
        with pytest.raises(kind, match=f"^{words}"):
            call()


def test_the_order_of_equal_hypotheses():
    """Finished first, then the better parent, then the lowest symbol, then going on: all scores equal."""
    step = constant(np.zeros(3))
    found = decode.beam(step, [0], width=3, max_length=2, eos=1, length_norm=1.0)
    assert found.y[0].tolist() == [[1, -1], [0, 0], [0, 1]]
    assert found.ended[0].tolist() == [True, False, True]
    paths = list(itertools.product((0, 1), (False, True)))
    stopping = decode.beam(step, [0], width=4, max_length=1, stop=True)
    assert list(zip(stopping.y[0, :, 0].tolist(), stopping.ended[0].tolist(), strict=True)) == paths
