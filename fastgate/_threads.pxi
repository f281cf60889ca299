# Threads and interruption, included by _kernels.pyx. The team of threads is csrc/team.c.

from cpython.exc cimport PyErr_Occurred

cdef extern from *:
    """
    #include <time.h>
    /* Every FG_ASK_NS, in the main thread only: have signals come whose handlers raise? The exception stays set. */
    enum { FG_ASK_NS = 50 * 1000 * 1000 };
    static unsigned long fg_main_thread;
    static int fg_asked(void)
    {
        static int64_t last;
        struct timespec t;
    #ifdef CLOCK_MONOTONIC_COARSE
        clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    #else
        clock_gettime(CLOCK_MONOTONIC, &t);
    #endif
        const int64_t now = t.tv_sec * (int64_t)1000000000 + t.tv_nsec;
        if (now - last < FG_ASK_NS)
            return 0;
        last = now;
        const PyGILState_STATE state = PyGILState_Ensure();
        const int raised = PyErr_CheckSignals();
        PyGILState_Release(state);
        return raised;
    }
    """
    int fg_asked() noexcept nogil
    unsigned long fg_main_thread
    unsigned long PyThread_get_thread_ident() nogil


def set_num_threads(threads):
    """The most threads of a call from now on."""
    core.fg_set_num_threads(min(threads, 1 << 16))


def get_num_threads():
    return core.fg_get_num_threads()


def cpus():
    """CPUs that the calling thread may use."""
    return core.fg_cpus()


def _set_main_thread(unsigned long ident):
    """The thread that Python's signal handlers run in."""
    global fg_main_thread
    fg_main_thread = ident


cdef bint shares_everything = False


def _share_everything(bint value):
    """For tests: every call, however small, is done by as many threads as are set, whatever CPUs there are."""
    global shares_everything
    shares_everything = value
    core.fg_team_be_strict(value)
