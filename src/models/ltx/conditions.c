/*
 * Pictures and clips that a video is to show from given frames on, each with a strength. Up to 0.9.1 one picture can be the
 * first frame. From 0.9.5 on, what starts at frame 0 takes the place of the first latents; what starts later becomes
 * latents of its own in front of the video's, at the positions of its frames, and of a clip all but its first two latents
 * take the place of the video's.
 */
#include <math.h>
#include <string.h>

#include "base/number.h"
#include "models/ltx/ltx_model.h"

/* Latents of a later clip that go in front. */
#define PREFIX 2

/* ---- what the request lists ---- */

static int add(ltx_model *m, const char *path, size_t length, bool still, int64_t frame, double strength) {
    zoe_context *ctx = m->be->ctx;
    if (m->condition_count == ZOE_LTX_CONDITIONS)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "--condition: at most %d pictures and clips at a time", ZOE_LTX_CONDITIONS);
    ltx_condition *c = &m->conditions[m->condition_count];
    *c = (ltx_condition){.still = still, .frame = frame, .strength = (float)strength};
    c->path = zoe_format(ctx, "%.*s", (int)length, path);
    if (!c->path) return zoe_out_of_memory(ctx, length, "path");
    m->condition_count++;
    return ZOE_OK;
}

/* "FILE@FRAME" or "FILE@FRAME:STRENGTH" of `length` bytes */
static int read_entry(ltx_model *m, const char *text, size_t length) {
    const char *at = memrchr(text, '@', length), *p = at ? at + 1 : text;
    uint64_t frame = 0;
    double strength = 1;
    bool good = at > text && zoe_read_digits(&p, &frame) && frame <= INT32_MAX;
    if (good && p < text + length && *p == ':') {
        p++;
        good = zoe_read_real(&p, &strength) && strength > 0 && strength <= 1;
    }
    if (good && p == text + length) return add(m, text, (size_t)(at - text), false, (int64_t)frame, strength);
    return zoe_fail(m->be->ctx, ZOE_ERR_ARGUMENT,
                    "--condition: found \"%.*s\", expected FILE@FRAME or FILE@FRAME:STRENGTH with a strength over 0 and up "
                    "to 1, such as door.png@48:0.8",
                    (int)length, text);
}

static int list_conditions(ltx_model *m, const zoe_request *r) {
    zoe_context *ctx = m->be->ctx;
    if (r->last_image && !m->keyframes)
        return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED,
                        "--last-image: this model takes a first frame only (%s); versions from 0.9.5 on take a last one",
                        m->variant);
    if (r->image) ZOE_TRY(add(m, r->image, strlen(r->image), true, 0, 1));
    for (const char *line = r->conditions; line && *line; line += strspn(line, "\n")) {
        ZOE_TRY(read_entry(m, line, strcspn(line, "\n")));
        line += strcspn(line, "\n");
    }
    return r->last_image ? add(m, r->last_image, strlen(r->last_image), true, r->frames - 1, 1) : ZOE_OK;
}

/* ---- the video's size ---- */

/* The picture's shape at the area of the default size, to the nearest step. */
static void follow_picture(const ltx_model *m, const zoe_picture *picture, zoe_request *r, int step) {
    double area = (double)m->defaults.width * m->defaults.height, shape = (double)picture->height / picture->width;
    int height = (int)lround(sqrt(area * shape) / step) * step, width = (int)lround(sqrt(area / shape) / step) * step;
    r->height = height > step ? height : step;
    r->width = width > step ? width : step;
    zoe_log(m->be->ctx, ZOE_LOG_INFO, "size %dx%d follows the picture of %dx%d", r->width, r->height, picture->width,
            picture->height);
}

static int first_frame(const ltx_model *m, const ltx_condition *c, zoe_picture *out) {
    zoe_clip *clip;
    if (c->still) return zoe_picture_load(m->be->ctx, c->path, out);
    ZOE_TRY(zoe_clip_open(m->be->ctx, c->path, &clip));
    int status = zoe_clip_next(clip, out);
    zoe_clip_close(clip);
    if (status == ZOE_OK && !out->rgb) status = zoe_fail(m->be->ctx, ZOE_ERR_FORMAT, "%s holds no frames", c->path);
    return status;
}

/* Every file is looked at before anything is computed. */
int zoe_ltx_take_conditions(ltx_model *m, zoe_request *r, int step) {
    bool open = !r->width || !r->height;
    ZOE_TRY(list_conditions(m, r));
    if (open) r->width = m->defaults.width, r->height = m->defaults.height;
    for (int i = 0; i < m->condition_count; i++) {
        zoe_picture picture;
        ZOE_TRY(first_frame(m, &m->conditions[i], &picture));
        if (open) follow_picture(m, &picture, r, step);
        open = false;
        zoe_picture_free(m->be->ctx, &picture);
    }
    return ZOE_OK;
}

int zoe_ltx_check_conditions(const ltx_model *m, const zoe_request *r) {
    if (r->last_image && r->frames == 1)
        return zoe_fail(m->be->ctx, ZOE_ERR_ARGUMENT, "--last-image: a video of one frame has no other last frame");
    for (int i = 0; i < m->condition_count; i++)
        if (m->conditions[i].frame >= r->frames)
            return zoe_fail(m->be->ctx, ZOE_ERR_ARGUMENT,
                            "--condition: %s is to be shown from frame %lld on; a video of %d frames has frames 0 to %d",
                            m->conditions[i].path, (long long)m->conditions[i].frame, r->frames, r->frames - 1);
    return ZOE_OK;
}

/* ---- latents ---- */

static int64_t plane(const ltx_model *m) {
    return m->size[1] * m->size[2];
}

/* Pixels of a side of the video that is being made. */
static int side(const ltx_model *m, int axis) {
    return (int)(m->size[axis] * zoe_ltx_vae_space_factor(zoe_ltx_vae_configuration(m->vae)));
}

static int draw_noise(ltx_model *m, zoe_run *run) {
    int64_t count = run->latent_shape[0] * run->latent_shape[1];
    ZOE_TRY(ZOE_NEW_ARRAY(run->ctx, m->noise, count));
    zoe_generator_normal(&run->generator, m->noise, count);
    return ZOE_OK;
}

/* Pixels in -1..1 of the condition's frames at the size of the video; *count: how many, of the form 8n + 1. */
static int read_frames(const ltx_model *m, const zoe_request *r, const ltx_condition *c, int64_t factor, float **pixels,
                       int64_t *count) {
    zoe_context *ctx = m->be->ctx;
    int width = side(m, 2), height = side(m, 1), status = ZOE_OK;
    int64_t values = (int64_t)width * height * 3, room = 0, read = 0, most = c->still ? 1 : r->frames - c->frame;
    zoe_picture picture = {0};
    zoe_clip *clip;
    ZOE_TRY(zoe_clip_open(ctx, c->path, &clip));
    for (*pixels = NULL; read < most; read++) {
        ZOE_TRY_DONE(zoe_clip_next(clip, &picture));
        if (!picture.rgb) break;
        if (read == room) {
            room = room ? 2 * room : 1;
            float *more = zoe_realloc(ctx, *pixels, (size_t)(room * values) * sizeof *more);
            if (!more) ZOE_TRY_DONE(zoe_out_of_memory(ctx, (size_t)(room * values) * sizeof *more, "frames of a clip"));
            *pixels = more;
        }
        ZOE_TRY_DONE(zoe_picture_pixels(ctx, &picture, width, height, *pixels + read * values));
        zoe_picture_free(ctx, &picture);
    }
    if (!read) ZOE_TRY_DONE(zoe_fail(ctx, ZOE_ERR_FORMAT, "%s holds no frames", c->path));
    *count = (read - 1) / factor * factor + 1;
    if (*count > 1 && c->frame % factor)
        status =
            zoe_fail(ctx, ZOE_ERR_ARGUMENT,
                     "--condition: the clip %s is to be shown from frame %lld on; clips start at multiples of %lld, the "
                     "nearest is %lld",
                     c->path, (long long)c->frame, (long long)factor, (long long)(c->frame / factor * factor));
done:
    zoe_picture_free(ctx, &picture);
    zoe_clip_close(clip);
    return status;
}

/* torch.lerp */
static float blend(float from, float to, float weight) {
    return weight < 0.5f ? from + weight * (to - from) : to - (to - from) * (1 - weight);
}

/* The first `frames` latents of a later condition, mixed with noise by its strength, go in front. */
static int add_front(ltx_model *m, zoe_run *run, const ltx_condition *c, int64_t frames) {
    zoe_context *ctx = run->ctx;
    int64_t channels = run->latent_shape[1], pixels = frames * plane(m), old = m->fronts * plane(m) * channels;
    size_t bytes = (size_t)(old + pixels * channels) * sizeof(float);
    float *noise, *grown = zoe_realloc(ctx, m->front_latents, bytes);
    if (!grown) return zoe_out_of_memory(ctx, bytes, "latents of conditions");
    m->front_latents = grown;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, noise, pixels * channels));
    zoe_generator_normal(&run->generator, noise, pixels * channels);
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t j = 0; j < channels; j++)
            grown[old + i * channels + j] = blend(noise[j * pixels + i], c->latents[i * channels + j], c->strength);
    zoe_free(ctx, noise);
    for (int64_t i = 0; i < frames; i++) {
        m->front_strength[m->fronts] = c->strength;
        m->front_pixels[m->fronts++] = c->frame + (i ? 8 * i - 7 : 0);
    }
    return ZOE_OK;
}

static int encode_condition(ltx_model *m, zoe_run *run, ltx_condition *c) {
    int64_t factor = zoe_ltx_vae_time_factor(zoe_ltx_vae_configuration(m->vae)), count, channels = run->latent_shape[1];
    float *pixels = NULL;
    int status = read_frames(m, run->request, c, factor, &pixels, &count);
    if (status == ZOE_OK) {
        c->latent_frames = (count - 1) / factor + 1;
        status = ZOE_NEW_ARRAY(run->ctx, c->latents, c->latent_frames * plane(m) * channels);
    }
    if (status == ZOE_OK)
        status = zoe_ltx_vae_encode(m->vae, pixels, count, side(m, 1), side(m, 2), &run->generator, c->latents);
    zoe_free(run->ctx, pixels);
    ZOE_TRY(status);
    c->in_front = c->frame == 0 ? 0 : c->latent_frames < PREFIX ? c->latent_frames : PREFIX;
    c->place = c->frame / factor + c->in_front;
    return c->in_front ? add_front(m, run, c, c->in_front) : ZOE_OK;
}

static int encode_all(ltx_model *m, zoe_run *run) {
    int status = ZOE_OK;
    for (int i = 0; i < m->condition_count && status == ZOE_OK; i++) status = encode_condition(m, run, &m->conditions[i]);
    zoe_weights_unload(zoe_ltx_vae_weights(m->vae));
    if (status < 0 || !m->fronts) return status;
    const int64_t shape[2] = {m->fronts * plane(m), run->latent_shape[1]};
    ZOE_TRY(zoe_backend_alloc(m->be, &m->front, ZOE_F32, 2, shape));
    return zoe_upload(m->be, &m->front, m->front_latents);
}

int zoe_ltx_encode_conditions(ltx_model *m, zoe_run *run) {
    /* From 0.9.5 on the reference draws the video's noise before it samples the posteriors. */
    if (m->keyframes && !run->request->init_latents) ZOE_TRY(draw_noise(m, run));
    return encode_all(m, run);
}

int zoe_ltx_encode_again(ltx_model *m, zoe_run *run) {
    ZOE_TRY(draw_noise(m, run));
    return encode_all(m, run);
}

/* What takes the place of the video's latents; strengths become known for each latent frame. */
static void place_conditions(ltx_model *m, int64_t channels, float *latents) {
    int64_t values = plane(m) * channels;
    for (int i = 0; i < m->condition_count; i++) {
        const ltx_condition *c = &m->conditions[i];
        for (int64_t j = c->in_front; j < c->latent_frames; j++) {
            int64_t frame = c->place + j - c->in_front;
            float *to = latents + frame * values;
            for (int64_t k = 0; k < values; k++) to[k] = blend(to[k], c->latents[j * values + k], c->strength);
            m->strength[frame] = c->strength;
        }
    }
}

/* Draws come channel by channel, tokens go pixel by pixel. */
int zoe_ltx_start_latents(ltx_model *m, zoe_run *run, bool given, float *latents) {
    int64_t tokens = run->latent_shape[0], channels = run->latent_shape[1];
    if (!given) {
        if (!m->noise) ZOE_TRY(draw_noise(m, run));
        for (int64_t token = 0; token < tokens; token++)
            for (int64_t i = 0; i < channels; i++) latents[token * channels + i] = m->noise[i * tokens + token];
    }
    if (!m->condition_count) return ZOE_OK;
    ZOE_TRY(ZOE_NEW_ARRAY(run->ctx, m->strength, m->size[0]));
    place_conditions(m, channels, latents);
    ZOE_TRY(ZOE_NEW_ARRAY(run->ctx, m->start, tokens * channels));
    memcpy(m->start, latents, (size_t)(tokens * channels) * sizeof *latents);
    return ZOE_OK;
}

/* ---- steps ---- */

/* Noise level that latents of this strength stay at until the video's has come down to it. */
static float level_of(float strength) {
    return 1.0f - strength;
}

bool zoe_ltx_moves(float strength, double timestep) {
    return (float)timestep / 1000.0f - 1e-6f < level_of(strength);
}

double zoe_ltx_timestep(float strength, double timestep) {
    return fmin(timestep, (double)(level_of(strength) * 1000.0f));
}

/* Which of m->levels the tokens of a latent frame belong to; a strength not met before becomes one. */
static int32_t level_number(ltx_model *m, float strength) {
    int32_t i = 0;
    while (i < m->level_count && m->levels[i] != strength) i++;
    if (i == m->level_count) m->levels[m->level_count++] = strength;
    return i;
}

int zoe_ltx_group_tokens(ltx_model *m, int32_t **groups) {
    int64_t frames = m->fronts + m->size[0];
    m->level_count = 0;
    level_number(m, 0);
    *groups = NULL;
    if (!m->condition_count) return ZOE_OK;
    ZOE_TRY(ZOE_NEW_ARRAY(m->be->ctx, *groups, frames * plane(m)));
    for (int64_t i = 0; i < frames; i++) {
        int32_t level = level_number(m, i < m->fronts ? m->front_strength[i] : m->strength[i - m->fronts]);
        for (int64_t j = 0; j < plane(m); j++) (*groups)[i * plane(m) + j] = level;
    }
    return ZOE_OK;
}

/* rows of frame `index` of `to` = start + noise */
static int put_back(ltx_model *m, zoe_tensor *to, int64_t index, const float *start, const float *noise, float scale,
                    float *row) {
    int64_t channels = to->shape[1], values = plane(m) * channels;
    size_t mark = zoe_arena_mark(m->be);
    zoe_tensor part = zoe_view_slice(to, 0, index * plane(m), plane(m)), fresh;
    for (int64_t i = 0; i < values; i++)
        row[i] = start[index * values + i] + (noise ? noise[index * values + i] * scale : 0);
    ZOE_TRY(zoe_nn_from_host(m->be, &fresh, ZOE_F32, 2, (const int64_t[]){plane(m), channels}, row));
    ZOE_TRY(zoe_op_copy(m->be, &part, &fresh));
    zoe_arena_release(m->be, mark);
    return ZOE_OK;
}

static int put_all_back(ltx_model *m, zoe_tensor *x, const float *noise, float scale, float *row) {
    int64_t values = plane(m) * x->shape[1];
    for (int64_t i = 0; i < m->fronts; i++)
        if (m->front_strength[i] == 1) ZOE_TRY(put_back(m, &m->front, i, m->front_latents, noise, scale, row));
    if (noise) noise += m->fronts * values;
    for (int64_t i = 0; i < m->size[0]; i++)
        if (m->strength[i] == 1) ZOE_TRY(put_back(m, x, i, m->start, noise, scale, row));
    return ZOE_OK;
}

int zoe_ltx_restore(ltx_model *m, zoe_run *run, double timestep, zoe_tensor *x) {
    int64_t channels = x->shape[1], count = (m->fronts + m->size[0]) * plane(m) * channels;
    float t = (float)timestep / 1000.0f, *noise = NULL, *row = NULL;
    bool noisy = run->request->condition_noise > 0;
    int status = ZOE_OK;
    if (!m->condition_count || (!noisy && !run->schedule.stochastic)) return ZOE_OK;
    if (noisy) {
        ZOE_TRY(ZOE_NEW_ARRAY(run->ctx, noise, count));
        zoe_generator_normal(&run->generator, noise, count);
        for (int64_t i = 0; i < count; i++) noise[i] *= (float)run->request->condition_noise;
    }
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(run->ctx, row, plane(m) * channels));
    ZOE_TRY_DONE(put_all_back(m, x, noise, t * t, row));
done:
    zoe_free(run->ctx, noise);
    zoe_free(run->ctx, row);
    return status;
}

void zoe_ltx_forget_latents(ltx_model *m) {
    zoe_context *ctx = m->be->ctx;
    for (int i = 0; i < m->condition_count; i++) {
        zoe_free(ctx, m->conditions[i].latents);
        m->conditions[i].latents = NULL;
    }
    zoe_free(ctx, m->noise);
    zoe_free(ctx, m->front_latents);
    zoe_free(ctx, m->strength);
    zoe_free(ctx, m->start);
    zoe_backend_free(m->be, m->front.data);
    m->noise = m->front_latents = m->strength = m->start = NULL;
    m->front = (zoe_tensor){0};
    m->fronts = 0;
}

void zoe_ltx_free_conditions(ltx_model *m) {
    zoe_ltx_forget_latents(m);
    for (int i = 0; i < m->condition_count; i++) zoe_free(m->be->ctx, m->conditions[i].path);
    m->condition_count = 0;
}
