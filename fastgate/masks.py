"""Masks for recurrent dropout and zoneout, and alphas of leaky units: drawn from a generator that the caller holds."""

import numpy as np

from fastgate import _arguments


def draw_dropout_mask(shape, p, rng, dtype="float32"):
    """A mask of inverted dropout: 0 with probability p, else 1 / (1 − p), so that the mean is 1.

    shape : sizes, (N, H) for `recurrent_mask=`: one mask for all steps of a sequence, as Gal and Ghahramani (2016) show that
        it has to be; drawn anew for every call of forward.
    p : a number from 0 to below 1, the share that is dropped
    rng : a numpy Generator; rng.random(shape, np.float32) is all that is drawn
    dtype : float32 or float64, that of the call which the mask is for

    Returns an array of that shape and dtype. Without dropout, after training, there is no mask: nothing is scaled then.
    Bad input: ValueError or TypeError that names the argument, before anything is drawn. Gal and Ghahramani (2016), "A
    theoretically grounded application of dropout in recurrent neural networks", arXiv:1512.05287; scaled as by Srivastava et
    al. (2014), section 10.
    """
    shape, p = _arguments.drawing(shape, p, rng, below_one=True)
    dtype = _arguments.dtype(dtype)
    return (rng.random(shape, np.float32) >= np.float32(p)).astype(dtype) * dtype.type(1 / (1 - p))


def draw_zoneout_mask(shape, p, rng):
    """A mask of zoneout: True, the unit keeps its state at this step, with probability p, else False.

    shape : sizes, (N, T, H) for `zoneout_h=` and `zoneout_c=`; (N, H) of a step, (ΣT, H) of a ragged batch
    p : a number from 0 to 1, the share that is kept
    rng : a numpy Generator; rng.random(shape, np.float32) is all that is drawn

    Returns bools of that shape. After training the mean takes the place of the mask: zoneout_h=p. Bad input: ValueError or
    TypeError that names the argument, before anything is drawn. Krueger et al. (2017), "Zoneout: regularizing RNNs by randomly
    preserving hidden activations", arXiv:1606.01305.
    """
    shape, p = _arguments.drawing(shape, p, rng, below_one=False)
    return rng.random(shape, np.float32) < np.float32(p)


def draw_alpha(hidden_size, low, high, rng, dtype="float32"):
    """One alpha for each leaky unit, for `alpha=`: time constants between low and high steps, their logarithms uniform.

        tau = low * (high / low) ** u,  u uniform from 0 to 1;   alpha = exp(-1 / tau)

    so that each unit forgets at a pace of its own, and as many live on a scale of 1 to 10 steps as on one of 10 to 100.

    hidden_size : H, an integer >= 0
    low, high : numbers > 0, low <= high: time constants, in steps
    rng : a numpy Generator; rng.random(H) is all that is drawn
    dtype : float32 or float64, that of the call which alpha is for

    Returns (H,), from 0 to below 1. Drawn once, at the beginning, it is kept constant or learned. Bad input: ValueError or
    TypeError that names the argument, before anything is drawn. Mozer (1992) and Goodfellow et al., Deep Learning, 10.9.2:
    time constants sampled once.
    """
    hidden_size, low, high = _arguments.time_constants(hidden_size, low, high, rng)
    dtype = _arguments.dtype(dtype)
    u = rng.random(hidden_size)
    with np.errstate(over="ignore", under="ignore"):
        tau = np.exp(np.log(low) + u * (np.log(high) - np.log(low)))
        alpha = np.exp(-1 / tau).astype(dtype)
    return np.minimum(alpha, np.nextafter(dtype.type(1), dtype.type(0)))
