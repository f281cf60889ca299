"""An LSTM that learns four times the mean of a sequence, on any number of ranks with the same bits.

python examples/train_on_ranks.py                        one process, without MPI
mpiexec -n 4 python examples/train_on_ranks.py           four; pip install 'fastgate[mpi]'
mpiexec -n 2 python examples/train_on_ranks.py mean.npz  goes on from a checkpoint, if there is one, and writes it
"""

import importlib.util
import os
import sys
import zlib

import numpy as np

from fastgate import clip_grad_norm, lstm_backward, lstm_forward
from fastgate.parallel import World, connect

N, T, D, H = 48, 20, 2, 16
STEPS, RATE = 200, 2


def initial():
    rng = np.random.default_rng(0)
    weights = {"Wx": rng.uniform(-0.5, 0.5, (D, 4 * H)), "Wh": rng.uniform(-0.25, 0.25, (H, 4 * H)), "b": np.zeros(4 * H)}
    return {name: w.astype(np.float32) for name, w in weights.items()}


def batch(step):
    """The whole batch of a step, the same on every rank: x (N, T, D), and four times the mean of each row (N,)."""
    x = np.random.default_rng([1, step]).uniform(-1, 1, (N, T, D)).astype(np.float32)
    return x, 4 * x.mean(axis=(1, 2))


def loss_and_gradients(weights, x, y):
    """L = mean over the rows of (h_T[:, 0] - y)² / 2, and its gradients."""
    h_T, cache = lstm_forward(x, None, None, *weights.values(), return_sequences=False)[1::2]
    dh_T = np.zeros_like(h_T)
    dh_T[:, 0] = (h_T[:, 0] - y) / len(y)
    d = lstm_backward(None, cache, dh_T, need=("dWx", "dWh", "db"))
    return 0.5 * np.mean((h_T[:, 0] - y) ** 2), {"Wx": d.dWx, "Wh": d.dWh, "b": d.db}


def main(path=None):
    started = importlib.util.find_spec("mpi4py")
    with connect() if started else World() as world:
        weights, first = initial(), 0
        if path and world.share(lambda: os.path.exists(path)):
            saved = world.load(path)
            weights, first = {name: saved[name] for name in weights}, int(saved["step"])
        shards = world.shards(N, 12)
        for step in range(first, first + STEPS):
            x, y = batch(step)
            for shard in shards:
                loss, gradients = loss_and_gradients(weights, x[shard.rows], y[shard.rows])
                shards.add(shard, gradients, loss)
            gradients, loss = shards.sum()
            clip_grad_norm(gradients, 1.0)
            for name, g in gradients.items():
                weights[name] -= np.float32(RATE) * g
            if world.rank == 0 and (step + 1) % 20 == 0:
                print(f"step {step + 1:4}  loss {loss:.6f}")
        if path:
            world.checkpoint(path, weights | {"step": np.int64(first + STEPS)})
        if world.rank == 0:
            print(f"weights' checksum {zlib.crc32(b''.join(w.tobytes() for w in weights.values())):08x}")


if __name__ == "__main__":
    main(*sys.argv[1:])
