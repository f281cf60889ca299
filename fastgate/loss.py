"""The loss of class scores: softmax and cross-entropy in one."""

from fastgate import _arguments, _kernels


def softmax_cross_entropy(o, y, mask=None, ignore_index=None, *, reduction="sum"):
    """The cross-entropy of softmax(o) and the classes y, and its gradient; returns (loss, do).

        loss_r = −w_r · log softmax(o_r)[y_r] = w_r · (log Σ_k exp(o_rk) − o_r[y_r])
        do_rk  = w_r · (softmax(o_r)[k] − 1{k = y_r})

    o (..., K): scores, float32 or float64; axes before the last are rows, (N, T, K) or any other, with any strides.
    y (...): integers 0..K-1.
    mask (...): bools, or weights w >= 0 in the dtype of o; None = ones.
    ignore_index: an integer; rows with this y do not count.
    reduction: "sum"; "mean", the sum divided by the sum of w over the rows that count (0 where none does), do likewise;
        "none", one loss per row, do as for the sum.

    A row does not count where w is 0 or y is ignore_index: its loss and do are 0, and its o and y may hold anything, even NaN.

    Returns loss, a float ("sum", "mean") or (...) in the dtype of o ("none"); do (..., K), the gradient with respect to o
    in its dtype and memory order. Sums are taken in float64. Scores of any size are right, since the largest of a row is
    taken off first (o_k - max o is rounded to the dtype, the only error that grows with the scores); so are rows that are
    nearly certain, since nothing is subtracted from 1. NaN or +inf in a row makes that row NaN and leaves the others alone;
    −inf is a class of probability 0. A row gives the same bits in any batch.

    Bad input: ValueError for shapes that do not fit and for classes outside 0..K-1, TypeError for dtypes; the message begins
    with the name of the argument.

    Source: Goodfellow, Bengio, Courville 2016, "Deep Learning", section 6.2.2.3 and equation 10.14.
    """
    judged = _arguments.loss(o, y, mask, ignore_index)
    reduction = _arguments.option("reduction", reduction, ("sum", "mean", "none"))
    scale = 1 / judged.total if reduction == "mean" and judged.total > 0 else 1.0
    total, losses, do = _kernels.cross_entropy(judged.o, judged.y, judged.mask, scale, reduction == "none")
    return (losses if reduction == "none" else total * scale), do
