/* Shape rules and aliases of slot tables. */
#ifndef ZOE_WEIGHTS_SLOTS_H
#define ZOE_WEIGHTS_SLOTS_H

#include "weights/weights.h"

/* The axes of a shape rule; returns the rank, or -1 for a malformed rule. */
int zoe_shape_rule(const char *rule, const zoe_dims dims, int64_t shape[ZOE_MAX_RANK]);

/*
 * The next other name that an alias table has for `name`, written into `other`: part `*index` of `*parts` of that tensor.
 * Returns the row to go on from, or NULL when no further row matches.
 */
const zoe_alias *zoe_alias_next(const zoe_alias *aliases, const char *name, char *other, size_t size, int *index,
                                int *parts);

#endif
