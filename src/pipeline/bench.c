/* zoe_bench(): times one part of the engine on random data, beside the measured ceiling. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/backend.h"
#include "backend/plugin.h"
#include "formats/json.h"
#include "pipeline/kinds.h"
#include "pipeline/measure.h"
#include "pipeline/model.h"
#include "pipeline/plan.h"
#include "pipeline/rates.h"
#include "pipeline/report.h"
#include "weights/convert.h"
#include "weights/quantise.h"

enum { MAX_REPEATS = 10000 };

void zoe_bench_settings_init(zoe_bench_settings *settings) {
    *settings = (zoe_bench_settings){.what = "linear",
                                     .device = "auto",
                                     .dtype = "bf16",
                                     .linear = "native",
                                     .width = 832,
                                     .height = 480,
                                     .frames = 17,
                                     .vae_tiling = "none",
                                     .vae_parts = 2,
                                     .tokens = 1536,
                                     .inputs = 1536,
                                     .outputs = 8960,
                                     .heads = 12,
                                     .head_dim = 128,
                                     .repeats = 3};
}

/* A benchmark in progress. */
typedef struct bench {
    zoe_context *ctx;
    zoe_backend *be;
    const zoe_bench_settings *settings;
    json_t *report, *shape;
    double *seconds; /* [repeats] */
    int64_t device_peak;
    zoe_weight_use moved; /* by the timed repeats */
} bench;

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return count % 2 ? values[count / 2] : 0.5 * (values[count / 2 - 1] + values[count / 2]);
}

/* Replaces the float matrix by a quantised one. */
static int quantise(bench *b, zoe_tensor *w, zoe_weight_form form) {
    if (!zoe_quantisable(form, w->shape[0], w->shape[1]))
        return zoe_fail(b->ctx, ZOE_ERR_ARGUMENT, "linear %s: not for %lld inputs and %lld outputs", b->settings->linear,
                        (long long)w->shape[1], (long long)w->shape[0]);
    zoe_tensor q = zoe_quantised_of(NULL, form.dtype, w->shape[0], w->shape[1], form.group);
    ZOE_TRY(zoe_form_alloc(b->be, &q));
    int status = zoe_op_quantise(b->be, &q, w);
    zoe_backend_free(b->be, w->data);
    *w = q;
    return status;
}

static int weight_dtype(bench *b, zoe_dtype *out) {
    static const struct {
        const char *name;
        zoe_dtype dtype;
    } names[] = {{"f32", ZOE_F32}, {"bf16", ZOE_BF16}, {"f16", ZOE_F16}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(b->settings->dtype, names[i].name) == 0) {
            *out = names[i].dtype;
            return ZOE_OK;
        }
    return zoe_fail(b->ctx, ZOE_ERR_ARGUMENT, "dtype: found \"%s\", expected one of f32|bf16|f16", b->settings->dtype);
}

/* Puts time and rate into the report; `flops` of one repetition. */
static int add_rates(bench *b, double flops, double ceiling) {
    double seconds = median(b->seconds, b->settings->repeats), gflops = 1e-9 * flops / seconds;
    ZOE_TRY(zoe_report_set(b->ctx, b->report, "repeats", json_integer(b->settings->repeats)));
    ZOE_TRY(zoe_report_set(b->ctx, b->report, "seconds", json_real(seconds)));
    ZOE_TRY(zoe_report_set(b->ctx, b->report, "gflops", json_real(gflops)));
    ZOE_TRY(zoe_report_set(b->ctx, b->report, "ceiling_gflops", json_real(ceiling)));
    return zoe_report_set(b->ctx, b->report, "ratio", json_real(gflops / ceiling));
}

static int add_shape(bench *b, const char *name, int64_t value) {
    return zoe_report_set(b->ctx, b->shape, name, json_integer(value));
}

static double work_flops(const zoe_backend *be) {
    return be->work.linear_flops + be->work.attention_flops + be->work.conv_flops;
}

/* Runs `step` once to warm up, then `repeats` times against the clock. */
static int time_steps(bench *b, int (*step)(bench *b, void *user), void *user, double *flops) {
    ZOE_TRY(step(b, user));
    ZOE_TRY(zoe_synchronize(b->be));
    zoe_weight_use before_all = b->be->weights;
    for (int i = 0; i < b->settings->repeats; i++) {
        ZOE_TRY(zoe_check_cancelled(b->ctx));
        double before = work_flops(b->be), start = zoe_now();
        ZOE_TRY(step(b, user));
        ZOE_TRY(zoe_synchronize(b->be));
        b->seconds[i] = zoe_now() - start;
        *flops = work_flops(b->be) - before;
    }
    b->device_peak = b->be->device_peak;
    b->moved = b->be->weights;
    b->moved.loaded -= before_all.loaded;
    b->moved.read -= before_all.read;
    b->moved.read_seconds -= before_all.read_seconds;
    b->moved.stalled -= before_all.stalled;
    return ZOE_OK;
}

/*
 * The rate of matrix products to hold a result against: on the processor of its own library in float32, [rows, depth] x
 * [cols, depth]^T; on a device of a large product through the backend, in the type of its activations.
 */
static int measure_ceiling(bench *b, int64_t rows, int64_t cols, int64_t depth, double *gflops) {
    if (b->be->ops->host_memory) return zoe_measure_sgemm(b->ctx, rows, cols, depth, gflops);
    return zoe_measure_product(b->be, b->be->dtype, gflops);
}

/* ---- linear ---- */

typedef struct linear_data {
    zoe_tensor x, w, bias, y;
} linear_data;

static int linear_step(bench *b, void *user) {
    linear_data *d = user;
    zoe_tensor bias = zoe_tensor_of(d->bias.data, ZOE_F32, 1, &d->bias.shape[1]);
    return zoe_op_linear(b->be, &d->y, &d->x, &d->w, &(zoe_linear){.bias = &bias});
}

static int bench_linear(bench *b) {
    const zoe_bench_settings *s = b->settings;
    linear_data d = {0};
    zoe_dtype dtype = ZOE_F32;
    zoe_linear_policy linear;
    double flops = 0, ceiling = 0;
    ZOE_TRY(weight_dtype(b, &dtype));
    ZOE_TRY(zoe_linear_policy_find(b->ctx, s->linear, &linear));
    bool quantised = linear.denoiser.dtype != ZOE_DTYPE_COUNT;
    ZOE_TRY(add_shape(b, "tokens", s->tokens));
    ZOE_TRY(add_shape(b, "inputs", s->inputs));
    ZOE_TRY(add_shape(b, "outputs", s->outputs));
    ZOE_TRY(zoe_report_set(b->ctx, b->shape, "weights", json_string(quantised ? s->linear : s->dtype)));
    int status;
    ZOE_TRY_DONE(zoe_random_tensor(b->be, &d.x, b->be->dtype, s->tokens, s->inputs));
    ZOE_TRY_DONE(zoe_random_tensor(b->be, &d.w, dtype, s->outputs, s->inputs));
    if (quantised) ZOE_TRY_DONE(quantise(b, &d.w, linear.denoiser));
    ZOE_TRY_DONE(zoe_random_tensor(b->be, &d.bias, ZOE_F32, 1, s->outputs));
    ZOE_TRY_DONE(zoe_random_tensor(b->be, &d.y, b->be->dtype, s->tokens, s->outputs));
    ZOE_TRY_DONE(time_steps(b, linear_step, &d, &flops));
    ZOE_TRY_DONE(measure_ceiling(b, s->tokens, s->outputs, s->inputs, &ceiling));
    ZOE_TRY_DONE(add_rates(b, flops, ceiling));
done:
    zoe_backend_free(b->be, d.x.data);
    zoe_backend_free(b->be, d.w.data);
    zoe_backend_free(b->be, d.bias.data);
    zoe_backend_free(b->be, d.y.data);
    return status;
}

/* ---- attention ---- */

typedef struct attention_data {
    zoe_tensor q, k, v, y; /* [tokens, heads * head_dim] */
} attention_data;

static int attention_step(bench *b, void *user) {
    attention_data *d = user;
    int64_t heads = b->settings->heads;
    zoe_tensor q = zoe_view_heads(&d->q, heads), k = zoe_view_heads(&d->k, heads), v = zoe_view_heads(&d->v, heads);
    zoe_tensor y = zoe_view_heads(&d->y, heads);
    return zoe_op_attention(b->be, &y, &q, &k, &v, &(zoe_attention){.scale = 1.0f / sqrtf((float)b->settings->head_dim)});
}

static int bench_attention(bench *b) {
    const zoe_bench_settings *s = b->settings;
    attention_data d = {0};
    double flops = 0, ceiling = 0;
    int64_t channels = (int64_t)s->heads * s->head_dim;
    ZOE_TRY(add_shape(b, "tokens", s->tokens));
    ZOE_TRY(add_shape(b, "heads", s->heads));
    ZOE_TRY(add_shape(b, "head_dim", s->head_dim));
    int status;
    ZOE_TRY_DONE(zoe_random_tensor(b->be, &d.q, b->be->dtype, s->tokens, channels));
    ZOE_TRY_DONE(zoe_random_tensor(b->be, &d.k, b->be->dtype, s->tokens, channels));
    ZOE_TRY_DONE(zoe_random_tensor(b->be, &d.v, b->be->dtype, s->tokens, channels));
    ZOE_TRY_DONE(zoe_random_tensor(b->be, &d.y, b->be->dtype, s->tokens, channels));
    ZOE_TRY_DONE(time_steps(b, attention_step, &d, &flops));
    ZOE_TRY_DONE(measure_ceiling(b, 1536, 1536, 4096, &ceiling));
    ZOE_TRY_DONE(add_rates(b, flops, ceiling));
done:
    zoe_backend_free(b->be, d.q.data);
    zoe_backend_free(b->be, d.k.data);
    zoe_backend_free(b->be, d.v.data);
    zoe_backend_free(b->be, d.y.data);
    return status;
}

/* ---- networks on random weights ---- */

/* Reads the part's config.json: from a folder of the part, or from a model folder. */
static int load_config(bench *b, const char *part, zoe_config *config) {
    const char *dir = b->settings->config;
    if (!dir) return zoe_fail(b->ctx, ZOE_ERR_ARGUMENT, "config: a folder with %s's config.json is needed", part);
    char *inside = zoe_format(b->ctx, "%s/%s/config.json", dir, part), *own = zoe_format(b->ctx, "%s/config.json", dir);
    int status = inside && own ? ZOE_OK : zoe_out_of_memory(b->ctx, strlen(dir), "path");
    struct stat info;
    if (status == ZOE_OK) status = zoe_config_load(b->ctx, stat(inside, &info) == 0 ? inside : own, config);
    zoe_free(b->ctx, inside);
    zoe_free(b->ctx, own);
    return status;
}

static int find_task(bench *b, zoe_backend *be, const zoe_config *config, zoe_bench_task *task) {
    for (int i = 0; zoe_families[i]; i++) {
        if (!zoe_families[i]->bench) continue;
        int status = zoe_families[i]->bench(be, config, b->settings, task);
        if (status != ZOE_ERR_UNSUPPORTED) return status;
        if (task->close) task->close(task->state);
        *task = (zoe_bench_task){0};
    }
    return zoe_fail(b->ctx, ZOE_ERR_UNSUPPORTED, "%s: no network that \"%s\" could time", config->path, b->settings->what);
}

static int network_step(bench *b, void *user) {
    (void)b;
    zoe_bench_task *task = user;
    return task->run(task->state);
}

/* Runs the network once where nothing is computed, under the budgets of the real backend. */
static int plan_network(bench *b, const zoe_config *config, zoe_backend **out) {
    zoe_bench_task task = {0};
    ZOE_TRY(zoe_plan_backend_like(b->be, out));
    int status = find_task(b, *out, config, &task);
    if (status == ZOE_OK) status = task.run(task.state);
    if (task.close) task.close(task.state);
    return status;
}

static int refuse(bench *b, const zoe_backend *plan, int64_t fixed, int64_t rest) {
    char device[32], host[32];
    bool one = b->be->ops->host_memory;
    zoe_bytes_text(device, sizeof device, rest + plan->weights.least);
    zoe_bytes_text(host, sizeof host,
                   (one ? rest + plan->weights.least : fixed + plan->weights.host_least) + ZOE_HOST_RESERVE);
    if (one) return zoe_fail(b->ctx, ZOE_ERR_BUDGET, "--ram: at least %s are needed", host);
    return zoe_fail(b->ctx, ZOE_ERR_BUDGET, "--vram: at least %s are needed, and %s of host memory (--ram)", device, host);
}

/* What is left for weights beside what the plan without budgets says of everything else. */
static int set_budgets(bench *b, const zoe_config *config, int64_t *device, int64_t *host) {
    zoe_backend *plan = NULL;
    zoe_weight_use *use = &b->be->weights;
    zoe_limits limits = zoe_limits_of(b->be, b->settings->ram);
    int64_t fixed = 0;
    int status = plan_network(b, config, &plan);
    if (status == ZOE_OK) {
        fixed = zoe_plan_base(b->be) + plan->host_peak;
        if (b->be->ops->host_memory) fixed += (int64_t)plan->arena.peak + plan->workspace;
        int64_t rest = b->be->ops->host_memory ? fixed : plan->device_peak - plan->weights.peak;
        int64_t limit = b->be->ops->host_memory ? limits.host : limits.device;
        use->budget = limit ? limit - rest : 0;
        use->host_budget = limits.host ? limits.host - fixed : 0;
        if ((limit && use->budget < plan->weights.least) || (limits.host && use->host_budget < plan->weights.host_least))
            status = refuse(b, plan, fixed, rest);
    }
    zoe_backend_close(plan);
    plan = NULL;
    if (status == ZOE_OK) status = plan_network(b, config, &plan);
    if (status == ZOE_OK) {
        *device = plan->device_peak;
        *host = fixed + (b->be->ops->host_memory ? plan->weights.peak : plan->weights.host_peak);
    }
    zoe_backend_close(plan);
    return status;
}

/* Bytes of the device that are in use, by its driver's account. */
static int64_t driver_bytes(bench *b) {
    const zoe_plugin *plugin;
    zoe_plugin_device device;
    const char *colon = strchr(b->settings->device, ':');
    if (b->be->ops->host_memory || zoe_plugin_load(b->ctx, "cuda", &plugin) < 0) return 0;
    int number = colon ? (int)strtol(colon + 1, NULL, 10) : 0;
    return plugin->describe(b->ctx, number, &device) < 0 ? 0 : device.memory_total - device.memory_free;
}

static int add_memory(bench *b, int64_t planned_device, int64_t planned_host) {
    const zoe_weight_use *w = &b->moved;
    const struct {
        const char *name;
        int64_t value;
    } rows[] = {{"planned_device_bytes", planned_device},
                {"planned_host_bytes", planned_host},
                {"driver_device_bytes", driver_bytes(b)},
                {"resident_host_bytes", zoe_peak_resident_bytes()},
                {"weight_peak_bytes", w->peak},
                {"host_weight_bytes", w->host_held},
                {"copied_bytes_per_repeat", w->loaded / b->settings->repeats},
                {"read_bytes_per_repeat", w->read / b->settings->repeats}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        ZOE_TRY(zoe_report_set(b->ctx, b->report, rows[i].name, json_integer(rows[i].value)));
    ZOE_TRY(zoe_report_set(b->ctx, b->report, "stalled_seconds_per_repeat", json_real(w->stalled / b->settings->repeats)));
    return zoe_report_set(b->ctx, b->report, "read_gbytes_per_second",
                          json_real(w->read_seconds > 0 ? 1e-9 * (double)w->read / w->read_seconds : 0));
}

/* What a run that is not the first takes by plan: the longer of its operations and its copies. */
static int plan_seconds(bench *b, const zoe_config *config, const zoe_rates *rates, double *seconds) {
    zoe_backend *plan;
    zoe_bench_task task = {0};
    ZOE_TRY(zoe_plan_backend_like(b->be, &plan));
    zoe_plan_backend_rates(plan, rates);
    int status = find_task(b, plan, config, &task);
    if (status == ZOE_OK) status = task.run(task.state);
    double counted = plan->work.seconds, loaded = (double)plan->weights.loaded;
    if (status == ZOE_OK) status = task.run(task.state);
    double copying = rates->copy > 0 ? ((double)plan->weights.loaded - loaded) / rates->copy : 0;
    *seconds = plan->work.seconds - counted;
    if (copying > *seconds) *seconds = copying;
    if (task.close) task.close(task.state);
    zoe_backend_close(plan);
    return status;
}

/* The plan's time at the rates that the machine reaches right after the run. */
static int add_plan(bench *b, const zoe_config *config) {
    zoe_rates rates;
    double seconds;
    json_t *measured = json_object();
    ZOE_TRY(zoe_report_set(b->ctx, b->report, "measured", measured));
    ZOE_TRY(zoe_rates_measure(b->be, &rates));
    ZOE_TRY(zoe_rates_report(b->ctx, &rates, measured));
    ZOE_TRY(plan_seconds(b, config, &rates, &seconds));
    return zoe_report_set(b->ctx, b->report, "planned_seconds", json_real(seconds));
}

/* One more run, operation by operation. */
static int profile_run(bench *b, zoe_bench_task *task, zoe_profile_times *times) {
    ZOE_TRY(zoe_profile_open(b->be));
    int status = task->run(task->state), closed = zoe_profile_close(b->be, times);
    return status < 0 ? status : closed;
}

/* Its times beside what products and copies reach; in the report as "kinds". */
static int add_kinds(bench *b, const zoe_profile_times *times, double gflops) {
    zoe_ceilings ceilings = {.gflops = gflops, .narrow_gflops = gflops};
    zoe_linear_policy linear;
    ZOE_TRY(zoe_linear_policy_find(b->ctx, b->settings->linear, &linear));
    zoe_dtype form = linear.denoiser.dtype;
    if (b->be->ops->host_memory) {
        ZOE_TRY(zoe_measure_copy(b->ctx, &ceilings.gbytes));
    } else {
        ZOE_TRY(zoe_measure_device_copy(b->be, &ceilings.gbytes));
        if (form == ZOE_I8 || form == ZOE_F8_E4M3) ZOE_TRY(zoe_measure_product(b->be, form, &ceilings.narrow_gflops));
    }
    return zoe_report_kinds(b->ctx, b->report, times, &ceilings);
}

static int time_network(bench *b, const char *part) {
    const zoe_bench_settings *s = b->settings;
    zoe_config config = {0};
    zoe_bench_task task = {0};
    zoe_profile_times times;
    double flops = 0, ceiling = 0;
    int64_t planned_device = 0, planned_host = 0;
    int status;
    ZOE_TRY_DONE(load_config(b, part, &config));
    ZOE_TRY_DONE(set_budgets(b, &config, &planned_device, &planned_host));
    double start = zoe_now();
    ZOE_TRY_DONE(find_task(b, b->be, &config, &task));
    ZOE_TRY_DONE(zoe_synchronize(b->be));
    ZOE_TRY_DONE(zoe_report_set(b->ctx, b->report, "prepare_seconds", json_real(zoe_now() - start)));
    if (strcmp(part, "text_encoder") != 0) {
        ZOE_TRY_DONE(add_shape(b, "width", s->width));
        ZOE_TRY_DONE(add_shape(b, "height", s->height));
        ZOE_TRY_DONE(add_shape(b, "frames", s->frames));
    }
    ZOE_TRY_DONE(add_shape(b, "weight_bytes", task.weight_bytes));
    ZOE_TRY_DONE(time_steps(b, network_step, &task, &flops));
    ZOE_TRY_DONE(add_memory(b, planned_device, planned_host));
    ZOE_TRY_DONE(profile_run(b, &task, &times));
    task.close(task.state);
    task = (zoe_bench_task){0};
    zoe_arena_release(b->be, 0);
    zoe_arena_trim(b->be);
    ZOE_TRY_DONE(measure_ceiling(b, 1536, 1536, 4096, &ceiling));
    ZOE_TRY_DONE(add_rates(b, flops, ceiling));
    ZOE_TRY_DONE(add_kinds(b, &times, ceiling));
    ZOE_TRY_DONE(add_plan(b, &config));
done:
    if (task.close) task.close(task.state);
    zoe_config_free(&config);
    return status;
}

static int bench_denoise(bench *b) {
    return time_network(b, "transformer");
}

static int bench_decode(bench *b) {
    return time_network(b, "vae");
}

static int bench_encode(bench *b) {
    return time_network(b, "vae");
}

static int bench_text(bench *b) {
    return time_network(b, "text_encoder");
}

/* ---- all ---- */

static const struct {
    const char *name;
    int (*run)(bench *b);
} parts[] = {{"denoise", bench_denoise}, {"decode", bench_decode}, {"encode", bench_encode},
             {"text", bench_text},       {"linear", bench_linear}, {"attention", bench_attention}};

static int run_part(bench *b) {
    const zoe_bench_settings *s = b->settings;
    if (s->repeats < 1 || s->repeats > MAX_REPEATS)
        return zoe_fail(b->ctx, ZOE_ERR_ARGUMENT, "repeats: found %d, expected 1 to %d", s->repeats, MAX_REPEATS);
    const int32_t counts[] = {s->width,   s->height, s->frames,   s->tokens,   s->inputs,
                              s->outputs, s->heads,  s->head_dim, s->vae_parts};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        if (counts[i] < 1)
            return zoe_fail(b->ctx, ZOE_ERR_ARGUMENT, "sizes and counts: found %d, expected 1 or more", counts[i]);
    if (!s->what || !s->device || !s->dtype || !s->linear)
        return zoe_fail(b->ctx, ZOE_ERR_ARGUMENT,
                        "what, device, dtype and linear are needed; zoe_bench_settings_init() fills them");
    ZOE_TRY(ZOE_NEW_ARRAY(b->ctx, b->seconds, s->repeats));
    ZOE_TRY(zoe_report_set(b->ctx, b->report, "what", json_string(s->what)));
    const char *device;
    ZOE_TRY(zoe_device_find(b->ctx, s->device, &device));
    ZOE_TRY(zoe_report_set(b->ctx, b->report, "device", json_string(device)));
    b->shape = json_object();
    ZOE_TRY(zoe_report_set(b->ctx, b->report, "shape", b->shape));
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (strcmp(s->what, parts[i].name) == 0) {
            ZOE_TRY(zoe_backend_open(b->ctx, device, NULL, s->vram, s->attention, &b->be));
            ZOE_TRY(zoe_offload_parse(b->ctx, s->offload, &b->be->weights.offload));
            ZOE_TRY(parts[i].run(b));
            ZOE_TRY(zoe_report_set(b->ctx, b->report, "peak_device_bytes", json_integer(b->device_peak)));
            return zoe_report_set(b->ctx, b->report, "peak_host_bytes", json_integer(zoe_peak_resident_bytes()));
        }
    return zoe_fail(b->ctx, ZOE_ERR_ARGUMENT,
                    "no benchmark \"%s\", expected one of denoise|decode|encode|text|linear|attention", s->what);
}

int zoe_bench(zoe_context *ctx, const zoe_bench_settings *settings, char **json) {
    bench b = {.ctx = ctx, .settings = settings, .report = json_object()};
    *json = NULL;
    int status = run_part(&b);
    zoe_backend_close(b.be);
    zoe_free(ctx, b.seconds);
    zoe_cancel_ended(ctx);
    return zoe_report_finish(ctx, status, b.report, json);
}
