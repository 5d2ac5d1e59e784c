/* What pictures contribute: the size, and latents of the frames that are given. */
#include <math.h>
#include <string.h>

#include "models/ltx/ltx_model.h"

/* ---- pictures and size ---- */

/* The picture's shape at the area of the default size, to the nearest step. */
static void follow_picture(const ltx_model *m, const zoe_picture *picture, zoe_request *r, int step) {
    double area = (double)m->defaults.width * m->defaults.height, shape = (double)picture->height / picture->width;
    int height = (int)lround(sqrt(area * shape) / step) * step, width = (int)lround(sqrt(area / shape) / step) * step;
    r->height = height > step ? height : step;
    r->width = width > step ? width : step;
    zoe_log(m->be->ctx, ZOE_LOG_INFO, "size %dx%d follows the picture of %dx%d", r->width, r->height, picture->width,
            picture->height);
}

int zoe_ltx_take_pictures(ltx_model *m, zoe_request *r, int step) {
    if (r->last_image && !m->conditions)
        return zoe_fail(m->be->ctx, ZOE_ERR_UNSUPPORTED,
                        "--last-image: this model takes a first frame only (%s); versions from 0.9.5 on take a last one",
                        m->variant);
    if (r->image) ZOE_TRY(zoe_picture_load(m->be->ctx, r->image, &m->pictures[0]));
    if (r->last_image) ZOE_TRY(zoe_picture_load(m->be->ctx, r->last_image, &m->pictures[1]));
    if (r->width && r->height) return ZOE_OK;
    r->width = m->defaults.width, r->height = m->defaults.height;
    for (int i = 1; i >= 0; i--)
        if (m->pictures[i].rgb) follow_picture(m, &m->pictures[i], r, step);
    return ZOE_OK;
}

/* ---- latents ---- */

static int64_t plane(const ltx_model *m) {
    return m->size[1] * m->size[2];
}

static int draw_noise(ltx_model *m, zoe_run *run) {
    int64_t count = run->latent_shape[0] * run->latent_shape[1];
    ZOE_TRY(ZOE_NEW_ARRAY(run->ctx, m->noise, count));
    zoe_generator_normal(&run->generator, m->noise, count);
    return ZOE_OK;
}

/* latents [height * width, channels] of a picture at the size of the video */
static int encode_picture(ltx_model *m, zoe_run *run, const zoe_picture *picture, float **latents) {
    zoe_context *ctx = run->ctx;
    const zoe_request *r = run->request;
    int64_t values = (int64_t)r->width * r->height * 3;
    zoe_picture resized = {0};
    float *pixels = NULL;
    int status;
    ZOE_TRY_DONE(zoe_picture_resize(ctx, picture, r->width, r->height, ZOE_FILTER_LANCZOS, &resized));
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, pixels, values));
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, *latents, plane(m) * run->latent_shape[1]));
    for (int64_t i = 0; i < values; i++) pixels[i] = (float)resized.rgb[i] / 255.0f * 2.0f - 1.0f;
    ZOE_TRY_DONE(zoe_ltx_vae_encode(m->vae, pixels, 1, r->height, r->width, &run->generator, *latents));
done:
    zoe_picture_free(ctx, &resized);
    zoe_free(ctx, pixels);
    return status;
}

/* The last frame becomes tokens of its own. The reference draws noise to mix in, of which full strength leaves none. */
static int encode_last(ltx_model *m, zoe_run *run) {
    const int64_t shape[2] = {plane(m), run->latent_shape[1]};
    float *latents = NULL;
    int status;
    ZOE_TRY_DONE(encode_picture(m, run, &m->pictures[1], &latents));
    ZOE_TRY_DONE(zoe_backend_alloc(m->be, &m->last, ZOE_F32, 2, shape));
    ZOE_TRY_DONE(zoe_upload(m->be, &m->last, latents));
    zoe_generator_normal(&run->generator, latents, shape[0] * shape[1]);
done:
    zoe_free(run->ctx, latents);
    return status;
}

int zoe_ltx_encode_pictures(ltx_model *m, zoe_run *run) {
    int status = ZOE_OK;
    /* From 0.9.5 on the reference draws the video's noise before it samples the pictures' posteriors. */
    if (m->conditions && !run->request->init_latents) status = draw_noise(m, run);
    if (status == ZOE_OK && m->pictures[0].rgb) status = encode_picture(m, run, &m->pictures[0], &m->first);
    if (status == ZOE_OK && m->pictures[1].rgb) status = encode_last(m, run);
    zoe_weights_unload(zoe_ltx_vae_weights(m->vae));
    return status;
}

/* Draws come channel by channel, tokens go pixel by pixel. */
int zoe_ltx_start_latents(ltx_model *m, zoe_run *run, bool given, float *latents) {
    int64_t tokens = run->latent_shape[0], channels = run->latent_shape[1];
    if (!given) {
        if (!m->noise) ZOE_TRY(draw_noise(m, run));
        for (int64_t token = 0; token < tokens; token++)
            for (int64_t i = 0; i < channels; i++) latents[token * channels + i] = m->noise[i * tokens + token];
    }
    if (m->first) memcpy(latents, m->first, (size_t)(plane(m) * channels) * sizeof *latents);
    return ZOE_OK;
}
