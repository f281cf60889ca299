# a) Arrays become pointers and strides, the GIL is released, a kernel runs. Nothing is decided by the name of a cell (csrc/cells.def lists
#    them), nothing judged but whether a call is plain (_plain.pxi, _prepared.pxi): the others are judged and worded in _arguments/.
# b) A record `call` is _arguments.Forward: its arrays are aligned, native, and rows of x and of the states are contiguous.
# c) Memory that a kernel needs is Memory (_memory.pxi): aligned to 64 bytes, given back with its last reference. Kernels allocate nothing.
# d) Strides are handed over in elements. An array whose element size does not divide its strides is never aligned, so never comes here.

# cython: cdivision=True, boundscheck=False, wraparound=False
cimport cython
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t
from libc.string cimport memset
cimport numpy as cnp

from fastgate cimport _core as core

cnp.import_array()

include "_memory.pxi"
include "_threads.pxi"
include "_arrays.pxi"
include "_plain.pxi"


cdef const core.fg_kernels *KERNELS[2]
KERNELS[0] = core.fg_get_kernels(core.FG_F32)
KERNELS[1] = core.fg_get_kernels(core.FG_F64)

LEVELS = tuple(core.fg_isa_level(i).decode() for i in range(8) if core.fg_isa_level(i) != NULL)
if KERNELS[0] == NULL:
    import os
    raise ImportError(f"FASTGATE_ISA: expected one of {', '.join(LEVELS)} (what this CPU and this build have), "
                      f"got {os.environ.get('FASTGATE_ISA')!r}")

ISA = KERNELS[0].isa.decode()
CELLS = {core.fg_cell_names[i].decode(): i for i in range(core.FG_CELLS)}


cdef inline core.fg_steps steps_of(cnp.ndarray a) noexcept:
    """(N, T, K), or (N, K) as one step or as flat rows; None: not given."""
    cdef core.fg_steps s
    s.data, s.row, s.step = NULL, 0, 0
    if a is not None:
        s.data = cnp.PyArray_DATA(a)
        s.row = cnp.PyArray_STRIDE(a, 0) // cnp.PyArray_ITEMSIZE(a)
        s.step = cnp.PyArray_STRIDE(a, cnp.PyArray_NDIM(a) - 2) // cnp.PyArray_ITEMSIZE(a)
    return s


cdef inline core.fg_rows rows_of(cnp.ndarray a, int axes=2) noexcept:
    """(N, K), or (K,) as one row for all; with axes=3 (N, d, K), or (d, K), the last two contiguous. None: not given."""
    cdef core.fg_rows r
    r.data, r.row = NULL, 0
    if a is not None:
        r.data = cnp.PyArray_DATA(a)
        if cnp.PyArray_NDIM(a) == axes:
            r.row = cnp.PyArray_STRIDE(a, 0) // cnp.PyArray_ITEMSIZE(a)
    return r


cdef inline core.fg_mask mask_of(cnp.ndarray a) noexcept:
    """As steps_of; the last axis may take no memory."""
    cdef core.fg_mask m
    cdef int last
    m.steps, m.column = steps_of(a), 0
    if a is not None:
        last = cnp.PyArray_NDIM(a) - 1
        m.column = cnp.PyArray_DIM(a, last) <= 1 or cnp.PyArray_STRIDE(a, last) != 0
    return m


cdef inline core.fg_matrix matrix_of(cnp.ndarray a) noexcept:
    """(R, C), or (K, R, C) as K R rows, where the first two axes merge; None: not given."""
    cdef core.fg_matrix m
    cdef int rows
    m.data, m.row, m.column = NULL, 0, 0
    if a is not None:
        rows = cnp.PyArray_NDIM(a) - 2
        if rows == 1 and cnp.PyArray_DIM(a, 1) == 1:
            rows = 0
        m.data = cnp.PyArray_DATA(a)
        m.row = cnp.PyArray_STRIDE(a, rows) // cnp.PyArray_ITEMSIZE(a)
        m.column = cnp.PyArray_STRIDE(a, cnp.PyArray_NDIM(a) - 1) // cnp.PyArray_ITEMSIZE(a)
    return m


cdef inline void *data_of(cnp.ndarray a) noexcept:
    return NULL if a is None else cnp.PyArray_DATA(a)


cdef void set_stop_and_threads(core.fg_sequence *s, core.fg_stop *stop) noexcept:
    """Whether a signal can end a call, and the most threads that it may have."""
    stop.asked, stop.is_set = fg_asked, 0
    s.stop = stop if PyThread_get_thread_ident() == fg_main_thread else NULL
    s.shares, s.step_ns = core.fg_get_num_threads(), 0


cdef void share_out(const core.fg_kernels *kernels, core.fg_cell_id cell, core.fg_sequence *s, Py_ssize_t rows,
                    core.fg_stop *stop) noexcept:
    """How many threads a call gets, and whether a signal can end it."""
    set_stop_and_threads(s, stop)
    if s.shares > 1 and not shares_everything:
        kernels.sequence_share(cell, s, rows, s.shares)


ctypedef void (*kernel)(core.fg_cell_id, const core.fg_sequence *) noexcept nogil


cdef int run(kernel function, core.fg_cell_id cell, core.fg_sequence *s, const core.fg_stop *stop) except -1:
    """Runs a kernel without the GIL; raises what a signal handler raised meanwhile."""
    with nogil:
        s.team = core.fg_team_enter(s.shares) if s.shares > 1 else NULL
        function(cell, s)
        core.fg_team_leave(s.team)
    return -1 if stop.is_set and PyErr_Occurred() != NULL else 0


cdef void set_weights(core.fg_sequence *s, Wx, Wh, b, bh, peephole, Wr, alpha, tuple position) noexcept:
    """`alpha`, `position`: see _arguments.Forward. s.H is set."""
    cdef Py_ssize_t g
    for g in range(len(position)):
        s.gate_column[g] = <Py_ssize_t>position[g] * s.H
    s.Wx, s.Wh, s.Wr = matrix_of(Wx), matrix_of(Wh), matrix_of(Wr)
    s.b, s.bh, s.peephole = data_of(b), data_of(bh), data_of(peephole)
    if type(alpha) is float:
        s.alpha = alpha
    else:
        s.unit_alpha = data_of(alpha)


cdef int set_masks(core.fg_sequence *s, masks) except -1:
    """`masks`: _arguments.Masks or None."""
    if masks is not None:
        recurrent_mask, zoneout_h, zoneout_c = <tuple>masks
        s.recurrent_mask = mask_of(recurrent_mask)
        s.zoneout_h, s.zoneout_c = mask_of(zoneout_h), mask_of(zoneout_c)
    return 0


cdef int set_norm(core.fg_sequence *s, norm) except -1:
    """`norm`: _arguments.Norm or None."""
    if norm is not None:
        gain_x, gain_h, gain_c, beta_c = <tuple>norm
        s.gain_x, s.gain_h = data_of(gain_x), data_of(gain_h)
        s.gain_c, s.beta_c = data_of(gain_c), data_of(beta_c)
    return 0


cdef int set_rhythm(core.fg_sequence *s, rhythm) except -1:
    """`rhythm`: _arguments.Rhythm or None."""
    if rhythm is not None:
        period, s.start, delays = <tuple>rhythm
        s.period = <int64_t *>data_of(period)
        if delays is not None:
            s.delay, s.delays = <int64_t *>data_of(delays), cnp.PyArray_DIM(<cnp.ndarray>delays, 0)
    return 0


cdef inline int state_axes(const core.fg_sequence *s) noexcept:
    """Axes of h0, h_T and their gradients."""
    return 2 if s.delay == NULL else 3


cdef int set_option(core.fg_sequence *s, option) except -1:
    """`option`: _call.Option."""
    s.option, s.cell_clip, s.preact_clip, s.grad_clip, s.eps = <tuple>option
    return 0


include "_prepared.pxi"


@cython.final
@cython.no_gc_clear
cdef class Run:
    """One forward call, ready to run: a C record of its arrays, which it keeps alive. With `training`, what forward keeps for backward."""
    cdef core.fg_sequence s
    cdef core.fg_cell_id cell
    cdef const core.fg_kernels *kernels
    cdef Py_ssize_t rows                      # the sum of lengths
    cdef int type_number
    cdef bint has_c
    cdef int most_shares                      # that the memory is planned for
    cdef object arrays
    cdef readonly Memory cache
    cdef readonly double recomputed           # steps that backward runs forward again

    def __cinit__(self, int cell, call, option, cnp.ndarray order, Py_ssize_t rows, Prepared prepared=None):
        (_, _, self.has_c, N, T, D, H, P, _, x, h0, c0, Wx, Wh, b, bh, peephole, Wr, lengths, position, reverse, training, _, _,
         flat, memory, rhythm, masks, norm, alpha) = <tuple>call
        b, bh = (a if a is None or cnp.PyArray_IS_C_CONTIGUOUS(a) else a.copy() for a in (b, bh))
        cdef core.fg_sequence *s = &self.s

        memset(s, 0, sizeof(core.fg_sequence))
        self.cell = <core.fg_cell_id>cell
        self.kernels = kernels_of(<cnp.ndarray?>x)
        self.type_number = cnp.PyArray_TYPE(<cnp.ndarray>x)
        self.arrays = (x, h0, c0, Wx, Wh, b, bh, peephole, Wr, lengths, order, flat, rhythm, prepared, masks, norm, alpha)
        if prepared is not None:
            s.prepared = prepared.memory.data
        s.N, s.T, s.D, s.H, s.P = N, T, D, H, P
        s.lengths = <int64_t *>data_of(lengths)
        s.order = <int64_t *>data_of(order)
        if flat is not None:
            sequence_start, step_start = <tuple>flat
            s.sequence_start = <int64_t *>data_of(sequence_start)
            s.step_start = <int64_t *>data_of(step_start)
        s.reverse = reverse
        set_option(s, option)
        set_rhythm(s, rhythm)
        s.shares = 1
        s.x = steps_of(x)
        s.h0, s.c0 = rows_of(h0, state_axes(s)), rows_of(c0)
        set_weights(s, Wx, Wh, b, bh, peephole, Wr, alpha, position)
        set_masks(s, masks)
        set_norm(s, norm)
        self.rows = rows
        self.most_shares = INT_MAX
        if training and memory is None:
            self.cache = Memory(self.kernels.cache_size(self.cell, s, rows))
            s.cache = self.cache.data

    def needs(self, Py_ssize_t segment, Py_ssize_t checkpoints):
        """(bytes of cache and scratch, steps to run again) of this call and a backward with all gradients: _checkpoints.Plan."""
        cdef core.fg_sequence s = self.s
        cdef core.fg_stop stop
        s.segment, s.checkpoints = segment, checkpoints
        self.share_out(&s, &stop)
        s.cache = s.dx.data = <void *>&self.s  # so much as: given
        if s.Wh.data != NULL:
            s.Wh.data = <char *>s.Wh.data + 1  # so much as: not in whole cache lines. A copy may lie elsewhere in the next call
        if s.Wr.data != NULL:
            s.Wr.data = <char *>s.Wr.data + 1
        kept = allocated(self.kernels.cache_size(self.cell, &s, self.rows))
        scratch = max(allocated(self.kernels.forward_scratch(self.cell, &s)),
                      allocated(self.kernels.backward_scratch(self.cell, &s, self.rows)))
        return kept + scratch, self.kernels.recomputed_steps(&s)

    def keep(self, plan):
        """Makes room for what a plan keeps."""
        cdef core.fg_stop stop
        self.s.segment, self.s.checkpoints, _, self.recomputed = <tuple>plan
        self.share_out(&self.s, &stop)
        self.most_shares = self.s.shares
        self.cache = Memory(self.kernels.cache_size(self.cell, &self.s, self.rows))
        self.s.cache = self.cache.data

    cdef void share_out(self, core.fg_sequence *s, core.fg_stop *stop) noexcept:
        share_out(self.kernels, self.cell, s, self.rows, stop)
        s.shares = min(s.shares, self.most_shares)

    def forward_into_new(self, cnp.ndarray h):
        """forward() into new arrays: (h_T,) or, for a cell with c, (h_T, c_T)."""
        cdef cnp.npy_intp shape[3]
        cdef int axes = state_axes(&self.s)
        shape[0] = self.s.N
        shape[1] = 0 if self.s.delay == NULL else self.s.delay[self.s.delays - 1]
        shape[axes - 1] = self.s.P
        h_T = cnp.PyArray_EMPTY(axes, shape, self.type_number, 0)
        shape[1] = self.s.H
        c_T = cnp.PyArray_EMPTY(2, shape, self.type_number, 0) if self.has_c else None
        self.forward(h, h_T, c_T)
        return (h_T, c_T) if self.has_c else (h_T,)

    cpdef forward(self, cnp.ndarray h, cnp.ndarray h_T, cnp.ndarray c_T):
        """Fills h (or None) and the final states."""
        cdef core.fg_sequence s = self.s
        cdef core.fg_stop stop
        cdef Memory scratch

        s.h = steps_of(h)
        s.h_T, s.c_T = rows_of(h_T, state_axes(&s)), rows_of(c_T)
        self.share_out(&s, &stop)
        scratch = Memory(self.kernels.forward_scratch(self.cell, &s))
        s.scratch = scratch.data
        run(self.kernels.sequence_forward, self.cell, &s, &stop)

    def backward(self, tuple inputs, cnp.ndarray dh, cnp.ndarray dh_T, cnp.ndarray dc_T, cnp.ndarray dx, cnp.ndarray dh0, cnp.ndarray dc0,
                 cnp.ndarray dWx, cnp.ndarray dWh, cnp.ndarray db, cnp.ndarray dbh, cnp.ndarray dpeephole, cnp.ndarray dWr,
                 cnp.ndarray dh_total=None, cnp.ndarray dc_total=None, tuple dnorm=None, cnp.ndarray dalpha=None):
        """Fills the gradients; None: not wanted. `inputs` are x, Wx, Wh, peephole, Wr, masks, norm, alpha: those of the forward call,
        or copies."""
        cdef core.fg_sequence s = self.s
        cdef core.fg_stop stop
        cdef Memory scratch

        s.x, s.Wx, s.Wh, s.peephole = steps_of(inputs[0]), matrix_of(inputs[1]), matrix_of(inputs[2]), data_of(inputs[3])
        s.Wr, s.dWr = matrix_of(inputs[4]), matrix_of(dWr)
        set_masks(&s, inputs[5])
        set_norm(&s, inputs[6])
        if type(inputs[7]) is not float:
            s.unit_alpha = data_of(inputs[7])
        if dnorm is not None:
            s.dgain_x, s.dgain_h, s.dgain_c, s.dbeta_c = data_of(dnorm[0]), data_of(dnorm[1]), data_of(dnorm[2]), data_of(dnorm[3])
        s.dh = steps_of(dh)
        s.dh_T, s.dc_T = rows_of(dh_T, state_axes(&s)), rows_of(dc_T)
        s.dx = steps_of(dx)
        s.dh0, s.dc0 = rows_of(dh0, state_axes(&s)), rows_of(dc0)
        s.dWx, s.dWh = matrix_of(dWx), matrix_of(dWh)
        s.db, s.dbh, s.dpeephole, s.dalpha = data_of(db), data_of(dbh), data_of(dpeephole), data_of(dalpha)
        s.dh_total, s.dc_total = steps_of(dh_total), steps_of(dc_total)
        self.share_out(&s, &stop)
        scratch = Memory(self.kernels.backward_scratch(self.cell, &s, self.rows))
        s.scratch = scratch.data
        run(self.kernels.sequence_backward, self.cell, &s, &stop)


include "_trees.pxi"
