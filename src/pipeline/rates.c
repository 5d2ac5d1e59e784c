#include "pipeline/rates.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/device.h"
#include "backend/quantised.h"
#include "formats/json.h"
#include "pipeline/measure.h"
#include "pipeline/report.h"
#include "weights/quantise.h"

/* How long each operation is run, how much of that between two looks at the clock, and until a chip is hot. */
static const double enough = 0.04, round_seconds = 0.008, long_enough = 0.25;

/* An operation on tensors of its own. */
typedef struct trial {
    zoe_backend *be;
    zoe_tensor x, w, more, y;
    int64_t heads;
    void *host; /* locked */
    size_t bytes;
} trial;

/* Shapes for a device, and smaller ones for the processor. */
typedef struct shapes {
    int64_t rows, depth, cols;             /* of a product */
    int64_t tokens, channels;              /* of attention */
    int64_t height, width, width_channels; /* of a convolution's frames */
    int64_t copied;                        /* elements */
} shapes;

static const shapes on_device = {8192, 5120, 5120, 16384, 1536, 240, 416, 192, (int64_t)64 << 20};
static const shapes on_processor = {768, 1536, 1536, 1536, 768, 64, 64, 96, (int64_t)16 << 20};

#define DRAW(be, t, ...)                                                                                                   \
    do {                                                                                                                   \
        ZOE_TRY(zoe_backend_alloc((be), (t), (be)->dtype, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),       \
                                  (const int64_t[]){__VA_ARGS__}));                                                        \
        ZOE_TRY(zoe_draw((be), (t)));                                                                                      \
    } while (0)

/* ---- operations ---- */

static int run_linear(trial *t) {
    return zoe_op_linear(t->be, &t->y, &t->x, &t->w, NULL);
}

static int run_attention(trial *t) {
    zoe_tensor q = zoe_view_heads(&t->x, t->heads), k = zoe_view_heads(&t->w, t->heads);
    zoe_tensor v = zoe_view_heads(&t->more, t->heads), y = zoe_view_heads(&t->y, t->heads);
    return zoe_op_attention(t->be, &y, &q, &k, &v, &(zoe_attention){.scale = 1 / sqrtf((float)q.shape[2])});
}

static int run_conv(trial *t) {
    return zoe_op_conv(
        t->be, &t->y, &t->x, &t->w,
        &(zoe_conv){.kernel = {3, 3, 3}, .stride = {1, 1, 1}, .pad = {{0, 0}, {1, 1}, {1, 1}}, .upsample = 1});
}

static int run_copy(trial *t) {
    return zoe_op_copy(t->be, &t->y, &t->x);
}

static int run_from_host(trial *t) {
    ZOE_TRY(t->be->ops->copy_begin(t->be, 0, t->x.data, t->host, t->bytes));
    ZOE_TRY(t->be->ops->copy_wait(t->be, 0));
    return t->be->ops->copy_release(t->be, 0);
}

/* ---- the clock ---- */

static int time_round(trial *t, int (*run)(trial *t), int count, double *seconds) {
    double start = zoe_now();
    for (int i = 0; i < count; i++) ZOE_TRY(run(t));
    ZOE_TRY(zoe_synchronize(t->be));
    *seconds = (zoe_now() - start) / count;
    return ZOE_OK;
}

/* Seconds of a run, in the best round; the first ones warm up. */
static int time_trial(trial *t, int (*run)(trial *t), double *best) {
    double seconds, end;
    ZOE_TRY(time_round(t, run, 1, &seconds));
    ZOE_TRY(time_round(t, run, 1, best));
    int count = *best < round_seconds ? (int)(round_seconds / *best) + 1 : 1;
    if (count > 1000) count = 1000;
    if (count > 1) *best = INFINITY; /* a run by itself is mostly waiting */
    end = zoe_now() + enough;
    do {
        ZOE_TRY(time_round(t, run, count, &seconds));
        if (seconds < *best) *best = seconds;
    } while (zoe_now() < end);
    return ZOE_OK;
}

/* ---- what is measured ---- */

static const shapes *shapes_of(const zoe_backend *be) {
    return be->ops->host_memory ? &on_processor : &on_device;
}

static int product_of(trial *t, zoe_dtype form, double *rate) {
    const shapes *s = shapes_of(t->be);
    double seconds;
    DRAW(t->be, &t->x, s->rows, s->depth);
    DRAW(t->be, &t->w, s->cols, s->depth);
    DRAW(t->be, &t->y, s->rows, s->cols);
    if (form != t->be->dtype) ZOE_TRY(zoe_form_narrow(t->be, &t->w, form));
    if (form != t->be->dtype && t->be->ops->quantised_rows) ZOE_TRY(zoe_form_narrow(t->be, &t->x, form));
    ZOE_TRY(time_trial(t, run_linear, &seconds));
    *rate = 2.0 * (double)s->rows * (double)s->depth * (double)s->cols / seconds;
    return ZOE_OK;
}

/* A device draws too much power to go on as fast as it begins. */
static int product(trial *t, zoe_rates *out) {
    ZOE_TRY(product_of(t, t->be->dtype, &out->product));
    if (t->be->ops->host_memory) return ZOE_OK;
    const shapes *s = shapes_of(t->be);
    double once = 2.0 * (double)s->rows * (double)s->depth * (double)s->cols / out->product, seconds;
    ZOE_TRY(time_round(t, run_linear, once < long_enough ? (int)fmin(long_enough / once, 10000) : 1, &seconds));
    out->steady = fmin(once / seconds, 1);
    return ZOE_OK;
}

/* On a device sums are written, and read for their scales: a plan counts that as bytes. */
static int int8(trial *t, zoe_rates *out) {
    const shapes *s = shapes_of(t->be);
    double rate, operations = 2.0 * (double)s->rows * (double)s->depth * (double)s->cols;
    ZOE_TRY(product_of(t, ZOE_I8, &rate));
    double seconds = operations / rate, passes = 2.0 * ZOE_DEVICE_SUM * (double)(s->rows * s->cols) / out->bytes;
    if (!t->be->ops->host_memory && out->bytes > 0) seconds = fmax(seconds - passes, seconds / 2);
    out->int8 = operations / seconds;
    return ZOE_OK;
}

static int fp8(trial *t, zoe_rates *out) {
    if (t->be->ops->host_memory) return ZOE_ERR_UNSUPPORTED; /* there they are floats */
    return product_of(t, ZOE_F8_E4M3, &out->fp8);
}

static int attention_of(trial *t, double rates[2], bool sage) {
    const shapes *s = shapes_of(t->be);
    bool before = t->be->sage;
    double seconds;
    int status = ZOE_OK;
    DRAW(t->be, &t->x, s->tokens, s->channels);
    DRAW(t->be, &t->w, s->tokens, s->channels);
    DRAW(t->be, &t->more, s->tokens, s->channels);
    DRAW(t->be, &t->y, s->tokens, s->channels);
    t->be->sage = sage;
    for (int i = 0; i < 2 && status == ZOE_OK; i++) {
        t->heads = s->channels / (i ? 64 : 128);
        status = time_trial(t, run_attention, &seconds);
        if (status == ZOE_OK) rates[i] = 4.0 * (double)s->tokens * (double)s->tokens * (double)s->channels / seconds;
    }
    t->be->sage = before;
    return status;
}

static int attention(trial *t, zoe_rates *out) {
    return attention_of(t, out->attention, false);
}

static int sage(trial *t, zoe_rates *out) {
    if (!t->be->ops->sage || t->be->dtype != ZOE_BF16) return ZOE_ERR_UNSUPPORTED;
    return attention_of(t, out->sage, true);
}

static int conv(trial *t, zoe_rates *out) {
    const shapes *s = shapes_of(t->be);
    int64_t c = s->width_channels;
    double seconds;
    DRAW(t->be, &t->x, 4, s->height, s->width, c);
    DRAW(t->be, &t->y, 2, s->height, s->width, c);
    DRAW(t->be, &t->w, c, 3, 3, 3, c);
    ZOE_TRY(time_trial(t, run_conv, &seconds));
    out->conv = 2.0 * (double)zoe_tensor_count(&t->y) * 27.0 * (double)c / seconds;
    return ZOE_OK;
}

static int bytes(trial *t, zoe_rates *out) {
    double seconds;
    DRAW(t->be, &t->x, shapes_of(t->be)->copied);
    DRAW(t->be, &t->y, shapes_of(t->be)->copied);
    ZOE_TRY(time_trial(t, run_copy, &seconds));
    out->bytes = 2 * (double)zoe_tensor_bytes(&t->x) / seconds;
    t->x = ZOE_VIEW(&t->x, t->x.shape[0]);
    zoe_tensor x = t->x, y = t->y;
    t->x = zoe_view_slice(&x, 0, 0, 64), t->y = zoe_view_slice(&y, 0, 0, 64);
    ZOE_TRY(time_trial(t, run_copy, &out->least));
    return ZOE_OK;
}

static int copy(trial *t, zoe_rates *out) {
    double seconds;
    if (t->be->ops->host_memory) return ZOE_ERR_UNSUPPORTED;
    t->bytes = (size_t)128 << 20;
    ZOE_TRY(t->be->ops->pinned_alloc(t->be, t->bytes, &t->host));
    ZOE_TRY(zoe_backend_alloc(t->be, &t->x, ZOE_U8, 1, (const int64_t[]){(int64_t)t->bytes}));
    int status = time_trial(t, run_from_host, &seconds);
    int ended = t->be->ops->copy_end(t->be, 0);
    if (status == ZOE_OK) out->copy = (double)t->bytes / seconds;
    return status < 0 ? status : ended;
}

static int measure(zoe_backend *be, int (*one)(trial *t, zoe_rates *out), zoe_rates *out) {
    trial t = {.be = be};
    size_t mark = zoe_arena_mark(be);
    int status = one(&t, out);
    zoe_arena_release(be, mark);
    zoe_backend_free(be, t.x.data);
    zoe_backend_free(be, t.w.data);
    zoe_backend_free(be, t.more.data);
    zoe_backend_free(be, t.y.data);
    if (t.host) be->ops->pinned_free(be, t.host, t.bytes);
    bool absent = status == ZOE_ERR_UNSUPPORTED || status == ZOE_ERR_NOMEM;
    if (!absent || out->product == 0) return status;
    be->ctx->error[0] = 0;
    return ZOE_OK;
}

int zoe_rates_measure(zoe_backend *be, zoe_rates *out) {
    static int (*const all[])(trial * t, zoe_rates * out) = {product, bytes, int8, fp8, attention, sage, conv, copy};
    int status = ZOE_OK;
    *out = (zoe_rates){0};
    for (size_t i = 0; i < sizeof all / sizeof all[0] && status == ZOE_OK; i++) status = measure(be, all[i], out);
    be->ops->trim(be);
    return status;
}

const zoe_rates zoe_rates_of_h100 = {.product = 789e12,
                                     .int8 = 1610e12,
                                     .fp8 = 1530e12,
                                     .attention = {802e12, 525e12},
                                     .sage = {920e12, 582e12},
                                     .conv = 776e12,
                                     .bytes = 2.92e12,
                                     .copy = 55e9,
                                     .disk = 3e9,
                                     .least = 4e-6,
                                     .steady = 0.91};

/* ---- reports ---- */

#define FIELD(name_, member_, unit_)                                                                                       \
    { .name = name_, .offset = offsetof(zoe_rates, member_), .unit = unit_ }

static const struct {
    const char *name;
    size_t offset;
    double unit;
} fields[] = {FIELD("product_gflops", product, 1e-9),
              FIELD("int8_gflops", int8, 1e-9),
              FIELD("fp8_gflops", fp8, 1e-9),
              FIELD("attention_gflops", attention[0], 1e-9),
              FIELD("attention_64_gflops", attention[1], 1e-9),
              FIELD("sage_gflops", sage[0], 1e-9),
              FIELD("sage_64_gflops", sage[1], 1e-9),
              FIELD("conv_gflops", conv, 1e-9),
              FIELD("memory_gbytes", bytes, 1e-9),
              FIELD("host_copy_gbytes", copy, 1e-9),
              FIELD("disk_gbytes", disk, 1e-9),
              FIELD("operation_microseconds", least, 1e6),
              FIELD("steady_share", steady, 1)};

static double *rate_at(zoe_rates *rates, size_t field) {
    return (double *)(void *)((char *)rates + fields[field].offset);
}

int zoe_rates_report(zoe_context *ctx, const zoe_rates *rates, json_t *report) {
    zoe_rates copy = *rates;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        double rate = *rate_at(&copy, i);
        if (rate > 0) ZOE_TRY(zoe_report_set(ctx, report, fields[i].name, json_real(fields[i].unit * rate)));
    }
    return ZOE_OK;
}

/* Names of the devices of a report, "cpu, cuda:0". */
static void list_devices(const json_t *devices, char *text, size_t size) {
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; i < json_array_size(devices) && used < size; i++) {
        const char *name = json_string_value(json_object_get(json_array_get(devices, i), "name"));
        if (name) used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "", name);
    }
}

static int find_device(const zoe_config *file, const char *device, json_t **out) {
    char names[128];
    json_t *devices = json_object_get(file->root, "devices");
    *out = NULL;
    for (size_t i = 0; i < json_array_size(devices); i++) {
        json_t *row = json_array_get(devices, i);
        const char *name = json_string_value(json_object_get(row, "name"));
        if (!name || strcmp(name, device) != 0) continue;
        *out = json_object_get(row, "measured");
        if (json_object_size(*out)) return ZOE_OK;
        return zoe_fail(file->ctx, ZOE_ERR_FORMAT, "%s: %s was not measured; `zoe devices --measure --json` does so",
                        file->path, device);
    }
    list_devices(devices, names, sizeof names);
    if (!*names)
        return zoe_fail(file->ctx, ZOE_ERR_FORMAT,
                        "%s: lists no devices, as the output of `zoe devices --measure --json` does", file->path);
    return zoe_fail(file->ctx, ZOE_ERR_FORMAT, "%s: has nothing about %s, only about %s", file->path, device, names);
}

int zoe_rates_load(zoe_context *ctx, const char *path, const char *device, zoe_rates *out) {
    static const char *const needed[] = {"product_gflops", "memory_gbytes", NULL};
    zoe_config file = {0};
    json_t *measured;
    *out = (zoe_rates){0};
    ZOE_TRY(zoe_config_load(ctx, path, &file));
    int status = find_device(&file, device, &measured);
    if (status == ZOE_OK) {
        zoe_config row = {.ctx = ctx, .root = measured, .path = file.path};
        status = zoe_config_require(&row, needed);
        for (size_t i = 0; i < sizeof fields / sizeof fields[0] && status == ZOE_OK; i++) {
            double rate = 0;
            if (!zoe_config_has(&row, fields[i].name)) continue;
            status = zoe_config_real_in(&row, fields[i].name, 1e-9, 1e12, &rate);
            *rate_at(out, i) = rate / fields[i].unit;
        }
    }
    zoe_config_free(&file);
    return status;
}
