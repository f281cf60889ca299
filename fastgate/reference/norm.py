"""Layer normalisation of rows, without gain (Ba, Kiros and Hinton 2016).

N(a) = (a − mean(a)) / √(variance(a) + eps), mean and variance over each row
"""

import numpy as np


def gains(W):
    """gain_x, gain_h, gain_c, beta_c of the weights: ones, ones, None and zeros for what was not given."""
    gain_x, gain_h, gain_c, beta_c = W.norm or (None,) * 4
    return *(1 if gain is None else gain for gain in (gain_x, gain_h)), gain_c, 0 if beta_c is None else beta_c


def given(W, dnorm):
    """Of the gradients of these four those of what was given."""
    return [d for w, d in zip(W.norm, dnorm, strict=False) if w is not None]


def mean(a):
    """(N, 1); zeros of rows that hold nothing."""
    return a.sum(axis=1, keepdims=True) / max(a.shape[1], 1)


def normalised(a, eps):
    """(N(a), 1 / √(variance + eps)), (N, K) and (N, 1)."""
    apart = a - mean(a)  # 1
    inverse = 1 / np.sqrt(mean(apart**2) + np.asarray(eps).astype(a.dtype))  # 2
    return apart * inverse, inverse  # 3


def normalised_backward(dn, n, inverse):
    """da of the gradient dn of n = N(a): its parts that move a row as a whole, or scale it, are gone."""
    return inverse * (dn - mean(dn) - n * mean(dn * n))  # 3, 2, 1
