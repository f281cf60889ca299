/* The C core without Python: every cell forward and backward, and those over trees, on fixed pseudo-random numbers, for one dtype
 * (DTYPE 32 or 64) at one instruction-set level (ISA). Checks gradients against central differences in double, the same bits with
 * and without a cache, from a second backward and on flat rows, and prints a hash of all result bits: it is the same on every
 * machine and level with FMA. With an argument, every call is shared by so many threads, and several callers do it all at once: the
 * same hash.
 *
 * Left out of the hash: what rests on exp, log and pow of the C library (the loss, norms other than 1, 2 and inf).
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastgate.h"

#define JOIN4(a, b, c, d) a##b##c##d
#define TABLE_NAME(dtype, isa) JOIN4(fg_kernels_f, dtype, _, isa)
extern const fg_kernels TABLE_NAME(DTYPE, ISA);
static const fg_kernels *const kernels = &TABLE_NAME(DTYPE, ISA);

#if DTYPE == 32
typedef float REAL;
#else
typedef double REAL;
#endif

static const char *const cell_names[FG_CELLS] = {
#define FG_CELL(name) #name,
#include "cells.def"
#undef FG_CELL
};

static atomic_int faults;
static int threads = 1;                                           /* of every call */
static void fault(const char *what, const char *where, double value)
{
    fprintf(stderr, "selftest %s f%d: %s, %s: %g\n", kernels->isa, DTYPE, where, what, value);
    faults++;
}

/* ---- Numbers and hash ---- */

static _Thread_local uint64_t random_state;
static double uniform(void)                                       /* splitmix64; in [-1, 1) */
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1;
}

static _Thread_local uint64_t hash = 0xcbf29ce484222325u;
static void add_to_hash(const REAL *x, ptrdiff_t n)               /* FNV-1a, lowest byte first */
{
    for (ptrdiff_t i = 0; i < n; i++) {
        uint64_t bits = 0;
        memcpy(&bits, x + i, sizeof *x);                          /* little-endian machines */
        for (int byte = 0; byte < DTYPE / 8; byte++)
            hash = (hash ^ (bits >> 8 * byte & 255)) * 0x100000001b3u;
    }
}

static void *allocate(ptrdiff_t bytes)                            /* at 64, full of NaN */
{
    void *p = aligned_alloc(64, bytes / 64 * 64 + 64);
    if (p == NULL)
        exit(2);
    return memset(p, 0xff, bytes / 64 * 64 + 64);
}

/* ---- One problem ---- */

enum buffer {
    X, H0, C0, WX, WH, B, BH, P, WR, GX, GH, GC, BC, ALPHA,       /* inputs; gains and beta of normalised cells */
    DX, DH0, DC0, DWX, DWH, DB, DBH, DP, DWR, DGX, DGH, DGC, DBC, DALPHA,   /* their gradients, in the same order */
    DH_TOTAL, DC_TOTAL,                                           /* gradients of the states after each step */
    H_, H_T, C_T, DH, DH_T, DC_T,                                 /* outputs, and the gradients that arrive at them */
    BUFFERS
};
enum { INPUTS = DX, OUTPUTS = DH - H_ };
static const char *const input_names[INPUTS] = { "x", "h0", "c0", "Wx", "Wh", "b", "bh", "peephole", "Wr",
                                                    "gain_x", "gain_h", "gain_c", "beta_c", "alpha" };

struct problem {
    enum fg_cell_id cell;
    int has_c, has_peephole, has_Wr, has_norm, has_gain_c, has_alpha, has_masks;
    fg_sequence s;
    REAL *mask[3];                                                /* recurrent, of h, of c; or NULL */
    ptrdiff_t rows, size[BUFFERS];
    REAL *data[BUFFERS];                                          /* exactly as large as the arrays: a sanitizer sees every overrun */
};

/* Odd variants: time-major, transposed weights, gates in reverse order, ragged, from last step to first. Of three sizes one with units
 * that have periods, in runs that fill panels where there are enough of them, and one with delays. */
static void make_problem(struct problem *p, int variant, ptrdiff_t N, ptrdiff_t T, ptrdiff_t D, ptrdiff_t H)
{
    static const int64_t delay[2][2] = { { 1, 3 }, { 2, 3 } };
    const int has_delays = variant / 2 % 3 == 1;
    const ptrdiff_t width = FG_MAX_GATES * H, odd = variant % 2, h_width = p->has_Wr ? H / 2 + 1 : H;
    const ptrdiff_t left = (has_delays ? 2 : 1) * h_width, states = (has_delays ? delay[odd][1] : 1) * h_width;
    const ptrdiff_t size[BUFFERS] = {
        [X] = N * T * D, [H0] = N * states, [C0] = N * H, [WX] = D * width, [WH] = left * width, [B] = width, [BH] = width,
        [P] = 3 * H, [WR] = H * h_width, [GX] = width, [GH] = width, [GC] = H, [BC] = H, [ALPHA] = H,
        [H_] = N * T * h_width, [H_T] = N * states, [C_T] = N * H };
    fg_sequence *s = &p->s;

    memset(s, 0, sizeof *s);
    s->N = N, s->T = T, s->D = D, s->H = H, s->P = h_width;
    s->reverse = (int)odd;
    if (has_delays)
        s->delay = delay[odd], s->delays = 2;
    p->rows = N * T;
    for (int i = 0; i < BUFFERS; i++) {
        p->size[i] = i < DX || (i >= H_ && i < DH) ? size[i] : i < DH_TOTAL ? size[i - DX] : i == DH_TOTAL ? size[H_]
                     : i == DC_TOTAL ? N * T * H : size[i - DH + H_];
        p->data[i] = malloc(p->size[i] * sizeof(REAL) + !p->size[i]);
        const double loop = i == WH && p->cell == FG_CELL_memory ? 0.1 : 1;   /* what is added up grows by what comes back */
        const double scale = i == WX ? 1 / sqrt((double)D + 1) : i == WH || i == WR ? loop / sqrt((double)H + 1) : 1;
        for (ptrdiff_t j = 0; j < p->size[i]; j++)
            p->data[i][j] = (REAL)((i >= DX && i < DH) ? 0 : i == ALPHA ? (1 + uniform()) / 2 : scale * uniform());
    }
    if (odd) {
        int64_t *lengths = malloc(N * sizeof *lengths + 1), *order = malloc(N * sizeof *order + 1);
        p->rows = 0;
        for (ptrdiff_t n = 0; n < N; n++) {                       /* order: the i-th longest is sequence N - 1 - i */
            lengths[n] = N == 1 ? T : n * T / (N - 1);
            order[N - 1 - n] = n;
            p->rows += lengths[n];
        }
        s->lengths = lengths, s->order = order;
    }
    if (!p->has_Wr && !p->has_gain_c && variant / 2 % 3 == 2) {
        int64_t *period = malloc(H * sizeof *period + 1);
        for (ptrdiff_t j = 0; j < H; j++)
            period[j] = odd ? 1 + 5 * j % 3 : 1 + 3 * j / H;
        s->period = period, s->start = 1 + odd;
    }
    for (int g = 0; g < FG_MAX_GATES; g++)
        s->gate_column[g] = (odd ? FG_MAX_GATES - 1 - g : g) * H;

#define STEPS(i, K) (odd ? (fg_steps){ p->data[i], K, N * (K) } : (fg_steps){ p->data[i], T * (K), K })
#define ROWS(i, K) ((fg_rows){ p->data[i], K })
#define MATRIX(i, K, columns) (odd ? (fg_matrix){ p->data[i], 1, K } : (fg_matrix){ p->data[i], columns, 1 })
    s->x = STEPS(X, D), s->h = STEPS(H_, h_width), s->dh = STEPS(DH, h_width), s->dx = STEPS(DX, D);
    s->dh_total = STEPS(DH_TOTAL, h_width);
    s->h0 = ROWS(H0, states), s->h_T = ROWS(H_T, states), s->dh_T = ROWS(DH_T, states), s->dh0 = ROWS(DH0, states);
    s->Wx = MATRIX(WX, D, width), s->Wh = MATRIX(WH, left, width);
    s->dWx = MATRIX(DWX, D, width), s->dWh = MATRIX(DWH, left, width);
    s->b = p->data[B], s->bh = p->data[BH], s->db = p->data[DB], s->dbh = p->data[DBH];
    if (p->has_peephole)
        s->peephole = p->data[P], s->dpeephole = p->data[DP];
    if (p->has_alpha)
        s->unit_alpha = p->data[ALPHA], s->dalpha = p->data[DALPHA];
    if (p->has_norm)
        s->gain_x = p->data[GX], s->gain_h = p->data[GH], s->dgain_x = p->data[DGX], s->dgain_h = p->data[DGH], s->eps = 0.25;
    if (p->has_gain_c)
        s->gain_c = p->data[GC], s->beta_c = p->data[BC], s->dgain_c = p->data[DGC], s->dbeta_c = p->data[DBC];
    if (p->has_Wr)
        s->Wr = MATRIX(WR, H, h_width), s->dWr = MATRIX(DWR, H, h_width);
    for (int i = 0; i < 3 && p->has_masks; i++) {
        const ptrdiff_t factors = i == 0 ? N * h_width : i == 1 ? N * T * h_width : N * T * H, width_i = i < 2 ? h_width : H;
        p->mask[i] = malloc(factors * sizeof(REAL) + 1);
        for (ptrdiff_t j = 0; j < factors; j++)
            p->mask[i][j] = (REAL)(i ? 0.5 + 0.5 * uniform() : 1 + uniform());
        const fg_steps steps = odd ? (fg_steps){ p->mask[i], width_i, N * width_i } : (fg_steps){ p->mask[i], T * width_i, width_i };
        *(fg_mask *[]){ &s->recurrent_mask, &s->zoneout_h, &s->zoneout_c }[i] =
            (fg_mask){ i ? steps : (fg_steps){ p->mask[i], width_i, 0 }, 1 };
    }
    if (!p->has_c)
        s->zoneout_c.steps.data = NULL;
    if (p->has_c)
        s->c0 = ROWS(C0, H), s->c_T = ROWS(C_T, H), s->dc_T = ROWS(DC_T, H), s->dc0 = ROWS(DC0, H),
        s->dc_total = STEPS(DC_TOTAL, H);
}

static void free_problem(struct problem *p)
{
    for (int i = 0; i < BUFFERS; i++)
        free(p->data[i]);
    for (int i = 0; i < 3; i++)
        free(p->mask[i]);
    free((void *)p->s.lengths);
    free((void *)p->s.order);
    free((void *)p->s.period);
    free(p->s.cache);
}

static void forward(struct problem *p)
{
    const int is_tree = p->s.forest != NULL;

    p->s.shares = threads;
    p->s.scratch = allocate(is_tree ? kernels->tree_scratch(p->cell, &p->s, 0) : kernels->forward_scratch(p->cell, &p->s));
    p->s.team = fg_team_enter(threads);
    (is_tree ? kernels->tree_forward : kernels->sequence_forward)(p->cell, &p->s);
    fg_team_leave(p->s.team);
    free(p->s.scratch);
}

static void forward_and_keep(struct problem *p)
{
    free(p->s.cache);
    p->s.cache = allocate(p->s.forest ? kernels->tree_cache(p->cell, &p->s) : kernels->cache_size(p->cell, &p->s, p->rows));
    forward(p);
}

static void backward(struct problem *p)
{
    const int is_tree = p->s.forest != NULL;

    p->s.shares = threads;
    p->s.scratch = allocate(is_tree ? kernels->tree_scratch(p->cell, &p->s, 1) : kernels->backward_scratch(p->cell, &p->s, p->rows));
    p->s.team = fg_team_enter(threads);
    (is_tree ? kernels->tree_backward : kernels->sequence_backward)(p->cell, &p->s);
    fg_team_leave(p->s.team);
    free(p->s.scratch);
}

/* Runs `again` and demands that buffers first … first + count keep their bits. */
static void same_again(struct problem *p, const char *what, void (*again)(struct problem *), int first, int count)
{
    REAL *before[BUFFERS];
    for (int i = first; i < first + count; i++) {
        before[i] = malloc(p->size[i] * sizeof(REAL) + 1);
        memcpy(before[i], p->data[i], p->size[i] * sizeof(REAL));
    }
    again(p);
    for (int i = first; i < first + count; i++) {
        if (memcmp(before[i], p->data[i], p->size[i] * sizeof(REAL)))
            fault(what, cell_names[p->cell], i);
        free(before[i]);
    }
}

static void forward_without_cache(struct problem *p)
{
    void *cache = p->s.cache;
    p->s.cache = NULL;
    forward(p);
    p->s.cache = cache;
}

/* Forward and backward, whose bits go into the hash and come again. */
static void check_bits(struct problem *p)
{
    forward_and_keep(p);
    for (int i = H_; i < H_ + OUTPUTS; i++)
        add_to_hash(p->data[i], p->size[i]);
    same_again(p, "other bits without a cache", forward_without_cache, H_, OUTPUTS);
    backward(p);
    for (int i = DX; i < H_; i++)
        add_to_hash(p->data[i], p->size[i]);
    same_again(p, "other bits from a second backward", backward, DX, H_ - DX);
}

/* Forward and backward on flat rows, sequence after sequence; results move back to where padding is. */
static void on_flat_rows(struct problem *p)
{
    fg_sequence *s = &p->s;
    enum { READ = 4, WRITTEN = 4 };
    fg_steps *const steps[] = { &s->x, &s->dh, &s->zoneout_h.steps, &s->zoneout_c.steps, &s->h, &s->dx, &s->dh_total, &s->dc_total };
    const fg_steps padded[] = { s->x, s->dh, s->zoneout_h.steps, s->zoneout_c.steps, s->h, s->dx, s->dh_total, s->dc_total };
    const ptrdiff_t width[] = { s->D, s->P, s->P, s->H, s->P, s->D, s->P, s->H };
    int64_t *start = malloc(s->N * sizeof *start + 1);
    ptrdiff_t rows = 0;

    for (ptrdiff_t n = 0; n < s->N; n++) {
        start[n] = rows;
        rows += s->lengths ? s->lengths[n] : s->T;
    }
    for (int i = 0; i < READ + WRITTEN; i++)
        if (padded[i].data)
            *steps[i] = (fg_steps){ malloc(rows * width[i] * sizeof(REAL) + 1), width[i], width[i] };
    s->sequence_start = start;
    for (int results = 0; results < 2; results++) {
        for (ptrdiff_t n = 0; n < s->N; n++)
            for (ptrdiff_t t = 0; t < (n + 1 < s->N ? start[n + 1] : rows) - start[n]; t++)
                for (int i = results ? READ : 0; i < READ + (results ? WRITTEN : 0); i++) {
                    if (!padded[i].data)
                        continue;
                    REAL *there = (REAL *)padded[i].data + n * padded[i].row + t * padded[i].step;
                    REAL *here = (REAL *)steps[i]->data + (start[n] + t) * width[i];
                    memcpy(results ? there : here, results ? here : there, width[i] * sizeof(REAL));
                }
        if (!results) {
            forward_and_keep(p);
            backward(p);
        }
    }
    for (int i = 0; i < READ + WRITTEN; i++) {
        if (padded[i].data)
            free(steps[i]->data);
        *steps[i] = padded[i];
    }
    s->sequence_start = NULL;
    free(start);
}

/* Forward and backward where few states are kept between. */
static void from_checkpoints(struct problem *p)
{
    p->s.segment = p->s.T > 6 ? 2 : 1;
    p->s.checkpoints = 1;
    forward_and_keep(p);
    backward(p);
    p->s.segment = p->s.checkpoints = 0;
    forward_and_keep(p);
}

/* The loss whose gradients arrive: sum of outputs times what arrives at them. */
static double loss(struct problem *p)
{
    double sum = 0;
    forward_without_cache(p);
    for (int i = H_; i < H_ + OUTPUTS; i++)
        for (ptrdiff_t j = 0; j < p->size[i] && (i != C_T || p->has_c); j++)
            sum += (double)p->data[i][j] * p->data[i + OUTPUTS][j];
    return sum;
}

/* The derivative of the loss along a random direction in each input: from backward, and as a central difference. */
static double check_gradients(struct problem *p)
{
    double worst = 0;

    for (int i = 0; i < INPUTS; i++) {
        if ((i == C0 && !p->has_c) || (i == P && !p->has_peephole) || (i == WR && !p->has_Wr)
            || ((i == GX || i == GH) && !p->has_norm) || ((i == GC || i == BC) && !p->has_gain_c)
            || (i == ALPHA && !p->has_alpha))
            continue;
        const double step = 1e-5;
        double exact = 0, size = 0, ends[2];
        REAL *x = p->data[i], *start = malloc(p->size[i] * sizeof *x + 1), *direction = malloc(p->size[i] * sizeof *x + 1);
        memcpy(start, x, p->size[i] * sizeof *x);
        for (ptrdiff_t j = 0; j < p->size[i]; j++) {
            direction[j] = (REAL)uniform();
            exact += (double)direction[j] * p->data[DX + i][j];
            size += fabs((double)direction[j] * p->data[DX + i][j]);
        }
        for (int end = 0; end < 2; end++) {
            for (ptrdiff_t j = 0; j < p->size[i]; j++)
                x[j] = start[j] + (REAL)(end ? -step : step) * direction[j];
            ends[end] = loss(p);
        }
        memcpy(x, start, p->size[i] * sizeof *x);
        free(start);
        free(direction);

        const double error = fabs((ends[0] - ends[1]) / (2 * step) - exact) / (size + 1e-3);
        if (!(error <= 1e-7))
            fault(input_names[i], cell_names[p->cell], error);
        worst = error > worst ? error : worst;
    }
    return worst;
}

/* Whether h has a width of its own. */
static int is_projected(enum fg_cell_id cell) { return cell == FG_CELL_lstm_projected; }
static int is_normalised(enum fg_cell_id cell) { return cell == FG_CELL_lstm_norm || cell == FG_CELL_gru_norm; }
static int is_lstm(enum fg_cell_id cell) { return cell == FG_CELL_lstm || is_projected(cell); }

/* c_T is written by a cell that has a second state. */
static int cell_has_c(enum fg_cell_id cell)
{
    struct problem p = { .cell = cell, .has_c = 1, .has_Wr = is_projected(cell) };
    random_state = 1;
    make_problem(&p, 0, 1, 1, 1, 1);
    p.data[C_T][0] = NAN;
    p.s.dc0.data = NULL;
    forward(&p);
    const int has_c = !isnan(p.data[C_T][0]);
    free_problem(&p);
    return has_c;
}

/* Options of a cell: values of fg_sequence.option; of gru and lstm, both added up in all ways. Each of lstm plain, with a peephole,
 * and with a peephole and bounds that clip; each of leaky with one alpha, with one for each unit, and so without Wh; lstm_norm without
 * and with a normalised c. */
enum { LSTM_OPTIONS = 4, LSTM_WITH = 3, LEAKY_OPTIONS = FG_IDENTITY + 1, LEAKY_WITH = 3 };
static int option_count(enum fg_cell_id cell)
{
    switch (cell) {
    case FG_CELL_rnn:
        return FG_IDENTITY + 1;
    case FG_CELL_gru_after:
    case FG_CELL_gru_before:
        return (FG_NEW | FG_SIGMOID_N) + 1;
    case FG_CELL_lstm:
    case FG_CELL_lstm_projected:
        return LSTM_OPTIONS * LSTM_WITH;
    case FG_CELL_memory:
        return FG_TANH_OUTPUT + FG_IDENTITY + 1;
    case FG_CELL_leaky:
        return LEAKY_OPTIONS * LEAKY_WITH;
    case FG_CELL_lstm_norm:
        return 2;
    default:
        return 1;
    }
}

/* Recurrent dropout and zoneout: with the plain cell, and with a peephole. */
static int is_masked_too(enum fg_cell_id cell, int option)
{
    return option == 0 || (cell == FG_CELL_lstm && option == LSTM_OPTIONS) || (cell == FG_CELL_leaky && option == LEAKY_OPTIONS)
           || cell == FG_CELL_lstm_norm;
}

static double check_cells(void)
{
    static const struct { ptrdiff_t N, T, D, H; } sizes[] = {
        { 3, 5, 4, 7 }, { 1, 6, 5, 16 }, { 18, 4, 33, 17 }, { 2, 2, 3, 1 }, { 33, 3, 9, 34 }, { 5, 140, 3, 5 }, { 1, 1, 130, 12 },
        { 3, 0, 4, 5 }, { 0, 3, 4, 5 }, { 2, 3, 150, 8 } };
    double worst = 0;

    for (int cell = 0; cell < FG_CELLS; cell++) {
        const int has_c = cell_has_c(cell), options = option_count(cell);
        for (int variant = 0; variant < 2 * (int)(sizeof sizes / sizeof *sizes); variant++)
            for (int call = 0; call < 2 * options; call++) {
                const int values = is_normalised(cell) ? 1 : is_lstm(cell) ? LSTM_OPTIONS
                                   : cell == FG_CELL_leaky ? LEAKY_OPTIONS : options;
                const int option = call / 2, is_masked = call % 2, with = option / values;
                struct problem p = { .cell = cell, .has_c = has_c, .has_peephole = is_lstm(cell) && with > 0,
                                     .has_Wr = is_projected(cell), .has_alpha = cell == FG_CELL_leaky && with > 0,
                                     .has_norm = is_normalised(cell), .has_gain_c = is_normalised(cell) && option,
                                     .has_masks = is_masked };
                if (is_masked && !is_masked_too(cell, option))
                    continue;
                random_state = 1000 * variant + option;
                make_problem(&p, variant, sizes[variant / 2].N, sizes[variant / 2].T, sizes[variant / 2].D, sizes[variant / 2].H);
                p.s.option = option % values;
                p.s.cell_clip = is_lstm(cell) && with == 2 ? 0.5 : 0;
                p.s.preact_clip = is_lstm(cell) && with == 2 ? 1.5 : 0;
                p.s.alpha = 0.75;
                if (cell == FG_CELL_leaky && with == 2)
                    p.s.Wh.data = p.s.dWh.data = NULL, p.s.delay = NULL;
                check_bits(&p);
                same_again(&p, "other bits on flat rows", on_flat_rows, DX, DH - DX);
                if (p.s.delay == NULL)
                    same_again(&p, "other bits from checkpoints", from_checkpoints, DX, DH - DX);
                if (DTYPE == 64 && threads == 1 && p.s.cell_clip == 0) {  /* a difference may straddle a bound */
                    const double error = check_gradients(&p);
                    worst = error > worst ? error : worst;
                }
                free_problem(&p);
            }
    }
    return worst;
}

/* ---- Trees ---- */

/* N nodes, drawn one by one: each takes some of those before it that have no parent yet. Their numbers run the other way. */
struct trees {
    fg_forest forest;
    int64_t *parent, *position, *height, *node, *level, *first_edge, *child, *parent_place;
};

static void make_trees(struct trees *t, ptrdiff_t N, ptrdiff_t positions)
{
    const ptrdiff_t lists = positions ? positions : 1, slots = positions ? positions : 5;
    int64_t **const arrays[] = { &t->parent, &t->position, &t->height, &t->node, &t->level, &t->child, &t->parent_place }, *free_node;
    ptrdiff_t levels = 0, count = 0, edges = 0, place = 0;

    for (int i = 0; i < 7; i++)
        *arrays[i] = calloc(N + 1, sizeof(int64_t));
    t->first_edge = calloc(N * lists + 1, sizeof(int64_t));
    free_node = calloc(N + 1, sizeof(int64_t));
    for (ptrdiff_t n = N - 1; n >= 0; n--) {
        t->parent[n] = -1;
        for (ptrdiff_t k = 0; k < slots; k++)
            if (count > 0 && uniform() < 0.4) {
                const ptrdiff_t chosen = (ptrdiff_t)((uniform() + 1) / 2 * (double)count), child = free_node[chosen];
                free_node[chosen] = free_node[--count];
                t->parent[child] = n;
                t->position[child] = k;
                t->height[n] = t->height[n] > t->height[child] ? t->height[n] : t->height[child] + 1;
            }
        free_node[count++] = n;
        levels = levels > t->height[n] ? levels : t->height[n] + 1;
    }
    for (ptrdiff_t l = 0; l < levels; l++) {
        t->level[l] = place;
        for (ptrdiff_t n = 0; n < N; n++)
            if (t->height[n] == l)
                t->node[place++] = n;
        for (ptrdiff_t k = 0; k < lists && l > 0; k++, t->first_edge[(l - 1) * lists + k] = edges)
            for (ptrdiff_t p = t->level[l]; p < place; p++)
                for (ptrdiff_t n = 0; n < N; n++)
                    if (t->parent[n] == t->node[p] && (!positions || t->position[n] == k)) {
                        t->parent_place[edges] = p;
                        t->child[edges++] = n;
                    }
    }
    t->level[levels] = N;
    free(free_node);
    t->forest = (fg_forest){ positions, levels, t->node, t->level, t->first_edge, t->child, t->parent_place, t->parent };
}

static void free_trees(struct trees *t)
{
    int64_t *const arrays[] = { t->parent, t->position, t->height, t->node, t->level, t->first_edge, t->child, t->parent_place };
    for (int i = 0; i < 8; i++)
        free(arrays[i]);
}

static void make_tree_problem(struct problem *p, const struct trees *t, ptrdiff_t N, ptrdiff_t D, ptrdiff_t H)
{
    const ptrdiff_t K = t->forest.positions ? t->forest.positions : 1, G = p->has_c ? 4 : 1, columns = (G - 1 + (p->has_c ? K : 1)) * H;
    const ptrdiff_t size[BUFFERS] = { [X] = N * D, [WX] = D * G * H, [WH] = K * H * columns, [B] = G * H, [H_] = N * H,
                                      [C_T] = p->has_c ? N * H : 0 };
    fg_sequence *s = &p->s;

    memset(s, 0, sizeof *s);
    s->N = N, s->T = 1, s->D = D, s->H = s->P = H, s->forest = &t->forest;
    for (int i = 0; i < BUFFERS; i++) {
        p->size[i] = i < DX || (i >= H_ && i < DH) ? size[i] : i < DH_TOTAL ? size[i - DX] : i < H_ ? 0 : size[i - DH + H_];
        p->data[i] = malloc(p->size[i] * sizeof(REAL) + !p->size[i]);
        for (ptrdiff_t j = 0; j < p->size[i]; j++)
            p->data[i][j] = (REAL)(uniform() / (i == WX ? sqrt((double)D + 1) : i == WH ? sqrt((double)H + 1) : 1));
    }
    s->x = (fg_steps){ p->data[X], D, D }, s->h = (fg_steps){ p->data[H_], H, H }, s->dh = (fg_steps){ p->data[DH], H, H };
    s->dx = (fg_steps){ p->data[DX], D, D };
    if (p->has_c)
        s->c_T = ROWS(C_T, H), s->dc_T = ROWS(DC_T, H);
    s->Wx = (fg_matrix){ p->data[WX], G * H, 1 }, s->dWx = (fg_matrix){ p->data[DWX], G * H, 1 };
    s->Wh = (fg_matrix){ p->data[WH], columns, 1 }, s->dWh = (fg_matrix){ p->data[DWH], columns, 1 };
    s->b = p->data[B], s->db = p->data[DB];
}

static double check_trees(void)
{
    static const struct { ptrdiff_t N, D, H; } sizes[] = {
        { 1, 3, 5 }, { 40, 4, 7 }, { 150, 20, 33 }, { 1600, 3, 16 }, { 30, 9, 70 }, { 0, 3, 4 } };
    double worst = 0;

    for (int variant = 0; variant < 2 * (int)(sizeof sizes / sizeof *sizes); variant++)
        for (ptrdiff_t positions = 0; positions < 4; positions++) {
            struct trees t;
            struct problem p = { .cell = variant % 2 ? FG_CELL_lstm : FG_CELL_rnn, .has_c = variant % 2 };

            random_state = 100 * variant + positions;
            make_trees(&t, sizes[variant / 2].N, positions);
            make_tree_problem(&p, &t, sizes[variant / 2].N, sizes[variant / 2].D, sizes[variant / 2].H);
            check_bits(&p);
            if (DTYPE == 64 && threads == 1) {
                const double error = check_gradients(&p);
                worst = error > worst ? error : worst;
            }
            free_problem(&p);
            free_trees(&t);
        }
    return worst;
}

/* ---- Everything else in the table ---- */

static void check_activations(void)
{
    enum { COUNT = 4099 };
    REAL *x = malloc(COUNT * sizeof *x), *y = malloc(COUNT * sizeof *y);

    random_state = 2;
    for (int i = 0; i < COUNT; i++)
        x[i] = (REAL)(uniform() * exp2(1 + i % 9));
    x[0] = 0, x[1] = -x[0], x[2] = INFINITY, x[3] = -INFINITY;
    kernels->sigmoid(COUNT, x, y);
    add_to_hash(y, COUNT);
    for (int i = 0; i < COUNT; i++)
        if (!(fabs(y[i] - 1 / (1 + exp(-(double)x[i]))) <= (DTYPE == 32 ? 2e-7 : 4e-16)))
            fault("sigmoid", "activations", (double)x[i]);
    kernels->tanh(COUNT, x, y);
    add_to_hash(y, COUNT);
    for (int i = 0; i < COUNT; i++)
        if (!(fabs(y[i] - tanh((double)x[i])) <= (DTYPE == 32 ? 2e-7 : 4e-16)))
            fault("tanh", "activations", (double)x[i]);
    free(x);
    free(y);
}

static void check_clipping(void)
{
    enum { ROWS = 70, COLUMNS = 150 };
    REAL *x = malloc(ROWS * COLUMNS * sizeof *x);

    random_state = 3;
    for (int transposed = 0; transposed < 2; transposed++) {
        const fg_array a = { x, ROWS, COLUMNS, transposed ? 1 : COLUMNS, transposed ? ROWS : 1 };
        double sum = 0;
        for (int i = 0; i < ROWS * COLUMNS; i++) {
            x[i] = (REAL)uniform();
            sum += (double)x[i] * x[i];
        }
        const double powers[] = { kernels->sum_of_powers(&a, 1, 1), kernels->sum_of_powers(&a, 2, 1),
                                  kernels->sum_of_powers(&a, INFINITY, 1) };
        if (!(fabs(powers[1] - sum) <= 1e-9 * sum))
            fault("sum of squares", "clipping", powers[1] - sum);
        for (int i = 0; i < 3; i++)
            add_to_hash(&(REAL){ (REAL)powers[i] }, 1);
        kernels->scale(&a, 1.1 / sqrt(powers[1]), -1);
        add_to_hash(x, ROWS * COLUMNS);
        kernels->clamp(&a, 0.01);
        add_to_hash(x, ROWS * COLUMNS);
    }
    free(x);
}

static void check_loss(void)
{
    enum { ROWS = 9, K = 21 };
    REAL *o = malloc(ROWS * K * sizeof *o), *d_o = malloc(ROWS * K * sizeof *o);
    int64_t y[ROWS];
    double expected = 0;

    random_state = 4;
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;
        y[r] = r == 4 ? -1 : r;
        for (int k = 0; k < K; k++) {
            o[r * K + k] = (REAL)(5 * uniform());
            sum += exp(o[r * K + k]);
        }
        if (r != 4)
            expected += log(sum) - o[r * K + r];
    }
    const double sum = kernels->cross_entropy(&(fg_cross_entropy){
        .N = ROWS, .T = 1, .K = K, .o = { o, K, K }, .y = y, .scale = 1, .d_o = { d_o, K, K } });
    if (!(fabs(sum - expected) <= (DTYPE == 32 ? 1e-5 : 1e-12)))
        fault("cross entropy", "loss", sum - expected);
    free(o);
    free(d_o);
}

static void *check_cells_too(void *found)
{
    check_cells();
    check_trees();
    *(uint64_t *)found = hash;
    return NULL;
}

int main(int count, char **argument)
{
    enum { CALLERS = 2 };                                         /* besides this one */
    pthread_t caller[CALLERS];
    uint64_t found[CALLERS];

    threads = count > 1 ? atoi(argument[1]) : 1;
    fg_team_be_strict(threads > 1);
    for (int i = 0; i < CALLERS && threads > 1; i++)
        if (pthread_create(&caller[i], NULL, check_cells_too, &found[i]))
            exit(2);
    const double of_cells = check_cells(), of_trees = check_trees(), worst = of_cells > of_trees ? of_cells : of_trees;
    for (int i = 0; i < CALLERS && threads > 1; i++)
        if (pthread_join(caller[i], NULL) || found[i] != hash)
            fault("other bits from callers at once", "threads", i);
    check_activations();
    check_clipping();
    check_loss();
    printf("%016llx", (unsigned long long)hash);
    if (DTYPE == 64 && threads == 1)
        printf("  gradients within %.0e of central differences", worst);
    putchar('\n');
    return faults > 0;
}
