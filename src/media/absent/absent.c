/* What media.h promises, in a build without FFmpeg: clear refusals. Frames still reach a request's callback. */
#include "media/media.h"

static int refuse(zoe_context *ctx, const char *path) {
    return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED,
                    "%s: this build reads and writes no pictures and videos (it was made without FFmpeg)", path);
}

int zoe_picture_load(zoe_context *ctx, const char *path, zoe_picture *out) {
    *out = (zoe_picture){0};
    return refuse(ctx, path);
}

void zoe_picture_free(zoe_context *ctx, zoe_picture *picture) {
    zoe_free(ctx, picture->rgb);
    *picture = (zoe_picture){0};
}

int zoe_clip_open(zoe_context *ctx, const char *path, zoe_clip **out) {
    *out = NULL;
    return refuse(ctx, path);
}

/* No clip exists that the next two could be called on. */
int zoe_clip_next(zoe_clip *clip, zoe_picture *out) {
    (void)clip, (void)out;
    return ZOE_ERR_INTERNAL;
}

void zoe_clip_close(zoe_clip *clip) {
    (void)clip;
}

int zoe_video_create(zoe_context *ctx, const char *path, const zoe_video_settings *settings, zoe_video_writer **out) {
    (void)settings;
    *out = NULL;
    return refuse(ctx, path);
}

int64_t zoe_video_memory(const char *path, int width, int height, int frames) {
    (void)path, (void)width, (void)height, (void)frames;
    return 0;
}

/* No writer exists that the next three could be called on. */
int zoe_video_write(zoe_video_writer *writer, const uint8_t *rgb) {
    (void)writer, (void)rgb;
    return ZOE_ERR_INTERNAL;
}

int zoe_video_finish(zoe_video_writer *writer) {
    (void)writer;
    return ZOE_ERR_INTERNAL;
}

void zoe_video_abort(zoe_video_writer *writer) {
    (void)writer;
}

int zoe_video_metadata(zoe_context *ctx, const char *path, char **json) {
    *json = NULL;
    return refuse(ctx, path);
}

int zoe_video_probe(zoe_context *ctx, const char *path, zoe_video_info *out) {
    *out = (zoe_video_info){0};
    return refuse(ctx, path);
}
