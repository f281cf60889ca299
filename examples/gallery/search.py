"""Searching for the most probable sequence.

A gru with random weights is a language of its own: it says after any symbols how probable each of four is to come next. Which
seven symbols are the most probable, all in all? To be sure one must ask for the probability of all 4^7 = 16384, as is done here
for 40 such languages. Greedy takes the most probable symbol at each step and never looks back; a sample draws each symbol; beam
search keeps the best few beginnings, forks their states and goes on with all of them. (`fastgate.decode`; Graves 2012;
Sutskever, Vinyals and Le 2014.)

See: on the left one language: how probable 2000 samples are, what greedy finds, and beams of 4 and 32; dashed, the best of
all. On the right the share of languages in which the best sequence is found: by greedy, a beam of one, in few; by wider beams
more often; the best of as many samples seldom.
"""

import lesson
import numpy as np
from lesson import plt

import fastgate
from fastgate import decode

K, L, H, LANGUAGES, WIDTHS, SAMPLES = 4, 7, 16, 40, (1, 2, 4, 8, 16, 32), 2000
ALL = np.stack(np.unravel_index(np.arange(K**L), (K,) * L), axis=1)  # every sequence (K^L, L)
ONE_HOT = np.eye(K + 1, dtype=np.float32)  # the symbols, and one that begins


def language(rng):
    layer = fastgate.GRU(K + 1, H, rng=rng)
    layer.parameters *= 2
    return layer, rng.standard_normal((H, K), np.float32)


def log_probabilities(layer, V):
    """Of every sequence (K^L,)."""
    before = np.concatenate([np.full((len(ALL), 1), K), ALL[:, :-1]], axis=1)
    o = (layer.forward(ONE_HOT[before], training=False).h @ V).astype(np.float64)
    o -= o.max(axis=2, keepdims=True)
    log_p = o - np.log(np.exp(o).sum(axis=2, keepdims=True))
    return np.take_along_axis(log_p, ALL[..., None], axis=2)[..., 0].sum(axis=1)


def look(seed):
    """log P of the best sequence, of greedy, of what each width finds, of samples."""
    layer, V = language(np.random.default_rng(seed))
    step = decode.LayerStep(layer, V)
    beams = [decode.beam(step, [K], width=width, max_length=L).log_prob[0, 0] for width in WIDTHS]
    samples = decode.sample(step, np.full(SAMPLES, K), rng=seed, max_length=L).log_prob
    every = log_probabilities(layer, V)
    return every.max(), decode.greedy(step, [K], max_length=L).log_prob[0], np.array(beams), samples, np.exp(every).sum()


def measure(seed=0):
    return [look(1000 * seed + k) for k in range(LANGUAGES)]


def found_it(found):
    """The share of languages in which each width, and the best of as many samples, finds the best sequence."""
    beams = np.mean([np.abs(b - best) < 1e-4 for best, _, b, _, _ in found], axis=0)
    return beams, [np.mean([np.abs(s[:width].max() - best) < 1e-4 for best, _, _, s, _ in found]) for width in WIDTHS]


def claims(found):
    beams, samples = found_it(found)
    total = np.array([total for *_, total in found])
    yield "the probabilities of all sequences sum to 1", np.abs(total - 1).max() < 1e-4
    yield "greedy is a beam of one", all(abs(greedy - b[0]) < 1e-4 for _, greedy, b, _, _ in found)
    yield "nothing is more probable than the best of all", all(max(*b, *s) < best + 1e-4 for best, _, b, s, _ in found)
    yield f"greedy finds it in {beams[0]:.0%} of the languages", beams[0] < 0.75
    yield f"a beam of {WIDTHS[-1]} in {beams[-1]:.0%}", beams[-1] > 0.9
    yield "a wider beam finds it more often, or as often", all(np.diff(beams) > -0.05)
    yield f"the best of {WIDTHS[-1]} samples in {samples[-1]:.0%}", samples[-1] < beams[-1] - 0.25


def draw(found):
    beams, samples = found_it(found)
    shown = max(found, key=lambda one: min(one[0] - one[2][2], one[2][2] - one[1]))  # where all three differ most
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2), constrained_layout=True)
    best, greedy, found_by, drawn, _ = shown
    left.hist(drawn, bins=60, color=lesson.FAINT, label=f"{SAMPLES} samples")
    left.axvline(greedy, color=lesson.COLOURS[1], label="greedy")
    for width, colour in ((4, lesson.COLOURS[3]), (32, lesson.COLOURS[0])):
        left.axvline(found_by[WIDTHS.index(width)], color=colour, label=f"beam of {width}")
    left.axvline(best, color=lesson.INK, ls="--", lw=0.8)
    left.set(xlabel="log P", ylabel="samples")
    left.legend(loc="upper left")
    right.semilogx(WIDTHS, beams, "-o", ms=4, label="beam search")
    right.semilogx(WIDTHS, samples, "-o", ms=4, label="best of so many samples")
    right.set_xticks(WIDTHS, WIDTHS)
    right.minorticks_off()
    right.set(xlabel="width", ylabel="languages in which the best is found", ylim=(-0.02, 1.05))
    right.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    lesson.main()
