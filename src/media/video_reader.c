/* What a video file says about itself. */
#include <errno.h>
#include <string.h>

#include "media/av.h"
#include "media/media.h"

static int keep_comment(zoe_context *ctx, const AVDictionary *metadata, const char *key, char **json) {
    const AVDictionaryEntry *entry = *json ? NULL : av_dict_get(metadata, key, NULL, 0);
    if (!entry) return ZOE_OK;
    *json = zoe_strdup(ctx, entry->value);
    return *json ? ZOE_OK : zoe_out_of_memory(ctx, strlen(entry->value) + 1, "metadata");
}

int zoe_video_metadata(zoe_context *ctx, const char *path, char **json) {
    zoe_av_input input;
    AVFrame *frame = NULL;
    bool more;
    *json = NULL;
    ZOE_TRY(zoe_av_open(ctx, path, "a video", &input));
    int status = keep_comment(ctx, input.format->metadata, "comment", json);
    if (status >= 0) status = keep_comment(ctx, input.stream->metadata, "comment", json);
    if (status >= 0 && !*json && input.stream->codecpar->codec_id == AV_CODEC_ID_PNG) {
        status = zoe_av_first_frame(ctx, path, &input, &frame, &more); /* its text chunks come with the picture */
        if (status >= 0) status = keep_comment(ctx, frame->metadata, "Comment", json);
        av_frame_free(&frame);
    }
    zoe_av_close(&input);
    return status;
}

/* Packets of the stream: containers such as WebM do not say how many there are. */
static int count_frames(zoe_context *ctx, zoe_av_input *input, int64_t *count) {
    AVPacket *packet = av_packet_alloc();
    if (!packet) return zoe_fail(ctx, ZOE_ERR_NOMEM, "out of memory: cannot count frames");
    while (av_read_frame(input->format, packet) >= 0) {
        if (packet->stream_index == input->stream->index) ++*count;
        av_packet_unref(packet);
    }
    av_packet_free(&packet);
    return ZOE_OK;
}

int zoe_video_probe(zoe_context *ctx, const char *path, zoe_video_info *out) {
    zoe_av_input input;
    *out = (zoe_video_info){0};
    ZOE_TRY(zoe_av_open(ctx, path, "a video", &input));
    const AVStream *stream = input.stream;
    int code = avformat_find_stream_info(input.format, NULL);
    if (code < 0) {
        zoe_av_close(&input);
        return zoe_fail(ctx, code == AVERROR(ENOMEM) ? ZOE_ERR_NOMEM : ZOE_ERR_FORMAT,
                        "%s is not a video that FFmpeg can read", path);
    }
    AVRational rate = stream->avg_frame_rate.num ? stream->avg_frame_rate : stream->r_frame_rate;
    out->width = stream->codecpar->width;
    out->height = stream->codecpar->height;
    out->fps = rate.den ? av_q2d(rate) : 0;
    snprintf(out->codec, sizeof out->codec, "%s", avcodec_get_name(stream->codecpar->codec_id));
    out->frames = stream->nb_frames;
    int status = out->frames ? ZOE_OK : count_frames(ctx, &input, &out->frames);
    out->seconds = out->fps > 0 ? (double)out->frames / out->fps : 0;
    zoe_av_close(&input);
    return status;
}
