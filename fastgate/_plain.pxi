# The comparisons by which _arguments/ knows a plain call, at the speed of C. Included by _kernels.pyx, which cimports cnp.

cdef object F4 = np.dtype(np.float32), F8 = np.dtype(np.float64)


cdef inline bint is_array(a, object dtype, int dims) noexcept:
    """An ndarray itself, of this very dtype, aligned, of so many axes."""
    return (cnp.PyArray_CheckExact(a) and <object>cnp.PyArray_DESCR(<cnp.ndarray>a) is dtype and cnp.PyArray_NDIM(<cnp.ndarray>a) == dims
            and cnp.PyArray_CHKFLAGS(<cnp.ndarray>a, cnp.NPY_ARRAY_ALIGNED))


cdef inline bint has_rows(cnp.ndarray a, int dims) noexcept:
    """The last axis is contiguous."""
    return cnp.PyArray_DIM(a, dims - 1) <= 1 or cnp.PyArray_STRIDE(a, dims - 1) == cnp.PyArray_ITEMSIZE(a)


cdef inline bint is_state(a, object dtype, Py_ssize_t N, Py_ssize_t H) noexcept:
    return a is None or (is_array(a, dtype, 2) and cnp.PyArray_DIM(<cnp.ndarray>a, 0) == N and cnp.PyArray_DIM(<cnp.ndarray>a, 1) == H
                         and has_rows(<cnp.ndarray>a, 2))


cdef inline bint is_bias(a, object dtype, Py_ssize_t width) noexcept:
    return a is None or is_array(a, dtype, 1) and cnp.PyArray_DIM(<cnp.ndarray>a, 0) == width


cdef bint are_shares(cnp.ndarray a) noexcept:
    """Numbers from 0 to 1, of an array whose only axis is contiguous."""
    cdef Py_ssize_t i, n = cnp.PyArray_DIM(a, 0)
    cdef float *f = <float *>cnp.PyArray_DATA(a)
    cdef double *d = <double *>f
    if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT32:
        for i in range(n):
            if not 0 <= f[i] <= 1:
                return False
    else:
        for i in range(n):
            if not 0 <= d[i] <= 1:
                return False
    return True


def is_plain(int dims, Py_ssize_t G, Py_ssize_t N, x, h0, c0, Wx, Wh, b, bh, peephole, Wr, alpha):
    """Whether all arrays of a forward call are ndarrays as kernels read them, of one dtype and with shapes that fit: x of `dims` axes,
    G gates, states of N rows (-1: as many as x)."""
    cdef Py_ssize_t H, P, width
    if not cnp.PyArray_CheckExact(x):
        return False
    cdef object dtype = <object>cnp.PyArray_DESCR(<cnp.ndarray>x)
    if not ((dtype is F4 or dtype is F8) and is_array(x, dtype, dims) and has_rows(<cnp.ndarray>x, dims)
            and is_array(Wx, dtype, 2) and is_array(Wh, dtype, 2) and (Wr is None or is_array(Wr, dtype, 2))):
        return False
    P, width = cnp.PyArray_DIM(<cnp.ndarray>Wh, 0), cnp.PyArray_DIM(<cnp.ndarray>Wh, 1)
    H = P if Wr is None else cnp.PyArray_DIM(<cnp.ndarray>Wr, 0)
    if N < 0:
        N = cnp.PyArray_DIM(<cnp.ndarray>x, 0)
    return (G * H == width and cnp.PyArray_DIM(<cnp.ndarray>Wx, 0) == cnp.PyArray_DIM(<cnp.ndarray>x, dims - 1)
            and cnp.PyArray_DIM(<cnp.ndarray>Wx, 1) == width and (Wr is None or cnp.PyArray_DIM(<cnp.ndarray>Wr, 1) == P)
            and is_state(h0, dtype, N, P) and is_state(c0, dtype, N, H) and is_bias(b, dtype, width) and is_bias(bh, dtype, width)
            and (peephole is None or is_bias(peephole, dtype, 3 * H) and has_rows(<cnp.ndarray>peephole, 1))
            and (alpha is None or type(alpha) is float
                 or is_bias(alpha, dtype, H) and has_rows(<cnp.ndarray>alpha, 1) and are_shares(<cnp.ndarray>alpha)))
