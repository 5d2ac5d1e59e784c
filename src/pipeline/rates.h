/* What a backend reaches, found by its own operations. */
#ifndef ZOE_PIPELINE_RATES_H
#define ZOE_PIPELINE_RATES_H

#include <jansson.h>

#include "backend/backend.h"

/*
 * Measures with shapes like those of the networks, in under a second and half a gigabyte. What the backend does not
 * have, or has no memory for, stays 0; an error where that is so for the simplest product.
 */
int zoe_rates_measure(zoe_backend *be, zoe_rates *out);

/* Those of an H100, for plans where there is no device. */
extern const zoe_rates zoe_rates_of_h100;

/* Reads what zoe_devices() measured of `device` ("cpu", "cuda:N") from a file of its report. */
int zoe_rates_load(zoe_context *ctx, const char *path, const char *device, zoe_rates *out);

/* Adds them to a report, in GFLOP/s and GB/s (10^9), without those that are 0. */
int zoe_rates_report(zoe_context *ctx, const zoe_rates *rates, json_t *report);

#endif
