"""A user's typed code, for `mypy --strict`: what the stubs promise. test_types.py also runs it."""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import fastgate
from fastgate import reference
from fastgate.layers import TreeLSTM, TreeRNN, Trees

N, T, D, H, K = 2, 3, 4, 5, 6
rng = np.random.default_rng(0)


def array(*shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32)


def train(x: NDArray[np.float32], Wx: NDArray[np.float32], Wh: NDArray[np.float32]) -> float:
    b = np.zeros(4 * H, np.float32)
    h, h_T, _, cache = fastgate.lstm_forward(x, None, None, Wx, Wh, b, gate_order="ifog", lengths=[T, 1])
    assert_type(h_T, NDArray[np.float32])
    V = array(H, K)
    loss, do = fastgate.softmax_cross_entropy(h @ V, np.zeros((N, T), np.int64), reduction="mean")
    assert_type(loss, float)
    dx, dh0, dc0, dWx, dWh, db = fastgate.lstm_backward(do @ V.T, cache)
    gradients = {"Wx": dWx, "Wh": dWh, "b": db}
    norms = fastgate.clip_norm_each(gradients, 1.0)
    assert_type(norms, dict[str, float])
    assert_type(fastgate.clip_norm_each([dx, dh0, dc0], 1.0), list[float])
    fastgate.clip_grad_value(gradients, 0.1)
    return loss + fastgate.clip_grad_norm(gradients, 1.0, norm_type=np.inf)


def steps(x: NDArray[np.float64], Wx: NDArray[np.float64], Wh: NDArray[np.float64]) -> NDArray[np.float64]:
    step = fastgate.gru_step_forward(x[:, 0], None, Wx, Wh, reset="before")
    assert_type(step.h_next, NDArray[np.float64])
    gradients = fastgate.gru_step_backward(step.h_next, step.cache, need=("dx", "dh_prev"))
    h_prev = gradients.dh_prev + gradients.dx.sum()
    h_next, _ = reference.gru_step_forward(x[:, 1], h_prev, Wx, Wh, reset="before", training=False)
    result: NDArray[np.float64] = h_next + fastgate.gru_forward(x, h_next, Wx, Wh, reset="before", training=False).h_T
    return result


def streaming(x: NDArray[np.float32]) -> NDArray[np.float32]:
    cell: fastgate.LSTMCell[np.float32] = fastgate.LSTMCell(array(D, 4 * H), array(H, 4 * H), gate_order="ifog")
    h, c = cell.step(x[:, 0])
    assert_type(h, NDArray[np.float32])
    cell.step(x[:, 1], h, c, out=(h, c))
    h, c = cell.step(x[:, 2], h, c, out={"c_next": c})
    _, h_T, c_T, _ = cell.forward(x, h, c, lengths=[T, 1], training=False)
    cell.update(cell.Wx * 2, cell.Wh, np.zeros(4 * H, np.float32))
    gru = fastgate.GRUCell(array(H, 3 * H), array(H, 3 * H), reset="before")
    rnn = fastgate.RNNCell(array(H, cell.hidden_size), array(H, H), activation="relu")
    top = rnn.step(gru.step(h_T + c_T, out=h), h)
    assert_type(top, NDArray[np.float32])
    return top


def masks(x: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    cell: fastgate.LSTMCell[np.float32] = fastgate.LSTMCell(array(D, 4 * H), array(H, 4 * H))
    keep = fastgate.draw_zoneout_mask((N, T, H), 0.1, rng)
    assert_type(keep, NDArray[np.bool_])
    dropped: NDArray[np.float32] = fastgate.draw_dropout_mask((N, H), 0.5, rng, x.dtype)
    h, h_T, _, cache = cell.forward(x, recurrent_mask=dropped, zoneout_h=keep, zoneout_c=0.1)
    h_next, _ = cell.step(x[:, 0], recurrent_mask=dropped, zoneout_h=keep[:, 0])
    fastgate.rnn_forward(x, None, array(D, H), array(H, H), recurrent_mask=dropped, zoneout_h=np.ones(H, np.float32))
    result: NDArray[np.float32] = h_next + h_T + fastgate.lstm_backward(h, cache).dh0
    return result


def options(x: NDArray[np.float32]) -> NDArray[np.float32]:
    Wx, Wh, peephole = array(D, 4 * H), array(H, 4 * H), array(3 * H)
    result: NDArray[np.float32]
    forward = fastgate.lstm_forward(x, None, None, Wx, Wh, peephole=peephole, candidate="sigmoid", cell_clip=3, preact_clip=0.5)
    gradients = fastgate.lstm_backward(forward.h, forward.cache, need=["dpeephole"])
    cell: fastgate.LSTMCell[np.float32] = fastgate.LSTMCell(Wx, Wh, peephole=peephole + gradients.dpeephole, coupled=True)
    normalised = fastgate.lstm_norm_forward(x, None, None, Wx, Wh, gain_x=Wx[0], gain_c=Wx[0, :H], eps=1e-3)
    dgain_c: NDArray[np.float32] = fastgate.lstm_norm_backward(normalised.h, normalised.cache, need=["dgain_c"]).dgain_c
    fastgate.GRUNormCell(array(D, 3 * H), array(H, 3 * H), gain_h=array(3 * H)).step(x[:, 0], h_prev=x[:, 1] @ Wx[:, :H])
    result = normalised.h_T + dgain_c
    assert_type(cell.peephole, NDArray[np.float32] | None)
    cell.update(Wx, Wh, peephole=None)
    h, _ = cell.step(x[:, 0])
    gru = fastgate.GRUCell(array(D, 3 * H), array(H, 3 * H), update="new")
    result = result + gru.step(x[:, 1], h)
    return result


def plain(x: NDArray[np.float64]) -> NDArray[np.float64]:
    Wx, Wh, h = np.ones((D, H)), np.ones((H, H)), np.empty((N, T, H))
    forward = fastgate.rnn_forward(x, None, Wx, Wh, activation="relu", reverse=True, out={"h": h})
    gradients = fastgate.rnn_backward(None, forward.cache, dh_T=forward.h_T)
    assert_type(forward.h_T, NDArray[np.float64])
    losses, _ = fastgate.softmax_cross_entropy(h, np.zeros((N, T), np.int64), reduction="none")
    assert_type(losses, NDArray[np.float64])
    return gradients._asdict()["dx"] + losses[..., None]


def leaky(x: NDArray[np.float32]) -> NDArray[np.float32]:
    alpha: NDArray[np.float32] = fastgate.draw_alpha(H, 1, 100, rng)
    forward = fastgate.leaky_forward(x, None, array(D, H), None, alpha=alpha, activation="identity")
    gradients = fastgate.leaky_backward(forward.h, forward.cache, need=["dalpha"])
    cell: fastgate.LeakyCell[np.float32] = fastgate.LeakyCell(array(D, H), array(H, H), alpha=0.5)
    cell.update(array(D, H), None, alpha=alpha - gradients.dalpha * np.float32(1e-9))
    return cell.step(x[:, 0], forward.h_T)


def ragged(x: NDArray[np.float32]) -> NDArray[np.float32]:
    Wx, Wh, rows = array(D, 3 * H), array(H, 3 * H), x.reshape(N * T, D)
    forward = fastgate.gru_ragged_forward(rows, None, Wx, Wh, offsets=[0, 1, N * T])
    assert_type(forward.h_T, NDArray[np.float32])
    packed = fastgate.gru_ragged_forward(rows, None, Wx, Wh, batch_sizes=np.full(T, N), training=False)
    gradients = fastgate.gru_ragged_backward(forward.h - packed.h, forward.cache, need=["dx"])
    result: NDArray[np.float32] = gradients.dx
    return result


def layered(x: NDArray[np.float32]) -> float:
    layer = fastgate.LSTM(D, H, num_layers=2, bidirectional=True, merge="mean", dropout=0.1, rng=0)
    h, h_T, c_T, cache = layer.forward(x, lengths=[T, 1])
    dx, dh0, dc0 = layer.backward(h, cache, h_T, c_T)
    fastgate.clip_grad_norm([layer.gradients], 1.0)
    layer.parameters[:] -= 0.1 * layer.gradients
    layer.load_state_dict({name: 2 * a for name, a in layer.weights.items()})
    layer.weights["b1"] = layer.grads["b1"]
    gru = fastgate.GRU(D, H, reset="before", rng=np.random.default_rng(0))
    gru.step(x[:, 0])
    assert_type(gru.num_parameters, int)
    paced = fastgate.LSTM(D, H, period=[1, 1, 2, 2, 4], zoneout_c=0.1, recurrent_dropout=0.2, rng=0)
    paced.forward(x, start=3)
    assert_type(fastgate.LSTM(D, H, proj_size=2, rng=0).proj_size, int | None)
    slow = fastgate.Leaky(D, H, alpha=[0.0, 0.5, 0.75, 0.875, 1.0], learn_alpha=True, Wh=False, rng=0)
    assert_type(slow.forward(x).h_T.ndim, int)
    kept, normed = fastgate.Memory(D, H, output="identity", rng=0).forward(x), fastgate.LSTMNorm(D, H, gain_c=False).forward(x)
    assert_type(kept.c_T.ndim + normed.c_T.ndim + fastgate.GRUNorm(D, H, eps=1e-3).step(x[:, 0]).ndim, int)
    gradients = gru.backward(None, gru.forward(x, training=True).cache, accumulate=True, need_dx=False)
    return float(gradients.dh0.sum() + dx.sum() + dh0.sum() + dc0.sum() + gru.state.h.sum())


def refused(x: NDArray[np.float32], W: NDArray[np.float64]) -> None:
    fastgate.rnn_forward(x, None, W, W)  # type: ignore[type-var]
    fastgate.rnn_forward(x, None, x, x, activation="softplus")  # type: ignore[arg-type]
    fastgate.rnn_forward(x, None, x, x, lengths=[0.5])  # type: ignore[list-item]
    fastgate.GRUCell(x, x).step(W)  # type: ignore[arg-type]
    fastgate.GRUCell(x, W)  # type: ignore[type-var]
    fastgate.LSTM(D, H, merge="max")  # type: ignore[arg-type]
    fastgate.Memory(D, H, output="relu")  # type: ignore[arg-type]
    fastgate.GRUCell(x, x, update="keep")  # type: ignore[arg-type]
    fastgate.LSTMCell(x, x, peephole=W)  # type: ignore[type-var]
    fastgate.LSTMCell(x, x, cell_clip="3")  # type: ignore[arg-type]
    fastgate.rnn_forward(x, None, x, None)  # type: ignore[arg-type]


def recursive(x: NDArray[np.float32]) -> float:
    trees = Trees([[-1, -1], [-1, -1], [0, 1]])
    layer = TreeLSTM(D, H, arity=None, rng=0)
    h, c, cache = layer.forward(x, trees)
    dx = layer.backward(h, cache, dc=c, accumulate=True).dx
    rnn = TreeRNN(D, H, activation="relu", dtype=np.float32)
    h, _ = rnn.forward(dx, Trees(parent=trees.parent), training=False)
    return float(h[trees.roots].sum())


def main() -> None:
    print(train(array(N, T, D), array(D, 4 * H), array(H, 4 * H)))
    print(steps(np.ones((N, T, D)), np.ones((D, 3 * H)), np.ones((H, 3 * H))))
    print(streaming(array(N, T, D)))
    print(masks(array(N, T, D), rng))
    print(options(array(N, T, D)))
    print(plain(np.ones((N, T, D))))
    print(leaky(array(N, T, D)))
    print(ragged(array(N, T, D)))
    print(layered(array(N, T, D)))
    print(recursive(array(3, D)))
    levels: list[str] = fastgate.get_config()["isa_levels"]
    print(levels)


if __name__ == "__main__":
    main()
