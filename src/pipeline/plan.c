#include "pipeline/plan.h"

#include <stdio.h>
#include <string.h>

#include "backend/device.h"
#include "formats/reader.h"
#include "media/media.h"
#include "pipeline/rates.h"
#include "pipeline/report.h"

/* Host memory left to the system and to other programs where no --ram is given; a quarter of what is little. */
#define HOST_MARGIN ((int64_t)2 << 30)

/* Code and tables that a process touches only as it computes. */
#define HOST_LATE ((int64_t)2 << 20)

int64_t zoe_plan_base(const zoe_backend *be) {
    int64_t now = zoe_resident_bytes();
    if (be->ops->host_memory) return now + HOST_LATE;
    return now + ZOE_DEVICE_LATE > ZOE_DEVICE_HOST ? now + ZOE_DEVICE_LATE : ZOE_DEVICE_HOST;
}

/* The model over a backend that computes nothing. */
static int open_twin(zoe_model *model, zoe_model **twin) {
    zoe_backend *be = NULL;
    *twin = NULL;
    ZOE_TRY(zoe_plan_backend_like(model->be, &be));
    return zoe_model_open_on(model, be, twin);
}

/* Every plan begins with nothing loaded, also where --offload lets weights stay from request to request. */
static void forget(zoe_model *twin) {
    zoe_offload offload = twin->be->weights.offload;
    zoe_weights *weights;
    twin->be->weights.offload = ZOE_OFFLOAD_AUTO;
    for (int i = 0; (weights = twin->family->weights(twin->impl, i)); i++) zoe_weights_unload(weights);
    twin->be->weights.offload = offload;
}

/* Planning itself makes the process larger, so plans of one request share the `base` of the first. */
static int count(zoe_model *twin, const zoe_request *request, const zoe_phase_budget *budgets, int64_t base,
                 zoe_plan *out) {
    zoe_request quiet = *request;
    quiet.output = quiet.dump = NULL;
    quiet.progress = NULL;
    quiet.frame = NULL;
    *out =
        (zoe_plan){.device = !twin->be->ops->host_memory, .base = base, .rates = out->rates, .rates_from = out->rates_from};
    if (budgets) out->parts = budgets[0].parts, out->rows = budgets[0].rows;
    out->together = budgets && budgets[ZOE_PHASE_DENOISE].together;
    ZOE_TRY(zoe_generate_counted(twin, &quiet, budgets, &out->shape, out->phases));
    forget(twin);
    if (request->output)
        out->output = zoe_video_memory(request->output, out->shape.width, out->shape.height, request->frames);
    return ZOE_OK;
}

int zoe_plan_make(zoe_model *model, const zoe_request *request, const zoe_phase_budget *budgets, zoe_plan *out) {
    zoe_model *twin;
    int64_t base = zoe_plan_base(model->be);
    *out = (zoe_plan){0};
    ZOE_TRY(open_twin(model, &twin));
    int status = count(twin, request, budgets, base, out);
    zoe_model_close(twin);
    return status;
}

int64_t zoe_plan_peak(const zoe_plan *plan, zoe_phase phase) {
    const zoe_phase_use *use = &plan->phases[phase];
    int64_t own = plan->device ? use->weights.host_peak : use->weights.peak + use->activations + use->workspace;
    return plan->base + (plan->device ? ZOE_DEVICE_OTHERS : 0) + plan->output + use->host + own;
}

/* ---- budgets ---- */

zoe_limits zoe_limits_of(const zoe_backend *be, int64_t ram) {
    zoe_limits limits = {.host = ram, .device = be->device_budget};
    if (ram) limits.host = ram > ZOE_HOST_RESERVE ? ram - ZOE_HOST_RESERVE : 1;
    int64_t available = zoe_available_bytes() + zoe_resident_bytes(), margin = available / 4;
    if (margin > HOST_MARGIN) margin = HOST_MARGIN;
    if (!limits.host && !be->ops->host_memory && available > 0) limits.host = available - margin;
    return limits;
}

/*
 * The budget that is told: it has to work when it is given, in the two decimals in which it is told, and in another
 * process, whose own memory is a few pages more or less.
 */
static int64_t round_up(int64_t bytes) {
    int64_t unit = 1 << 20;
    bytes += 1 << 20;
    while (bytes >> 10 >= unit && unit < (int64_t)1 << 40) unit <<= 10;
    return ((bytes * 100 / unit + 1) * unit + 99) / 100;
}

/* What would lower the budget that a phase needs of the device's memory or, if that is not asked about, the host's. */
static const char *advice(const zoe_model *model, const zoe_request *request, int phase, bool device) {
    zoe_offload offload = model->be->weights.offload;
    const char *linear = model->settings.linear;
    bool weights = device || model->be->ops->host_memory; /* are there */
    if (weights && (offload == ZOE_OFFLOAD_NONE || offload == ZOE_OFFLOAD_MODEL))
        return "--offload auto, a smaller --size or fewer --frames would lower it";
    if (phase == ZOE_PHASE_DECODE && request->vae_tiling && strcmp(request->vae_tiling, "none") == 0)
        return "--vae-tiling auto, a smaller --size or fewer --frames would lower it";
    if (phase != ZOE_PHASE_TEXT) return "a smaller --size or fewer --frames would lower it";
    return linear && strcmp(linear, "native") != 0 ? "a shorter --prompt would lower it"
                                                   : "--linear int8 or int4 would lower it";
}

static int refuse(const zoe_model *model, const zoe_plan *plan, const char *option, int64_t asked, int64_t least, int phase,
                  const char *advice) {
    char budget[32], smallest[32], activations[32];
    zoe_bytes_text(budget, sizeof budget, asked);
    zoe_bytes_text(smallest, sizeof smallest, round_up(least));
    zoe_bytes_text(activations, sizeof activations, plan->phases[phase].activations);
    return zoe_fail(
        model->ctx, ZOE_ERR_BUDGET,
        "%s: %s is not enough; the smallest budget that works is %s (phase %s, of which %s are activations: %s)", option,
        budget, smallest, zoe_phase_name((zoe_phase)phase), activations, advice);
}

/* The least that a phase runs with. */
static void least_of(const zoe_plan *plan, int phase, int64_t *host, int64_t *device) {
    const zoe_phase_use *use = &plan->phases[phase];
    *host = zoe_plan_peak(plan, (zoe_phase)phase) - (plan->device ? use->weights.host_peak : use->weights.peak);
    *host += plan->device ? use->weights.host_least : use->weights.least;
    *device = plan->device ? use->device - use->weights.peak + use->weights.least : 0;
}

static bool meet(const zoe_limits *limits, int64_t host, int64_t device) {
    return (!limits->host || host <= limits->host) && (!limits->device || device <= limits->device);
}

/* The least that all phases run with, and those that need the most. */
typedef struct needs {
    int64_t host, device;
    int host_phase, device_phase;
} needs;

static needs needs_of(const zoe_plan *plan) {
    needs most = {0};
    int64_t host, device;
    for (int i = 0; i < ZOE_PHASE_COUNT; i++) {
        if (!plan->phases[i].steps) continue;
        least_of(plan, i, &host, &device);
        if (host > most.host) most.host = host, most.host_phase = i;
        if (device > most.device) most.device = device, most.device_phase = i;
    }
    return most;
}

/* ZOE_ERR_BUDGET, naming the smallest budget that works, where the limits are not enough. */
static int check(const zoe_model *model, const zoe_request *request, const zoe_limits *limits, const zoe_plan *plan) {
    needs least = needs_of(plan);
    int64_t ram = model->settings.ram, reserve = ram ? ZOE_HOST_RESERVE : 0;
    if (limits->device && least.device > limits->device)
        return refuse(model, plan, "--vram", limits->device, least.device, least.device_phase,
                      advice(model, request, least.device_phase, true));
    if (limits->host && least.host > limits->host)
        return refuse(model, plan, "--ram", ram ? ram : limits->host, least.host + reserve, least.host_phase,
                      advice(model, request, least.host_phase, false));
    return ZOE_OK;
}

/* What is left for weights in each phase under the limits. The plan is one without budgets. */
static void share(const zoe_limits *limits, const zoe_plan *plan, zoe_phase_budget budgets[ZOE_PHASE_COUNT]) {
    for (int i = 0; i < ZOE_PHASE_COUNT; i++) {
        const zoe_weight_use *use = &plan->phases[i].weights;
        int64_t host = zoe_plan_peak(plan, (zoe_phase)i) - (plan->device ? use->host_peak : use->peak);
        int64_t device = plan->phases[i].device - use->peak;
        if (!plan->phases[i].steps) continue;
        budgets[i].weights = plan->device ? limits->device - device : limits->host - host;
        budgets[i].host = limits->host - host;
        if (plan->device ? !limits->device : !limits->host) budgets[i].weights = 0;
        if (!limits->host) budgets[i].host = 0;
    }
}

/* What may be tried to make a phase smaller, from the fastest on. */
typedef struct ladder {
    zoe_phase phase;
    const int *steps;
    int count;
} ladder;

/* Goes down a ladder as far as the limits ask for. */
static int descend(zoe_model *twin, const zoe_request *request, const zoe_limits *limits, const ladder *l, zoe_plan *plan,
                   zoe_phase_budget budgets[ZOE_PHASE_COUNT]) {
    int64_t host, device, host_before = INT64_MAX, device_before = INT64_MAX;
    for (int i = 0; i < l->count; i++) {
        for (int j = 0; j < ZOE_PHASE_COUNT; j++) {
            if (l->phase == ZOE_PHASE_DECODE)
                budgets[j].parts = l->steps[i];
            else
                budgets[j].rows = l->steps[i];
        }
        ZOE_TRY(count(twin, request, budgets, plan->base, plan));
        least_of(plan, (int)l->phase, &host, &device);
        if (meet(limits, host, device)) break;
        if (host >= host_before && device >= device_before) break; /* the next takes no less */
        host_before = host, device_before = device;
    }
    return ZOE_OK;
}

/* While it denoises, the first plan reads less than the second or, if they read the same, copies less. */
static bool moves_less(const zoe_plan *first, const zoe_plan *second) {
    const zoe_weight_use *a = &first->phases[ZOE_PHASE_DENOISE].weights, *b = &second->phases[ZOE_PHASE_DENOISE].weights;
    return a->read != b->read ? a->read < b->read : a->loaded < b->loaded;
}

/*
 * Where blocks of the denoiser come and go, those of a guided step come once instead of twice if its branches go through
 * them together. That takes a hidden state more, for which fewer blocks may stay: what moves less as a whole is chosen.
 */
static int join_branches(zoe_model *twin, const zoe_request *request, const zoe_limits *limits, zoe_plan *plan,
                         zoe_phase_budget budgets[ZOE_PHASE_COUNT]) {
    zoe_phase_budget joined[ZOE_PHASE_COUNT];
    zoe_plan apart = *plan, whole = *plan, together = *plan;
    ZOE_TRY(count(twin, request, budgets, plan->base, &apart));
    const zoe_weight_use *use = &apart.phases[ZOE_PHASE_DENOISE].weights;
    if (use->loaded <= use->peak) return ZOE_OK; /* all that came is still there */
    for (int i = 0; i < ZOE_PHASE_COUNT; i++) {
        joined[i] = (zoe_phase_budget){.parts = budgets[i].parts, .rows = budgets[i].rows};
        joined[i].together = i == ZOE_PHASE_DENOISE;
    }
    ZOE_TRY(count(twin, request, joined, plan->base, &whole));
    needs least = needs_of(&whole);
    if (!meet(limits, least.host, least.device)) return ZOE_OK;
    share(limits, &whole, joined);
    ZOE_TRY(count(twin, request, joined, plan->base, &together));
    if (!moves_less(&together, &apart)) return ZOE_OK;
    memcpy(budgets, joined, sizeof joined);
    *plan = whole;
    return ZOE_OK;
}

static int fit(zoe_model *model, zoe_model *twin, const zoe_request *request, zoe_plan *plan,
               zoe_phase_budget budgets[ZOE_PHASE_COUNT]) {
    static const int parts[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32}, rows[] = {0, 8192, 2048, 512};
    static const ladder ladders[] = {{ZOE_PHASE_DECODE, parts, sizeof parts / sizeof *parts},
                                     {ZOE_PHASE_DENOISE, rows, sizeof rows / sizeof *rows}};
    zoe_limits limits = zoe_limits_of(model->be, model->settings.ram);
    for (int i = 0; i < ZOE_PHASE_COUNT; i++) budgets[i] = (zoe_phase_budget){0};
    for (size_t i = 0; i < sizeof ladders / sizeof *ladders; i++)
        ZOE_TRY(descend(twin, request, &limits, &ladders[i], plan, budgets));
    ZOE_TRY(check(model, request, &limits, plan));
    share(&limits, plan, budgets);
    return zoe_guided(request) ? join_branches(twin, request, &limits, plan, budgets) : ZOE_OK;
}

int zoe_plan_fit(zoe_model *model, const zoe_request *request, zoe_plan *plan, zoe_phase_budget budgets[ZOE_PHASE_COUNT]) {
    zoe_model *twin;
    ZOE_TRY(open_twin(model, &twin));
    int status = fit(model, twin, request, plan, budgets);
    zoe_model_close(twin);
    return status;
}

/* ---- report ---- */

static double flops(const zoe_work *work) {
    return work->linear_flops + work->attention_flops + work->conv_flops;
}

static zoe_plan_time time_of(const zoe_plan *plan, const zoe_moves *moves) {
    zoe_plan_time t = {.compute = moves->seconds, .all = moves->seconds, .bound = "compute"};
    if (plan->device && plan->rates.copy > 0) t.copy = (double)moves->loaded / plan->rates.copy;
    if (plan->device && plan->rates.disk > 0) t.disk = (double)moves->from_disk / plan->rates.disk;
    if (t.copy > t.all) t.all = t.copy, t.bound = "copy";
    if (t.disk > t.all) t.all = t.disk, t.bound = "disk";
    return t;
}

zoe_plan_time zoe_plan_time_of(const zoe_plan *plan, zoe_phase phase) {
    const zoe_phase_use *use = &plan->phases[phase];
    zoe_moves later = {.seconds = use->work.seconds - use->first.seconds,
                       .loaded = use->weights.loaded - use->first.loaded,
                       .from_disk = use->weights.from_disk - use->first.from_disk};
    zoe_plan_time first = time_of(plan, &use->first), rest = time_of(plan, &later);
    return (zoe_plan_time){.compute = first.compute + rest.compute,
                           .copy = first.copy + rest.copy,
                           .disk = first.disk + rest.disk,
                           .all = first.all + rest.all,
                           .bound = first.all > rest.all ? first.bound : rest.bound};
}

static int report_time(zoe_context *ctx, const zoe_plan *plan, zoe_phase phase, json_t *row, double *total) {
    zoe_plan_time time = zoe_plan_time_of(plan, phase);
    *total += time.all;
    ZOE_TRY(zoe_report_set(ctx, row, "flops", json_real(flops(&plan->phases[phase].work))));
    ZOE_TRY(zoe_report_set(ctx, row, "compute_seconds", json_real(time.compute)));
    ZOE_TRY(zoe_report_set(ctx, row, "copy_seconds", json_real(time.copy)));
    ZOE_TRY(zoe_report_set(ctx, row, "disk_seconds", json_real(time.disk)));
    ZOE_TRY(zoe_report_set(ctx, row, "bound", json_string(time.bound)));
    return zoe_report_set(ctx, row, "seconds", json_real(time.all));
}

static int report_phase(zoe_context *ctx, const zoe_plan *plan, zoe_phase phase, json_t *phases, double *seconds) {
    const zoe_phase_use *use = &plan->phases[phase];
    const zoe_weight_use *w = &use->weights;
    if (use->steps == 0) return ZOE_OK;
    json_t *row = json_object();
    int64_t streamed = w->loaded > w->peak ? w->loaded - w->peak : 0;
    ZOE_TRY(zoe_report_append(ctx, phases, row));
    ZOE_TRY(zoe_report_set(ctx, row, "phase", json_string(zoe_phase_name(phase))));
    ZOE_TRY(zoe_report_set(ctx, row, "steps", json_integer(use->steps)));
    ZOE_TRY(zoe_report_set(ctx, row, "weight_bytes", json_integer(w->peak)));
    ZOE_TRY(zoe_report_set(ctx, row, "host_weight_bytes", json_integer(w->host_peak)));
    ZOE_TRY(zoe_report_set(ctx, row, "streamed_bytes_per_step", json_integer(streamed / use->steps)));
    ZOE_TRY(zoe_report_set(ctx, row, "read_bytes", json_integer(w->read)));
    ZOE_TRY(zoe_report_set(ctx, row, "activation_bytes", json_integer(use->activations)));
    ZOE_TRY(zoe_report_set(ctx, row, "peak_host_bytes", json_integer(zoe_plan_peak(plan, phase))));
    ZOE_TRY(zoe_report_set(ctx, row, "peak_device_bytes", json_integer(use->device)));
    return report_time(ctx, plan, phase, row, seconds);
}

static int report_plan(zoe_model *model, const zoe_plan *plan, json_t *report) {
    zoe_context *ctx = model->ctx;
    double seconds = 0;
    int64_t peak = 0, device = 0;
    json_t *phases = json_array(), *rates = json_object();
    ZOE_TRY(zoe_report_set(ctx, report, "phases", phases));
    for (int i = 0; i < ZOE_PHASE_COUNT; i++) {
        if (!plan->phases[i].steps) continue;
        ZOE_TRY(report_phase(ctx, plan, (zoe_phase)i, phases, &seconds));
        if (zoe_plan_peak(plan, (zoe_phase)i) > peak) peak = zoe_plan_peak(plan, (zoe_phase)i);
        if (plan->phases[i].device > device) device = plan->phases[i].device;
    }
    ZOE_TRY(zoe_report_set(ctx, report, "width", json_integer(plan->shape.width)));
    ZOE_TRY(zoe_report_set(ctx, report, "height", json_integer(plan->shape.height)));
    ZOE_TRY(zoe_report_set(ctx, report, "frames", json_integer(plan->shape.frames)));
    ZOE_TRY(zoe_report_set(ctx, report, "vae_parts", json_integer(plan->parts > 1 ? plan->parts : 1)));
    ZOE_TRY(zoe_report_set(ctx, report, "rows_at_a_time", json_integer(plan->rows)));
    ZOE_TRY(zoe_report_set(ctx, report, "branches_together", json_boolean(plan->together)));
    ZOE_TRY(zoe_report_set(ctx, report, "process_bytes", json_integer(plan->base)));
    ZOE_TRY(zoe_report_set(ctx, report, "encoder_bytes", json_integer(plan->output)));
    ZOE_TRY(zoe_report_set(ctx, report, "peak_host_bytes", json_integer(peak)));
    ZOE_TRY(zoe_report_set(ctx, report, "peak_device_bytes", json_integer(device)));
    ZOE_TRY(zoe_report_set(ctx, report, "rates", rates));
    ZOE_TRY(zoe_report_set(ctx, rates, "from", json_string(plan->rates_from)));
    ZOE_TRY(zoe_rates_report(ctx, &plan->rates, rates));
    return zoe_report_set(ctx, report, "seconds", json_real(seconds));
}

/* Measures on a device of its own; one that is not there, or busy, is no failure. */
static int measure_device(zoe_model *model, zoe_rates *out) {
    const zoe_model_settings *s = &model->settings;
    zoe_backend *be;
    *out = (zoe_rates){0};
    int status = zoe_backend_open(model->ctx, s->device, s->dtype, 0, NULL, &be);
    if (status == ZOE_OK) status = zoe_rates_measure(be, out);
    zoe_backend_close(be);
    if (status < 0) *out = (zoe_rates){0}, model->ctx->error[0] = 0;
    return status == ZOE_ERR_CANCELLED ? status : ZOE_OK;
}

/* Of the disk that has most of the model's weights; where that cannot be told, that of rates which are built in. */
static int measure_disk(zoe_model *model, double *rate) {
    const zoe_checkpoint *largest = NULL;
    zoe_weights *weights;
    int64_t most = 0;
    for (int i = 0; (weights = model->family->weights(model->impl, i)); i++)
        if (zoe_weights_bytes(weights) > most) most = zoe_weights_bytes(weights), largest = zoe_weights_checkpoint(weights);
    int status = largest ? zoe_files_rate(largest, rate) : ZOE_ERR_UNSUPPORTED;
    if (status == ZOE_ERR_UNSUPPORTED) *rate = zoe_rates_of_h100.disk;
    return status == ZOE_ERR_UNSUPPORTED ? ZOE_OK : status;
}

/* From the settings' file, else of what is here, else those of an H100. */
static int choose_device_rates(zoe_model *model, zoe_plan *plan) {
    char device[32];
    const char *name;
    if (model->settings.rates) {
        ZOE_TRY(zoe_device_find(model->ctx, model->settings.device, &name));
        snprintf(device, sizeof device, "%s%s", name, strcmp(name, "cuda") == 0 ? ":0" : "");
        plan->rates_from = "file";
        return zoe_rates_load(model->ctx, model->settings.rates, device, &plan->rates);
    }
    plan->rates_from = "measured";
    if (model->be->ops->host_memory) return zoe_rates_measure(model->be, &plan->rates);
    ZOE_TRY(measure_device(model, &plan->rates));
    if (plan->rates.product > 0 && plan->rates.bytes > 0) return ZOE_OK;
    plan->rates = zoe_rates_of_h100;
    plan->rates_from = "built in";
    return ZOE_OK;
}

static int choose_rates(zoe_model *model, zoe_plan *plan) {
    ZOE_TRY(choose_device_rates(model, plan));
    if (model->be->ops->host_memory || plan->rates.disk > 0) return ZOE_OK;
    return measure_disk(model, &plan->rates.disk);
}

/* Under the model's limits, if there are any. What is refused is refused before rates are measured. */
static int plan_within(zoe_model *model, zoe_model *twin, const zoe_request *request, zoe_plan *plan) {
    zoe_phase_budget budgets[ZOE_PHASE_COUNT] = {0};
    zoe_limits limits = zoe_limits_of(model->be, model->settings.ram);
    bool limited = limits.host || limits.device;
    ZOE_TRY(limited ? fit(model, twin, request, plan, budgets) : count(twin, request, NULL, plan->base, plan));
    ZOE_TRY(choose_rates(model, plan));
    zoe_plan_backend_rates(twin->be, &plan->rates);
    return count(twin, request, limited ? budgets : NULL, plan->base, plan);
}

int zoe_plan_request(zoe_model *model, const zoe_request *request, char **json) {
    zoe_plan plan = {.base = zoe_plan_base(model->be)};
    zoe_model *twin;
    *json = NULL;
    ZOE_TRY(open_twin(model, &twin));
    int status = plan_within(model, twin, request, &plan);
    zoe_model_close(twin);
    zoe_cancel_ended(model->ctx);
    ZOE_TRY(status);
    json_t *report = json_object();
    return zoe_report_finish(model->ctx, report ? report_plan(model, &plan, report) : ZOE_ERR_NOMEM, report, json);
}
