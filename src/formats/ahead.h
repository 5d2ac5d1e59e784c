/*
 * Files on their way into the page cache while something else is at work, so that what is read of them next does not wait
 * for their disk.
 */
#ifndef ZOE_FORMATS_AHEAD_H
#define ZOE_FORMATS_AHEAD_H

#include "formats/checkpoint.h"

typedef struct zoe_ahead zoe_ahead;

/*
 * Begins with the files of `count` checkpoints, one after the other, by a thread of its own. Where the page cache has no
 * room for all of them beside `kept` bytes of it that are in use, or where no thread can be had, nothing is begun and *out
 * is NULL. The checkpoints must outlive it.
 */
int zoe_ahead_begin(zoe_context *ctx, const zoe_checkpoint *const *ckpts, int count, int64_t kept, zoe_ahead **out);

/* Waits until all is there, as far as it can be read. */
void zoe_ahead_wait(zoe_ahead *ahead);
/* Leaves what is not there yet; NULL is fine. */
void zoe_ahead_end(zoe_ahead *ahead);

#endif
