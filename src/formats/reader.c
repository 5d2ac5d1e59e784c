#include "formats/reader.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "formats/checkpoint_parts.h"

/* ---- without a ring ---- */

/* The place of the file from which a read goes on. */
static uint64_t place_of(const zoe_read *read) {
    return read->entry->offset + read->at + read->done + (read->done < read->before ? 0 : read->gap);
}

/* What of a read is still to come without a break: to read->rest, from this place of its file. */
static uint64_t rest_of(zoe_read *read) {
    bool breaks = read->done < read->before && read->before < read->bytes;
    size_t shift = read->units ? read->shift : 0, bytes = (breaks ? read->before : read->bytes) - read->done + shift;
    read->rest.iov_base = read->data + read->done - shift;
    read->rest.iov_len = read->units ? (bytes + ZOE_READ_UNIT - 1) / ZOE_READ_UNIT * ZOE_READ_UNIT : bytes;
    return place_of(read) - shift;
}

/* The file as it is to be read: a read in units has a descriptor of its own. */
static int descriptor(const zoe_reader *reader, const zoe_read *read) {
    const zoe_mapped_file *file = &reader->ckpt->files[read->entry->file];
    return read->units ? file->past_cache : file->fd;
}

/* Sets a read up to go past the page cache, if it can: its file has to allow that, and nothing be left out of its middle.
 */
static void choose_way(const zoe_reader *reader, zoe_read *read) {
    const zoe_mapped_file *file = &reader->ckpt->files[read->entry->file];
    bool breaks = read->gap && read->before > 0 && read->before < read->bytes;
    read->units = read->past_cache && file->past_cache >= 0 && !breaks;
    read->shift = read->units ? place_of(read) % ZOE_READ_UNIT : 0;
    read->data = (char *)read->to + read->shift;
}

static void end(zoe_read *read, bool failed, int error) {
    read->ended = true;
    read->failed = failed;
    read->error = error;
}

/* Not every file system gives units, nor all of the last one: the page cache has what did not come. */
static bool leave_units(zoe_read *read, ssize_t got) {
    size_t useful = got > (ssize_t)read->shift ? (size_t)got - read->shift : 0;
    read->units = false;
    read->done = useful < read->bytes ? useful : read->bytes;
    if (read->done == read->bytes) end(read, false, 0);
    return !read->ended;
}

/* Takes what came, or -errno, of the place `at`; false once the read has ended. */
static bool go_on(const zoe_reader *reader, zoe_read *read, uint64_t at, ssize_t got) {
    if (reader->ckpt->fault) got = reader->ckpt->fault((off_t)at, got);
    if (got == -EINTR) return true;
    if (read->units) return leave_units(read, got);
    if (got > 0) read->done += (size_t)got;
    if (got <= 0)
        end(read, true, (int)-got);
    else if (read->done == read->bytes)
        end(read, false, 0);
    return !read->ended;
}

static void read_now(const zoe_reader *reader, zoe_read *read) {
    uint64_t at;
    ssize_t got;
    do {
        at = rest_of(read);
        got = pread(descriptor(reader, read), read->rest.iov_base, read->rest.iov_len, (off_t)at);
    } while (go_on(reader, read, at, got < 0 ? -errno : got));
}

#if defined __has_include
#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#endif
#endif

#if defined IORING_FEAT_SINGLE_MMAP && defined __NR_io_uring_setup

/* ---- with one ---- */

static void *map(int ring, size_t bytes, off_t what) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, what);
    return memory == MAP_FAILED ? NULL : memory;
}

static bool map_ring(zoe_reader *r, const struct io_uring_params *p) {
    if (!(p->features & IORING_FEAT_SINGLE_MMAP)) return false;
    size_t asked = p->sq_off.array + p->sq_entries * sizeof(unsigned);
    size_t ended = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    r->queue_bytes = asked > ended ? asked : ended;
    r->entry_bytes = p->sq_entries * sizeof(struct io_uring_sqe);
    r->queues = map(r->ring, r->queue_bytes, IORING_OFF_SQ_RING);
    r->entries = r->queues ? map(r->ring, r->entry_bytes, IORING_OFF_SQES) : NULL;
    if (!r->entries) return false;
    char *at = r->queues;
    unsigned *order = (unsigned *)(at + p->sq_off.array);
    for (unsigned i = 0; i < p->sq_entries; i++) order[i] = i;
    r->asked_tail = (unsigned *)(at + p->sq_off.tail);
    r->asked_mask = p->sq_entries - 1;
    r->ended_head = (unsigned *)(at + p->cq_off.head);
    r->ended_tail = (unsigned *)(at + p->cq_off.tail);
    r->ended_mask = p->cq_entries - 1;
    r->results = (struct io_uring_cqe *)(at + p->cq_off.cqes);
    return true;
}

static void close_ring(zoe_reader *r) {
    if (r->entries) munmap(r->entries, r->entry_bytes);
    if (r->queues) munmap(r->queues, r->queue_bytes);
    if (r->ring >= 0) close(r->ring);
    r->entries = r->queues = NULL;
    r->ring = -1;
}

static void open_ring(zoe_reader *r) {
    struct io_uring_params p = {0};
    r->ring = (int)syscall(__NR_io_uring_setup, ZOE_READS, &p);
    if (r->ring < 0 || !map_ring(r, &p)) close_ring(r);
}

/* false: the kernel did not take it. */
static bool ask(zoe_reader *r, zoe_read *read) {
    uint64_t at = rest_of(read);
    unsigned tail = *r->asked_tail; /* the kernel only reads it */
    struct io_uring_sqe *entry = &r->entries[tail & r->asked_mask];
    memset(entry, 0, sizeof *entry);
    entry->opcode = IORING_OP_READV;
    entry->fd = descriptor(r, read);
    entry->off = at;
    entry->addr = (uint64_t)(uintptr_t)&read->rest;
    entry->len = 1;
    entry->user_data = (uint64_t)(uintptr_t)read;
    atomic_store_explicit((_Atomic unsigned *)r->asked_tail, tail + 1, memory_order_release);
    read->under_way = syscall(__NR_io_uring_enter, r->ring, 1, 0, 0, NULL, 0) == 1;
    r->under_way += read->under_way;
    if (!read->under_way) atomic_store_explicit((_Atomic unsigned *)r->asked_tail, tail, memory_order_release);
    return read->under_way;
}

/* A failure is for pread() to confirm: not every kernel does every read through a ring. */
static void take(zoe_reader *r, zoe_read *read, int got) {
    read->under_way = false;
    r->under_way--;
    if (got < 0)
        read_now(r, read);
    else if (go_on(r, read, rest_of(read), got) && !ask(r, read))
        read_now(r, read);
}

static bool collect(zoe_reader *r) {
    unsigned head = *r->ended_head;
    if (head == atomic_load_explicit((_Atomic unsigned *)r->ended_tail, memory_order_acquire)) return false;
    const struct io_uring_cqe result = r->results[head & r->ended_mask];
    atomic_store_explicit((_Atomic unsigned *)r->ended_head, head + 1, memory_order_release);
    take(r, (zoe_read *)(uintptr_t)result.user_data, result.res);
    return true;
}

void zoe_reader_collect(zoe_reader *reader, bool wait) {
    int before = reader->under_way;
    while (reader->under_way) {
        if (collect(reader)) continue;
        if (!wait || reader->under_way < before) return;
        syscall(__NR_io_uring_enter, reader->ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
    }
}

#else

static void open_ring(zoe_reader *r) {
    r->ring = -1;
}

static void close_ring(zoe_reader *r) {
    (void)r;
}

static bool ask(zoe_reader *r, zoe_read *read) {
    (void)r, (void)read;
    return false;
}

void zoe_reader_collect(zoe_reader *reader, bool wait) {
    (void)reader, (void)wait;
}

#endif

/* ---- both ---- */

void zoe_reader_open(zoe_reader *reader, const zoe_checkpoint *ckpt) {
    *reader = (zoe_reader){.ckpt = ckpt, .ring = -1};
    if (ckpt && !ckpt->ringless) open_ring(reader);
}

void zoe_reader_close(zoe_reader *reader) {
    while (reader->under_way) zoe_reader_collect(reader, true);
    close_ring(reader);
}

void zoe_reader_begin(zoe_reader *reader, zoe_read *read) {
    read->ended = read->failed = read->under_way = false;
    read->error = 0;
    read->done = 0;
    choose_way(reader, read);
    if (read->bytes == 0)
        end(read, false, 0);
    else if (reader->ring < 0 || reader->ckpt->files[read->entry->file].in_memory || !ask(reader, read))
        read_now(reader, read);
}

/* ---- how fast a disk is ---- */

#define TRIAL       ((size_t)512 << 10) /* of each read */
#define TRIAL_LEAST ((size_t)8 << 20)   /* of all of them: less tells nothing */
#define TRIAL_MOST  ((size_t)256 << 20)

static const double trial_seconds = 0.25;

typedef struct trial {
    zoe_reader reader;
    zoe_read reads[ZOE_READS];
    size_t entry; /* from which the next read is, and the bytes before it */
    uint64_t at;
    size_t read;
    double end;
    bool failed;
} trial;

/* Sets up the next read; false once there is nothing more, or time or bytes are used up. */
static bool next_read(trial *t, zoe_read *read) {
    const zoe_checkpoint *ckpt = t->reader.ckpt;
    if (t->failed || t->read >= TRIAL_MOST || zoe_now() > t->end) return false;
    while (t->entry < ckpt->count && ckpt->entries[t->entry].bytes - t->at < TRIAL) t->entry++, t->at = 0;
    if (t->entry == ckpt->count) return false;
    *read = (zoe_read){.entry = &ckpt->entries[t->entry], .at = t->at, .bytes = TRIAL, .to = read->to, .past_cache = true};
    t->at += TRIAL;
    return true;
}

/* Takes what has come and asks for more; false when nothing is left to wait for. */
static bool go_on_trying(trial *t) {
    bool waits = false;
    for (int i = 0; i < ZOE_READS; i++) {
        zoe_read *read = &t->reads[i];
        bool asked = read->entry && !read->ended;
        if (read->entry && read->ended) {
            t->read += read->failed ? 0 : read->bytes;
            t->failed = t->failed || read->failed;
            read->entry = NULL;
        }
        if (!asked && next_read(t, read)) {
            zoe_reader_begin(&t->reader, read);
            asked = true;
        }
        waits = waits || asked;
    }
    return waits;
}

/* Whether all files are in memory, or all can be read past the page cache. */
static bool files_are(const zoe_checkpoint *ckpt, bool in_memory) {
    for (int i = 0; i < ckpt->file_count; i++)
        if (in_memory ? !ckpt->files[i].in_memory : ckpt->files[i].past_cache < 0) return false;
    return true;
}

int zoe_files_rate(const zoe_checkpoint *ckpt, double *rate) {
    size_t room = ZOE_READ_ROOM(TRIAL);
    trial t = {.end = zoe_now() + trial_seconds};
    *rate = 0;
    if (files_are(ckpt, true)) return ZOE_OK;
    if (!files_are(ckpt, false)) return ZOE_ERR_UNSUPPORTED;
    char *memory = zoe_alloc(ckpt->ctx, ZOE_READS * room + ZOE_READ_UNIT);
    if (!memory) return zoe_out_of_memory(ckpt->ctx, ZOE_READS * room, "trying a disk");
    for (int i = 0; i < ZOE_READS; i++) t.reads[i].to = zoe_read_start(memory) + (size_t)i * room;
    zoe_reader_open(&t.reader, ckpt);
    double start = zoe_now();
    while (go_on_trying(&t)) zoe_reader_collect(&t.reader, true);
    double seconds = zoe_now() - start;
    zoe_reader_close(&t.reader);
    zoe_free(ckpt->ctx, memory);
    if (t.failed || t.read < TRIAL_LEAST) return ZOE_ERR_UNSUPPORTED;
    *rate = (double)t.read / seconds;
    return ZOE_OK;
}
