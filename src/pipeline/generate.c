/* A request from its first check to the finished file. */
#include <math.h>
#include <string.h>

#include "formats/ahead.h"
#include "formats/tokenizer.h"
#include "media/media.h"
#include "pipeline/options.h"
#include "pipeline/plan.h"
#include "pipeline/words.h"

/* What one call of zoe_generate() holds. */
typedef struct generation {
    zoe_run run; /* first, so that the frame callback finds the rest */
    zoe_model *model;
    zoe_request request;
    zoe_result result;
    zoe_progress progress;
    double phase_start;
    const zoe_phase_budget *budgets; /* by phase; NULL: none */
    zoe_phase_use *use;              /* by phase */
    zoe_phase_use before;            /* counters at the phase's start */
    zoe_ahead *ahead;                /* files of what comes after the denoiser at work */
    zoe_video_writer *video;
    zoe_sampler *sampler;
    zoe_tensor latents;
    uint8_t *rgb;  /* [height, width, 3] */
    float *pixels; /* the same in 0..1, for the dump */
} generation;

/* ---- progress ---- */

static void report(generation *g) {
    g->progress.host_bytes = zoe_resident_bytes();
    g->progress.device_bytes = g->run.be->device_bytes;
    if (g->request.progress) g->request.progress(g->request.user, &g->progress);
}

static zoe_phase_use counters(const zoe_backend *be) {
    return (zoe_phase_use){.weights = be->weights, .work = be->work};
}

/* As asked for, or in as many parts as the plan found the budget to need. */
static zoe_tiling tiling_of(const generation *g, zoe_phase phase) {
    const char *asked = g->request.vae_tiling ? g->request.vae_tiling : "auto";
    int parts = g->budgets ? g->budgets[phase].parts : 0;
    if (strcmp(asked, "reference") == 0) return (zoe_tiling){.kind = ZOE_TILING_REFERENCE};
    if (strcmp(asked, "none") == 0) return (zoe_tiling){0};
    if (strcmp(asked, "exact") == 0 && parts < 2) parts = 2;
    return parts > 1 ? (zoe_tiling){.kind = ZOE_TILING_EXACT, .parts = parts, .frames = 1} : (zoe_tiling){0};
}

static void begin_phase(generation *g, zoe_phase phase, int steps) {
    zoe_backend *be = g->run.be;
    g->progress = (zoe_progress){.phase = phase, .steps = steps, .seconds_left = -1};
    g->phase_start = zoe_now();
    g->before = counters(be);
    g->run.tiling = tiling_of(g, phase);
    be->rows = g->budgets ? g->budgets[phase].rows : 0;
    be->together = g->budgets && g->budgets[phase].together;
    be->weights.budget = g->budgets ? g->budgets[phase].weights : 0;
    be->weights.host_budget = g->budgets ? g->budgets[phase].host : 0;
    be->weights.peak = be->weights.held;
    be->weights.host_peak = be->weights.host_held;
    be->weights.least = be->weights.host_least = 0;
    be->device_peak = be->device_bytes;
    be->host_peak = be->host_bytes;
    be->arena.peak = be->arena.used;
    report(g);
}

static zoe_moves moves_since(const zoe_phase_use *now, const zoe_phase_use *before) {
    return (zoe_moves){.seconds = now->work.seconds - before->work.seconds,
                       .loaded = now->weights.loaded - before->weights.loaded,
                       .from_disk = now->weights.from_disk - before->weights.from_disk};
}

static void end_step(generation *g) {
    zoe_progress *p = &g->progress;
    zoe_phase_use now = counters(g->run.be);
    if (p->step == 0) g->use[p->phase].first = moves_since(&now, &g->before);
    p->step++;
    p->seconds_per_step = (zoe_now() - g->phase_start) / p->step;
    p->seconds_left = p->seconds_per_step * (p->steps - p->step);
    report(g);
}

static void end_phase(generation *g) {
    zoe_backend *be = g->run.be;
    zoe_phase_use now = counters(be), *use = &g->use[g->progress.phase];
    g->result.seconds[g->progress.phase] = zoe_now() - g->phase_start;
    use->activations = (int64_t)be->arena.peak;
    use->workspace = be->workspace;
    use->device = be->device_peak;
    use->host = be->host_peak;
    if (use->device > g->result.peak_device_bytes) g->result.peak_device_bytes = use->device;
    use->weights = now.weights;
    use->weights.loaded -= g->before.weights.loaded;
    use->weights.read -= g->before.weights.read;
    use->weights.from_disk -= g->before.weights.from_disk;
    use->weights.read_seconds -= g->before.weights.read_seconds;
    use->weights.stalled -= g->before.weights.stalled;
    g->result.loaded_bytes += use->weights.loaded;
    g->result.read_bytes += use->weights.read;
    g->result.read_seconds += use->weights.read_seconds;
    g->result.stalled_seconds += use->weights.stalled;
    if (g->progress.step == 0) use->first = moves_since(&now, &g->before);
    use->steps = g->progress.steps;
    use->work = zoe_work_since(&now.work, &g->before.work);
    zoe_arena_trim(be);
}

/* ---- set-up ---- */

/* Families that take none need not look for them. */
static int check_extras(generation *g) {
    zoe_description model;
    bool conditions = g->request.conditions || g->request.condition_noise > 0;
    if (!conditions && !g->request.upsampler) return ZOE_OK;
    g->model->family->describe(g->model->impl, &model);
    if (g->request.upsampler && !model.takes_upsampler)
        return zoe_fail(g->run.ctx, ZOE_ERR_UNSUPPORTED,
                        "--upsampler: this model (%s) takes none; LTX-Video from 0.9.5 on does", model.variant);
    if (!conditions || model.takes_conditions) return ZOE_OK;
    return zoe_fail(
        g->run.ctx, ZOE_ERR_UNSUPPORTED,
        "--condition: this model (%s) takes no pictures or clips at chosen frames%s; LTX-Video from 0.9.5 on does",
        model.variant, model.takes_image ? ", but a first one with --image" : "");
}

static int check_tiling(generation *g) {
    static const char *const names[] = {"auto", "none", "exact", "reference"};
    const char *asked = g->request.vae_tiling;
    for (size_t i = 0; asked && i < sizeof names / sizeof names[0]; i++)
        if (strcmp(asked, names[i]) == 0) return ZOE_OK;
    if (!asked) return ZOE_OK;
    return zoe_fail(g->run.ctx, ZOE_ERR_ARGUMENT, "VAE tiling \"%s\": expected auto, none, exact or reference", asked);
}

static int check_request(generation *g) {
    zoe_context *ctx = g->run.ctx;
    const zoe_request *r = &g->request;
    if (!r->prompt) return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "a prompt is needed: --prompt \"what the video shows\"");
    ZOE_TRY(zoe_text_check_utf8(ctx, r->prompt, "the prompt"));
    if (r->negative) ZOE_TRY(zoe_text_check_utf8(ctx, r->negative, "the negative prompt"));
    if (r->steps < 1 || r->steps > 1000) return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "%d steps: expected 1 to 1000", r->steps);
    if (r->frames < 1) return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "%d frames: expected at least 1", r->frames);
    if (!(r->fps > 0) || r->fps > 1000)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "%g frames a second: expected more than 0, at most 1000", r->fps);
    if (!isfinite(r->guidance) || r->guidance < 0)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "guidance %g: expected 0 or more", r->guidance);
    if (!isfinite(r->guidance_2))
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "guidance 2 %g: expected 0 or more, or -1 for the same as the first",
                        r->guidance_2);
    if (!(r->condition_noise >= 0) || !isfinite(r->condition_noise))
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "condition noise %g: expected 0 or more", r->condition_noise);
    ZOE_TRY(check_extras(g));
    ZOE_TRY(check_tiling(g));
    if (r->width < 0 || r->height < 0)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "size %dx%d: expected positive numbers", r->width, r->height);
    return ZOE_OK;
}

/* The file is opened before anything is computed: a bad name should not cost an hour. */
static int open_output(generation *g) {
    const zoe_request *r = &g->request;
    zoe_context *ctx = g->run.ctx;
    json_t *stored = NULL;
    char *metadata = NULL;
    if (r->dump) ZOE_TRY(zoe_safetensors_create(ctx, r->dump, &g->run.dump));
    if (!r->output) return ZOE_OK;
    int status = zoe_request_json(ctx, g->model->path, &g->model->settings, r, &stored);
    if (status == ZOE_OK && !(metadata = zoe_json_text(ctx, stored, false)))
        status = zoe_out_of_memory(ctx, 4096, "metadata");
    if (status == ZOE_OK)
        status = zoe_video_create(
            ctx, r->output,
            &(zoe_video_settings){.width = r->width, .height = r->height, .fps = r->fps, .metadata = metadata}, &g->video);
    zoe_free(ctx, metadata);
    json_decref(stored);
    return status;
}

static int allocate(generation *g) {
    zoe_context *ctx = g->run.ctx;
    int64_t values = (int64_t)g->request.width * g->request.height * 3;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, g->rgb, values));
    if (g->run.dump) ZOE_TRY(ZOE_NEW_ARRAY(ctx, g->pixels, values));
    ZOE_TRY(zoe_backend_alloc(g->run.be, &g->latents, ZOE_F32, g->run.latent_rank, g->run.latent_shape));
    zoe_generator_seed(&g->run.generator, g->request.seed);
    g->run.generator.silent = !g->run.be->ops->computes;
    return zoe_sampler_create(g->run.be, &g->run.schedule, &g->run.generator, g->request.steps, g->run.latent_rank,
                              g->run.latent_shape, &g->sampler);
}

/* ---- latents ---- */

static int read_latents(generation *g, float *out) {
    zoe_context *ctx = g->run.ctx;
    const char *colon = strrchr(g->request.init_latents, ':');
    zoe_checkpoint *ckpt = NULL;
    char expected[96], found[96];
    if (!colon)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "init latents %s: expected FILE.safetensors:NAME", g->request.init_latents);
    char *path = zoe_strdup(ctx, g->request.init_latents);
    if (!path) return zoe_out_of_memory(ctx, strlen(g->request.init_latents), "path");
    path[colon - g->request.init_latents] = 0;
    int status = zoe_checkpoint_open(ctx, path, &ckpt);
    const zoe_entry *entry = status == ZOE_OK ? zoe_checkpoint_find(ckpt, colon + 1) : NULL;
    if (status < 0) goto done;
    if (!entry) {
        status = zoe_fail(ctx, ZOE_ERR_ARGUMENT, "%s holds no tensor named %s", path, colon + 1);
        goto done;
    }
    /* A batch axis of one in front is fine. */
    int extra = entry->rank == g->run.latent_rank + 1 && entry->shape[0] == 1;
    bool fits = entry->rank == g->run.latent_rank + extra &&
                memcmp(entry->shape + extra, g->run.latent_shape, (size_t)g->run.latent_rank * sizeof(int64_t)) == 0;
    zoe_shape_text(expected, sizeof expected, g->run.latent_rank, g->run.latent_shape);
    zoe_shape_text(found, sizeof found, entry->rank, entry->shape);
    if (!fits || entry->dtype != ZOE_F32) {
        status = zoe_fail(ctx, ZOE_ERR_ARGUMENT, "%s: tensor %s is %s %s; this size and frame count need F32 %s", path,
                          entry->name, zoe_dtype_name(entry->dtype), found, expected);
        goto done;
    }
    ZOE_TRY_DONE(zoe_checkpoint_intact(ckpt));
    memcpy(out, entry->data, entry->bytes);
    ZOE_TRY_DONE(zoe_checkpoint_intact(ckpt));
    for (size_t i = 0; i < entry->bytes / sizeof *out; i++)
        if (!isfinite(out[i])) {
            status = zoe_fail(ctx, ZOE_ERR_NUMERIC, "%s: tensor %s holds a value that is not a number, at element %zu",
                              path, entry->name, i);
            break;
        }
done:
    zoe_checkpoint_close(ckpt);
    zoe_free(ctx, path);
    return status;
}

static int start_latents(generation *g) {
    zoe_context *ctx = g->run.ctx;
    const zoe_family *family = g->model->family;
    int64_t count = zoe_tensor_count(&g->latents);
    bool given = g->request.init_latents;
    float *host;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, host, count));
    int status = given ? read_latents(g, host) : ZOE_OK;
    if (status == ZOE_OK && family->start_latents)
        status = family->start_latents(g->model->impl, &g->run, given, host);
    else if (!given)
        zoe_generator_normal(&g->run.generator, host, count);
    if (status == ZOE_OK) status = zoe_upload(g->run.be, &g->latents, host);
    zoe_free(ctx, host);
    return status;
}

static int dump_row(generation *g, const char *name, const zoe_tensor *t) {
    zoe_context *ctx = g->run.ctx;
    int64_t row[ZOE_MAX_RANK] = {1};
    float *host;
    if (!g->run.dump) return ZOE_OK;
    memcpy(row + 1, t->shape, (size_t)t->rank * sizeof row[0]);
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, host, zoe_tensor_count(t)));
    int status = zoe_download(g->run.be, host, t);
    if (status == ZOE_OK) status = zoe_safetensors_add_row(g->run.dump, name, ZOE_F32, t->rank + 1, row, host);
    zoe_free(ctx, host);
    return status;
}

static int dump_schedule(generation *g) {
    int64_t steps = g->request.steps, points = steps + 1;
    float *values;
    if (!g->run.dump) return ZOE_OK;
    ZOE_TRY(ZOE_NEW_ARRAY(g->run.ctx, values, points));
    for (int64_t i = 0; i < steps; i++) values[i] = (float)zoe_sampler_timesteps(g->sampler)[i];
    int status = zoe_run_dump(&g->run, "timesteps", 1, &steps, values);
    for (int64_t i = 0; i < points; i++) values[i] = (float)zoe_sampler_sigmas(g->sampler)[i];
    if (status == ZOE_OK) status = zoe_run_dump(&g->run, "sigmas", 1, &points, values);
    zoe_free(g->run.ctx, values);
    return status;
}

static int check_finite(generation *g, int step) {
    bool finite;
    ZOE_TRY(zoe_op_finite(g->run.be, &g->latents, &finite));
    if (finite) return ZOE_OK;
    const char *culprit = NULL;
    zoe_weights *weights;
    for (int i = 0; !culprit && (weights = g->model->family->weights(g->model->impl, i)); i++)
        culprit = zoe_weights_find_nonfinite(weights);
    if (culprit)
        return zoe_fail(g->run.ctx, ZOE_ERR_NUMERIC,
                        "step %d of %d: NaN or infinity in the latents, because weight %s holds one; "
                        "the file is damaged",
                        step + 1, g->request.steps, culprit);
    return zoe_fail(g->run.ctx, ZOE_ERR_NUMERIC, "step %d of %d: NaN or infinity in the latents; the weights are finite",
                    step + 1, g->request.steps);
}

/* ---- phases ---- */

static int run_text(generation *g) {
    begin_phase(g, ZOE_PHASE_TEXT, 1);
    int status = g->model->family->encode_text(g->model->impl, &g->run);
    end_phase(g);
    return status;
}

static int run_image(generation *g) {
    if (!g->request.image && !g->request.last_image && !g->request.conditions) return ZOE_OK;
    begin_phase(g, ZOE_PHASE_IMAGE, 1);
    int status = g->model->family->encode_image(g->model->impl, &g->run);
    end_phase(g);
    return status;
}

#define PARTS 8 /* of a model, at least as many as any has */

/*
 * Once a denoiser is there and reads nothing more, the files of the parts that come after it, another expert's and the
 * decoder's, begin to come into the page cache.
 */
static int look_ahead(generation *g) {
    const zoe_family *family = g->model->family;
    const zoe_checkpoint *next[PARTS];
    const zoe_backend *be = g->run.be;
    zoe_weights *weights;
    int count = 0;
    if (g->ahead || !be->ops->computes) return ZOE_OK;
    for (int i = 0; (weights = family->weights(g->model->impl, i)); i++) {
        zoe_presence presence = zoe_weights_presence(weights);
        if (presence == ZOE_WEIGHTS_COMING) return ZOE_OK;
        if (presence == ZOE_WEIGHTS_SETTLED) count = 0; /* what was before it is over */
        if (presence == ZOE_WEIGHTS_AWAY && zoe_weights_checkpoint(weights) && count < PARTS)
            next[count++] = zoe_weights_checkpoint(weights);
    }
    return count ? zoe_ahead_begin(g->run.ctx, next, count, be->ops->host_memory ? be->weights.held : 0, &g->ahead)
                 : ZOE_OK;
}

/* `name` is that of the latents in the dump. */
static int denoise_steps(generation *g, int steps, const char *name) {
    const zoe_family *family = g->model->family;
    zoe_backend *be = g->run.be;
    zoe_weight_use first = {0};
    zoe_result *result = &g->result;
    zoe_tensor v;
    ZOE_TRY(family->denoise_begin(g->model->impl, &g->run));
    ZOE_TRY(zoe_new_tensor(be, &v, ZOE_F32, g->run.latent_rank, g->run.latent_shape));
    for (int step = 0; step < steps; step++) {
        ZOE_TRY(zoe_check_cancelled(g->run.ctx));
        ZOE_TRY(family->denoise(g->model->impl, &g->run, g->sampler, step, &g->latents, &v));
        ZOE_TRY(zoe_sampler_step(g->sampler, step, &g->latents, &v));
        ZOE_TRY(check_finite(g, step));
        ZOE_TRY(dump_row(g, name, &g->latents));
        end_step(g);
        ZOE_TRY(look_ahead(g));
        if (step == 0) first = be->weights;
        if (step == 0) continue;
        result->loaded_bytes_per_step = (be->weights.loaded - first.loaded) / step;
        result->read_bytes_per_step = (be->weights.read - first.read) / step;
        result->stalled_seconds_per_step = (be->weights.stalled - first.stalled) / step;
    }
    return family->denoise_end(g->model->impl, &g->run, &g->latents);
}

/* The same over larger latents that the family makes of those that there are. */
static int second_pass(generation *g) {
    zoe_run *run = &g->run;
    float *start = NULL;
    ZOE_TRY(g->model->family->enlarge(g->model->impl, run, &g->latents, &start));
    zoe_sampler_free(g->sampler);
    g->sampler = NULL;
    zoe_backend_free(run->be, g->latents.data);
    g->latents = (zoe_tensor){0};
    int status = zoe_backend_alloc(run->be, &g->latents, ZOE_F32, run->latent_rank, run->latent_shape);
    if (status == ZOE_OK) status = zoe_upload(run->be, &g->latents, start);
    zoe_free(run->ctx, start);
    if (status == ZOE_OK)
        status = zoe_sampler_create(run->be, &run->schedule, &run->generator, run->second_steps, run->latent_rank,
                                    run->latent_shape, &g->sampler);
    return status == ZOE_OK ? denoise_steps(g, run->second_steps, "refined_latents") : status;
}

static int run_denoise(generation *g) {
    begin_phase(g, ZOE_PHASE_DENOISE, g->request.steps + g->run.second_steps);
    ZOE_TRY(start_latents(g));
    ZOE_TRY(dump_schedule(g));
    int status = denoise_steps(g, g->request.steps, "step_latents");
    if (status == ZOE_OK && g->run.second_steps) status = second_pass(g);
    g->result.seconds_per_step = g->progress.seconds_per_step;
    end_phase(g);
    zoe_sampler_free(g->sampler);
    g->sampler = NULL;
    return status;
}

static int take_frame(zoe_run *run, const float *frame) {
    generation *g = (generation *)run;
    const zoe_request *r = &g->request;
    int64_t values = run->be->ops->computes ? (int64_t)r->width * r->height * 3 : 0;
    for (int64_t i = 0; i < values; i++) {
        float value = fminf(fmaxf(frame[i] * 0.5f + 0.5f, 0), 1);
        if (g->pixels) g->pixels[i] = value;
        g->rgb[i] = (uint8_t)(value * 255 + 0.5f);
    }
    if (run->dump)
        ZOE_TRY(
            zoe_safetensors_add_row(run->dump, "video", ZOE_F32, 3, (const int64_t[]){r->height, r->width, 3}, g->pixels));
    if (g->video) ZOE_TRY(zoe_video_write(g->video, g->rgb));
    if (r->frame && r->frame(r->user, g->result.frames, g->rgb, r->width, r->height))
        return zoe_fail(run->ctx, ZOE_ERR_CANCELLED, "interrupted by the frame callback");
    g->result.frames++;
    end_step(g);
    return ZOE_OK;
}

static int run_decode(generation *g) {
    begin_phase(g, ZOE_PHASE_DECODE, g->request.frames);
    int status = g->model->family->decode(g->model->impl, &g->run, &g->latents);
    end_phase(g);
    return status;
}

/* What the request asks for over the model's own schedule. */
static int choose_schedule(generation *g) {
    zoe_request *r = &g->request;
    zoe_schedule_config *schedule = &g->run.schedule;
    ZOE_TRY(zoe_schedule_choose(g->run.ctx, r->sampler, r->flow_shift, schedule));
    if (r->timesteps) {
        ZOE_TRY(zoe_schedule_list(g->run.ctx, r->timesteps, schedule));
        r->steps = schedule->given;
    }
    if (schedule->given != r->steps) schedule->given = 0;
    if (g->run.second_steps && schedule->solver != ZOE_SOLVER_EULER)
        return zoe_fail(g->run.ctx, ZOE_ERR_ARGUMENT, "sampler %s: a second pass expects euler or stochastic", r->sampler);
    return ZOE_OK;
}

static int run_phases(generation *g) {
    zoe_request *r = &g->request;
    ZOE_TRY(check_request(g));
    ZOE_TRY(g->model->family->prepare(g->model->impl, r, &g->run));
    ZOE_TRY(choose_schedule(g));
    g->result.device = g->run.be->ops->name;
    g->result.width = r->width, g->result.height = r->height, g->result.fps = r->fps;
    ZOE_TRY(open_output(g));
    ZOE_TRY(allocate(g));
    ZOE_TRY(run_text(g));
    ZOE_TRY(run_image(g));
    ZOE_TRY(run_denoise(g));
    return run_decode(g);
}

/* Closes the files as the outcome demands: an interrupted video is kept, anything else that failed is not. */
static int close_files(generation *g, int status) {
    int closed = ZOE_OK;
    if (status == ZOE_OK && g->run.dump)
        closed = zoe_safetensors_finish(g->run.dump);
    else
        zoe_safetensors_abort(g->run.dump);
    if (status == ZOE_OK) status = closed;
    if (g->video && (status == ZOE_OK || (status == ZOE_ERR_CANCELLED && g->result.frames > 0))) {
        char text[ZOE_ERROR_TEXT];
        memcpy(text, g->run.ctx->error, sizeof text);
        closed = zoe_video_finish(g->video);
        if (status == ZOE_OK) return closed;
        memcpy(g->run.ctx->error, text, sizeof text);
    } else {
        zoe_video_abort(g->video);
    }
    return status;
}

int zoe_generate_counted(zoe_model *model, const zoe_request *request, const zoe_phase_budget *budgets, zoe_result *result,
                         zoe_phase_use use[ZOE_PHASE_COUNT]) {
    zoe_backend *be = model->be;
    generation g = {.model = model, .request = *request, .budgets = budgets, .use = use};
    size_t mark = zoe_arena_mark(be);
    memset(use, 0, ZOE_PHASE_COUNT * sizeof *use);
    g.run = (zoe_run){.ctx = model->ctx, .be = be, .request = &g.request, .frame = take_frame};
    int status = close_files(&g, run_phases(&g));
    zoe_ahead_end(g.ahead);
    model->family->finish(model->impl);
    zoe_sampler_free(g.sampler);
    zoe_backend_free(be, g.latents.data);
    zoe_free(model->ctx, g.rgb);
    zoe_free(model->ctx, g.pixels);
    zoe_arena_release(be, mark);
    g.result.peak_host_bytes = zoe_peak_resident_bytes();
    if (result) *result = g.result;
    return status;
}

static int generate(zoe_model *model, const zoe_request *request, zoe_result *result) {
    zoe_phase_use use[ZOE_PHASE_COUNT];
    zoe_phase_budget budgets[ZOE_PHASE_COUNT] = {0};
    zoe_limits limits = zoe_limits_of(model->be, model->settings.ram);
    zoe_plan plan = {.base = zoe_plan_base(model->be)};
    if (result) *result = (zoe_result){0};
    if (model->settings.plan_only)
        return zoe_fail(model->ctx, ZOE_ERR_ARGUMENT, "this model was opened to plan, with plan_only");
    if (request->prompt) zoe_words_check(model->ctx, model->path, request->prompt);
    if (!limits.host && !limits.device) return zoe_generate_counted(model, request, NULL, result, use);
    ZOE_TRY(zoe_plan_fit(model, request, &plan, budgets));
    return zoe_generate_counted(model, request, budgets, result, use);
}

int zoe_generate(zoe_model *model, const zoe_request *request, zoe_result *result) {
    int status = generate(model, request, result);
    zoe_cancel_ended(model->ctx);
    return status;
}
