"""A caller's code that runs in the middle of a call, and objects that change afterwards."""

import numpy as np
import pytest

import fastgate


def call():
    x, W = np.ones((400, 1, 1)), np.ones((1, 4))
    return x, W, fastgate.lstm_forward(x, None, None, W, W, np.ones(4))


class Reshaping:
    """Converted to an array, it reshapes another one on the way."""

    def __init__(self, victim, value):
        self.victim, self.value = victim, value

    def __array__(self, dtype=None, copy=None):
        self.victim.shape = self.victim.shape[::-1]
        return self.value


@pytest.mark.parametrize("name", ["lengths", "delays"])
def test_integers_that_reshape_x(name):
    x, W, _ = call()
    integers = Reshaping(x, np.ones(400 if name == "lengths" else 1, np.int64))
    with pytest.raises(ValueError, match="expected"):
        fastgate.lstm_forward(x, None, None, W, W if name == "lengths" else W[None], **{name: integers})


@pytest.mark.parametrize("table", ["offsets", "batch_sizes"])
def test_tables_that_reshape_x(table):
    x, W = np.ones((400, 1)), np.ones((1, 1))
    steps = np.arange(401) if table == "offsets" else np.ones(400, int)
    with pytest.raises(ValueError, match="expected"):
        fastgate.rnn_ragged_forward(x, None, W, W, **{table: Reshaping(x, steps)})


def test_upstream_gradients_that_reshape_each_other():
    *_, result = call()
    dh = np.ones((400, 1, 1))
    upstream = Reshaping(dh, np.ones((400, 1)))
    gradients = fastgate.lstm_backward(dh, result.cache, upstream)
    assert gradients.dx.shape == (400, 1, 1)


def test_need_that_reshapes_dh():
    *_, result = call()
    dh = np.ones((400, 1, 1))

    def need():
        dh.shape = (1, 1, 400)
        yield "dx"

    with pytest.raises(ValueError, match="dh: expected"):
        fastgate.lstm_backward(dh, result.cache, need=need())


def test_targets_that_reshape_the_scores():
    o = np.ones((400, 3))
    with pytest.raises(ValueError, match="expected"):
        fastgate.softmax_cross_entropy(o, Reshaping(o, np.zeros((3, 5), np.int64)))


def test_arguments_reshaped_after_forward():
    x, W, result = call()
    before = fastgate.lstm_backward(None, result.cache, np.ones((400, 1)))
    x.shape = (1, 1, 400)
    W.shape = (4, 1)
    after = fastgate.lstm_backward(None, result.cache, np.ones((400, 1)))
    for a, b in zip(before, after, strict=True):
        assert np.array_equal(a, b)


def test_biases_reshaped_after_forward():
    x, W, b = np.ones((3, 2, 1)), np.ones((1, 4)), np.ones(4)
    cache = fastgate.lstm_forward(x, None, None, W, W, b).cache
    b.shape = (2, 2)
    with pytest.raises(ValueError, match="db"):
        fastgate.lstm_backward(None, cache, out={"db": np.zeros((2, 2))})
    assert fastgate.lstm_backward(None, cache).db.shape == (4,)


def test_the_call_of_a_cache_stays():
    cache, other = call()[-1].cache, call()[-1].cache
    with pytest.raises(AttributeError):
        cache.call = other.call


def test_a_cache_that_no_forward_made():
    cache = object.__new__(type(call()[-1].cache))
    with pytest.raises(ValueError, match="cache: expected the cache of lstm_forward"):
        fastgate.lstm_backward(None, cache)


@pytest.mark.parametrize("weight", [1e-310, 1e308])
def test_weights_whose_sum_is_no_ordinary_number(weight):
    with pytest.raises(ValueError, match="mask: expected weights whose sum"):
        fastgate.softmax_cross_entropy(np.zeros((2, 3)), [0, 1], np.full(2, weight), reduction="mean")
