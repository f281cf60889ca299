/* The protocol of csrc/team.c for the model checker spin: callers share pieces of work with helpers that spin, sleep, and are woken.
 * `make model` checks it; tests/model.py says with how many of each.
 *
 *     no lost wake-up   no state in which nobody can go on but callers that have not finished; a futex never wakes by itself,
 *                       unless SPURIOUS is set. Every caller finishes, if everybody who can always go on does at times
 *     exactly once      a posted share has been done once when its caller goes on, one that was not posted never
 *     no race           nobody writes a share while its helper may read it
 *
 * Being tired, which the program decides by the clock, is a choice here; so is whether a piece is long, and whether a helper that could
 * join is left out.
 */
#ifndef HELPERS
#define HELPERS 2
#endif
#ifndef CALLERS
#define CALLERS 1
#endif
#ifndef PIECES
#define PIECES 3
#endif

#define READY 0
#define WORK 1
#define AWAITED 2
#define ASLEEP 3
#define CALLED 4

byte state[HELPERS];
byte share[HELPERS];                          /* plain data: who posted it and which piece it is of */
byte done[HELPERS];
bool is_read[HELPERS];
bool helper_sleeps[HELPERS], caller_sleeps[HELPERS];   /* in the futex of a helper's state */
bool is_taken;
byte finished;

/* FUTEX_WAIT, first part: compares and lies down in one step. The second part is WOKEN. */
inline futex_wait(i, value, sleeper)
{
    atomic {
        if
        :: state[i] == value -> sleeper = true
        :: else
        fi
    }
}
#ifdef SPURIOUS
#define WOKEN(sleeper) if :: !sleeper :: sleeper = false fi
#else
#define WOKEN(sleeper) !sleeper
#endif

/* FUTEX_WAKE of one waiter, whichever. */
inline futex_wake(i)
{
    atomic {
        if
        :: helper_sleeps[i] -> helper_sleeps[i] = false
        :: caller_sleeps[i] -> caller_sleeps[i] = false
        :: !helper_sleeps[i] && !caller_sleeps[i]
        fi
    }
}

inline exchange(i, to, before) { atomic { before = state[i]; state[i] = to } }
inline change(i, from, to, is_done)           /* compare and swap */
{
    atomic {
        is_done = (state[i] == from);
        if
        :: is_done -> state[i] = to
        :: else
        fi
    }
}

proctype helper(byte i)
{
    byte seen, mine;
    bool is_done;

end_spinning:                                 /* a good place to be when all callers have finished; so is sleep */
    do
    :: atomic { state[i] != READY -> seen = state[i] }
       if
       :: seen == WORK || seen == AWAITED ->
          is_read[i] = true;
          mine = share[i];
          done[i]++;
          assert(share[i] == mine);
          is_read[i] = false;
          exchange(i, READY, seen);
          if
          :: seen == AWAITED -> futex_wake(i)
          :: else
          fi
       :: else -> assert(false)               /* ASLEEP and CALLED are left below */
       fi
    :: state[i] == READY ->                   /* tired; it may change right after this look */
       change(i, READY, ASLEEP, is_done);
       if
       :: is_done ->
          do
          :: seen = state[i];
             if
             :: seen == ASLEEP ->
                futex_wait(i, ASLEEP, helper_sleeps[i]);
end_asleep:     WOKEN(helper_sleeps[i])
             :: else -> break
             fi
          od;
          change(i, CALLED, READY, is_done)
       :: else
       fi
    od
}

proctype caller(byte me)
{
    byte i, seen, piece;
    bool is_long, is_done, joins[HELPERS];

    do
    :: piece == PIECES -> break
    :: piece < PIECES ->
       atomic { !is_taken -> is_taken = true }           /* one that finds it taken works alone, and may come again */
       if
       :: is_long = true
       :: is_long = false
       fi;
       for (i : 0 .. HELPERS - 1) {
           seen = state[i];
           joins[i] = (seen == READY || is_long);
           if
           :: joins[i] = false                           /* so many were not wanted */
           :: true
           fi;
           if
           :: seen == ASLEEP && !joins[i] ->
              change(i, ASLEEP, CALLED, is_done);
              if
              :: is_done -> futex_wake(i)
              :: else
              fi
           :: else
           fi
       }
       for (i : 0 .. HELPERS - 1) {
           done[i] = 0;
           if
           :: joins[i] ->
              assert(!is_read[i] && state[i] != WORK && state[i] != AWAITED);
              share[i] = 16 * me + piece;
              assert(!is_read[i]);
              exchange(i, WORK, seen);
              if
              :: seen == ASLEEP -> futex_wake(i)
              :: else
              fi
           :: else
           fi
       }
       for (i : 0 .. HELPERS - 1) {
           if
           :: joins[i] ->
              if
              :: state[i] != WORK
              :: true ->                                 /* tired */
                 change(i, WORK, AWAITED, is_done);
                 do
                 :: state[i] == AWAITED ->
                    futex_wait(i, AWAITED, caller_sleeps[i]);
                    WOKEN(caller_sleeps[i])
                 :: else -> break
                 od
              fi
           :: else
           fi;
           assert(done[i] == joins[i]);
           assert(!is_read[i])
       }
       is_taken = false;
       piece++
    od;
    finished++
}

init {
    byte i;
    atomic {
        for (i : 0 .. HELPERS - 1) { run helper(i) }
        for (i : 0 .. CALLERS - 1) { run caller(i) }
    }
}

ltl every_caller_finishes { <> (finished == CALLERS) }
