#include "nn/film.h"

#include <math.h>

void zoe_film_open(zoe_backend *be, int64_t height, int64_t width, bool clamp, zoe_frame_sink sink, void *user,
                   zoe_film *out) {
    *out = (zoe_film){.be = be, .height = height, .width = width, .clamp = clamp, .sink = sink, .user = user};
}

int zoe_film_divide(zoe_film *film, int64_t frames, const zoe_tiles *tiles) {
    film->tiled = tiles;
    return zoe_canvas_create(film->be, frames, film->height, film->width, 3, tiles, &film->canvas);
}

void zoe_film_close(zoe_film *film) {
    if (!film->be) return;
    if (film->pending) zoe_download_end(film->be);
    zoe_canvas_free(&film->canvas);
    zoe_free(film->be->ctx, film->arrived);
    *film = (zoe_film){0};
}

/* A whole frame to its receiver. */
static int deliver(zoe_film *film, float *frame) {
    int64_t count = film->be->ops->computes ? film->height * film->width * 3 : 0, bad = 0;
#pragma omp parallel for schedule(static) reduction(+ : bad) if (count > 1 << 16)
    for (int64_t i = 0; i < count; i++) {
        bad += !isfinite(frame[i]);
        if (film->clamp) frame[i] = fminf(fmaxf(frame[i], -1), 1);
    }
    if (bad) return zoe_fail(film->be->ctx, ZOE_ERR_NUMERIC, "the VAE decoded a pixel that is not a number");
    return film->sink(film->user, frame);
}

/* One frame of the part in work. */
static int pass_on(zoe_film *film, float *values) {
    const zoe_canvas *canvas = &film->canvas;
    int64_t index = film->done++;
    if (!canvas->values) return deliver(film, values);
    if (film->tiled)
        zoe_canvas_put_tile(&film->canvas, index, film->tile, film->size, values);
    else
        zoe_canvas_put_rows(&film->canvas, index, film->row, film->size[0], values);
    if (!film->last) return ZOE_OK;
    /* Where nothing is computed there is no canvas, and one frame is as good as another. */
    return film->be->ops->computes ? deliver(film, zoe_canvas_frame(canvas, index)) : film->sink(film->user, values);
}

int zoe_film_flush(zoe_film *film) {
    int64_t frames = film->pending;
    if (!frames) return ZOE_OK;
    film->pending = 0;
    ZOE_TRY(zoe_download_end(film->be));
    for (int64_t i = 0; i < frames; i++) ZOE_TRY(pass_on(film, film->arrived + i * film->size[0] * film->size[1] * 3));
    return ZOE_OK;
}

int zoe_film_next_band(zoe_film *film, int64_t row, bool last) {
    ZOE_TRY(zoe_film_flush(film));
    film->row = row, film->last = last, film->done = 0;
    return ZOE_OK;
}

int zoe_film_next_tile(zoe_film *film, const int64_t tile[2], bool last) {
    ZOE_TRY(zoe_film_flush(film));
    film->tile[0] = tile[0], film->tile[1] = tile[1], film->last = last, film->done = 0;
    return ZOE_OK;
}

static int make_room(zoe_film *film, int64_t count) {
    if (count <= film->capacity) return ZOE_OK;
    zoe_free(film->be->ctx, film->arrived);
    film->capacity = 0;
    ZOE_TRY(ZOE_NEW_ARRAY(film->be->ctx, film->arrived, count));
    film->capacity = count;
    return ZOE_OK;
}

int zoe_film_add(zoe_film *film, const zoe_tensor *pixels) {
    zoe_backend *be = film->be;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor precise;
    const int64_t *shape = pixels->shape;
    ZOE_TRY(zoe_new_tensor(be, &precise, ZOE_F32, pixels->rank, shape));
    ZOE_TRY(zoe_op_copy(be, &precise, pixels));
    ZOE_TRY(zoe_film_flush(film));
    ZOE_TRY(make_room(film, zoe_tensor_count(pixels)));
    film->size[0] = shape[1] * shape[2], film->size[1] = shape[3] * shape[4];
    film->pending = shape[0];
    int status = zoe_download_begin(be, film->arrived, &precise);
    if (status < 0) film->pending = 0;
    zoe_arena_release(be, mark);
    return status;
}
