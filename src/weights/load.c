/*
 * The loader: threads that bring units from their files into host memory, in the form in which they will be used. Jobs are
 * done in order, each in pieces that any thread takes: one thread reads a page cache at a few GB/s, several at its speed,
 * and a disk likes several requests at a time.
 */
#include <errno.h>
#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "weights/parts.h"
#include "weights/quantise.h"

#define PIECE        ((size_t)4 << 20)
#define MOST_THREADS 16

typedef struct job {
    bool used;
    char *to;
    size_t item, end; /* next one to be taken from, and behind the last */
    int64_t row;      /* next one of the item */
    int pieces;       /* under way */
    /* the first failure: */
    const zoe_item *culprit;
    int64_t element; /* that is not finite, or -1 */
    int error;       /* errno of a failed read; 0: the file is shorter than it was */
} job;

struct zoe_loader {
    const zoe_weights *weights;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    pthread_t threads[MOST_THREADS];
    int started, awake;
    bool stop;
    job jobs[ZOE_LOADER_JOBS];
    int order[ZOE_LOADER_JOBS]; /* of those in use, oldest first */
    int queued;
    char *scratch; /* [threads, scratch_bytes] */
    size_t scratch_bytes;
    /* since they were last told: */
    int64_t read;
    double seconds, busy_since;
};

typedef struct piece {
    const zoe_item *item;
    int64_t row, rows;
    char *to; /* of the whole item */
} piece;

static size_t row_bytes(const zoe_item *it) {
    return zoe_item_span(it, zoe_item_width(it));
}

static int64_t rows_at_once(const zoe_item *it) {
    size_t one = row_bytes(it);
    return one < PIECE ? (int64_t)(PIECE / one) : 1;
}

/* ---- pieces ---- */

static bool finished(const job *j) {
    return (j->item == j->end || j->culprit) && j->pieces == 0;
}

static bool idle(const zoe_loader *loader) {
    for (int i = 0; i < loader->queued; i++)
        if (!finished(&loader->jobs[loader->order[i]])) return false;
    return true;
}

/* Goes on to the next item of which anything is left. */
static void settle(const zoe_loader *loader, job *j) {
    for (; j->item < j->end; j->item++, j->row = 0) {
        const zoe_item *it = &loader->weights->items[j->item];
        if (!it->mapped && j->row < zoe_item_rows(it) && zoe_item_width(it) > 0) return;
    }
}

/* The next piece of a job; false when all are taken. */
static bool take(const zoe_loader *loader, job *j, piece *out) {
    if (j->item == j->end || j->culprit) return false;
    const zoe_item *it = &loader->weights->items[j->item];
    int64_t left = zoe_item_rows(it) - j->row, most = it->form.dtype == ZOE_F4_E2M1 ? left : rows_at_once(it);
    *out = (piece){.item = it, .row = j->row, .rows = left < most ? left : most, .to = j->to + it->offset};
    j->row += out->rows;
    j->pieces++;
    settle(loader, j);
    return true;
}

static bool next_piece(zoe_loader *loader, piece *p, job **j) {
    for (int i = 0; i < loader->queued; i++) {
        *j = &loader->jobs[loader->order[i]];
        if (take(loader, *j, p)) return true;
    }
    return false;
}

/* Rows of the file at `to`, or drawn. */
static bool get_rows(const zoe_loader *loader, const zoe_item *it, void *to, int64_t row, int64_t rows) {
    const zoe_checkpoint *ckpt = loader->weights->ckpt;
    size_t skip = zoe_item_span(it, it->skip);
    size_t start = (size_t)row * row_bytes(it), bytes = (size_t)rows * row_bytes(it), before = bytes;
    if (!it->entry) {
        zoe_item_draw(it, to, row, rows);
        return true;
    }
    if (it->gap) {
        size_t half = zoe_item_span(it, zoe_item_count(it) / 2);
        before = start >= half ? 0 : start + bytes <= half ? bytes : half - start;
    }
    if (before && !zoe_checkpoint_read(ckpt, it->entry, skip + start, to, before)) return false;
    return before == bytes || zoe_checkpoint_read(ckpt, it->entry, skip + start + before + zoe_item_span(it, it->gap),
                                                  (char *)to + before, bytes - before);
}

/* The scale for all of a matrix, which its rows wait for: a pass of its own over the file. */
static bool find_global(const zoe_loader *loader, const piece *p, char *scratch) {
    zoe_tensor form = zoe_item_over(p->item, p->to);
    int64_t most = rows_at_once(p->item), width = zoe_item_width(p->item);
    float *global = zoe_quantised_global(&form);
    *global = 0;
    for (int64_t row = 0; row < p->rows; row += most) {
        int64_t rows = p->rows - row < most ? p->rows - row : most;
        if (!get_rows(loader, p->item, scratch, row, rows)) return false;
        float here = zoe_quantise_global(scratch, zoe_item_source(p->item), rows * width);
        if (!(here <= *global)) *global = here;
    }
    return true;
}

/* Runs without the lock; the first failure goes into `found`. */
static void run_piece(const zoe_loader *loader, const piece *p, char *scratch, job *found) {
    const zoe_item *it = p->item;
    bool there = true, verbatim = zoe_item_verbatim(it);
    int64_t most = verbatim ? p->rows : rows_at_once(it);
    found->element = -1;
    if (it->form.dtype == ZOE_F4_E2M1 && !verbatim) there = find_global(loader, p, scratch);
    for (int64_t row = p->row; there && found->element < 0 && row < p->row + p->rows; row += most) {
        int64_t rows = p->row + p->rows - row < most ? p->row + p->rows - row : most;
        there = get_rows(loader, it, verbatim ? p->to + (size_t)row * row_bytes(it) : scratch, row, rows);
        if (there && !verbatim) found->element = zoe_item_fill(it, p->to, scratch, row, rows);
    }
    found->error = there ? 0 : errno;
    if (!there || found->element >= 0) found->culprit = it;
}

/* ---- threads ---- */

static void *run_thread(void *user) {
    zoe_loader *loader = user;
    piece p;
    job *j;
    omp_set_num_threads(1); /* conversions are spread by pieces already */
    pthread_mutex_lock(&loader->lock);
    char *scratch = loader->scratch + (size_t)loader->awake++ * loader->scratch_bytes;
    while (!loader->stop) {
        if (!next_piece(loader, &p, &j)) {
            pthread_cond_wait(&loader->work, &loader->lock);
            continue;
        }
        job found = {0};
        pthread_mutex_unlock(&loader->lock);
        run_piece(loader, &p, scratch, &found);
        pthread_mutex_lock(&loader->lock);
        if (found.culprit && !j->culprit) j->culprit = found.culprit, j->element = found.element, j->error = found.error;
        if (!found.culprit) loader->read += p.rows * (int64_t)row_bytes(p.item);
        j->pieces--;
        if (finished(j)) pthread_cond_broadcast(&loader->done);
        if (idle(loader)) loader->seconds += zoe_now() - loader->busy_since;
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

static int start_threads(zoe_loader *loader, int wanted) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the business of the program's other threads */
    for (; loader->started < wanted; loader->started++)
        if (pthread_create(&loader->threads[loader->started], NULL, run_thread, loader) != 0) break;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return loader->started ? ZOE_OK : zoe_out_of_memory(loader->weights->be->ctx, 1 << 20, "threads that read weights");
}

int zoe_loader_create(const zoe_weights *weights, zoe_loader **out) {
    zoe_context *ctx = weights->be->ctx;
    zoe_loader *loader;
    int threads = ctx->settings.threads > 0 ? ctx->settings.threads : omp_get_num_procs();
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    *out = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, loader, 1));
    loader->weights = weights;
    loader->scratch_bytes = PIECE;
    for (size_t i = 0; i < weights->count; i++)
        if (!weights->items[i].mapped && row_bytes(&weights->items[i]) > loader->scratch_bytes)
            loader->scratch_bytes = row_bytes(&weights->items[i]);
    size_t bytes = (size_t)threads * loader->scratch_bytes;
    loader->scratch = zoe_alloc(ctx, bytes);
    if (!loader->scratch) {
        zoe_free(ctx, loader);
        return zoe_out_of_memory(ctx, bytes, "reading weights");
    }
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->work, NULL);
    pthread_cond_init(&loader->done, NULL);
    int status = start_threads(loader, threads);
    if (status < 0)
        zoe_loader_free(loader);
    else
        *out = loader;
    return status;
}

void zoe_loader_free(zoe_loader *loader) {
    if (!loader) return;
    zoe_context *ctx = loader->weights->be->ctx;
    pthread_mutex_lock(&loader->lock);
    loader->stop = true;
    pthread_cond_broadcast(&loader->work);
    pthread_mutex_unlock(&loader->lock);
    for (int i = 0; i < loader->started; i++) pthread_join(loader->threads[i], NULL);
    pthread_mutex_destroy(&loader->lock);
    pthread_cond_destroy(&loader->work);
    pthread_cond_destroy(&loader->done);
    zoe_free(ctx, loader->scratch);
    zoe_free(ctx, loader);
}

/* ---- jobs ---- */

int zoe_loader_begin(zoe_loader *loader, const zoe_unit *u, void *to) {
    int number = 0;
    pthread_mutex_lock(&loader->lock);
    if (idle(loader)) loader->busy_since = zoe_now();
    while (number < ZOE_LOADER_JOBS && loader->jobs[number].used) number++;
    if (number < ZOE_LOADER_JOBS) {
        job *j = &loader->jobs[number];
        *j = (job){.used = true, .to = to, .item = u->first, .end = u->first + u->count};
        settle(loader, j);
        loader->order[loader->queued++] = number;
        pthread_cond_broadcast(&loader->work);
    }
    pthread_mutex_unlock(&loader->lock);
    if (number < ZOE_LOADER_JOBS) return number;
    return zoe_fail(loader->weights->be->ctx, ZOE_ERR_INTERNAL, "too many units are being read");
}

bool zoe_loader_done(zoe_loader *loader, int number) {
    pthread_mutex_lock(&loader->lock);
    bool done = finished(&loader->jobs[number]);
    pthread_mutex_unlock(&loader->lock);
    return done;
}

static int tell(const zoe_loader *loader, const job *j) {
    const zoe_weights *w = loader->weights;
    const zoe_entry *entry = j->culprit->entry;
    const char *path = zoe_checkpoint_path(w->ckpt, entry->file);
    if (j->element >= 0) return zoe_item_not_finite(w, j->culprit, j->element);
    if (j->error == 0)
        return zoe_fail(w->be->ctx, ZOE_ERR_IO,
                        "%s: tensor %s is cut off: the file is shorter than when it was opened; open the model again", path,
                        entry->name);
    return zoe_fail(w->be->ctx, ZOE_ERR_IO, "%s: reading tensor %s failed: %s", path, entry->name, strerror(j->error));
}

int zoe_loader_end(zoe_loader *loader, int number) {
    job *j = &loader->jobs[number];
    zoe_weight_use *use = &loader->weights->be->weights;
    pthread_mutex_lock(&loader->lock);
    while (!finished(j)) pthread_cond_wait(&loader->done, &loader->lock);
    int at = 0;
    while (loader->order[at] != number) at++;
    loader->queued--;
    memmove(&loader->order[at], &loader->order[at + 1], (size_t)(loader->queued - at) * sizeof loader->order[0]);
    j->used = false;
    if (!idle(loader)) { /* what is under way counts up to now */
        double now = zoe_now();
        loader->seconds += now - loader->busy_since;
        loader->busy_since = now;
    }
    use->read += loader->read;
    use->read_seconds += loader->seconds;
    loader->read = 0;
    loader->seconds = 0;
    pthread_mutex_unlock(&loader->lock);
    return j->culprit ? tell(loader, j) : ZOE_OK;
}
