# Calls over trees, included by _kernels.pyx. Arguments have been judged, by layers/tree.py.


@cython.final
@cython.no_gc_clear
cdef class TreeRun:
    """One call over a forest, ready to run: a C record of its arrays, which it keeps alive. With `training`, what forward keeps."""
    cdef core.fg_sequence s
    cdef core.fg_forest forest
    cdef core.fg_cell_id cell
    cdef const core.fg_kernels *kernels
    cdef object arrays
    cdef readonly Memory cache

    def __cinit__(self, int cell, cnp.ndarray x, forest, cnp.ndarray Wx, cnp.ndarray Wh, cnp.ndarray b, int option, bint training):
        positions, node, level, first_edge, child, parent_place, parent = <tuple>forest
        cdef core.fg_sequence *s = &self.s

        memset(s, 0, sizeof(core.fg_sequence))
        self.cell = <core.fg_cell_id>cell
        self.kernels = kernels_of(x)
        self.arrays = (x, forest, Wx, Wh, b)
        self.forest.positions, self.forest.levels = positions, cnp.PyArray_DIM(<cnp.ndarray?>level, 0) - 1
        self.forest.node, self.forest.level = <int64_t *>data_of(node), <int64_t *>data_of(level)
        self.forest.first_edge, self.forest.child = <int64_t *>data_of(first_edge), <int64_t *>data_of(child)
        self.forest.parent_place, self.forest.parent = <int64_t *>data_of(parent_place), <int64_t *>data_of(parent)
        s.forest = &self.forest
        s.N, s.T, s.D = cnp.PyArray_DIM(x, 0), 1, cnp.PyArray_DIM(x, 1)
        s.H = s.P = cnp.PyArray_DIM(Wh, 0) // max(1, self.forest.positions)
        s.x = steps_of(x)
        s.Wx, s.Wh, s.b = matrix_of(Wx), matrix_of(Wh), data_of(b)
        s.option = option
        if training:
            self.cache = Memory(self.kernels.tree_cache(self.cell, s))
            s.cache = self.cache.data

    cdef int call(self, core.fg_sequence *s, bint is_backward) except -1:
        cdef core.fg_stop stop
        cdef Memory scratch

        set_stop_and_threads(s, &stop)
        if s.shares > 1 and not shares_everything:
            self.kernels.tree_share(self.cell, s, s.shares)
        scratch = Memory(self.kernels.tree_scratch(self.cell, s, is_backward))
        s.scratch = scratch.data
        run(self.kernels.tree_backward if is_backward else self.kernels.tree_forward, self.cell, s, &stop)
        return 0

    def forward(self, cnp.ndarray h, cnp.ndarray c):
        """Fills the states of all nodes, c None for a cell without."""
        cdef core.fg_sequence s = self.s

        s.h, s.c_T = steps_of(h), rows_of(c)
        self.call(&s, False)

    def backward(self, cnp.ndarray dh, cnp.ndarray dc, cnp.ndarray dx, cnp.ndarray dWx, cnp.ndarray dWh, cnp.ndarray db):
        """Fills the gradients; dh, dc None: zeros, dx, db None: not wanted."""
        cdef core.fg_sequence s = self.s

        s.dh, s.dc_T, s.dx = steps_of(dh), rows_of(dc), steps_of(dx)
        s.dWx, s.dWh, s.db = matrix_of(dWx), matrix_of(dWh), data_of(db)
        self.call(&s, True)
