"""Addition from sequence to sequence.

An encoder reads two numbers, a pair of digits at each step, the last digits first; a decoder writes their sum in the same
order, each digit given the one before. It knows the numbers only from what the encoder tells it: with context="initial" by
beginning in the encoder's last state, of the same size however long the numbers are; with "additive" it begins there, too,
and at every step attention gives it a mean of all the encoder's states, by weights that it chooses. Gated units, as many
steps and the same sums for both. (Sutskever, Vinyals and Le 2014; Bahdanau, Cho and Bengio 2015.)

See: on the left the share of sums that are right in every digit: with the last state alone it falls to nearly none as the
numbers grow longer, with attention it hardly falls. On the right where attention looks, one row for each digit of the sum:
along the diagonal, at the pair of digits that it is the sum of, and once more at the last pair for what is carried. Nobody
has told it so.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate import decode, structures

CONTEXTS = {"initial": "the last state", "additive": "attention"}
N, H, L, STEPS, RATE, BEGIN = 64, 64, 6, 2400, 5e-3, 10
E = np.eye(11, dtype=np.float32)


def sums(rng, N, length=None):
    """Pairs of digits x (N, L, 20), one-hot, the last digits first; lengths (N,); digits of the sum (N, L + 1)."""
    lengths = rng.integers(1, L + 1, N) if length is None else np.full(N, length)
    a, b = rng.integers(10, size=(2, N, L)) * (np.arange(L) < lengths[:, None])
    total = (a + b) @ 10 ** np.arange(L)
    return np.concatenate([E[a, :10], E[b, :10]], axis=2), lengths, total[:, None] // 10 ** np.arange(L + 1) % 10


def train(context):
    rng = np.random.default_rng(0)
    model = structures.EncoderDecoder(20, H, 11, 10, context=context, cell="gru", rng=0)
    adam = Adam([model.parameters])
    for i in range(STEPS):
        x, lengths, y = sums(rng, N)
        before = np.concatenate([np.full((N, 1), BEGIN), y[:, :-1]], axis=1)
        o, _, cache = model.forward(x, E[before], lengths=lengths, y_lengths=lengths + 1)
        _, do = fastgate.softmax_cross_entropy(o, y, np.arange(L + 1) <= lengths[:, None], reduction="mean")
        model.backward(do, cache, need_dx=False)
        fastgate.clip_grad_norm([model.gradients], 1.0)
        adam.rate = RATE * (1 - i / STEPS)
        adam.step([model.gradients])
    return model


def right(model, length):
    """Share of new sums of this length that are right in every digit, written without help."""
    x, lengths, y = sums(np.random.default_rng(length), 500, length)
    step, state = model.decoder_step(x, lengths, E)
    found = decode.greedy(step, np.full(500, BEGIN), state, max_length=length + 1)
    return float(np.mean((found.y == y[:, : length + 1]).all(axis=1)))


def attention(model):
    """Where attention looks while sums of L digits are written: (L + 1, L), by the equations of the structure."""
    x, _, y = sums(np.random.default_rng(0), 200, L)
    W, weights, symbol = model.weights, [], np.full(200, BEGIN)
    hs, h, _ = model.encoder.forward(x)
    for t in range(L + 1):
        e = np.tanh((h[-1] @ W["Wa"])[:, None] + hs @ W["Ua"]) @ W["va"]
        a = np.exp(e) / np.exp(e).sum(axis=1, keepdims=True)
        context = np.einsum("ns,nsh->nh", a, hs)
        h = model.decoder.forward(np.concatenate([E[symbol], context], axis=1)[:, None], h).h_T
        weights.append(a.mean(axis=0))
        symbol = y[:, t]
    return np.array(weights)


def measure():
    models = {context: train(context) for context in CONTEXTS}
    found = {context: [right(model, length) for length in range(1, L + 1)] for context, model in models.items()}
    return found, attention(models["additive"])


def claims(found):
    (state, seen), weights = found[0].values(), found[1]
    yield f"numbers of one digit: {state[0]:.0%} and {seen[0]:.0%} are right", min(state[0], seen[0]) > 0.9
    yield f"of {L} digits: {state[-1]:.0%} by the last state alone", state[-1] < 0.3
    yield f"of {L} digits: {seen[-1]:.0%} with attention", seen[-1] > 0.6
    yield "from one length to the next the last state never gains", all(np.diff(state) < 0.02)
    own = np.append(np.diag(weights), weights[-1, -1])
    yield f"at least {own.min():.0%} of the weight is on the pair that a digit is the sum of, or carried from", own.min() > 0.5


def draw(found):
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), constrained_layout=True)
    for (context, shares), colour in zip(found[0].items(), lesson.COLOURS[1::-1], strict=True):
        left.plot(range(1, L + 1), shares, "o-", color=colour, label=CONTEXTS[context])
    left.set(xlabel="digits of each number", ylabel="share of sums that are right", ylim=(-0.03, 1.05))
    left.legend(loc="lower left")
    shades = right.imshow(found[1], cmap="Greens", vmin=0, vmax=1)
    places = [f"10{k}" for k in "⁰¹²³⁴⁵⁶"]
    right.set_xticks(range(L), places[:L])
    right.set_yticks(range(L + 1), places)
    right.set(xlabel="pair of digits that is read", ylabel="digit of the sum that is written")
    figure.colorbar(shades, ax=right, label="weight, mean over sums")
    return figure


if __name__ == "__main__":
    lesson.main()
