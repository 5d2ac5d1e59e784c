#include "pipeline/plan.h"

#include <string.h>

#include "pipeline/measure.h"
#include "pipeline/report.h"

/* x264 with its look-ahead holds some fifty frames of 1.5 bytes a pixel, beside its own tables. */
#define ENCODER_FRAMES 50
#define ENCODER_BYTES  (24 << 20)

int zoe_plan_make(zoe_model *model, const zoe_request *request, const int64_t *budgets, zoe_plan *out) {
    zoe_context *ctx = model->ctx;
    zoe_request quiet = *request;
    zoe_model *twin = NULL;
    zoe_backend *be = NULL;
    quiet.output = quiet.dump = NULL;
    quiet.progress = NULL;
    quiet.frame = NULL;
    *out = (zoe_plan){.base = zoe_resident_bytes(), .workspace = model->be->workspace};
    ZOE_TRY(zoe_plan_backend_create(ctx, model->be->dtype, &be));
    int status = zoe_model_open_on(model, be, &twin);
    if (status == ZOE_OK) status = zoe_generate_counted(twin, &quiet, budgets, &out->shape, out->phases);
    zoe_model_close(twin);
    if (request->output)
        out->output = ENCODER_BYTES + (int64_t)out->shape.width * out->shape.height * 3 / 2 * ENCODER_FRAMES;
    return status;
}

int64_t zoe_plan_peak(const zoe_plan *plan, zoe_phase phase) {
    const zoe_phase_use *use = &plan->phases[phase];
    return plan->base + plan->workspace + plan->output + use->weights + use->activations;
}

int zoe_plan_budgets(const zoe_model *model, const zoe_plan *plan, int64_t budgets[ZOE_PHASE_COUNT]) {
    int64_t least = 0;
    int worst = 0;
    for (int i = 0; i < ZOE_PHASE_COUNT; i++) {
        const zoe_phase_use *use = &plan->phases[i];
        int64_t other = zoe_plan_peak(plan, (zoe_phase)i) - use->weights;
        budgets[i] = model->settings.ram - other;
        if (other + use->least_weights > least) least = other + use->least_weights, worst = i;
    }
    if (least <= model->settings.ram) return ZOE_OK;
    char asked[32], smallest[32], activations[32];
    zoe_bytes_text(asked, sizeof asked, model->settings.ram);
    zoe_bytes_text(smallest, sizeof smallest, least);
    zoe_bytes_text(activations, sizeof activations, plan->phases[worst].activations);
    return zoe_fail(
        model->ctx, ZOE_ERR_BUDGET,
        "--ram: %s is not enough; the smallest budget that works is %s (phase %s, of which %s are activations: a "
        "smaller --size or fewer --frames would lower it)",
        asked, smallest, zoe_phase_name((zoe_phase)worst), activations);
}

/* ---- report ---- */

static double flops(const zoe_work *work) {
    return work->linear_flops + work->attention_flops + work->conv_flops;
}

static int report_phase(zoe_context *ctx, const zoe_plan *plan, zoe_phase phase, double gflops, json_t *phases) {
    const zoe_phase_use *use = &plan->phases[phase];
    if (use->steps == 0) return ZOE_OK;
    json_t *row = json_object();
    int64_t streamed = use->loaded > use->weights ? use->loaded - use->weights : 0;
    ZOE_TRY(zoe_report_append(ctx, phases, row));
    ZOE_TRY(zoe_report_set(ctx, row, "phase", json_string(zoe_phase_name(phase))));
    ZOE_TRY(zoe_report_set(ctx, row, "steps", json_integer(use->steps)));
    ZOE_TRY(zoe_report_set(ctx, row, "weight_bytes", json_integer(use->weights)));
    ZOE_TRY(zoe_report_set(ctx, row, "streamed_bytes_per_step", json_integer(streamed / use->steps)));
    ZOE_TRY(zoe_report_set(ctx, row, "activation_bytes", json_integer(use->activations)));
    ZOE_TRY(zoe_report_set(ctx, row, "workspace_bytes", json_integer(plan->workspace)));
    ZOE_TRY(zoe_report_set(ctx, row, "peak_host_bytes", json_integer(zoe_plan_peak(plan, phase))));
    ZOE_TRY(zoe_report_set(ctx, row, "peak_device_bytes", json_integer(0)));
    ZOE_TRY(zoe_report_set(ctx, row, "flops", json_real(flops(&use->work))));
    return zoe_report_set(ctx, row, "seconds", json_real(flops(&use->work) / (1e9 * gflops)));
}

static int report_plan(zoe_model *model, const zoe_plan *plan, json_t *report) {
    zoe_context *ctx = model->ctx;
    double gflops = 0, seconds = 0;
    int64_t peak = 0;
    json_t *phases = json_array();
    ZOE_TRY(zoe_report_set(ctx, report, "phases", phases));
    ZOE_TRY(zoe_measure_sgemm(ctx, 768, 1536, 1536, &gflops));
    for (int i = 0; i < ZOE_PHASE_COUNT; i++) {
        ZOE_TRY(report_phase(ctx, plan, (zoe_phase)i, gflops, phases));
        seconds += flops(&plan->phases[i].work) / (1e9 * gflops);
        if (plan->phases[i].steps && zoe_plan_peak(plan, (zoe_phase)i) > peak) peak = zoe_plan_peak(plan, (zoe_phase)i);
    }
    ZOE_TRY(zoe_report_set(ctx, report, "width", json_integer(plan->shape.width)));
    ZOE_TRY(zoe_report_set(ctx, report, "height", json_integer(plan->shape.height)));
    ZOE_TRY(zoe_report_set(ctx, report, "frames", json_integer(plan->shape.frames)));
    ZOE_TRY(zoe_report_set(ctx, report, "process_bytes", json_integer(plan->base)));
    ZOE_TRY(zoe_report_set(ctx, report, "encoder_bytes", json_integer(plan->output)));
    ZOE_TRY(zoe_report_set(ctx, report, "peak_host_bytes", json_integer(peak)));
    ZOE_TRY(zoe_report_set(ctx, report, "peak_device_bytes", json_integer(0)));
    ZOE_TRY(zoe_report_set(ctx, report, "ceiling_gflops", json_real(gflops)));
    return zoe_report_set(ctx, report, "seconds", json_real(seconds));
}

int zoe_plan_request(zoe_model *model, const zoe_request *request, char **json) {
    int64_t budgets[ZOE_PHASE_COUNT];
    zoe_plan plan;
    *json = NULL;
    ZOE_TRY(zoe_plan_make(model, request, NULL, &plan));
    if (model->settings.ram > 0) {
        ZOE_TRY(zoe_plan_budgets(model, &plan, budgets));
        ZOE_TRY(zoe_plan_make(model, request, budgets, &plan));
    }
    json_t *report = json_object();
    return zoe_report_finish(model->ctx, report ? report_plan(model, &plan, report) : ZOE_ERR_NOMEM, report, json);
}
