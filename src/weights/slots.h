/* Shape rules and aliases of slot tables. */
#ifndef ZOE_WEIGHTS_SLOTS_H
#define ZOE_WEIGHTS_SLOTS_H

#include "weights/weights.h"

/* The axes of a shape rule; returns the rank, or -1 for a malformed rule. */
int zoe_shape_rule(const char *rule, const zoe_dims dims, int64_t shape[ZOE_MAX_RANK]);

/* Which of `of` equal parts of a tensor's first axis: one, or two of them, one after the other (second -1: one). */
typedef struct zoe_part {
    int first, second, of;
} zoe_part;

/*
 * The next other name that an alias table has for `name`, written into `other`, and which part of that tensor is meant.
 * Returns the row to go on from, or NULL when no further row matches.
 */
const zoe_alias *zoe_alias_next(const zoe_alias *aliases, const char *name, char *other, size_t size, zoe_part *part);

#endif
