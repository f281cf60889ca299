"""StreamPool: a stream has its own bits, whoever else is stepped with it."""

import copy
import os
import pickle
import threading
import tracemalloc

import numpy as np
import pytest
from support import assert_same, bits, digest, status_of_child, values

import fastgate

CASES = min(int(os.environ.get("FASTGATE_CASES", "10000")), 100_000)  # streams that are stepped in random groups
KINDS = (fastgate.RNN, fastgate.LSTM, fastgate.GRU)

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def make(kind, D=3, H=5, *, num_layers=2, dtype=np.float32, seed=0, **options):
    layer = kind(D, H, num_layers=num_layers, bh=True, dtype=dtype, rng=seed, **options)
    layer.parameters[...] = values(np.random.default_rng(seed), layer.parameters.shape, dtype, 0.6)
    return layer


def same(a, b):
    np.testing.assert_array_equal(bits(np.ascontiguousarray(a)), bits(np.ascontiguousarray(b)))


@kinds
@pytest.mark.parametrize("threads", [1, 2])
def test_streams_in_random_groups_are_each_as_alone(kind, threads):
    """All streams at once, every stream with a history of its own; groups below and above a block of 1024."""
    rng = np.random.default_rng(1)
    streams, T, H = CASES, 5, 8
    layer = make(kind, 3, H)
    pool = fastgate.StreamPool(layer, streams + 7)
    ids = pool.open(streams)
    rng.shuffle(ids)
    x = values(rng, (streams, T, 3), np.float32)
    alone = layer.forward(x, training=False)  # the bits of a row are its own: see test_layers.py
    place, steps, y = np.zeros(pool.capacity, np.int64), np.zeros(streams, np.int64), np.zeros_like(alone.h)
    place[ids] = np.arange(streams)
    with fastgate.num_threads(threads):
        while (steps < T).any():
            group = rng.permutation(np.flatnonzero(steps < T))[: int(rng.choice([1, 2, 7, 100, 1023, 1025, streams]))]
            y[group, steps[group]] = pool.step(ids[group], x[group, steps[group]])
            steps[group] += 1
    same(y, alone.h)
    for state, final in zip(pool.snapshot(ids), alone[1:-1], strict=True):
        same(state, final)
    for n in rng.integers(0, streams, 20):  # and these in truth alone
        single = layer.forward(x[n : n + 1], training=False)
        same(y[n], single.h[0])


@kinds
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sizes_round_the_lane_counts(kind, dtype):
    rng = np.random.default_rng(2)
    for D, H in ((1, 1), (4, 7), (8, 8), (15, 9), (16, 17), (5, 33)):
        for num_layers in (1, 3):
            layer = make(kind, D, H, num_layers=num_layers, dtype=dtype)
            pool = fastgate.StreamPool(layer, 33)
            ids = pool.open(33)[::-1]
            x = values(rng, (33, 3, D), dtype)
            y = np.stack([pool.step(ids, x[:, t]) for t in range(3)], axis=1)
            same(y, layer.forward(x).h)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (fastgate.RNN, {"activation": "relu", "b": False}),
        (fastgate.LSTM, {"peephole": True, "coupled": True, "candidate": "sigmoid", "gate_order": "ogif"}),
        (fastgate.LSTM, {"cell_clip": 0.3, "preact_clip": 0.8}),
        (fastgate.LSTM, {"proj_size": 5, "peephole": True}),
        (fastgate.LSTM, {"proj_size": 12}),
        (fastgate.GRU, {"reset": "before", "update": "new", "gate_order": "nzr"}),
        (fastgate.Leaky, {"alpha": np.linspace(0, 1, 9), "activation": "sigmoid"}),
        (fastgate.Memory, {"output": "tanh"}),
        (fastgate.LSTMNorm, {"gate_order": "ogif", "eps": 0.1}),
        (fastgate.GRUNorm, {"eps": 0.1}),
    ],
)
def test_the_options_of_the_layer_count(kind, options):
    layer = make(kind, 4, 9, **options)
    x = values(np.random.default_rng(12), (5, 3, 4), np.float32)
    pool = fastgate.StreamPool(layer, 7)
    ids = pool.open(5)
    h, *final, _ = layer.forward(x)
    same(np.stack([pool.step(ids, x[:, t]) for t in range(3)], axis=1), h)
    for a, b in zip(pool.snapshot(ids), final, strict=True):
        same(a, b)
    pool.restore(ids[::-1], pool.snapshot(ids))
    for a, b in zip(pool.snapshot(pool.fork(ids[[0, 3]])), final, strict=True):
        same(a, b[:, [4, 1]])


@kinds
def test_snapshots_forks_and_rollback(kind):
    rng = np.random.default_rng(3)
    layer = make(kind)
    pool = fastgate.StreamPool(layer, 8)
    ids = pool.open(3)
    x = values(rng, (4, 3, 3), np.float32)  # (T, n, D)
    pool.step(ids, x[0])
    taken = pool.snapshot(ids)
    assert type(taken)._fields == ("h", "c")[: 1 + (kind is fastgate.LSTM)]
    assert all(a.shape == (2, 3, 5) for a in taken)
    before = digest(taken)

    first = [pool.step(ids, x[t]) for t in (1, 2)]
    assert digest(taken) == before
    pool.restore(ids, pickle.loads(pickle.dumps(taken)))
    for t, y in zip((1, 2), first, strict=True):
        same(pool.step(ids, x[t]), y)
    pool.restore(ids[::-1], taken)  # row for row
    same(pool.step(ids[::-1], x[1]), first[0])
    assert digest(taken) == before

    pool.restore(ids, taken)
    children = pool.fork(ids[[2, 0, 2]])
    assert not set(children) & set(ids)
    assert pool.num_open == 6
    same(pool.step(children, x[1][[2, 0, 2]]), first[0][[2, 0, 2]])
    same(pool.step(ids, x[1]), first[0])  # the parents have not moved
    pool.close(children)
    again = pool.open(5)
    assert pool.num_open == pool.capacity
    same(pool.step(again[:3], x[0]), layer.forward(x[0][:, None]).h[:, 0])  # nothing is left of who had these ids before
    pool.reset(ids[1:2])
    mixed = pool.step(ids, x[2])
    same(mixed[[0, 2]], first[1][[0, 2]])
    same(mixed[1], layer.forward(x[2][1:2, None]).h[0, 0])


@kinds
def test_a_stream_continues_a_sequence(kind):
    """The states that forward ends with, put into streams."""
    rng = np.random.default_rng(4)
    layer = make(kind)
    x = values(rng, (4, 9, 3), np.float32)
    whole = layer.forward(x)
    h, *state, _ = layer.forward(x[:, :6])
    pool = fastgate.StreamPool(layer, 9)
    pool.open(2)
    ids = pool.open(4)
    pool.restore(ids, tuple(state))
    y = np.stack([pool.step(ids, x[:, t]) for t in range(6, 9)], axis=1)
    same(np.concatenate([h, y], axis=1), whole.h)


def log_softmax(o):
    o = o - o.max(axis=-1, keepdims=True)
    return o - np.log(np.exp(o).sum(axis=-1, keepdims=True))


def beam_by_streams(pool, E, V, width, T):
    """The likeliest sequences of T symbols: (scores, sequences). Each hypothesis is a stream."""
    ids, scores, sequences = pool.open(1), np.zeros(1), [[]]
    x = E[:1]
    for _ in range(T):
        found = scores[:, None] + log_softmax(pool.step(ids, x) @ V)
        best = np.argsort(-found, axis=None, kind="stable")[:width]
        parents, symbols = np.unravel_index(best, found.shape)
        children = pool.fork(ids[parents])
        pool.close(ids)
        ids, scores, x = children, found[parents, symbols], E[symbols]
        sequences = [[*sequences[p], int(k)] for p, k in zip(parents, symbols, strict=True)]
    pool.close(ids)
    return scores, sequences


def beam_in_place(pool, E, V, width, T):
    """The same with `width` streams that are reordered by restore(snapshot(parents))."""
    ids, sequences = pool.open(width), [[]] * width
    scores = np.where(np.arange(width) == 0, 0.0, -np.inf)
    x = np.repeat(E[:1], width, axis=0)
    for _ in range(T):
        found = scores[:, None] + log_softmax(pool.step(ids, x) @ V)
        best = np.argsort(-found, axis=None, kind="stable")[:width]
        parents, symbols = np.unravel_index(best, found.shape)
        pool.restore(ids, pool.snapshot(ids[parents]))
        scores, x = found[parents, symbols], E[symbols]
        sequences = [[*sequences[p], int(k)] for p, k in zip(parents, symbols, strict=True)]
    pool.close(ids)
    return scores, sequences


@kinds
def test_beam_search(kind):
    """Wide enough a beam finds the best of all sequences, which enumeration finds, too; narrow ones agree with each other."""
    rng = np.random.default_rng(5)
    K, T = 4, 4
    layer = make(kind, 3, 6, num_layers=2, dtype=np.float64)
    E, V = values(rng, (K, 3)), values(rng, (6, K), scale=3)
    pool = fastgate.StreamPool(layer, 2 * K**T)
    scores, sequences = beam_by_streams(pool, E, V, K**T, T)
    every = np.stack(np.meshgrid(*[range(K)] * T, indexing="ij"), axis=-1).reshape(-1, T)
    x = E[np.concatenate([np.zeros((len(every), 1), int), every[:, :-1]], axis=1)]
    logs = log_softmax(layer.forward(x).h @ V)
    total = np.take_along_axis(logs, every[..., None], axis=2).sum(axis=(1, 2))
    order = np.argsort(-total)
    np.testing.assert_allclose(scores, total[order], rtol=0, atol=1e-12)
    assert sequences == every[order].tolist()
    for width in (1, 3):
        one, other = beam_by_streams(pool, E, V, width, T), beam_in_place(pool, E, V, width, T)
        np.testing.assert_allclose(one[0], other[0], rtol=0, atol=1e-12)  # NumPy's h @ V depends on how many rows h has
        assert one[1] == other[1]
    assert pool.num_open == 0


@kinds
def test_out_and_odd_arrays(kind):
    rng = np.random.default_rng(6)
    layer = make(kind, 5, 5)
    pool = fastgate.StreamPool(layer, 2000)
    ids = pool.open(1500)
    x = values(rng, (1500, 5), np.float32)
    taken = pool.snapshot(ids)
    expected = pool.step(ids, x)

    def check(ids, x, out=None, rows=slice(None)):
        pool.restore(pool.ids, taken)
        y = pool.step(ids, x, out=out)
        assert y is out or out is None
        same(y, expected[rows])

    check(ids, x, np.full_like(x, np.nan))
    check(ids, x, np.full((1500, 10), np.nan, np.float32)[:, ::2])
    check(ids, x, np.full((5, 1500), np.nan, np.float32).T)
    both = x.copy()
    check(ids, both, both)
    overlapping = np.zeros((1501, 5), np.float32)
    overlapping[1:] = x
    check(ids, overlapping[1:], overlapping[:-1])
    overlapping[:-1] = x
    check(ids, overlapping[:-1], overlapping[1:])
    check(ids.tolist(), np.asfortranarray(x))
    check(ids.astype(np.int16), x.astype(">f4"))
    check(ids[::-1].astype(np.uint64), x[::-1], rows=slice(None, None, -1))
    frozen = x.copy()
    frozen.flags.writeable = False
    check(ids, frozen)
    for empty in ([], np.zeros(0, np.int64)):
        check(empty, x[:0], rows=slice(0))
        pool.reset(empty)
        pool.close(empty)
        assert pool.fork(empty).shape == pool.open(0).shape == (0,)
        assert all(a.shape == (2, 0, 5) for a in pool.snapshot(empty))


def test_update_takes_the_present_weights():
    layer = make(fastgate.LSTM)
    pool = fastgate.StreamPool(layer, 4)
    ids = pool.open(2)
    x = values(np.random.default_rng(7), (2, 3), np.float32)
    zeros = pool.snapshot(ids)
    old = pool.step(ids, x)
    layer.parameters[...] *= 2
    pool.restore(ids, zeros)
    same(pool.step(ids, x), old)
    state = pool.snapshot(ids)
    pool.update()
    assert_same(pool.snapshot(ids)._asdict(), state._asdict())
    pool.restore(ids, zeros)
    new = pool.step(ids, x)
    same(new, layer.forward(x[:, None]).h[:, 0])
    assert not np.array_equal(new, old)


@kinds
def test_a_step_allocates_nothing_but_its_result(kind):
    rng = np.random.default_rng(8)
    layer = make(kind, 16, 64)
    pool = fastgate.StreamPool(layer, 5000)
    ids = rng.permutation(pool.open(4000))
    x, y = values(rng, (4000, 16), np.float32), np.empty((4000, 64), np.float32)
    for out, allowed in ((y, 0), (None, y.nbytes)):
        pool.step(ids, x, out=out)
        tracemalloc.start()
        try:
            pool.step(ids, x, out=out)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < allowed + 8000  # views and numbers, less than two bytes for each stream


def test_opening_and_closing():
    pool = fastgate.StreamPool(make(fastgate.GRU), 5)
    assert (pool.capacity, pool.num_open, pool.ids.tolist()) == (5, 0, [])
    assert pool.open().tolist() == [0]
    assert pool.open(3).tolist() == [1, 2, 3]
    pool.close([1, 3])
    assert pool.ids.tolist() == [0, 2]
    assert repr(pool) == "<StreamPool of GRU: 2 of 5 streams open>"
    assert sorted(pool.open(3).tolist()) == [1, 3, 4]
    assert pool.layer.hidden_size == 5
    assert pool.nbytes > 5 * 2 * 5 * 4
    for call in (lambda: pool.open(), lambda: pool.fork([0])):
        with pytest.raises(ValueError, match="expected no more than the 0 free streams of 5, got 1"):
            call()
    pool.close(pool.ids)
    rng = np.random.default_rng(9)
    mine = set()
    for _ in range(300):
        if rng.random() < 0.5 and len(mine) < 5:
            new = set(pool.open(int(rng.integers(0, 6 - len(mine)))).tolist())
            assert not new & mine
            mine |= new
        elif mine:
            gone = rng.permutation(sorted(mine))[: rng.integers(0, len(mine) + 1)]
            pool.close(gone)
            mine -= set(gone.tolist())
        assert pool.ids.tolist() == sorted(mine)
        assert pool.num_open == len(mine)


@kinds
def test_what_is_refused_changes_nothing(kind):
    layer = make(kind)
    pool = fastgate.StreamPool(layer, 6)
    ids = pool.open(5)
    pool.close([3])
    x = values(np.random.default_rng(10), (5, 3), np.float32)
    ids, live = np.array([4, 0, 2]), [0, 1, 2, 4]
    pool.step(ids, x[:3])
    taken = pool.snapshot(ids)
    out = np.zeros((3, 5), np.float32)
    before = digest(pool.snapshot(live), x, out)
    wrong_ids = (
        ([0, 6], ValueError, r"ids: expected 0..capacity-1 = 0..5, got 6 in row 1"),
        ([-1], ValueError, "ids: expected 0..capacity-1 = 0..5, got -1 in row 0"),
        (
            np.array([0, 2**64 - 1], np.uint64),
            ValueError,
            "ids: expected 0..capacity-1 = 0..5, got 18446744073709551615 in row 1",
        ),
        ([0, 3, 1], ValueError, "ids: expected open streams, got 3 in row 1, which is not open"),
        (0, ValueError, r"ids: expected \(n,\), got \(\)"),
        ([[0]], ValueError, r"ids: expected \(n,\), got \(1, 1\)"),
        ([0.0], TypeError, "ids: expected integers, got float64"),
        ([True], TypeError, "ids: expected integers, got bool"),
        (None, TypeError, "ids: expected an array of integers, got None"),
        ("ab", TypeError, "ids: expected integers, got str"),
    )
    twice = (
        ([2, 0, 1, 0], ValueError, "ids: expected each stream once, got 0 in rows 1 and 3"),
        ([0] * 7, ValueError, "ids: expected at most capacity = 6, got 7"),
    )
    for k, (wrong, error, words) in enumerate((*wrong_ids, *twice)):
        n = np.size(wrong)
        calls = [
            lambda wrong=wrong, n=n: pool.step(wrong, np.ones((n, 3), np.float32)),
            lambda wrong=wrong: pool.reset(wrong),
            lambda wrong=wrong: pool.close(wrong),
            lambda wrong=wrong, n=n: pool.restore(wrong, tuple(np.ones((2, n, 5), np.float32) for _ in taken)),
        ]
        if k < len(wrong_ids):
            calls += [lambda wrong=wrong: pool.snapshot(wrong), lambda wrong=wrong: pool.fork(wrong)]
        for call in calls:
            with pytest.raises(error, match=words):
                call()
    for wrong, error, words in (
        ({"x": x[:2]}, ValueError, r"x: expected \(n, D\) = \(3, 3\) as ids, got \(2, 3\)"),
        ({"x": x[:3, :2]}, ValueError, r"x: expected \(n, D\) = \(3, 3\), got \(3, 2\)"),
        ({"x": x[0]}, ValueError, r"x: expected \(n, D\), got \(3,\)"),
        ({"x": x[:3].astype(float)}, TypeError, "x: expected float32 as the layer, got float64"),
        ({"out": out[:2]}, ValueError, r"out: expected \(3, 5\), got \(2, 5\)"),
        ({"out": out.astype(float)}, TypeError, "out: expected float32 as the layer, got float64"),
        ({"out": out.tolist()}, TypeError, "out: expected an array or a dict of arrays, got list"),
        ({"out": np.broadcast_to(out[:1], out.shape)}, ValueError, "out: expected a writeable array"),
    ):
        with pytest.raises(error, match=f"^{words}"):
            pool.step(**{"ids": ids, "x": x[:3], "out": out} | wrong)
    for wrong, error in (
        (taken[0], TypeError),
        (list(taken), TypeError),
        ((*taken, taken[0]), ValueError),
        (tuple(a[:, 1:] for a in taken), ValueError),
        (tuple(a[:1] for a in taken), ValueError),
        ((*taken[:-1], taken[-1].astype(float)), TypeError),
    ):
        with pytest.raises(error, match=r"^snapshot"):
            pool.restore(ids, wrong)
    for n, error in ((-1, ValueError), (1.0, TypeError), (3, ValueError)):
        with pytest.raises(error, match=r"^n: expected"):
            pool.open(n)
    assert digest(pool.snapshot(live), x, out) == before
    assert pool.ids.tolist() == live
    with pytest.raises(TypeError, match="pickle"):
        copy.deepcopy(pool)


def test_a_constructor_names_what_it_refuses():
    layer = make(fastgate.RNN)
    for arguments, error, words in (
        ((None, 5), TypeError, "layer: expected a layer as fastgate.LSTM is, got None"),
        ((fastgate.RNN(2, 3, bidirectional=True), 5), ValueError, "layer: expected a layer of one direction"),
        ((layer, 0), ValueError, "capacity: expected an integer >= 1, got 0"),
        ((layer, 2.0), TypeError, "capacity: expected an integer >= 1, got float 2.0"),
        ((layer, 2**60), OverflowError, "capacity: 1152921504606846976 streams"),
        ((layer, 2**40), MemoryError, "capacity: 1099511627776 streams"),
    ):
        with pytest.raises(error, match=f"^{words}"):
            fastgate.StreamPool(*arguments)


def test_threads_take_turns():
    """Eight threads with streams of their own, opening, stepping, forking and closing; another one updates."""
    layer = make(fastgate.LSTM)
    pool = fastgate.StreamPool(layer, 200)
    x = values(np.random.default_rng(11), (8, 20, 6, 3), np.float32)
    expected, wrong, done = [layer.forward(x[k].swapaxes(0, 1)).h for k in range(8)], [], threading.Event()

    def work(k):
        try:
            for _ in range(5):
                ids = pool.open(6)
                for t in range(20):
                    if t == 10:
                        ids, old = pool.fork(ids), ids
                        pool.close(old)
                    same(pool.step(ids, x[k, t]), expected[k][:, t])
                pool.close(ids)
        except (AssertionError, ValueError) as error:
            wrong.append(error)

    def update():
        while not done.wait(0.001):
            pool.update()

    threads, updating = [threading.Thread(target=work, args=(k,)) for k in range(8)], threading.Thread(target=update)
    for thread in (*threads, updating):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    updating.join()
    assert not wrong, wrong[0]
    assert pool.num_open == 0


def test_ids_are_those_between_calls():
    """Never those of a call that is under way, which NumPy would count before and copy after."""
    pool = fastgate.StreamPool(make(fastgate.RNN), 1000)
    ids, found = pool.open(600), []
    looking = threading.Thread(target=lambda: found.append(pool.ids))
    with pool._lock:
        looking.start()
        looking.join(0.05)
        pool.close(ids[100:])
    looking.join()
    np.testing.assert_array_equal(found[0], ids[:100])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_fork_steps_while_its_parent_holds_the_lock():
    pool = fastgate.StreamPool(make(fastgate.RNN), 3)
    ids = pool.open(2)
    assert status_of_child(pool._lock, lambda: pool.step(ids, np.ones((2, 3), np.float32)).all()) == 0
