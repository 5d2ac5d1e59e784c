/* Configuration files behind getters that name the file, the key, what was expected and what was found. */
#include "formats/json.h"

#include <stdio.h>
#include <string.h>

#include "formats/checkpoint_parts.h"
#include "formats/file.h"

#define FILE_LIMIT ((size_t)64 << 20)

/* ---- loading ---- */

static int parse_object(zoe_context *ctx, const char *path, const char *text, size_t length, json_t **root) {
    json_error_t error;
    *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (!*root)
        return zoe_fail(ctx, json_error_code(&error) == json_error_out_of_memory ? ZOE_ERR_NOMEM : ZOE_ERR_FORMAT,
                        "%s is not valid JSON: %s (line %d, column %d)", path, error.text, error.line, error.column);
    if (!json_is_object(*root)) return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: expected a JSON object", path);
    return ZOE_OK;
}

int zoe_config_load(zoe_context *ctx, const char *path, zoe_config *out) {
    *out = (zoe_config){.ctx = ctx};
    char *text = NULL;
    size_t length = 0;
    int status = zoe_file_read(ctx, path, "a configuration", FILE_LIMIT, &text, &length);
    if (status < 0) goto done;
    ZOE_TRY_DONE(parse_object(ctx, path, text, length, &out->root));
    out->path = zoe_strdup(ctx, path);
    if (!out->path) status = zoe_out_of_memory(ctx, strlen(path) + 1, "path");
done:
    zoe_free(ctx, text);
    if (status < 0) zoe_config_free(out);
    return status;
}

void zoe_config_free(zoe_config *config) {
    json_decref(config->root);
    if (config->path) zoe_free(config->ctx, config->path);
    *config = (zoe_config){0};
}

/* ---- getters ---- */

static const json_t *lookup(const zoe_config *config, const char *key) {
    const json_t *value = json_object_get(config->root, key);
    return json_is_null(value) ? NULL : value;
}

bool zoe_config_has(const zoe_config *config, const char *key) {
    return lookup(config, key) != NULL;
}

/* The start of a value's text, for the "found" of an error. */
static void found_text(const json_t *value, char *text, size_t size) {
    memset(text, 0, size); /* of a longer text jansson leaves out what does not fit, wherever it stands */
    size_t used = json_dumpb(value, text, size, JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    if (used == 0) {
        snprintf(text, size, "a value that cannot be shown");
    } else if (used >= size) {
        size_t kept = strnlen(text, size - 4);
        memcpy(text + kept, "...", 4);
    } else {
        text[used] = 0;
    }
}

static int wrong(const zoe_config *config, const char *key, const json_t *value, const char *expected) {
    char found[80];
    found_text(value, found, sizeof found);
    return zoe_fail(config->ctx, ZOE_ERR_FORMAT, "%s: \"%s\": expected %s, found %s", config->path, key, expected, found);
}

/* A number or boolean as an integer in range; numbers such as 2.0 count as whole. */
static bool as_int(const json_t *value, int64_t min, int64_t max, int64_t *out) {
    if (json_is_boolean(value)) {
        *out = json_is_true(value);
    } else if (json_is_integer(value)) {
        *out = json_integer_value(value);
    } else if (json_is_real(value)) {
        double real = json_real_value(value);
        if (!(real >= -9007199254740992.0 && real <= 9007199254740992.0) || real != (double)(int64_t)real) return false;
        *out = (int64_t)real;
    } else {
        return false;
    }
    return *out >= min && *out <= max;
}

static void range_text(char *text, size_t size, const char *what, int64_t min, int64_t max) {
    if (max == INT64_MAX)
        snprintf(text, size, "%s of at least %lld", what, (long long)min);
    else
        snprintf(text, size, "%s from %lld to %lld", what, (long long)min, (long long)max);
}

int zoe_config_int(const zoe_config *config, const char *key, int64_t min, int64_t max, int64_t *out) {
    const json_t *value = lookup(config, key);
    int64_t number;
    if (!value) return ZOE_OK;
    if (json_is_boolean(value) || !as_int(value, min, max, &number)) {
        char expected[96];
        range_text(expected, sizeof expected, "a whole number", min, max);
        return wrong(config, key, value, expected);
    }
    *out = number;
    return ZOE_OK;
}

int zoe_config_real(const zoe_config *config, const char *key, double *out) {
    const json_t *value = lookup(config, key);
    if (!value) return ZOE_OK;
    if (!json_is_number(value)) return wrong(config, key, value, "a number");
    *out = json_number_value(value);
    return ZOE_OK;
}

int zoe_config_real_in(const zoe_config *config, const char *key, double min, double max, double *out) {
    double number = *out;
    char expected[80];
    ZOE_TRY(zoe_config_real(config, key, &number));
    if (zoe_config_has(config, key) && !(number >= min && number <= max)) {
        snprintf(expected, sizeof expected, "a number from %g to %g", min, max);
        return wrong(config, key, lookup(config, key), expected);
    }
    *out = number;
    return ZOE_OK;
}

int zoe_config_bool(const zoe_config *config, const char *key, bool *out) {
    const json_t *value = lookup(config, key);
    if (!value) return ZOE_OK;
    if (!json_is_boolean(value)) return wrong(config, key, value, "true or false");
    *out = json_is_true(value);
    return ZOE_OK;
}

int zoe_config_text(const zoe_config *config, const char *key, const char **out) {
    const json_t *value = lookup(config, key);
    if (!value) return ZOE_OK;
    if (!json_is_string(value)) return wrong(config, key, value, "a string");
    *out = json_string_value(value);
    return ZOE_OK;
}

int zoe_config_ints(const zoe_config *config, const char *key, size_t count, int64_t min, int64_t max, int64_t *out) {
    const json_t *value = lookup(config, key);
    if (!value) return ZOE_OK;
    char what[64], expected[160];
    snprintf(what, sizeof what, "an array of %zu whole numbers", count);
    range_text(expected, sizeof expected, what, min, max);
    if (!json_is_array(value) || json_array_size(value) != count) return wrong(config, key, value, expected);
    int64_t ignored;
    for (size_t i = 0; i < count; i++) /* all are checked before the first is stored: a failure changes nothing */
        if (!as_int(json_array_get(value, i), min, max, &ignored)) return wrong(config, key, value, expected);
    for (size_t i = 0; i < count; i++) as_int(json_array_get(value, i), min, max, &out[i]);
    return ZOE_OK;
}

int zoe_config_reals(const zoe_config *config, const char *key, size_t count, double *out) {
    const json_t *value = lookup(config, key);
    if (!value) return ZOE_OK;
    char expected[64];
    snprintf(expected, sizeof expected, "an array of %zu numbers", count);
    if (!json_is_array(value) || json_array_size(value) != count) return wrong(config, key, value, expected);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(value, i);
        if (!json_is_number(item) && !json_is_boolean(item)) return wrong(config, key, value, expected);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(value, i);
        out[i] = json_is_boolean(item) ? json_is_true(item) : json_number_value(item);
    }
    return ZOE_OK;
}

int zoe_config_require(const zoe_config *config, const char *const *keys) {
    zoe_name_list missing = {0};
    for (; *keys; keys++)
        if (!zoe_config_has(config, *keys)) zoe_name_list_add(&missing, *keys);
    if (!missing.count) return ZOE_OK;
    return zoe_fail(config->ctx, ZOE_ERR_FORMAT, "%s: missing: %s", config->path, zoe_name_list_text(&missing));
}

size_t zoe_config_length(const zoe_config *config, const char *key) {
    return json_array_size(lookup(config, key));
}

char *zoe_json_text(zoe_context *ctx, const json_t *value, bool indent) {
    size_t flags = (indent ? JSON_INDENT(2) : JSON_COMPACT) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15);
    size_t size = json_dumpb(value, NULL, 0, flags);
    char *text = size ? zoe_alloc(ctx, size + 1) : NULL;
    if (!text) return NULL;
    json_dumpb(value, text, size, flags);
    text[size] = 0;
    return text;
}
