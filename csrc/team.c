/* Threads: the caller and its helpers do shares of one piece of work, again and again.
 *
 * One team serves the process, one call at a time: a call that finds it taken works alone. Helpers are optional. A helper that still
 * sleeps when a short piece is shared out is woken and joins at a later one; after one that is late, because its CPU was given to somebody
 * else, the caller works alone for as long as it had to wait, and twice as long each time this comes again soon, up to MOST_PATIENCE times:
 * a hiccup costs little, and however many others want the CPUs, little more than 1 / MOST_PATIENCE of the time is spent waiting.
 *
 * A helper's state is one atomic word:
 *
 *     READY --caller: share--> WORK --helper: done--> READY        plain data pass with these two: release, acquire
 *     WORK --caller: sleeps--> AWAITED --helper: done--> READY     and the caller is woken
 *     READY --helper: tired--> ASLEEP --caller: wake--> CALLED --helper--> READY
 *
 * Every change is one compare-and-swap or exchange by the side named, so no share is lost and none is done twice; the caller writes
 * a helper's share in no other states than READY, ASLEEP and CALLED, the helper reads it only in WORK and AWAITED. tests/team.pml is
 * this protocol for a model checker.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdlib.h>

#include "fastgate.h"

static _Atomic int num_threads = 1;
void fg_set_num_threads(int threads) { atomic_store(&num_threads, threads > 1 ? threads : 1); }
int fg_get_num_threads(void) { return atomic_load_explicit(&num_threads, memory_order_relaxed); }

#ifdef __linux__
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum state { READY, WORK, AWAITED, ASLEEP, CALLED };

enum {
    SPIN_NS = 100 * 1000,                     /* a helper waits so long for work, then sleeps … */
    CALL_SPIN_NS = 5 * 1000 * 1000,           /* … and so long while a call is under way */
    AWAIT_NS = 50 * 1000,                     /* the caller waits so long for a helper, then sleeps … */
    ASK_NS = 50 * 1000 * 1000,                /* … and so often looks whether the call is to be given up */
    LATE_NS = 200 * 1000,                     /* a helper is late after this, and after twice the usual time of a piece, … */
    WAKE_NS = 200 * 1000,                     /* … and this time more if it slept */
    MOST_PATIENCE = 16                        /* also: late again within so many times the wait is soon */
};

struct share { fg_work *work; const void *argument; int number, count; uint32_t mode; };

struct helper {
    _Alignas(64) _Atomic uint32_t state;
    pthread_t thread;
    struct share share;
    int joins, was_ready;                     /* of the piece of work that is being shared out */
};

struct fg_team {
    _Atomic int is_taken;
    int helpers, room;                        /* that exist; that fit in `helper` */
    struct helper **helper;
    int wanted, is_late;                      /* of this call */
    int64_t began, pieces;                    /* of this call: since when, and how many pieces done */
    int64_t alone_until, patience;            /* after a late helper: no helpers until then, which was `patience` times the wait */
};
static fg_team the_team;
static _Thread_local int has_team;            /* the calling thread has taken it */

static _Atomic int is_strict;
void fg_team_be_strict(int strict) { atomic_store(&is_strict, strict); }

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * (int64_t)1000000000 + t.tv_nsec;
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* The floating-point mode of the calling thread (rounding, subnormals): helpers work in the caller's, so that no share rounds otherwise. */
static uint32_t get_mode(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_stmxcsr() & ~0x3fu;                        /* without the exceptions that have occurred */
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return (uint32_t)mode;
#else
    return 0;
#endif
}

static void set_mode(uint32_t mode)
{
    if (mode == get_mode())
        return;
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode));
#endif
}

static void sleep_while(_Atomic uint32_t *state, uint32_t value, const struct timespec *limit)
{
    syscall(SYS_futex, state, FUTEX_WAIT_PRIVATE, value, limit, NULL, 0);
}

static void wake(_Atomic uint32_t *state) { syscall(SYS_futex, state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0); }

static int change(_Atomic uint32_t *state, uint32_t from, uint32_t to) { return atomic_compare_exchange_strong(state, &from, to); }

/* A helper starts and wakes on any CPU but the caller's, where the system may well put it: there it would wait for milliseconds until the
 * caller, which waits for it, is made to give way. So its CPUs are, from then on, those of the caller's but one. */
static void keep_off_this_cpu(const struct helper *h)
{
    cpu_set_t others;
    const int cpu = sched_getcpu();

    if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof others, &others) != 0)
        return;
    CPU_CLR(cpu, &others);
    if (CPU_COUNT(&others) > 0)
        pthread_setaffinity_np(h->thread, sizeof others, &others);
}

static void wake_helper(struct helper *h)
{
    keep_off_this_cpu(h);
    wake(&h->state);
}

/* Waits actively until *state is no longer `value`, or `limit` ns have gone by; `call_limit` while the team is taken. Returns the last
 * state seen. */
static uint32_t spin_while(_Atomic uint32_t *state, uint32_t value, int64_t limit, int64_t call_limit)
{
    int64_t start = 0;

    for (unsigned turn = 1;; turn++) {
        const uint32_t seen = atomic_load_explicit(state, memory_order_acquire);
        if (seen != value)
            return seen;
        if (atomic_load_explicit(&is_strict, memory_order_relaxed))
            sched_yield();                    /* there may be more threads than CPUs */
        else
            relax();
        if (turn % 64 == 0) {
            const int64_t t = now();
            if (start == 0)
                start = t;
            if (t - start > (atomic_load_explicit(&the_team.is_taken, memory_order_relaxed) ? call_limit : limit))
                return value;
        }
    }
}

static void *help(void *argument)
{
    struct helper *h = argument;

    for (;;) {
        uint32_t seen = spin_while(&h->state, READY, SPIN_NS, CALL_SPIN_NS);

        if (seen == WORK || seen == AWAITED) {
            set_mode(h->share.mode);
            h->share.work(h->share.argument, h->share.number, h->share.count);
            if (atomic_exchange(&h->state, READY) == AWAITED)
                wake(&h->state);
        } else if (seen == READY && change(&h->state, READY, ASLEEP)) {
            while ((seen = atomic_load(&h->state)) == ASLEEP)
                sleep_while(&h->state, ASLEEP, NULL);
            change(&h->state, CALLED, READY);
        }
    }
    return NULL;
}

/* Waits until a helper is done; returns the ns that took when it took long. */
static int64_t await(struct helper *h, fg_stop *stop)
{
    const struct timespec limit = { 0, ASK_NS };
    const uint32_t seen = spin_while(&h->state, WORK, AWAIT_NS, AWAIT_NS);
    if (seen != WORK && seen != AWAITED)
        return 0;
    const int64_t start = now();
    change(&h->state, WORK, AWAITED);
    while (atomic_load(&h->state) == AWAITED) {
        sleep_while(&h->state, AWAITED, &limit);
        if (stop && !stop->is_set && stop->asked())
            __atomic_store_n(&stop->is_set, 1, __ATOMIC_RELAXED);
    }
    return now() - start + AWAIT_NS;
}

/* A signal handler that forks in the middle of a call (see fg_stop) finds all shares done: the child can go on with the call, alone. */
static void finish_shares(void)
{
    for (int i = 0; has_team && i < the_team.wanted; i++)
        if (the_team.helper[i]->joins)
            await(the_team.helper[i], NULL);
}

/* In the child of a fork there are no helpers, and a team that another thread had taken would never be given back. */
static void forget_helpers(void) { the_team = (fg_team){ .is_taken = has_team }; }
static void prepare_for_forks(void) { pthread_atfork(finish_shares, NULL, forget_helpers); }

/* Starts helpers until there are `count`; fewer where the system has no more threads. Signals stay with the other threads. */
static void start_helpers(fg_team *team, int count)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigset_t all, before;

    if (team->helpers >= count)
        return;
    pthread_once(&once, prepare_for_forks);
    if (team->room < count) {
        struct helper **more = realloc(team->helper, count * sizeof *more);
        if (more == NULL)
            return;
        team->helper = more;
        team->room = count;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (team->helpers < count) {
        struct helper *h = aligned_alloc(64, sizeof *h);
        if (h == NULL)
            break;
        *h = (struct helper){ .state = READY };
        if (pthread_create(&h->thread, NULL, help, h) != 0) {
            free(h);
            break;
        }
        keep_off_this_cpu(h);
        pthread_detach(h->thread);
        team->helper[team->helpers++] = h;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int fg_cpus(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    const long online = sysconf(_SC_NPROCESSORS_ONLN);               /* more CPUs than a cpu_set_t holds */
    return online > 0 && online < INT_MAX ? (int)online : 1;
}

fg_team *fg_team_enter(int threads)
{
    fg_team *team = &the_team;
    const int cpus = threads > 1 && !is_strict ? fg_cpus() : threads;
    const int wanted = (threads < cpus ? threads : cpus) - 1;

    if (wanted < 1 || atomic_exchange_explicit(&team->is_taken, 1, memory_order_acquire))
        return NULL;
    team->began = now();
    start_helpers(team, wanted);
    team->wanted = wanted < team->helpers ? wanted : team->helpers;
    team->is_late = team->began < team->alone_until && !is_strict;
    team->pieces = 0;
    has_team = team->wanted > 0;
    if (has_team)
        return team;
    atomic_store_explicit(&team->is_taken, 0, memory_order_release);
    return NULL;
}

void fg_team_leave(fg_team *team)
{
    if (team == NULL)
        return;
    has_team = 0;
    atomic_store_explicit(&team->is_taken, 0, memory_order_release);
}

/* After waiting `waited` ns for a late helper. */
static void work_alone(fg_team *team, int64_t t, int64_t waited)
{
    const int is_soon = t - waited - team->alone_until < MOST_PATIENCE * waited;

    team->patience = !is_soon ? 1 : 2 * team->patience < MOST_PATIENCE ? 2 * team->patience : MOST_PATIENCE;
    team->alone_until = t + team->patience * waited;
    team->is_late = 1;
}

void fg_team_run(fg_team *team, fg_work *work, const void *argument, int is_long, fg_stop *stop)
{
    int count = 1;
    const uint32_t mode = get_mode();

    if (team && team->is_late && now() >= team->alone_until) {
        team->is_late = 0;
        team->began = now();
        team->pieces = 0;
    }
    for (int i = 0; team && i < team->wanted && !team->is_late; i++) {
        struct helper *h = team->helper[i];
        const uint32_t seen = atomic_load_explicit(&h->state, memory_order_acquire);
        h->was_ready = seen == READY;
        h->joins = h->was_ready || is_long || is_strict;
        count += h->joins;
        if (seen == ASLEEP && !h->joins && change(&h->state, ASLEEP, CALLED))
            wake_helper(h);
    }
    if (count == 1) {
        work(argument, 0, 1);
        if (team)
            team->pieces++;
        return;
    }
    for (int i = 0, number = 1; i < team->wanted; i++) {
        struct helper *h = team->helper[i];
        if (!h->joins)
            continue;
        h->share = (struct share){ work, argument, number++, count, mode };
        if (atomic_exchange(&h->state, WORK) == ASLEEP)
            wake_helper(h);
    }
    work(argument, 0, count);

    int64_t longest = 0;
    for (int i = 0; i < team->wanted; i++) {
        struct helper *h = team->helper[i];                          /* stays, in the child of a fork in asked() too */
        if (h->joins) {
            const int64_t waited = await(h, stop) - (h->was_ready ? 0 : WAKE_NS);
            longest = waited > longest ? waited : longest;
        }
    }
    team->pieces++;
    if (longest > LATE_NS && !is_strict) {
        const int64_t t = now(), usual = (t - longest - team->began) / team->pieces;
        team->began += longest;
        if (longest > 2 * usual)
            work_alone(team, t, longest);
    }
}

#else /* no futex: everybody works alone */

int fg_cpus(void) { return 1; }
void fg_team_be_strict(int strict) { (void)strict; }
fg_team *fg_team_enter(int threads) { (void)threads; return NULL; }
void fg_team_leave(fg_team *team) { (void)team; }
void fg_team_run(fg_team *team, fg_work *work, const void *argument, int is_long, fg_stop *stop)
{
    (void)team;
    (void)is_long;
    (void)stop;
    work(argument, 0, 1);
}

#endif
