#include "formats/ahead.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "formats/checkpoint_parts.h"

#define PIECE ((size_t)1 << 20)

/* A file and how much of it is to come. */
typedef struct part {
    int fd;
    size_t size;
} part;

struct zoe_ahead {
    zoe_context *ctx;
    pthread_t thread;
    bool started, joined;
    atomic_bool stop;
    char *scratch;
    int count;
    part parts[];
};

/* What fails here is told by who reads the file for its use. */
static void *run_thread(void *user) {
    zoe_ahead *a = user;
    for (int i = 0; i < a->count; i++)
        for (size_t at = 0; at < a->parts[i].size && !atomic_load(&a->stop); at += PIECE)
            if (pread(a->parts[i].fd, a->scratch, PIECE, (off_t)at) <= 0) break;
    return NULL;
}

/* Signals are the business of the program's other threads. */
static bool start(zoe_ahead *a) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    a->started = pthread_create(&a->thread, NULL, run_thread, a) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return a->started;
}

/* Files that lie in memory need nothing. */
static bool lies_on_disk(const zoe_mapped_file *file) {
    return !file->in_memory;
}

int zoe_ahead_begin(zoe_context *ctx, const zoe_checkpoint *const *ckpts, int count, int64_t kept, zoe_ahead **out) {
    size_t files = 0;
    int64_t bytes = kept;
    *out = NULL;
    for (int i = 0; i < count; i++)
        for (int j = 0; j < ckpts[i]->file_count; j++)
            if (lies_on_disk(&ckpts[i]->files[j])) files++, bytes += (int64_t)ckpts[i]->files[j].size;
    if (files == 0 || bytes > zoe_checkpoint_cache_room(ckpts[0])) return ZOE_OK;
    size_t size = sizeof(zoe_ahead) + files * sizeof(part);
    zoe_ahead *a = zoe_alloc(ctx, size);
    if (!a) return zoe_out_of_memory(ctx, size, "reading ahead");
    *a = (zoe_ahead){.ctx = ctx, .scratch = zoe_alloc(ctx, PIECE)};
    atomic_init(&a->stop, false);
    for (int i = 0; i < count; i++)
        for (int j = 0; j < ckpts[i]->file_count; j++)
            if (lies_on_disk(&ckpts[i]->files[j]))
                a->parts[a->count++] = (part){ckpts[i]->files[j].fd, ckpts[i]->files[j].size};
    int status = a->scratch ? ZOE_OK : zoe_out_of_memory(ctx, PIECE, "reading ahead");
    if (status == ZOE_OK && start(a))
        *out = a;
    else
        zoe_ahead_end(a);
    return status;
}

void zoe_ahead_wait(zoe_ahead *ahead) {
    if (ahead->started && !ahead->joined) pthread_join(ahead->thread, NULL);
    ahead->joined = true;
}

void zoe_ahead_end(zoe_ahead *ahead) {
    if (!ahead) return;
    atomic_store(&ahead->stop, true);
    zoe_ahead_wait(ahead);
    zoe_free(ahead->ctx, ahead->scratch);
    zoe_free(ahead->ctx, ahead);
}
