/* Loading pictures: decode, convert, turn upright. */
#include <string.h>

#include "media/av.h"
#include "media/media.h"
#include "media/picture_parts.h"

void zoe_picture_free(zoe_context *ctx, zoe_picture *picture) {
    zoe_free(ctx, picture->rgb);
    *picture = (zoe_picture){0};
}

/* The pixel of a w x h picture that comes to (x, y) when it is turned upright. */
static size_t source_pixel(int orientation, int w, int h, int x, int y) {
    int sx = x, sy = y;
    switch (orientation) {
    case 2:
        sx = w - 1 - x;
        break;
    case 3:
        sx = w - 1 - x, sy = h - 1 - y;
        break;
    case 4:
        sy = h - 1 - y;
        break;
    case 5:
        sx = y, sy = x;
        break;
    case 6:
        sx = y, sy = h - 1 - x;
        break;
    case 7:
        sx = w - 1 - y, sy = h - 1 - x;
        break;
    case 8:
        sx = w - 1 - y, sy = x;
        break;
    default:
        break;
    }
    return (size_t)sy * (size_t)w + (size_t)sx;
}

int zoe_picture_turn(zoe_context *ctx, int orientation, zoe_picture *picture) {
    if (orientation == 1) return ZOE_OK;
    int w = picture->width, h = picture->height, width = orientation >= 5 ? h : w, height = orientation >= 5 ? w : h;
    size_t bytes = (size_t)w * (size_t)h * 3;
    uint8_t *rgb = zoe_alloc(ctx, bytes), *out = rgb;
    if (!rgb) return zoe_out_of_memory(ctx, bytes, "upright picture");
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++, out += 3) memcpy(out, picture->rgb + 3 * source_pixel(orientation, w, h, x, y), 3);
    zoe_free(ctx, picture->rgb);
    *picture = (zoe_picture){.width = width, .height = height, .rgb = rgb};
    return ZOE_OK;
}

int zoe_picture_load(zoe_context *ctx, const char *path, zoe_picture *out) {
    zoe_av_input input;
    AVFrame *frame = NULL;
    bool more = false;
    *out = (zoe_picture){0};
    ZOE_TRY(zoe_av_open(ctx, path, "a picture", &input));
    int status = zoe_av_first_frame(ctx, path, &input, &frame, &more);
    zoe_av_close(&input);
    if (status >= 0) status = zoe_picture_from_frame(ctx, path, frame, out);
    av_frame_free(&frame);
    if (status >= 0) status = zoe_picture_turn(ctx, zoe_exif_orientation(path), out);
    if (status < 0) {
        zoe_picture_free(ctx, out);
        return status;
    }
    if (more) zoe_log(ctx, ZOE_LOG_WARNING, "%s is an animation: its first frame is used", path);
    return ZOE_OK;
}
