/* The LTX-Video family as the pipeline sees it. */
#include "models/ltx/ltx.h"

#include <string.h>

#include "models/ltx/ltx_model.h"

static bool recognises(const zoe_folder *folder) {
    static const char *const classes[] = {"LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline"};
    const char *class = folder->index.root ? json_string_value(json_object_get(folder->index.root, "_class_name")) : NULL;
    for (int i = 0; class && i < 3; i++)
        if (strcmp(class, classes[i]) == 0) return true;
    return zoe_ltx_is_file(folder);
}

static int space_factor(const ltx_model *m) {
    return (int)zoe_ltx_vae_space_factor(zoe_ltx_vae_configuration(m->vae));
}

static int time_factor(const ltx_model *m) {
    return (int)zoe_ltx_vae_time_factor(zoe_ltx_vae_configuration(m->vae));
}

static void describe(const void *model, zoe_description *out) {
    const ltx_model *m = model;
    *out = (zoe_description){.family = "LTX-Video",
                             .variant = m->variant,
                             .takes_image = true,
                             .takes_last_image = m->keyframes,
                             .takes_conditions = m->keyframes,
                             .takes_upsampler = m->keyframes};
    snprintf(out->sizes, sizeof out->sizes, "width and height multiples of %d, frames %dn+1", space_factor(m),
             time_factor(m));
}

static void defaults(const void *model, zoe_request *request) {
    const ltx_model *m = model;
    request->frames = m->defaults.frames;
    request->fps = m->defaults.fps;
    request->steps = m->defaults.steps;
    request->guidance = m->defaults.guidance;
    request->guidance_2 = m->defaults.guidance_2;
}

/* ---- checks ---- */

static int prepare(void *model, zoe_request *r, zoe_run *run) {
    ltx_model *m = model;
    int step = space_factor(m);
    ZOE_TRY(zoe_ltx_take_conditions(m, r, step));
    if (!r->negative) r->negative = "";
    ZOE_TRY(zoe_check_size(m->be->ctx, r, step, step));
    ZOE_TRY(zoe_check_frames(m->be->ctx, r, time_factor(m)));
    ZOE_TRY(zoe_ltx_check_conditions(m, r));
    m->size[0] = (r->frames - 1) / time_factor(m) + 1;
    m->size[1] = r->height / step;
    m->size[2] = r->width / step;
    run->schedule = m->schedule;
    ZOE_TRY(zoe_ltx_prepare_passes(m, r, run));
    run->latent_rank = 2;
    run->latent_shape[0] = m->size[0] * m->size[1] * m->size[2];
    run->latent_shape[1] = zoe_ltx_vae_configuration(m->vae)->channels;
    zoe_schedule_follow_tokens(&run->schedule, run->latent_shape[0]);
    return ZOE_OK;
}

/* ---- text ---- */

/* The denoiser sees no padding. Up to 0.9.1 the text encoder does; from 0.9.5 on it is masked there, too. */
static int encode_text(void *model, zoe_run *run) {
    ltx_model *m = model;
    const zoe_prompt_form form = {m->tokenizer, m->text, m->keyframes ? 256 : 128,
                                  m->keyframes ? ZOE_PADDING_MASKED : ZOE_PADDING_READ, .clean = false};
    return zoe_encode_prompts(run, &form, m->prompts);
}

/* ---- pictures ---- */

static int encode_image(void *model, zoe_run *run) {
    return zoe_ltx_encode_conditions(model, run);
}

static int start_latents(void *model, zoe_run *run, bool given, float *latents) {
    return zoe_ltx_start_latents(model, run, given, latents);
}

/* ---- denoising ---- */

static int make_grid(ltx_model *m, zoe_run *run) {
    int32_t *groups;
    ZOE_TRY(zoe_ltx_group_tokens(m, &groups));
    zoe_ltx_place place = {.size = {m->size[0], m->size[1], m->size[2]},
                           .fps = run->request->fps,
                           .causal = m->causal,
                           .fronts = m->fronts,
                           .front_pixels = m->front_pixels,
                           .levels = m->level_count,
                           .groups = groups};
    int status = zoe_ltx_grid_create(m->denoiser, &place, &m->grid);
    zoe_free(run->ctx, groups);
    return status;
}

static int denoise_begin(void *model, zoe_run *run) {
    ltx_model *m = model;
    m->mark = zoe_arena_mark(m->be);
    ZOE_TRY(make_grid(m, run));
    for (int i = 0; i < 2; i++)
        if (m->prompts[i].states)
            ZOE_TRY(zoe_ltx_context_create(m->denoiser, m->prompts[i].states, m->prompts[i].count, &m->contexts[i]));
    return ZOE_OK;
}

/* v, for all tokens or the video's alone, with guidance */
static int predict(ltx_model *m, zoe_run *run, double timestep, const zoe_tensor *x, zoe_tensor *v) {
    const zoe_tensor *front = m->fronts ? &m->front : NULL;
    double timesteps[ZOE_LTX_LEVELS];
    bool guided = zoe_guided(run->request);
    zoe_tensor u;
    for (int i = 0; i < m->level_count; i++) timesteps[i] = zoe_ltx_timestep(m->levels[i], timestep);
    const zoe_ltx_branch branches[] = {{&m->contexts[0], v}, {&m->contexts[1], &u}};
    if (guided) ZOE_TRY(zoe_new_tensor(m->be, &u, ZOE_F32, v->rank, v->shape));
    ZOE_TRY(zoe_ltx_denoiser_forward(m->denoiser, &m->grid, front, x, timesteps, guided ? 2 : 1, branches));
    return guided ? zoe_guide(m->be, v, &u, run->request->guidance) : ZOE_OK;
}

/* What is in front moves by v [front, channels], where its strength lets it. */
static int move_front(ltx_model *m, double timestep, double by, const zoe_tensor *v) {
    int64_t plane = m->size[1] * m->size[2];
    for (int64_t i = 0; i < m->fronts; i++) {
        if (!zoe_ltx_moves(m->front_strength[i], timestep)) continue;
        zoe_tensor part = zoe_view_slice(&m->front, 0, i * plane, plane), velocity = zoe_view_slice(v, 0, i * plane, plane);
        ZOE_TRY(zoe_op_lincomb(m->be, &part, 2, (const zoe_tensor *[]){&part, &velocity}, (float[]){1, (float)by}));
    }
    return ZOE_OK;
}

/* No velocity where the conditions' strength holds the latents. */
static int hold(ltx_model *m, double timestep, zoe_tensor *v) {
    int64_t plane = m->size[1] * m->size[2];
    for (int64_t i = 0; m->strength && i < m->size[0]; i++) {
        zoe_tensor still = zoe_view_slice(v, 0, i * plane, plane);
        if (!zoe_ltx_moves(m->strength[i], timestep)) ZOE_TRY(zoe_op_zero(m->be, &still));
    }
    return ZOE_OK;
}

static int denoise(void *model, zoe_run *run, const zoe_sampler *sampler, int step, zoe_tensor *x, zoe_tensor *v) {
    ltx_model *m = model;
    double timestep = zoe_sampler_timesteps(sampler)[step];
    const double *sigmas = zoe_sampler_sigmas(sampler) + step;
    bool front_moves = false;
    size_t mark = zoe_arena_mark(m->be);
    for (int64_t i = 0; i < m->fronts; i++) front_moves = front_moves || zoe_ltx_moves(m->front_strength[i], timestep);
    ZOE_TRY(zoe_ltx_restore(m, run, timestep, x));
    if (front_moves) {
        zoe_tensor all;
        ZOE_TRY(ZOE_NEW(m->be, &all, ZOE_F32, m->grid.tokens, v->shape[1]));
        ZOE_TRY(predict(m, run, timestep, x, &all));
        zoe_tensor front = zoe_view_slice(&all, 0, 0, m->grid.front);
        zoe_tensor video = zoe_view_slice(&all, 0, m->grid.front, m->grid.video);
        ZOE_TRY(move_front(m, timestep, sigmas[1] - sigmas[0], &front));
        ZOE_TRY(zoe_op_copy(m->be, v, &video));
    } else {
        ZOE_TRY(predict(m, run, timestep, x, v));
    }
    zoe_arena_release(m->be, mark);
    return hold(m, timestep, v);
}

static int denoise_end(void *model, zoe_run *run, zoe_tensor *x) {
    ltx_model *m = model;
    (void)run, (void)x;
    zoe_arena_release(m->be, m->mark);
    zoe_weights_unload(zoe_ltx_denoiser_weights(m->denoiser));
    return ZOE_OK;
}

static int enlarge(void *model, zoe_run *run, const zoe_tensor *latents, float **start) {
    return zoe_ltx_enlarge(model, run, latents, start);
}

/* ---- decoding ---- */

static int pass_frame(void *user, const float *frame) {
    zoe_run *run = user;
    return run->frame(run, frame);
}

static int decode(void *model, zoe_run *run, const zoe_tensor *latents) {
    ltx_model *m = model;
    zoe_tensor frames = ZOE_VIEW(latents, m->size[0], m->size[1], m->size[2], latents->shape[1]);
    int status = zoe_ltx_vae_decode(m->vae, &frames, &run->generator, &run->tiling, pass_frame, run);
    zoe_weights_unload(zoe_ltx_vae_weights(m->vae));
    return status;
}

static void finish(void *model) {
    ltx_model *m = model;
    zoe_context *ctx = m->be->ctx;
    zoe_prompts_free(ctx, m->prompts);
    zoe_ltx_free_conditions(m);
    zoe_ltx_upsampler_free(m->upsampler);
    zoe_checkpoint_close(m->upsampler_ckpt);
    m->upsampler = NULL;
    m->upsampler_ckpt = NULL;
    zoe_weights_unload(zoe_t5_weights(m->text));
    zoe_weights_unload(zoe_ltx_denoiser_weights(m->denoiser));
    zoe_weights_unload(zoe_ltx_vae_weights(m->vae));
}

static zoe_weights *weights(void *model, int index) {
    ltx_model *m = model;
    return index == 0 ? zoe_t5_weights(m->text) : index == 1 ? zoe_ltx_denoiser_weights(m->denoiser) : NULL;
}

const zoe_family zoe_ltx_family = {
    .name = "ltx",
    .recognises = recognises,
    .open = zoe_ltx_open,
    .close = zoe_ltx_close,
    .describe = describe,
    .defaults = defaults,
    .prepare = prepare,
    .encode_text = encode_text,
    .encode_image = encode_image,
    .start_latents = start_latents,
    .denoise_begin = denoise_begin,
    .denoise = denoise,
    .denoise_end = denoise_end,
    .enlarge = enlarge,
    .decode = decode,
    .finish = finish,
    .weights = weights,
    .bench = zoe_ltx_bench,
};
