/*
 * Encoding through FFmpeg's libraries: which encoders each kind of file takes, in the order in which they are tried, and
 * the way of one frame from RGB to the file.
 */
#include "media/encoder.h"

#include <libavutil/avstring.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "media/av.h"
#include "media/encoder_parts.h"

/* ---- kinds of files ---- */

/* One encoder that can make a kind of file. bits: bits a pixel where it wants a rate instead of a quality, else 0. */
typedef struct choice {
    const char *name, *options;
    enum AVPixelFormat format;
    double bits;
    const char *warning;
} choice;

/*
 * Memory was measured: `libraries` in MiB by opening, `area` bytes for each pixel of a frame (with a border as codecs have)
 * once `held` frames are on their way.
 */
struct zoe_encoder_kind {
    const char *ending, *muxer, *muxer_options;
    bool even, numbered, palette;
    int libraries, area, held;
    choice choices[8];
};

static const zoe_encoder_kind kinds[] = {
    {.ending = ".mp4",
     .muxer = "mp4",
     .muxer_options = "movflags=+faststart",
     .even = true,
     .libraries = 38,
     .area = 145,
     .held = 34,
     .choices = {{"libx264", "crf=17:preset=medium", AV_PIX_FMT_YUV420P, 0, NULL},
                 {"libopenh264", "", AV_PIX_FMT_YUV420P, 0.3, NULL},
                 {"h264_nvenc", "rc=vbr:cq=19", AV_PIX_FMT_YUV420P, 0, NULL},
                 {"h264_videotoolbox", "", AV_PIX_FMT_YUV420P, 0.3, NULL},
                 {"h264_amf", "", AV_PIX_FMT_YUV420P, 0.3, NULL},
                 {"h264_v4l2m2m", "", AV_PIX_FMT_YUV420P, 0.3, NULL},
                 {"mpeg4", "flags=+qscale:global_quality=236", AV_PIX_FMT_YUV420P, 0,
                  "no H.264 encoder is there: the video is MPEG-4 part 2, which browsers do not play"}}},
    {.ending = ".webm",
     .muxer = "webm",
     .libraries = 47,
     .area = 165,
     .held = 9,
     .choices = {{"libvpx-vp9", "crf=18:row-mt=1:cpu-used=3", AV_PIX_FMT_YUV420P, 0, NULL},
                 {"libvpx", "crf=6:cpu-used=2", AV_PIX_FMT_YUV420P, 0.6, "no VP9 encoder is there: the video is VP8"}}},
    {.ending = ".gif",
     .muxer = "gif",
     .palette = true,
     .libraries = 68,
     .area = 54,
     .held = 1,
     .choices = {{"gif", "", AV_PIX_FMT_PAL8, 0, NULL}}},
    {.ending = ".png",
     .numbered = true,
     .libraries = 35,
     .area = 22,
     .held = 1,
     .choices = {{"png", "pred=mixed", AV_PIX_FMT_RGB24, 0, NULL}}},
    {.ending = ".y4m",
     .muxer = "yuv4mpegpipe",
     .libraries = 35,
     .area = 19,
     .held = 1,
     .choices = {{"wrapped_avframe", "", AV_PIX_FMT_YUV444P, 0, NULL}}},
};

const char *zoe_encoder_endings(void) {
    return ".mp4, .webm, .gif, .y4m, .png with a number such as frame-%05d.png, or - for Y4M on standard output";
}

const zoe_encoder_kind *zoe_encoder_find(const char *path) {
    const char *name = strcmp(path, "-") == 0 ? ".y4m" : path;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t length = strlen(name), tail = strlen(kinds[i].ending);
        if (length >= tail && strcasecmp(name + length - tail, kinds[i].ending) == 0) return &kinds[i];
    }
    return NULL;
}

int64_t zoe_encoder_memory(const zoe_encoder_kind *kind, int width, int height, int frames) {
    const int border = 64, delay = 16; /* frames that threads and queues hold besides */
    int64_t area = kind->area * (int64_t)(width + border) * (height + border);
    int most = kind->held > 1 ? kind->held + delay - 1 : 1, held = kind->held > 1 ? frames + delay - 1 : 1;
    return ((int64_t)kind->libraries << 20) + (held < most ? area * held / most : area);
}

bool zoe_encoder_wants_even(const zoe_encoder_kind *kind) {
    return kind->even;
}

bool zoe_encoder_is_numbered(const zoe_encoder_kind *kind) {
    return kind->numbered;
}

/* ---- one file ---- */

struct zoe_encoder {
    const zoe_encoder_kind *kind;
    zoe_encoder_settings settings;
    AVFormatContext *file; /* NULL for numbered pictures */
    AVStream *stream;
    AVCodecContext *codec;
    AVFrame *frame; /* in the encoder's format */
    AVPacket *packet;
    struct SwsContext *convert;
    zoe_palette *palette;     /* for GIF, in place of `convert` */
    bool header_written;      /* and no trailer yet */
    int64_t frames, pictures; /* handed to the encoder; files written, of numbered pictures */
};

int zoe_encoder_fail(const zoe_encoder_settings *settings, zoe_encoder_error *error, int code, const char *what) {
    char reason[AV_ERROR_MAX_STRING_SIZE];
    av_strerror(code, reason, sizeof reason);
    error->status = code == AVERROR(ENOMEM)             ? ZOE_ERR_NOMEM
                    : code == AVERROR_ENCODER_NOT_FOUND ? ZOE_ERR_UNSUPPORTED
                                                        : ZOE_ERR_IO;
    if (code == AVERROR(EPIPE)) snprintf(reason, sizeof reason, "the reader has gone away");
    snprintf(error->text, sizeof error->text, "cannot %s %s: %s", what, settings->shown, reason);
    return error->status;
}

/* ---- opening ---- */

static AVCodecContext *try_choice(const zoe_encoder *encoder, const choice *c, int *code) {
    const zoe_encoder_settings *settings = &encoder->settings;
    const AVCodec *found = avcodec_find_encoder_by_name(c->name);
    AVCodecContext *codec = found ? avcodec_alloc_context3(found) : NULL;
    *code = found ? AVERROR(ENOMEM) : AVERROR_ENCODER_NOT_FOUND;
    if (!codec) return NULL;
    codec->width = settings->width;
    codec->height = settings->height;
    codec->pix_fmt = c->format;
    codec->framerate = zoe_av_rate(settings->fps);
    codec->time_base = av_inv_q(codec->framerate);
    codec->sample_aspect_ratio = (AVRational){1, 1};
    codec->gop_size = (int)fmax(1, nearbyint(settings->fps)); /* a second: seeking is quick everywhere */
    if (c->format == AV_PIX_FMT_YUV420P || c->format == AV_PIX_FMT_YUV444P) {
        codec->color_primaries = AVCOL_PRI_BT709;
        codec->color_trc = AVCOL_TRC_BT709;
        codec->colorspace = AVCOL_SPC_BT709;
        codec->color_range = AVCOL_RANGE_MPEG;
    }
    if (c->format == AV_PIX_FMT_YUV420P) codec->chroma_sample_location = AVCHROMA_LOC_LEFT;
    codec->bit_rate = (int64_t)(c->bits * settings->width * settings->height * settings->fps);
    if (encoder->file && encoder->file->oformat->flags & AVFMT_GLOBALHEADER) codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    AVDictionary *options = NULL;
    *code = av_dict_parse_string(&options, c->options, "=", ":", 0);
    if (*code >= 0) *code = avcodec_open2(codec, found, &options);
    av_dict_free(&options);
    if (*code < 0) avcodec_free_context(&codec);
    return codec;
}

static int open_codec(zoe_encoder *encoder, zoe_encoder_error *error) {
    int code = AVERROR_ENCODER_NOT_FOUND;
    const choice *c = encoder->kind->choices;
    for (; c->name && !encoder->codec; c++) {
        encoder->codec = try_choice(encoder, c, &code);
        if (encoder->codec && c->warning)
            zoe_log(encoder->settings.ctx, ZOE_LOG_WARNING, "%s: %s", encoder->settings.shown, c->warning);
    }
    return encoder->codec ? ZOE_OK : zoe_encoder_fail(&encoder->settings, error, code, "find an encoder for");
}

static int open_file(zoe_encoder *encoder, zoe_encoder_error *error) {
    const zoe_encoder_settings *settings = &encoder->settings;
    int code = avformat_alloc_output_context2(&encoder->file, NULL, encoder->kind->muxer, NULL);
    if (code < 0) return zoe_encoder_fail(settings, error, code, "write");
    char *url = strcmp(settings->path, "-") ? av_asprintf("file:%s", settings->path) : av_strdup("pipe:1");
    if (!url) return zoe_encoder_fail(settings, error, AVERROR(ENOMEM), "write");
    encoder->file->url = url; /* read again by the muxer when it moves the index to the front */
    return ZOE_OK;
}

static int write_header(zoe_encoder *encoder, zoe_encoder_error *error) {
    const zoe_encoder_settings *settings = &encoder->settings;
    AVDictionary *options = NULL;
    encoder->stream = avformat_new_stream(encoder->file, NULL);
    int code =
        encoder->stream ? avcodec_parameters_from_context(encoder->stream->codecpar, encoder->codec) : AVERROR(ENOMEM);
    if (code >= 0) {
        encoder->stream->time_base = encoder->codec->time_base;
        encoder->stream->avg_frame_rate = encoder->codec->framerate;
        encoder->stream->sample_aspect_ratio = (AVRational){1, 1};
        if (settings->metadata) code = av_dict_set(&encoder->file->metadata, "comment", settings->metadata, 0);
    }
    if (code >= 0) code = avio_open(&encoder->file->pb, encoder->file->url, AVIO_FLAG_WRITE);
    if (code >= 0 && encoder->kind->muxer_options)
        code = av_dict_parse_string(&options, encoder->kind->muxer_options, "=", ":", 0);
    if (code >= 0) code = avformat_write_header(encoder->file, &options);
    av_dict_free(&options);
    if (code < 0) return zoe_encoder_fail(settings, error, code, "write");
    encoder->header_written = true;
    return ZOE_OK;
}

/* RGB to the encoder's format, with chroma placed and weighted as its flags say. */
static int open_conversion(zoe_encoder *encoder, zoe_encoder_error *error) {
    const zoe_encoder_settings *settings = &encoder->settings;
    AVCodecContext *codec = encoder->codec;
    encoder->frame = av_frame_alloc();
    encoder->packet = av_packet_alloc();
    if (!encoder->frame || !encoder->packet) return zoe_encoder_fail(settings, error, AVERROR(ENOMEM), "write");
    if (encoder->kind->palette) return zoe_palette_open(settings, codec, &encoder->palette, error);
    encoder->frame->format = codec->pix_fmt;
    encoder->frame->width = codec->width;
    encoder->frame->height = codec->height;
    encoder->frame->color_primaries = codec->color_primaries;
    encoder->frame->color_trc = codec->color_trc;
    encoder->frame->colorspace = codec->colorspace;
    encoder->frame->color_range = codec->color_range;
    encoder->frame->chroma_location = codec->chroma_sample_location;
    int code = av_frame_get_buffer(encoder->frame, 0);
    if (code < 0) return zoe_encoder_fail(settings, error, code, "write");
    struct SwsContext *convert = sws_alloc_context();
    encoder->convert = convert;
    if (!convert) return zoe_encoder_fail(settings, error, AVERROR(ENOMEM), "write");
    av_opt_set_int(convert, "srcw", codec->width, 0);
    av_opt_set_int(convert, "srch", codec->height, 0);
    av_opt_set_int(convert, "src_format", AV_PIX_FMT_RGB24, 0);
    av_opt_set_int(convert, "dstw", codec->width, 0);
    av_opt_set_int(convert, "dsth", codec->height, 0);
    av_opt_set_int(convert, "dst_format", codec->pix_fmt, 0);
    av_opt_set_int(convert, "sws_flags", SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP, 0);
    if (codec->pix_fmt == AV_PIX_FMT_YUV420P) {
        av_opt_set_int(convert, "dst_h_chr_pos", 0, 0); /* left, as MPEG-2 and H.264 have it */
        av_opt_set_int(convert, "dst_v_chr_pos", 128, 0);
    }
    const int *bt709 = sws_getCoefficients(SWS_CS_ITU709);
    sws_setColorspaceDetails(convert, bt709, 1, bt709, 0, 0, 1 << 16, 1 << 16); /* full range in, limited range out */
    code = sws_init_context(convert, NULL, NULL);
    return code < 0 ? zoe_encoder_fail(settings, error, code, "write") : ZOE_OK;
}

int zoe_encoder_open(const zoe_encoder_kind *kind, const zoe_encoder_settings *settings, zoe_encoder **out,
                     zoe_encoder_error *error) {
    zoe_av_quiet();
    zoe_encoder *encoder = av_mallocz(sizeof *encoder);
    *out = encoder;
    if (!encoder) return zoe_encoder_fail(settings, error, AVERROR(ENOMEM), "write");
    encoder->kind = kind;
    encoder->settings = *settings;
    if (!kind->numbered) ZOE_TRY(open_file(encoder, error));
    ZOE_TRY(open_codec(encoder, error));
    ZOE_TRY(open_conversion(encoder, error));
    return kind->numbered ? ZOE_OK : write_header(encoder, error);
}

/* ---- frames ---- */

static int write_packet(zoe_encoder *encoder, zoe_encoder_error *error) {
    const zoe_encoder_settings *settings = &encoder->settings;
    AVPacket *packet = encoder->packet;
    if (encoder->kind->numbered) {
        int code = zoe_numbered_write(settings->path, encoder->pictures, settings->metadata, packet->data, packet->size);
        av_packet_unref(packet);
        if (code < 0) return zoe_encoder_fail(settings, error, code, "write");
        encoder->pictures++;
        return ZOE_OK;
    }
    if (!packet->duration) packet->duration = 1;
    av_packet_rescale_ts(packet, encoder->codec->time_base, encoder->stream->time_base);
    packet->stream_index = 0;
    int code = av_interleaved_write_frame(encoder->file, packet);
    if (code >= 0) code = encoder->file->pb->error;
    return code < 0 ? zoe_encoder_fail(settings, error, code, "write") : ZOE_OK;
}

/* Hands a frame to the encoder, NULL at the end, and writes what comes out. */
static int encode(zoe_encoder *encoder, AVFrame *frame, zoe_encoder_error *error) {
    int code = avcodec_send_frame(encoder->codec, frame);
    while (code >= 0) {
        code = avcodec_receive_packet(encoder->codec, encoder->packet);
        if (code >= 0) ZOE_TRY(write_packet(encoder, error));
    }
    if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return ZOE_OK;
    return zoe_encoder_fail(&encoder->settings, error, code, "encode");
}

int zoe_encoder_frame(zoe_encoder *encoder, const uint8_t *rgb, zoe_encoder_error *error) {
    const zoe_encoder_settings *settings = &encoder->settings;
    int code;
    if (encoder->palette)
        code = zoe_palette_apply(encoder->palette, rgb, encoder->frame);
    else if ((code = av_frame_make_writable(encoder->frame)) >= 0)
        code = sws_scale(encoder->convert, &rgb, &(int){3 * settings->width}, 0, settings->height, encoder->frame->data,
                         encoder->frame->linesize);
    if (code < 0) return zoe_encoder_fail(settings, error, code, "encode");
    encoder->frame->pts = encoder->frames++;
    int status = encode(encoder, encoder->frame, error);
    if (encoder->palette) av_frame_unref(encoder->frame);
    return status;
}

/* ---- the end ---- */

static int complete_file(zoe_encoder *encoder, zoe_encoder_error *error) {
    ZOE_TRY(encode(encoder, NULL, error));
    if (!encoder->file) return ZOE_OK;
    int code = av_write_trailer(encoder->file);
    encoder->header_written = false;
    int closed = avio_closep(&encoder->file->pb);
    if (code >= 0) code = closed;
    if (code >= 0 && encoder->kind->palette && encoder->settings.metadata)
        code = zoe_gif_add_comment(encoder->settings.path, encoder->settings.metadata);
    return code < 0 ? zoe_encoder_fail(&encoder->settings, error, code, "write") : ZOE_OK;
}

int zoe_encoder_close(zoe_encoder *encoder, bool complete, zoe_encoder_error *error) {
    if (!encoder) return ZOE_OK;
    int status = complete ? complete_file(encoder, error) : ZOE_OK;
    if ((!complete || status < 0) && encoder->kind->numbered)
        zoe_numbered_remove(encoder->settings.path, encoder->pictures);
    if (encoder->header_written) av_write_trailer(encoder->file); /* some muxers free what they hold nowhere else */
    if (encoder->file) avio_closep(&encoder->file->pb);
    avformat_free_context(encoder->file);
    avcodec_free_context(&encoder->codec);
    av_frame_free(&encoder->frame);
    av_packet_free(&encoder->packet);
    sws_freeContext(encoder->convert);
    zoe_palette_close(encoder->palette);
    av_free(encoder);
    return status;
}
