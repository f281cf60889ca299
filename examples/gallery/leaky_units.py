"""Leaky units.

One of four symbols is shown; then nothing but noise comes for T steps; then the net is asked for the symbol. Its 32 units see
nothing of each other (`Wh=False`): each is a running average of its input that keeps the share alpha of itself at every step,
and so the past over a time of -1 / ln(alpha) steps. Nets with alpha by hand, the same for all units; and nets that learn one
for each unit, beginning with time constants drawn between 1 and 300 steps. 400 steps of Adam for all. (Mozer 1992; Goodfellow
et al., Deep Learning, 10.9.2.)

See: on the left the share of symbols that are right, over T. A net with a fixed alpha knows what came within its time constant
(the tick at the bottom) and can only guess (dashed) what came many of them ago: the slower the units, the further they see.
Nets that learn their alphas are nearly as good as the best of these up to T = 30. On the right what they have learned, a dot
for each unit: most have a time constant a little above the wait itself (dashed), a few forget at once. At T = 100 they learn
next to nothing, for too little of the gradient comes from so far: there, a time constant set by hand is better.
"""

import lesson
import numpy as np
from lesson import plt
from optimizers import Adam

import fastgate
from fastgate import structures

WAITS = (3, 10, 30, 100)
ALPHAS = (0.8, 0.95, 0.99)
N, H, K, STEPS, RATE, NOISE = 32, 32, 4, 400, 3e-2, 0.02


def tau(alpha):
    """The time constant, in steps; of 0 and 1 the nearest that is finite."""
    alpha = np.clip(np.asarray(alpha, float), 1e-9, 1 - 1e-9)
    return -1 / np.log(alpha)


def batch(rng, wait, N=N):
    """x (N, 1 + wait, K): the symbol as a one, and noise everywhere; the symbols (N,)."""
    x, y = NOISE * rng.standard_normal((N, 1 + wait, K)).astype(np.float32), rng.integers(K, size=N)
    x[np.arange(N), 0, y] += 1
    return x, y


def train(alpha, wait, seed):
    """The share that is right, and the alphas in the end; alpha None: drawn, then learned."""
    rng = np.random.default_rng(seed)
    own = {"alpha": fastgate.draw_alpha(H, 1, 300, rng), "learn_alpha": True} if alpha is None else {"alpha": alpha}
    model = structures.FinalOutput(K, H, K, cell="leaky", Wh=False, rng=rng, **own)
    adam, learned = Adam([model.parameters]), model.weights.get("layer.alpha0")
    for step in range(STEPS):
        x, y = batch(rng, wait)
        o, _, cache = model.forward(x)
        _, do = fastgate.softmax_cross_entropy(o, y, reduction="mean")
        model.backward(do, cache, need_dx=False)
        fastgate.clip_grad_norm([model.gradients], 1.0)
        adam.rate = RATE * (1 - step / STEPS)
        adam.step([model.gradients])
        if learned is not None:
            np.clip(learned, 0, 1, out=learned)
    x, y = batch(rng, wait, 1000)
    right = float(np.mean(model.forward(x, training=False).o.argmax(axis=1) == y))
    return right, None if learned is None else learned.copy()


def measure(seed=0):
    return {alpha: [train(alpha, wait, seed) for wait in WAITS] for alpha in (*ALPHAS, None)}


def claims(found):
    for alpha in ALPHAS:
        right = {wait: share for wait, (share, _) in zip(WAITS, found[alpha], strict=True)}
        words = f"alpha = {alpha}, {tau(alpha):.1f} steps: "
        near = max(wait for wait in WAITS if wait < tau(alpha))
        yield f"{words}after {near} steps {right[near]:.0%} are right", right[near] > 0.9
        for far in [wait for wait in WAITS if wait > 5 * tau(alpha)][:1]:
            yield f"{words}after {far} steps {right[far]:.0%}, a guess {1 / K:.0%}", right[far] < 0.35
    shares, last = [share for share, _ in found[None]], found[ALPHAS[-1]][-1][0]
    for wait, (share, alpha) in list(zip(WAITS, found[None], strict=True))[:-1]:
        slow = float(np.median(tau(alpha)))
        words = f"T = {wait}: a learned time constant is {slow:.1f} steps, the middle one of {H}, and {share:.0%} are right"
        yield words, wait < slow < 1.6 * wait and share > 0.8
    yield f"T = {WAITS[-1]}: by hand {last:.0%} are right, learned {shares[-1]:.0%}", last > 0.45 > shares[-1]


def draw(found):
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.3), constrained_layout=True)
    for alpha, runs in found.items():
        label = "learned" if alpha is None else f"α = {alpha}"
        (line,) = left.semilogx(WAITS, [share for share, _ in runs], "-o", ms=4, label=label)
        if alpha is not None:
            left.axvline(tau(alpha), 0.02, 0.12, color=line.get_color(), lw=2)
    left.axhline(1 / K, color=lesson.INK, ls="--", lw=0.8)
    left.set(xlabel="T, steps since the symbol", ylabel="share of symbols that are right", ylim=(0, 1.05))
    left.legend(loc="lower left", bbox_to_anchor=(0, 0.3))
    rng = np.random.default_rng(0)
    for wait, (_, alpha) in zip(WAITS, found[None], strict=True):
        spread = np.exp(0.12 * rng.standard_normal(H))
        right.loglog(wait * spread, tau(alpha), "o", ms=3, alpha=0.6, color=lesson.COLOURS[3])
    right.plot((2, 150), (2, 150), color=lesson.INK, ls="--", lw=0.8)
    right.set(xlabel="T, steps since the symbol", ylabel="time constants learned", ylim=(0.3, 1000))
    for panel in (left, right):
        panel.set_xticks(WAITS, WAITS)
        panel.minorticks_off()
    return figure


if __name__ == "__main__":
    lesson.main()
