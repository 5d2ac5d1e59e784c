/*
 * Decoded frames to RGB. Pictures in Y, Cb, Cr are converted here rather than by libswscale, with libjpeg's triangle filter
 * for the chroma and libjpeg's and libwebp's integer formulas, because the references read pictures with those two.
 */
#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
#include <string.h>

#include "media/picture_parts.h"

static uint8_t clip(int value) {
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* ---- RGB, grey and palettes of any depth ---- */

static void from_palette(const AVFrame *frame, uint8_t *rgb) {
    for (int y = 0; y < frame->height; y++) {
        const uint8_t *row = frame->data[0] + (ptrdiff_t)y * frame->linesize[0];
        for (int x = 0; x < frame->width; x++, rgb += 3) {
            uint32_t colour; /* 0xAARRGGBB in the machine's byte order */
            memcpy(&colour, frame->data[1] + 4 * (size_t)row[x], 4);
            rgb[0] = (uint8_t)(colour >> 16);
            rgb[1] = (uint8_t)(colour >> 8);
            rgb[2] = (uint8_t)colour;
        }
    }
}

/* One component of a row as bytes: more bits lose the low ones, as in Pillow; fewer are stretched to the full range. */
static void component_row(const AVFrame *frame, const AVPixFmtDescriptor *format, int y, int component, uint16_t *line) {
    const AVComponentDescriptor *place = &format->comp[component];
    const uint8_t *planes[4] = {frame->data[0], frame->data[1], frame->data[2], frame->data[3]};
    if (place->depth == 8 && place->shift == 0) { /* the usual case, and quicker than the general way */
        const uint8_t *row = planes[place->plane] + (ptrdiff_t)y * frame->linesize[place->plane] + place->offset;
        for (int x = 0; x < frame->width; x++) line[x] = row[x * place->step];
        return;
    }
    av_read_image_line2(line, planes, frame->linesize, format, 0, y, component, frame->width, 0, 2);
    for (int x = 0; x < frame->width; x++) {
        if (frame->format == AV_PIX_FMT_MONOWHITE) line[x] = !line[x];
        line[x] = (uint16_t)(place->depth >= 8 ? line[x] >> (place->depth - 8) : line[x] * 255 / ((1 << place->depth) - 1));
    }
}

static int from_components(zoe_context *ctx, const AVFrame *frame, const AVPixFmtDescriptor *format, uint8_t *rgb) {
    size_t width = (size_t)frame->width;
    uint16_t *line = zoe_alloc(ctx, width * sizeof *line);
    if (!line) return zoe_out_of_memory(ctx, width * sizeof *line, "line of a picture");
    bool grey = format->nb_components < 3;
    for (int y = 0; y < frame->height; y++, rgb += 3 * width)
        for (int c = 0; c < 3; c++) {
            if (!grey || c == 0) component_row(frame, format, y, c, line);
            for (size_t x = 0; x < width; x++) rgb[3 * x + (size_t)c] = (uint8_t)line[x];
        }
    zoe_free(ctx, line);
    return ZOE_OK;
}

/* ---- Y, Cb, Cr of 8 bits ---- */

/* Twice as wide with the triangle filter: each sample is three parts the nearer and one part the farther neighbour. */
static void widen(const uint8_t *in, int count, int width, uint8_t *out) {
    for (int x = 0; x < width; x++) {
        int near = in[x / 2];
        int far = x % 2 ? (x / 2 + 1 < count ? in[x / 2 + 1] : near) : (x > 0 ? in[x / 2 - 1] : near);
        out[x] = (uint8_t)((3 * near + far + 1 + x % 2) >> 2);
    }
}

/* The same in both directions at once, so that rounding happens once. `far_row` is the next row of samples. */
static void widen_both(const uint8_t *near_row, const uint8_t *far_row, int count, int width, uint8_t *out) {
    for (int x = 0; x < width; x++) {
        int at = x / 2, other = x % 2 ? (at + 1 < count ? at + 1 : at) : (at > 0 ? at - 1 : at);
        int near = 3 * near_row[at] + far_row[at], far = 3 * near_row[other] + far_row[other];
        out[x] = (uint8_t)((3 * near + far + 8 - x % 2) >> 4);
    }
}

/* Row y of a chroma plane in the picture's full size. */
static void chroma_row(const AVFrame *frame, const AVPixFmtDescriptor *format, int plane, int y, uint8_t *out) {
    int wide = format->log2_chroma_w, high = format->log2_chroma_h, width = frame->width;
    int count = AV_CEIL_RSHIFT(width, wide), rows = AV_CEIL_RSHIFT(frame->height, high), at = y >> high;
    bool smooth = !(wide == 1 && count <= 2); /* libjpeg leaves very narrow planes alone */
    int other = y % 2 ? at + 1 : at - 1;
    if (other < 0 || other >= rows) other = at;
    const uint8_t *near = frame->data[plane] + (ptrdiff_t)at * frame->linesize[plane];
    const uint8_t *far = frame->data[plane] + (ptrdiff_t)other * frame->linesize[plane];
    if (wide == 1 && high == 1 && smooth)
        widen_both(near, far, count, width, out);
    else if (wide == 1 && high == 0 && smooth)
        widen(near, count, width, out);
    else if (wide == 0 && high == 1)
        for (int x = 0; x < width; x++) out[x] = (uint8_t)((3 * near[x] + far[x] + 1 + y % 2) >> 2);
    else
        for (int x = 0; x < width; x++) out[x] = near[x >> wide];
}

/* JPEG: full range. Constants have 16 bits behind the point. */
static void convert_full(const uint8_t *luma, const uint8_t *blue, const uint8_t *red, int width, uint8_t *rgb) {
    for (int x = 0; x < width; x++, rgb += 3) {
        int cb = blue[x] - 128, cr = red[x] - 128;
        rgb[0] = clip(luma[x] + ((91881 * cr + 32768) >> 16));
        rgb[1] = clip(luma[x] + ((-22554 * cb - 46802 * cr + 32768) >> 16));
        rgb[2] = clip(luma[x] + ((116130 * cb + 32768) >> 16));
    }
}

/* WebP and video: luma 16 to 235. Constants have 14 bits behind the point, of which 6 stay to the end. */
static void convert_limited(const uint8_t *luma, const uint8_t *blue, const uint8_t *red, int width, uint8_t *rgb) {
    for (int x = 0; x < width; x++, rgb += 3) {
        int y = 19077 * luma[x] >> 8, cb = blue[x], cr = red[x];
        rgb[0] = clip((y + (26149 * cr >> 8) - 14234) >> 6);
        rgb[1] = clip((y - (6419 * cb >> 8) - (13320 * cr >> 8) + 8708) >> 6);
        rgb[2] = clip((y + (33050 * cb >> 8) - 17685) >> 6);
    }
}

static int from_ycc(zoe_context *ctx, const AVFrame *frame, const AVPixFmtDescriptor *format, bool full, uint8_t *rgb) {
    size_t width = (size_t)frame->width;
    uint8_t *chroma = zoe_alloc(ctx, 2 * width);
    if (!chroma) return zoe_out_of_memory(ctx, 2 * width, "line of a picture");
    for (int y = 0; y < frame->height; y++, rgb += 3 * width) {
        const uint8_t *luma = frame->data[0] + (ptrdiff_t)y * frame->linesize[0];
        chroma_row(frame, format, 1, y, chroma);
        chroma_row(frame, format, 2, y, chroma + width);
        (full ? convert_full : convert_limited)(luma, chroma, chroma + width, frame->width, rgb);
    }
    zoe_free(ctx, chroma);
    return ZOE_OK;
}

/* ---- the rest ---- */

static int from_other(zoe_context *ctx, const char *path, const AVFrame *frame, bool full, uint8_t *rgb) {
    int w = frame->width, h = frame->height;
    struct SwsContext *convert =
        sws_getContext(w, h, frame->format, w, h, AV_PIX_FMT_RGB24,
                       SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_BITEXACT, NULL, NULL, NULL);
    if (!convert) {
        const char *name = av_get_pix_fmt_name(frame->format);
        return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED, "%s: pictures of the kind \"%s\" are not supported", path,
                        name ? name : "unknown");
    }
    const int *matrix =
        sws_getCoefficients(frame->colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_DEFAULT : (int)frame->colorspace);
    sws_setColorspaceDetails(convert, matrix, full, matrix, 1, 0, 1 << 16, 1 << 16);
    uint8_t *planes[4] = {rgb};
    int strides[4] = {3 * w};
    int rows = sws_scale(convert, (const uint8_t *const *)frame->data, frame->linesize, 0, h, planes, strides);
    sws_freeContext(convert);
    return rows == h ? ZOE_OK : zoe_fail(ctx, ZOE_ERR_FORMAT, "%s cannot be converted to RGB", path);
}

static int convert(zoe_context *ctx, const char *path, const AVFrame *frame, uint8_t *rgb) {
    const AVPixFmtDescriptor *format = av_pix_fmt_desc_get(frame->format);
    if (!format) return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED, "%s: unknown kind of pixels", path);
    uint64_t odd = AV_PIX_FMT_FLAG_FLOAT | AV_PIX_FMT_FLAG_BAYER | AV_PIX_FMT_FLAG_HWACCEL;
    bool plain = !(format->flags & odd), coloured = format->nb_components >= 3;
    bool full = frame->color_range == AVCOL_RANGE_JPEG || strncmp(format->name, "yuvj", 4) == 0;
    bool bt601 = frame->colorspace == AVCOL_SPC_UNSPECIFIED || frame->colorspace == AVCOL_SPC_BT470BG ||
                 frame->colorspace == AVCOL_SPC_SMPTE170M || frame->colorspace == AVCOL_SPC_RGB;
    if (frame->format == AV_PIX_FMT_PAL8) {
        from_palette(frame, rgb);
        return ZOE_OK;
    }
    if (plain && (format->flags & AV_PIX_FMT_FLAG_RGB || !coloured)) return from_components(ctx, frame, format, rgb);
    bool bytes = format->flags & AV_PIX_FMT_FLAG_PLANAR && format->comp[0].depth == 8 && format->comp[1].plane == 1;
    if (plain && bytes && bt601 && format->comp[1].step == 1) return from_ycc(ctx, frame, format, full, rgb);
    return from_other(ctx, path, frame, full, rgb);
}

int zoe_picture_from_frame(zoe_context *ctx, const char *path, const AVFrame *frame, zoe_picture *out) {
    size_t bytes = (size_t)frame->width * (size_t)frame->height * 3;
    if (frame->width < 1 || frame->height < 1) return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s is an empty picture", path);
    *out = (zoe_picture){.width = frame->width, .height = frame->height, .rgb = zoe_alloc(ctx, bytes)};
    if (!out->rgb) return zoe_out_of_memory(ctx, bytes, "picture");
    int status = convert(ctx, path, frame, out->rgb);
    if (status < 0) zoe_picture_free(ctx, out);
    return status;
}
