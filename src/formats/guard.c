/*
 * A page of a mapped file that is no longer there, because the file was cut off or because its disk failed, raises SIGBUS
 * where it is touched: in the middle of a kernel, on any thread. The handler puts zeros in the place of the whole mapping
 * and marks it as lost; the operation ends with numbers that mean nothing, and the check that follows every use of weights
 * (zoe_checkpoint_intact()) turns the mark into an error.
 *
 * This is the library's only process-wide state, and it is there only for programs that ask for it: a signal handler
 * belongs to the process and is told nothing but an address. A table of fixed size, because the handler may neither lock
 * nor allocate; a file that finds no place in it is not guarded.
 */
#include "formats/guard.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>

#include "zoetrope.h"

#define MOST_FILES 4096

typedef struct guarded {
    atomic_bool taken, lost;
    atomic_uintptr_t start;
    atomic_size_t size; /* 0: not in use */
} guarded;

static guarded files[MOST_FILES];
static atomic_int highest;           /* behind the last that was ever taken */
static atomic_bool asked, installed; /* installed: from here on `before` stands still */
static struct sigaction before;

/* To whoever looked after the signal before. */
static void pass_on(int number, siginfo_t *info, void *where) {
    bool sent = info->si_code <= 0; /* by a process, and not raised again when the handler returns */
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, info, where);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(number);
    } else if (before.sa_handler == SIG_DFL || !sent) {
        sigaction(number, &before, NULL);
        if (sent) raise(number);
    }
}

/* Zeros in the place of every guarded mapping that holds the address: one, but for a place that changes hands just now. */
static bool replace(uintptr_t address) {
    bool replaced = false;
    for (int i = 0; i < atomic_load(&highest); i++) {
        size_t size = atomic_load(&files[i].size);
        uintptr_t start = atomic_load(&files[i].start);
        if (address < start || address - start >= size) continue;
        atomic_store(&files[i].lost, true);
        replaced = mmap((void *)start, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) !=
                       MAP_FAILED ||
                   replaced;
    }
    return replaced;
}

static void on_bus_error(int number, siginfo_t *info, void *where) {
    int kept = errno;
    if (info->si_code != BUS_ADRERR || !replace((uintptr_t)info->si_addr)) pass_on(number, info, where);
    errno = kept;
}

int zoe_guard_mappings(void) {
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    if (atomic_exchange(&asked, true)) return ZOE_OK;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, NULL, &before) != 0 || sigaction(SIGBUS, &action, NULL) != 0) return ZOE_ERR_UNSUPPORTED;
    atomic_store(&installed, true);
    return ZOE_OK;
}

int zoe_guard_add(const void *data, size_t size) {
    if (!atomic_load(&installed)) return -1;
    for (int i = 0; i < MOST_FILES; i++) {
        bool taken = false;
        if (!atomic_compare_exchange_strong(&files[i].taken, &taken, true)) continue;
        for (int top = atomic_load(&highest); top <= i && !atomic_compare_exchange_weak(&highest, &top, i + 1);) continue;
        atomic_store(&files[i].lost, false);
        atomic_store(&files[i].start, (uintptr_t)data);
        atomic_store(&files[i].size, size);
        return i;
    }
    return -1;
}

void zoe_guard_remove(int number) {
    if (number < 0) return;
    atomic_store(&files[number].size, 0);
    atomic_store(&files[number].taken, false);
}

bool zoe_guard_lost(int number) {
    return number >= 0 && atomic_load(&files[number].lost);
}

void zoe_guard_renewed(int number) {
    if (number >= 0) atomic_store(&files[number].lost, false);
}
