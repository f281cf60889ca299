"""The loss of a sequence of class scores.

L = −Σ_t w_t · log softmax(o_t)[y_t]
"""

import numpy as np

from fastgate import _arguments


def softmax_cross_entropy(o, y, mask=None, ignore_index=None, *, reduction="sum"):
    """Softmax and cross-entropy in one; returns (loss, do).

    o: (..., K) scores. y: (...) integers 0..K-1. mask: (...) bools, or weights >= 0 in the dtype of o.
    ignore_index: rows with this y do not count. Rows that do not count (mask 0 too) may hold anything, even NaN.
    reduction: "sum"; "mean", the sum over the sum of the weights that count (0 where none does); "none", the loss of
    each row (...), 0 where it does not count. do: (..., K), the gradient of the loss, or of its sum for "none".
    """
    judged = _arguments.loss(o, y, mask, ignore_index, dtypes=_arguments.REFERENCE)
    _arguments.option("reduction", reduction, ("sum", "mean", "none"))
    losses = np.zeros(judged.y.shape, judged.o.dtype)
    do = np.zeros_like(judged.o)
    counts = judged.y >= 0
    o, y = judged.o[counts], judged.y[counts]
    rows = np.arange(len(y))
    w = np.ones(len(y), o.dtype) if judged.mask is None else judged.mask[counts]
    if reduction == "mean" and judged.total > 0:
        w = w / o.dtype.type(judged.total)

    if len(y):
        s = o - o.max(axis=1, keepdims=True)  # 1
        e = np.exp(s)  # 2
        Z = e.sum(axis=1)  # 3
        losses[counts] = w * (np.log(Z) - s[rows, y])  # 4
        ds = w[:, None] * e / Z[:, None]  # 4, 3, 2
        ds[rows, y] -= w  # 4
        do[counts] = ds  # 1
    return (losses if reduction == "none" else losses.sum(dtype=np.result_type(losses, np.float64))), do
