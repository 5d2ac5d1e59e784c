#include "formats/ahead.h"

#include <stdatomic.h>
#include <unistd.h>

#include "base/thread.h"
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
    bool running; /* or ended, but not waited for */
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

int zoe_ahead_begin(zoe_context *ctx, const zoe_checkpoint *const *ckpts, int count, int64_t kept, zoe_ahead **out) {
    size_t files = 0;
    int64_t bytes = kept;
    *out = NULL;
    for (int i = 0; i < count; i++) files += (size_t)ckpts[i]->file_count;
    size_t size = sizeof(zoe_ahead) + files * sizeof(part);
    zoe_ahead *a = zoe_alloc(ctx, size);
    if (!a) return zoe_out_of_memory(ctx, size, "reading ahead");
    *a = (zoe_ahead){.ctx = ctx, .scratch = zoe_alloc(ctx, PIECE)};
    atomic_init(&a->stop, false);
    for (int i = 0; i < count; i++)
        for (int j = 0; j < ckpts[i]->file_count; j++) {
            const zoe_mapped_file *file = &ckpts[i]->files[j];
            if (file->in_memory) continue; /* nothing waits for it */
            a->parts[a->count++] = (part){file->fd, file->size};
            bytes += (int64_t)file->size;
        }
    int status = a->scratch ? ZOE_OK : zoe_out_of_memory(ctx, PIECE, "reading ahead");
    if (status == ZOE_OK && a->count && bytes <= zoe_checkpoint_cache_room(ckpts[0]))
        a->running = zoe_thread_start(&a->thread, run_thread, a);
    if (a->running)
        *out = a;
    else
        zoe_ahead_end(a);
    return status;
}

void zoe_ahead_wait(zoe_ahead *ahead) {
    if (ahead->running) pthread_join(ahead->thread, NULL);
    ahead->running = false;
}

void zoe_ahead_end(zoe_ahead *ahead) {
    if (!ahead) return;
    atomic_store(&ahead->stop, true);
    zoe_ahead_wait(ahead);
    zoe_free(ahead->ctx, ahead->scratch);
    zoe_free(ahead->ctx, ahead);
}
