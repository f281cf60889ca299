"""Clipping of gradients, in place: the one place where arguments are written into.

grads is a list, a tuple (such as the result of a backward call) or a dict of float32 and float64 arrays of any
shapes; an entry None is skipped.
"""

import numpy as np

from fastgate import _arguments


def _norm(arrays, norm_type):
    """(Σ |g|^p)^(1/p), relative to the largest |g|, so that no power overflows or underflows."""
    arrays = [g for g in arrays if g is not None and g.size]
    if not arrays:
        return 0.0
    wide = [np.abs(g, dtype=np.result_type(g, np.float64)) for g in arrays]
    largest = np.max([np.max(g) for g in wide])
    if norm_type == np.inf or largest == 0 or not np.isfinite(largest):
        return largest[()]
    with np.errstate(under="ignore", over="ignore"):
        return largest * np.sum([np.sum((g / largest) ** norm_type) for g in wide]) ** (1 / norm_type)


def _scale(arrays, norm, max_norm):
    """g ← g · max_norm / norm."""
    for g in arrays:
        if g is not None:
            with np.errstate(under="ignore"):
                g[...] = g.astype(np.result_type(g, np.float64)) / norm * max_norm


def clip_grad_norm(grads, max_norm, norm_type=2, error_if_nonfinite=False):
    """Scale the gradients in place so that their joint norm is at most max_norm; returns the norm before clipping.

    grads: list, tuple or dict (any mapping) of arrays, written into. max_norm: a number >= 0; inf only measures.
    norm_type: p of the norm, a number > 0 or inf. The norm is right wherever it fits a float64.
    A norm of inf or NaN changes nothing and is returned, or is a ValueError with error_if_nonfinite=True.
    """
    arrays, _ = _arguments.gradients(grads, _arguments.REFERENCE)
    max_norm = _arguments.number("max_norm", max_norm)
    norm_type = _arguments.number("norm_type", norm_type, positive=True)
    error_if_nonfinite = _arguments.flag("error_if_nonfinite", error_if_nonfinite)
    norm = _norm(arrays, norm_type)
    if _arguments.finite_norm(norm, error_if_nonfinite) and norm > max_norm:
        _scale(arrays, norm, max_norm)
    return norm


def clip_grad_value(grads, clip_value):
    """Clip every element in place: g ← sign(g) · min(|g|, clip_value). NaN stays NaN.

    grads: list, tuple or dict (any mapping) of arrays, written into. clip_value: a number >= 0.
    """
    arrays, _ = _arguments.gradients(grads, _arguments.REFERENCE)
    clip_value = _arguments.number("clip_value", clip_value)
    for g in arrays:
        if g is not None:
            with np.errstate(over="ignore", under="ignore"):
                bound = np.array(clip_value).astype(g.dtype)
            np.clip(g, -bound, bound, out=g)


def clip_norm_each(grads, max_norm):
    """Scale each array on its own, in place, so that its norm is at most max_norm; returns the norms before clipping.

    grads: list, tuple or dict (any mapping) of arrays, written into. The norms come as a list, or a dict with its keys;
    that of an entry None is 0. An array whose norm is inf or NaN stays as it is.
    """
    arrays, keys = _arguments.gradients(grads, _arguments.REFERENCE)
    max_norm = _arguments.number("max_norm", max_norm)
    norms = [_norm([g], 2.0) for g in arrays]
    for g, norm in zip(arrays, norms, strict=True):
        if _arguments.finite_norm(norm, False) and norm > max_norm:
            _scale([g], norm, max_norm)
    return norms if keys is None else dict(zip(keys, norms, strict=True))
