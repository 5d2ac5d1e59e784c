/* Configuration files: jansson behind getters that say which key of which file is wrong, and what was expected. */
#ifndef ZOE_FORMATS_JSON_H
#define ZOE_FORMATS_JSON_H

#include <jansson.h>

#include "base/context.h"

typedef struct zoe_config {
    zoe_context *ctx;
    json_t *root; /* an object */
    char *path;   /* for error texts */
} zoe_config;

/* Reads a JSON object from a file of at most 64 MiB. */
int zoe_config_load(zoe_context *ctx, const char *path, zoe_config *out);
void zoe_config_free(zoe_config *config); /* also fine on a zeroed struct */

/* True if the key exists and is not null. */
bool zoe_config_has(const zoe_config *config, const char *key);

/*
 * Getters: an absent or null key leaves *out as it was set by the caller (the default); a value of another type or
 * outside [min, max] is an error.
 */
int zoe_config_int(const zoe_config *config, const char *key, int64_t min, int64_t max, int64_t *out);
int zoe_config_real(const zoe_config *config, const char *key, double *out);
/* A number from min to max; an absent key leaves *out, whatever it is. */
int zoe_config_real_in(const zoe_config *config, const char *key, double min, double max, double *out);
int zoe_config_bool(const zoe_config *config, const char *key, bool *out);
int zoe_config_text(const zoe_config *config, const char *key, const char **out); /* borrowed from the config */
/* Exactly `count` numbers (booleans count as 0 and 1). */
int zoe_config_ints(const zoe_config *config, const char *key, size_t count, int64_t min, int64_t max, int64_t *out);
int zoe_config_reals(const zoe_config *config, const char *key, size_t count, double *out);
/* An error names all of `keys`, which NULL ends, that are absent or null. */
int zoe_config_require(const zoe_config *config, const char *const *keys);
/* Length of an array; 0 if absent. */
size_t zoe_config_length(const zoe_config *config, const char *key);

/* The value as compact or indented text, freed by zoe_free(); NULL when memory ran out. */
char *zoe_json_text(zoe_context *ctx, const json_t *value, bool indent);

#endif
