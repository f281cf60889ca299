"""The projection Wr of lstm: widths of h above and below H, torch.nn.LSTM(proj_size=), and calls that do not fit.

What holds of every variant of a cell is tested with the others (tests/support.py)."""

import itertools
import re

import numpy as np
import pytest
from support import PROJECTED, assert_same, digest, every_module, prepare, run, upstream, values

import fastgate
from fastgate import _kernels, reference


def drawn(N, T, D, H, P, dtype=np.float64, seed=0):
    """(arguments, upstream gradients) with a P that support.random_call would not choose."""
    rng = np.random.default_rng([seed, N, T, D, H, P])
    call = {
        "x": values(rng, (N, T, D), dtype), "h0": values(rng, (N, P), dtype), "c0": values(rng, (N, H), dtype),
        "Wx": values(rng, (D, 4 * H), dtype, 1 / np.sqrt(D + 1)), "Wh": values(rng, (P, 4 * H), dtype, 1 / np.sqrt(P + 1)),
        "b": values(rng, 4 * H, dtype, 0.5), "Wr": values(rng, (H, P), dtype, 1 / np.sqrt(H + 1)),
    }  # fmt: skip
    return call, upstream(PROJECTED, rng, call)


SIZES = [
    (N, T, 6, H, P)
    for (N, T), (H, P) in zip(
        itertools.cycle([(1, 1), (1, 7), (3, 2), (9, 4), (26, 5), (70, 3)]),
        itertools.product((1, 8, 15, 33, 64), (1, 7, 16, 31, 130)), strict=False,
    )
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 3])
def test_h_narrower_and_wider_than_c(threads):
    _kernels._share_everything(threads > 1)
    _kernels.set_num_threads(threads)
    try:
        for sizes in SIZES:
            call, gradients = drawn(*sizes)
            lengths = np.random.default_rng(sizes).integers(0, sizes[1] + 1, sizes[0])
            for keywords in ({}, {"lengths": lengths, "reverse": True, "gate_order": "gofi"}):
                found, exact = (run(PROJECTED, module, call, gradients, **keywords) for module in (fastgate, reference))
                for name, a in exact.items():
                    bound = 1e-12 * max(np.abs(a).max(), 1e-3)
                    np.testing.assert_allclose(found[name], a, rtol=0, atol=bound, err_msg=f"{sizes} {name}")
                prepared, left = prepare(PROJECTED, call, **{k: v for k, v in keywords.items() if k == "gate_order"})
                keywords.pop("gate_order", None)
                assert_same(prepared.forward(**left, **keywords)._asdict(), found, ["h", "h_T", "c_T"])
    finally:
        _kernels._share_everything(False)
        _kernels.set_num_threads(1)


@every_module
def test_widths_of_zero(module):
    """Without h the gates see x alone; without units h is 0."""
    for (H, P), T in itertools.product(((5, 0), (0, 5), (0, 0)), (0, 3)):
        call, gradients = drawn(2, T, 4, H, P)
        found = run(PROJECTED, module, call, gradients)
        assert found["h"].shape == (2, T, P)
        assert found["dWr"].shape == (H, P)
        assert found["dWh"].shape == (P, 4 * H)
        assert not found["h"].any()
        assert H > 0 or not found["dx"].any()
        if H > 0:
            exact = run(PROJECTED, reference, call, gradients)
            np.testing.assert_allclose(found["c_T"], exact["c_T"], rtol=1e-12, atol=0)
        np.testing.assert_array_equal(found["h_T"], 0 if T else call["h0"])


@pytest.mark.beside
def test_equals_pytorch():
    """nn.LSTM(proj_size=): outputs and all gradients on random data, in float64."""
    torch = pytest.importorskip("torch")
    call, gradients = drawn(5, 9, 6, 12, 7)
    rnn = torch.nn.LSTM(6, 12, proj_size=7, batch_first=True, bias=False, dtype=torch.float64)
    call.pop("b")
    tensors = {name: torch.from_numpy(a.copy()).requires_grad_() for name, a in call.items()}
    owned = {"weight_ih_l0": "Wx", "weight_hh_l0": "Wh", "weight_hr_l0": "Wr"}
    with torch.no_grad():
        for theirs, ours in owned.items():
            getattr(rnn, theirs).copy_(torch.from_numpy(call[ours].T.copy()))
    h, (h_T, c_T) = rnn(tensors["x"], (tensors["h0"][None], tensors["c0"][None]))
    given = [torch.from_numpy(gradients[name]) for name in ("dh", "dh_T", "dc_T")]
    torch.autograd.backward([h, h_T[0], c_T[0]], given)
    found = run(PROJECTED, fastgate, call, gradients)
    expected = {"h": h, "h_T": h_T[0], "c_T": c_T[0]} | {f"d{name}": tensors[name].grad for name in ("x", "h0", "c0")}
    expected |= {f"d{ours}": getattr(rnn, theirs).grad.T for theirs, ours in owned.items()}
    for name, a in expected.items():
        np.testing.assert_allclose(found[name], a.detach().numpy(), rtol=0, atol=1e-12, err_msg=name)


@every_module
def test_what_does_not_fit(module):
    call, gradients = drawn(3, 4, 5, 7, 4)
    refused = [
        ({"Wr": call["Wr"].T}, ValueError, "Wr: expected (H, P) = (7, 4), got (4, 7); pass Wr.T?"),
        ({"Wr": call["Wr"][:, :3]}, ValueError, "Wr: expected (H, P) = (7, 4), got (7, 3)"),
        ({"Wr": call["Wr"][0]}, ValueError, "Wr: expected (H, P) = (7, 4), got (4,)"),
        ({"Wr": call["Wr"].astype(np.float32)}, TypeError, "Wr: expected float64 as x, got float32; pass Wr"),
        ({"Wh": np.ones((7, 28))}, ValueError, "Wh: expected (P, 4H) = (4, 28), got (7, 28)"),
        ({"h0": np.ones((3, 7))}, ValueError, "h0: expected (N, P) or (P,) = (3, 4) or (4,), got (3, 7)"),
        ({"c0": np.ones((3, 4))}, ValueError, "c0: expected (N, H) or (H,) = (3, 7) or (7,), got (3, 4)"),
        ({"out": np.ones((3, 4, 7))}, ValueError, "out: expected (3, 4, 4), got (3, 4, 7)"),
        ({"period": 2}, ValueError, "period: expected None beside Wr, got one"),
    ]
    before = digest(call)
    for bad, error, words in refused:
        with pytest.raises(error, match=f"^{re.escape(words)}"):
            module.lstm_forward(**call | bad)
    cache = module.lstm_forward(**call).cache
    for name, bad, words in (
        ("dh", np.ones((3, 4, 7)), "dh: expected (N, T, P) = (3, 4, 4), got (3, 4, 7)"),
        ("dh_T", np.ones((3, 7)), "dh_T: expected (N, P) = (3, 4), got (3, 7)"),
        ("dc_T", np.ones((3, 4)), "dc_T: expected (N, H) = (3, 7), got (3, 4)"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
            module.lstm_backward(**gradients | {name: bad}, cache=cache)
    assert digest(call) == before


def test_a_prepared_cell():
    call, _ = drawn(3, 4, 5, 7, 4)
    prepared, left = prepare(PROJECTED, call)
    assert (prepared.hidden_size, prepared.proj_size, prepared.Wr.shape) == (7, 4, (7, 4))
    assert not prepared.Wr.flags.writeable
    plain = fastgate.LSTMCell(call["Wx"], np.ones((7, 28)))
    assert plain.Wr is None
    assert plain.proj_size is None
    with pytest.raises(ValueError, match=r"^Wr: expected \(H, P\) = \(7, 4\) as before, got None"):
        prepared.update(call["Wx"], call["Wh"])
    with pytest.raises(ValueError, match=r"^Wr: expected None as before, got an array"):
        plain.update(call["Wx"], call["Wh"], Wr=call["Wr"])
    with pytest.raises(ValueError, match=r"^period: expected None beside Wr, got one"):
        fastgate.LSTMCell(call["Wx"], call["Wh"], Wr=call["Wr"], period=2)
    h, c = prepared.step(left["x"][:, 0], left["h0"], left["c0"])
    step = fastgate.lstm_step_forward(call["x"][:, 0], call["h0"], call["c0"], call["Wx"], call["Wh"], call["b"], Wr=call["Wr"])
    assert_same({"h_next": h, "c_next": c}, step._asdict(), ["h_next", "c_next"])
