#include "nn/film.h"

#include <math.h>

void zoe_film_open(zoe_backend *be, int64_t height, int64_t width, bool clamp, zoe_frame_sink sink, void *user,
                   zoe_film *out) {
    *out = (zoe_film){.be = be,
                      .dtype = be->dtype,
                      .height = height,
                      .width = width,
                      .clamp = clamp,
                      .sink = sink,
                      .user = user};
}

int zoe_film_divide(zoe_film *film, int64_t frames, const zoe_tiles *tiles) {
    film->tiled = tiles;
    if (tiles) film->dtype = ZOE_F32; /* tiles are blended */
    return zoe_canvas_create(film->be, film->dtype, frames, film->height, film->width, 3, tiles, &film->canvas);
}

void zoe_film_close(zoe_film *film) {
    if (!film->be) return;
    if (film->pending) zoe_download_end(film->be);
    zoe_canvas_free(&film->canvas);
    zoe_host_free(film->be, film->arrived);
    zoe_host_free(film->be, film->frame);
    *film = (zoe_film){0};
}

/* A whole frame to its receiver. */
static int deliver(zoe_film *film, const void *values) {
    int64_t count = film->height * film->width * 3, bad = 0;
    bool narrow = film->dtype == ZOE_BF16;
    if (!film->frame) ZOE_TRY(zoe_host_alloc(film->be, (size_t)count * sizeof(float), (void **)&film->frame));
    if (!film->be->ops->computes) return film->sink(film->user, NULL);
#pragma omp parallel for schedule(static) reduction(+ : bad) if (count > 1 << 16)
    for (int64_t i = 0; i < count; i++) {
        float value = narrow ? zoe_bf16_to_f32(((const uint16_t *)values)[i]) : ((const float *)values)[i];
        bad += !isfinite(value);
        film->frame[i] = film->clamp ? fminf(fmaxf(value, -1), 1) : value;
    }
    if (bad) return zoe_fail(film->be->ctx, ZOE_ERR_NUMERIC, "the VAE decoded a pixel that is not a number");
    return film->sink(film->user, film->frame);
}

/* One frame of the part in work. */
static int pass_on(zoe_film *film, void *values) {
    zoe_canvas *canvas = &film->canvas;
    int64_t index = film->done++;
    if (!canvas->values) return deliver(film, values);
    if (film->tiled)
        zoe_canvas_put_tile(canvas, index, film->at, film->size, values);
    else
        zoe_canvas_put(canvas, index, film->at, film->size, values);
    return film->last ? deliver(film, zoe_canvas_frame(canvas, index)) : ZOE_OK;
}

int zoe_film_flush(zoe_film *film) {
    int64_t frames = film->pending;
    size_t bytes = (size_t)(film->size[0] * film->size[1] * 3) * zoe_dtype_size(film->dtype);
    if (!frames) return ZOE_OK;
    film->pending = 0;
    ZOE_TRY(zoe_download_end(film->be));
    for (int64_t i = 0; i < frames; i++) ZOE_TRY(pass_on(film, film->arrived + (size_t)i * bytes));
    return ZOE_OK;
}

int zoe_film_next_part(zoe_film *film, const int64_t at[2], bool last) {
    ZOE_TRY(zoe_film_flush(film));
    film->at[0] = at[0], film->at[1] = at[1], film->last = last, film->done = 0;
    return ZOE_OK;
}

static int make_room(zoe_film *film, size_t bytes) {
    if (bytes <= film->capacity) return ZOE_OK;
    zoe_host_free(film->be, film->arrived);
    film->arrived = NULL;
    film->capacity = 0;
    ZOE_TRY(zoe_host_alloc(film->be, bytes, (void **)&film->arrived));
    film->capacity = bytes;
    return ZOE_OK;
}

int zoe_film_add(zoe_film *film, const zoe_tensor *pixels) {
    zoe_backend *be = film->be;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor dense;
    const int64_t *shape = pixels->shape;
    ZOE_TRY(zoe_new_tensor(be, &dense, film->dtype, pixels->rank, shape));
    ZOE_TRY(zoe_op_copy(be, &dense, pixels));
    ZOE_TRY(zoe_film_flush(film));
    ZOE_TRY(make_room(film, (size_t)zoe_tensor_bytes(&dense)));
    film->size[0] = shape[1] * shape[2], film->size[1] = shape[3] * shape[4];
    film->pending = shape[0];
    int status = zoe_download_begin(be, film->arrived, &dense);
    if (status < 0) film->pending = 0;
    zoe_arena_release(be, mark);
    return status;
}
