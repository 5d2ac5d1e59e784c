/* Two passes: latents of half the size, made larger by the published upsampler and denoised again for a few steps. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "models/ltx/ltx_model.h"
#include "models/ltx/vae_blocks.h"

/* As published for the models that are not distilled, and for those that are. */
#define STEPS    10
#define STRENGTH 0.4
static const double distilled_first[] = {1000, 993, 987, 981, 975, 909, 725, 0.03}, distilled_second[] = {909, 725, 421};

static void give(zoe_schedule_config *schedule, const double *timesteps, int count) {
    schedule->given = count;
    memcpy(schedule->timesteps, timesteps, (size_t)count * sizeof *timesteps);
}

/* ---- the request ---- */

/* The folder's own latent_upsampler, or what the path itself names. */
static int open_checkpoint(zoe_context *ctx, const char *path, zoe_checkpoint **ckpt) {
    char *part = zoe_format(ctx, "%s/latent_upsampler", path);
    if (!part) return zoe_out_of_memory(ctx, strlen(path), "path");
    int status = zoe_checkpoint_open(ctx, access(part, F_OK) == 0 ? part : path, ckpt);
    zoe_free(ctx, part);
    return status;
}

static int open_upsampler(ltx_model *m, const char *path) {
    zoe_ltx_upsampler_config config;
    int64_t channels = zoe_ltx_vae_configuration(m->vae)->channels;
    ZOE_TRY(open_checkpoint(m->be->ctx, path, &m->upsampler_ckpt));
    ZOE_TRY(zoe_ltx_upsampler_config_read(m->be->ctx, m->upsampler_ckpt, &config));
    if (config.channels != channels)
        return zoe_fail(m->be->ctx, ZOE_ERR_ARGUMENT,
                        "--upsampler %s: it is made for latents of %lld channels, not of %lld", path,
                        (long long)config.channels, (long long)channels);
    return zoe_ltx_upsampler_create(m->be, &config, m->upsampler_ckpt, &m->upsampler);
}

/* Schedules of both passes. */
static int plan_passes(ltx_model *m, const zoe_request *r, zoe_run *run) {
    bool own = r->refine_steps == 0 && r->refine_strength == 0;
    m->second = m->schedule;
    if (m->distilled && r->steps == m->defaults.steps)
        give(&run->schedule, distilled_first, sizeof distilled_first / sizeof *distilled_first);
    if (m->distilled && own)
        give(&m->second, distilled_second, sizeof distilled_second / sizeof *distilled_second);
    else
        ZOE_TRY(zoe_schedule_tail(run->ctx, r->refine_steps ? r->refine_steps : STEPS,
                                  r->refine_strength > 0 ? r->refine_strength : STRENGTH, &m->second));
    run->second_steps = m->second.given;
    return ZOE_OK;
}

int zoe_ltx_prepare_passes(ltx_model *m, const zoe_request *r, zoe_run *run) {
    int step = 2 * (int)zoe_ltx_vae_space_factor(zoe_ltx_vae_configuration(m->vae));
    if (!r->upsampler) return ZOE_OK;
    if (!m->keyframes)
        return zoe_fail(
            run->ctx, ZOE_ERR_UNSUPPORTED,
            "--upsampler: this model (%s) makes its video in one pass; versions from 0.9.5 on take an upsampler",
            m->variant);
    if (r->width % step || r->height % step)
        return zoe_fail(
            run->ctx, ZOE_ERR_ARGUMENT,
            "size %dx%d: with --upsampler the first pass is of half the size; width and height need steps of %d", r->width,
            r->height, step);
    ZOE_TRY(open_upsampler(m, r->upsampler));
    m->size[1] /= 2, m->size[2] /= 2;
    return plan_passes(m, r, run);
}

/* ---- between the passes ---- */

/* latents [count, channels] = latents * deviation + mean, or back */
static void normalise(float *latents, int64_t count, int64_t channels, const float *statistics, bool back) {
    for (int64_t i = 0; i < count * channels; i++) {
        float mean = statistics[i % channels], deviation = statistics[channels + i % channels];
        latents[i] = back ? (latents[i] - mean) / deviation : latents[i] * deviation + mean;
    }
}

/* Mean and deviation of latents [2, channels] */
static int read_statistics(zoe_ltx_vae *vae, int64_t channels, float *statistics) {
    ZOE_TRY(zoe_weights_acquire(vae->weights, ZOE_LTX_VAE_SHARED_UNIT));
    int status = zoe_download(vae->be, statistics, &vae->mean);
    if (status == ZOE_OK) status = zoe_download(vae->be, statistics + channels, &vae->std);
    status = zoe_weights_release(vae->weights, ZOE_LTX_VAE_SHARED_UNIT, status);
    return status;
}

/* small [count, channels], of which the mean and deviation are taken, to large [4 count, channels] */
static int upsample(ltx_model *m, const zoe_request *r, float *small, int64_t count, int64_t channels, float *large) {
    zoe_context *ctx = m->be->ctx;
    double adain = r->adain >= 0 ? r->adain : m->distilled ? 1 : 0;
    double tone_map = r->tone_map >= 0 ? r->tone_map : m->tone_map;
    float *statistics;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, statistics, 2 * channels));
    int status = read_statistics(m->vae, channels, statistics);
    if (status == ZOE_OK) {
        normalise(small, count, channels, statistics, false);
        status = zoe_ltx_upsampler_run(m->upsampler, small, m->size, large);
    }
    if (status == ZOE_OK) {
        zoe_ltx_match_statistics(large, 4 * count, small, count, channels, adain);
        zoe_ltx_tone_map(large, 4 * count * channels, tone_map);
        normalise(large, 4 * count, channels, statistics, true);
    }
    zoe_free(ctx, statistics);
    zoe_weights_unload(zoe_ltx_upsampler_weights(m->upsampler));
    return status;
}

/* latents = sigma noise + (1 - sigma) latents; noise as it was drawn, channel by channel */
static void add_noise(float *latents, const float *noise, int64_t tokens, int64_t channels, float sigma) {
    for (int64_t i = 0; i < tokens; i++)
        for (int64_t j = 0; j < channels; j++)
            latents[i * channels + j] = sigma * noise[j * tokens + i] + (1 - sigma) * latents[i * channels + j];
}

int zoe_ltx_enlarge(ltx_model *m, zoe_run *run, const zoe_tensor *latents, float **start) {
    zoe_context *ctx = run->ctx;
    int64_t count = latents->shape[0], channels = latents->shape[1];
    float *small = NULL, *large = NULL;
    int status;
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, small, count * channels));
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, large, 4 * count * channels));
    ZOE_TRY_DONE(zoe_download(m->be, small, latents));
    ZOE_TRY_DONE(upsample(m, run->request, small, count, channels, large));
    m->size[1] *= 2, m->size[2] *= 2;
    run->latent_shape[0] = 4 * count;
    give(&run->schedule, m->second.timesteps, m->second.given);
    zoe_ltx_forget_latents(m);
    ZOE_TRY_DONE(zoe_ltx_encode_again(m, run));
    add_noise(large, m->noise, 4 * count, channels, (float)zoe_schedule_start(&run->schedule));
    ZOE_TRY_DONE(zoe_ltx_start_latents(m, run, true, large));
    *start = large;
    large = NULL;
done:
    zoe_free(ctx, small);
    zoe_free(ctx, large);
    return status;
}
