"""rnn, lstm and gru under HIPS autograd: every gradient against finite differences and against fastgate's own."""

import subprocess
import sys

import numpy as np
import pytest
from support import CELLS, VARIANTS, digest, random_call, values, variant_id

import fastgate

pytestmark = pytest.mark.beside


def test_a_missing_autograd_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "autograd.extend", None)
    monkeypatch.delitem(sys.modules, "fastgate.compat.autograd", raising=False)
    with pytest.raises(ImportError, match=r'fastgate.compat.autograd needs autograd: pip install "fastgate\[autograd\]"'):
        import fastgate.compat.autograd  # noqa: F401


def test_fastgate_imports_no_adapter_and_no_peer():
    code = "import sys, fastgate, fastgate.compat; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fastgate.compat" in run.stdout.split()
    assert not [name for name in run.stdout.split() if name.startswith(("autograd", "jax", "fastgate.compat."))]


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("autograd", reason="autograd is not installed")


SIZES = [(3, 5, 4, 6), (1, 1, 1, 1), (2, 1, 7, 8), (1, 4, 9, 15), (4, 3, 8, 17), (2, 2, 16, 33)]
OPTIONS = {
    "rnn": [{}, {"activation": "sigmoid"}, {"reverse": True, "lengths": [2, 0, 5]}],
    "lstm": [{}, {"gate_order": "fgio"}, {"reverse": True, "lengths": [2, 0, 5]}],
    "gru": [{}, {"reset": "before", "gate_order": "zrn"}, {"reverse": True, "lengths": [2, 0, 5]}],
}
CELLS = [cell for cell in CELLS if cell.name in OPTIONS]
VARIANTS = [variant for variant in VARIANTS if variant[0].name in OPTIONS]
cells = pytest.mark.parametrize("cell", CELLS, ids=repr)
variants = pytest.mark.parametrize(("cell", "options"), [(cell, o) for cell in CELLS for o in OPTIONS[cell.name]], ids=str)


def function(cell):
    from fastgate.compat import autograd

    return getattr(autograd, cell.name)


def arguments(cell, size=SIZES[0], dtype=np.float64, seed=0):
    N, T, D, H = size
    return random_call(cell, np.random.default_rng(seed), N=N, T=T, D=D, H=H, dtype=dtype)


@variants
def test_check_grads(peer, cell, options):
    """autograd's own check, over all arrays at once and all results."""
    from autograd.test_util import check_grads

    call = arguments(cell)
    np.random.seed(0)
    check_grads(lambda arrays: function(cell)(*arrays, **options), modes=["rev"], order=1)(list(call.values()))
    for k in range(len(call)):
        check_grads(lambda *arrays: function(cell)(*arrays, **options), k, modes=["rev"], order=1)(*call.values())


@cells
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
def test_gradients_by_every_array_are_fastgates(peer, cell, size, dtype):
    """The bits of the backward function, by one array at a time and by all of them."""
    call = arguments(cell, size, dtype)
    rng = np.random.default_rng(1)
    bh = call.pop("bh")
    *results, cache = cell.function(fastgate, "forward")(**call, bh=bh)
    upstream = [values(rng, r.shape, dtype) for r in results]
    expected = cell.function(fastgate, "backward")(upstream[0], cache, *upstream[1:])

    arrays = [*call.values(), bh]
    vjp, found = peer.make_vjp(lambda args: function(cell)(*args))(arrays)
    for a, z in zip(found, results, strict=True):
        np.testing.assert_array_equal(a, z)
    for a, z in zip(vjp(tuple(upstream)), expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(a, z)
    for k, z in enumerate(expected):
        alone, _ = peer.make_vjp(function(cell), k)(*arrays)
        np.testing.assert_array_equal(alone(tuple(upstream)), z)


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_options_are_fastgates(peer, variant):
    """Every option of the cells, peepholes among them: the bits of fastgate's functions."""
    cell, options = variant
    call, options = arguments(cell), dict(options)
    *results, cache = cell.function(fastgate, "forward")(**call, **options)
    upstream = [values(np.random.default_rng(1), r.shape) for r in results]
    expected = cell.function(fastgate, "backward")(upstream[0], cache, *upstream[1:])
    vjp, found = peer.make_vjp(lambda arrays: function(cell)(**arrays, **options))(call)
    gradients = vjp(tuple(upstream))
    for a, z in zip(found, results, strict=True):
        np.testing.assert_array_equal(a, z)
    assert len(call) == len(expected)
    for name in call:
        np.testing.assert_array_equal(gradients[name], getattr(expected, f"d{name}"))


@cells
def test_a_loss_of_some_results(peer, cell):
    """Results that no loss sees have no upstream gradient; states and biases may be None."""
    import autograd.numpy as anp

    call = arguments(cell)
    Wx, Wh = call["Wx"], call["Wh"]
    nothing = [None] * len(cell.states())

    def last(Wx):
        return anp.sum(anp.sin(function(cell)(call["x"], *nothing, Wx, Wh)[1]))

    *results, cache = cell.function(fastgate, "forward")(call["x"], *nothing, Wx, Wh)
    expected = cell.function(fastgate, "backward")(None, cache, np.cos(results[1])).dWx
    np.testing.assert_allclose(peer.grad(last)(Wx), expected, rtol=0, atol=1e-14)


@cells
def test_plain_arrays_give_plain_results(peer, cell):
    call = arguments(cell)
    before = digest(call)
    found = function(cell)(*call.values())
    expected = cell.function(fastgate, "forward")(**call, training=False)
    assert type(found) is tuple
    for a, z in zip(found, expected, strict=False):
        assert type(a) is np.ndarray
        np.testing.assert_array_equal(a, z)
    assert digest(call) == before


@cells
def test_a_state_for_all_rows_has_a_gradient_of_its_shape(peer, cell):
    import autograd.numpy as anp

    call = arguments(cell)
    call["h0"] = call["h0"][0]
    gradient = peer.grad(lambda h0: anp.sum(function(cell)(*(call | {"h0": h0}).values())[0] ** 2))(call["h0"])
    assert gradient.shape == call["h0"].shape


@cells
def test_a_wider_loss_keeps_float32(peer, cell):
    """Targets in float64 make gradients in float64 upstream; those of a float32 call are float32."""
    import autograd.numpy as anp

    call = arguments(cell, dtype=np.float32)
    targets = np.random.default_rng(1).normal(size=(3, 5, 6))

    def loss(Wx):
        return anp.sum((function(cell)(*(call | {"Wx": Wx}).values())[0] - targets) ** 2)

    gradient = peer.grad(loss)(call["Wx"])
    wide = {name: a.astype(np.float64) for name, a in call.items()}
    found = cell.function(fastgate, "forward")(**wide)
    exact = cell.function(fastgate, "backward")(2 * (found.h - targets), found.cache).dWx
    assert gradient.dtype == np.float32
    assert np.abs(gradient - exact).max() <= 64 * np.finfo(np.float32).eps * np.abs(exact).max()


@cells
@pytest.mark.parametrize("linear", [False, True])
def test_second_derivatives_are_refused(peer, cell, linear):
    """Also where the loss is linear in h and its upstream gradient a constant."""
    import autograd.numpy as anp

    call = arguments(cell)

    def loss(x):
        h = function(cell)(*(call | {"x": x}).values())[0]
        return anp.sum(h if linear else h**2)

    with pytest.raises(NotImplementedError, match=rf"VJP of {cell.name} gradients wrt argnums .* not defined"):
        peer.grad(lambda x: anp.sum(peer.grad(loss)(x) ** 2))(call["x"])
    with pytest.raises(NotImplementedError, match=f"JVP of {cell.name} wrt argnums"):
        peer.make_jvp(loss)(call["x"])(call["x"])


@cells
def test_errors_are_fastgates(peer, cell):
    import autograd.numpy as anp

    call = arguments(cell)
    with pytest.raises(ValueError, match=r"^Wh: expected \(H, "):
        peer.grad(lambda x: anp.sum(function(cell)(*(call | {"x": x, "Wh": call["Wh"][:, :-1]}).values())[0]))(call["x"])
    with pytest.raises(TypeError, match=r"^h0: expected float64 as x, got float32"):
        function(cell)(*(call | {"h0": call["h0"].astype("f")}).values())
    with pytest.raises(TypeError, match="unexpected keyword argument 'training'"):
        function(cell)(*call.values(), training=True)


def test_a_model_trains(peer):
    """A hundred steps of gradient descent through a GRU: the sum of a sequence is learned."""
    import autograd.numpy as anp

    from fastgate.compat.autograd import gru

    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6, 1))
    y = x.sum(axis=1)
    shapes = {"Wx": (1, 24), "Wh": (8, 24), "b": (24,), "V": (8, 1)}
    params = {name: values(rng, shape, scale=0.5) for name, shape in shapes.items()}

    def loss(p):
        _, h_T = gru(x, None, p["Wx"], p["Wh"], p["b"])
        return anp.mean((anp.dot(h_T, p["V"]) - y) ** 2)

    first, gradient = loss(params), peer.grad(loss)
    for _ in range(100):
        g = gradient(params)
        params = {name: p - 0.1 * g[name] for name, p in params.items()}
    assert loss(params) < 0.1 * first
