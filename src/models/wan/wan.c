/* The Wan family as the pipeline sees it. */
#include "models/wan/wan.h"

#include <string.h>

#include "models/wan/wan_model.h"

static bool recognises(const zoe_folder *folder) {
    const char *class = folder->index.root ? json_string_value(json_object_get(folder->index.root, "_class_name")) : NULL;
    if (!class) return zoe_wan_is_original(folder);
    return strcmp(class, "WanPipeline") == 0 || strcmp(class, "WanImageToVideoPipeline") == 0;
}

/* Pixels that one token covers: sizes come in steps of this. */
static int64_t size_step(const wan_model *m, int axis) {
    return zoe_wan_vae_space_factor(zoe_wan_vae_configuration(m->vae)) *
           zoe_wan_denoiser_config(m->denoisers[0])->patch[axis];
}

static void describe(const void *model, zoe_description *out) {
    const wan_model *m = model;
    bool needs_last = zoe_wan_denoiser_config(m->denoisers[0])->image_positions > 0;
    *out =
        (zoe_description){.family = "Wan", .variant = m->kind->name, .takes_image = m->joins_image || m->expand_timesteps};
    out->takes_last_image = needs_last || (m->joins_image && !m->clip);
    snprintf(out->sizes, sizeof out->sizes, "width in steps of %lld, height in steps of %lld, frames %lldn+1",
             (long long)size_step(m, 2), (long long)size_step(m, 1),
             (long long)zoe_wan_vae_time_factor(zoe_wan_vae_configuration(m->vae)));
}

static void defaults(const void *model, zoe_request *request) {
    const wan_model *m = model;
    request->frames = m->defaults.frames;
    request->fps = m->defaults.fps;
    request->steps = m->defaults.steps;
    request->guidance = m->defaults.guidance;
    request->guidance_2 = m->defaults.guidance_2;
    request->negative = m->defaults.negative;
}

/* ---- checks ---- */

static int prepare(void *model, zoe_request *r, zoe_run *run) {
    wan_model *m = model;
    const zoe_wan_vae_config *vae = zoe_wan_vae_configuration(m->vae);
    int64_t space = zoe_wan_vae_space_factor(vae);
    if (!r->negative) r->negative = "";
    ZOE_TRY(zoe_wan_take_pictures(m, r, size_step(m, 2)));
    ZOE_TRY(zoe_check_size(m->be->ctx, r, size_step(m, 2), size_step(m, 1)));
    ZOE_TRY(zoe_check_frames(m->be->ctx, r, zoe_wan_vae_time_factor(vae)));
    run->latent_rank = 4;
    run->latent_shape[0] = vae->channels;
    run->latent_shape[1] = (r->frames - 1) / zoe_wan_vae_time_factor(vae) + 1;
    run->latent_shape[2] = r->height / space;
    run->latent_shape[3] = r->width / space;
    run->schedule = m->schedule;
    return ZOE_OK;
}

/* ---- text ---- */

static int encode_text(void *model, zoe_run *run) {
    wan_model *m = model;
    const zoe_prompt_form form = {m->tokenizer, m->text, ZOE_WAN_TEXT_ROWS, ZOE_PADDING_NONE, .clean = true};
    return zoe_encode_prompts(run, &form, m->prompts);
}

static int encode_image(void *model, zoe_run *run) {
    return zoe_wan_encode_pictures(model, run);
}

/* ---- denoising ---- */

static int denoise_begin(void *model, zoe_run *run) {
    wan_model *m = model;
    m->mark = zoe_arena_mark(m->be);
    ZOE_TRY(
        zoe_wan_grid_create(m->denoisers[0], run->latent_shape[1], run->latent_shape[2], run->latent_shape[3], &m->grid));
    return m->joins_image ? zoe_wan_make_mask(m, run) : ZOE_OK;
}

/* Only one expert is in memory at a time; its keys and values of the text stay until the other takes over. */
static int choose_expert(wan_model *m, const zoe_run *run, double timestep) {
    int expert = m->denoisers[1] && timestep < m->boundary * (double)m->schedule.train_steps ? 1 : 0;
    if (expert == m->expert) return ZOE_OK;
    zoe_wan_denoiser *d = m->denoisers[expert];
    if (m->expert >= 0) zoe_weights_unload(zoe_wan_denoiser_weights(m->denoisers[m->expert]));
    m->expert = expert;
    for (int i = 0; i < (zoe_guided(run->request) ? 2 : 1); i++)
        ZOE_TRY(zoe_wan_context_create(d, m->prompts[i].states, m->prompts[i].count, m->features, m->feature_rows,
                                       i ? &m->contexts.negative : &m->contexts.positive));
    return ZOE_OK;
}

/* TI2V: latents whose first frame is the picture's. */
static int put_picture(wan_model *m, zoe_tensor *x) {
    zoe_tensor first = zoe_view_slice(x, 1, 0, 1);
    return zoe_op_copy(m->be, &first, &m->condition);
}

static int denoise(void *model, zoe_run *run, const zoe_sampler *sampler, int step, zoe_tensor *x, zoe_tensor *v) {
    wan_model *m = model;
    const zoe_request *r = run->request;
    double timestep = zoe_sampler_timesteps(sampler)[step], timesteps[2] = {timestep, timestep};
    bool pictured = m->expand_timesteps && m->condition.data, guided = zoe_guided(r);
    ZOE_TRY(choose_expert(m, run, timestep));
    double guidance = m->expert == 1 && r->guidance_2 >= 0 ? r->guidance_2 : r->guidance;
    zoe_wan_denoiser *d = m->denoisers[m->expert];
    size_t mark = zoe_arena_mark(m->be);
    zoe_tensor mixed, u;
    if (pictured) {
        ZOE_TRY(zoe_new_tensor(m->be, &mixed, ZOE_F32, x->rank, x->shape));
        ZOE_TRY(zoe_op_copy(m->be, &mixed, x));
        ZOE_TRY(put_picture(m, &mixed));
        timesteps[0] = 0;
    }
    const zoe_tensor *parts[3] = {pictured ? &mixed : x, &m->mask, &m->condition};
    const zoe_wan_step in = {.parts = m->joins_image ? 3 : 1,
                             .latents = parts,
                             .groups = pictured ? 2 : 1,
                             .timesteps = timesteps,
                             .start = m->grid.size[1] * m->grid.size[2]}; /* tokens of the first frame */
    const zoe_wan_branch branches[] = {{&m->contexts.positive, v}, {&m->contexts.negative, &u}};
    if (guided) ZOE_TRY(zoe_new_tensor(m->be, &u, ZOE_F32, v->rank, v->shape));
    ZOE_TRY(zoe_wan_denoiser_forward(d, &m->grid, &in, guided ? 2 : 1, branches));
    if (guided) ZOE_TRY(zoe_guide(m->be, v, &u, guidance));
    zoe_arena_release(m->be, mark);
    return ZOE_OK;
}

static int denoise_end(void *model, zoe_run *run, zoe_tensor *x) {
    wan_model *m = model;
    (void)run;
    if (m->expand_timesteps && m->condition.data) ZOE_TRY(put_picture(m, x));
    zoe_arena_release(m->be, m->mark);
    zoe_weights_unload(zoe_wan_denoiser_weights(m->denoisers[m->expert]));
    return ZOE_OK;
}

/* ---- decoding ---- */

static int pass_frame(void *user, const float *frame) {
    zoe_run *run = user;
    return run->frame(run, frame);
}

static int decode(void *model, zoe_run *run, const zoe_tensor *latents) {
    wan_model *m = model;
    int status = zoe_wan_vae_decode(m->vae, latents, &run->tiling, pass_frame, run);
    zoe_weights_unload(zoe_wan_vae_weights(m->vae));
    return status;
}

static zoe_weights *weights(void *model, int index) {
    wan_model *m = model;
    zoe_weights *parts[] = {zoe_t5_weights(m->text), m->clip ? zoe_clip_weights(m->clip) : NULL,
                            zoe_wan_denoiser_weights(m->denoisers[0]),
                            m->denoisers[1] ? zoe_wan_denoiser_weights(m->denoisers[1]) : NULL,
                            zoe_wan_vae_weights(m->vae)};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (parts[i] && index-- == 0) return parts[i];
    return NULL;
}

static void finish(void *model) {
    wan_model *m = model;
    zoe_context *ctx = m->be->ctx;
    zoe_weights *part;
    zoe_prompts_free(ctx, m->prompts);
    for (int i = 0; i < 2; i++) zoe_picture_free(ctx, &m->pictures[i]);
    zoe_free(ctx, m->features);
    zoe_backend_free(m->be, m->condition.data);
    m->features = NULL, m->feature_rows = 0, m->condition = (zoe_tensor){0}, m->expert = -1;
    for (int i = 0; (part = weights(m, i)); i++) zoe_weights_unload(part);
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
    .encode_image = encode_image,
    .denoise_begin = denoise_begin,
    .denoise = denoise,
    .denoise_end = denoise_end,
    .decode = decode,
    .finish = finish,
    .weights = weights,
    .bench = zoe_wan_bench,
};
