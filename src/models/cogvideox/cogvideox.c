/* The CogVideoX family as the pipeline sees it. */
#include "models/cogvideox/cogvideox.h"

#include <math.h>
#include <string.h>

#include "models/cogvideox/cogvideox_model.h"

#define PI 3.14159265358979323846

static bool recognises(const zoe_folder *folder) {
    const char *class = folder->index.root ? json_string_value(json_object_get(folder->index.root, "_class_name")) : NULL;
    if (class) return strcmp(class, "CogVideoXPipeline") == 0 || strcmp(class, "CogVideoXImageToVideoPipeline") == 0;
    return zoe_cogvideox_is_original(folder);
}

/* Pixels that a size is a multiple of. */
static int size_step(const cogvideox_model *m) {
    return ZOE_COGVIDEOX_VAE_SPACE * (int)zoe_cogvideox_denoiser_config(m->denoiser)->patch;
}

static void describe(const void *model, zoe_description *out) {
    const cogvideox_model *m = model;
    *out = (zoe_description){.family = "CogVideoX", .variant = m->variant, .takes_image = m->joins_image};
    snprintf(out->sizes, sizeof out->sizes, "width and height multiples of %d, frames 8n or 8n+1", size_step(m));
}

static void defaults(const void *model, zoe_request *request) {
    const cogvideox_model *m = model;
    request->frames = m->defaults.frames;
    request->fps = m->defaults.fps;
    request->steps = m->defaults.steps;
    request->guidance = m->defaults.guidance;
    request->guidance_2 = m->defaults.guidance_2;
}

/* ---- checks ---- */

static int check_pictures(const cogvideox_model *m, const zoe_request *r) {
    zoe_context *ctx = m->be->ctx;
    if (r->last_image)
        return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED, "--last-image: this model takes no last frame (%s); leave it out",
                        m->variant);
    if (r->image && !m->joins_image)
        return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED,
                        "--image: this model makes videos from text only (%s); leave the picture out or choose an "
                        "image-to-video model",
                        m->variant);
    if (!r->image && m->joins_image)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "this model starts from a picture (%s): give it one with --image FILE",
                        m->variant);
    return ZOE_OK;
}

static int check_size(const cogvideox_model *m, const zoe_request *r) {
    const zoe_cogvideox_config *c = zoe_cogvideox_denoiser_config(m->denoiser);
    int step = size_step(m);
    long long width = c->sample_size[1] * ZOE_COGVIDEOX_VAE_SPACE, height = c->sample_size[0] * ZOE_COGVIDEOX_VAE_SPACE;
    ZOE_TRY(zoe_check_size(m->be->ctx, r, step, step));
    if (c->learned && (r->width != width || r->height != height))
        return zoe_fail(m->be->ctx, ZOE_ERR_ARGUMENT,
                        "size %dx%d: this model has learned its positions for one size, %lldx%lld; choose that", r->width,
                        r->height, width, height);
    if (c->patch_time && (r->width > width || r->height > height))
        return zoe_fail(m->be->ctx, ZOE_ERR_ARGUMENT, "size %dx%d: this model goes up to %lldx%lld", r->width, r->height,
                        width, height);
    return ZOE_OK;
}

/* An odd number of latent frames decodes to 8n+1 frames, an even one to 8n. */
static int check_frames(const cogvideox_model *m, const zoe_request *r) {
    if (r->frames % 8 <= 1) return ZOE_OK;
    int below = r->frames / 8 * 8 + 1;
    return zoe_fail(m->be->ctx, ZOE_ERR_ARGUMENT,
                    "%d frames: this model makes 8n or 8n+1 frames; the nearest are %d and %d, made for %g frames a second",
                    r->frames, below, below + 7, m->defaults.fps);
}

/* 1.5 takes any shape: the picture's, its shorter side that of the default size, its longer side at most the default's. */
static void follow_picture(cogvideox_model *m, zoe_request *r) {
    const zoe_picture *p = &m->picture;
    int step = size_step(m), longest = m->defaults.width / step * step;
    bool wide = p->width >= p->height;
    double shape = wide ? (double)p->width / p->height : (double)p->height / p->width;
    int shorter = m->defaults.height / step * step, longer = zoe_nearest_size((int32_t)lround(shorter * shape), step);
    if (longer > longest) longer = longest;
    r->width = wide ? longer : shorter;
    r->height = wide ? shorter : longer;
    zoe_log(m->be->ctx, ZOE_LOG_INFO, "size %dx%d follows the picture of %dx%d", r->width, r->height, p->width, p->height);
}

static int prepare(void *model, zoe_request *r, zoe_run *run) {
    cogvideox_model *m = model;
    const zoe_cogvideox_config *c = zoe_cogvideox_denoiser_config(m->denoiser);
    ZOE_TRY(check_pictures(m, r));
    if (r->image) ZOE_TRY(zoe_picture_load(m->be->ctx, r->image, &m->picture));
    if (!r->width || !r->height) {
        r->width = m->defaults.width, r->height = m->defaults.height;
        if (r->image && c->patch_time) follow_picture(m, r);
    }
    if (!r->negative) r->negative = "";
    ZOE_TRY(check_size(m, r));
    ZOE_TRY(check_frames(m, r));
    if (r->fps != m->defaults.fps)
        zoe_log(m->be->ctx, ZOE_LOG_WARNING,
                "%g frames a second: this model makes videos of %g; the motion will be %s than it should", r->fps,
                m->defaults.fps, r->fps < m->defaults.fps ? "slower" : "faster");
    if (r->vae_tiling && strcmp(r->vae_tiling, "exact") == 0)
        return zoe_fail(m->be->ctx, ZOE_ERR_UNSUPPORTED,
                        "--vae-tiling exact: the norms of this model's VAE are taken over whole frames, which parts of "
                        "them cannot give; reference is blended tiles, none whole frames");
    m->latent_frames = (r->frames - 1) / ZOE_COGVIDEOX_VAE_TIME + 1;
    int64_t patch = c->patch_time ? c->patch_time : 1;
    run->latent_rank = 4;
    run->latent_shape[0] = (m->latent_frames + patch - 1) / patch * patch;
    run->latent_shape[1] = c->out_channels;
    run->latent_shape[2] = r->height / ZOE_COGVIDEOX_VAE_SPACE;
    run->latent_shape[3] = r->width / ZOE_COGVIDEOX_VAE_SPACE;
    run->schedule = m->schedule;
    return ZOE_OK;
}

/* ---- text ---- */

/* Padding takes part: every row counts. */
static int encode_text(void *model, zoe_run *run) {
    cogvideox_model *m = model;
    int rows = (int)zoe_cogvideox_denoiser_config(m->denoiser)->text_rows;
    const zoe_prompt_form form = {m->tokenizer, m->text, rows, ZOE_PADDING_READ, .clean = false};
    return zoe_encode_prompts(run, &form, m->prompts);
}

/* ---- picture ---- */

/* latents [channels, height, width]: a sample of the picture's posterior, scaled; moments as the encoder gives them */
static void sample_posterior(const cogvideox_model *m, zoe_run *run, const float *moments, int64_t count, float *latents) {
    const zoe_cogvideox_vae_config *c = zoe_cogvideox_vae_configuration(m->vae);
    double scale = c->invert_scale ? 1 / c->scale : c->scale;
    zoe_generator_normal(&run->generator, latents, count);
    for (int64_t i = 0; i < count; i++) {
        float deviation = expf(0.5f * fminf(fmaxf(moments[count + i], -30), 20));
        latents[i] = (moments[i] + deviation * latents[i]) * (float)scale;
    }
}

static int encode_image(void *model, zoe_run *run) {
    cogvideox_model *m = model;
    zoe_context *ctx = run->ctx;
    const zoe_request *r = run->request;
    const int64_t *shape = run->latent_shape;
    int64_t count = shape[1] * shape[2] * shape[3];
    float *pixels = NULL, *moments = NULL, *latents = NULL;
    int status;
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, pixels, (int64_t)r->width * r->height * 3));
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, moments, 2 * count));
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, latents, shape[0] * count));
    ZOE_TRY_DONE(zoe_picture_pixels(ctx, &m->picture, r->width, r->height, pixels));
    ZOE_TRY_DONE(zoe_cogvideox_vae_encode(m->vae, pixels, r->height, r->width, moments));
    sample_posterior(m, run, moments, count, latents);
    ZOE_TRY_DONE(zoe_backend_alloc(m->be, &m->condition, ZOE_F32, 4, shape));
    ZOE_TRY_DONE(zoe_upload(m->be, &m->condition, latents));
done:
    zoe_free(ctx, pixels);
    zoe_free(ctx, moments);
    zoe_free(ctx, latents);
    zoe_weights_unload(zoe_cogvideox_vae_weights(m->vae));
    return status;
}

/* ---- denoising ---- */

static int denoise_begin(void *model, zoe_run *run) {
    cogvideox_model *m = model;
    m->mark = zoe_arena_mark(m->be);
    ZOE_TRY(
        zoe_cogvideox_grid_create(m->denoiser, run->latent_shape[0], run->latent_shape[2], run->latent_shape[3], &m->grid));
    for (int i = 0; i < 2; i++)
        if (m->prompts[i].states) ZOE_TRY(zoe_cogvideox_text_create(m->denoiser, m->prompts[i].states, &m->words[i]));
    return ZOE_OK;
}

/*
 * Guidance at a step. With the stochastic solver it swings with the timestep, as the model's authors recommend; the
 * timestep counts training steps and n the steps of the request, as in the reference.
 */
static double guidance_at(const zoe_run *run, double timestep) {
    double g = run->request->guidance, n = run->request->steps;
    if (run->schedule.solver != ZOE_SOLVER_DPM) return g;
    return 1 + g * (1 - cos(PI * pow((n - timestep) / n, 5))) / 2;
}

static int denoise(void *model, zoe_run *run, const zoe_sampler *sampler, int step, zoe_tensor *x, zoe_tensor *v) {
    cogvideox_model *m = model;
    double timestep = zoe_sampler_timesteps(sampler)[step];
    const zoe_tensor *parts[] = {x, &m->condition};
    int count = m->joins_image ? 2 : 1;
    size_t mark = zoe_arena_mark(m->be);
    bool guided = zoe_guided(run->request);
    zoe_tensor u;
    const zoe_cogvideox_branch branches[] = {{&m->words[0], v}, {&m->words[1], &u}};
    if (guided) ZOE_TRY(zoe_new_tensor(m->be, &u, ZOE_F32, v->rank, v->shape));
    ZOE_TRY(zoe_cogvideox_denoiser_forward(m->denoiser, &m->grid, count, parts, timestep, guided ? 2 : 1, branches));
    if (guided) ZOE_TRY(zoe_guide(m->be, v, &u, guidance_at(run, timestep)));
    zoe_arena_release(m->be, mark);
    return ZOE_OK;
}

static int denoise_end(void *model, zoe_run *run, zoe_tensor *x) {
    cogvideox_model *m = model;
    (void)run, (void)x;
    zoe_arena_release(m->be, m->mark);
    zoe_weights_unload(zoe_cogvideox_denoiser_weights(m->denoiser));
    return ZOE_OK;
}

/* ---- decoding ---- */

static int pass_frame(void *user, const float *frame) {
    zoe_run *run = user;
    return run->frame(run, frame);
}

static int decode(void *model, zoe_run *run, const zoe_tensor *latents) {
    cogvideox_model *m = model;
    int64_t padding = latents->shape[0] - m->latent_frames;
    zoe_tensor video = zoe_view_slice(latents, 0, padding, m->latent_frames);
    int status = zoe_cogvideox_vae_decode(m->vae, &video, &run->tiling, pass_frame, run);
    zoe_weights_unload(zoe_cogvideox_vae_weights(m->vae));
    return status;
}

static void finish(void *model) {
    cogvideox_model *m = model;
    zoe_picture_free(m->be->ctx, &m->picture);
    zoe_backend_free(m->be, m->condition.data);
    m->condition = (zoe_tensor){0};
    zoe_prompts_free(m->be->ctx, m->prompts);
    zoe_weights_unload(zoe_t5_weights(m->text));
    zoe_weights_unload(zoe_cogvideox_denoiser_weights(m->denoiser));
    zoe_weights_unload(zoe_cogvideox_vae_weights(m->vae));
}

static zoe_weights *weights(void *model, int index) {
    cogvideox_model *m = model;
    return index == 0 ? zoe_t5_weights(m->text) : index == 1 ? zoe_cogvideox_denoiser_weights(m->denoiser) : NULL;
}

const zoe_family zoe_cogvideox_family = {
    .name = "cogvideox",
    .recognises = recognises,
    .open = zoe_cogvideox_open,
    .close = zoe_cogvideox_close,
    .describe = describe,
    .defaults = defaults,
    .prepare = prepare,
    .encode_text = encode_text,
    .encode_image = encode_image,
    .denoise_begin = denoise_begin,
    .denoise = denoise,
    .denoise_end = denoise_end,
    .decode = decode,
    .finish = finish,
    .weights = weights,
    .bench = zoe_cogvideox_bench,
};
