"""Three ways to end a sequence.

An encoder reads 40 inputs, some of them marked; a decoder begins in its last state and is to write 0 1 2 0 1 2 …, as many
symbols as there were marks: the length depends on the input alone. How does it know when it is done? By one more symbol,
EOS; by an output that says at each step how probably it was the last; or by a length T predicted from the encoder's state,
where T - t is an input of step t. (Goodfellow, Bengio and Courville, Deep Learning, section 10.2.3.)

See: what was written against what should have been, nets from three starts together. All three ways learn the lengths that
were seen in training, left of the dashed line, and end on the diagonal. None is reliable beyond: a predicted length stays
near the longest that was seen, the others go on for longer, yet stop too soon.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate import decode

EOS_SYMBOL, STOP, LENGTH = WAYS = ("EOS symbol", "stop output", "predicted length")
N, H, S, STEPS, RATE, K, EOS, BEGIN = 32, 32, 40, 800, 5e-3, 3, 3, 4
SEEN, MOST, STARTS = 12, 20, (0, 1, 2)  # marks in training, in the test; seeds
E, PLACES = np.eye(5, dtype=np.float32), np.arange(MOST + 1)


def batch(rng, N, most):
    """Marks x (N, S, 1), how many there are (N,), symbols y (N, MOST + 1) with EOS behind the last."""
    lengths = rng.integers(1, most + 1, N)
    x = rng.random((N, S)).argsort(axis=1) < lengths[:, None]
    return x[..., None].astype(np.float32), lengths, np.where(PLACES < lengths[:, None], PLACES % K, EOS)


class Model:
    def __init__(self, way, rng):
        self.way, self.remaining = way, way == LENGTH
        self.encoder, self.decoder = fastgate.GRU(1, H, rng=rng), fastgate.GRU(5 + self.remaining, H, rng=rng)
        columns = K + (not self.remaining)  # one more for EOS, or for the stop output
        self.V, self.c = (rng.standard_normal((H, columns)) / np.sqrt(H)).astype(np.float32), np.zeros(columns, np.float32)
        self.u, self.d = np.zeros(H, np.float32), np.full(1, SEEN / 2, np.float32)  # T = h_T u + d
        self.weights = [self.encoder.parameters, self.decoder.parameters, self.V, self.c, self.u, self.d]

    def gradients(self, x, lengths, y):
        _, h_T, encoded = self.encoder.forward(x)
        inputs = E[np.concatenate([np.full((N, 1), BEGIN), y[:, :-1]], axis=1)]
        if self.remaining:
            inputs = np.dstack([inputs, np.maximum(lengths[:, None] - PLACES, 0).astype(np.float32)])
        steps = lengths + (self.way == EOS_SYMBOL)
        h, _, decoded = self.decoder.forward(inputs, h_T, lengths=steps)
        o, mask = h @ self.V + self.c, PLACES < steps[:, None]
        symbols = K + (self.way == EOS_SYMBOL)
        do = fastgate.softmax_cross_entropy(o[..., :symbols], np.minimum(y, symbols - 1), mask, reduction="mean")[1]
        if self.way == STOP:  # the loss of one output s is a softmax over 0 and s
            s, last = np.stack([0 * o[..., K], o[..., K]], axis=-1), PLACES == lengths[:, None] - 1
            do = np.dstack([do, fastgate.softmax_cross_entropy(s, last.astype(int), mask, reduction="mean")[1][..., 1:]])
        dh_T = self.decoder.backward(do @ self.V.T, decoded).dh0
        dT = self.remaining * (h_T[-1] @ self.u + self.d - lengths) / N
        self.encoder.backward(None, encoded, dh_T=dh_T + np.outer(dT, self.u).astype(np.float32))
        own = [np.einsum("nth,ntk->hk", h, do), do.sum(axis=(0, 1)), dT @ h_T[-1], dT.sum(keepdims=True)]
        return [self.encoder.gradients, self.decoder.gradients, *own]

    def write(self, x):
        _, h_T, _ = self.encoder.forward(x)
        step = decode.LayerStep(self.decoder, self.V, self.c, E, remaining=self.remaining)
        T = np.maximum(np.rint(h_T[-1] @ self.u + self.d), 0).astype(int)
        end = {EOS_SYMBOL: {"eos": EOS}, STOP: {"stop": True}, LENGTH: {"lengths": T}}[self.way]
        return decode.greedy(step, np.full(len(x), BEGIN), (h_T,), max_length=S, **end).y


def train(way, seed):
    rng = np.random.default_rng(seed)
    model = Model(way, rng)
    adam = Adam(model.weights)
    for i in range(STEPS):
        gradients = model.gradients(*batch(rng, N, SEEN))
        fastgate.clip_grad_norm(gradients, 1.0)
        adam.rate = RATE * (1 - i / STEPS)
        adam.step(gradients)
    return model


def measure():
    """Of each way and start, how many symbols were written for the marks of the same sequences; these marks."""
    x, marks, _ = batch(np.random.default_rng(1), 1000, MOST)
    return {way: np.array([np.isin(train(way, seed).write(x), range(K)).sum(axis=1) for seed in STARTS]) for way in WAYS}, marks


def claims(found):
    marks, most = found[1], {}
    for way, wrote in found[0].items():
        right, most[way] = np.mean((wrote == marks)[:, marks <= SEEN]), wrote[:, marks == MOST].mean()
        yield f"{way}: {right:.1%} are right of the lengths that were seen in training", right > 0.97
        yield f"{way}: for {MOST} marks {most[way]:.1f} symbols are written, too few", SEEN < most[way] < 0.95 * MOST
    yield "a predicted length stays nearest to those that were seen", most[LENGTH] + 1 < min(most[EOS_SYMBOL], most[STOP])


def draw(found):
    figure, panels = plt.subplots(1, 3, figsize=(9.5, 3.5), sharey=True, constrained_layout=True)
    for panel, (way, wrote), colour in zip(panels, found[0].items(), lesson.COLOURS, strict=False):
        panel.plot((0, MOST), (0, MOST), color=lesson.FAINT, lw=0.8, zorder=0)
        at, counts = np.unique([np.tile(found[1], len(STARTS)), wrote.ravel()], axis=1, return_counts=True)
        panel.scatter(*at, s=counts / 2, color=colour, lw=0)
        panel.axvline(SEEN + 0.5, color=lesson.INK, ls="--", lw=0.8)
        panel.set(title=way, xlabel="marks that were read", xticks=PLACES[::4], xlim=(0, MOST + 1))
    panels[0].set(ylabel="symbols that were written", yticks=PLACES[::4], ylim=(0, MOST + 1))
    return figure


if __name__ == "__main__":
    lesson.main()
