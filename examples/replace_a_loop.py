"""A hand-written LSTM loop in NumPy and its replacement: the same numbers, and the time of both, on one thread each."""

import os
from time import perf_counter

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # on a busy machine NumPy's threads wait for each other

import numpy as np

import fastgate


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def lstm_loop(x, h, c, Wx, Wh, b):
    """x (N, T, D), h and c (N, H), Wx (D, 4H), Wh (H, 4H), b (4H,), gates i f g o."""
    hs = []
    for t in range(x.shape[1]):
        a = x[:, t] @ Wx + h @ Wh + b
        i, f, g, o = np.split(a, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        hs.append(h)
    return np.stack(hs, axis=1), h, c


def best_time(function, *args):
    """Seconds of the best of a few calls."""
    times = []
    for _ in range(5):
        start = perf_counter()
        function(*args)
        times.append(perf_counter() - start)
    return min(times)


def main():
    rng = np.random.default_rng(0)
    N, T, D, H = 16, 100, 64, 128
    x = rng.standard_normal((N, T, D), np.float32)
    h0, c0 = rng.standard_normal((2, N, H), np.float32)
    Wx = rng.standard_normal((D, 4 * H), np.float32) / D**0.5
    Wh = rng.standard_normal((H, 4 * H), np.float32) / H**0.5
    b = rng.standard_normal(4 * H, np.float32)

    by_hand = lstm_loop(x, h0, c0, Wx, Wh, b)
    ours = fastgate.lstm_forward(x, h0, c0, Wx, Wh, b, training=False)
    difference = max(np.abs(a - z).max() for a, z in zip(by_hand, ours[:3], strict=True))
    print(f"largest difference in h, h_T, c_T: {difference:.1e}")

    loop = best_time(lstm_loop, x, h0, c0, Wx, Wh, b)
    call = best_time(lambda: fastgate.lstm_forward(x, h0, c0, Wx, Wh, b, training=False))
    print(f"N, T, D, H = {N}, {T}, {D}, {H}: {loop / call:.1f} times as fast")
    print(f"loop {1e3 * loop:.2f} ms, fastgate {1e3 * call:.2f} ms")


if __name__ == "__main__":
    main()
