/*
 * Units on a device. A resident unit's blob is copied there once. Streaming blocks pass through a ring of places in device
 * memory, from a slab of host memory that holds their final form, or from the file through a stage. Copies go on beside
 * the operations: while one block is at work the next ones are copied, in the order of their use, across the end of a
 * forward pass into the next. Only the loader's work is waited for on the host.
 */
#include "weights/parts.h"

/* ---- host memory ---- */

static int host_alloc(zoe_weights *weights, size_t bytes, void **out) {
    zoe_backend *be = weights->be;
    zoe_weight_use *use = &be->weights;
    ZOE_TRY(be->ops->pinned_alloc(be, bytes, out));
    use->host_held += (int64_t)bytes;
    if (use->host_held > use->host_peak) use->host_peak = use->host_held;
    return ZOE_OK;
}

static void host_free(zoe_weights *weights, void **ptr, size_t bytes) {
    zoe_backend *be = weights->be;
    if (!*ptr) return;
    be->ops->pinned_free(be, *ptr, bytes);
    be->weights.host_held -= (int64_t)bytes;
    *ptr = NULL;
}

static bool staged(const zoe_unit *u) {
    return u->tier != ZOE_TIER_HOST;
}

/* A stage without a unit, whose last copy has left, or is waited for; -1: none. */
static int free_stage(zoe_weights *weights, bool wait, int *stage) {
    zoe_backend *be = weights->be;
    *stage = -1;
    for (int i = 0; i < weights->stage_count && *stage < 0; i++)
        if (weights->stages[i].unit < 0 && (wait || weights->stages[i].place < 0)) *stage = i;
    if (*stage < 0) return ZOE_OK;
    zoe_stage *s = &weights->stages[*stage];
    if (s->place >= 0) ZOE_TRY(be->ops->copy_end(be, s->place));
    s->place = -1;
    for (int i = 0; i < weights->stage_count; i++)
        if (!weights->stages[i].memory) ZOE_TRY(host_alloc(weights, weights->stage_bytes, &weights->stages[i].memory));
    return ZOE_OK;
}

/* Gives up what a stage was being filled with: units are used in another order than theirs. */
static void empty_stages(zoe_weights *weights) {
    for (int i = 0; i < ZOE_STAGES; i++) {
        zoe_stage *s = &weights->stages[i];
        if (s->unit < 0) continue;
        zoe_unit *u = &weights->units[s->unit];
        if (u->job >= 0) (void)zoe_loader_end(weights->loader, u->job);
        u->job = u->stage = -1;
        s->unit = -1;
    }
}

/* ---- reading ---- */

static bool to_be_read(const zoe_unit *u) {
    if (u->job >= 0 || u->stage >= 0) return false;
    return u->tier == ZOE_TIER_RESIDENT ? !u->memory : u->tier == ZOE_TIER_HOST ? !u->filled : u->place < 0;
}

/* What reading a unit moves, by a plan. */
static void count_reading(zoe_weights *weights, zoe_unit *u) {
    zoe_weight_use *use = &weights->be->weights;
    use->read += u->in_file;
    if (!u->met || u->past_cache) use->from_disk += u->in_file;
    u->met = true;
}

/* Begins to read a unit; *begun false where no stage is free. */
static int begin_reading(zoe_weights *weights, int index, bool wait, bool *begun) {
    zoe_unit *u = &weights->units[index];
    bool computes = weights->be->ops->computes;
    int stage = -1;
    void *to = u->host;
    *begun = false;
    if (computes && !weights->loader) ZOE_TRY(zoe_loader_create(weights, &weights->loader));
    if (staged(u)) {
        ZOE_TRY(free_stage(weights, wait, &stage));
        if (stage < 0) return ZOE_OK;
        to = weights->stages[stage].memory;
    } else if (!u->host) {
        ZOE_TRY(host_alloc(weights, u->blob, &u->host));
        to = u->host;
    }
    int job = computes ? zoe_loader_begin(weights->loader, u, to) : -1;
    if (computes && job < 0) return job;
    if (!computes) count_reading(weights, u);
    u->job = job;
    u->stage = stage;
    u->filled = !computes;
    if (stage >= 0) weights->stages[stage].unit = index;
    *begun = true;
    return ZOE_OK;
}

static int end_reading(zoe_weights *weights, zoe_unit *u) {
    if (u->job < 0) return ZOE_OK;
    int status = zoe_loader_end(weights->loader, u->job);
    u->job = -1;
    u->filled = status == ZOE_OK;
    if (status == ZOE_OK || u->stage < 0) return status;
    weights->stages[u->stage].unit = -1;
    u->stage = -1;
    return status;
}

/* Its final form is in host memory, or is now. */
static int need_host(zoe_weights *weights, int index) {
    zoe_unit *u = &weights->units[index];
    bool begun = true;
    if (to_be_read(u)) ZOE_TRY(begin_reading(weights, index, true, &begun));
    if (!begun) {
        empty_stages(weights);
        ZOE_TRY(begin_reading(weights, index, true, &begun));
    }
    return end_reading(weights, u);
}

static bool on_host(const zoe_weights *weights, const zoe_unit *u) {
    if (u->job >= 0) return zoe_loader_done(weights->loader, u->job);
    return staged(u) ? u->stage >= 0 : u->filled;
}

/* Once all is read that ever will be. */
static int end_all_reading(zoe_weights *weights) {
    for (int i = 0; i < ZOE_STAGES; i++) {
        zoe_stage *s = &weights->stages[i];
        if (s->place >= 0) ZOE_TRY(weights->be->ops->copy_end(weights->be, s->place));
        s->place = -1;
        host_free(weights, &s->memory, weights->stage_bytes);
    }
    zoe_loader_free(weights->loader);
    weights->loader = NULL;
    return ZOE_OK;
}

/* Reads the blocks that come next, as far as there are stages; `wait`: also for a copy that leaves one. */
static int read_ahead(zoe_weights *weights, int index, bool wait) {
    int jobs = 0;
    for (int i = 0; i < weights->unit_count; i++) jobs += weights->units[i].job >= 0;
    bool left = jobs > 0;
    for (int steps = 1; steps < weights->unit_count; steps++) {
        int next = zoe_units_after(weights, index, steps);
        bool begun;
        if (next < 0) return ZOE_OK;
        zoe_unit *u = &weights->units[next];
        left = left || u->tier == ZOE_TIER_FILE || to_be_read(u) || u->job >= 0 || u->stage >= 0;
        if (!to_be_read(u)) continue;
        if (jobs >= ZOE_STAGES) return ZOE_OK;
        ZOE_TRY(begin_reading(weights, next, wait, &begun));
        if (!begun) return ZOE_OK;
        jobs++;
    }
    return left ? ZOE_OK : end_all_reading(weights);
}

/* ---- copying ---- */

/* What leaves a stage makes room there. */
static const void *take_from_host(zoe_weights *weights, zoe_unit *u, int place) {
    if (!staged(u)) return u->host;
    zoe_stage *s = &weights->stages[u->stage];
    s->unit = -1;
    s->place = place;
    u->stage = -1;
    return s->memory;
}

static int copy(zoe_weights *weights, zoe_unit *u, int place, void *to) {
    zoe_backend *be = weights->be;
    be->weights.loaded += (int64_t)u->blob;
    return be->ops->copy_begin(be, place, to, take_from_host(weights, u, place), u->blob);
}

static int make_resident(zoe_weights *weights, int index) {
    zoe_backend *be = weights->be;
    zoe_unit *u = &weights->units[index];
    void *memory;
    ZOE_TRY(need_host(weights, index));
    ZOE_TRY(be->ops->alloc(be, u->blob, &memory));
    int place = ZOE_RING_MAX + u->stage, status = copy(weights, u, place, memory);
    if (status == ZOE_OK) status = be->ops->copy_wait(be, place);
    if (status < 0) {
        be->ops->free(be, memory);
        return status;
    }
    u->memory = memory;
    zoe_units_hold(weights, u->bytes);
    return ZOE_OK;
}

static int open_ring(zoe_weights *weights) {
    zoe_backend *be = weights->be;
    for (int i = 0; i < weights->ring_count; i++) {
        if (weights->ring[i].memory) continue;
        ZOE_TRY(be->ops->alloc(be, weights->ring_bytes, &weights->ring[i].memory));
        zoe_units_hold(weights, (int64_t)weights->ring_bytes);
    }
    return ZOE_OK;
}

/* Uses of blocks from `index` until `unit` comes; an empty place is never needed. */
static int distance(const zoe_weights *weights, int index, int unit) {
    if (unit < 0) return weights->unit_count;
    return unit > index ? unit - index : unit - index + weights->unit_count;
}

/* The place whose block is not at work and will be needed last; -1: all are at work. */
static int choose_place(const zoe_weights *weights, int index, int *until) {
    int best = -1;
    *until = 0;
    for (int i = 0; i < weights->ring_count; i++) {
        int unit = weights->ring[i].unit;
        if (unit >= 0 && weights->units[unit].users > 0) continue;
        if (distance(weights, index, unit) > *until) best = i, *until = distance(weights, index, unit);
    }
    return best;
}

static int send(zoe_weights *weights, int index, int place) {
    zoe_place *p = &weights->ring[place];
    zoe_unit *u = &weights->units[index];
    ZOE_TRY(open_ring(weights));
    if (p->unit >= 0) weights->units[p->unit].place = -1;
    p->unit = -1;
    ZOE_TRY(copy(weights, u, place, p->memory));
    p->unit = index;
    u->place = place;
    return ZOE_OK;
}

static int bring(zoe_weights *weights, int index) {
    zoe_backend *be = weights->be;
    zoe_unit *u = &weights->units[index];
    int until;
    if (u->place < 0) {
        int place = choose_place(weights, index, &until);
        if (place < 0) return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "%s: too many blocks at work", weights->part);
        ZOE_TRY(need_host(weights, index));
        ZOE_TRY(send(weights, index, place));
    }
    return be->ops->copy_wait(be, u->place);
}

/* Sends the blocks that come next, as far as they are in host memory and the ring has room. */
static int send_ahead(zoe_weights *weights, int index) {
    for (int steps = 1; steps < weights->unit_count; steps++) {
        int next = zoe_units_after(weights, index, steps), until, place;
        if (next < 0 || next == index) return ZOE_OK;
        zoe_unit *u = &weights->units[next];
        if (u->tier == ZOE_TIER_RESIDENT || u->place >= 0) continue;
        place = choose_place(weights, index, &until);
        if (place < 0 || until <= distance(weights, index, next) || !on_host(weights, u)) return ZOE_OK;
        ZOE_TRY(end_reading(weights, u));
        ZOE_TRY(send(weights, next, place));
    }
    return ZOE_OK;
}

/* ---- use ---- */

static int make_valid(zoe_weights *weights, int index) {
    zoe_backend *be = weights->be;
    zoe_unit *u = &weights->units[index];
    bool resident = u->tier == ZOE_TIER_RESIDENT, begun;
    if (be->ops->copy_expect) ZOE_TRY(be->ops->copy_expect(be));
    if (to_be_read(u)) ZOE_TRY(begin_reading(weights, index, true, &begun));
    ZOE_TRY(read_ahead(weights, index, false)); /* so that the loader goes on meanwhile */
    ZOE_TRY(resident ? make_resident(weights, index) : bring(weights, index));
    zoe_unit_bind(weights, u, resident ? u->memory : weights->ring[u->place].memory);
    u->loaded = true;
    return ZOE_OK;
}

static void make_invalid(zoe_weights *weights, zoe_unit *u) {
    zoe_unit_bind(weights, u, NULL);
    u->loaded = false;
}

int zoe_store_acquire(zoe_weights *weights, int index) {
    zoe_unit *u = &weights->units[index];
    int late = weights->late;
    weights->late = ZOE_OK;
    ZOE_TRY(late);
    if (!u->loaded) ZOE_TRY(make_valid(weights, index));
    int status = u->block ? send_ahead(weights, index) : ZOE_OK;
    if (status < 0 && u->users == 1 && u->tier != ZOE_TIER_RESIDENT) make_invalid(weights, u);
    return status;
}

/* A failure is told by the next acquisition. */
void zoe_store_release(zoe_weights *weights, int index) {
    zoe_backend *be = weights->be;
    zoe_unit *u = &weights->units[index];
    if (u->users > 0 || !u->loaded) return;
    if (u->tier != ZOE_TIER_RESIDENT) {
        weights->late = be->ops->copy_release(be, u->place);
        make_invalid(weights, u);
    }
    if (u->block && weights->late == ZOE_OK) weights->late = read_ahead(weights, index, true);
}

static bool anything_held(const zoe_weights *weights) {
    bool held = weights->held || weights->loader;
    for (int i = 0; i < ZOE_STAGES; i++) held = held || weights->stages[i].memory;
    for (int i = 0; i < weights->unit_count; i++) held = held || weights->units[i].host;
    return held;
}

void zoe_store_unload(zoe_weights *weights) {
    zoe_backend *be = weights->be;
    if (!anything_held(weights)) return;
    zoe_loader_free(weights->loader);
    weights->loader = NULL;
    weights->late = ZOE_OK;
    (void)be->ops->synchronize(be);
    for (int i = 0; i < weights->ring_count; i++) {
        if (!weights->ring[i].memory) continue;
        be->ops->free(be, weights->ring[i].memory);
        zoe_units_hold(weights, -(int64_t)weights->ring_bytes);
        weights->ring[i].memory = NULL;
    }
    for (int i = 0; i < ZOE_STAGES; i++) host_free(weights, &weights->stages[i].memory, weights->stage_bytes);
    for (int i = 0; i < weights->unit_count; i++) {
        zoe_unit *u = &weights->units[i];
        if (u->memory) {
            be->ops->free(be, u->memory);
            zoe_units_hold(weights, -u->bytes);
        }
        host_free(weights, &u->host, u->blob);
        make_invalid(weights, u);
        u->memory = NULL;
        u->filled = u->met = false;
        u->job = u->stage = u->place = -1;
    }
}
