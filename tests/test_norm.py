"""Layer normalisation: what both cells compute, in words of its own and PyTorch's; scales; constant and huge rows;
the accuracy with the eps that everyone uses; calls that do not fit.

What holds of every variant of a cell is tested with the others (tests/support.py)."""

import itertools
import re

import numpy as np
import pytest
from support import CELLS, NORM, NORMALISED_C, assert_same, digest, every_module, modules, random_call, run, upstream, values
from test_accuracy import FORWARD, LONG, NORMALISED, SHORT, errors, ordinary_call, widened

import fastgate
from fastgate import reference

CELLS = [*(cell for cell in CELLS if cell.norm), NORMALISED_C]
cells = pytest.mark.parametrize("cell", CELLS, ids=repr)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda dtype: dtype.__name__)


def test_the_equations():
    """Step after step, in words of their own."""
    rng = np.random.default_rng(0)

    def normal(v):
        return (v - v.mean(axis=1, keepdims=True)) / np.sqrt(v.var(axis=1, keepdims=True) + 1e-5)

    def sigma(a):
        return 1 / (1 + np.exp(-a))

    for cell, module in itertools.product(CELLS, modules()):
        call = random_call(cell, rng, N=4, T=6, D=5, H=19)
        found = run(cell, module, call)
        h, c = call["h0"], call.get("c0")
        for t in range(6):
            ax = call["gain_x"] * normal(call["x"][:, t] @ call["Wx"]) + call["b"]
            ah = call["gain_h"] * normal(h @ call["Wh"]) + call["bh"]
            if cell.has_c:
                i, f, g, o = np.split(ax + ah, 4, axis=1)
                c = sigma(f) * c + sigma(i) * np.tanh(g)
                h = sigma(o) * np.tanh(call["gain_c"] * normal(c) + call["beta_c"] if "gain_c" in call else c)
            else:
                (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(ax, 3, axis=1), np.split(ah, 3, axis=1)
                n, z = np.tanh(x_n + sigma(x_r + h_r) * h_n), sigma(x_z + h_z)
                h = (1 - z) * n + z * h
            np.testing.assert_allclose(found["h"][:, t], h, rtol=0, atol=1e-13, err_msg=f"{cell} {t}")
        if cell.has_c:
            np.testing.assert_allclose(found["c_T"], c, rtol=0, atol=1e-13)


@pytest.mark.beside
def test_equals_pytorch():
    """torch's layer_norm, and its gradients of everything."""
    torch = pytest.importorskip("torch")
    for cell in CELLS:
        rng = np.random.default_rng(1)
        call = random_call(cell, rng, N=3, T=5, D=6, H=9)
        gradients = upstream(cell, rng, call)
        w = {name: torch.from_numpy(a.copy()).requires_grad_() for name, a in call.items()}
        h, c, hs = w["h0"], w.get("c0"), []

        def normal(v, gain):
            return torch.nn.functional.layer_norm(v, v.shape[1:], gain)

        for t in range(5):
            ax = normal(w["x"][:, t] @ w["Wx"], w["gain_x"]) + w["b"]
            ah = normal(h @ w["Wh"], w["gain_h"]) + w["bh"]
            if cell.has_c:
                i, f, g, o = (ax + ah).split(9, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * (normal(c, w["gain_c"]) + w["beta_c"] if "gain_c" in w else c).tanh()
            else:
                (x_r, x_z, x_n), (h_r, h_z, h_n) = ax.split(9, 1), ah.split(9, 1)
                n, z = (x_n + (x_r + h_r).sigmoid() * h_n).tanh(), (x_z + h_z).sigmoid()
                h = (1 - z) * n + z * h
            hs.append(h)
        states = [torch.stack(hs, 1), h, c][: 2 + cell.has_c]
        torch.autograd.backward(
            states, [torch.from_numpy(gradients[name]) for name in ("dh", "dh_T", "dc_T")[: 2 + cell.has_c]]
        )
        found = run(cell, fastgate, call, gradients)
        for name in call:
            np.testing.assert_allclose(found[f"d{name}"], w[name].grad.numpy(), rtol=0, atol=1e-11, err_msg=f"{cell} {name}")


@cells
def test_gains_that_are_not_given_are_ones(cell):
    rng = np.random.default_rng(2)
    call = random_call(cell, rng, N=9, H=17, dtype=np.float32)
    gradients = upstream(cell, rng, call)
    ones = {name: np.ones_like(call[name]) if name != "beta_c" else np.zeros_like(call[name]) for name in cell.norm}
    gone = [name for name in cell.norm if name != "gain_c"]
    expected = run(cell, fastgate, call | {name: ones[name] for name in gone}, gradients)
    left = {name: a for name, a in call.items() if name not in gone}
    found = run(cell, fastgate, left, gradients)
    assert not {f"d{name}" for name in gone} & found.keys()
    assert_same(found, {name: expected[name] for name in found})


@cells
def test_clipped_gradients_of_the_sums(cell):
    rng = np.random.default_rng(9)
    for N, T, D, H in ((3, 5, 4, 9), (20, 3, 7, 33)):
        call = random_call(cell, rng, N=N, T=T, D=D, H=H)
        gradients = upstream(cell, rng, call)
        found, exact = (run(cell, module, call, gradients, eps=0.1, grad_clip=0.05) for module in (fastgate, reference))
        other = run(cell, fastgate, call, gradients, eps=0.1)
        for name, a in exact.items():
            np.testing.assert_allclose(found[name], a, rtol=0, atol=1e-13 * max(1, np.abs(a).max()), err_msg=name)
            assert name[0] != "d" or (found[name] != other[name]).any(), name


@cells
@dtypes
def test_a_power_of_two_in_weights_changes_nothing(cell, dtype):
    """With eps that grows as it does squared: the same bits of everything else, gradients of the weights smaller by it."""
    if "gain_c" in cell.norm:
        pytest.skip("c does not grow with the weights")
    rng = np.random.default_rng(3)
    for N, T, D, H in ((1, 3, 5, 16), (9, 4, 3, 33), (33, 3, 20, 8)):
        call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype)
        gradients = upstream(cell, rng, call)
        expected = run(cell, fastgate, call, gradients, eps=2.0**-10)
        for power in (-9, 3, 20):
            scale = dtype(2.0**power)
            scaled = {name: scale * call[name] for name in ("Wx", "Wh")}
            found = run(cell, fastgate, call | scaled, gradients, eps=2.0 ** (2 * power - 10))
            for name in ("dWx", "dWh"):
                found[name] = found[name] * scale
            assert_same(found, expected)


@cells
@dtypes
def test_rows_whose_squares_overflow(cell, dtype):
    """Weights so large that only the scaled sums are finite: the values of weights that are not, all gradients finite."""
    rng = np.random.default_rng(4)
    call = random_call(cell, rng, N=7, T=4, D=6, H=19, dtype=dtype)
    gradients = upstream(cell, rng, call)
    expected = run(cell, reference, {name: a.astype(np.longdouble) for name, a in call.items()}, eps=1e-30)
    huge = dtype(2.0 ** (np.finfo(dtype).maxexp - 8))
    call |= {name: huge * call[name] for name in ("Wx", "Wh")}
    found = run(cell, fastgate, call, gradients, eps=1e-30)
    for name, a in expected.items():
        np.testing.assert_allclose(found[name], a.astype(dtype), rtol=0, atol=64 * np.finfo(dtype).eps, err_msg=name)
    assert all(np.isfinite(a).all() for a in found.values())


@cells
@dtypes
def test_constant_rows(cell, dtype):
    """A row of x that is 0, a first state of zeros, products of equal numbers: as the reference in 80 bits, all finite."""
    rng = np.random.default_rng(5)
    call = random_call(cell, rng, N=6, T=3, D=5, H=18, dtype=dtype)
    gradients = upstream(cell, rng, call)
    call["x"][1, 1], call["x"][4] = 0, 0
    call["h0"][:3] = 0
    equal = call | {"Wx": np.repeat(call["Wx"][:, :1], call["Wx"].shape[1], axis=1)}
    for given, eps in itertools.product((call, equal), (1e-5, 1e-3)):
        found = run(cell, fastgate, given, gradients, eps=eps)
        assert all(np.isfinite(a).all() for a in found.values())
        exact = run(cell, reference, widened(given), widened(gradients), eps=eps)
        for name, a in exact.items():
            # Where all columns are equal, what is left of a product is its rounding, up to 1 / sqrt(eps) times as large.
            bound = 64 * (1 if given is call else eps**-0.5) * np.finfo(dtype).eps * np.abs(a).max()
            if given is call or name in ("h", "h_T", "c_T"):
                assert np.abs(found[name] - a).max() <= bound, name


def test_accuracy_with_the_usual_eps():
    """Units in the last place of the largest exact value. With gains of ones the cells are chaotic, and any arithmetic loses
    digits at every step; these are below. A GRU is then as exact as the plain one."""
    sizes = [(4, 16, 32, 32), (3, 64, 30, 40), (2, 16, 64, 128), (1, 300, 20, 64)]
    for cell, dtype, (N, T, D, H) in itertools.product(CELLS, (np.float32, np.float64), sizes):
        if T > 64 and cell.has_c:
            continue
        call, gradients = ordinary_call(cell, (), dtype, N, T, D, H, 0)
        shapes = dict(zip(NORM, (cell.G * H, cell.G * H, H, H), strict=True))
        call |= {name: np.random.default_rng(T).uniform(0.05, 0.3, shapes[name]).astype(dtype) for name in cell.norm}
        exact = run(cell, reference, widened(call), widened(gradients))
        forward, backward = NORMALISED if cell.has_c else FORWARD, SHORT if T <= 64 else LONG
        for name, error in errors(run(cell, fastgate, call, gradients), exact, dtype).items():
            assert error <= (backward if name[0] == "d" else forward), (cell, N, T, D, H, name, error)


def test_errors_beside_those_of_rounded_arguments():
    """Some of these LSTMs multiply a difference in an argument so often that no bound in units holds, at any level: outputs lay
    16 units off, gradients 30. By how much half a unit in the arguments moves the exact result says how often; outputs lie at
    most 5 times as far off, gradients 8 times."""
    lstm, gru, normalised_c = CELLS
    cases = [(lstm, (3, 64, 30, 40), 98), (lstm, (1, 300, 20, 64), 61), (normalised_c, (1, 300, 20, 64), 149)]
    cases += [(cell, (4, 16, 32, 32), seed) for cell in (lstm, gru, normalised_c) for seed in (0, 1)]
    for cell, (N, T, D, H), seed in cases:
        call, gradients = ordinary_call(cell, (), np.float32, N, T, D, H, seed)
        rng, shapes = np.random.default_rng([T, seed]), dict(zip(NORM, (cell.G * H, cell.G * H, H, H), strict=True))
        call |= {name: rng.uniform(0.05, 0.3, shapes[name]).astype(np.float32) for name in cell.norm}
        exact = run(cell, reference, widened(call), widened(gradients))
        shifts = []
        for draw in range(3):
            rng = np.random.default_rng([9, draw, seed])
            moved = {name: a * (1 + 2.0**-24 * rng.uniform(-1, 1, a.shape)) for name, a in widened(call).items()}
            shifts.append(errors(run(cell, reference, moved, widened(gradients)), exact, np.float32))
        found = errors(run(cell, fastgate, call, gradients), exact, np.float32)
        for is_gradient, most in ((False, 5), (True, 8)):
            names = [name for name in exact if (name[0] == "d") is is_gradient]
            shift = max(moved[name] for moved in shifts for name in names)
            assert max(found[name] for name in names) <= most * shift, (cell, N, T, D, H, seed, is_gradient)


@every_module
def test_what_does_not_fit(module):
    rng = np.random.default_rng(6)
    call = random_call(NORMALISED_C, rng, N=3, T=4, D=5, H=7)
    before = digest(call)
    refused = [
        ({"gain_x": call["gain_x"][:-1]}, ValueError, "gain_x: expected (4H,) = (28,), got (27,)"),
        ({"gain_h": call["gain_h"][None]}, ValueError, "gain_h: expected (4H,) = (28,), got (1, 28); pass gain_h[0]?"),
        ({"gain_c": call["gain_x"]}, ValueError, "gain_c: expected (H,) = (7,), got (28,)"),
        ({"beta_c": call["beta_c"][:, None]}, ValueError, "beta_c: expected (H,) = (7,), got (7, 1); pass beta_c.ravel()?"),
        (
            {"gain_c": None},
            ValueError,
            "beta_c: expected None without gain_c, got one; pass gain_c=np.ones(H, dtype) to normalise c",
        ),
        ({"gain_h": call["gain_h"].astype(np.float32)}, TypeError, "gain_h: expected float64 as x, got float32; pass"),
        ({"gain_x": "ones"}, TypeError, "gain_x: expected float64 as x"),
        ({"eps": 0}, ValueError, "eps: expected a number > 0, got 0"),
        ({"eps": -1e-5}, ValueError, "eps: expected a number > 0, got -1e-05"),
        ({"eps": 1e-60}, ValueError, "eps: expected a number > 0 that float32 holds, got 1e-60"),
        ({"eps": np.inf}, ValueError, "eps: expected a number > 0 that float32 holds, got inf"),
        ({"eps": None}, TypeError, "eps: expected a number > 0, got None"),
        ({"eps": True}, TypeError, "eps: expected a number > 0, got bool True"),
        ({"period": 2}, ValueError, "period: expected None beside gain_c, got one"),
        ({"grad_clip": 0}, ValueError, "grad_clip: expected a number > 0, got 0"),
    ]
    for wrong, error, words in refused:
        with pytest.raises(error, match=f"^{re.escape(words)}"):
            module.lstm_norm_forward(**call | wrong)
        if module is fastgate:
            weights = {name: a for name, a in (call | wrong).items() if name not in ("x", "h0", "c0")}
            with pytest.raises(error, match=f"^{re.escape(words.replace('as x', 'as Wx'))}"):
                fastgate.LSTMNormCell(**weights)
    assert digest(call) == before
    with pytest.raises(TypeError, match="gain_c"):
        module.gru_norm_forward(**random_call(CELLS[1], rng), gain_c=None)


@cells
def test_gradients_into_the_gains_themselves(cell):
    """out= in the memory of what backward reads."""
    rng = np.random.default_rng(7)
    call = random_call(cell, rng, N=5, H=18, dtype=np.float32)
    gradients = upstream(cell, rng, call)
    expected = run(cell, fastgate, call, gradients)
    cache = cell.function(fastgate, "forward")(**call).cache
    out = {f"d{name}": call[name] for name in cell.norm}
    found = cell.function(fastgate, "backward")(cache=cache, **gradients, out=out)
    for name, a in out.items():
        assert getattr(found, name) is a
    assert_same(found._asdict(), expected, found._fields)


def test_prepared_gains_are_the_cells_own():
    rng = np.random.default_rng(8)
    call = random_call(NORMALISED_C, rng, N=3, H=9)
    weights = {name: a for name, a in call.items() if name not in ("x", "h0", "c0")}
    cell = fastgate.LSTMNormCell(**weights)
    for name in NORM:
        np.testing.assert_array_equal(getattr(cell, name), call[name])
        assert not getattr(cell, name).flags.writeable
    expected = cell.step(call["x"][:, 0], call["h0"], call["c0"])
    for name in NORM:
        call[name][...] = values(rng, call[name].shape)
    for a, b in zip(cell.step(call["x"][:, 0], call["h0"], call["c0"]), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    cell.update(call["Wx"], call["Wh"])
    assert [getattr(cell, name) for name in NORM] == [None] * 4
