/* The Wan family as the pipeline sees it. */
#include "models/wan/wan.h"

#include <string.h>

#include "models/wan/wan_model.h"

static bool recognises(const zoe_folder *folder) {
    const char *class = folder->index.root ? json_string_value(json_object_get(folder->index.root, "_class_name")) : NULL;
    return class && (strcmp(class, "WanPipeline") == 0 || strcmp(class, "WanImageToVideoPipeline") == 0);
}

static void describe(const void *model, zoe_description *out) {
    const wan_model *m = model;
    *out = (zoe_description){.family = "Wan", .variant = m->variant, .takes_image = m->expand_timesteps};
    snprintf(out->sizes, sizeof out->sizes, "width and height multiples of %lld, frames 4n+1",
             (long long)(zoe_wan_vae_space_factor(zoe_wan_vae_configuration(m->vae)) * 2));
}

static void defaults(const void *model, zoe_request *request) {
    const wan_model *m = model;
    request->frames = m->defaults.frames;
    request->fps = m->defaults.fps;
    request->steps = m->defaults.steps;
    request->guidance = m->defaults.guidance;
    request->guidance_2 = m->defaults.guidance_2;
}

/* ---- checks ---- */

static int check_size(const wan_model *m, const zoe_request *r, int64_t width_step, int64_t height_step) {
    if (r->width % width_step == 0 && r->height % height_step == 0) return ZOE_OK;
    long long width = (r->width + width_step / 2) / width_step * width_step;
    long long height = (r->height + height_step / 2) / height_step * height_step;
    return zoe_fail(
        m->be->ctx, ZOE_ERR_ARGUMENT,
        "size %dx%d: this model needs a width in steps of %lld and a height in steps of %lld; the nearest is %lldx%lld",
        r->width, r->height, (long long)width_step, (long long)height_step, width ? width : width_step,
        height ? height : height_step);
}

static int check_frames(const wan_model *m, const zoe_request *r, int64_t factor) {
    if ((r->frames - 1) % factor == 0) return ZOE_OK;
    long long below = (r->frames - 1) / factor * factor + 1;
    return zoe_fail(m->be->ctx, ZOE_ERR_ARGUMENT,
                    "%d frames: this model makes %lldn+1 frames; the nearest are %lld and %lld", r->frames,
                    (long long)factor, below, below + factor);
}

static int prepare(void *model, zoe_request *r, zoe_run *run) {
    wan_model *m = model;
    const zoe_wan_vae_config *vae = zoe_wan_vae_configuration(m->vae);
    const zoe_wan_config *c = zoe_wan_denoiser_config(m->denoiser);
    int64_t space = zoe_wan_vae_space_factor(vae), time = zoe_wan_vae_time_factor(vae);
    if (!r->width || !r->height) r->width = m->defaults.width, r->height = m->defaults.height;
    if (!r->negative) r->negative = "";
    if (r->image || r->last_image)
        return zoe_fail(m->be->ctx, ZOE_ERR_UNSUPPORTED,
                        "--image: this is a text-to-video model (%s); leave the picture out, or "
                        "choose an image-to-video model",
                        m->variant);
    ZOE_TRY(check_size(m, r, space * c->patch[2], space * c->patch[1]));
    ZOE_TRY(check_frames(m, r, time));
    run->latent_rank = 4;
    run->latent_shape[0] = c->out_channels;
    run->latent_shape[1] = (r->frames - 1) / time + 1;
    run->latent_shape[2] = r->height / space;
    run->latent_shape[3] = r->width / space;
    run->schedule = m->schedule;
    return ZOE_OK;
}

/* ---- text ---- */

static int encode_prompt(wan_model *m, zoe_run *run, const char *prompt, const char *dump_name, wan_text *out) {
    zoe_context *ctx = run->ctx;
    int64_t width = zoe_t5_configuration(m->text)->width;
    char *clean = NULL;
    int32_t *ids = NULL;
    int status;
    ZOE_TRY_DONE(zoe_text_clean(ctx, prompt, &clean));
    ZOE_TRY_DONE(zoe_tokenizer_encode(m->tokenizer, clean, ZOE_WAN_TEXT_ROWS, &ids, &out->count));
    /* Room for the padding rows, which are zeros: the dump has them. */
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, out->states, ZOE_WAN_TEXT_ROWS * width));
    ZOE_TRY_DONE(zoe_t5_encode(m->text, ids, out->count, out->states));
    ZOE_TRY_DONE(zoe_run_dump(run, dump_name, 3, (const int64_t[]){1, ZOE_WAN_TEXT_ROWS, width}, out->states));
done:
    zoe_free(ctx, clean);
    zoe_free(ctx, ids);
    return status;
}

static bool guided(const zoe_request *r) {
    return r->guidance > 1;
}

static int encode_text(void *model, zoe_run *run) {
    wan_model *m = model;
    int status = encode_prompt(m, run, run->request->prompt, "prompt_embeds", &m->positive);
    if (status == ZOE_OK && guided(run->request))
        status = encode_prompt(m, run, run->request->negative, "negative_prompt_embeds", &m->negative);
    zoe_weights_unload(zoe_t5_weights(m->text));
    return status;
}

/* ---- denoising ---- */

static int denoise_begin(void *model, zoe_run *run) {
    wan_model *m = model;
    m->mark = zoe_arena_mark(m->be);
    ZOE_TRY(zoe_wan_grid_create(m->denoiser, run->latent_shape[1], run->latent_shape[2], run->latent_shape[3], &m->grid));
    ZOE_TRY(zoe_wan_context_create(m->denoiser, m->positive.states, m->positive.count, NULL, 0, &m->positive_context));
    if (!guided(run->request)) return ZOE_OK;
    return zoe_wan_context_create(m->denoiser, m->negative.states, m->negative.count, NULL, 0, &m->negative_context);
}

static int denoise(void *model, zoe_run *run, const zoe_sampler *sampler, int step, const zoe_tensor *x, zoe_tensor *v) {
    wan_model *m = model;
    double timestep = zoe_sampler_timesteps(sampler)[step];
    size_t mark = zoe_arena_mark(m->be);
    zoe_tensor u;
    ZOE_TRY(zoe_wan_denoiser_forward(m->denoiser, &m->grid, &m->positive_context, 1, &x, 1, &timestep, 0, v));
    if (guided(run->request)) {
        ZOE_TRY(zoe_new_tensor(m->be, &u, ZOE_F32, v->rank, v->shape));
        ZOE_TRY(zoe_wan_denoiser_forward(m->denoiser, &m->grid, &m->negative_context, 1, &x, 1, &timestep, 0, &u));
        ZOE_TRY(zoe_guide(m->be, v, &u, run->request->guidance));
    }
    zoe_arena_release(m->be, mark);
    return ZOE_OK;
}

static int denoise_end(void *model, zoe_run *run, zoe_tensor *x) {
    wan_model *m = model;
    (void)run, (void)x;
    zoe_arena_release(m->be, m->mark);
    zoe_weights_unload(zoe_wan_denoiser_weights(m->denoiser));
    return ZOE_OK;
}

/* ---- decoding ---- */

static int pass_frame(void *user, const float *frame) {
    zoe_run *run = user;
    return run->frame(run, frame);
}

static int decode(void *model, zoe_run *run, const zoe_tensor *latents) {
    wan_model *m = model;
    int status = zoe_wan_vae_decode(m->vae, latents, pass_frame, run);
    zoe_weights_unload(zoe_wan_vae_weights(m->vae));
    return status;
}

static void finish(void *model) {
    wan_model *m = model;
    zoe_free(m->be->ctx, m->positive.states);
    zoe_free(m->be->ctx, m->negative.states);
    m->positive = m->negative = (wan_text){0};
    zoe_weights_unload(zoe_t5_weights(m->text));
    zoe_weights_unload(zoe_wan_denoiser_weights(m->denoiser));
    zoe_weights_unload(zoe_wan_vae_weights(m->vae));
}

static const char *find_nonfinite(void *model) {
    wan_model *m = model;
    const char *name = zoe_weights_find_nonfinite(zoe_t5_weights(m->text));
    return name ? name : zoe_weights_find_nonfinite(zoe_wan_denoiser_weights(m->denoiser));
}

const zoe_family zoe_wan_family = {
    .name = "wan",
    .recognises = recognises,
    .open = zoe_wan_open,
    .close = zoe_wan_close,
    .describe = describe,
    .defaults = defaults,
    .prepare = prepare,
    .encode_text = encode_text,
    .denoise_begin = denoise_begin,
    .denoise = denoise,
    .denoise_end = denoise_end,
    .decode = decode,
    .finish = finish,
    .find_nonfinite = find_nonfinite,
};
