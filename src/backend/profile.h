/* Where the time of a backend's operations goes, kind by kind. Nothing is measured unless a profile is open. */
#ifndef ZOE_BACKEND_PROFILE_H
#define ZOE_BACKEND_PROFILE_H

#include "backend/backend.h"

typedef enum zoe_kind {
    ZOE_KIND_PRODUCT,
    ZOE_KIND_NARROW_PRODUCT, /* with int8 or fp8 weights */
    ZOE_KIND_ATTENTION,
    ZOE_KIND_CROSS_ATTENTION, /* to other tokens than its own */
    ZOE_KIND_CONV,
    ZOE_KIND_NORM,
    ZOE_KIND_QK,
    ZOE_KIND_REST,
    ZOE_KIND_COUNT
} zoe_kind;

/* All operations of one kind. */
typedef struct zoe_kind_times {
    int64_t calls;
    double seconds, flops, bytes;
} zoe_kind_times;

typedef struct zoe_profile_times {
    zoe_kind_times kinds[ZOE_KIND_COUNT];
    double seconds; /* from the first operation's start to the last one's end */
    double gaps;    /* of it, between operations */
} zoe_profile_times;

/* What is measured between the two is every operation of the backend; the second releases all memory in any case. */
int zoe_profile_open(zoe_backend *be);
int zoe_profile_close(zoe_backend *be, zoe_profile_times *out);

/* Around an operation's work, by the operations themselves. */
int zoe_profile_begin(zoe_backend *be);
int zoe_profile_end(zoe_backend *be, zoe_kind kind);

#endif
