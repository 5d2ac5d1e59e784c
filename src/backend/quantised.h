/*
 * Quantised matrices: weights [out, in] of linear in few bits, with scales behind them in the same piece of memory.
 *
 *   form         data                    scales                            w[o][i] =
 *   int8         I8 -127..127            f32 [out]                         data * scale[o]
 *   fp8          F8_E4M3                 f32 [out]                         data * scale[o]
 *   int4         I4 -7..7                f16 [out, in / group]             data * scale[o][i / group]; group 32, 64 or 128
 *   nvfp4        F4_E2M1                 F8_E4M3 [out, in / 16], then      data * scale[o][i / 16] * global
 *                                        at the next 256 bytes f32 global
 *
 * nvfp4's scale for all of a matrix follows from its largest magnitude, but is the same one for nearly all matrices, so
 * that none needs to be looked through before it is quantised: 2^-9 for a largest magnitude of 2^-7 .. 5.25 or zero, else
 * the least power of two under which the largest has a scale; what is not finite stands for itself. In that range the
 * scales of all groups that hold 1/43 of the largest magnitude have all their bits.
 *
 * Products with int8 and fp8 quantise the activations too, each row by its own scale max|x| / 127 or max|x| / 448; int4
 * and nvfp4 keep activations as they are.
 */
#ifndef ZOE_BACKEND_QUANTISED_H
#define ZOE_BACKEND_QUANTISED_H

#include "base/tensor.h"

/* A matrix of one of the forms above. */
static inline bool zoe_is_quantised(const zoe_tensor *t) {
    return t->dtype == ZOE_I8 || t->dtype == ZOE_F8_E4M3 || t->dtype == ZOE_I4 || t->dtype == ZOE_F4_E2M1;
}

/* Elements under one scale when the form `dtype` is asked for with `group` (0: the form's own); 0: the whole row. */
int zoe_quantised_group(zoe_dtype dtype, int group);

/* Bytes of data, and of data with its scales; scales begin at a multiple of 256 bytes. */
int64_t zoe_quantised_bytes(zoe_dtype dtype, int64_t out, int64_t in, int group);

/* The matrix over one piece of memory of that size; rows are multiples of the group. */
zoe_tensor zoe_quantised_of(void *memory, zoe_dtype dtype, int64_t out, int64_t in, int group);

/* Where an nvfp4 matrix has its one scale for all. */
float *zoe_quantised_global(const zoe_tensor *t);

/*
 * Before the first of a matrix' rows is quantised: the scale for all that nearly all have. After the last, with the largest
 * magnitude of all rows: whether that was not the matrix' scale, which is there now for all rows to be quantised again.
 * Nothing and false for other forms than nvfp4.
 */
void zoe_quantised_begin(const zoe_tensor *y);
bool zoe_quantised_again(const zoe_tensor *y, uint32_t largest);

/*
 * On the host, on any thread and without a backend: rows first .. first + rows of the matrix y, from the same rows of
 * floats (any float type, any alignment). Returns, for nvfp4, the bits of their largest magnitude as a float: bits of
 * magnitudes are in the order of the numbers, infinity and NaN at the end.
 */
uint32_t zoe_quantise_rows(zoe_tensor *y, const void *floats, zoe_dtype dtype, int64_t first, int64_t rows);
void zoe_dequantise_rows(const zoe_tensor *y, float *floats, int64_t first, int64_t rows); /* and back */

/* Likewise: floats of any type as float32; false if one is NaN or infinite. */
bool zoe_load_finite(float *to, const void *floats, zoe_dtype dtype, int64_t count);

#endif
