/* Which units stay and which come and go, under the backend's budgets. */
#include "backend/device.h"
#include "weights/parts.h"

static int ahead(const zoe_weights *weights) {
    int wanted = weights->be->weights.ahead;
    return wanted < 1 ? 1 : wanted < ZOE_RING_MAX ? wanted : ZOE_RING_MAX - 1;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int count_blocks(const zoe_weights *weights) {
    int count = 0;
    for (int i = 0; i < weights->unit_count; i++) count += weights->units[i].block;
    return count;
}

/* Blocks that stay lie evenly among those that come and go, so that every copy has the same work to hide behind. */
static bool chosen(int index, int of, int total) {
    return (int64_t)(index + 1) * of / total > (int64_t)index * of / total;
}

/* Bytes of what is no block. */
static int64_t apart_bytes(const zoe_weights *weights) {
    int64_t bytes = 0;
    for (int i = 0; i < weights->unit_count; i++)
        if (!weights->units[i].block) bytes += weights->units[i].bytes;
    return bytes;
}

/* Marks `stay` of the blocks as resident, the others as read for each use; what that takes of the backend's memory. */
static int64_t mark_resident(zoe_weights *weights, int stay, int blocks) {
    int64_t bytes = apart_bytes(weights), largest = 0;
    for (int i = 0, block = 0; i < weights->unit_count; i++) {
        zoe_unit *u = &weights->units[i];
        u->tier = ZOE_TIER_RESIDENT;
        if (!u->block) continue;
        if (chosen(block++, stay, blocks)) {
            bytes += u->bytes;
        } else {
            u->tier = ZOE_TIER_FILE;
            largest = larger(largest, u->bytes);
            if (!weights->be->ops->host_memory) bytes += u->bytes / ZOE_DEVICE_MAPS; /* of its slab */
        }
    }
    return bytes + (1 + ahead(weights)) * largest;
}

static int choose_resident(zoe_weights *weights, int blocks) {
    const zoe_weight_use *use = &weights->be->weights;
    int64_t all = mark_resident(weights, blocks, blocks), room = use->budget - use->held;
    bool whole = use->offload == ZOE_OFFLOAD_NONE || use->offload == ZOE_OFFLOAD_MODEL;
    if (blocks == 0 || whole || (use->offload == ZOE_OFFLOAD_AUTO && (!use->budget || all <= room))) return blocks;
    int stay = use->offload == ZOE_OFFLOAD_BLOCK ? 0 : blocks - 1;
    while (stay > 0 && mark_resident(weights, stay, blocks) > room) stay--;
    mark_resident(weights, stay, blocks);
    return stay;
}

/*
 * Which units are read past the page cache, by the room that it has beside `kept` bytes of host memory. Where it has none
 * for what is read for each use, that would be gone each time before it is wanted again; where it has none for all that is
 * read, what is read once would only take the room of what comes again, and of other programs' files.
 */
static void choose_ways(zoe_weights *weights, int64_t kept) {
    int64_t all = 0, each_use = 0;
    for (int i = 0; i < weights->unit_count; i++) {
        all += weights->units[i].in_file;
        if (weights->units[i].tier == ZOE_TIER_FILE) each_use += weights->units[i].in_file;
    }
    int64_t room = weights->ckpt ? zoe_checkpoint_cache_room(weights->ckpt) - kept : INT64_MAX;
    for (int i = 0; i < weights->unit_count; i++)
        weights->units[i].past_cache = (weights->units[i].tier == ZOE_TIER_FILE ? each_use : all) > room;
}

/* Keeps `keep` of the streaming blocks in host memory; what that and the stages take of it. */
static int64_t mark_host(zoe_weights *weights, int keep, int streaming) {
    int64_t bytes = 0, largest = 0;
    weights->stage_count = 1;
    for (int i = 0, block = 0; i < weights->unit_count; i++) {
        zoe_unit *u = &weights->units[i];
        if (u->tier != ZOE_TIER_RESIDENT) u->tier = chosen(block++, keep, streaming) ? ZOE_TIER_HOST : ZOE_TIER_FILE;
        if (u->tier == ZOE_TIER_HOST) {
            bytes += (int64_t)u->blob;
            continue;
        }
        largest = larger(largest, (int64_t)u->blob);
        if (u->block) weights->stage_count = ZOE_STAGES; /* one is read while the other leaves */
    }
    weights->stage_bytes = (size_t)largest;
    return bytes + weights->stage_count * largest;
}

void zoe_units_place(zoe_weights *weights) {
    const zoe_weight_use *use = &weights->be->weights;
    int blocks = count_blocks(weights), streaming = blocks - choose_resident(weights, blocks);
    weights->placed = true;
    weights->ring_bytes = 0;
    weights->ring_count = streaming ? 1 + ahead(weights) : 0;
    if (weights->ring_count > streaming) weights->ring_count = streaming;
    for (int i = 0; i < ZOE_RING_MAX; i++) weights->ring[i] = (zoe_place){.unit = -1};
    for (int i = 0; i < ZOE_STAGES; i++) weights->stages[i] = (zoe_stage){.unit = -1, .place = -1};
    if (weights->be->ops->host_memory) return;
    int keep = streaming;
    while (keep > 0 && use->host_budget && mark_host(weights, keep, streaming) > use->host_budget - use->host_held) keep--;
    choose_ways(weights, mark_host(weights, keep, streaming));
    for (int i = 0; i < weights->unit_count; i++) {
        const zoe_unit *u = &weights->units[i];
        if (u->tier != ZOE_TIER_RESIDENT && (size_t)u->bytes > weights->ring_bytes) weights->ring_bytes = (size_t)u->bytes;
    }
}

void zoe_units_note_least(zoe_weights *weights, int index) {
    zoe_weight_use *use = &weights->be->weights;
    bool whole = use->offload == ZOE_OFFLOAD_NONE || use->offload == ZOE_OFFLOAD_MODEL;
    int64_t apart = 0, blocks = 0, largest = 0, staged = 0;
    for (int i = 0; i < weights->unit_count; i++) {
        const zoe_unit *u = &weights->units[i];
        if (!u->block && !u->loaded && i != index) continue;
        staged = larger(staged, (int64_t)u->blob);
        if (u->block) {
            blocks += u->bytes;
            largest = larger(largest, u->bytes);
        } else {
            apart += u->bytes;
        }
    }
    int64_t streaming = (1 + ahead(weights)) * largest, other = use->held - weights->held;
    use->least = larger(use->least, other + apart + (whole || blocks < streaming ? blocks : streaming));
    if (!weights->be->ops->host_memory) use->host_least = larger(use->host_least, (blocks ? ZOE_STAGES : 1) * staged);
}

int zoe_units_after(const zoe_weights *weights, int index, int steps) {
    int count = weights->unit_count, i = index;
    for (int seen = 0; seen < 2 * count; seen++) {
        i = i + 1 < count ? i + 1 : 0;
        if (weights->units[i].block && --steps <= 0) return i;
    }
    return -1;
}

void zoe_units_hold(zoe_weights *weights, int64_t bytes) {
    zoe_weight_use *use = &weights->be->weights;
    weights->held += bytes;
    use->held += bytes;
    use->peak = larger(use->peak, use->held);
}

void zoe_unit_bind(zoe_weights *weights, const zoe_unit *u, void *memory) {
    for (size_t i = u->first; i < u->first + u->count; i++) {
        const zoe_item *it = &weights->items[i];
        if (it->kind == ZOE_SLOT_SCALES) continue;
        *it->target = memory && !it->mapped ? zoe_item_over(it, (char *)memory + it->offset) : it->form;
        if (!memory || !it->mapped || !it->entry) continue;
        it->target->data = (char *)(uintptr_t)zoe_item_mapping(it);
        if (it->scales) it->target->scales = (char *)(uintptr_t)zoe_item_mapping(it + 1);
    }
}
