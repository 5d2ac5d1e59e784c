#include "check_operand.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GUARD  256  /* bytes before and after */
#define POISON 0xff /* a NaN in every float type: reading a gap shows in the result, writing one in the bytes */
#define GAP    5    /* elements between the rows of a strided operand */

static void *must(void *ptr) {
    if (!ptr) {
        fprintf(stderr, "checkkernels: out of memory\n");
        exit(2);
    }
    return ptr;
}

zoe_dtype check_weight(const checker *c, zoe_dtype dtype) {
    bool common = dtype == ZOE_F32 || dtype == ZOE_BF16 || dtype == ZOE_F16;
    return common || c->be->ops->host_memory ? dtype : c->be->dtype;
}

static uint64_t next(checker *c) {
    c->seed += 0x9e3779b97f4a7c15u;
    uint64_t z = (c->seed ^ c->seed >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double check_random(checker *c) {
    return (double)(next(c) >> 11) * 0x1p-52 - 1;
}

/* Small: -1 .. 1. Wide: magnitudes over twelve decades. Huge and tiny: near the limits of what products can hold. */
static double draw(checker *c, fill f) {
    double x = check_random(c);
    switch (f) {
    case FILL_WIDE:
        return x * pow(10, 6 * check_random(c));
    case FILL_HUGE:
        return x * 1e15;
    case FILL_TINY:
        return x * 1e-18;
    default:
        return x;
    }
}

static double load(const void *p, zoe_dtype dtype) {
    uint16_t half;
    float f;
    double d;
    int32_t i;
    switch (dtype) {
    case ZOE_BF16:
        memcpy(&half, p, sizeof half);
        return zoe_bf16_to_f32(half);
    case ZOE_F16:
        memcpy(&half, p, sizeof half);
        return zoe_f16_to_f32(half);
    case ZOE_F64:
        memcpy(&d, p, sizeof d);
        return d;
    case ZOE_I32:
        memcpy(&i, p, sizeof i);
        return i;
    case ZOE_F8_E5M2:
        return zoe_f16_to_f32((uint16_t)(*(const uint8_t *)p << 8));
    case ZOE_F8_E4M3: {
        int bits = *(const uint8_t *)p, e = bits >> 3 & 15, m = bits & 7;
        d = (bits & 0x7f) == 0x7f ? NAN : e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
        return bits & 0x80 ? -d : d;
    }
    default:
        memcpy(&f, p, sizeof f);
        return f;
    }
}

static void store(void *p, zoe_dtype dtype, double x) {
    float f = (float)x;
    uint16_t half;
    switch (dtype) {
    case ZOE_BF16:
        half = zoe_f32_to_bf16(f), memcpy(p, &half, sizeof half);
        break;
    case ZOE_F16:
        half = zoe_f32_to_f16(f), memcpy(p, &half, sizeof half);
        break;
    case ZOE_F64:
        memcpy(p, &x, sizeof x);
        break;
    case ZOE_F8_E5M2:
        *(uint8_t *)p = (uint8_t)(zoe_f32_to_f16(f) >> 8);
        break;
    case ZOE_F8_E4M3: { /* any finite code will do as a random weight */
        int code = (int)(fmin(fabs(x), 1) * 126);
        *(uint8_t *)p = (uint8_t)(code | (x < 0 ? 0x80 : 0));
        break;
    }
    default:
        memcpy(p, &f, sizeof f);
        break;
    }
}

static char *element(const zoe_tensor *t, int64_t flat) {
    int64_t offset = 0;
    for (int i = t->rank - 1; i >= 0; i--) {
        offset += flat % t->shape[i] * t->stride[i];
        flat /= t->shape[i];
    }
    return (char *)t->data + offset * (int64_t)zoe_dtype_size(t->dtype);
}

double *check_values(const zoe_tensor *t) {
    int64_t count = zoe_tensor_count(t);
    double *values = must(malloc((size_t)count * sizeof *values + 1));
    for (int64_t i = 0; i < count; i++) values[i] = load(element(t, i), t->dtype);
    return values;
}

static operand *make(checker *c, zoe_dtype dtype, layout l, int rank, const int64_t *shape) {
    operand *o = must(calloc(1, sizeof *o));
    o->t = zoe_tensor_of(NULL, dtype, rank, shape);
    int64_t span = zoe_tensor_count(&o->t);
    if (l == STRIDED && rank > 1) {
        int64_t stride = shape[rank - 1] + GAP;
        for (int i = rank - 2; i >= 0; i--) {
            o->t.stride[i] = stride;
            stride *= shape[i];
        }
        span = stride;
    }
    o->bytes = (size_t)span * zoe_dtype_size(dtype) + 2 * GUARD;
    o->memory = must(malloc(o->bytes));
    memset(o->memory, POISON, o->bytes);
    o->t.data = o->memory + GUARD;
    o->on = o->t;
    check_status(c, c->be->ops->alloc(c->be, o->bytes, &o->device), "alloc");
    if (!o->device) exit(2);
    o->on.data = (char *)o->device + GUARD;
    if (c->used_count == (int)(sizeof c->used / sizeof *c->used)) exit(2);
    c->used[c->used_count++] = o;
    return o;
}

void check_upload(checker *c, operand *o) {
    check_status(c, c->be->ops->upload(c->be, o->device, o->memory, o->bytes), "upload");
    free(o->values);
    o->values = check_values(&o->t);
}

void check_shift(checker *c, operand *o, double size) {
    int64_t width = o->t.shape[o->t.rank - 1];
    for (int64_t i = 0; i < zoe_tensor_count(&o->t); i++) {
        char *at = element(&o->t, i);
        store(at, o->t.dtype, load(at, o->t.dtype) + size * cos((double)(i % width)));
    }
    check_upload(c, o);
}

operand *check_input(checker *c, zoe_dtype dtype, layout l, fill f, int rank, const int64_t *shape) {
    operand *o = make(c, dtype, l, rank, shape);
    for (int64_t i = 0; i < zoe_tensor_count(&o->t); i++) store(element(&o->t, i), dtype, draw(c, f));
    check_upload(c, o);
    return o;
}

operand *check_output(checker *c, zoe_dtype dtype, layout l, int rank, const int64_t *shape) {
    operand *o = make(c, dtype, l, rank, shape);
    check_upload(c, o);
    return o;
}

operand *check_ids(checker *c, int64_t count, int64_t limit) {
    operand *o = make(c, ZOE_I32, DENSE, 1, &count);
    for (int64_t i = 0; i < count; i++) {
        int32_t id = (int32_t)(next(c) % (uint64_t)limit);
        memcpy(element(&o->t, i), &id, sizeof id);
    }
    check_upload(c, o);
    return o;
}

void check_fail(checker *c, const char *what, const char *format, ...) {
    va_list args;
    c->failures++;
    fprintf(stderr, "FAILED %s %s (%s): ", c->op, c->level, what);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
}

void check_status(checker *c, int status, const char *what) {
    if (status != ZOE_OK) check_fail(c, what, "%s: %s", zoe_strerror(status), zoe_context_error(c->be->ctx));
}

/* What storing a value may round off. */
static double unit(zoe_dtype dtype) {
    return dtype == ZOE_BF16 ? 0x1p-8 : dtype == ZOE_F16 ? 0x1p-11 : 0;
}

/* Poison outside the view must still be there. `flat` elements of the view are cleared first. */
static bool guards_hold(operand *y) {
    int64_t count = zoe_tensor_count(&y->t);
    size_t size = zoe_dtype_size(y->t.dtype);
    for (int64_t i = 0; i < count; i++) memset(element(&y->t, i), POISON, size);
    for (size_t i = 0; i < y->bytes; i++)
        if ((unsigned char)y->memory[i] != POISON) return false;
    return true;
}

void check_result(checker *c, operand *y, const double *expected, const double *size, double bound, const char *what) {
    c->op_cases++;
    bound = fmax(bound, unit(c->be->dtype));
    check_status(c, c->be->ops->download(c->be, y->memory, y->device, y->bytes), what);
    int64_t count = zoe_tensor_count(&y->t), bad = 0;
    for (int64_t i = 0; i < count; i++) {
        double value = load(element(&y->t, i), y->t.dtype),
               allowed = bound * size[i] + unit(y->t.dtype) * fabs(expected[i]);
        if (isnan(expected[i]) ? isnan(value) : value == expected[i] || value == (double)(float)expected[i]) continue;
        double error = fabs(value - expected[i]);
        if (error <= allowed) {
            c->worst = fmax(c->worst, error / allowed);
        } else if (bad++ == 0) {
            check_fail(c, what, "element %lld is %.9g, expected %.9g within %.2g", (long long)i, value, expected[i],
                       allowed);
        }
    }
    if (!guards_hold(y)) check_fail(c, what, "wrote outside its output");
}

void check_near(checker *c, operand *y, const double *expected, double most, const char *what) {
    double off = 0, all = 0;
    c->op_cases++;
    check_status(c, c->be->ops->download(c->be, y->memory, y->device, y->bytes), what);
    for (int64_t i = 0; i < zoe_tensor_count(&y->t); i++) {
        double error = load(element(&y->t, i), y->t.dtype) - expected[i];
        off += error * error;
        all += expected[i] * expected[i];
    }
    off = sqrt(off / all);
    if (!(off <= most))
        check_fail(c, what, "is off by %.3g of its magnitude, at most %.3g expected", off, most);
    else
        c->worst = fmax(c->worst, off / most);
    if (!guards_hold(y)) check_fail(c, what, "wrote outside its output");
}

void check_same(checker *c, operand *a, operand *b, const char *what) {
    check_status(c, c->be->ops->download(c->be, a->memory, a->device, a->bytes), what);
    check_status(c, c->be->ops->download(c->be, b->memory, b->device, b->bytes), what);
    if (memcmp(a->memory, b->memory, a->bytes)) check_fail(c, what, "differs from run to run");
}

void check_done(checker *c) {
    for (int i = 0; i < c->used_count; i++) {
        operand *o = c->used[i];
        zoe_backend_free(c->be, o->device);
        free(o->memory);
        free(o->values);
        free(o);
    }
    c->used_count = 0;
}
