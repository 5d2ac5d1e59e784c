/* The forms that matrices take while loading: their memory, and how floats turn into them. */
#ifndef ZOE_WEIGHTS_QUANTISE_H
#define ZOE_WEIGHTS_QUANTISE_H

#include "backend/quantised.h"
#include "weights/weights.h"

/*
 * The form is a quantised one and fits a matrix [out, in]: rows of whole groups, and (devices multiply in units of 16)
 * multiples of 16 along both axes.
 */
bool zoe_quantisable(zoe_weight_form form, int64_t out, int64_t in);

/* "int8", "fp8", "int4", "nvfp4", or "native" for all other types; and the other way round, false for other words. */
const char *zoe_form_name(zoe_dtype dtype);
bool zoe_form_named(const char *name, zoe_dtype *out);

/* Bytes of a dense tensor or, with its scales, of a quantised matrix. */
int64_t zoe_form_bytes(const zoe_tensor *form);

/* Gives the tensor memory of the backend, until zoe_backend_free(form->data). */
int zoe_form_alloc(zoe_backend *be, zoe_tensor *form);

/* Puts a matrix of int8 or fp8 in the place of one of floats, whose memory is freed. */
int zoe_form_narrow(zoe_backend *be, zoe_tensor *t, zoe_dtype form);

#endif
