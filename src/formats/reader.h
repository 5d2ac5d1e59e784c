/*
 * Reads of a checkpoint's files that go on beside the thread that asked for them: through an io_uring of its own where the
 * kernel gives one, else with pread() before zoe_reader_begin() returns. What is in the page cache is copied at once in
 * either case, by the asking thread. So is a file that lies in memory (tmpfs), whose reads a ring would leave to threads of
 * the kernel.
 *
 * Reads may go past the page cache (O_DIRECT): what does not fit there until it is wanted again only costs the kernel the
 * work of taking pages back. Such reads are of whole units of the disk, into memory that begins with one.
 */
#ifndef ZOE_FORMATS_READER_H
#define ZOE_FORMATS_READER_H

#include <sys/uio.h>

#include "formats/checkpoint.h"

#define ZOE_READS 8 /* of a reader at a time */

/* Disks read in units of this size or a part of it. Bytes that any `bytes` of a file take with the units they lie in: */
#define ZOE_READ_UNIT        ((size_t)4096)
#define ZOE_READ_ROOM(bytes) (((bytes) / ZOE_READ_UNIT + 2) * ZOE_READ_UNIT)

/* The first unit's start in memory that is one unit larger than its room. */
static inline char *zoe_read_start(char *memory) {
    return memory + (ZOE_READ_UNIT - (uintptr_t)memory % ZOE_READ_UNIT) % ZOE_READ_UNIT;
}

/* One read. It stays where it is, and its memory is left alone, until it has ended. */
typedef struct zoe_read {
    const zoe_entry *entry;
    uint64_t at; /* bytes of the entry before */
    size_t bytes;
    size_t before, gap; /* past the first `before` bytes, so many of the file are left out */
    void *to;
    bool past_cache; /* is wanted; `to` then begins with a unit and has ZOE_READ_ROOM(bytes) */
    char *data;      /* once ended: where in `to` the bytes are */
    bool ended;
    bool failed; /* once ended */
    int error;   /* of a failure: errno, 0 where the file ends before */
    /* the reader's own: */
    bool under_way;
    bool units;   /* of the disk are being read, past the page cache */
    size_t shift; /* bytes of the first one before what is wanted */
    size_t done;
    struct iovec rest;
} zoe_read;

/* One thread uses it. */
typedef struct zoe_reader {
    const zoe_checkpoint *ckpt;
    int under_way;
    int ring; /* its descriptor; -1: none */
    void *queues;
    size_t queue_bytes;
    struct io_uring_sqe *entries;
    size_t entry_bytes;
    struct io_uring_cqe *results;
    unsigned *asked_tail, *ended_head, *ended_tail;
    unsigned asked_mask, ended_mask;
} zoe_reader;

/* Nothing is taken from the context, and nothing can fail: what a ring lacks is read without one. */
void zoe_reader_open(zoe_reader *reader, const zoe_checkpoint *ckpt);
void zoe_reader_close(zoe_reader *reader); /* waits for what is under way */

void zoe_reader_begin(zoe_reader *reader, zoe_read *read);

/* Marks the reads that have ended; `wait`: comes back with at least one, if any was under way. */
void zoe_reader_collect(zoe_reader *reader, bool wait);

/*
 * Bytes a second that the disk under a checkpoint's files gives, tried for a quarter of a second and at most 256 MiB, past
 * the page cache. 0: they lie in memory. ZOE_ERR_UNSUPPORTED, without a text, where that cannot be told: by a file system
 * that has no such reads, a disk that fails, or tensors that are small.
 */
int zoe_files_rate(const zoe_checkpoint *ckpt, double *rate);

#endif
