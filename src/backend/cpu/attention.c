/*
 * softmax(scale q k^T + bias) v in tiles with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): never
 * more than a few rows of scores exist.
 *
 * A task is one head and a block of queries. It walks over tiles of keys, packs them once for all its queries, and for a
 * few queries at a time computes scores, exponentials and their product with the values.
 */
#include "backend/cpu/cpu.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define FEW 48 /* queries whose scores exist at a time, about */

typedef struct attention {
    const zoe_cpu_kernels *kernels;
    const zoe_tensor *q, *k, *v;
    zoe_tensor *y;
    const zoe_attention *p;
    int64_t queries, few, keys;     /* of a task, with scores, of a tile */
    int64_t depth, width, ldo, lds; /* head sizes of q and v; row strides of outputs and scores */
} attention;

/* Where a task keeps its things in scratch; what must start as zero comes first. */
typedef struct workspace {
    float *q, *out, *scores, *sum, *max, *keys, *values;
} workspace;

static int64_t zeroed_floats(const attention *t) {
    return t->queries * (t->depth + t->ldo + 1) + t->few * t->lds;
}

static int64_t scratch_floats(const attention *t) {
    return zeroed_floats(t) + t->queries + t->lds * t->depth + t->keys * t->ldo;
}

static workspace place(const attention *t, float *scratch) {
    workspace w;
    w.q = scratch;
    w.out = w.q + t->queries * t->depth;
    w.scores = w.out + t->queries * t->ldo;
    w.sum = w.scores + t->few * t->lds;
    w.max = w.sum + t->queries;
    w.keys = w.max + t->queries;
    w.values = w.keys + t->lds * t->depth;
    return w;
}

static const float *row_of(const zoe_tensor *t, int64_t head, int64_t row) {
    return (const float *)t->data + head * t->stride[0] + row * t->stride[1];
}

static void pack_values(const attention *t, float *to, int64_t head, int64_t k0, int64_t count) {
    const zoe_cpu_kernels *k = t->kernels;
    for (int64_t col = 0; col < t->width; col += k->wide.cols) {
        int64_t left = t->width - col, cols = left <= k->narrow.cols ? k->narrow.cols : k->wide.cols;
        int64_t used = zoe_min(cols, left);
        for (int64_t i = 0; i < count; i++, to += cols) {
            memcpy(to, row_of(t->v, head, k0 + i) + col, (size_t)used * sizeof *to);
            memset(to + used, 0, (size_t)(cols - used) * sizeof *to);
        }
    }
}

/* Queries q0 .. q0 + rows of the task that starts at `start`, against the packed tile of keys at k0. */
static void few_queries(const attention *t, const workspace *w, int64_t head, int64_t start, int64_t q0, int64_t rows,
                        int64_t k0, int64_t keys) {
    const zoe_cpu_kernels *k = t->kernels;
    const zoe_tensor *bias = t->p->relative_bias;
    zoe_cpu_left queries = {.data = w->q + q0 * t->depth, .stride = t->depth, .depth = t->depth, .count = 1};
    zoe_cpu_left weights = {.data = w->scores, .stride = t->lds, .depth = keys, .count = 1};
    zoe_cpu_multiply(k, rows, keys, &queries, w->keys, w->scores, t->lds, false);
    bool repeated = t->p->last_key_repeats > 1 && k0 + keys == t->k->shape[1];
    for (int64_t row = 0; row < rows; row++) {
        const float *bias_row = NULL;
        if (repeated) w->scores[row * t->lds + keys - 1] += logf((float)t->p->last_key_repeats);
        if (bias) {
            int64_t query = start + q0 + row, tokens = t->q->shape[1];
            bias_row = (const float *)bias->data + head * bias->shape[1] + k0 - query + tokens - 1;
        }
        float correction = k->softmax(w->scores + row * t->lds, bias_row, keys, w->max + q0 + row, w->sum + q0 + row);
        float *out = w->out + (q0 + row) * t->ldo;
        if (correction != 1) k->scale(out, out, t->ldo, correction);
    }
    zoe_cpu_multiply(k, rows, t->width, &weights, w->values, w->out + q0 * t->ldo, t->ldo, true);
}

static void task(const attention *t, float *scratch, int64_t head, int64_t start, int64_t rows) {
    const zoe_cpu_kernels *k = t->kernels;
    workspace w = place(t, scratch);
    memset(scratch, 0, (size_t)zeroed_floats(t) * sizeof *scratch);
    for (int64_t row = 0; row < rows; row++) {
        k->scale(w.q + row * t->depth, row_of(t->q, head, start + row), t->depth, t->p->scale);
        w.max[row] = -FLT_MAX;
    }
    for (int64_t k0 = 0; k0 < t->k->shape[1]; k0 += t->keys) {
        int64_t keys = zoe_min(t->keys, t->k->shape[1] - k0);
        zoe_cpu_pack(k, w.keys, NULL, row_of(t->k, head, k0), ZOE_F32, t->k->stride[1], keys, t->depth);
        pack_values(t, w.values, head, k0, keys);
        for (int64_t q0 = 0; q0 < rows; q0 += t->few)
            few_queries(t, &w, head, start, q0, zoe_min(t->few, rows - q0), k0, keys);
    }
    for (int64_t row = 0; row < rows; row++)
        k->scale((float *)t->y->data + head * t->y->stride[0] + (start + row) * t->y->stride[1], w.out + row * t->ldo,
                 t->width, 1 / w.sum[row]);
}

static bool fits(attention *t, int64_t queries) {
    t->queries = queries;
    t->lds = zoe_cpu_padded_cols(t->kernels, t->keys);
    return scratch_floats(t) * (int64_t)sizeof(float) <= (int64_t)ZOE_CPU_SCRATCH;
}

/*
 * Tiles that fit in scratch, smaller for very wide heads; false when not even the smallest do. The keys of a tile decide
 * the order of additions, so they depend on the head alone and not on the number of threads.
 */
static bool choose_tiles(const zoe_cpu *cpu, attention *t, int64_t tokens, int64_t heads) {
    t->few = zoe_round_up(zoe_min(FEW, tokens), zoe_cpu_padded_rows(t->kernels, 1)); /* no tile reaches into the next few */
    t->ldo = zoe_cpu_padded_cols(t->kernels, t->width);
    for (t->keys = ZOE_ATTENTION_KEYS; !fits(t, zoe_round_up(FEW, zoe_cpu_padded_rows(t->kernels, 1))); t->keys /= 2)
        if (t->keys < 32) return false;
    int64_t queries = zoe_round_up(zoe_min(ZOE_ATTENTION_QUERIES, tokens), t->few);
    while (queries > t->few && (!fits(t, queries) || heads * ((tokens + queries - 1) / queries) < 2 * cpu->threads))
        queries = zoe_round_up(queries / 2, t->few);
    return fits(t, queries);
}

int zoe_cpu_attention(zoe_backend *be, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                      const zoe_attention *p) {
    zoe_cpu *cpu = zoe_cpu_of(be);
    if (p->more_k) return zoe_attention_apart(be, y, q, k, v, p);
    const zoe_tensor *all[] = {y, q, k, v};
    for (int i = 0; i < 4; i++) ZOE_TRY(zoe_cpu_need_f32(be, "attention", all[i]));
    attention t =
        {.kernels = &cpu->kernels, .q = q, .k = k, .v = v, .y = y, .p = p, .depth = q->shape[2], .width = v->shape[2]};
    int64_t heads = q->shape[0], tokens = q->shape[1];
    if (!choose_tiles(cpu, &t, tokens, heads))
        return zoe_fail(be->ctx, ZOE_ERR_UNSUPPORTED, "attention: heads of %lld and %lld channels are too wide for the CPU",
                        (long long)t.depth, (long long)t.width);
    int64_t blocks = (tokens + t.queries - 1) / t.queries;
    int team = zoe_cpu_team(cpu, (double)(heads * tokens) * (double)(k->shape[1] * (t.depth + t.width)) / 16);
#pragma omp parallel for num_threads(team) schedule(dynamic)
    for (int64_t i = 0; i < heads * blocks; i++) {
        int64_t start = i % blocks * t.queries;
        task(&t, zoe_cpu_scratch(cpu), i / blocks, start, zoe_min(t.queries, tokens - start));
    }
    return ZOE_OK;
}
