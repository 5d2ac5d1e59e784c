/* What pictures contribute: the size, CLIP features, and latents of the frames that are given. */
#include <math.h>
#include <string.h>

#include "models/wan/wan_model.h"

/* ---- pictures and size ---- */

static int check_pictures(const wan_model *m, const zoe_request *r) {
    zoe_context *ctx = m->be->ctx;
    bool needs_last = zoe_wan_denoiser_config(m->denoisers[0])->image_positions > 0;
    if (r->last_image && !r->image)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "--last-image needs --image: a video cannot be led to its last frame alone");
    if (r->image && !m->joins_image && !m->expand_timesteps)
        return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED,
                        "--image: this model makes videos from text only (%s); leave the picture out or "
                        "choose an image-to-video model",
                        m->kind->name);
    if (m->joins_image && !r->image)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "this model starts from a picture (%s): give it one with --image FILE",
                        m->kind->name);
    if (needs_last && !r->last_image)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT,
                        "this model goes from picture to picture (%s): give it the last one with "
                        "--last-image FILE",
                        m->kind->name);
    /* With an image branch but no learned positions, the model was made for one picture only. */
    if (r->last_image && !needs_last && (m->expand_timesteps || m->clip))
        return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED, "--last-image: this model takes a first frame only (%s)", m->kind->name);
    return ZOE_OK;
}

/* The picture's shape at the model's area, rounded down to what the model can do. */
static void follow_picture(wan_model *m, zoe_request *r, int64_t step) {
    double area = (double)m->defaults.width * m->defaults.height;
    double shape = (double)m->pictures[0].height / m->pictures[0].width;
    int64_t height = (int64_t)(sqrt(area * shape) / (double)step) * step,
            width = (int64_t)(sqrt(area / shape) / (double)step) * step;
    r->height = (int32_t)(height > step ? height : step);
    r->width = (int32_t)(width > step ? width : step);
    zoe_log(m->be->ctx, ZOE_LOG_INFO, "size %dx%d follows the picture of %dx%d", r->width, r->height, m->pictures[0].width,
            m->pictures[0].height);
}

int zoe_wan_take_pictures(wan_model *m, zoe_request *r, int64_t step) {
    ZOE_TRY(check_pictures(m, r));
    if (r->image) ZOE_TRY(zoe_picture_load(m->be->ctx, r->image, &m->pictures[0]));
    if (r->last_image) ZOE_TRY(zoe_picture_load(m->be->ctx, r->last_image, &m->pictures[1]));
    if (r->width && r->height) return ZOE_OK;
    r->width = m->defaults.width, r->height = m->defaults.height;
    if (m->pictures[0].rgb) follow_picture(m, r, step);
    return ZOE_OK;
}

/* ---- CLIP ---- */

/* Shortest side to the encoder's, middle cut out, normalised: pixels [side, side, 3]. */
static int clip_pixels(wan_model *m, const zoe_picture *picture, float *pixels) {
    zoe_context *ctx = m->be->ctx;
    int side = (int)zoe_clip_configuration(m->clip)->image;
    bool upright = picture->height >= picture->width;
    int width = upright ? side : (int)((int64_t)side * picture->width / picture->height);
    int height = upright ? (int)((int64_t)side * picture->height / picture->width) : side;
    int left = (width - side) / 2, top = (height - side) / 2;
    zoe_picture resized;
    ZOE_TRY(zoe_picture_resize(ctx, picture, width, height, ZOE_FILTER_BICUBIC_16, &resized));
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side * 3; x++) {
            float value = (float)resized.rgb[((int64_t)(y + top) * width + left) * 3 + x] / 255.0f;
            pixels[(int64_t)y * side * 3 + x] = (value - (float)m->clip_mean[x % 3]) / (float)m->clip_std[x % 3];
        }
    zoe_picture_free(ctx, &resized);
    return ZOE_OK;
}

static int encode_features(wan_model *m, zoe_run *run) {
    zoe_context *ctx = m->be->ctx;
    const zoe_clip_config *c = zoe_clip_configuration(m->clip);
    int64_t rows = zoe_clip_rows(c), pictures = m->pictures[1].rgb ? 2 : 1;
    float *pixels;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, m->features, pictures * rows * c->width));
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, pixels, c->image * c->image * 3));
    int status = ZOE_OK;
    for (int64_t i = 0; i < pictures && status == ZOE_OK; i++) {
        status = clip_pixels(m, &m->pictures[i], pixels);
        if (status == ZOE_OK) status = zoe_clip_encode(m->clip, pixels, m->features + i * rows * c->width);
    }
    zoe_free(ctx, pixels);
    zoe_weights_unload(zoe_clip_weights(m->clip));
    m->feature_rows = pictures * rows;
    ZOE_TRY(status);
    return zoe_run_dump(run, "image_embeds", 3, (const int64_t[]){pictures, rows, c->width}, m->features);
}

/* ---- latents ---- */

typedef struct clip_source {
    zoe_picture first, last; /* at the size of the video; last.rgb may be NULL */
    int64_t frames;
} clip_source;

static int source_frame(void *user, int64_t index, float *frame) {
    const clip_source *s = user;
    const zoe_picture *picture = index == 0 ? &s->first : index == s->frames - 1 ? &s->last : NULL;
    int64_t values = (int64_t)s->first.width * s->first.height * 3;
    if (!picture || !picture->rgb) {
        memset(frame, 0, (size_t)values * sizeof *frame);
        return ZOE_OK;
    }
    for (int64_t i = 0; i < values; i++) frame[i] = (float)picture->rgb[i] / 255.0f * 2.0f - 1.0f;
    return ZOE_OK;
}

static int encode_clip(wan_model *m, const zoe_run *run, clip_source *source) {
    zoe_context *ctx = m->be->ctx;
    const zoe_request *r = run->request;
    int64_t shape[4];
    memcpy(shape, run->latent_shape, sizeof shape);
    if (m->expand_timesteps) shape[1] = 1;
    source->frames = m->expand_timesteps ? 1 : r->frames;
    ZOE_TRY(zoe_picture_resize(ctx, &m->pictures[0], r->width, r->height, ZOE_FILTER_LANCZOS, &source->first));
    if (m->pictures[1].rgb)
        ZOE_TRY(zoe_picture_resize(ctx, &m->pictures[1], r->width, r->height, ZOE_FILTER_LANCZOS, &source->last));
    ZOE_TRY(zoe_backend_alloc(m->be, &m->condition, ZOE_F32, 4, shape));
    return zoe_wan_vae_encode(m->vae, source->frames, source_frame, source, &m->condition);
}

int zoe_wan_encode_pictures(wan_model *m, zoe_run *run) {
    clip_source source = {0};
    if (m->clip) ZOE_TRY(encode_features(m, run));
    int status = encode_clip(m, run, &source);
    zoe_picture_free(m->be->ctx, &source.first);
    zoe_picture_free(m->be->ctx, &source.last);
    zoe_weights_unload(zoe_wan_vae_weights(m->vae));
    return status;
}

/* mask[c][t]: pixel frame 4 t + c - 3 is given; frame 0 stands four times in front. */
int zoe_wan_make_mask(wan_model *m, const zoe_run *run) {
    const int64_t shape[4] = {4, run->latent_shape[1], run->latent_shape[2], run->latent_shape[3]};
    int64_t frames = shape[1], plane = shape[2] * shape[3];
    float *host;
    ZOE_TRY(ZOE_NEW_ARRAY(m->be->ctx, host, 4 * frames * plane));
    for (int64_t c = 0; c < 4; c++) {
        for (int64_t i = 0; i < plane; i++) host[c * frames * plane + i] = 1;
        if (c == 3 && m->pictures[1].rgb)
            for (int64_t i = 0; i < plane; i++) host[(c * frames + frames - 1) * plane + i] = 1;
    }
    int status = zoe_nn_from_host(m->be, &m->mask, ZOE_F32, 4, shape, host);
    zoe_free(m->be->ctx, host);
    return status;
}
