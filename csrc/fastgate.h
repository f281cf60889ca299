/* The C core of fastgate. It knows no Python and prints nothing; but for the team of threads (team.c) it allocates nothing and keeps no
 * state. Every call takes one struct with named fields; scratch memory comes from the caller.
 *
 * Strides count elements, not bytes. A pointer is `void *` because float and double share one source: fg_kernels() hands out
 * the functions of one dtype, and all data of a call are of that dtype. Row and column numbers are ptrdiff_t throughout.
 */
#ifndef FASTGATE_H
#define FASTGATE_H

#include <stddef.h>
#include <stdint.h>

#define FG_EXPORTED __attribute__((visibility("default")))

enum { FG_MAX_GATES = 4 };

enum fg_cell_id {
#define FG_CELL(name) FG_CELL_##name,
#include "cells.def"
#undef FG_CELL
    FG_CELLS
};

enum fg_dtype { FG_F32, FG_F64, FG_DTYPES };

/* Values of fg_sequence.option for the cells `rnn` and `leaky`. */
enum fg_activation { FG_TANH, FG_RELU, FG_SIGMOID, FG_IDENTITY };

/* … for the cell `memory`, on top of an enum fg_activation: h = tanh(c). */
enum fg_memory { FG_TANH_OUTPUT = 4 };

/* … for the cells `lstm` and `lstm_projected`, added up: g = sigmoid(a_g); i = 1 - f. */
enum fg_lstm { FG_SIGMOID_CANDIDATE = 1, FG_COUPLED = 2 };

/* … for the cells `gru_after` and `gru_before`, added up: the update gate z multiplies the candidate n, not h_prev; n is a sigmoid. */
enum fg_gru { FG_NEW = 1, FG_SIGMOID_N = 2 };

/* A batch of rows: element (n, i) at data[n * row + i]. */
typedef struct fg_rows { void *data; ptrdiff_t row; } fg_rows;

/* A batch of sequences: element (n, t, i) at data[n * row + t * step + i]. In fg_sequence two tables may stand for n and t:
 * sequence_start[n] * row, step_start[t] * step. So a flat array of rows, without padding, is a batch with row = step. */
typedef struct fg_steps { void *data; ptrdiff_t row, step; } fg_steps;

/* Factors for the values of a batch of sequences: element (n, t, i) at data[n * row + t * step + i * column], with the tables of
 * fg_steps; column is 1, or 0 where one factor stands for all i. */
typedef struct fg_mask { fg_steps steps; ptrdiff_t column; } fg_mask;

/* A weight matrix in any memory order: element (k, j) at data[k * row + j * column]. */
typedef struct fg_matrix { void *data; ptrdiff_t row, column; } fg_matrix;

/* Threads: a team does share number `share` of `shares` of one piece of work, the caller share 0; the pieces of a call follow one
 * another. How many shares there are differs from piece to piece; 1 where `team` is NULL. */
typedef struct fg_team fg_team;
typedef void fg_work(const void *argument, int share, int shares);

/* The most threads of a call, a setting of the process, read by whoever makes a call. */
FG_EXPORTED void fg_set_num_threads(int threads);
FG_EXPORTED int fg_get_num_threads(void);

/* Gives a long call up: the calling thread asks now and then, and when `asked` returns nonzero, sets `is_set` and leaves early, whatever
 * has been written by then. */
typedef struct fg_stop { int (*asked)(void); int is_set; } fg_stop;

/* At most `threads` threads, and at most one for each CPU that the calling thread may use. NULL: work alone. */
fg_team *fg_team_enter(int threads);
void fg_team_run(fg_team *, fg_work *, const void *argument, int is_long, fg_stop *);   /* is_long: waking a sleeper pays; stop or NULL */
void fg_team_leave(fg_team *);
int fg_cpus(void);
void fg_team_be_strict(int strict);           /* for tests: all threads that were asked for take part in every piece */

/* Trees over N nodes, for a call of a cell over trees: which node is whose child, and an order to compute them in, level by level, leaves
 * first. */
typedef struct fg_forest {
    ptrdiff_t positions;                      /* K: each position of a child has weights of its own; 0: children in no order */
    ptrdiff_t levels;
    const int64_t *node;                      /* (N,), in the order of computation; their numbers there are places */
    const int64_t *level;                     /* (levels + 1,), the first place of each level, and N */
    const int64_t *first_edge;                /* those of a level above the leaves, of position k, or all (K = 1), begin with edge … */
    const int64_t *child, *parent_place;      /* … first_edge[(level - 1) K + k]: the child's node, its parent's place, which rises */
    const int64_t *parent;                    /* (N,), < 0 of a root */
} fg_forest;

/* One call of a cell over N sequences of up to T steps. The caller owns every buffer, and every buffer outlives the call.
 *
 * Rows of `order` and `lengths`: sequence order[i] is the i-th longest and has lengths[order[i]] steps; both NULL: every
 * sequence has T steps. Inside, step t of sequence order[i] is row (number of rows of all earlier steps) + i: the rows that
 * are alive at a step are always the first ones, and padding occupies nothing.
 */
typedef struct fg_sequence {
    ptrdiff_t N, T, D, H;
    ptrdiff_t P;                              /* the width of h; H for every cell but lstm_projected */
    const int64_t *lengths;                   /* (N,) or NULL */
    const int64_t *order;                     /* (N,) or NULL */
    const int64_t *sequence_start;            /* (N,) or NULL; flat x, h, dh, dx, sequence after sequence: the first row of each */
    const int64_t *step_start;                /* (T,) or NULL; flat, step after step: the row of sequence 0 at each step */
    int reverse;                              /* a sequence runs from its own last step to its first */
    int option;                               /* of the cell; rnn, leaky, memory: enum fg_activation, lstm: enum fg_lstm, gru: enum fg_gru */
    double cell_clip, preact_clip;            /* lstm: bounds of |c| and of |a|; 0 = none */
    double grad_clip;                         /* backward: bound of |da|, the gradient of every slot's sum; 0 = none */
    double alpha;                             /* leaky: how much of its state a unit keeps, 0 … 1, … */
    const int64_t *period;                    /* (H,) >= 1, or NULL: unit j changes its state at steps t where (start + t) % period[j] is 0 */
    int64_t start;                            /* >= 0, below 2^62, the number of the first step; t counts steps as they are done */
    const int64_t *delay;                     /* (delays,) >= 1, rising: the product with Wh reads h of so many steps ago; NULL = 1 step … */
    ptrdiff_t delays;                         /* … else Wh, dWh are (delays P, G H), delay by delay; h0, h_T, dh_T, dh0 hold the last */
                                              /* delay[delays - 1] states, (N, so many P), the oldest first; and segment is 0 */
    ptrdiff_t gate_column[FG_MAX_GATES];      /* first column in Wx, Wh, b, bh of each gate, in the cell's own order */

    fg_steps x;                               /* (N, T, D), read */
    fg_rows h0, c0;                           /* (N, P), (N, H), read; data NULL = zeros, row 0 = one state for all */
    fg_matrix Wx, Wh;                         /* (D, G H), (P, G H), read; Wh.data NULL = there is no product with h */
    fg_matrix Wr;                             /* lstm_projected: (H, P), read */
    const void *b, *bh;                       /* (G H,), read; NULL = zeros */
    const void *peephole;                     /* lstm: (3 H,) for i, f, o, read, by backward too; NULL = none */
    const void *unit_alpha;                   /* leaky: … or (H,), a number for each unit, read by backward too; NULL = alpha for all */
    const void *gain_x, *gain_h;              /* normalised cells: (G H,), read, by backward too; NULL = ones */
    const void *gain_c, *beta_c;              /* lstm_norm: (H,), read, by backward too; NULL = c is not normalised, zeros */
    double eps;                               /* normalised cells: added to every variance, > 0 as float */

    fg_mask recurrent_mask;                   /* (N, P) on the left operand of every product with Wh, read by backward too; data NULL = ones */
    fg_mask zoneout_h, zoneout_c;             /* as h and c: how much of its state a unit keeps, read by backward too; data NULL = zeros */

    void *prepared;                           /* these weights and biases as kernels use them, from sequence_prepare(); or NULL */

    fg_steps h;                               /* (N, T, P), written; data NULL = not wanted */
    fg_rows h_T, c_T;                         /* (N, P), (N, H), written; c_T.data NULL for a cell without c */

    /* Kept for backward, sizes from fg_kernels; NULL in a forward call that keeps nothing. Where `segment` is not 0, it holds no more than
     * the first state and `checkpoints` states between segments of so many steps, and backward runs forward again (checkpoints.inc). */
    void *cache;
    ptrdiff_t segment, checkpoints;

    fg_steps dh;                              /* (N, T, P), read; data NULL = zeros */
    fg_rows dh_T, dc_T;                       /* (N, P), (N, H), read; data NULL = zeros */
    fg_steps dx;                              /* (N, T, D), written; data NULL = not wanted, here and below */
    fg_rows dh0, dc0;                         /* (N, P), (N, H), written */
    fg_matrix dWx, dWh, dWr;                  /* as Wx, Wh, Wr, written; row or column stride is 1 */
    void *db, *dbh;                           /* (G H,), written */
    void *dpeephole;                          /* (3 H,), written */
    void *dalpha;                             /* (H,), written, where there is a unit_alpha */
    void *dgain_x, *dgain_h;                  /* (G H,), written */
    void *dgain_c, *dbeta_c;                  /* (H,), written */
    fg_steps dh_total, dc_total;              /* (N, T, P), (N, T, H), written: gradients of the states after each step, dh included */

    /* A call over trees, of rnn or lstm, takes a forest, N, D > 0, H > 0, option (rnn), x, Wx, Wh, b, h and c_T of all nodes, cache, dh, dc_T,
     * dx, dWx, dWh, db, and what follows; all else is 0. Rows of Wx, Wh, dWx, dWh are contiguous. Wh is (K H, H), of lstm
     * (K H, (3 + K) H) with columns i f_1 … f_K g o; K = 1 without positions. */
    const fg_forest *forest;

    void *scratch;                            /* temporary, size from fg_kernels; 64-byte aligned like cache */
    int shares;                               /* most threads of this call, at least 1: scratch has a room for each */
    double step_ns;                           /* a rough estimate for one step on one thread; over trees, of the least work that is shared */
    fg_team *team;                            /* or NULL */
    fg_stop *stop;                            /* or NULL */
} fg_sequence;

/* One array: element (r, c) at data[r * row + c * column], where row or column is 1, and where there is one row, column is 1. */
typedef struct fg_array { void *data; ptrdiff_t rows, columns, row, column; } fg_array;

/* Softmax and cross entropy of N x T rows with K classes: loss = weight (log sum_k exp o_k - o_y). */
typedef struct fg_cross_entropy {
    ptrdiff_t N, T, K;
    fg_steps o;                               /* (N, T, K), read */
    const int64_t *y;                         /* (N, T), read; < 0: the row does not count, its o may hold anything */
    const void *weight;                       /* (N, T), read; NULL = ones */
    double scale;                             /* d_o is multiplied by it */
    void *loss;                               /* (N, T), written; 0 where a row does not count; NULL = not wanted */
    fg_steps d_o;                             /* (N, T, K), written: scale weight (softmax(o) - onehot(y)) */
} fg_cross_entropy;

/* All kernels of one dtype at one instruction-set level. */
typedef struct fg_kernels {
    const char *isa;
    /* Sets shares and step_ns: how many of `threads` threads are worth while in this call. `rows` is the sum of lengths. */
    void (*sequence_share)(enum fg_cell_id, fg_sequence *, ptrdiff_t rows, int threads);
    /* Bytes of `prepared`, `cache` and `scratch` for this very call: every field but these is set, and whether prepared and cache are NULL
     * counts. The caller has made sure that no size overflows. */
    ptrdiff_t (*prepared_size)(enum fg_cell_id, const fg_sequence *);
    ptrdiff_t (*cache_size)(enum fg_cell_id, const fg_sequence *, ptrdiff_t rows);
    ptrdiff_t (*forward_scratch)(enum fg_cell_id, const fg_sequence *);
    ptrdiff_t (*backward_scratch)(enum fg_cell_id, const fg_sequence *, ptrdiff_t rows);
    double (*recomputed_steps)(const fg_sequence *);                      /* that backward runs forward again */
    void (*sequence_prepare)(enum fg_cell_id, const fg_sequence *);       /* fills s->prepared */
    void (*sequence_forward)(enum fg_cell_id, const fg_sequence *);
    void (*sequence_backward)(enum fg_cell_id, const fg_sequence *);
    void (*tree_share)(enum fg_cell_id, fg_sequence *, int threads);      /* sets shares and step_ns */
    ptrdiff_t (*tree_cache)(enum fg_cell_id, const fg_sequence *);
    ptrdiff_t (*tree_scratch)(enum fg_cell_id, const fg_sequence *, int is_backward);
    void (*tree_forward)(enum fg_cell_id, const fg_sequence *);
    void (*tree_backward)(enum fg_cell_id, const fg_sequence *);
    void (*sigmoid)(ptrdiff_t n, const void *x, void *y);
    void (*tanh)(ptrdiff_t n, const void *x, void *y);
    /* sum |x / unit|^p over an array, p > 0; p = inf: the largest |x|, NaN if there is one. */
    double (*sum_of_powers)(const fg_array *, double p, double unit);
    /* x <- x factor 2^exponent, within 1 unit in the last place; factor <= 2, exponent <= 0, x finite. */
    void (*scale)(const fg_array *, double factor, int exponent);
    void (*clamp)(const fg_array *, double limit);        /* x <- sign(x) min(|x|, limit); NaN stays */
    double (*cross_entropy)(const fg_cross_entropy *);    /* returns the sum of the losses, taken in double */
} fg_kernels;

extern const char *const fg_cell_names[FG_CELLS];

/* The kernels in use: the best level that CPU and build have, or the level named by the environment variable FASTGATE_ISA,
 * which is read at every call: ask once. NULL where FASTGATE_ISA names a level that this build or this CPU does not have. */
const fg_kernels *fg_get_kernels(enum fg_dtype);

/* The i-th level that this build and this CPU have, best first; NULL past the last. */
const char *fg_isa_level(int i);

#endif
