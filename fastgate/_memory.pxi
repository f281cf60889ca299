# Memory for the kernels, included by _kernels.pyx. Fresh pages cost more than many a kernel: the system zeroes them one by one. So a few
# freed blocks are kept and handed out again, at most KEPT bytes in all, and large blocks ask for huge pages.

from libc.stdlib cimport free

cdef extern from *:
    """
    #include <stdlib.h>
    #include <sys/mman.h>
    enum { FG_HUGE_PAGE = 2 << 20 };
    #ifdef __SANITIZE_ADDRESS__
    enum { FG_REUSE = 0 };                /* exact sizes and no reuse: the sanitizer sees every slip */
    static size_t fg_allocated(size_t size) { return size; }
    static void *fg_allocate(size_t size)
    {
        void *data;
        return posix_memalign(&data, 64, size + (size == 0)) == 0 ? data : NULL;
    }
    #else
    enum { FG_REUSE = 1 };
    static size_t fg_alignment(size_t size) { return size >= 2 * FG_HUGE_PAGE ? FG_HUGE_PAGE : 64; }
    static size_t fg_allocated(size_t size) { return (size / fg_alignment(size) + 1) * fg_alignment(size); }
    static void *fg_allocate(size_t size)
    {
        const size_t alignment = fg_alignment(size), rounded = fg_allocated(size);
        void *data = rounded < size ? NULL : aligned_alloc(alignment, rounded);
    #ifdef MADV_HUGEPAGE
        if (data && alignment == FG_HUGE_PAGE)
            madvise(data, rounded, MADV_HUGEPAGE);
    #endif
        return data;
    }
    #endif
    /* What the GIL protects where there is one. Taken for a moment, in which its thread stays attached to Python: a fork, for which
     * Python stops all threads, finds it free. Python's own mutexes and critical sections may then belong to a thread that waited,
     * and that the child does not have. */
    #ifdef Py_GIL_DISABLED
    #include <pthread.h>
    typedef pthread_mutex_t fg_lock;
    static void fg_lock_make(fg_lock *lock) { pthread_mutex_init(lock, NULL); }
    static void fg_lock_take(fg_lock *lock) { pthread_mutex_lock(lock); }
    static void fg_lock_give(fg_lock *lock) { pthread_mutex_unlock(lock); }
    #else
    typedef char fg_lock;
    static void fg_lock_make(fg_lock *lock) { (void)lock; }
    static void fg_lock_take(fg_lock *lock) { (void)lock; }
    static void fg_lock_give(fg_lock *lock) { (void)lock; }
    #endif
    """
    enum:
        FG_REUSE
    size_t allocated "fg_allocated"(size_t size) nogil  # bytes that `size` bytes take
    void *fg_allocate(size_t size) nogil
    ctypedef struct fg_lock:
        pass
    void fg_lock_make(fg_lock *lock) noexcept nogil
    void fg_lock_take(fg_lock *lock) noexcept nogil
    void fg_lock_give(fg_lock *lock) noexcept nogil

cdef enum:
    SPARES = 4

cdef struct block:
    void *data
    Py_ssize_t size

cdef Py_ssize_t KEPT = 64 << 20, SMALL = 64 << 10   # blocks below SMALL are left to malloc, which keeps them itself
cdef block[SPARES] spare                  # the youngest first
cdef fg_lock spare_lock
fg_lock_make(&spare_lock)
cdef int prefilled = -1                   # the byte that new Memory holds everywhere; -1: whatever lay there


def _prefill(int byte):
    """For tests: results must not depend on earlier contents of memory."""
    global prefilled
    prefilled = byte


cdef block take_spare(Py_ssize_t size) noexcept:
    """The smallest spare block that fits and is not much too large; data NULL: none."""
    cdef block best
    cdef int i, chosen = -1
    best.data, best.size = NULL, 0
    fg_lock_take(&spare_lock)
    for i in range(SPARES):
        if spare[i].data != NULL and size <= spare[i].size <= 4 * size and (chosen < 0 or spare[i].size < spare[chosen].size):
            chosen = i
    if chosen >= 0:
        best = spare[chosen]
        spare[chosen].data = NULL
    fg_lock_give(&spare_lock)
    return best


cdef void give_spare(block given) noexcept:
    """Keeps a block; older ones that no longer fit beside it are freed."""
    cdef block dropped[SPARES + 1]
    cdef Py_ssize_t kept = given.size
    cdef int i, kept_blocks = 1, drops = 0
    fg_lock_take(&spare_lock)
    for i in range(SPARES):               # from the youngest to the oldest
        if spare[i].data == NULL:
            continue
        if kept_blocks < SPARES and kept + spare[i].size <= KEPT:
            kept += spare[i].size
            kept_blocks += 1
        else:
            dropped[drops] = spare[i]
            drops += 1
            spare[i].data = NULL
    for i in range(SPARES - 1, -1, -1):
        if spare[i].data == NULL:         # shift younger ones up to here, so that place 0 is free
            while i > 0:
                spare[i] = spare[i - 1]
                i -= 1
            break
    spare[0] = given
    fg_lock_give(&spare_lock)
    for i in range(drops):
        free(dropped[i].data)


@cython.final
@cython.no_gc
cdef class Memory:
    """`size` bytes, aligned to 64, uninitialised."""
    cdef void *data
    cdef readonly Py_ssize_t size
    cdef Py_ssize_t capacity

    def __cinit__(self, Py_ssize_t size):
        cdef block b
        self.size = self.capacity = size
        if FG_REUSE and size >= SMALL:
            b = take_spare(size)
            self.data = b.data
            if b.data != NULL:
                self.capacity = b.size
        if self.data == NULL:
            self.data = fg_allocate(size)
        if self.data == NULL:
            raise MemoryError(f"{size} bytes for the kernels")
        if prefilled >= 0:
            memset(self.data, prefilled, size)

    def __dealloc__(self):
        cdef block b
        if self.data == NULL:
            return
        if FG_REUSE and SMALL <= self.capacity <= KEPT:
            b.data, b.size = self.data, self.capacity
            give_spare(b)
        else:
            free(self.data)
