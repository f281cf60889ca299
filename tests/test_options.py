"""The options of the cells: every combination beside the reference, PyTorch's autograd and ONNX Runtime; their edges."""

import itertools

import numpy as np
import pytest
from layouts import LAYOUTS, lay_out
from support import (
    CELLS,
    LSTM,
    PEEPHOLE,
    assert_same,
    digest,
    each,
    every_module,
    is_steady,
    permuted,
    prepare,
    random_call,
    run,
    upstream,
    values,
)

import fastgate
from fastgate import reference

GRU = ("Wx", "Wh", "b", "bh")
RNN, GRU_CELL = (next(cell for cell in CELLS if cell.name == name) for name in ("rnn", "gru"))
CHOICES = {"candidate": ("tanh", "sigmoid"), "coupled": (False, True), "cell_clip": (None, 0.5), "preact_clip": (None, 1.0)}
COMBINATIONS = [(cell, dict(zip(CHOICES, chosen, strict=True)))
                for cell in (LSTM, PEEPHOLE) for chosen in itertools.product(*CHOICES.values())]  # fmt: skip
combinations = pytest.mark.parametrize(
    ("cell", "options"),
    COMBINATIONS,
    ids=["-".join([repr(c), *(f"{k}={v}" for k, v in o.items() if v)]) for c, o in COMBINATIONS],
)
dtypes = each("dtype", [np.float32, np.float64])
SIZES = [(1, 1, 1, 1), (1, 5, 7, 8), (3, 4, 16, 9), (9, 3, 5, 15), (2, 6, 31, 16), (4, 2, 8, 17), (33, 3, 3, 31), (5, 4, 2, 33)]


def drawn(cell, options, dtype=np.float64, *, step=False, seed=0, **sizes):
    """(arguments, upstream gradients); no value so near to the bound of a clip that rounding moves it across."""
    for attempt in itertools.count(seed):
        rng = np.random.default_rng([attempt, *sizes.values()])
        call = random_call(cell, rng, dtype=dtype, step=step, **sizes)
        if is_steady(cell, call, step, **options):
            return call, upstream(cell, rng, call, step)


# --- beside the reference and others ------------------------------------------------------------------------------


@combinations
@dtypes
def test_kernels_against_the_reference(cell, options, dtype):
    for (N, T, D, H), step in itertools.product(SIZES, (False, True)):
        call, gradients = drawn(cell, options, dtype, step=step, N=N, T=T, D=D, H=H)
        wide = [{name: a.astype(np.float64) for name, a in arrays.items()} for arrays in (call, gradients)]
        found, exact = run(cell, fastgate, call, gradients, step, **options), run(cell, reference, *wide, step, **options)
        assert found.keys() == exact.keys()
        for name, a in exact.items():
            bound = 32 * np.finfo(dtype).eps * max(1, np.abs(a).max())
            np.testing.assert_allclose(found[name], a, rtol=0, atol=bound, err_msg=name)


def by_torch(torch, call, options, gradients):
    """All results by name, by a loop in PyTorch and its autograd."""
    t = {name: torch.tensor(a, requires_grad=True) for name, a in call.items()}
    h, c, hs = t["h0"], t["c0"], []
    p_i, p_f, p_o = t["peephole"].chunk(3) if "peephole" in t else (0, 0, 0)

    def clamp(a, limit):
        return a if limit is None else a.clamp(-limit, limit)

    for x in t["x"].unbind(1):
        a_i, a_f, a_g, a_o = (x @ t["Wx"] + h @ t["Wh"] + t["b"] + t["bh"]).chunk(4, 1)
        f = clamp(a_f + p_f * c, options["preact_clip"]).sigmoid()
        i = 1 - f if options["coupled"] else clamp(a_i + p_i * c, options["preact_clip"]).sigmoid()
        g = getattr(clamp(a_g, options["preact_clip"]), options["candidate"])()
        c = clamp(f * c + i * g, options["cell_clip"])
        h = clamp(a_o + p_o * c, options["preact_clip"]).sigmoid() * c.tanh()
        hs.append(h)
    results = {"h": torch.stack(hs, 1), "h_T": h, "c_T": c}
    torch.autograd.backward(list(results.values()), [torch.tensor(g) for g in gradients.values()])
    return {n: a.detach().numpy() for n, a in results.items()} | {f"d{n}": a.grad.numpy() for n, a in t.items()}


@combinations
@every_module
@pytest.mark.beside
def test_autograd_of_pytorch(module, cell, options):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    call, gradients = drawn(cell, options, N=4, T=6, D=5, H=9)
    found, expected = run(cell, module, call, gradients, **options), by_torch(torch, call, options, gradients)
    assert found.keys() == expected.keys()
    for name, a in expected.items():
        np.testing.assert_allclose(found[name], a, rtol=1e-11, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("peephole", [False, True], ids=["", "peephole"])
@pytest.mark.parametrize(
    "attributes",
    [{}, {"clip": 0.7}, {"input_forget": 1}, {"input_forget": 1, "clip": 0.7}],
    ids=lambda a: "-".join(a) or "plain",
)
@pytest.mark.beside
def test_onnx_runtime(peephole, attributes):
    """Its W (4H, D) holds i o f c, its P i o f. Its input_forget has f = 1 - i: our f with the weights of its i negated."""
    onnx = pytest.importorskip("onnx", reason="ONNX is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    cell, options = PEEPHOLE if peephole else LSTM, {"preact_clip": attributes.get("clip")}
    call, _ = drawn(cell, options, np.float32, N=3, T=5, D=4, H=6)
    x, h0, c0, Wx, Wh, b, bh = (call[name] for name in ("x", "h0", "c0", "Wx", "Wh", "b", "bh"))
    inputs = {"X": x.swapaxes(0, 1), "W": permuted(Wx, "ifgo", "iofg").T[None], "R": permuted(Wh, "ifgo", "iofg").T[None],
              "B": np.concatenate([permuted(a, "ifgo", "iofg") for a in (b, bh)])[None],
              "initial_h": h0[None], "initial_c": c0[None]}  # fmt: skip
    if peephole:
        p_i, p_f, p_o = np.split(call["peephole"], 3)
        inputs["P"] = np.concatenate([p_i, p_o, p_f])[None]
    order = ["X", "W", "R", "B", "", "initial_h", "initial_c"] + ["P"] * peephole
    kind = onnx.TensorProto.FLOAT
    node = onnx.helper.make_node("LSTM", order, ["Y", "Y_h", "Y_c"], hidden_size=6, **attributes)
    graph = onnx.helper.make_graph(
        [node], "one", [onnx.helper.make_tensor_value_info(n, kind, a.shape) for n, a in inputs.items()],
        [onnx.helper.make_tensor_value_info(n, kind, None) for n in ("Y", "Y_h", "Y_c")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    Y, _, Y_c = session.run(None, {name: np.ascontiguousarray(a) for name, a in inputs.items()})

    if "input_forget" in attributes:
        options["coupled"] = True
        call = {name: a.copy() for name, a in call.items()}
        for name, blocks in {"Wx": 4, "Wh": 4, "b": 4, "bh": 4, "peephole": 3}.items():
            if name in call:
                H = call[name].shape[-1] // blocks
                call[name][..., H : 2 * H] = -call[name][..., :H]
    found = run(cell, fastgate, call, training=False, **options)
    np.testing.assert_allclose(found["h"], Y[:, 0].swapaxes(0, 1), rtol=0, atol=2e-6)
    np.testing.assert_allclose(found["c_T"], Y_c[0], rtol=0, atol=2e-6)


# --- update of the GRU ---------------------------------------------------------------------------------------------


@every_module
@dtypes
@pytest.mark.parametrize("reset", ["after", "before"])
def test_the_new_update_is_the_old_one_with_z_negated(module, dtype, reset):
    """Forward and backward; by the kernels bit for bit, in one step and in a sequence."""
    rng = np.random.default_rng(1)
    for H in (1, 8, 15, 33):
        shapes = {"x": (3, 5, 4), "h0": (3, H), "Wx": (4, 3 * H), "Wh": (H, 3 * H), "b": 3 * H, "bh": 3 * H}
        call = {name: values(rng, shape, dtype, 0.5) for name, shape in shapes.items()}
        turned = {name: a.copy() for name, a in call.items()}
        for name in GRU:
            turned[name][..., H : 2 * H] *= -1
        dh, dh_T = values(rng, (3, 5, H), dtype), values(rng, (3, H), dtype)
        results = []
        for arguments, update in ((call, "new"), (turned, "old")):
            found = module.gru_forward(**arguments, reset=reset, update=update)
            back = module.gru_backward(dh, found.cache, dh_T)._asdict()
            results.append({"h": found.h, "h_T": found.h_T} | back)
        for name in GRU:
            results[1][f"d{name}"][..., H : 2 * H] *= -1
        for name, a in results[0].items():
            if module is fastgate:
                np.testing.assert_array_equal(a, results[1][name], err_msg=name)
            np.testing.assert_allclose(a, results[1][name], rtol=0, atol=32 * np.finfo(dtype).eps * max(1, np.abs(a).max()))


@every_module
@pytest.mark.parametrize("reset", ["after", "before"])
def test_where_an_open_gate_leads(module, reset):
    """z = 1: the old update keeps h_prev, the new one takes n."""
    H = 9
    x, h_prev = np.ones((2, 1)), values(np.random.default_rng(2), (2, H))
    b = np.repeat([0.0, 1000.0, 0.3], H)
    weights = np.zeros((1, 3 * H)), np.zeros((H, 3 * H)), b
    h_next = module.gru_step_forward(x, h_prev, *weights, reset=reset).h_next
    np.testing.assert_allclose(h_next, h_prev, rtol=1e-15)
    h_next = module.gru_step_forward(x, h_prev, *weights, reset=reset, update="new").h_next
    np.testing.assert_allclose(h_next, np.tanh(0.3), rtol=1e-14)


# --- every combination of gru, and da between bounds -----------------------------------------------------------------

GRU_CHOICES = {"reset": ("after", "before"), "update": ("old", "new"), "candidate": ("tanh", "sigmoid")}
BOUNDED = [(RNN, {"activation": name}) for name in ("tanh", "relu", "sigmoid", "identity")]
BOUNDED += [(GRU_CELL, dict(zip(GRU_CHOICES, chosen, strict=True))) for chosen in itertools.product(*GRU_CHOICES.values())]
BOUNDED += [
    (LSTM, {}),
    (PEEPHOLE, {}),
    (PEEPHOLE, {"candidate": "sigmoid", "coupled": True}),
    (PEEPHOLE, {"cell_clip": 0.5, "preact_clip": 1.0}),
]
bounded = pytest.mark.parametrize(
    ("cell", "options"), BOUNDED, ids=["-".join([repr(c), *map(str, o.values())]) for c, o in BOUNDED]
)


def step_in_torch(torch, cell, options, t, x, h, c, bounded):
    """One step; `bounded` is put around every pre-activation."""
    phi = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda a: a}
    ax, ah = x @ t["Wx"] + t["b"], h @ t["Wh"] + t["bh"]
    if cell.name == "rnn":
        return phi[options["activation"]](bounded(ax + ah)), None
    if cell.name == "gru":
        H = h.shape[1]
        r, z = bounded((ax + ah)[:, : 2 * H]).sigmoid().chunk(2, 1)
        reset = r * ah[:, 2 * H :] if options["reset"] == "after" else (r * h) @ t["Wh"][:, 2 * H :] + t["bh"][2 * H :]
        n = phi[options["candidate"]](bounded(ax[:, 2 * H :] + reset))
        return (z * n + (1 - z) * h if options["update"] == "new" else (1 - z) * n + z * h), None

    def clamp(a, limit):
        return a if options.get(limit) is None else a.clamp(-options[limit], options[limit])

    def gate(a):  # the bound is put where a gradient has passed the clip
        return clamp(bounded(a), "preact_clip")

    p_i, p_f, p_o = t["peephole"].chunk(3) if cell.peephole else (0, 0, 0)
    a_i, a_f, a_g, a_o = (ax + ah).chunk(4, 1)
    f = gate(a_f + p_f * c).sigmoid()
    i = 1 - f if options.get("coupled") else gate(a_i + p_i * c).sigmoid()
    c = clamp(f * c + i * phi[options.get("candidate", "tanh")](gate(a_g)), "cell_clip")
    return gate(a_o + p_o * c).sigmoid() * c.tanh(), c


@bounded
@every_module
@pytest.mark.parametrize("grad_clip", [None, 0.3, 0.02])
@pytest.mark.beside
def test_bounds_of_da_by_hooks_of_pytorch(module, cell, options, grad_clip):
    """A hook on each pre-activation clips its gradient, which autograd then hands on."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    call, gradients = drawn(cell, options, N=4, T=6, D=5, H=9)
    t = {name: torch.tensor(a, requires_grad=True) for name, a in call.items()}
    h, c, hs, met = t["h0"], t.get("c0"), [], []

    def clip(da):
        met.append((da.abs() > grad_clip).double().mean().item())
        return da.clamp(-grad_clip, grad_clip)

    def bounded(a):
        if grad_clip is not None:
            a.register_hook(clip)
        return a

    for x in t["x"].unbind(1):
        h, c = step_in_torch(torch, cell, options, t, x, h, c, bounded)
        hs.append(h)
    outputs = {"h": torch.stack(hs, 1), "h_T": h} | ({"c_T": c} if cell.has_c else {})
    torch.autograd.backward(list(outputs.values()), [torch.tensor(g) for g in gradients.values()])
    expected = {n: a.detach().numpy() for n, a in outputs.items()} | {f"d{n}": a.grad.numpy() for n, a in t.items()}
    found = run(cell, module, call, gradients, grad_clip=grad_clip, **options)
    assert found.keys() == expected.keys()
    for name, a in expected.items():
        np.testing.assert_allclose(found[name], a, rtol=1e-11, atol=1e-12, err_msg=name)
    if grad_clip == 0.02:
        assert 0.1 < np.mean(met) < 1


@bounded
@dtypes
def test_a_bound_that_nothing_reaches_changes_no_bit(cell, options, dtype):
    for step in (False, True):
        call, gradients = drawn(cell, options, dtype, step=step, N=3, T=5, D=4, H=17)
        plain = run(cell, fastgate, call, gradients, step, **options)
        for grad_clip in (None, np.inf, 1e300, np.float32(1e6), 1 << 70):
            assert_same(run(cell, fastgate, call, gradients, step, grad_clip=grad_clip, **options), plain)


@bounded
@dtypes
def test_bounded_kernels_against_the_reference(cell, options, dtype):
    for (N, T, D, H), step in itertools.product(SIZES, (False, True)):
        call, gradients = drawn(cell, options, dtype, step=step, N=N, T=T, D=D, H=H)
        wide = [{name: a.astype(np.float64) for name, a in arrays.items()} for arrays in (call, gradients)]
        for grad_clip in (None, 0.05):
            found = run(cell, fastgate, call, gradients, step, grad_clip=grad_clip, **options)
            for name, a in run(cell, reference, *wide, step, grad_clip=grad_clip, **options).items():
                bound = 32 * np.finfo(dtype).eps * max(1, np.abs(a).max())
                np.testing.assert_allclose(found[name], a, rtol=0, atol=bound, err_msg=name)


@every_module
@dtypes
def test_bounds_of_da_by_hand(module, dtype):
    """h = x + h_prev: da of each step is the dh of all later ones, between ±1.5, and passes on as it is then."""
    x, one = np.ones((1, 4, 1), dtype), np.ones((1, 1), dtype)
    cache = module.rnn_forward(x, None, one, one, np.zeros(1, dtype), activation="identity", grad_clip=1.5).cache
    dh = np.array([[[0.25], [-4.0], [1.0], [1.0]]], dtype)
    found = module.rnn_backward(dh, cache, -one)
    da = np.array([-1.25, -1.5, 1.0, 0.0], dtype)  # last: 1 - 1; then 0 + 1, clip(1 - 4), -1.5 + 0.25
    np.testing.assert_array_equal(found.dx[0, :, 0], da)
    assert found.db == da.sum()
    assert found.dWh == (da[1:] * [1, 2, 3]).sum()
    assert found.dh0 == da[0]


@bounded
@every_module
def test_nan_passes_the_bound_and_stays_in_its_row(module, cell, options):
    if options.get("activation") == "relu":
        pytest.skip("a unit that is off passes nothing, NaN neither")
    call, gradients = drawn(cell, options, N=4, T=5, D=3, H=9)
    gradients["dh"][2, 3, 4] = np.nan
    found = run(cell, module, call, gradients, grad_clip=0.1, **options)
    assert np.isnan(found["dx"][2, :4]).all()
    assert np.isfinite(np.delete(found["dx"], 2, axis=0)).all()
    assert np.isfinite(found["dx"][2, 4]).all()
    assert np.isnan(found["dWx"]).any()


@bounded
def test_prepared_cells_and_layers_bound_da(cell, options):
    call, gradients = drawn(cell, options, N=3, T=4, D=5, H=9)
    expected = run(cell, fastgate, call, gradients, grad_clip=0.05, **options)
    prepared, left = prepare(cell, call, grad_clip=0.05, **options)
    found = cell.function(fastgate, "backward")(cache=prepared.forward(**left).cache, **gradients)._asdict()
    assert_same(found, {name: expected[name] for name in found})
    plain = run(cell, fastgate, call, gradients, **options)
    assert any((plain[name] != expected[name]).any() for name in found)


# --- the options of the LSTM at their edges -------------------------------------------------------------------------


@dtypes
def test_options_that_change_nothing(dtype):
    """Bounds that nothing reaches and a peephole of zeros: the bits of the plain call."""
    call, gradients = drawn(LSTM, {}, dtype, N=3, T=5, D=4, H=17)
    plain = run(LSTM, fastgate, call, gradients)
    for options in (
        {"candidate": "tanh", "coupled": False, "cell_clip": None, "preact_clip": None, "peephole": None},
        {"cell_clip": np.inf, "preact_clip": np.inf}, {"cell_clip": 1e300}, {"preact_clip": 100}, {"cell_clip": np.float32(50)},
        {"coupled": np.False_, "cell_clip": 1 << 70},
    ):  # fmt: skip
        assert_same(run(LSTM, fastgate, call, gradients, **options), plain)
        given = {name: a for name, a in options.items() if name != "peephole"}
        for name, a in run(LSTM, reference, call, gradients, **given).items():
            np.testing.assert_allclose(a, plain[name], rtol=0, atol=32 * np.finfo(dtype).eps * max(1, np.abs(a).max()))
    zeros = run(LSTM, fastgate, call | {"peephole": np.zeros(3 * 17, dtype)}, gradients)
    assert zeros.pop("dpeephole").all()
    assert_same(zeros, plain)


@every_module
@dtypes
def test_a_gradient_passes_at_the_bound_itself(module, dtype):
    """As in clamp of PyTorch: c = 0.5 exactly passes, what is further out does not."""
    nothing, c0 = np.zeros((4, 1), dtype), np.array([[0.5], [-0.5], [0.75], [-0.5625]], dtype)
    b = np.array([0, 1000, 0, 0], dtype)  # i = 1/2, f = 1, g = 0: c = c0
    for peephole in (None, np.zeros(3, dtype)):
        call = {"Wx": np.zeros((1, 4), dtype), "Wh": np.zeros((1, 4), dtype), "b": b, "peephole": peephole, "cell_clip": 0.5}
        found = module.lstm_step_forward(nothing, nothing, c0, **call)
        np.testing.assert_array_equal(found.c_next, np.clip(c0, -0.5, 0.5))
        dc_prev = module.lstm_step_backward(None, np.ones((4, 1), dtype), found.cache).dc_prev
        np.testing.assert_array_equal(dc_prev, [[1], [1], [0], [0]])

    x = np.array([[1.0], [-1.0], [1.25], [-3.0]], dtype)
    for candidate in ("tanh", "sigmoid"):
        call = {"Wx": np.ones((1, 4), dtype), "Wh": np.zeros((1, 4), dtype), "preact_clip": 1, "candidate": candidate}
        found = module.lstm_step_forward(x, None, c0, **call)
        ones = np.ones((4, 1), dtype)
        dx = module.lstm_step_backward(ones, ones, found.cache).dx
        np.testing.assert_array_equal(dx != 0, [[True], [True], [False], [False]])


@every_module
@dtypes
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("sign", [-1, 1])
def test_no_gradient_of_a_clipped_gate_however_shut(module, dtype, coupled, sign):
    """f = 0 exactly, and c_prev infinite: the gradient of a_f is 0, not 0 · inf."""
    one = np.ones((1, 1), dtype)
    call = {"x": one, "h_prev": one, "c_prev": one * -sign * np.inf, "Wx": np.ones((1, 4), dtype), "Wh": np.ones((1, 4), dtype)}
    call |= {"b": np.zeros(4, dtype), "peephole": np.array([1, sign, 0], dtype)}
    options = {"coupled": coupled, "preact_clip": 2000}
    with np.errstate(invalid="ignore"):  # c = 0 · inf
        found = run(LSTM, module, call, {"dh_next": one, "dc_next": one}, step=True, **options)
    assert found["db"][1] == found["dWx"][0, 1] == found["dWh"][0, 1] == 0


@every_module
def test_coupled_gates_do_not_use_the_weights_of_i(module):
    call, gradients = drawn(PEEPHOLE, {}, N=3, T=4, D=5, H=9)
    found = run(PEEPHOLE, module, call, gradients, coupled=True)
    other = {name: a.copy() for name, a in call.items()}
    for name in ("Wx", "Wh", "b", "bh", "peephole"):
        assert not found[f"d{name}"][..., :9].any()
        assert found[f"d{name}"][..., 9:].all()
        other[name][..., :9] = 7
    again = run(PEEPHOLE, module, other, gradients, coupled=True)
    for name in found:
        np.testing.assert_allclose(again[name], found[name], rtol=0, atol=1e-14, err_msg=name)
    order = run(PEEPHOLE, module, call | {n: permuted(call[n], "ifgo", "gofi") for n in ("Wx", "Wh", "b", "bh")},
                gradients, coupled=True, gate_order="gofi")  # fmt: skip
    assert not order["dWx"][:, 27:].any()
    np.testing.assert_allclose(order["dpeephole"], found["dpeephole"], rtol=0, atol=1e-14)


@every_module
def test_states_stay_within_the_bound(module):
    rng = np.random.default_rng(3)
    call = random_call(PEEPHOLE, rng, N=5, T=40, D=3, H=17, dtype=np.float32)
    call["b"][17:34] = 5  # c grows
    call["c0"] *= 100
    found = run(PEEPHOLE, module, call, upstream(PEEPHOLE, rng, call), cell_clip=3)
    assert np.abs(found["c_T"]).max() == 3
    assert (np.abs(found["h"]) <= np.tanh(3)).all()
    assert all(np.isfinite(a).all() for a in found.values())


# --- the peephole as an argument ---------------------------------------------------------------------------------


@dtypes
@each("layout", LAYOUTS)
def test_a_peephole_in_any_layout(dtype, layout):
    call, gradients = drawn(PEEPHOLE, {}, dtype, N=3, T=4, D=5, H=17)
    expected = run(PEEPHOLE, fastgate, call, gradients)
    laid = call | {"peephole": lay_out(layout, call["peephole"])}
    before = digest(laid)
    assert_same(run(PEEPHOLE, fastgate, laid, gradients), expected)
    assert digest(laid) == before
    prepared, left = prepare(PEEPHOLE, laid)
    np.testing.assert_array_equal(prepared.forward(**left).h, expected["h"])
    np.testing.assert_array_equal(prepared.peephole, call["peephole"])
    if layout not in ("bytes_swapped", "read_only"):
        cache = fastgate.lstm_forward(**call).cache
        out = lay_out(layout, np.full(51, np.nan, dtype))
        assert fastgate.lstm_backward(cache=cache, **gradients, out={"dpeephole": out}).dpeephole is out
        np.testing.assert_array_equal(out, expected["dpeephole"])


@every_module
def test_a_gradient_in_the_place_of_its_peephole(module):
    """As if it had been copied first; so has forward, where an output lies upon it."""
    call, gradients = drawn(PEEPHOLE, {}, N=3, T=300, D=5, H=9)  # more rows than one piece of weight gradients
    expected = run(PEEPHOLE, module, call, gradients)
    own = call | {"peephole": call["peephole"].copy()}
    cache = module.lstm_forward(**own).cache
    found = module.lstm_backward(cache=cache, **gradients, out={"dpeephole": own["peephole"]})
    assert found.dpeephole is own["peephole"]
    assert_same(found._asdict(), expected, found._fields)
    own = call | {"peephole": call["peephole"].copy()}
    found = module.lstm_forward(**own, out={"h_T": own["peephole"].reshape(3, 9)})
    np.testing.assert_array_equal(own["peephole"].reshape(3, 9), expected["h_T"])
    back = module.lstm_backward(cache=found.cache, **gradients)
    assert_same(back._asdict(), expected, back._fields)


def test_a_peephole_that_is_updated():
    call, _ = drawn(PEEPHOLE, {}, np.float32, step=True, N=2, D=5, H=9)
    prepared, left = prepare(PEEPHOLE, call, cell_clip=0.5, coupled=True)
    assert "peephole" in repr(prepared)
    assert "cell_clip=0.5" in repr(prepared)
    weights = {name: call[name] for name in ("Wx", "Wh", "b", "bh")}
    for peephole in (None, -call["peephole"]):
        prepared.update(**weights, peephole=peephole)
        expected = fastgate.lstm_step_forward(**call | {"peephole": peephole}, cell_clip=0.5, coupled=True)
        assert_same(dict(zip("hc", prepared.step(**left), strict=True)), dict(zip("hc", expected[:2], strict=True)))
    assert prepared.nbytes > fastgate.LSTMCell(**weights).nbytes
    with pytest.raises(ValueError, match=r"^peephole: expected \(3H,\) = \(27,\), got \(9,\)"):
        prepared.update(**weights, peephole=call["peephole"][:9])
    np.testing.assert_array_equal(prepared.peephole, -call["peephole"])


# --- errors --------------------------------------------------------------------------------------------------------

ERRORS = [
    ({"candidate": "relu"}, ValueError, 'candidate: expected "tanh" or "sigmoid", got "relu"'),
    ({"candidate": None}, TypeError, 'candidate: expected "tanh" or "sigmoid", got None'),
    ({"candidate": np.array(["tanh"])}, TypeError, 'candidate: expected "tanh" or "sigmoid", got ndarray'),
    ({"coupled": 1}, TypeError, "coupled: expected True or False, got int 1"),
    ({"coupled": "yes"}, TypeError, "coupled: expected True or False, got str 'yes'"),
    ({"cell_clip": 0}, ValueError, "cell_clip: expected a number > 0, got 0.0"),
    ({"cell_clip": -1.5}, ValueError, "cell_clip: expected a number > 0, got -1.5"),
    ({"cell_clip": np.nan}, ValueError, "cell_clip: expected a number > 0, got nan"),
    ({"cell_clip": "3"}, TypeError, "cell_clip: expected a number > 0, got str '3'"),
    ({"preact_clip": True}, TypeError, "preact_clip: expected a number > 0, got bool True"),
    ({"grad_clip": 0.0}, ValueError, "grad_clip: expected a number > 0, got 0.0"),
    ({"grad_clip": "1"}, TypeError, "grad_clip: expected a number > 0, got str '1'"),
    ({"preact_clip": [1.0]}, TypeError, "preact_clip: expected a number > 0, got list"),
    ({"preact_clip": 10**400}, ValueError, "preact_clip: expected a number > 0 that fits a float, got a larger one"),
    ({"peephole": np.ones(20)}, ValueError, "peephole: expected (3H,) = (21,), got (20,)"),
    ({"peephole": np.ones((3, 7))}, ValueError, "peephole: expected (3H,) = (21,), got (3, 7); pass peephole.ravel()?"),
    ({"peephole": np.ones(28)}, ValueError, "peephole: expected (3H,) = (21,), got (28,)"),
    ({"peephole": np.ones(21, np.float32)}, TypeError,
     "peephole: expected float64 as x, got float32; pass peephole.astype(np.float64)"),
    ({"peephole": 1.0}, ValueError, "peephole: expected (3H,) = (21,), got ()"),
    ({"peephole": "p"}, TypeError, "peephole: expected float64 as x, got str"),
]  # fmt: skip


@every_module
@pytest.mark.parametrize(("wrong", "error", "message"), ERRORS, ids=[message for _, _, message in ERRORS])
def test_errors(module, wrong, error, message):
    rng = np.random.default_rng(0)
    sequence, step = (random_call(LSTM, rng, N=3, T=4, D=5, H=7, step=step) for step in (False, True))
    flat = sequence | {"x": sequence["x"].reshape(12, 5), "offsets": [0, 4, 8, 12]}
    for call, name in ((sequence, "forward"), (step, "step_forward"), (flat, "ragged_forward")):
        call |= wrong
        before = digest(call)
        with pytest.raises(error) as caught:
            LSTM.function(module, name)(**call)
        assert str(caught.value) == message
        assert digest(call) == before
    if module is fastgate:
        weights = {name: a for name, a in step.items() if name in ("Wx", "Wh", "b", "bh")}
        with pytest.raises(error) as caught:
            fastgate.LSTMCell(**weights, **wrong)
        assert str(caught.value) == message.replace("as x", "as Wx")


WORDS = {"update": '"old" or "new"', "candidate": '"tanh" or "sigmoid"', "grad_clip": "a number > 0"}
WRONG = [("update", value) for value in ("OLD", "keep", None, 1, ["old"], {"new"})]
WRONG += [("candidate", value) for value in ("relu", "Tanh", None, 0, ["tanh"])]
WRONG += [("grad_clip", value) for value in (0, -1.0, np.nan, "1", True, [1.0], 10**400)]


@every_module
@pytest.mark.parametrize(("option", "value"), WRONG)
def test_errors_of_gru(module, option, value):
    W, calls, wrong = np.ones((2, 6)), [], {option: value}
    calls.append(lambda: module.gru_forward(np.ones((1, 1, 2)), None, W, W, **wrong))
    calls.append(lambda: module.gru_step_forward(np.ones((1, 2)), None, W, W, **wrong))
    calls.append(lambda: module.gru_ragged_forward(np.ones((1, 2)), None, W, W, offsets=[0, 1], **wrong))
    if module is fastgate:
        calls.append(lambda: fastgate.GRUCell(W, W, **wrong))
    for call in calls:
        with pytest.raises((ValueError, TypeError), match=f"^{option}: expected {WORDS[option]}"):
            call()
