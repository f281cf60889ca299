/* The team of threads alone (csrc/team.c): tiny pieces of random length, joins, sleeps, late helpers, several callers at once, forks,
 * and a call that is given up. For a few seconds; for ThreadSanitizer, AddressSanitizer and for none.
 *
 *     team_stress SECONDS [no-fork]
 *
 * Every piece has plain data that its shares write and that the caller then reads and the next piece overwrites: a share that is
 * lost, done twice, or still running when the caller goes on is a wrong sum, and a race for the sanitizer.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fastgate.h"

enum { MOST = 4, CALLERS = 3 };

static double seconds;
static atomic_long pieces, shared_pieces, shares_done;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static unsigned draw(uint64_t *state, unsigned below)                /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (unsigned)((z ^ (z >> 31)) % below);
}

static void die(const char *what)
{
    fprintf(stderr, "team_stress: %s\n", what);
    abort();
}

static void rest(long us) { nanosleep(&(struct timespec){ us / 1000000, us % 1000000 * 1000 }, NULL); }

/* One piece: share i adds 1 to done[i] and `turns` to a sum, and rests where the caller wants it late. */
struct piece { int turns, late_share; long late_us; int *done, *shares; unsigned *sum; };

static void work(const void *argument, int share, int shares)
{
    const struct piece *p = argument;

    if (share >= shares || shares > MOST)
        die("a share past the last");
    for (int i = 0; i < p->turns; i++)
        p->sum[share] += (unsigned)i;
    if (share == p->late_share)
        rest(p->late_us);
    p->done[share]++;
    if (share == 0)
        *p->shares = shares;
}

static void one_call(uint64_t *random)
{
    int done[MOST] = { 0 }, shares, count = 1 + (int)draw(random, 30);
    unsigned sum[MOST] = { 0 };
    fg_team *team = fg_team_enter(1 + (int)draw(random, MOST));

    for (int i = 0; i < count; i++) {
        const int is_late = draw(random, 300) == 0;
        struct piece p = { .turns = (int)draw(random, draw(random, 20) == 0 ? 50000 : 300), .late_share = is_late ? (int)draw(random, MOST) : -1,
                           .late_us = draw(random, 3000), .done = done, .shares = &shares, .sum = sum };
        memset(done, 0, sizeof done);
        fg_team_run(team, work, &p, draw(random, 4) == 0, NULL);
        for (int share = 0; share < MOST; share++)
            if (done[share] != (share < shares))
                die("a share was lost or done twice");
        memset(&p, 0xff, sizeof p);                                  /* a helper that still read it would crash */
        pieces++;
        shared_pieces += shares > 1;
        shares_done += shares;
    }
    fg_team_leave(team);
    if (draw(random, 20) == 0)
        rest(draw(random, 400));                                     /* helpers fall asleep */
}

static void *call(void *seed)
{
    uint64_t random = (uintptr_t)seed;
    for (const double end = now() + seconds; now() < end;)
        one_call(&random);
    return NULL;
}

static void callers_at_once(int callers, int is_strict, uint64_t seed)
{
    pthread_t caller[CALLERS];

    fg_team_be_strict(is_strict);
    for (int i = 0; i < callers; i++)
        if (pthread_create(&caller[i], NULL, call, (void *)(uintptr_t)(seed + i)))
            die("no thread");
    for (int i = 0; i < callers; i++)
        pthread_join(caller[i], NULL);
}

/* ---- A call that is given up: the helper's share ends only when the caller, who waits for it, has asked. ---- */

static int times_asked;
static int asked(void) { return ++times_asked == 2; }

static void until_stopped(const void *argument, int share, int shares)
{
    const fg_stop *stop = argument;
    (void)shares;
    for (const double end = now() + 20; share > 0 && !__atomic_load_n(&stop->is_set, __ATOMIC_RELAXED);)
        if (now() > end)
            die("the caller does not ask while it waits");
        else
            sched_yield();
}

static void give_up(void)
{
    fg_stop stop = { asked, 0 };

    fg_team_be_strict(1);
    fg_team *team = fg_team_enter(3);
    fg_team_run(team, until_stopped, &stop, 0, &stop);
    fg_team_leave(team);
    if (!stop.is_set || times_asked != 2)
        die("asked again after the answer");
}

/* ---- Forks: from a free thread, while others are in calls; and from the caller, in the middle of a piece. ---- */

static void in_child(uint64_t seed)
{
    uint64_t random = seed;
    alarm(60);
    for (int i = 0; i < 50; i++)
        one_call(&random);
}

static void wait_for(pid_t child)
{
    int status;
    if (waitpid(child, &status, 0) != child || status != 0)
        die("a child failed");
}

static void fork_between(uint64_t seed)
{
    const pid_t child = fork();
    if (child == 0) {
        in_child(seed);
        _exit(0);
    }
    wait_for(child);
}

static pid_t child_of_share;
static void forking(const void *argument, int share, int shares)
{
    struct piece p = *(const struct piece *)argument;
    work(&p, share, shares);
    if (share == 0) {
        child_of_share = fork();
        if (child_of_share == 0)
            in_child(7);
    }
}

static void fork_within(uint64_t *random)
{
    int done[MOST] = { 0 }, shares;
    unsigned sum[MOST] = { 0 };
    const struct piece p = { .turns = 1000, .late_share = 1, .late_us = draw(random, 500), .done = done, .shares = &shares, .sum = sum };
    fg_team *team = fg_team_enter(4);

    fg_team_run(team, forking, &p, 1, NULL);
    for (int share = 0; share < shares; share++)
        if (done[share] != 1)
            die(child_of_share ? "a share was lost at a fork" : "a share was lost in the child of a fork");
    fg_team_run(team, work, &p, 1, NULL);
    fg_team_leave(team);
    if (child_of_share == 0)
        _exit(0);
    wait_for(child_of_share);
}

int main(int count, char **argument)
{
    const int forks = count > 2 ? 0 : 40;
    uint64_t random = 1;
    pthread_t other;

    if (count < 2)
        die("how many seconds?");
    alarm(300);                                                      /* a hang is a failure */
    seconds = atof(argument[1]) / 4;
    for (int i = 0; i < 4; i++)
        callers_at_once(i < 2 ? 1 : CALLERS, i % 2, 100 * i);
    give_up();
    for (int is_strict = 0; is_strict < 2; is_strict++) {
        fg_team_be_strict(is_strict);
        seconds = forks ? 0.5 : 0;
        if (pthread_create(&other, NULL, call, (void *)(uintptr_t)(1000 + is_strict)))
            die("no thread");
        for (int i = 0; i < forks; i++)
            fork_between(2000 + i);
        pthread_join(other, NULL);
        for (int i = 0; i < forks; i++)
            fork_within(&random);
    }
    printf("%ld pieces, %ld of them shared, %.2f shares each\n", pieces, shared_pieces, (double)shares_done / (double)pieces);
    return 0;
}
