# Prepared weights and their fastest call, one step. Included by _kernels.pyx.


cdef object LARGEST_START = 1 << 62


@cython.final
@cython.no_gc_clear
cdef class Prepared:
    """The weights of a cell, _arguments.Weights, and these packed as its kernel uses them, for any number of calls. Never changes."""
    cdef core.fg_sequence s
    cdef core.fg_cell_id cell
    cdef const core.fg_kernels *kernels
    cdef object dtype
    cdef Py_ssize_t most_rows                 # of a step that is not asked whether memory suffices
    cdef readonly str kernel
    cdef readonly object option
    cdef readonly object weights
    cdef readonly Memory memory

    def __cinit__(self, str kernel, option, weights):
        D, H, P, self.dtype, Wx, Wh, b, bh, peephole, Wr, _, rhythm, position, norm, alpha = <tuple>weights
        cdef core.fg_sequence *s = &self.s

        memset(s, 0, sizeof(core.fg_sequence))
        self.kernel, self.option, self.weights = kernel, option, weights
        self.cell = <core.fg_cell_id><int>CELLS[kernel]
        self.kernels = kernels_of(Wx)
        s.T, s.D, s.H, s.P = 1, D, H, P
        self.most_rows = (1 << 27) // (1 + s.D + s.H + s.P)
        set_option(s, option)
        set_rhythm(s, rhythm)
        s.shares = 1
        set_weights(s, Wx, Wh, b, bh, peephole, Wr, alpha, position)
        set_norm(s, norm)
        self.memory = Memory(self.kernels.prepared_size(self.cell, s))
        s.prepared = self.memory.data
        with nogil:
            self.kernels.sequence_prepare(self.cell, s)


cdef inline bint is_output(a, object dtype, Py_ssize_t N, Py_ssize_t H) noexcept:
    return is_state(a, dtype, N, H) and a is not None and cnp.PyArray_CHKFLAGS(<cnp.ndarray>a, cnp.NPY_ARRAY_CARRAY)


cdef inline bint are_apart(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Contiguous arrays that share no memory."""
    cdef char *p = <char *>cnp.PyArray_DATA(a)
    cdef char *q = <char *>cnp.PyArray_DATA(b)
    return p + cnp.PyArray_NBYTES(a) <= q or q + cnp.PyArray_NBYTES(b) <= p


cdef object plain_step(Prepared p, bint has_c, x, h_prev, c_prev, h_next, c_next, start):
    """One step, into h_next and c_next or new arrays: (h_next, c_next or None). None where an array is not as kernels use it.
    The kernel has read all that it reads when it writes the first of them, so outputs may be inputs."""
    if not (p.s.delay == NULL and is_array(x, p.dtype, 2) and has_rows(<cnp.ndarray>x, 2) and cnp.PyArray_DIM(<cnp.ndarray>x, 1) == p.s.D
            and type(start) is int and 0 <= start < LARGEST_START):
        return None
    cdef cnp.npy_intp shape[2]
    cdef cnp.npy_intp N = cnp.PyArray_DIM(<cnp.ndarray>x, 0)
    cdef int type_number = cnp.PyArray_TYPE(<cnp.ndarray>x)
    cdef core.fg_sequence s
    cdef core.fg_stop stop
    cdef Memory scratch

    shape[0], shape[1] = N, p.s.P
    if not (N <= p.most_rows and is_state(h_prev, p.dtype, N, p.s.P) and is_state(c_prev, p.dtype, N, p.s.H)):
        return None
    if h_next is None:
        h_next = cnp.PyArray_EMPTY(2, shape, type_number, 0)
    elif not is_output(h_next, p.dtype, N, p.s.P):
        return None
    shape[1] = p.s.H
    if has_c:
        if c_next is None:
            c_next = cnp.PyArray_EMPTY(2, shape, type_number, 0)
        elif not (is_output(c_next, p.dtype, N, p.s.H) and are_apart(<cnp.ndarray>h_next, <cnp.ndarray>c_next)):
            return None

    s = p.s
    s.N = N
    s.start = start
    s.x = steps_of(x)
    s.h0, s.c0 = rows_of(h_prev), rows_of(c_prev)
    s.h_T, s.c_T = rows_of(h_next), rows_of(c_next)
    share_out(p.kernels, p.cell, &s, N, &stop)
    scratch = Memory(p.kernels.forward_scratch(p.cell, &s))
    s.scratch = scratch.data
    run(p.kernels.sequence_forward, p.cell, &s, &stop)
    return h_next, c_next


@cython.auto_pickle(False)
cdef class Holder:
    """Holds the Prepared of a cell. Whoever asks gets one that is whole, though another thread puts a new one in its place."""
    cdef Prepared prepared
    cdef fg_lock lock

    def __cinit__(self):
        fg_lock_make(&self.lock)

    def _hold(self, Prepared prepared not None):
        cdef Prepared before                  # ends after the lock is given back
        fg_lock_take(&self.lock)
        before = self.prepared
        self.prepared = prepared
        fg_lock_give(&self.lock)

    def _held(self):
        return held(self)


cdef inline Prepared held(Holder holder):
    cdef Prepared prepared
    fg_lock_take(&holder.lock)
    prepared = holder.prepared
    fg_lock_give(&holder.lock)
    if prepared is None:
        raise TypeError(f"{type(holder).__name__}: it has no weights, its __init__ was not called")
    return prepared


@cython.auto_pickle(False)
cdef class Cell(Holder):
    """A cell without c. `_step_in_words` is the way of a call that is not plain."""

    def step(self, x, h_prev=None, *, out=None, start=0, recurrent_mask=None, zoneout_h=None):
        """One step; returns h_next (N, H).

        x : (N, D). h_prev : (N, H), (H,) for all rows, or None = zeros. With delays h_prev and h_next are (N, d, H).
        out : array for h_next, or dict with "h_next". It may be h_prev itself: the result is as if that had been copied first.
        start : the number of the step, where the cell has a period.

        recurrent_mask, zoneout_h : as in the step function.

        The bits of the step function with training=False, whose conventions, equations and errors hold. Plain arrays (the cell's
        dtype, native, aligned, last axis contiguous; of out= C order) take the shortest way; all others give the same result.
        """
        cdef Prepared prepared = held(self)
        if recurrent_mask is None and zoneout_h is None:
            result = plain_step(prepared, False, x, h_prev, None, out, None, start)
            if result is not None:
                return (<tuple>result)[0]
        return self._step_in_words(prepared, x, h_prev, None, out, start, recurrent_mask, zoneout_h, None)[0]


@cython.auto_pickle(False)
cdef class CellWithC(Holder):
    """A cell with c."""

    def step(self, x, h_prev=None, c_prev=None, *, out=None, start=0, recurrent_mask=None, zoneout_h=None, zoneout_c=None):
        """One step; returns (h_next, c_next), each (N, H); with Wr (H, P) h_next is (N, P).

        x : (N, D). h_prev, c_prev : as h_next, c_next, a row of them for all, or None = zeros. With delays h_prev and h_next are
            (N, d, H).
        out : (h_next, c_next), None for one that is to be new; or array for h_next, or dict with "h_next", "c_next". They may be
            h_prev and c_prev themselves: the result is as if these had been copied first.
        start : the number of the step, where the cell has a period.

        recurrent_mask, zoneout_h, zoneout_c : as in the step function.

        The bits of the step function with training=False, whose conventions, equations and errors hold. Plain arrays (the cell's
        dtype, native, aligned, last axis contiguous; of out= C order) take the shortest way; all others give the same result.
        """
        cdef Prepared prepared = held(self)
        cdef object h_next = None, c_next = None, result = None
        if recurrent_mask is not None or zoneout_h is not None or zoneout_c is not None:
            result = None
        elif out is None:
            result = plain_step(prepared, True, x, h_prev, c_prev, None, None, start)
        elif type(out) is tuple and len(<tuple>out) == 2:
            h_next, c_next = <tuple>out
            result = plain_step(prepared, True, x, h_prev, c_prev, h_next, c_next, start)
        if result is None:
            result = self._step_in_words(prepared, x, h_prev, c_prev, out, start, recurrent_mask, zoneout_h, zoneout_c)
        return result
