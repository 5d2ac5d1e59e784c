/* What all families do with a request: sizes and frame counts, prompts, pictures. */
#include <string.h>

#include "models/family.h"

/* ---- checks ---- */

int32_t zoe_nearest_size(int32_t size, int64_t step) {
    int64_t rounded = (size + step / 2) / step * step;
    return (int32_t)(rounded ? rounded : step);
}

int zoe_check_size(zoe_context *ctx, const zoe_request *r, int64_t across, int64_t down) {
    if (r->width % across == 0 && r->height % down == 0) return ZOE_OK;
    return zoe_fail(ctx, ZOE_ERR_ARGUMENT,
                    "size %dx%d: this model needs a width in steps of %lld and a height in steps of %lld; the nearest is "
                    "%dx%d",
                    r->width, r->height, (long long)across, (long long)down, zoe_nearest_size(r->width, across),
                    zoe_nearest_size(r->height, down));
}

int zoe_check_frames(zoe_context *ctx, const zoe_request *r, int64_t factor) {
    long long below = (r->frames - 1) / factor * factor + 1;
    if (r->frames == below) return ZOE_OK;
    return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "%d frames: this model makes %lldn+1 frames; the nearest are %lld and %lld",
                    r->frames, (long long)factor, below, below + factor);
}

/* ---- prompts ---- */

bool zoe_guided(const zoe_request *request) {
    return request->guidance > 1;
}

static int encode(zoe_run *run, const zoe_prompt_form *form, const char *prompt, const char *dump_name, zoe_prompt *out) {
    zoe_context *ctx = run->ctx;
    int64_t width = zoe_t5_configuration(form->text)->width;
    bool all = form->padding == ZOE_PADDING_READ || (form->padding == ZOE_PADDING_MASKED && run->dump);
    int room = form->padding == ZOE_PADDING_MASKED && !all ? 0 : form->most, status;
    char *clean = NULL;
    int32_t *ids = NULL, *padded = NULL;
    if (form->clean) ZOE_TRY_DONE(zoe_text_clean(ctx, prompt, &clean));
    ZOE_TRY_DONE(zoe_tokenizer_encode(form->tokenizer, clean ? clean : prompt, form->most, &ids, &out->count));
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, padded, form->most));
    memcpy(padded, ids, (size_t)out->count * sizeof *ids);
    if (!room) room = out->count;
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, out->states, room * width));
    ZOE_TRY_DONE(zoe_t5_states(form->text, padded, all ? room : out->count,
                               form->padding == ZOE_PADDING_READ ? room : out->count, out->states));
    ZOE_TRY_DONE(zoe_run_dump(run, dump_name, 3, (const int64_t[]){1, room, width}, out->states));
done:
    zoe_free(ctx, clean);
    zoe_free(ctx, ids);
    zoe_free(ctx, padded);
    return status;
}

int zoe_encode_prompts(zoe_run *run, const zoe_prompt_form *form, zoe_prompt out[2]) {
    int status = encode(run, form, run->request->prompt, "prompt_embeds", &out[0]);
    if (status == ZOE_OK && zoe_guided(run->request))
        status = encode(run, form, run->request->negative, "negative_prompt_embeds", &out[1]);
    zoe_weights_unload(zoe_t5_weights(form->text));
    return status;
}

void zoe_prompts_free(zoe_context *ctx, zoe_prompt prompts[2]) {
    for (int i = 0; i < 2; i++) zoe_free(ctx, prompts[i].states);
    memset(prompts, 0, 2 * sizeof *prompts);
}

/* ---- pictures ---- */

int zoe_picture_pixels(zoe_context *ctx, const zoe_picture *picture, int width, int height, float *pixels) {
    zoe_picture resized;
    int64_t values = (int64_t)width * height * 3;
    ZOE_TRY(zoe_picture_resize(ctx, picture, width, height, ZOE_FILTER_LANCZOS, &resized));
    for (int64_t i = 0; i < values; i++) pixels[i] = (float)resized.rgb[i] / 255.0f * 2.0f - 1.0f;
    zoe_picture_free(ctx, &resized);
    return ZOE_OK;
}
