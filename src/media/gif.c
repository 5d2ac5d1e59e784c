/*
 * GIF: FFmpeg's filters choose 256 colours for each frame by itself, so that frames leave as they come. One palette for
 * the whole video would need all frames at once.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "media/encoder_parts.h"

struct zoe_palette {
    AVFilterGraph *graph;
    AVFilterContext *source, *sink;
    AVFrame *frame; /* RGB */
    int64_t frames;
};

static int build_graph(zoe_palette *palette, const AVCodecContext *codec) {
    static const char filters[] = "[in]split[a][b];[a]palettegen=stats_mode=single:reserve_transparent=0[p];"
                                  "[b][p]paletteuse=new=1:dither=sierra2_4a[out]";
    char source[128];
    snprintf(source, sizeof source, "video_size=%dx%d:pix_fmt=%d:time_base=%d/%d:pixel_aspect=1/1", codec->width,
             codec->height, AV_PIX_FMT_RGB24, codec->time_base.num, codec->time_base.den);
    AVFilterInOut *inputs = avfilter_inout_alloc(), *outputs = avfilter_inout_alloc();
    palette->graph = avfilter_graph_alloc();
    int code = inputs && outputs && palette->graph ? 0 : AVERROR(ENOMEM);
    if (code < 0) goto done;
    palette->graph->nb_threads = 1;
    code =
        avfilter_graph_create_filter(&palette->source, avfilter_get_by_name("buffer"), "in", source, NULL, palette->graph);
    if (code < 0) goto done;
    code =
        avfilter_graph_create_filter(&palette->sink, avfilter_get_by_name("buffersink"), "out", NULL, NULL, palette->graph);
    if (code < 0) goto done;
    *outputs = (AVFilterInOut){.name = av_strdup("in"), .filter_ctx = palette->source};
    *inputs = (AVFilterInOut){.name = av_strdup("out"), .filter_ctx = palette->sink};
    code = outputs->name && inputs->name ? 0 : AVERROR(ENOMEM);
    if (code >= 0) code = avfilter_graph_parse_ptr(palette->graph, filters, &inputs, &outputs, NULL);
    if (code >= 0) code = avfilter_graph_config(palette->graph, NULL);
done:
    avfilter_inout_free(&inputs);
    avfilter_inout_free(&outputs);
    return code;
}

int zoe_palette_open(const zoe_encoder_settings *settings, const AVCodecContext *codec, zoe_palette **out,
                     zoe_encoder_error *error) {
    zoe_palette *palette = av_mallocz(sizeof *palette);
    *out = palette;
    if (!palette) return zoe_encoder_fail(settings, error, AVERROR(ENOMEM), "write");
    int code = build_graph(palette, codec);
    if (code >= 0) {
        palette->frame = av_frame_alloc();
        code = palette->frame ? 0 : AVERROR(ENOMEM);
    }
    if (code >= 0) {
        palette->frame->format = AV_PIX_FMT_RGB24;
        palette->frame->width = codec->width;
        palette->frame->height = codec->height;
        code = av_frame_get_buffer(palette->frame, 0);
    }
    return code < 0 ? zoe_encoder_fail(settings, error, code, "choose colours for") : ZOE_OK;
}

int zoe_palette_apply(zoe_palette *palette, const uint8_t *rgb, AVFrame *out) {
    AVFrame *frame = palette->frame;
    int code = av_frame_make_writable(frame);
    if (code < 0) return code;
    size_t row = (size_t)frame->width * 3;
    for (int y = 0; y < frame->height; y++)
        memcpy(frame->data[0] + (ptrdiff_t)y * frame->linesize[0], rgb + (size_t)y * row, row);
    frame->pts = palette->frames++;
    code = av_buffersrc_add_frame_flags(palette->source, frame, AV_BUFFERSRC_FLAG_KEEP_REF);
    return code < 0 ? code : av_buffersink_get_frame(palette->sink, out);
}

void zoe_palette_close(zoe_palette *palette) {
    if (!palette) return;
    avfilter_graph_free(&palette->graph);
    av_frame_free(&palette->frame);
    av_free(palette);
}

/* The comment takes the place of the last byte, which marks the end, and the mark follows it: no other byte moves. */
static int append_comment(FILE *file, const char *text) {
    if (fseek(file, -1, SEEK_END) != 0) return AVERROR(errno);
    if (getc(file) != 0x3b) return AVERROR_INVALIDDATA;
    if (fseek(file, -1, SEEK_END) != 0) return AVERROR(errno);
    fwrite("\x21\xfe", 1, 2, file);
    for (size_t left = strlen(text); left;) {
        size_t part = left < 255 ? left : 255;
        putc((int)part, file);
        fwrite(text, 1, part, file);
        text += part;
        left -= part;
    }
    fwrite("\0\x3b", 1, 2, file);
    return ferror(file) ? AVERROR(errno) : 0;
}

int zoe_gif_add_comment(const char *path, const char *text) {
    FILE *file = fopen(path, "r+be");
    if (!file) return AVERROR(errno);
    int code = append_comment(file, text);
    if (fclose(file) != 0 && code >= 0) code = AVERROR(errno);
    return code;
}
