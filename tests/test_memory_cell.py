"""The memory cell: what is its alone. All that cells share is tested where the cells are listed."""

import itertools

import numpy as np
import pytest
from support import CELLS, every_module, random_call, run, upstream, values

import fastgate
from fastgate import reference

MEMORY = next(cell for cell in CELLS if cell.name == "memory")
ACTIVATIONS, OUTPUTS = ("tanh", "relu", "sigmoid", "identity"), ("identity", "tanh")
KINDS = list(itertools.product(OUTPUTS, ACTIVATIONS))
kinds = pytest.mark.parametrize(("output", "activation"), KINDS)


@every_module
def test_numbers_worked_out_by_hand(module):
    """One unit, two steps: c = c + 2 x - h / 2 from h = 3, c = 1, then gradients of h_2 and c_2; h = c, and h = tanh(c)."""
    one = np.ones((1, 1))
    arguments = (np.array([[[0.5], [-1.0]]]), 3 * one, one, 2 * one, -one / 2)
    h, h_T, c_T, cache = module.memory_forward(*arguments, output="identity", activation="identity")
    np.testing.assert_array_equal(h[0, :, 0], [0.5, -1.75])  # c_1 = 1 + 1 - 1.5, c_2 = 0.5 - 2 - 0.25
    np.testing.assert_array_equal([h_T, c_T], [[[-1.75]], [[-1.75]]])
    g = module.memory_backward(None, cache, 4 * one, one)
    # dc_2 = 5, dh_1 = -2.5, dc_1 = 5 - 2.5
    np.testing.assert_array_equal(g.dx[0, :, 0], [5.0, 10.0])
    np.testing.assert_array_equal([g.dh0[0, 0], g.dc0[0, 0], g.dWx[0, 0], g.dWh[0, 0]], [-1.25, 2.5, -3.75, 10.0])

    h, _, c_T, cache = module.memory_forward(*arguments, output="tanh", activation="identity")
    c_2 = 0.5 - 2 - np.tanh(0.5) / 2
    np.testing.assert_allclose([*h[0, :, 0], c_T[0, 0]], [np.tanh(0.5), np.tanh(c_2), c_2], rtol=1e-15)
    g = module.memory_backward(None, cache, 4 * one, one)
    dc_2 = 1 + 4 * (1 - np.tanh(c_2) ** 2)
    dc_1 = dc_2 - dc_2 / 2 * (1 - np.tanh(0.5) ** 2)
    np.testing.assert_allclose([*g.dx[0, :, 0], g.dc0[0, 0], g.dh0[0, 0]], [2 * dc_1, 2 * dc_2, dc_1, -dc_1 / 2], rtol=1e-14)


@kinds
def test_gradients_are_central_differences_and_the_kernels_agree(output, activation):
    """Along one direction of all arguments, with all that stands around a cell in time, in float64."""
    rng = np.random.default_rng([KINDS.index((output, activation))])
    call = random_call(MEMORY, rng, N=4, T=9, D=3, H=7)
    gradients = upstream(MEMORY, rng, call)
    around = {"lengths": [9, 0, 4, 7], "reverse": True, "zoneout_h": 0.2, "zoneout_c": 0.1, "period": [1, 1, 2, 3, 1, 2, 1]}
    around |= {"recurrent_mask": values(rng, (4, 7)), "output": output, "activation": activation}

    def loss(move):
        found = reference.memory_forward(**{name: a + move * direction[name] for name, a in call.items()}, **around)
        return sum(float((getattr(found, name[1:]) * g).sum()) for name, g in gradients.items())

    direction, e = {name: values(rng, a.shape) for name, a in call.items()}, 1e-6
    difference = (loss(e) - loss(-e)) / (2 * e)
    exact = run(MEMORY, reference, call, gradients, **around)
    assert sum(float((exact[f"d{name}"] * d).sum()) for name, d in direction.items()) == pytest.approx(difference, rel=1e-7)
    found = run(MEMORY, fastgate, call, gradients, **around)
    for name, a in exact.items():
        np.testing.assert_allclose(found[name], a, rtol=0, atol=1e-12 * max(1, np.abs(a).max()), err_msg=name)


@kinds
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_long_ragged_sequences(output, activation, dtype):
    """In units in the last place beside the definition in 80 bits: within those of any cell. A sigmoid calls nothing back, it
    only adds: T roundings of the largest sum, some up, some down."""
    rng = np.random.default_rng([7, KINDS.index((output, activation))])
    T = 300
    call = random_call(MEMORY, rng, N=9, T=T, D=5, H=21, dtype=dtype)
    gradients = upstream(MEMORY, rng, call)
    around = {"output": output, "activation": activation, "lengths": rng.integers(0, T + 1, 9)}
    long = [{name: a.astype(np.longdouble) for name, a in arrays.items()} for arrays in (call, gradients)]
    exact = run(MEMORY, reference, *long, **around)
    for name, a in run(MEMORY, fastgate, call, gradients, **around).items():
        ulp = np.abs(a - exact[name]).max() / np.spacing(dtype(np.abs(exact[name]).max()))
        bound = 8 if name.startswith("d") else 4 if activation != "sigmoid" else np.sqrt(T)
        assert ulp <= bound, (name, float(ulp))


def test_a_gradient_passes_the_loop_unchanged():
    """What the textbook says of a linear self-loop of weight 1: after 500 steps nothing of it is lost, without Wh."""
    rng = np.random.default_rng(0)
    x, Wx, zero = values(rng, (2, 500, 3)), values(rng, (3, 4)), np.zeros((4, 4))
    cache = fastgate.memory_forward(x, None, None, Wx, zero, output="identity").cache
    g = fastgate.memory_backward(None, cache, np.ones((2, 4)))
    np.testing.assert_array_equal(g.dc0, np.ones((2, 4)))
    plain = fastgate.rnn_backward(None, fastgate.rnn_forward(x, None, Wx, np.eye(4)).cache, np.ones((2, 4)))
    assert np.abs(plain.dh0).max() < 1e-30


def test_one_state_passed_twice():
    """With output="identity" h and c are the same numbers; ds = dh0 + dc0, beside a central difference."""
    rng = np.random.default_rng(1)
    call = random_call(MEMORY, rng, N=3, T=6)
    s, gradient = call.pop("h0"), values(rng, (3, 6))
    del call["c0"]

    def final(s):
        return fastgate.memory_forward(**call, h0=s, c0=s, output="identity")

    found = final(s)
    np.testing.assert_array_equal(found.h_T, found.c_T)
    np.testing.assert_array_equal(found.h_T, found.h[:, -1])
    g = fastgate.memory_backward(None, found.cache, gradient)
    direction, e = values(rng, s.shape), 1e-6
    difference = ((final(s + e * direction).h_T - final(s - e * direction).h_T) * gradient).sum() / (2 * e)
    assert ((g.dh0 + g.dc0) * direction).sum() == pytest.approx(difference, rel=1e-7)


@every_module
def test_words_are_judged(module):
    x, W = np.ones((2, 3, 4)), np.ones((4, 4))
    with pytest.raises(ValueError, match=r'^output: expected "identity" or "tanh", got "relu"'):
        module.memory_forward(x, None, None, W, W, output="relu")
    with pytest.raises(ValueError, match=r'^activation: expected "tanh", "relu", "sigmoid" or "identity", got "elu"'):
        module.memory_forward(x, None, None, W, W, activation="elu")
    with pytest.raises(TypeError, match=r"^Wh: expected an array of float64 as x, got None"):
        module.memory_forward(x, None, None, W, None)
