# Clipping, loss and activations, included by _kernels.pyx: arrays become descriptions for csrc/clip.inc, csrc/loss.inc and
# csrc/act.inc, and the GIL is released around the kernels. Arguments have been judged.
#
# The includer cimports cnp and core and defines KERNELS.

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport INFINITY, frexp, isnan, ldexp, pow, sqrt

import numpy as np


ctypedef struct gradient:
    core.fg_array array
    const core.fg_kernels *kernels


cdef inline const core.fg_kernels *kernels_of(cnp.ndarray a) noexcept:
    return KERNELS[<int>(core.FG_F32 if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT32 else core.FG_F64)]


cdef bint describe(cnp.ndarray a, core.fg_array *d) noexcept:
    """Whether the axes before the last merge into one and rows or columns are contiguous; describes the array then."""
    cdef ptrdiff_t item = cnp.PyArray_ITEMSIZE(a), s
    cdef int last = cnp.PyArray_NDIM(a) - 1, k
    d.data = cnp.PyArray_DATA(a)
    d.rows = d.row = d.columns = d.column = 1
    if not cnp.PyArray_CHKFLAGS(a, cnp.NPY_ARRAY_ALIGNED):
        return False
    if last >= 0:
        d.columns = cnp.PyArray_DIM(a, last)
        if d.columns > 1:
            d.column = cnp.PyArray_STRIDE(a, last) // item
    for k in range(last - 1, -1, -1):
        s = cnp.PyArray_STRIDE(a, k) // item
        if d.rows > 1 and cnp.PyArray_DIM(a, k) > 1 and s != d.row * d.rows:
            return False
        if d.rows == 1:
            d.row = s
        d.rows *= cnp.PyArray_DIM(a, k)
    if d.rows == 0:
        d.columns = 0
    return d.column == 1 or d.row == 1 and d.rows > 1


@cython.final
cdef class Gradients:
    """The arrays of one clipping call. One that no fg_array describes is copied, worked on and written back."""

    cdef gradient *entries
    cdef Py_ssize_t count
    cdef list copies

    def __cinit__(self, list arrays):
        cdef gradient *e
        cdef Py_ssize_t i
        self.count = len(arrays)
        self.copies = []
        self.entries = <gradient *>PyMem_Calloc(self.count + 1, sizeof(gradient))
        if self.entries == NULL:
            raise MemoryError("grads")
        for i in range(self.count):
            e, a = self.entries + i, arrays[i]
            if a is None:  # no rows
                e.kernels = KERNELS[<int>core.FG_F64]
                continue
            e.kernels = kernels_of(a)
            if not describe(a, &e.array):
                copy = np.array(a, order="C")
                self.copies.append((a, copy))
                describe(copy, &e.array)

    def __dealloc__(self):
        PyMem_Free(self.entries)

    cdef write_back(self):
        for a, copy in self.copies:
            a[...] = copy


cdef double sum_over(const gradient *e, Py_ssize_t count, double p, double unit) noexcept nogil:
    """sum |g / unit|^p, array after array; p = inf: the largest |g|, NaN if there is one."""
    cdef double total = 0, part
    cdef Py_ssize_t i
    for i in range(count):
        part = e[i].kernels.sum_of_powers(&e[i].array, p, unit)
        if p != INFINITY:
            total += part
        elif part > total or isnan(part):
            total = part
            if isnan(part):
                break
    return total


cdef double norm_over(const gradient *e, Py_ssize_t count, double p) noexcept nogil:
    """(sum |g|^p)^(1/p). The plain sum is kept where no power can have overflowed or lost bits to underflow; elsewhere the
    powers are taken relative to the largest |g|, for p = 2 to the power of two below it."""
    cdef double total, largest
    cdef int exponent
    if p == 1:
        return sum_over(e, count, 1, 1)
    if p == 2:
        total = sum_over(e, count, 2, 1)
        if isnan(total) or ldexp(1, -960) <= total < INFINITY:
            return sqrt(total)
    largest = sum_over(e, count, INFINITY, 1)
    if p == INFINITY or not 0 < largest < INFINITY:
        return largest
    if p == 2:
        frexp(largest, &exponent)
        largest = ldexp(1, exponent - 1)
        return largest * sqrt(sum_over(e, count, 2, largest))
    return largest * pow(sum_over(e, count, p, largest), 1 / p)


cdef void scale_down(const gradient *e, Py_ssize_t count, double max_norm, double norm) noexcept nogil:
    """g <- g max_norm / norm, for norm > max_norm. The exponents are divided apart, so that no quotient underflows."""
    cdef int above, below
    cdef double factor = frexp(max_norm, &above) / frexp(norm, &below)
    cdef Py_ssize_t i
    for i in range(count - 1, -1, -1):  # what was read last may still be in the cache
        e[i].kernels.scale(&e[i].array, factor, above - below)


def norm(list arrays, double p):
    """The joint p-norm of the arrays."""
    cdef Gradients g = Gradients(arrays)
    cdef double result
    with nogil:
        result = norm_over(g.entries, g.count, p)
    return result


def scale(list arrays, double max_norm, double norm):
    """g <- g max_norm / norm, in place; norm > max_norm."""
    cdef Gradients g = Gradients(arrays)
    with nogil:
        scale_down(g.entries, g.count, max_norm, norm)
    g.write_back()


def clip_norm_each(list arrays, double max_norm):
    """The Euclidean norm of each array; those whose norm is finite and above max_norm are scaled down to it, in place."""
    cdef Gradients g = Gradients(arrays)
    cdef cnp.ndarray result = np.zeros(g.count)
    cdef double *norms = <double *>cnp.PyArray_DATA(result)
    cdef Py_ssize_t i
    with nogil:
        for i in range(g.count):
            norms[i] = norm_over(g.entries + i, 1, 2)
            if max_norm < norms[i] < INFINITY:
                scale_down(g.entries + i, 1, max_norm, norms[i])
    g.write_back()
    return result.tolist()


def clamp(list arrays, double limit):
    """g <- sign(g) min(|g|, limit), in place."""
    cdef Gradients g = Gradients(arrays)
    cdef Py_ssize_t i
    with nogil:
        for i in range(g.count):
            g.entries[i].kernels.clamp(&g.entries[i].array, limit)
    g.write_back()


cdef bint describe_rows(cnp.ndarray o, cnp.ndarray d_o, core.fg_cross_entropy *c) noexcept:
    """Whether the leading axes of both arrays merge, in the same way, into at most two (N, T); describes both then."""
    cdef ptrdiff_t item = cnp.PyArray_ITEMSIZE(o), n, s, ds
    cdef int axes = 0, last = cnp.PyArray_NDIM(o) - 1, k
    c.N = c.T = 1
    c.K = cnp.PyArray_DIM(o, last)
    c.o.data = cnp.PyArray_DATA(o)
    c.d_o.data = cnp.PyArray_DATA(d_o)
    c.o.row = c.o.step = c.d_o.row = c.d_o.step = 0
    if c.K > 1 and cnp.PyArray_STRIDE(d_o, last) != item:
        return False
    for k in range(last):
        n = cnp.PyArray_DIM(o, k)
        s = cnp.PyArray_STRIDE(o, k)
        ds = cnp.PyArray_STRIDE(d_o, k)
        if n == 1:
            continue
        if s % item:
            return False
        s //= item
        ds //= item
        if axes > 0 and c.o.step == s * n and c.d_o.step == ds * n:
            c.T *= n
        elif axes < 2:
            c.N, c.o.row, c.d_o.row = c.T, c.o.step, c.d_o.step
            c.T = n
            axes += 1
        else:
            return False
        c.o.step, c.d_o.step = s, ds
    return True


def cross_entropy(cnp.ndarray o, cnp.ndarray y, cnp.ndarray weight, double scale, bint want_rows):
    """The sum of the losses, the losses (...) or None, and do (..., K) times scale, in the memory order of o."""
    cdef core.fg_cross_entropy c
    cdef const core.fg_kernels *table = kernels_of(o)
    cdef double total
    cdef cnp.ndarray d_o = np.empty_like(o)
    losses = np.zeros(np.shape(y), o.dtype) if want_rows else None
    if cnp.PyArray_SIZE(o) == 0:
        return 0.0, losses, d_o
    if not describe_rows(o, d_o, &c):
        o, d_o = np.ascontiguousarray(o), np.empty_like(o, order="C")
        describe_rows(o, d_o, &c)
    c.y = <const int64_t *>cnp.PyArray_DATA(y)
    c.weight = NULL if weight is None else cnp.PyArray_DATA(weight)
    c.scale = scale
    c.loss = NULL if losses is None else cnp.PyArray_DATA(losses)
    with nogil:
        total = table.cross_entropy(&c)
    return total, losses, d_o


cdef activation(cnp.ndarray x, bint is_tanh):
    x = np.ascontiguousarray(x)
    cdef cnp.ndarray y = np.empty_like(x)
    cdef const core.fg_kernels *table = kernels_of(x)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(x)
    with nogil:
        if is_tanh:
            table.tanh(n, cnp.PyArray_DATA(x), cnp.PyArray_DATA(y))
        else:
            table.sigmoid(n, cnp.PyArray_DATA(x), cnp.PyArray_DATA(y))
    return y


def sigmoid(x):
    """1 / (1 + exp(-x)) of a float32 or float64 array, as the cells compute it."""
    return activation(x, False)


def tanh(x):
    """tanh(x) of a float32 or float64 array, as the cells compute it."""
    return activation(x, True)
