"""What stands around the recurrent layers of dlfs2.py: embedding, affine, dropout, loss, clipping."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import fastgate
from fastgate import _arguments
from fastgate.compat._shared import add_rows, affine_backward, affine_forward, in_words_of, judge, rows

A: TypeAlias = NDArray[Any]


class Layer:
    """params and grads, kept in place. Copies and pickles are without what forward has kept for backward."""

    def __init__(self, *params: A):
        self.params = list(params)
        self.grads = [np.zeros_like(param) for param in params]
        self.cache: Any = None

    @property
    def _kept(self) -> Any:
        if self.cache is None:
            raise ValueError("cache: expected that of forward, which was not called before backward")
        return self.cache

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"cache": None}

    def _write(self, *gradients: A) -> None:
        for grad, new in zip(self.grads, gradients, strict=True):
            grad[...] = new


class TimeEmbedding(Layer):
    """Rows of W (V, D) for the integers 0..V-1 in xs (N, T); the gradients of a repeated row are summed."""

    def __init__(self, W: A):
        judge("W", W, "VD")
        super().__init__(W)
        self.W = W

    @in_words_of(x="xs")
    def forward(self, xs: A) -> A:
        out = rows(xs, self.W)
        self.cache = xs
        return out

    @in_words_of(x="xs")
    def backward(self, dout: A) -> None:
        self._write(add_rows(dout, self._kept, self.W))


class TimeAffine(Layer):
    """x W + b at every step: x (N, T, D), W (D, M), b (M,)."""

    def __init__(self, W: A, b: A):
        judge("W", W, "DM")
        judge("b", b, "M", M=W.shape[1])
        super().__init__(W, b)

    def forward(self, x: A) -> A:
        out = affine_forward(x, *self.params)
        self.cache = x
        return out

    def backward(self, dout: A) -> A:
        dx, *gradients = affine_backward(dout, self._kept, self.params[0])
        self._write(*gradients)
        return dx


class TimeDropout(Layer):
    """Inverted dropout with masks drawn from np.random as the book does: a seed gives the same. train_flg = False: none."""

    def __init__(self, dropout_ratio: float = 0.5):
        super().__init__()
        self.dropout_ratio = dropout_ratio
        self.mask: A | None = None
        self.train_flg = True

    def forward(self, xs: A) -> A:
        self.mask = None
        if not self.train_flg:
            return xs
        kept = np.random.rand(*xs.shape) > self.dropout_ratio
        self.mask = kept.astype(np.float32) * (1 / (1.0 - self.dropout_ratio))
        return xs * self.mask

    def backward(self, dout: A) -> A:
        return dout if self.mask is None else dout * self.mask


class TimeSoftmaxWithLoss(Layer):
    """The mean cross-entropy of softmax(xs) and the classes ts over the steps whose class is not ignore_label (-1).

    xs (N, T, V), ts (N, T) integers or one-hot (N, T, V). The loss is 0 where no step counts.
    """

    ignore_label = -1

    def __init__(self) -> None:
        super().__init__()

    @in_words_of(o="xs", y="ts", K="V")
    def forward(self, xs: A, ts: A) -> float:
        judge("xs", xs, "NTV")
        if np.ndim(ts) == 3:
            ts = np.argmax(ts, axis=2)
        loss, self.cache = fastgate.softmax_cross_entropy(xs, ts, ignore_index=self.ignore_label, reduction="mean")
        return loss

    def backward(self, dout: float = 1) -> A:
        return self._kept if dout == 1 else self._kept * dout


def clip_grads(grads: list[A], max_norm: float) -> None:
    """Scale the gradients, in place, by max_norm / (norm + 1e-6) where that is below 1; norm is their joint Euclidean norm.

    As fastgate.clip_grad_norm, but for the book's 1e-6: right where squares overflow, unchanged where the norm is inf or NaN.
    """
    max_norm = _arguments.number("max_norm", max_norm)
    norm = fastgate.clip_grad_norm(grads, np.inf)
    if norm < np.inf and (rate := max_norm / (norm + 1e-6)) < 1:
        arrays, _ = _arguments.gradients(grads)
        for grad in arrays:
            if grad is not None:
                grad *= rate
