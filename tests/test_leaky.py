"""Leaky units: what is theirs alone. All that cells share is tested where the cells are listed."""

import itertools
import pickle

import numpy as np
import pytest
from support import LEAKY, LEAKY_UNITS, assert_same, every_module, modules, random_call, run, upstream, values
from test_memory import least_bytes
from test_threads import shared

import fastgate
from fastgate import reference

ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")
DTYPES = (np.float32, np.float64)


@every_module
def test_numbers_worked_out_by_hand(module):
    """One unit, two steps: m = 0.25 m + 0.75 (2 x + 3 m - 1), from m = 1; then gradients of m_2."""
    one = np.ones((1, 1))
    h, h_T, cache = module.leaky_forward(
        np.array([[[0.5], [-1.0]]]), one, 2 * one, 3 * one, -one[0], alpha=np.array([0.25]), activation="identity"
    )
    np.testing.assert_array_equal(h[0, :, 0], [2.5, 4.0])  # a = 3, 4.5
    np.testing.assert_array_equal(h_T, [[4.0]])
    g = module.leaky_backward(None, cache, one)
    # dm_1 = 0.25 + 0.75 * 3 = 2.5;  da = 0.75 * (2.5, 1)
    np.testing.assert_array_equal(g.dx[0, :, 0], [2 * 1.875, 2 * 0.75])
    np.testing.assert_array_equal([g.dh0[0, 0], g.dWx[0, 0], g.dWh[0, 0], g.db[0]], [2.5**2, 0.1875, 1.875 + 1.875, 2.625])
    np.testing.assert_array_equal(g.dalpha, [2.5 * (1 - 3) + (2.5 - 4.5)])


@every_module
def test_a_running_average(module):
    """Goodfellow et al., 10.9.2: mu = alpha mu + (1 - alpha) v, without products."""
    v = values(np.random.default_rng(0), (2, 30, 5))
    mu, expected = np.zeros((2, 5)), []
    for t in range(30):
        mu = 0.8 * mu + (1 - 0.8) * v[:, t]
        expected.append(mu)
    found = module.leaky_forward(v, None, np.eye(5), None, alpha=0.8, activation="identity")
    np.testing.assert_allclose(found.h, np.stack(expected, axis=1), rtol=1e-14, atol=1e-15)
    gradients = module.leaky_backward(None, found.cache, np.ones((2, 5)))
    assert gradients._fields == ("dx", "dh0", "dWx")
    np.testing.assert_allclose(gradients.dx[0, :, 0], 0.2 * 0.8 ** np.arange(30)[::-1], rtol=1e-13)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("has_Wh", [True, False], ids=["Wh", "no Wh"])
def test_dalpha_is_a_central_difference(activation, has_Wh):
    """Of both floors, with all that stands around a cell in time."""
    rng = np.random.default_rng([ACTIVATIONS.index(activation), has_Wh])
    call = random_call(LEAKY_UNITS, rng, N=4, T=9, D=3, H=7)
    gradients = upstream(LEAKY, rng, call)
    around = {"lengths": [9, 0, 4, 7], "reverse": True, "zoneout_h": 0.2, "period": [1, 1, 2, 3, 1, 2, 1]}
    around |= {"recurrent_mask": values(rng, (4, 7))} if has_Wh else {}
    call["Wh"] = call["Wh"] if has_Wh else None

    def loss(alpha):
        found = reference.leaky_forward(**call | {"alpha": alpha}, activation=activation, **around)
        return float((found.h * gradients["dh"]).sum() + (found.h_T * gradients["dh_T"]).sum())

    direction, e = values(rng, 7), 1e-6
    difference = (loss(call["alpha"] + e * direction) - loss(call["alpha"] - e * direction)) / (2 * e)
    for module in modules():
        cache = module.leaky_forward(**call, activation=activation, **around).cache
        found = module.leaky_backward(cache=cache, **gradients)
        assert float(found.dalpha @ direction) == pytest.approx(difference, rel=1e-7)
        assert found._fields[-1] == "dalpha"


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize(("N", "T", "H"), [(3, 7, 5), (1, 1, 19), (40, 3, 33), (18, 5, 64), (2, 0, 4), (0, 3, 4)])
def test_a_number_has_the_bits_of_an_array_full_of_it(dtype, N, T, H):
    """And the same gradients, but for dalpha; the step, the flat rows and the prepared cell, too."""
    rng = np.random.default_rng([N, T, H])
    call = random_call(LEAKY, rng, N=N, T=T, D=6, H=H, dtype=dtype)
    gradients = upstream(LEAKY, rng, call)
    for alpha, activation, Wh in itertools.product((0.9, 0.3, 0, 1), ACTIVATIONS, (call["Wh"], None)):
        given, full = call | {"Wh": Wh}, np.full(H, alpha, dtype)
        expected = run(LEAKY, fastgate, given, gradients, alpha=full, activation=activation)
        assert_same(
            run(LEAKY, fastgate, given, gradients, alpha=alpha, activation=activation), expected, expected.keys() - {"dalpha"}
        )
        exact = run(LEAKY, reference, given, gradients, alpha=full, activation=activation)
        assert expected.keys() == exact.keys()
        for name, a in exact.items() if dtype is np.float64 else ():
            np.testing.assert_allclose(expected[name], a, rtol=0, atol=1e-12 * max(1, np.abs(a).max(initial=0)), err_msg=name)
        weights = {name: given[name] for name in ("Wx", "Wh", "b", "bh")} | {"activation": activation}
        one, other = (fastgate.LeakyCell(**weights, alpha=a) for a in (alpha, full))
        other.update(given["Wx"], Wh, given["b"], bh=given["bh"])  # alpha stays
        h = [call["h0"]] * 3
        for t in range(T):
            x = call["x"][:, t]
            h = [cell.step(x, state) for cell, state in zip((one, other), h[:2], strict=True)] + [
                fastgate.leaky_step_forward(x, h[2], **weights, alpha=full, training=False).h_next
            ]
            for state in h:
                np.testing.assert_array_equal(state, expected["h"][:, t])


def test_prepared_cells_keep_alpha():
    call = random_call(LEAKY_UNITS, np.random.default_rng(3))
    weights = {name: call[name] for name in ("Wx", "Wh", "b", "bh", "alpha")}
    for cell in (fastgate.LeakyCell(**weights), fastgate.LeakyCell(**weights | {"alpha": 0.5, "Wh": None})):
        again = pickle.loads(pickle.dumps(cell))
        np.testing.assert_array_equal(again.alpha, cell.alpha)
        assert (again.Wh is None) is (cell.Wh is None)
        np.testing.assert_array_equal(again.step(call["x"][:, 0], call["h0"]), cell.step(call["x"][:, 0], call["h0"]))
        cell.update(call["Wx"], call["Wh"], alpha=call["alpha"] / 2)
        expected = fastgate.leaky_step_forward(call["x"][:, 0], None, call["Wx"], call["Wh"], alpha=call["alpha"] / 2)
        np.testing.assert_array_equal(cell.step(call["x"][:, 0]), expected.h_next)
        with pytest.raises(ValueError, match="read-only"):
            cell.alpha[...] = 0
    with pytest.raises(TypeError, match=r"^alpha: expected a number from 0 to 1 or an array"):
        fastgate.LeakyCell(call["Wx"], call["Wh"], alpha=None)


@every_module
@pytest.mark.parametrize(
    ("alpha", "error", "words"),
    [
        (1.5, ValueError, "expected a number from 0 to 1, got 1.5"),
        (-1, ValueError, "expected a number from 0 to 1, got -1.0"),
        (10**400, ValueError, "expected a number from 0 to 1, got inf"),
        (np.float32("nan"), ValueError, "expected a number from 0 to 1, got nan"),
        (True, TypeError, r"expected a number from 0 to 1 or an array \(H,\) of them, got bool True"),
        (None, TypeError, r"expected a number from 0 to 1 or an array \(H,\) of them, got None"),
        ("0.5", TypeError, "expected a number from 0 to 1 or an array"),
        (np.array([0.5, 0.2, -0.1]), ValueError, "expected numbers from 0 to 1, got -0.1 for unit 2"),
        (np.array([np.nan, 0.2, 0.1]), ValueError, "expected numbers from 0 to 1, got nan for unit 0"),
        (np.full(4, 0.5), ValueError, r"expected \(H,\) = \(3,\), got \(4,\)"),
        (np.full((1, 3), 0.5), ValueError, r"expected \(H,\) = \(3,\), got \(1, 3\); pass alpha\[0\]\?"),
        (np.float64(0.5) * np.ones(()), None, ""),
        (np.array(0.5), ValueError, r"expected \(H,\) = \(3,\), got \(\)"),
        (np.full(3, 0.5, np.float32), TypeError, "expected float64 as W?x, got float32"),
        ([0.5, 0.5, 0.5], None, ""),
    ],
    ids=str,
)
def test_alpha_is_judged(module, alpha, error, words):
    x, Wx, Wh = np.ones((2, 4, 3)), np.ones((3, 3)), np.ones((3, 3))
    calls = [
        lambda: module.leaky_forward(x, None, Wx, Wh, alpha=alpha),
        lambda: module.leaky_ragged_forward(x[0], None, Wx, None, alpha=alpha, offsets=[0, 4]),
        lambda: module.leaky_step_forward(x[0], None, Wx, Wh, alpha=alpha),
    ] + [lambda: fastgate.LeakyCell(Wx, Wh, alpha=alpha)] * (module is fastgate)
    for call in calls:
        if error is None:
            call()
        else:
            with pytest.raises(error, match=f"^alpha: {words}"):
                call()


@every_module
def test_without_Wh_nothing_is_masked_and_other_cells_need_it(module):
    x, Wx = np.ones((2, 4, 3)), np.ones((3, 3))
    with pytest.raises(ValueError, match=r"^recurrent_mask: expected None beside Wh=None, got one"):
        module.leaky_forward(x, None, Wx, None, recurrent_mask=0.5)
    with pytest.raises(TypeError, match=r"^Wh: expected an array of float64 as x, got None"):
        module.rnn_forward(x, None, Wx, None)


def test_without_Wh_threads_chunks_and_memory_give_the_same_bits():
    rng = np.random.default_rng(8)
    call = random_call(LEAKY_UNITS, rng, N=5, T=40, D=9, H=130, dtype=np.float32)
    gradients = upstream(LEAKY, rng, call)
    call["Wh"] = None
    expected = run(LEAKY, fastgate, call, gradients)
    with shared(2):
        assert_same(run(LEAKY, fastgate, call, gradients), expected)
    assert_same(run(LEAKY, fastgate, call, gradients, memory=least_bytes(fastgate.leaky_forward, **call)), expected)
    first = fastgate.leaky_forward(**call | {"x": call["x"][:, :17]})
    second = fastgate.leaky_forward(**call | {"x": call["x"][:, 17:], "h0": first.h_T})
    np.testing.assert_array_equal(np.concatenate([first.h, second.h], axis=1), expected["h"])
    of_row = {name: call[name][3:4] for name in ("x", "h0")}
    alone = run(LEAKY, fastgate, call | of_row, {name: g[3:4] for name, g in gradients.items()})
    names = ("h", "h_T", "dx", "dh0")
    assert_same(alone, {name: expected[name][3:4] for name in names}, names)


def test_alphas_are_drawn():
    """Logarithms of time constants, uniform; the same generator draws the same; in steps, as they act."""
    alpha = fastgate.draw_alpha(20_000, 2, 200, np.random.default_rng(5), "float64")
    logs = np.sort(np.log(-1 / np.log(alpha)))
    uniform = np.log(2) + (np.log(200) - np.log(2)) * (np.arange(20_000) + 0.5) / 20_000
    assert np.abs(logs - uniform).max() < 0.05
    assert np.log(2) <= logs[0] < logs[-1] <= np.log(200) + 1e-12
    small = fastgate.draw_alpha(9, 1, 50, np.random.default_rng(5))
    assert (small.dtype, small.shape) == (np.float32, (9,))
    np.testing.assert_array_equal(small, fastgate.draw_alpha(9, 1, 50, np.random.default_rng(5)))
    assert (fastgate.draw_alpha(50, 1e-300, 1e300, np.random.default_rng(1)) < 1).all()
    h = fastgate.leaky_forward(np.zeros((1, 10, 1)), np.ones(1), np.ones((1, 1)), None, alpha=np.exp([-1 / 10])).h
    assert h[0, -1, 0] == pytest.approx(np.exp(-1))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((2.0, 1, 2), TypeError, "hidden_size: expected an integer >= 0, got float 2.0"),
        ((-1, 1, 2), ValueError, "hidden_size: expected an integer >= 0, got -1"),
        ((3, 0, 2), ValueError, "low: expected a number > 0, got 0"),
        ((3, 2, 1), ValueError, "high: expected a finite number >= low = 2.0, got 1.0"),
        ((3, 1, np.inf), ValueError, "high: expected a finite number >= low = 1.0, got inf"),
        ((3, 1, "2"), TypeError, "high: expected a number > 0, got str '2'"),
    ],
)
def test_what_alphas_are_drawn_from_is_judged(arguments, error, words):
    with pytest.raises(error, match=f"^{words}"):
        fastgate.draw_alpha(*arguments, np.random.default_rng(0))
    with pytest.raises(TypeError, match=r"^rng: expected a numpy Generator"):
        fastgate.draw_alpha(3, 1, 2, 0)
