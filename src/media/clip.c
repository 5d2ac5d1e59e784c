/* Reading videos and pictures frame by frame. */
#include <libavutil/avstring.h>
#include <string.h>

#include "media/av.h"
#include "media/picture_parts.h"

struct zoe_clip {
    zoe_context *ctx;
    char *path;
    zoe_av_input input;
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
    int orientation;
    bool single; /* a picture: what may follow in its file is no second frame */
    bool drained, ended;
};

static int fail_av(const zoe_clip *clip, int code) {
    char reason[AV_ERROR_MAX_STRING_SIZE];
    if (code == AVERROR(ENOMEM)) return zoe_fail(clip->ctx, ZOE_ERR_NOMEM, "out of memory: cannot decode %s", clip->path);
    av_strerror(code, reason, sizeof reason);
    return zoe_fail(clip->ctx, ZOE_ERR_FORMAT, "%s cannot be decoded: %s", clip->path, reason);
}

static int open_parts(zoe_clip *clip, const char *path) {
    clip->path = zoe_strdup(clip->ctx, path);
    if (!clip->path) return zoe_out_of_memory(clip->ctx, strlen(path), "path");
    ZOE_TRY(zoe_av_open(clip->ctx, path, "a picture or video", &clip->input));
    const char *kind = clip->input.format->iformat->name;
    size_t length = strlen(kind);
    clip->single = av_match_name("mjpeg", kind) || (length > 5 && strcmp(kind + length - 5, "_pipe") == 0);
    clip->orientation = zoe_exif_orientation(path);
    clip->packet = av_packet_alloc();
    clip->frame = av_frame_alloc();
    int code = clip->packet && clip->frame ? zoe_av_open_decoder(clip->input.stream, &clip->codec) : AVERROR(ENOMEM);
    return code < 0 ? fail_av(clip, code) : ZOE_OK;
}

int zoe_clip_open(zoe_context *ctx, const char *path, zoe_clip **out) {
    zoe_clip *clip;
    *out = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, clip, 1));
    clip->ctx = ctx;
    int status = open_parts(clip, path);
    if (status < 0)
        zoe_clip_close(clip);
    else
        *out = clip;
    return status;
}

/* The next decoded frame in clip->frame; AVERROR_EOF past the last. */
static int decode(zoe_clip *clip) {
    for (;;) {
        int code = avcodec_receive_frame(clip->codec, clip->frame);
        if (code != AVERROR(EAGAIN) || clip->drained) return code;
        code = zoe_av_next_packet(&clip->input, clip->packet);
        if (code < 0 && code != AVERROR_EOF) return code;
        clip->drained = code == AVERROR_EOF;
        code = avcodec_send_packet(clip->codec, clip->drained ? NULL : clip->packet);
        if (code < 0) return code;
    }
}

int zoe_clip_next(zoe_clip *clip, zoe_picture *out) {
    *out = (zoe_picture){0};
    if (clip->ended) return ZOE_OK;
    int code = decode(clip);
    clip->ended = clip->single || code == AVERROR_EOF;
    if (code == AVERROR_EOF && !clip->single) return ZOE_OK;
    if (code < 0) return fail_av(clip, code);
    int status = zoe_picture_from_frame(clip->ctx, clip->path, clip->frame, out);
    av_frame_unref(clip->frame);
    if (status >= 0) status = zoe_picture_turn(clip->ctx, clip->orientation, out);
    if (status < 0) zoe_picture_free(clip->ctx, out);
    return status;
}

void zoe_clip_close(zoe_clip *clip) {
    if (!clip) return;
    if (clip->packet) av_packet_free(&clip->packet);
    av_frame_free(&clip->frame);
    if (clip->codec) avcodec_free_context(&clip->codec);
    if (clip->input.file) zoe_av_close(&clip->input);
    zoe_free(clip->ctx, clip->path);
    zoe_free(clip->ctx, clip);
}
