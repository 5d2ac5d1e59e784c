/*
 * The loader: threads that bring units from their files into host memory, in the form in which they will be used. Jobs are
 * done in order, each in pieces that any thread takes: one thread reads a page cache at a few GB/s, several at its speed.
 * A disk likes several large requests at a time: a thread whose piece is not in the page cache begins the next ones before
 * it waits, and converts one while the others are on their way. A piece that is there at once is converted at once, while
 * it is in the processor's cache.
 */
#include <errno.h>
#include <omp.h>
#include <pthread.h>
#include <string.h>

#include "base/thread.h"
#include "formats/reader.h"
#include "weights/parts.h"
#include "weights/quantise.h"

#define PIECE        ((size_t)4 << 20)   /* as it is, to where it is used */
#define STEP         ((size_t)512 << 10) /* to be converted: it stays in the processor's second cache until then */
#define MOST_THREADS 16
/* Pieces of all threads: as many requests as make a disk busy; beyond, they only get in each other's way. */
#define AT_A_TIME 16

typedef struct job {
    bool used;
    bool past_cache; /* reads go past the page cache, in pieces through scratch */
    char *to;
    size_t first, end; /* items */
    bool again;        /* the second round, of matrices that turned out to need another scale for all */
    size_t item;       /* next one to be taken from */
    int64_t row;       /* next one of the item */
    int pieces;        /* under way */
    /* the first failure: */
    const zoe_item *culprit;
    int64_t element; /* that is not finite, or -1 */
    int error;       /* errno of a failed read; 0: the file is shorter than it was */
} job;

typedef struct piece {
    job *job;
    const zoe_item *item;
    int64_t row, rows;
    char *to; /* of the whole item */
    char *scratch;
    zoe_read read;
    bool busy;
    uint32_t largest; /* of a matrix that is quantised: zoe_quantise_rows() */
    int64_t element;  /* that is not finite, or -1 */
} piece;

typedef struct worker {
    zoe_loader *loader;
    pthread_t thread;
    zoe_reader reader;
    piece pieces[ZOE_READS];
    int busy; /* of them */
} worker;

struct zoe_loader {
    const zoe_weights *weights;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    worker workers[MOST_THREADS];
    int started;
    int each; /* pieces of a thread: one at least is on its way while another is converted */
    bool stop;
    job jobs[ZOE_LOADER_JOBS];
    int order[ZOE_LOADER_JOBS]; /* of those in use, oldest first */
    int queued;
    char *memory, *scratch; /* [threads, each, scratch_bytes] of it, from the start of a disk's unit on */
    size_t scratch_bytes;
    uint32_t *largest; /* of each item's pieces up to now; in the second round 0 if that leaves the item out */
    /* since they were last told: */
    int64_t read;
    double seconds, busy_since;
};

static size_t row_bytes(const zoe_item *it) {
    return zoe_item_span(it, zoe_item_width(it));
}

/* Read to where it is used, without scratch. */
static bool in_place(const job *j, const zoe_item *it) {
    return zoe_item_verbatim(it) && !j->past_cache;
}

static int64_t rows_at_once(const job *j, const zoe_item *it) {
    size_t one = row_bytes(it), most = in_place(j, it) ? PIECE : STEP;
    return one < most ? (int64_t)(most / one) : 1;
}

/* ---- taking pieces, under the lock ---- */

static bool finished(const job *j) {
    return ((j->item == j->end && j->again) || j->culprit) && j->pieces == 0;
}

static bool idle(const zoe_loader *loader) {
    for (int i = 0; i < loader->queued; i++)
        if (!finished(&loader->jobs[loader->order[i]])) return false;
    return true;
}

/* Whether a matrix, of which all rows are done, needs another scale for all of them. */
static bool needs_another(const zoe_loader *loader, const job *j, const zoe_item *it) {
    zoe_tensor form = zoe_item_over(it, j->to + it->offset);
    return !it->mapped && !zoe_item_verbatim(it) &&
           zoe_quantised_again(&form, loader->largest[it - loader->weights->items]);
}

/* Goes on to the next item of which anything is left, and from one round to the next once nothing of it is under way. */
static void settle(zoe_loader *loader, job *j) {
    const zoe_item *items = loader->weights->items;
    for (;;) {
        for (; j->item < j->end; j->item++, j->row = 0) {
            const zoe_item *it = &items[j->item];
            if (it->mapped || (j->again && !loader->largest[j->item])) continue;
            if (j->row < zoe_item_rows(it) && zoe_item_width(it) > 0) return;
        }
        if (j->again || j->pieces) return;
        j->again = true;
        j->item = j->first;
        for (size_t i = j->first; i < j->end; i++)
            if (!needs_another(loader, j, &items[i])) loader->largest[i] = 0;
    }
}

/* The next piece of a job; false when there is none now. */
static bool take(zoe_loader *loader, job *j, piece *p) {
    if (j->item == j->end || j->culprit) return false;
    const zoe_item *it = &loader->weights->items[j->item];
    int64_t left = zoe_item_rows(it) - j->row, most = rows_at_once(j, it);
    p->job = j;
    p->item = it;
    p->row = j->row;
    p->rows = left < most ? left : most;
    p->to = j->to + it->offset;
    p->busy = true;
    j->row += p->rows;
    j->pieces++;
    settle(loader, j);
    return true;
}

/* The one that was used last, as its memory is in the processor's cache still; NULL without room or anything to do. */
static piece *take_piece(worker *w) {
    zoe_loader *loader = w->loader;
    piece *p = w->pieces;
    while (p < w->pieces + loader->each && p->busy) p++;
    if (p == w->pieces + loader->each) return NULL;
    for (int i = 0; i < loader->queued; i++)
        if (take(loader, &loader->jobs[loader->order[i]], p)) {
            w->busy++;
            return p;
        }
    return NULL;
}

/* Enters what became of a piece. */
static void hand_in(worker *w, piece *p) {
    zoe_loader *loader = w->loader;
    job *j = p->job;
    bool again = j->again, failed = p->read.failed || p->element >= 0;
    uint32_t *largest = &loader->largest[p->item - loader->weights->items];
    if (failed && !j->culprit) j->culprit = p->item, j->element = p->element, j->error = p->read.error;
    if (!failed && !again) loader->read += p->rows * (int64_t)row_bytes(p->item);
    if (p->largest > *largest) *largest = p->largest;
    p->busy = false;
    w->busy--;
    j->pieces--;
    settle(loader, j);
    if (again != j->again) pthread_cond_broadcast(&loader->work);
    if (finished(j)) pthread_cond_broadcast(&loader->done);
    if (idle(loader)) loader->seconds += zoe_now() - loader->busy_since;
}

/* ---- reading and converting them, without the lock ---- */

static void begin(worker *w, piece *p) {
    const zoe_item *it = p->item;
    size_t start = (size_t)p->row * row_bytes(it), half = zoe_item_span(it, zoe_item_count(it) / 2);
    zoe_read *r = &p->read;
    *r = (zoe_read){.entry = it->entry,
                    .bytes = (size_t)p->rows * row_bytes(it),
                    .to = in_place(p->job, it) ? p->to + start : p->scratch,
                    .past_cache = p->job->past_cache};
    if (!it->entry) {
        r->data = r->to;
        zoe_item_draw(it, r->to, p->row, p->rows);
        r->ended = true;
        return;
    }
    r->at = zoe_item_span(it, it->skip) + start;
    if (it->gap) {
        r->gap = zoe_item_span(it, it->gap);
        r->before = start < half ? half - start : 0; /* the gap may well lie behind the piece */
    }
    zoe_reader_begin(&w->reader, r);
}

/* A piece that has come; `wait`: for one, if any is under way. */
static piece *find_ended(worker *w, bool wait) {
    for (int pass = 0; pass < 2; pass++) {
        for (piece *p = w->pieces; p < w->pieces + w->loader->each; p++)
            if (p->busy && p->read.ended) return p;
        if (pass == 0) zoe_reader_collect(&w->reader, wait);
    }
    return NULL;
}

static void convert(piece *p) {
    const zoe_item *it = p->item;
    const char *source = p->read.data;
    p->element = -1;
    p->largest = 0;
    if (p->read.failed) return;
    if (!zoe_item_verbatim(it))
        p->element = zoe_item_fill(it, p->to, source, p->row, p->rows, &p->largest);
    else if (p->job->past_cache)
        memcpy(p->to + (size_t)p->row * row_bytes(it), source, p->read.bytes);
}

static void *run_thread(void *user) {
    worker *w = user;
    zoe_loader *loader = w->loader;
    omp_set_num_threads(1); /* conversions are spread by pieces already */
    zoe_reader_open(&w->reader, loader->weights->ckpt);
    pthread_mutex_lock(&loader->lock);
    while (!loader->stop) {
        piece *fresh = take_piece(w), *ended;
        if (!fresh && !w->busy) {
            pthread_cond_wait(&loader->work, &loader->lock);
            continue;
        }
        pthread_mutex_unlock(&loader->lock);
        if (fresh) begin(w, fresh);
        ended = find_ended(w, !fresh);
        if (ended) convert(ended);
        pthread_mutex_lock(&loader->lock);
        if (ended) hand_in(w, ended);
    }
    pthread_mutex_unlock(&loader->lock);
    zoe_reader_close(&w->reader);
    return NULL;
}

/* ---- threads ---- */

static int start_threads(zoe_loader *loader, int wanted) {
    for (; loader->started < wanted; loader->started++) {
        worker *w = &loader->workers[loader->started];
        w->loader = loader;
        for (int i = 0; i < loader->each; i++)
            w->pieces[i].scratch = loader->scratch + (size_t)(loader->started * loader->each + i) * loader->scratch_bytes;
        if (!zoe_thread_start(&w->thread, run_thread, w)) break;
    }
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
    loader->each = AT_A_TIME / threads < 2 ? 2 : AT_A_TIME / threads < ZOE_READS ? AT_A_TIME / threads : ZOE_READS;
    loader->scratch_bytes = STEP;
    for (size_t i = 0; i < weights->count; i++)
        if (!weights->items[i].mapped && row_bytes(&weights->items[i]) > loader->scratch_bytes)
            loader->scratch_bytes = row_bytes(&weights->items[i]);
    loader->scratch_bytes = ZOE_READ_ROOM(loader->scratch_bytes);
    size_t bytes = (size_t)(threads * loader->each) * loader->scratch_bytes + ZOE_READ_UNIT;
    loader->memory = zoe_alloc(ctx, bytes);
    if (!loader->memory || ZOE_NEW_ARRAY(ctx, loader->largest, weights->count) < 0) {
        zoe_free(ctx, loader->memory);
        zoe_free(ctx, loader);
        return zoe_out_of_memory(ctx, bytes, "reading weights");
    }
    loader->scratch = zoe_read_start(loader->memory);
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
    for (int i = 0; i < loader->started; i++) pthread_join(loader->workers[i].thread, NULL);
    pthread_mutex_destroy(&loader->lock);
    pthread_cond_destroy(&loader->work);
    pthread_cond_destroy(&loader->done);
    zoe_free(ctx, loader->memory);
    zoe_free(ctx, loader->largest);
    zoe_free(ctx, loader);
}

/* ---- jobs ---- */

static void begin_job(zoe_loader *loader, job *j, const zoe_unit *u, char *to) {
    *j = (job){.used = true,
               .past_cache = u->past_cache,
               .to = to,
               .first = u->first,
               .item = u->first,
               .end = u->first + u->count};
    for (size_t i = j->first; i < j->end; i++) {
        const zoe_item *it = &loader->weights->items[i];
        zoe_tensor form = zoe_item_over(it, to + it->offset);
        loader->largest[i] = 0;
        if (!it->mapped && !zoe_item_verbatim(it)) zoe_quantised_begin(&form);
    }
    settle(loader, j);
}

int zoe_loader_begin(zoe_loader *loader, const zoe_unit *u, void *to) {
    int number = 0;
    pthread_mutex_lock(&loader->lock);
    if (idle(loader)) loader->busy_since = zoe_now();
    while (number < ZOE_LOADER_JOBS && loader->jobs[number].used) number++;
    if (number < ZOE_LOADER_JOBS) {
        begin_job(loader, &loader->jobs[number], u, to);
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
