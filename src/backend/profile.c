#include "backend/profile.h"

typedef struct entry {
    zoe_kind kind;
    double flops, bytes;
    double start, end; /* filled in at the end where the backend keeps the marks */
} entry;

struct zoe_profile {
    entry *entries;
    size_t count, capacity;
    zoe_work seen; /* work of the operations so far */
};

int zoe_profile_open(zoe_backend *be) {
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, be->profile, 1));
    be->profile->seen = be->work;
    return ZOE_OK;
}

/* The marks of a device are numbered in order: two for each operation. */
static int mark(zoe_backend *be, double *now) {
    if (be->ops->mark) return be->ops->mark(be);
    *now = zoe_now();
    return ZOE_OK;
}

int zoe_profile_begin(zoe_backend *be) {
    struct zoe_profile *p = be->profile;
    if (!p) return ZOE_OK;
    if (p->count == p->capacity) {
        size_t capacity = p->capacity ? 2 * p->capacity : 1024;
        entry *entries = zoe_realloc(be->ctx, p->entries, capacity * sizeof *entries);
        if (!entries) return zoe_out_of_memory(be->ctx, capacity * sizeof *entries, "a profile");
        p->entries = entries;
        p->capacity = capacity;
    }
    p->entries[p->count] = (entry){0};
    return mark(be, &p->entries[p->count].start);
}

static double flops(const zoe_work *w) {
    return w->linear_flops + w->attention_flops + w->conv_flops;
}

int zoe_profile_end(zoe_backend *be, zoe_kind kind) {
    struct zoe_profile *p = be->profile;
    if (!p) return ZOE_OK;
    entry *e = &p->entries[p->count++];
    e->kind = kind;
    e->flops = flops(&be->work) - flops(&p->seen);
    e->bytes = be->work.bytes - p->seen.bytes;
    p->seen = be->work;
    return mark(be, &e->end);
}

static int fetch_marks(zoe_backend *be, struct zoe_profile *p) {
    double *seconds;
    if (!be->ops->mark || !p->count) return ZOE_OK;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, seconds, 2 * p->count));
    int status = be->ops->marks(be, 2 * p->count, seconds);
    for (size_t i = 0; i < p->count && status == ZOE_OK; i++)
        p->entries[i].start = seconds[2 * i], p->entries[i].end = seconds[2 * i + 1];
    zoe_free(be->ctx, seconds);
    return status;
}

int zoe_profile_close(zoe_backend *be, zoe_profile_times *out) {
    struct zoe_profile *p = be->profile;
    int status = fetch_marks(be, p);
    *out = (zoe_profile_times){0};
    for (size_t i = 0; i < p->count && status == ZOE_OK; i++) {
        const entry *e = &p->entries[i];
        zoe_kind_times *k = &out->kinds[e->kind];
        k->calls++;
        k->seconds += e->end - e->start;
        k->flops += e->flops;
        k->bytes += e->bytes;
        out->seconds = e->end - p->entries[0].start;
        if (i) out->gaps += e->start - p->entries[i - 1].end;
    }
    zoe_free(be->ctx, p->entries);
    zoe_free(be->ctx, p);
    be->profile = NULL;
    return status;
}
