"""What csrc/fastgate.h declares, for Cython."""

from libc.stdint cimport int64_t


cdef extern from "fastgate.h" nogil:
    enum:
        FG_MAX_GATES
        FG_CELLS

    enum fg_cell_id:
        pass

    enum fg_dtype:
        FG_F32
        FG_F64

    ctypedef struct fg_team:
        pass

    ctypedef struct fg_stop:
        int (*asked)() noexcept nogil
        int is_set

    void fg_set_num_threads(int threads) noexcept
    int fg_get_num_threads() noexcept
    int fg_cpus() noexcept
    void fg_team_be_strict(int strict) noexcept
    fg_team *fg_team_enter(int threads) noexcept
    void fg_team_leave(fg_team *) noexcept

    ctypedef struct fg_rows:
        void *data
        ptrdiff_t row

    ctypedef struct fg_steps:
        void *data
        ptrdiff_t row
        ptrdiff_t step

    ctypedef struct fg_mask:
        fg_steps steps
        ptrdiff_t column

    ctypedef struct fg_matrix:
        void *data
        ptrdiff_t row
        ptrdiff_t column

    ctypedef struct fg_forest:
        ptrdiff_t positions
        ptrdiff_t levels
        const int64_t *node
        const int64_t *level
        const int64_t *first_edge
        const int64_t *child
        const int64_t *parent_place
        const int64_t *parent

    ctypedef struct fg_sequence:
        ptrdiff_t N
        ptrdiff_t T
        ptrdiff_t D
        ptrdiff_t H
        ptrdiff_t P
        const int64_t *lengths
        const int64_t *order
        const int64_t *sequence_start
        const int64_t *step_start
        int reverse
        int option
        double cell_clip
        double preact_clip
        double grad_clip
        double alpha
        const int64_t *period
        int64_t start
        const int64_t *delay
        ptrdiff_t delays
        ptrdiff_t gate_column[FG_MAX_GATES]
        fg_steps x
        fg_rows h0
        fg_rows c0
        fg_matrix Wx
        fg_matrix Wh
        fg_matrix Wr
        const void *b
        const void *bh
        const void *peephole
        const void *unit_alpha
        const void *gain_x
        const void *gain_h
        const void *gain_c
        const void *beta_c
        double eps
        fg_mask recurrent_mask
        fg_mask zoneout_h
        fg_mask zoneout_c
        void *prepared
        fg_steps h
        fg_rows h_T
        fg_rows c_T
        void *cache
        ptrdiff_t segment
        ptrdiff_t checkpoints
        fg_steps dh
        fg_rows dh_T
        fg_rows dc_T
        fg_steps dx
        fg_rows dh0
        fg_rows dc0
        fg_matrix dWx
        fg_matrix dWh
        fg_matrix dWr
        void *db
        void *dbh
        void *dpeephole
        void *dalpha
        void *dgain_x
        void *dgain_h
        void *dgain_c
        void *dbeta_c
        fg_steps dh_total
        fg_steps dc_total
        const fg_forest *forest
        void *scratch
        int shares
        double step_ns
        fg_team *team
        fg_stop *stop

    ctypedef struct fg_array:
        void *data
        ptrdiff_t rows
        ptrdiff_t columns
        ptrdiff_t row
        ptrdiff_t column

    ctypedef struct fg_cross_entropy:
        ptrdiff_t N
        ptrdiff_t T
        ptrdiff_t K
        fg_steps o
        const int64_t *y
        const void *weight
        double scale
        void *loss
        fg_steps d_o

    ctypedef struct fg_kernels:
        const char *isa
        void (*sequence_share)(fg_cell_id, fg_sequence *, ptrdiff_t rows, int threads) noexcept nogil
        ptrdiff_t (*prepared_size)(fg_cell_id, const fg_sequence *) noexcept nogil
        ptrdiff_t (*cache_size)(fg_cell_id, const fg_sequence *, ptrdiff_t rows) noexcept nogil
        ptrdiff_t (*forward_scratch)(fg_cell_id, const fg_sequence *) noexcept nogil
        ptrdiff_t (*backward_scratch)(fg_cell_id, const fg_sequence *, ptrdiff_t rows) noexcept nogil
        double (*recomputed_steps)(const fg_sequence *) noexcept nogil
        void (*sequence_prepare)(fg_cell_id, const fg_sequence *) noexcept nogil
        void (*sequence_forward)(fg_cell_id, const fg_sequence *) noexcept nogil
        void (*sequence_backward)(fg_cell_id, const fg_sequence *) noexcept nogil
        void (*tree_share)(fg_cell_id, fg_sequence *, int threads) noexcept nogil
        ptrdiff_t (*tree_cache)(fg_cell_id, const fg_sequence *) noexcept nogil
        ptrdiff_t (*tree_scratch)(fg_cell_id, const fg_sequence *, int is_backward) noexcept nogil
        void (*tree_forward)(fg_cell_id, const fg_sequence *) noexcept nogil
        void (*tree_backward)(fg_cell_id, const fg_sequence *) noexcept nogil
        void (*sigmoid)(ptrdiff_t n, const void *x, void *y) noexcept nogil
        void (*tanh)(ptrdiff_t n, const void *x, void *y) noexcept nogil
        double (*sum_of_powers)(const fg_array *, double p, double unit) noexcept nogil
        void (*scale)(const fg_array *, double factor, int exponent) noexcept nogil
        void (*clamp)(const fg_array *, double limit) noexcept nogil
        double (*cross_entropy)(const fg_cross_entropy *) noexcept nogil

    const char *const fg_cell_names[]
    const fg_kernels *fg_get_kernels(fg_dtype) noexcept
    const char *fg_isa_level(int i) noexcept
