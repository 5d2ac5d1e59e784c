/* Numbers of weight files turned into what the backends compute with. */
#ifndef ZOE_WEIGHTS_CONVERT_H
#define ZOE_WEIGHTS_CONVERT_H

#include "base/tensor.h"

bool zoe_dtype_is_float(zoe_dtype dtype); /* F32, BF16, F16 or F64 */

/* Element `i` of an array of floats that may be unaligned. */
float zoe_float_at(const void *data, zoe_dtype dtype, int64_t i);

/* count floats from one type to another (F32, BF16 or F16 as target); the source may be unaligned. */
void zoe_convert_floats(void *to, zoe_dtype to_type, const void *from, zoe_dtype from_type, int64_t count);

/* [out, in, taps] to [out, taps, in]. */
void zoe_convert_conv(void *to, zoe_dtype to_type, const void *from, zoe_dtype from_type, int64_t out, int64_t in,
                      int64_t taps);

/* Index of the first element that is NaN or infinite, or -1. */
int64_t zoe_first_nonfinite(const void *data, zoe_dtype dtype, int64_t count);

/* Uniform numbers in [centre - spread, centre + spread], the same for the same seed. */
void zoe_random_fill(void *to, zoe_dtype dtype, int64_t count, uint64_t seed, float centre, float spread);
/* Only those from number `first` on. */
void zoe_random_fill_from(void *to, zoe_dtype dtype, int64_t first, int64_t count, uint64_t seed, float centre,
                          float spread);

#endif
