"""Clipping of gradients, in place: the one place where arguments are written into.

`grads` is a list, a tuple or a dict of float32 and float64 arrays of any shapes
and any strides, at the speed of memory where rows or columns are contiguous. An entry None is skipped. No two arrays may
share memory.

A norm is a sum in float64 whose order depends on the shape of an array alone: the same bits for any strides, alignment and
instruction set with FMA. Arrays are added in the order of `grads`.
"""

from fastgate import _arguments, _kernels


def clip_grad_norm(grads, max_norm, norm_type=2, error_if_nonfinite=False):
    """Scale the gradients, in place, so that their joint norm is at most max_norm; return the norm before clipping.

        norm = (Σ |g|^p)^(1/p)    over all elements of all arrays; p = inf: max |g|
        g ← g · max_norm / norm   only if norm > max_norm; otherwise nothing is written

    grads: list, tuple or dict (any mapping) of arrays, written into.
    max_norm: a number >= 0; inf only measures.
    norm_type: p, a number > 0 or inf. 1, 2 and inf run at the speed of memory, other p at that of pow().

    Returns a float. It is right wherever it fits one, also where the powers of single elements overflow or underflow (1e20
    and 1e-30 in float32, 1e200 and 1e-200 in float64). A norm that is inf or NaN is returned and changes nothing; with
    error_if_nonfinite=True it is a ValueError, raised before anything is written.

    Bad input: TypeError for other dtypes or containers, ValueError for read-only arrays, arrays that share memory and numbers
    out of range; nothing has been written then.

    Source: Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks", algorithm 1.
    """
    arrays, _ = _arguments.gradients(grads)
    max_norm = _arguments.number("max_norm", max_norm)
    norm_type = _arguments.number("norm_type", norm_type, positive=True)
    error_if_nonfinite = _arguments.flag("error_if_nonfinite", error_if_nonfinite)
    norm = _kernels.norm(arrays, norm_type)
    if _arguments.finite_norm(norm, error_if_nonfinite) and norm > max_norm:
        _kernels.scale(arrays, max_norm, norm)
    return norm


def clip_grad_value(grads, clip_value):
    """Clip every element, in place.

        g ← sign(g) · min(|g|, clip_value)

    grads: list, tuple or dict (any mapping) of arrays, written into.
    clip_value: a number >= 0, rounded to the dtype of each array.

    ±inf becomes ±clip_value, NaN stays NaN. Bad input: as clip_grad_norm.

    Source: Mikolov 2012, "Statistical language models based on neural networks", section 3.2.2.
    """
    arrays, _ = _arguments.gradients(grads)
    _kernels.clamp(arrays, _arguments.number("clip_value", clip_value))


def clip_norm_each(grads, max_norm):
    """Scale each array on its own, in place, so that its Euclidean norm is at most max_norm; return the norms before.

        norm_k = (Σ g_k²)^(1/2)           over the elements of array k
        g_k ← g_k · max_norm / norm_k     only if norm_k > max_norm

    grads: list, tuple or dict (any mapping) of arrays, written into.
    max_norm: a number >= 0; inf only measures.

    Returns a list of floats, or a dict with the keys of grads; the norm of an entry None is 0. An array whose norm is inf or
    NaN stays as it is. Bad input: as clip_grad_norm.

    Source: as clip_grad_norm, for one matrix at a time; Keras calls it `clipnorm`.
    """
    arrays, keys = _arguments.gradients(grads)
    norms = _kernels.clip_norm_each(arrays, _arguments.number("max_norm", max_norm))
    return norms if keys is None else dict(zip(keys, norms, strict=True))
