/* Requests to callgrind from within the process that it runs; nothing at all in any other. */
#include <valgrind/callgrind.h>

void toggle(void) {
    CALLGRIND_TOGGLE_COLLECT;
}

/* Write what was counted, and count from zero again. */
void dump(void) {
    CALLGRIND_DUMP_STATS;
}
