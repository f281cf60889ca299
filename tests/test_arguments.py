"""The documented words for each kind of error, and what the judge lets pass and how."""

import collections

import numpy as np
import pytest
from support import CELLS, digest, modules, random_call, upstream, values

import fastgate
from fastgate import _arguments

rng = np.random.default_rng(0)
N, T, D, H, K = 2, 3, 4, 5, 6
LSTM = {
    **{"x": values(rng, (N, T, D), np.float32), "h0": values(rng, (N, H), np.float32)},
    **{"c0": values(rng, (N, H), np.float32), "Wx": values(rng, (D, 4 * H), np.float32)},
    **{"Wh": values(rng, (H, 4 * H), np.float32), "b": values(rng, (4 * H,), np.float32)},
}
STEP = {"x": LSTM["x"][:, 0], "h_prev": LSTM["h0"], "c_prev": LSTM["c0"]} | {n: LSTM[n] for n in ("Wx", "Wh", "b")}
GRU = {n: LSTM[n] for n in ("x", "h0")} | {n: LSTM[n][..., : 3 * H].copy() for n in ("Wx", "Wh", "b")}
RNN = {n: LSTM[n] for n in ("x", "h0")} | {n: LSTM[n][..., :H].copy() for n in ("Wx", "Wh", "b")}
LOSS = {"o": values(rng, (N, T, K), np.float32), "y": rng.integers(0, K, (N, T))}
F32, F64 = np.float32, np.float64


def zeros(*shape, dtype=F32):
    return np.zeros(shape, dtype)


def read_only(array):
    array.flags.writeable = False
    return array


def folded(*shape):
    return np.lib.stride_tricks.as_strided(zeros(1), shape, (0,) * len(shape), writeable=True)


class Unwilling:
    def __array__(self, *_, **__):
        raise RuntimeError("no")


shared = zeros(N, 2 * H)
FLOATS = "{floats}"
ALONE = "h0: expected (N, H) or (H,) = (3, 5) or (5,), got (2, 5)"
# the function, what differs from a good call, the error, its whole message
TABLE = [
    # ranks and shapes
    ("lstm_forward", {"x": zeros(T, D)}, ValueError, "x: expected (N, T, D), got (3, 4); pass x[None]?"),
    ("lstm_forward", {"x": zeros(D)}, ValueError, "x: expected (N, T, D), got (4,)"),
    (
        "lstm_step_forward",
        {"x": zeros(N, T, D)},
        ValueError,
        "x: expected (N, D), got (2, 3, 4); pass x[:, t]?",
    ),
    (
        "lstm_forward",
        {"Wx": LSTM["Wx"].T},
        ValueError,
        "Wx: expected (D, 4H) = (4, 20), got (20, 4); pass Wx.T?",
    ),
    (
        "lstm_forward",
        {"Wh": LSTM["Wh"].T},
        ValueError,
        "Wh: expected (H, 4H) = (5, 20), got (20, 5); pass Wh.T?",
    ),
    (
        "lstm_forward",
        {"Wx": LSTM["Wx"].T, "Wh": LSTM["Wh"].T, "h0": None, "c0": None, "b": None},
        ValueError,
        "Wx: expected (D, 4H) = (4, 20), got (20, 4); pass Wx.T?",
    ),
    ("gru_forward", {"Wh": zeros(H, 4 * H)}, ValueError, "Wh: expected (H, 3H) = (5, 15), got (5, 20)"),
    ("gru_forward", {"Wh": zeros(15)}, ValueError, "Wh: expected (H, 3H) = (5, 15), got (15,)"),
    ("rnn_forward", {"Wh": zeros(H, H + 1)}, ValueError, "Wh: expected (H, H) = (5, 5), got (5, 6)"),
    ("rnn_forward", {"Wx": zeros(D + 1, H)}, ValueError, "Wx: expected (D, H) = (4, 5), got (5, 5)"),
    ("lstm_forward", {"x": zeros(N, T, 9)}, ValueError, "Wx: expected (D, 4H) = (9, 20), got (4, 20)"),
    (
        "lstm_forward",
        {"h0": zeros(N + 1, H)},
        ValueError,
        "h0: expected (N, H) or (H,) = (2, 5) or (5,), got (3, 5)",
    ),
    (
        "lstm_forward",
        {"c0": zeros(H, N)},
        ValueError,
        "c0: expected (N, H) or (H,) = (2, 5) or (5,), got (5, 2); pass c0.T?",
    ),
    (
        "lstm_forward",
        {"h0": zeros(1, N, H)},
        ValueError,
        "h0: expected (N, H) or (H,) = (2, 5) or (5,), got (1, 2, 5); pass h0[0]?",
    ),
    (
        "lstm_forward",
        {"x": zeros(T, N, D)},
        ValueError,
        "h0: expected (N, H) or (H,) = (3, 5) or (5,), got (2, 5), as many rows as x (N, T, D) = (3, 2, 4) has steps; is x "
        "time-major? pass x.swapaxes(0, 1)",
    ),
    (
        "lstm_forward",
        {"x": zeros(T, N, D), "h0": zeros(H), "lengths": [3, 1]},
        ValueError,
        "c0: expected (N, H) or (H,) = (3, 5) or (5,), got (2, 5), as many rows as x (N, T, D) = (3, 2, 4) has steps; is x "
        "time-major? pass x.swapaxes(0, 1)",
    ),
    *(
        (
            "lstm_forward",  # the plain way, and that of words
            {"x": zeros(T, N, D), "h0": None, "c0": None, "lengths": [3, 1], "return_sequences": sequences},
            ValueError,
            "lengths: expected (N,) = (3,), got (2,), as many rows as x (N, T, D) = (3, 2, 4) has steps; is x time-major? pass "
            "x.swapaxes(0, 1)",
        )
        for sequences in (True, np.True_)
    ),
    # h0 has as many rows as x has steps; what comes with it has not
    ("lstm_forward", {"x": zeros(T, N, D), "c0": zeros(T, H)}, ValueError, ALONE),
    ("lstm_forward", {"x": zeros(T, N, D), "c0": None, "lengths": [2, 2, 1]}, ValueError, ALONE),
    (
        "lstm_step_forward",
        {"c_prev": zeros(N, H + 1)},
        ValueError,
        "c_prev: expected (N, H) or (H,) = (2, 5) or (5,), got (2, 6)",
    ),
    (
        "lstm_forward",  # without c0, of which all others stand in the place of the one before
        {"c0": LSTM["Wx"], "Wx": LSTM["Wh"], "Wh": LSTM["b"], "b": None},
        ValueError,
        "Wh: expected (H, 4H), got (20,); pass (x, h0, c0, Wx, Wh, b), c0=None for zeros?",
    ),
    ("lstm_forward", {"b": zeros(5)}, ValueError, "b: expected (4H,) = (20,), got (5,)"),
    (
        "lstm_forward",
        {"b": zeros(20, 1)},
        ValueError,
        "b: expected (4H,) = (20,), got (20, 1); pass b.ravel()?",
    ),
    (
        "lstm_forward",
        {"b": zeros(2, 20)},
        ValueError,
        "b: expected (4H,) = (20,), got (2, 20); pass b[0] and bh=b[1]?",
    ),
    ("lstm_forward", {"bh": zeros(21)}, ValueError, "bh: expected (4H,) = (20,), got (21,)"),
    # dtypes and kinds
    (
        "lstm_forward",
        {"Wx": LSTM["Wx"].astype(F64)},
        TypeError,
        "Wx: expected float32 as x, got float64; pass Wx.astype(np.float32)",
    ),
    (
        "lstm_forward",
        {"x": LSTM["x"].astype(F64)},
        TypeError,
        "x: expected float32 as all others, got float64; pass x.astype(np.float32)",
    ),
    (
        "lstm_forward",
        {"x": LSTM["x"].astype(F64), "h0": LSTM["h0"].astype(F64), "c0": None},
        TypeError,
        "Wx: expected float64 as x, got float32; pass Wx.astype(np.float64)",
    ),
    (
        "gru_forward",
        {"x": GRU["x"].astype(">f8"), "h0": None, "b": None},
        TypeError,
        "x: expected float32 as all others, got float64 (>f8); pass x.astype(np.float32)",
    ),
    (
        "lstm_step_forward",
        {"h_prev": zeros(N, H, dtype=int)},
        TypeError,
        "h_prev: expected float32 as x, got int64; pass h_prev.astype(np.float32)",
    ),
    (
        "gru_forward",
        {"x": zeros(N, T, D, dtype=int)},
        TypeError,
        f"x: expected {FLOATS}, got int64; pass x.astype(np.float64)",
    ),
    (
        "gru_forward",
        {"x": zeros(N, T, D, dtype=np.float16)},
        TypeError,
        f"x: expected {FLOATS}, got float16; pass x.astype(np.float32)",
    ),
    (
        "gru_forward",
        {"Wh": zeros(H, 3 * H, dtype=np.complex64)},
        TypeError,
        "Wh: expected float32 as x, got complex64; pass Wh.real.astype(np.float32)",
    ),
    (
        "gru_forward",
        {"b": [1.0] * 15},
        TypeError,
        "b: expected float32 as x, got float64; pass np.asarray(b, np.float32)",
    ),
    (
        "gru_forward",
        {"b": GRU["b"].astype(">f8")},
        TypeError,
        "b: expected float32 as x, got float64 (>f8); pass b.astype(np.float32)",
    ),
    ("rnn_forward", {"x": "text"}, TypeError, f"x: expected {FLOATS}, got str"),
    ("rnn_forward", {"Wx": None}, TypeError, "Wx: expected an array of float32 as x, got None"),
    (
        "rnn_forward",
        {"Wx": Unwilling()},
        TypeError,
        "Wx: expected an array of float32 as x, got Unwilling that NumPy cannot convert: no",
    ),
    (
        "rnn_forward",
        {"x": np.ma.masked_array(RNN["x"])},
        TypeError,
        "x: expected an array, got a masked array, whose mask would be lost; pass x.filled(0)",
    ),
    # lengths
    ("lstm_forward", {"lengths": [3, 4]}, ValueError, "lengths: expected 0..T = 0..3, got 4 in row 1"),
    ("lstm_forward", {"lengths": [-1, 3]}, ValueError, "lengths: expected 0..T = 0..3, got -1 in row 0"),
    ("lstm_forward", {"lengths": [3, 3, 3]}, ValueError, "lengths: expected (N,) = (2,), got (3,)"),
    (
        "lstm_forward",
        {"lengths": np.array([2**64 - 1, 0], np.uint64)},
        ValueError,
        "lengths: expected 0..T = 0..3, got 18446744073709551615 in row 0",
    ),
    (
        "lstm_forward",
        {"lengths": np.array([1.0, 2.0])},
        TypeError,
        "lengths: expected integers, got float64; pass lengths.astype(np.int64)",
    ),
    (
        "lstm_forward",
        {"lengths": [True, False]},
        TypeError,
        "lengths: expected integers, got bool; pass np.asarray(lengths, np.int64)",
    ),
    # options
    (
        "lstm_forward",
        {"gate_order": "ifog "},
        ValueError,
        'gate_order: expected a permutation of "ifgo", got "ifog "',
    ),
    (
        "gru_step_forward",
        {"gate_order": "rz"},
        ValueError,
        'gate_order: expected a permutation of "rzn", got "rz"',
    ),
    ("gru_forward", {"gate_order": 3}, TypeError, 'gate_order: expected a permutation of "rzn", got int 3'),
    (
        "rnn_forward",
        {"activation": "tahn"},
        ValueError,
        'activation: expected "tanh", "relu", "sigmoid" or "identity", got "tahn"',
    ),
    ("gru_forward", {"reset": True}, TypeError, 'reset: expected "after" or "before", got bool True'),
    ("gru_forward", {"reset": "none"}, ValueError, 'reset: expected "after" or "before", got "none"'),
    ("lstm_forward", {"reverse": 1}, TypeError, "reverse: expected True or False, got int 1"),
    ("lstm_forward", {"training": None}, TypeError, "training: expected True or False, got None"),
    (
        "lstm_forward",
        {"return_sequences": "yes"},
        TypeError,
        "return_sequences: expected True or False, got str 'yes'",
    ),
    # out
    ("lstm_forward", {"out": zeros(T, N, H)}, ValueError, "out: expected (2, 3, 5), got (3, 2, 5)"),
    ("lstm_forward", {"out": {"h_T": zeros(N)}}, ValueError, 'out["h_T"]: expected (2, 5), got (2,)'),
    (
        "lstm_forward",
        {"out": {"h_n": zeros(N, H)}},
        ValueError,
        'out: expected names among "h", "h_T" and "c_T", got \'h_n\'',
    ),
    (
        "lstm_forward",
        {"out": zeros(N, T, H, dtype=F64)},
        TypeError,
        "out: expected float32 as x, got float64; pass np.empty((2, 3, 5), np.float32)",
    ),
    (
        "lstm_forward",
        {"out": zeros(N, T, H, dtype=np.dtype(F32).newbyteorder())},
        TypeError,
        "out: expected float32 in native byte order as x, got float32 (>f4); pass np.empty((2, 3, 5), np.float32)",
    ),
    (
        "lstm_forward",
        {"out": [zeros(N, T, H)]},
        TypeError,
        "out: expected an array or a dict of arrays, got list",
    ),
    ("lstm_forward", {"out": {"h": [1.0]}}, TypeError, 'out["h"]: expected an array, got list'),
    (
        "lstm_forward",
        {"out": read_only(zeros(N, T, H))},
        ValueError,
        "out: expected a writeable array, got a read-only one",
    ),
    (
        "lstm_forward",
        {"out": folded(N, T, H)},
        ValueError,
        "out: expected an array whose elements do not share memory",
    ),
    (
        "lstm_forward",
        {"out": {"h_T": shared[:, :H], "c_T": shared[:, 1 : H + 1]}},
        ValueError,
        'out["c_T"]: shares memory with out["h_T"]',
    ),
    (
        "lstm_forward",
        {"out": zeros(N, T, H), "return_sequences": False},
        ValueError,
        "out: this call does not return h",
    ),
    # sizes
    (
        "lstm_forward",
        {"x": np.broadcast_to(F32(1), (1, 2**58, D)), "h0": None, "c0": None},
        OverflowError,
        "x, Wx, Wh: N, T, D, H = 1, 288230376151711744, 4, 5 is too large: *",
    ),
    (
        "lstm_forward",
        {"x": np.broadcast_to(F32(1), (N, 2**48, D))},
        MemoryError,
        "x, Wx, Wh: N, T, D, H = 2, 281474976710656, 4, 5 needs *",
    ),
    (
        "lstm_forward",
        {"x": zeros(2**48, 0, D), "h0": None, "c0": None},
        MemoryError,
        "x, Wx, Wh: N, T, D, H = 281474976710656, 0, 4, 5 needs *",
    ),
    (
        "lstm_forward",
        {"x": zeros(1, 2**48, 0), "h0": None, "c0": None, "Wx": zeros(0, 4 * H)}
        | {"training": False, "return_sequences": False},
        MemoryError,
        "x, Wx, Wh: N, T, D, H = 1, 281474976710656, 0, 5 needs *",
    ),
    # clipping
    (
        "clip_grad_norm",
        {"grads": zeros(3)},
        TypeError,
        "grads: expected a list, tuple or dict of arrays, got one array; pass [grads]",
    ),
    (
        "clip_grad_norm",
        {"grads": 1.5},
        TypeError,
        "grads: expected a list, tuple or dict of arrays, got float 1.5",
    ),
    ("clip_grad_norm", {"grads": [zeros(3), 1.0]}, TypeError, "grads[1]: expected an array, got float 1.0"),
    (
        "clip_grad_value",
        {"grads": {"Wx": zeros(3, dtype=int)}},
        TypeError,
        f"grads['Wx']: expected {FLOATS}, got int64; it is written into, so cast it where it is made",
    ),
    (
        "clip_norm_each",
        {"grads": [read_only(zeros(3))]},
        ValueError,
        "grads[0]: expected a writeable array, got a read-only one",
    ),
    (
        "clip_norm_each",
        {"grads": [shared[0], zeros(2), shared[:, 3]]},
        ValueError,
        "grads[2]: shares memory with grads[0]; pass each array once",
    ),
    (
        "clip_grad_norm",
        {"grads": [folded(3, 2)]},
        ValueError,
        "grads[0]: expected an array whose elements do not share memory",
    ),
    ("clip_grad_norm", {"max_norm": -1}, ValueError, "max_norm: expected a number >= 0, got -1.0"),
    ("clip_grad_norm", {"max_norm": np.nan}, ValueError, "max_norm: expected a number >= 0, got nan"),
    ("clip_grad_norm", {"max_norm": "1"}, TypeError, "max_norm: expected a number >= 0, got str '1'"),
    ("clip_norm_each", {"max_norm": True}, TypeError, "max_norm: expected a number >= 0, got bool True"),
    ("clip_grad_norm", {"norm_type": 0}, ValueError, "norm_type: expected a number > 0, got 0.0"),
    ("clip_grad_value", {"clip_value": None}, TypeError, "clip_value: expected a number >= 0, got None"),
    (
        "clip_grad_norm",
        {"error_if_nonfinite": 1},
        TypeError,
        "error_if_nonfinite: expected True or False, got int 1",
    ),
    (
        "clip_grad_norm",
        {"grads": [np.array([1, np.inf])], "error_if_nonfinite": True},
        ValueError,
        "grads: the norm is inf; nothing was clipped (error_if_nonfinite=True)",
    ),
    # loss
    ("softmax_cross_entropy", {"o": np.float32(1)}, ValueError, "o: expected (..., K), got ()"),
    (
        "softmax_cross_entropy",
        {"o": zeros(N, T, K, dtype=int)},
        TypeError,
        f"o: expected {FLOATS}, got int64; pass o.astype(np.float64)",
    ),
    (
        "softmax_cross_entropy",
        {"y": LOSS["y"].T},
        ValueError,
        "y: expected o.shape[:-1] = (2, 3), got (3, 2)",
    ),
    (
        "softmax_cross_entropy",
        {"y": zeros(N, T, K, dtype=int)},
        ValueError,
        "y: expected o.shape[:-1] = (2, 3), got (2, 3, 6); pass y.argmax(-1)?",
    ),
    (
        "softmax_cross_entropy",
        {"y": zeros(N, T)},
        TypeError,
        "y: expected integers, got float32; pass y.astype(np.int64)",
    ),
    (
        "softmax_cross_entropy",
        {"y": np.array([[0, 1, 2], [0, 6, 0]])},
        ValueError,
        "y: expected 0..K-1 = 0..5, got 6 at (1, 1)",
    ),
    (
        "softmax_cross_entropy",
        {"y": np.array([[0, 1, -1], [0, 5, 0]]), "ignore_index": 0},
        ValueError,
        "y: expected 0..K-1 = 0..5, got -1 at (0, 2)",
    ),
    (
        "softmax_cross_entropy",
        {"mask": zeros(N, T, dtype=F64)},
        TypeError,
        "mask: expected float32 or bool as o, got float64; pass mask.astype(bool)",
    ),
    (
        "softmax_cross_entropy",
        {"mask": zeros(N)},
        ValueError,
        "mask: expected o.shape[:-1] = (2, 3), got (2,)",
    ),
    ("softmax_cross_entropy", {"mask": zeros(N, T) - 1}, ValueError, "mask: expected finite weights >= 0"),
    (
        "softmax_cross_entropy",
        {"mask": zeros(N, T) + np.nan},
        ValueError,
        "mask: expected finite weights >= 0",
    ),
    (
        "softmax_cross_entropy",
        {"ignore_index": 1.0},
        TypeError,
        "ignore_index: expected an integer or None, got float 1.0",
    ),
    (
        "softmax_cross_entropy",
        {"reduction": "avg"},
        ValueError,
        'reduction: expected "sum", "mean" or "none", got "avg"',
    ),
]
BACKWARD_TABLE = [
    (
        "lstm_backward",
        {"cache": None},
        "cache: expected the cache of lstm_forward, got None; call lstm_forward with training=True",
    ),
    (
        "lstm_backward",
        {"cache": fastgate.LSTM(D, H, rng=0).forward(np.zeros((N, T, D), np.float32)).cache},
        "cache: expected the cache of lstm_forward, got LayerCache",
    ),
    ("lstm_backward", {"cache": 3}, "cache: expected the cache of lstm_forward, got int 3"),
    (
        "lstm_backward",
        {"cache": "gru_forward"},
        "cache: expected the cache of lstm_forward, got that of gru_forward",
    ),
    (
        "lstm_backward",
        {"cache": "lstm_step_forward"},
        "cache: expected the cache of lstm_forward, got that of lstm_step_forward",
    ),
    (
        "gru_step_backward",
        {"cache": "gru_forward"},
        "cache: expected the cache of gru_step_forward, got that of gru_forward",
    ),
    (
        "lstm_backward",
        {"dh": zeros(T, N, H)},
        "dh: expected (N, T, H) = (2, 3, 5), got (3, 2, 5); pass dh.swapaxes(0, 1)?",
    ),
    ("lstm_backward", {"dh": zeros(N, H)}, "dh: expected (N, T, H) = (2, 3, 5), got (2, 5); pass dh=None, dh_T=dh?"),
    (
        "lstm_backward",
        {"dh_T": zeros(1, N, H)},
        "dh_T: expected (N, H) = (2, 5), got (1, 2, 5); pass dh_T[0]?",
    ),
    ("lstm_backward", {"dc_T": zeros(H)}, "dc_T: expected (N, H) = (2, 5), got (5,)"),
    ("lstm_step_backward", {"dc_next": zeros(N, 6)}, "dc_next: expected (N, H) = (2, 5), got (2, 6)"),
    (
        "lstm_backward",
        {"dh": zeros(N, T, H, dtype=F64)},
        "dh: expected float32 as the cache, got float64; pass dh.astype(np.float32)",
    ),
    (
        "gru_step_backward",
        {"dh_next": zeros(N, H, dtype=F64)},
        "dh_next: expected float32 as the cache, got float64; pass dh_next.astype(np.float32)",
    ),
    ("rnn_backward", {"need": "dx"}, "need: expected an iterable of names, got one str 'dx'; pass ('dx',)"),
    ("rnn_backward", {"need": 3}, "need: expected an iterable of names, got int 3"),
    ("rnn_backward", {"need": [None]}, "need: expected names, got None"),
    (
        "rnn_backward",
        {"need": ["dx", "dbh"]},
        'need: expected names among "dx", "dh0", "dWx", "dWh", "db" and "dh_total", got \'dbh\'',
    ),
    (
        "rnn_backward",
        {"out": {"dWx": zeros(D, H)}, "need": ["dx"]},
        'out["dWx"]: this call does not return dWx',
    ),
    ("rnn_backward", {"out": zeros(N, T, H)}, "out: expected (2, 3, 4), got (2, 3, 5)"),
    (
        "rnn_step_backward",
        {"out": {"dh0": zeros(N, H)}},
        'out: expected names among "dx", "dh_prev", "dWx", "dWh" and "db", got \'dh0\'',
    ),
]


def good_call(name):
    if "clip" in name:
        limit = "clip_value" if name == "clip_grad_value" else "max_norm"
        return {"grads": [values(rng, (3, 2), F32), values(rng, (4,))], limit: 1.0}
    if name == "softmax_cross_entropy":
        return dict(LOSS)
    call = dict({"lstm": LSTM, "gru": GRU, "rnn": RNN}[name.split("_")[0]])
    if "_step_" in name:
        call["x"] = STEP["x"]
        for state in ("h", "c"):
            if state + "0" in call:
                call[state + "_prev"] = call.pop(state + "0")
    return call


def refused(function, call, error, words, module):
    floats = "float32, float64 or longdouble" if "reference" in module.__name__ else "float32 or float64"
    words = words.replace(FLOATS, floats)
    before = digest(call)
    with pytest.raises(error) as caught:
        function(**call)
    message = str(caught.value)
    if "*" in words:
        parts = words.split("*")
        assert message.startswith(parts[0])
        assert all(part in message for part in parts)
    else:
        assert message == words
    assert digest(call) == before


@pytest.fixture(params=modules(), ids=lambda module: module.__name__)
def module(request):
    return request.param


@pytest.mark.parametrize(("name", "difference", "error", "words"), TABLE, ids=[f"{row[0]}-{row[3][:40]}" for row in TABLE])
def test_the_documented_words(module, name, difference, error, words):
    refused(getattr(module, name), good_call(name) | difference, error, words, module)


@pytest.mark.parametrize(("name", "difference", "words"), BACKWARD_TABLE, ids=[f"{r[0]}-{r[2][:40]}" for r in BACKWARD_TABLE])
def test_the_documented_words_of_backward(module, name, difference, words):
    def cache_of(forward):
        return getattr(module, forward)(**good_call(forward)).cache

    own = name.replace("backward", "forward")
    call = {"cache": cache_of(own)} | ({"dh_next": zeros(N, H)} if "_step_" in name else {"dh": zeros(N, T, H)})
    if name == "lstm_step_backward":
        call["dc_next"] = zeros(N, H)
    call |= difference
    if isinstance(call["cache"], str):
        call["cache"] = cache_of(call["cache"])
    error = TypeError if "float64" in words or "iterable" in words or "names, got" in words else ValueError
    refused(getattr(module, name), call, error, words, module)


def test_the_cache_of_the_other_floor_is_refused():
    if len(modules()) < 2:
        pytest.skip("the compiled part is not built")
    one, two = modules()
    for a, b in ((one, two), (two, one)):
        cache = a.rnn_forward(**good_call("rnn_forward")).cache
        with pytest.raises(ValueError, match="cache: expected the cache of rnn_forward, got that of rnn_forward in"):
            b.rnn_backward(zeros(N, T, H), cache)


# --- what passes, and how ----------------------------------------------------------------------------------------


def judge(**difference):
    call = LSTM | {"bh": None} | difference
    keywords = {"step": False, "gates": "ifgo", "has_c": True} | {n: call.pop(n) for n in list(call) if n not in NAMES}
    return _arguments.forward("lstm", *(call[n] for n in NAMES), **keywords)


NAMES = ("x", "h0", "c0", "Wx", "Wh", "b", "bh")


def address(a):
    return a.__array_interface__["data"][0]


def test_any_strides_pass_without_a_copy():
    big = values(rng, (T + 1, 2 * N, D + 3), F32)
    for x in (
        big.swapaxes(0, 1)[::2, :T, :D],
        big[::-1, :, 2:][:N, :T, :D],
        np.broadcast_to(big[0, 0, :D], (N, T, D)),
    ):
        call = judge(x=x, Wx=LSTM["Wx"][::-1], Wh=np.asfortranarray(LSTM["Wh"]), b=LSTM["b"][::-1])
        assert address(call.x) == address(x)
        assert call.x.strides == x.strides
        assert call.Wx.strides[0] < 0
        assert call.Wh.flags.f_contiguous
        assert call.b.strides[0] < 0


def test_what_kernels_cannot_read_is_copied_with_its_bits():
    x = LSTM["x"].copy()
    x.view(np.uint32)[0, 0, 0] = 0x7FA12345  # a signalling NaN
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(F32).reshape(x.shape)
    raw.view(np.uint32)[...] = x.view(np.uint32)
    swapped = x.view(np.uint32).astype(np.dtype(np.uint32).newbyteorder()).view(np.dtype(F32).newbyteorder())
    spread = np.zeros((N, T, 2 * D), np.uint32)
    spread[..., ::2] = x.view(np.uint32)
    spread = spread.view(F32)[..., ::2]
    for given in (raw, swapped, spread):
        call = judge(x=given)
        assert call.x.dtype is np.dtype(F32)
        assert call.x.flags.aligned
        assert call.x.flags.c_contiguous
        np.testing.assert_array_equal(call.x.view(np.uint32), x.view(np.uint32))
    for given in (
        np.asfortranarray(LSTM["x"]),
        LSTM["x"][..., ::-1],
        np.repeat(LSTM["x"], 2, axis=2)[..., ::2],
    ):
        call = judge(x=given)
        assert call.x.strides[-1] == 4
        np.testing.assert_array_equal(call.x, given)
    fortran = judge(x=np.asfortranarray(LSTM["x"]))
    assert fortran.x.swapaxes(0, 1).flags.c_contiguous


def test_the_record():
    call = judge(gate_order="fogi", lengths=np.array([3, 1], np.uint8))
    assert (call.cell, call.N, call.T, call.D, call.H, call.step) == ("lstm", N, T, D, H, False)
    assert call.position == (3, 0, 2, 1)
    assert call.lengths.dtype == np.int64
    assert call.lengths.tolist() == [3, 1]
    assert judge(h0=LSTM["h0"][0]).h0.shape == (H,)
    assert judge(h0=None, training=False).h0 is None
    for name in ("x", "h0", "c0", "Wx", "Wh"):
        assert getattr(call, name) is not LSTM[name]
    assert judge(lengths=[0, 3]).lengths.tolist() == [0, 3]
    assert judge(x=zeros(0, T, D), h0=None, c0=None, lengths=[]).lengths.shape == (0,)


def test_both_routes_agree():
    """The chain of comparisons and the slow way make the same record of the same plain call."""
    for cell in CELLS:
        for step in (False, True):
            call = random_call(cell, rng, step=step)
            arrays = [call.get(n) for n in ("x", *cell.states(step))] + [None] * (1 - cell.has_c)
            arrays += [call[n] for n in ("Wx", "Wh", "b", "bh")]
            keywords = {"step": step, "gates": cell.gates, "has_c": cell.has_c}
            quick = _arguments.forward(cell.name, *arrays, **keywords)
            slow = _arguments.forward(cell.name, *arrays[:-1], arrays[-1].tolist(), **keywords)
            for name, a, b in zip(quick._fields, quick, slow, strict=True):
                if isinstance(a, np.ndarray):
                    np.testing.assert_array_equal(a, b)
                    assert a.dtype == b.dtype
                else:
                    assert a == b, name
            gradients = list(upstream(cell, rng, call, step).values())
            if step:
                gradients = [gradients[0], None, *gradients[1:]]
            quick_back, slow_back = (_arguments.backward(quick, *gradients, need=need) for need in (None, quick_names(quick)))
            assert quick_back[4:] == slow_back[4:]
            assert all(a is b or np.shares_memory(a, b) for a, b in zip(quick_back[1:4], slow_back[1:4], strict=True))


def quick_names(call):
    return list(_arguments.gradient_names(call))


def test_subclasses_and_scalars():
    class Child(np.ndarray):
        pass

    call = judge(x=LSTM["x"].view(Child), Wx=LSTM["Wx"].view(np.matrix), lengths=[np.int8(1), 2])
    assert type(call.x) is np.ndarray
    assert type(call.Wx) is np.ndarray
    assert address(call.x) == address(LSTM["x"])
    assert _arguments.flag("training", np.True_) is True
    assert _arguments.number("max_norm", np.float32(2)) == 2
    assert _arguments.number("max_norm", np.inf) == np.inf
    metadata = np.dtype(F32, metadata={"unit": "m"})
    assert judge(x=LSTM["x"].astype(metadata)).x.dtype is np.dtype(F32)


def test_outputs_beside_each_other_are_accepted():
    expected = {"h_next": (N, H), "c_next": (N, H)}
    both = zeros(N, 2 * H)
    for h, c in ((both[:, :H], both[:, H:]), (both[:, ::2], both[:, 1::2]), (both[:, :H][::-1], zeros(N, H))):
        out = _arguments.outputs({"h_next": h, "c_next": c}, expected, np.dtype(F32))
        assert out["h_next"] is h
        assert out["c_next"] is c
    assert _arguments.outputs({"h_next": None}, expected, np.dtype(F32)) is None
    assert _arguments.outputs(None, expected, np.dtype(F32)) is None
    keyed = collections.OrderedDict(c_next=both[:, H:])
    assert list(_arguments.outputs(keyed, expected, np.dtype(F32))) == ["c_next"]
    assert _arguments.in_place(both[:, :H])
    assert not _arguments.in_place(both[:, ::2])


def test_inputs_under_an_output_are_copied():
    h = LSTM["h0"].copy()
    buffer = zeros(N, T, 2 * H)
    buffer[..., :D] = LSTM["x"]
    x = buffer[..., :D]
    call = judge(x=x, h0=h, out={"h_T": h, "h": buffer[..., H:]})
    assert address(call.h0) != address(h)
    assert address(call.x) != address(x)
    np.testing.assert_array_equal(call.x, x)
    assert call.x.strides[-1] == 4
    call = judge(x=np.asfortranarray(x), h0=h, out={"h_T": h})
    assert address(call.h0) != address(h)
    memory = memoryview(bytearray(h.tobytes()))
    one, two = np.frombuffer(memory, F32).reshape(N, H), np.frombuffer(memory, F32).reshape(N, H)
    assert address(judge(h0=one, out={"h_T": two}).h0) != address(one)
    assert judge(out={}).out is None
    call = judge(h0=h, out={"h_T": zeros(N, H)})
    assert address(call.h0) == address(h)


def test_gradients_judged_for_clipping():
    flat = values(rng, 20)
    views = {"a": flat[:6].reshape(2, 3), "b": flat[6:], "c": values(rng, 3), "d": None}
    arrays, keys = _arguments.gradients(views)
    assert keys == ["a", "b", "c", "d"]
    assert arrays[0] is views["a"]
    assert arrays[3] is None
    arrays, keys = _arguments.gradients((flat[::2], flat[1::2], flat[:0]))
    assert keys is None
    assert len(arrays) == 3
    for step in (3, -3):  # two arrays interleaved, spans that meet and memory that does not
        assert len(_arguments.gradients([flat[:18:3], flat[1:19:3][::-1], flat[17:0:step]])[0]) == 3
    same, memory = values(rng, 3), bytearray(80)
    for wrong in (
        [same, same],
        [flat[:5], flat[4:]],
        [flat[4:], flat[:5]],
        [flat[8:], flat[:2], flat[::3]],
        [flat[7:0:-1], values(rng, 2), flat[1:2]],
        [np.frombuffer(memory), np.frombuffer(memory)],
    ):
        with pytest.raises(ValueError, match=r"grads\[\d\]: shares memory with grads\[\d\]; pass each array once"):
            _arguments.gradients(wrong)
    with pytest.raises(ValueError, match=r"grads\['b'\]: shares memory with grads\['a'\]"):
        _arguments.gradients({"a": same, "b": same[:1]})


def test_memory_that_is_too_hard_to_tell_apart_counts_as_shared(monkeypatch):
    def gives_up(*_, **__):
        raise np.exceptions.TooHardError

    both = zeros(N, 2 * H)
    monkeypatch.setattr(np, "shares_memory", gives_up)
    with pytest.raises(ValueError, match="shares memory"):
        _arguments.gradients([both[:, ::2], both[:, 1::2]])
    assert len(_arguments.gradients([both[0], both[1]])[0]) == 2


def test_a_memory_limit_is_known(monkeypatch):
    assert 2**20 < _arguments._memory() <= 2**62

    def fails(_):
        raise OSError

    monkeypatch.setattr(_arguments.words.os, "sysconf", fails)
    assert _arguments._memory.__wrapped__() == 2**62


def test_words_are_taken_from_subclasses_of_str():
    class Word(str):
        __slots__ = ()

    assert _arguments.option("reset", Word("after"), ("after", "before")) == "after"
