/* Operations on the rows of [tokens, channels]: norms, preparation of queries and keys, embeddings. */
#include "backend/cpu/cpu.h"

#include <math.h>

/* Mean and factor of (x - mean) * factor for one row. */
static void statistics(const zoe_cpu_kernels *k, const float *x, int64_t n, zoe_norm_kind kind, float eps,
                       zoe_cpu_affine *a) {
    a->mean = kind == ZOE_NORM_LAYER ? k->mean(x, n) : 0;
    float squares = k->sum_squares(x, n, a->mean);
    if (kind == ZOE_NORM_L2)
        a->factor = sqrtf((float)n) / fmaxf(sqrtf(squares), eps);
    else
        a->factor = 1 / sqrtf(squares / (float)n + eps);
}

static const float *data_or_null(const zoe_tensor *t) {
    return t ? t->data : NULL;
}

static const float *group_row(const zoe_tensor *t, const int32_t *groups, int64_t row) {
    return t ? (const float *)t->data + (groups ? groups[row] * zoe_row_stride(t) : 0) : NULL;
}

int zoe_cpu_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_norm *p) {
    zoe_cpu *cpu = zoe_cpu_of(be);
    ZOE_TRY(zoe_cpu_need_f32(be, "norm", x));
    ZOE_TRY(zoe_cpu_need_f32(be, "norm", y));
    const zoe_cpu_kernels *k = &cpu->kernels;
    int64_t rows = zoe_tensor_rows(x), width = x->shape[x->rank - 1], ldx = zoe_row_stride(x), ldy = zoe_row_stride(y);
    const float *from = x->data;
    float *to = y->data;
    const int32_t *groups = p->row_group ? p->row_group->data : NULL;
#pragma omp parallel for num_threads(zoe_cpu_team(cpu, (double)rows *(double)width))
    for (int64_t row = 0; row < rows; row++) {
        zoe_cpu_affine a = {.weight = data_or_null(p->weight),
                            .bias = data_or_null(p->bias),
                            .act = p->act,
                            .scale = group_row(p->scale, groups, row),
                            .shift = group_row(p->shift, groups, row)};
        statistics(k, from + row * ldx, width, p->kind, p->eps, &a);
        k->affine(to + row * ldy, from + row * ldx, width, &a);
    }
    return ZOE_OK;
}

static void prepare_row(const zoe_cpu_kernels *k, float *y, const float *x, int64_t width, int64_t row, const zoe_qk *p) {
    int64_t head = width / p->heads;
    const float *from = x;
    if (p->normalise) {
        int64_t part = p->per_head ? head : width;
        zoe_cpu_affine a = {.weight = data_or_null(p->weight), .bias = data_or_null(p->bias)};
        for (int64_t i = 0; i < width; i += part) {
            statistics(k, x + i, part, p->kind, p->eps, &a);
            k->affine(y + i, x + i, part, &a);
        }
        from = y;
    }
    if (p->cos) {
        int64_t pairs = p->cos->shape[1];
        const float *cos = (const float *)p->cos->data + row * pairs, *sin = (const float *)p->sin->data + row * pairs;
        for (int64_t i = 0; i < width; i += 2 * pairs) k->rotate(y + i, from + i, cos, sin, pairs);
    } else if (from != y) {
        k->scale(y, from, width, 1);
    }
}

int zoe_cpu_qk_prepare(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_qk *p) {
    zoe_cpu *cpu = zoe_cpu_of(be);
    ZOE_TRY(zoe_cpu_need_f32(be, "qk_prepare", x));
    ZOE_TRY(zoe_cpu_need_f32(be, "qk_prepare", y));
    ZOE_TRY(zoe_cpu_need_f32(be, "qk_prepare", p->cos));
    ZOE_TRY(zoe_cpu_need_f32(be, "qk_prepare", p->sin));
    int64_t rows = x->shape[0], width = x->shape[1], ldx = zoe_row_stride(x), ldy = zoe_row_stride(y);
    const float *from = x->data;
    float *to = y->data;
#pragma omp parallel for num_threads(zoe_cpu_team(cpu, (double)rows *(double)width))
    for (int64_t row = 0; row < rows; row++) prepare_row(&cpu->kernels, to + row * ldy, from + row * ldx, width, row, p);
    return ZOE_OK;
}

int zoe_cpu_embedding(zoe_backend *be, zoe_tensor *y, const zoe_tensor *table, const zoe_tensor *ids) {
    zoe_cpu *cpu = zoe_cpu_of(be);
    ZOE_TRY(zoe_cpu_need_f32(be, "embedding", y));
    ZOE_TRY(zoe_cpu_need_float(be, "embedding", table));
    const int32_t *id = ids->data;
    int64_t width = table->shape[1];
    size_t row_bytes = (size_t)width * zoe_dtype_size(table->dtype);
    for (int64_t i = 0; i < ids->shape[0]; i++) {
        int32_t row = id[i * ids->stride[0]];
        if (row < 0 || row >= table->shape[0])
            return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "embedding: id %d is outside the table of %lld rows", (int)row,
                            (long long)table->shape[0]);
        cpu->kernels.load[table->dtype]((float *)y->data + i * y->stride[0],
                                        (const char *)table->data + (size_t)row * row_bytes, width);
    }
    return ZOE_OK;
}
