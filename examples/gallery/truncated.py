"""How far back gradients must go.

A stream of random bits without an end; at every step a gru of 32 units is asked for the bit of 6 steps ago. It is trained in
chunks of k1 = 3 new steps, whose states are carried from chunk to chunk, while gradients go back through the last k2 steps
only: k2/k1 times the work. The state may carry what it likes, but a net learns to keep a bit only where the gradient of the
answer reaches the step at which the bit came: 6 steps back, so for all three new ones k2 must be 9. (`layers.truncated_bptt`;
Williams and Peng 1990.)

See: on the left the share of bits that are right as the training goes on: with k2 of 3 and 6 hardly more than a guess, with 9
and more all. On the right the angle between the truncated gradient and the whole one, before training and with the weights that
k2 = 12 has found: a window of 3 steps, which holds none of the bits that are asked for, points far away.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate.layers import truncated_bptt

LAG, K1, K2, N, H, T, PASSES, RATE = 6, 3, (3, 6, 9, 12), 32, 32, 60, 40, 1e-2


def stream(rng, T=T):
    """x (N, T, 1) of -1 and 1, and at each step the bit of LAG steps ago, 0 or 1 (of the first steps 0)."""
    bits = rng.integers(2, size=(N, T))
    y = np.concatenate([np.zeros((N, LAG), int), bits[:, :-LAG]], axis=1)
    return (2 * bits - 1)[..., None].astype(np.float32), y


class Net:
    def __init__(self, rng):
        self.layer = fastgate.GRU(1, H, rng=rng)
        self.V, self.c = (rng.standard_normal((H, 2)) / np.sqrt(H)).astype(np.float32), np.zeros(2, np.float32)

    def gradients(self, chunk, y, accumulate=False):
        o = chunk.h @ self.V + self.c
        _, do = fastgate.softmax_cross_entropy(o, y, reduction="mean")
        chunk.backward(do @ self.V.T, accumulate=accumulate, need_dx=False)
        return np.mean(o.argmax(axis=2) == y), [
            self.layer.gradients,
            np.einsum("nth,ntk->hk", chunk.h, do),
            do.sum(axis=(0, 1)),
        ]

    def angle(self, k2, rng):
        """Degrees between the recurrent gradient of a truncated pass and the whole one."""
        x, y = stream(rng, 60)
        flat = []
        for window in (k2, 60):
            for i, chunk in enumerate(truncated_bptt(self.layer, x, K1, window)):
                self.gradients(chunk, y[:, chunk.steps], accumulate=i > 0)
            flat.append(self.layer.gradients.astype(np.float64))
        return np.degrees(np.arccos(min(1.0, flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1]))))


def train(k2, seed):
    """The share of right bits in each chunk, and the net."""
    rng = np.random.default_rng(seed)
    net = Net(rng)
    adam, state, shares = Adam([net.layer.parameters, net.V, net.c], rate=RATE), None, []
    for _ in range(PASSES):
        x, y = stream(rng)
        for chunk in truncated_bptt(net.layer, x, K1, k2, h0=state):
            right, gradients = net.gradients(chunk, y[:, chunk.steps])
            fastgate.clip_grad_norm(gradients, 1.0)
            adam.step(gradients)
            if chunk.steps.start >= LAG:
                shares.append(right)
        state = chunk.state[0]
    return np.array(shares), net


def measure(seed=0):
    """Shares of each k2; angles before and after training, each (K2,)."""
    trained = {k2: train(k2, seed) for k2 in K2}
    nets = {"before": Net(np.random.default_rng(seed)), "after": trained[K2[-1]][1]}
    angles = {when: [net.angle(k2, np.random.default_rng(seed)) for k2 in K2] for when, net in nets.items()}
    return {k2: shares for k2, (shares, _) in trained.items()}, angles


def claims(found):
    last = {k2: shares[-50:].mean() for k2, shares in found[0].items()}
    for k2, share in last.items():
        yield f"k2 = {k2}: {share:.1%} are right", share > 0.95 if k2 >= K1 + LAG else share < 0.75
    before, after = found[1].values()
    yield f"k2 = {K1}: {before[0]:.0f}° before training, {after[0]:.0f}° after", after[0] > 35
    yield f"k2 = {K2[-1]}: {after[-1]:.0f}°", after[-1] < 20


def draw(found):
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2), constrained_layout=True)
    for (k2, shares), colour in zip(found[0].items(), [lesson.COLOURS[k] for k in (1, 3, 2, 0)], strict=True):
        left.plot(
            np.arange(10, len(shares) + 1), np.convolve(shares, np.ones(10) / 10, "valid"), color=colour, label=f"k2 = {k2}"
        )
    for (when, angles), colour in zip(found[1].items(), lesson.COLOURS[4:1:-2], strict=True):
        right.plot(K2, angles, "-o", color=colour, ms=4, label=f"{when} training")
    left.set(xlabel="chunks", ylabel="share of bits that are right", ylim=(0.4, 1.02))
    right.set(xlabel="k2", ylabel="degrees from the whole gradient", xticks=K2, ylim=(0, 80))
    left.legend(loc=(0.7, 0.58))
    right.legend()
    return figure


if __name__ == "__main__":
    lesson.main()
