"""NaN, infinity, huge and subnormal numbers."""

import numpy as np
import pytest
from support import LSTM, VARIANTS, WEIGHTS, each, of_weights, random_call, run, upstream, values, variant_id

import fastgate
from fastgate import reference

DTYPES = (np.float32, np.float64)
variants = pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=map(variant_id, VARIANTS))
dtypes = each("dtype", DTYPES)
SIZES = {"N": 5, "T": 6, "D": 7, "H": 19}
MANY = {"N": 40, "T": 6, "D": 33, "H": 70}
sizes = each("sizes", [SIZES, MANY])
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the reference
EXACT = np.longdouble


def assert_rows_apart(found, clean, row):
    """Every other row is as it was, bit for bit."""
    others = np.arange(len(clean["h_T"])) != row
    for name, a in clean.items():
        if not of_weights(name):
            np.testing.assert_array_equal(found[name][others], a[others], err_msg=name)


@variants
@dtypes
@sizes
@each("value", [np.nan, np.inf, -np.inf])
@each("reverse", [False, True])
def test_in_x_stays_in_its_row_from_its_step_on(cell, options, dtype, sizes, value, reverse):
    rng = np.random.default_rng(1)
    row, t = sizes["N"] - 2, 3
    call = random_call(cell, rng, **sizes, dtype=dtype)
    gradients = upstream(cell, rng, call)
    keywords = dict(options) | {"reverse": reverse}
    clean = run(cell, fastgate, call, gradients, **keywords)
    call["x"][row, t] = value
    found = run(cell, fastgate, call, gradients, **keywords)
    assert_rows_apart(found, clean, row)
    before, after = (slice(t + 1, None), slice(0, t + 1)) if reverse else (slice(0, t), slice(t, None))
    np.testing.assert_array_equal(found["h"][row, before], clean["h"][row, before])
    if np.isnan(value):
        assert np.isnan(found["h"][row, after]).all()
        assert np.isnan(found["h_T"][row]).all()


@variants
@dtypes
@each("value", [np.inf, -np.inf])
def test_infinite_x_gives_what_the_reference_gives(cell, options, dtype, value):
    """One infinity in a row: every pre-activation is infinite and every gate saturated."""
    rng = np.random.default_rng(2)
    call = random_call(cell, rng, N=3, T=1, D=4, H=19, dtype=dtype)
    call["x"][1, 0, 2] = value
    exact = run(cell, reference, {name: a.astype(EXACT) for name, a in call.items()}, **dict(options))
    for name, a in run(cell, fastgate, call, **dict(options)).items():
        np.testing.assert_allclose(a, exact[name].astype(dtype), rtol=0, atol=16 * np.finfo(dtype).eps, err_msg=name)


@variants
@dtypes
@sizes
def test_nan_in_states_and_upstream_stays_in_its_row(cell, options, dtype, sizes):
    rng = np.random.default_rng(3)
    row, t = sizes["N"] // 2, 3
    call = random_call(cell, rng, **sizes, dtype=dtype)
    gradients = upstream(cell, rng, call)
    clean = run(cell, fastgate, call, gradients, **dict(options))
    for name in cell.states():
        state = call[name].copy()
        state[row] = np.nan
        found = run(cell, fastgate, call | {name: state}, gradients, **dict(options))
        assert_rows_apart(found, clean, row)
        assert np.isnan(found["h"][row]).all()
    for name, gradient in gradients.items():
        place = (row, t) if name == "dh" else (row,)
        gradient = gradient.copy()
        gradient[place] = np.nan
        found = run(cell, fastgate, call, gradients | {name: gradient}, **dict(options))
        assert_rows_apart(found, clean, row)
        if name == "dh":  # later steps do not know of it
            np.testing.assert_array_equal(found["dx"][row, t + 1 :], clean["dx"][row, t + 1 :])
        plain = run(cell, reference, call, gradients | {name: gradient}, **dict(options))
        for other in found:
            np.testing.assert_array_equal(np.isnan(found[other]), np.isnan(plain[other]), err_msg=f"{name} {other}")


@variants
@dtypes
def test_one_nan_of_a_weight_reaches_what_the_reference_says(cell, options, dtype):
    rng = np.random.default_rng(4)
    call = random_call(cell, rng, N=3, T=2, D=5, H=19, dtype=dtype)
    gradients = upstream(cell, rng, call)
    for name in WEIGHTS[: 4 + cell.peephole]:
        weight = call[name].copy()
        weight[..., 2] = np.nan
        found = run(cell, fastgate, call | {name: weight}, gradients, **dict(options))
        plain = run(cell, reference, call | {name: weight}, gradients, **dict(options))
        for other in ("h", "h_T", "dh0"):
            np.testing.assert_array_equal(np.isnan(found[other]), np.isnan(plain[other]), err_msg=f"{name} {other}")


@variants
@dtypes
def test_finite_pre_activations_never_give_nan(cell, options, dtype):
    """Nearly up to the largest number, with states just as large; forward and backward."""
    rng = np.random.default_rng(5)
    H, info = 19, np.finfo(dtype)
    N, D = 200, cell.G * H
    extremes = np.array([0, info.smallest_subnormal, info.tiny, 1e-3, 0.7, 5, 20, 88, 104, 710, 746, 1e30, info.max / 64])
    extremes = np.concatenate([extremes, -extremes]).astype(dtype)
    call = {"x": rng.choice(extremes, (N, 1, D)), "Wx": np.eye(D, dtype=dtype), "Wh": np.zeros((H, D), dtype)}
    for state in cell.states():
        call[state] = rng.choice(extremes, (N, H))
    gradients = upstream(cell, rng, call)
    found = run(cell, fastgate, call, gradients, need=("dx", *(f"d{state}" for state in cell.states())), **dict(options))
    for name, a in found.items():
        assert not np.isnan(a).any(), name
        if not name.startswith("d"):
            assert np.isfinite(a).all(), name
    exact = run(cell, reference, {name: a.astype(EXACT) for name, a in call.items()}, **dict(options))
    for name, a in exact.items():
        error = np.abs(found[name].astype(EXACT) - a)
        assert (error <= 8 * info.eps * np.maximum(np.abs(a), 1)).all(), name


@dtypes
def test_large_cell_states_saturate(dtype):
    """tanh(c) of the largest c, over many steps, forward and backward."""
    rng = np.random.default_rng(6)
    call = random_call(LSTM, rng, N=4, T=30, D=3, H=19, dtype=dtype)
    for huge in (1e3, 1e30, float(np.finfo(dtype).max) / 64):
        call["c0"] = np.copysign(np.full((4, 19), huge, dtype), call["c0"])
        call["b"][19 : 2 * 19] = 1000  # the forget gate: c stays
        found = run(LSTM, fastgate, call, upstream(LSTM, rng, call))
        assert all(np.isfinite(a).all() for a in found.values())
        assert (np.abs(found["h"]) <= 1).all()
        np.testing.assert_allclose(found["c_T"], call["c0"], rtol=0.1)


# The values of a sigmoid are near 1/2.
NEAR_ZERO = [variant for variant in VARIANTS if "sigmoid" not in dict(variant[1]).values()]


@pytest.mark.parametrize(("cell", "options"), NEAR_ZERO, ids=map(variant_id, NEAR_ZERO))
@dtypes
@each("step", [False, True])
def test_subnormal_numbers_are_kept(cell, options, dtype, step):
    """Inputs, states and upstream gradients below the smallest normal number: sums err by a few of the smallest numbers."""
    rng = np.random.default_rng(7)
    N, T, D, H = 5, 4, 9, 19
    info = np.finfo(dtype)
    scale = float(info.tiny) / 16
    call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype, step=step, b=False, bh=False)
    for name in ("x", *cell.states(step)):
        call[name] = values(rng, call[name].shape, dtype, scale)
    gradients = {name: values(rng, a.shape, dtype, scale) for name, a in upstream(cell, rng, call, step).items()}
    need = ("dx", *(f"d{state}" for state in cell.states(step)))
    wide = [{name: a.astype(EXACT) for name, a in arrays.items()} for arrays in (call, gradients)]
    exact = run(cell, reference, *wide, step, need, **dict(options))
    found = run(cell, fastgate, call, gradients, step, need, **dict(options))
    for name, a in exact.items():
        largest = np.abs(a).max()
        assert 0 < largest < info.tiny, name
        assert np.count_nonzero(found[name]) >= 0.9 * np.count_nonzero(np.abs(a) > 8 * info.smallest_subnormal), name
        error = np.abs(found[name].astype(EXACT) - a).max()
        assert error <= T * (D + H) * EXACT(info.smallest_subnormal), name
    assert dtype(scale) * dtype(0.5) != 0  # nor has the processor been told to flush them
