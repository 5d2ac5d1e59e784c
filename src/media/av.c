#include "media/av.h"

#include <errno.h>
#include <libavutil/avstring.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#define BUFFER_BYTES 65536
#define MAX_PIXELS   ((int64_t)1 << 28)

void zoe_av_quiet(void) {
    if (av_log_get_level() == AV_LOG_INFO) av_log_set_level(AV_LOG_QUIET);
}

AVRational zoe_av_rate(double fps) {
    double ntsc = fps * 1.001;
    if (fps != floor(fps) && fabs(ntsc - nearbyint(ntsc)) < 0.002 && ntsc >= 1)
        return (AVRational){(int)nearbyint(ntsc) * 1000, 1001};
    return av_d2q(fps, 60000); /* MPEG-4 stores fractions of 16 bits */
}

/* ---- a file as FFmpeg reads it ---- */

static int read_bytes(void *user, uint8_t *data, int size) {
    FILE *file = user;
    size_t got = fread(data, 1, (size_t)size, file);
    if (got > 0) return (int)got;
    return ferror(file) ? AVERROR(EIO) : AVERROR_EOF;
}

static int64_t seek_bytes(void *user, int64_t offset, int whence) {
    FILE *file = user;
    if (whence == AVSEEK_SIZE) {
        struct stat info;
        return fstat(fileno(file), &info) == 0 ? info.st_size : AVERROR(errno);
    }
    if (fseeko(file, offset, whence & ~AVSEEK_FORCE) != 0) return AVERROR(errno);
    return ftello(file);
}

/*
 * Which containers are read. Play lists and session descriptions stay out: they would make the library open other files, or
 * the network.
 */
static bool is_known(const AVInputFormat *format) {
    static const char *const names[] = {"gif",    "mjpeg", "apng", "ico", "mov", "matroska",    "avi",      "yuv4mpegpipe",
                                        "mpegts", "mpeg",  "ogg",  "flv", "ivf", "jpegxl_anim", "webp_anim"};
    size_t length = strlen(format->name);
    if (length > 5 && strcmp(format->name + length - 5, "_pipe") == 0) return true; /* single pictures */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (av_match_name(names[i], format->name)) return true;
    return false;
}

/* Nor may a known container refer to other files. */
static int refuse_open(AVFormatContext *format, AVIOContext **io, const char *url, int flags, AVDictionary **options) {
    (void)format, (void)io, (void)url, (void)flags, (void)options;
    return AVERROR(EPERM);
}

static int open_format(zoe_av_input *input) {
    uint8_t *buffer = av_malloc(BUFFER_BYTES);
    if (!buffer) return AVERROR(ENOMEM);
    input->io = avio_alloc_context(buffer, BUFFER_BYTES, 0, input->file, read_bytes, NULL, seek_bytes);
    if (!input->io) {
        av_free(buffer);
        return AVERROR(ENOMEM);
    }
    const AVInputFormat *kind = NULL;
    int code = av_probe_input_buffer2(input->io, &kind, "", NULL, 0, 0);
    if (code >= 0 && !is_known(kind)) code = AVERROR_INVALIDDATA;
    if (code < 0) return code;
    input->format = avformat_alloc_context();
    if (!input->format) return AVERROR(ENOMEM);
    input->format->pb = input->io;
    input->format->io_open = refuse_open;
    code = avformat_open_input(&input->format, NULL, kind, NULL); /* frees the context where it fails */
    if (code < 0) return code;
    int index = av_find_best_stream(input->format, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
    if (index < 0 &&
        (code = avformat_find_stream_info(input->format, NULL)) >= 0) /* decodes frames: only where it must be */
        index = av_find_best_stream(input->format, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
    if (index < 0) return index;
    input->stream = input->format->streams[index];
    return 0;
}

int zoe_av_open(zoe_context *ctx, const char *path, const char *what, zoe_av_input *input) {
    *input = (zoe_av_input){0};
    ZOE_TRY(zoe_av_load(ctx));
    zoe_av_quiet();
    input->file = fopen(path, "rbe");
    if (!input->file) return zoe_fail(ctx, ZOE_ERR_IO, "cannot open %s: %m", path);
    struct stat info;
    if (fstat(fileno(input->file), &info) != 0 || S_ISDIR(info.st_mode)) {
        zoe_av_close(input);
        return zoe_fail(ctx, ZOE_ERR_IO, "cannot read %s: it is a folder, not %s", path, what);
    }
    int code = open_format(input);
    if (code >= 0) return ZOE_OK;
    zoe_av_close(input);
    if (code == AVERROR(ENOMEM)) return zoe_fail(ctx, ZOE_ERR_NOMEM, "out of memory: cannot open %s", path);
    return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s is not %s that FFmpeg can read", path, what);
}

void zoe_av_close(zoe_av_input *input) {
    avformat_close_input(&input->format);
    if (input->io) av_freep(&input->io->buffer);
    avio_context_free(&input->io);
    if (input->file) fclose(input->file);
    *input = (zoe_av_input){0};
}

/* ---- frames ---- */

int zoe_av_open_decoder(const AVStream *stream, AVCodecContext **out) {
    const AVCodec *found = avcodec_find_decoder(stream->codecpar->codec_id);
    AVCodecContext *codec = found ? avcodec_alloc_context3(found) : NULL;
    *out = codec;
    if (!codec) return found ? AVERROR(ENOMEM) : AVERROR_DECODER_NOT_FOUND;
    int code = avcodec_parameters_to_context(codec, stream->codecpar);
    if (code < 0) return code;
    codec->thread_count = 1;
    codec->max_pixels = MAX_PIXELS;
    codec->flags |= AV_CODEC_FLAG_BITEXACT;
    if (found->id == AV_CODEC_ID_MJPEG) {
        codec->idct_algo = FF_IDCT_FAAN;        /* closest to libjpeg */
        codec->err_recognition = AV_EF_EXPLODE; /* a JPEG that ends too early would be grey from there on */
    }
    return avcodec_open2(codec, found, NULL);
}

int zoe_av_next_packet(zoe_av_input *input, AVPacket *packet) {
    for (;;) {
        av_packet_unref(packet);
        int code = av_read_frame(input->format, packet);
        if (code < 0 || packet->stream_index == input->stream->index) return code;
    }
}

static int decode_first(zoe_av_input *input, AVCodecContext *codec, AVPacket *packet, AVFrame *frame) {
    for (;;) {
        int code = zoe_av_next_packet(input, packet);
        if (code < 0 && code != AVERROR_EOF) return code;
        bool end = code == AVERROR_EOF;
        code = avcodec_send_packet(codec, end ? NULL : packet);
        if (code >= 0) code = avcodec_receive_frame(codec, frame);
        if (code != AVERROR(EAGAIN)) return code;
        if (end) return AVERROR_INVALIDDATA;
    }
}

int zoe_av_first_frame(zoe_context *ctx, const char *path, zoe_av_input *input, AVFrame **frame, bool *more) {
    AVCodecContext *codec = NULL;
    AVPacket *packet = av_packet_alloc();
    *frame = av_frame_alloc();
    int code = packet && *frame ? zoe_av_open_decoder(input->stream, &codec) : AVERROR(ENOMEM);
    if (code >= 0) code = decode_first(input, codec, packet, *frame);
    /* What follows in a JPEG is no second frame but an extra, such as a depth or gain map. */
    if (code >= 0) *more = codec->codec_id != AV_CODEC_ID_MJPEG && zoe_av_next_packet(input, packet) >= 0;
    av_packet_free(&packet);
    avcodec_free_context(&codec);
    if (code >= 0) return ZOE_OK;
    av_frame_free(frame);
    char reason[AV_ERROR_MAX_STRING_SIZE];
    av_strerror(code, reason, sizeof reason);
    if (code == AVERROR(ENOMEM)) return zoe_fail(ctx, ZOE_ERR_NOMEM, "out of memory: cannot decode %s", path);
    bool webp = input->stream->codecpar->codec_id == AV_CODEC_ID_WEBP;
    return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s cannot be decoded: %s%s", path,
                    code == AVERROR_EOF ? "it holds no complete picture" : reason,
                    webp ? " (an animated WebP needs a newer FFmpeg)" : "");
}
