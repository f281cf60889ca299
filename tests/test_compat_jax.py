"""rnn, lstm and gru under JAX: values and gradients are fastgate's own, under jit, grad and vmap."""

import sys

import numpy as np
import pytest
from support import CELLS, VARIANTS, random_call, values, variant_id

import fastgate

pytestmark = pytest.mark.beside

HERE = ("rnn", "lstm", "gru")
CELLS = [cell for cell in CELLS if cell.name in HERE]
VARIANTS = [variant for variant in VARIANTS if variant[0].name in HERE]
cells = pytest.mark.parametrize("cell", CELLS, ids=repr)


def test_a_missing_jax_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "fastgate.compat.jax", raising=False)
    with pytest.raises(ImportError, match=r'fastgate.compat.jax needs jax: pip install "fastgate\[jax\]"'):
        import fastgate.compat.jax  # noqa: F401


@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax", reason="jax is not installed")


def function(cell):
    from fastgate.compat import jax

    return getattr(jax, cell.name)


def arguments(cell, dtype=np.float32):
    return random_call(cell, np.random.default_rng(0), dtype=dtype)


def expected(cell, call, upstream=None, **options):
    """(results, gradients) of the public functions."""
    *results, cache = cell.function(fastgate, "forward")(**call, **options)
    upstream = upstream or [np.cos(r) for r in results]
    return results, cell.function(fastgate, "backward")(upstream[0], cache, *upstream[1:])


@cells
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_values_and_gradients_are_fastgates(jax, cell, compiled, dtype):
    """To the bit, where the upstream gradient is; every array's gradient at once."""
    call = arguments(cell, dtype)
    bh = call.pop("bh")
    arrays = [*call.values(), bh]
    with jax.enable_x64(dtype == np.float64):
        results, vjp = jax.vjp((jax.jit if compiled else lambda f: f)(function(cell)), *arrays)
        upstream = tuple(values(np.random.default_rng(k), r.shape, dtype) for k, r in enumerate(results))
        gradients = vjp(upstream)
    exact_results, exact_gradients = expected(cell, call | {"bh": bh}, upstream)
    for a, z in zip((*results, *gradients), (*exact_results, *exact_gradients), strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(a, z)


@cells
def test_options_and_lengths(jax, cell):
    """Lengths may be traced; padding has no gradient. States and biases may be None."""
    call = {name: a for name, a in arguments(cell).items() if name in ("x", "Wx", "Wh")}
    options = {
        "rnn": {"activation": "sigmoid"},
        "lstm": {"gate_order": "oifg"},
        "gru": {"gate_order": "zrn", "reset": "before"},
    }[cell.name]
    nothing = [None] * len(cell.states())
    lengths = np.array([4, 0, 2])

    def last(x, Wx, Wh, lengths):
        return jax.numpy.sum(function(cell)(x, *nothing, Wx, Wh, lengths=lengths, reverse=True, **options)[1])

    found = jax.jit(jax.grad(last, argnums=(0, 1, 2)))(*call.values(), lengths)
    states = dict.fromkeys(cell.states())
    *results, cache = cell.function(fastgate, "forward")(**call, **states, lengths=lengths, reverse=True, **options)
    gradients = cell.function(fastgate, "backward")(None, cache, np.ones_like(results[1]))
    for a, z in zip(found, (gradients.dx, gradients.dWx, gradients.dWh), strict=True):
        np.testing.assert_array_equal(a, z)
    assert not found[0][1].any()
    assert found[1].any()


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_options_are_fastgates(jax, variant):
    """Every option of the cells, peepholes among them: the bits of fastgate's functions."""
    cell, options = variant
    call, options = arguments(cell), dict(options)
    results, vjp = jax.vjp(lambda arrays: function(cell)(**arrays, **options), call)
    upstream = tuple(values(np.random.default_rng(k), r.shape, np.float32) for k, r in enumerate(results))
    (gradients,) = vjp(upstream)
    exact_results, exact_gradients = expected(cell, call, upstream, **options)
    for a, z in zip(results, exact_results, strict=True):
        np.testing.assert_array_equal(a, z)
    assert len(call) == len(exact_gradients)
    for name in call:
        np.testing.assert_array_equal(gradients[name], getattr(exact_gradients, f"d{name}"))


@cells
def test_vmap_is_a_loop(jax, cell):
    call = arguments(cell)
    xs = values(np.random.default_rng(1), (3, *call["x"].shape), np.float32)
    _, *rest = call.values()
    found = jax.vmap(lambda x: function(cell)(x, *rest)[0])(xs)
    for a, x in zip(found, xs, strict=True):
        np.testing.assert_array_equal(a, expected(cell, call | {"x": x})[0][0])


@cells
def test_bad_calls_are_judged_when_traced(jax, cell):
    call = arguments(cell)
    for changed, kind, words in (
        ({"Wh": call["Wh"][:, :-1]}, ValueError, r"Wh: expected \(H, "),
        ({"x": call["x"][0]}, ValueError, r"x: expected \(N, T, D\)"),
        ({"x": call["x"].astype(int)}, TypeError, "x: expected float32 or float64, got int32"),
        ({"Wx": call["Wx"].astype(np.float16)}, TypeError, "Wx: expected float32 as x, got float16"),
    ):
        with pytest.raises(kind, match=f"^{words}"):
            jax.jit(function(cell)).lower(*(call | changed).values())
    with pytest.raises(TypeError, match="training"):
        function(cell)(*call.values(), training=True)


@cells
def test_other_derivatives_are_refused(jax, cell):
    call = arguments(cell)
    _, *rest = call.values()

    def loss(x):
        return jax.numpy.sum(function(cell)(x, *rest)[0])

    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss, (call["x"],), (call["x"],))
    with pytest.raises(ValueError, match=r"[Pp]ure callbacks do not support"):
        jax.grad(lambda x: jax.numpy.sum(jax.grad(loss)(x) ** 2))(call["x"])
