#include "nn/canvas.h"

#include <string.h>

int zoe_canvas_create(zoe_backend *be, zoe_dtype dtype, int64_t frames, int64_t height, int64_t width, int64_t channels,
                      const zoe_tiles *tiles, zoe_canvas *out) {
    size_t bytes = (size_t)(frames * height * width * channels) * zoe_dtype_size(dtype);
    *out = (zoe_canvas){.be = be, .dtype = dtype, .frames = frames, .height = height, .width = width, .channels = channels};
    ZOE_TRY(zoe_host_alloc(be, bytes, (void **)&out->values));
    if (!tiles) return ZOE_OK;
    out->tiles = *tiles;
    out->columns = (width + tiles->stride[1] - 1) / tiles->stride[1];
    int64_t above = out->columns * frames * tiles->blend[0] * tiles->size[1] * channels;
    int64_t left = frames * tiles->size[0] * tiles->blend[1] * channels;
    ZOE_TRY(zoe_host_alloc(be, (size_t)above * sizeof(float), (void **)&out->above));
    return zoe_host_alloc(be, (size_t)left * sizeof(float), (void **)&out->left);
}

void zoe_canvas_free(zoe_canvas *canvas) {
    if (!canvas->be) return;
    zoe_host_free(canvas->be, canvas->values);
    zoe_host_free(canvas->be, canvas->above);
    zoe_host_free(canvas->be, canvas->left);
    *canvas = (zoe_canvas){0};
}

/* Bytes of a pixel. */
static size_t pixel_size(const zoe_canvas *canvas) {
    return (size_t)canvas->channels * zoe_dtype_size(canvas->dtype);
}

void *zoe_canvas_frame(const zoe_canvas *canvas, int64_t frame) {
    return canvas->values + (size_t)(frame * canvas->height * canvas->width) * pixel_size(canvas);
}

/* `line`: pixels from line to line of what is put */
static void put(zoe_canvas *canvas, int64_t frame, const int64_t at[2], const int64_t size[2], int64_t line,
                const void *values) {
    char *to = zoe_canvas_frame(canvas, frame);
    size_t pixel = pixel_size(canvas);
    for (int64_t y = 0; y < size[0]; y++)
        memcpy(to + (size_t)((at[0] + y) * canvas->width + at[1]) * pixel,
               (const char *)values + (size_t)(y * line) * pixel, (size_t)size[1] * pixel);
}

void zoe_canvas_put(zoe_canvas *canvas, int64_t frame, const int64_t at[2], const int64_t size[2], const void *values) {
    if (canvas->be->ops->computes) put(canvas, frame, at, size, size[1], values);
}

/* b = a fading into b, at `place` of `extent` rows or columns */
static void fade(float *b, const float *a, int64_t place, int64_t extent, int64_t step, int64_t count) {
    double share = (double)(place / step) / (double)(extent / step);
    float before = (float)(1 - share), after = (float)share;
    for (int64_t i = 0; i < count; i++) b[i] = a[i] * before + b[i] * after;
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

void zoe_canvas_put_tile(zoe_canvas *canvas, int64_t frame, const int64_t tile[2], const int64_t size[2], float *values) {
    const zoe_tiles *t = &canvas->tiles;
    int64_t channels = canvas->channels, line = size[1] * channels, rows = least(t->blend[0], size[0]),
            columns = least(t->blend[1], size[1]);
    float *above = canvas->above + (tile[1] * canvas->frames + frame) * t->blend[0] * t->size[1] * channels;
    float *left = canvas->left + frame * t->size[0] * t->blend[1] * channels;
    if (!canvas->be->ops->computes) return;
    for (int64_t y = 0; tile[0] > 0 && y < rows; y++)
        fade(values + y * line, above + (t->blend[0] - rows + y) * t->size[1] * channels, y, rows, t->step, line);
    for (int64_t y = 0; tile[1] > 0 && y < size[0]; y++)
        for (int64_t x = 0; x < columns; x++)
            fade(values + y * line + x * channels, left + (y * t->blend[1] + t->blend[1] - columns + x) * channels, x,
                 columns, t->step, channels);
    for (int64_t y = 0; y < rows; y++)
        memcpy(above + (t->blend[0] - rows + y) * t->size[1] * channels, values + (size[0] - rows + y) * line,
               (size_t)line * sizeof *values);
    for (int64_t y = 0; y < size[0]; y++)
        memcpy(left + (y * t->blend[1] + t->blend[1] - columns) * channels, values + y * line + (line - columns * channels),
               (size_t)(columns * channels) * sizeof *values);
    int64_t at[2], shown[2], whole[2] = {canvas->height, canvas->width};
    for (int i = 0; i < 2; i++) {
        at[i] = tile[i] * t->stride[i];
        shown[i] = least(least(t->stride[i], size[i]), whole[i] - at[i]);
    }
    put(canvas, frame, at, shown, size[1], values);
}
