/*
 * Pillow's resampling, to the same bytes: a filter widened by the scale when shrinking, weights of 22 bits, a horizontal
 * pass into bytes and then a vertical one. Source of the method: Pillow's src/libImaging/Resample.c. PyTorch does the same
 * on bytes with weights that fit in 16 bits: ATen's native/cpu/UpSampleKernel.cpp.
 */
#include <math.h>
#include <string.h>

#include "media/media.h"

#define PILLOW_BITS 22 /* 32 less 8 of a pixel, 1 for a weight's overshoot and 1 for the sign */

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

static double sinc(double x) {
    if (x == 0) return 1;
    x *= M_PI;
    return sin(x) / x;
}

static double lanczos(double x) {
    return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

/* Which input pixels make each output pixel of one axis, and how much each weighs. */
typedef struct axis_weights {
    int taps;           /* room for each output pixel */
    int bits;           /* after the binary point of a weight */
    int *first, *count; /* [outputs] */
    int32_t *weights;   /* [outputs, taps] */
} axis_weights;

static void free_weights(zoe_context *ctx, axis_weights *axis) {
    zoe_free(ctx, axis->first);
    zoe_free(ctx, axis->count);
    zoe_free(ctx, axis->weights);
}

/* Weights of output pixel `at`, axis->taps numbers. */
static void pixel_weights(axis_weights *axis, int at, int inputs, double scale, double (*filter)(double), double reach,
                          double *exact) {
    double widened = scale < 1 ? 1 : scale, support = reach * widened, sum = 0;
    double centre = (at + 0.5) * scale, step = 1 / widened;
    int first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
    if (first < 0) first = 0;
    if (end > inputs) end = inputs;
    int count = end - first;
    for (int i = 0; i < count; i++) {
        exact[i] = filter((i + first - centre + 0.5) * step);
        sum += exact[i];
    }
    for (int i = 0; i < count && sum != 0; i++) exact[i] /= sum;
    axis->first[at] = first;
    axis->count[at] = count;
}

/* As many bits as the largest weight leaves in 16. */
static int pytorch_bits(const double *exact, size_t count) {
    double largest = 0;
    int bits = 0;
    for (size_t i = 0; i < count; i++) largest = fmax(largest, exact[i]);
    while (bits < PILLOW_BITS && (int)(0.5 + largest * (1 << (bits + 1))) < 1 << 15) bits++;
    return bits;
}

static int make_weights(zoe_context *ctx, int inputs, int outputs, zoe_filter kind, axis_weights *axis) {
    double (*filter)(double) = kind == ZOE_FILTER_LANCZOS ? lanczos : bicubic;
    double reach = kind == ZOE_FILTER_LANCZOS ? 3 : 2, scale = (double)inputs / outputs;
    *axis = (axis_weights){.taps = (int)ceil(reach * (scale < 1 ? 1 : scale)) * 2 + 1};
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, axis->first, outputs));
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, axis->count, outputs));
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, axis->weights, (size_t)outputs * (size_t)axis->taps));
    size_t count = (size_t)outputs * (size_t)axis->taps;
    double *exact;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, exact, count));
    for (int i = 0; i < outputs; i++)
        pixel_weights(axis, i, inputs, scale, filter, reach, exact + (size_t)i * (size_t)axis->taps);
    axis->bits = kind == ZOE_FILTER_BICUBIC_16 ? pytorch_bits(exact, count) : PILLOW_BITS;
    for (size_t i = 0; i < count; i++) {
        double weight = exact[i] * (1 << axis->bits);
        axis->weights[i] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    zoe_free(ctx, exact);
    return ZOE_OK;
}

static uint8_t rounded(int32_t sum, int bits) {
    int32_t value = sum >> bits;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* in [height, in_width, 3] to out [height, width, 3]. */
static void resize_rows(const uint8_t *in, int in_width, int height, int width, const axis_weights *axis, uint8_t *out) {
    for (int y = 0; y < height; y++, in += 3 * (size_t)in_width)
        for (int x = 0; x < width; x++, out += 3) {
            const int32_t *weights = axis->weights + (size_t)x * (size_t)axis->taps;
            const uint8_t *pixel = in + 3 * (size_t)axis->first[x];
            int32_t half = 1 << (axis->bits - 1), sum[3] = {half, half, half};
            for (int i = 0; i < axis->count[x]; i++, pixel += 3)
                for (int c = 0; c < 3; c++) sum[c] += pixel[c] * weights[i];
            for (int c = 0; c < 3; c++) out[c] = rounded(sum[c], axis->bits);
        }
}

/* in [.., width, 3] to out [height, width, 3]; sums has room for a row of them. */
static void resize_columns(const uint8_t *in, int width, int height, const axis_weights *axis, int32_t *sums,
                           uint8_t *out) {
    size_t row = 3 * (size_t)width;
    for (int y = 0; y < height; y++, out += row) {
        const int32_t *weights = axis->weights + (size_t)y * (size_t)axis->taps;
        const uint8_t *line = in + (size_t)axis->first[y] * row;
        for (size_t i = 0; i < row; i++) sums[i] = 1 << (axis->bits - 1);
        for (int k = 0; k < axis->count[y]; k++, line += row)
            for (size_t i = 0; i < row; i++) sums[i] += line[i] * weights[k];
        for (size_t i = 0; i < row; i++) out[i] = rounded(sums[i], axis->bits);
    }
}

/*
 * Which pass comes first decides single roundings. Pillow 13 shrinks tall pictures in height first; earlier ones and
 * PyTorch never do.
 */
static bool height_first(const zoe_picture *in, int width, int height, zoe_filter filter) {
    return filter != ZOE_FILTER_BICUBIC_16 && height < in->height && in->height - height > 2 * (in->width - width);
}

/* Both passes, in their order, through `between`. */
static int resize_both(zoe_context *ctx, const zoe_picture *in, zoe_filter filter, const axis_weights *across,
                       const axis_weights *down, zoe_picture *out) {
    int width = out->width, height = out->height;
    bool down_first = height_first(in, width, height, filter);
    size_t middle = down_first ? (size_t)in->width * (size_t)height : (size_t)width * (size_t)in->height;
    size_t row = 3 * (size_t)(down_first ? in->width : width);
    uint8_t *between = NULL;
    int32_t *sums = NULL;
    int status = ZOE_OK;
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, between, 3 * middle));
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, sums, row));
    /* Between equal sizes the weights are 1 and 0 exactly, so that a pass that is not needed changes nothing. */
    if (down_first) {
        resize_columns(in->rgb, in->width, height, down, sums, between);
        resize_rows(between, in->width, height, width, across, out->rgb);
    } else {
        resize_rows(in->rgb, in->width, in->height, width, across, between);
        resize_columns(between, width, height, down, sums, out->rgb);
    }
done:
    zoe_free(ctx, sums);
    zoe_free(ctx, between);
    return status;
}

int zoe_picture_resize(zoe_context *ctx, const zoe_picture *in, int width, int height, zoe_filter filter,
                       zoe_picture *out) {
    axis_weights across = {0}, down = {0};
    int status = ZOE_OK;
    *out = (zoe_picture){.width = width, .height = height};
    if (width < 1 || height < 1 || width > 32768 || height > 32768)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "a picture cannot be resized to %dx%d: sides go from 1 to 32768", width,
                        height);
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, out->rgb, 3 * (size_t)width * (size_t)height));
    ZOE_TRY_DONE(make_weights(ctx, in->width, width, filter, &across));
    ZOE_TRY_DONE(make_weights(ctx, in->height, height, filter, &down));
    ZOE_TRY_DONE(resize_both(ctx, in, filter, &across, &down, out));
done:
    free_weights(ctx, &across);
    free_weights(ctx, &down);
    if (status < 0) zoe_picture_free(ctx, out);
    return status;
}
