/*
 * Safetensors: eight bytes with the header's length, a JSON header, then the tensors' bytes without gaps.
 * Everything that a header claims is checked against the file before an entry is made of it.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/checkpoint_parts.h"

#define HEADER_LIMIT ((uint64_t)100000000) /* of the reference implementation */

typedef struct range {
    uint64_t begin, end; /* in the data section */
    const char *name;
} range;

static int compare_ranges(const void *a, const void *b) {
    const range *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static uint64_t read_u64(const uint8_t *p) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | p[i];
    return value;
}

static int parse_header(zoe_context *ctx, const zoe_mapped_file *file, json_t **out, uint64_t *data_start) {
    if (file->size < 10)
        return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s is not a safetensors file: it has only %zu bytes", file->path, file->size);
    uint64_t length = read_u64(file->data);
    if (length > HEADER_LIMIT)
        return zoe_fail(ctx, ZOE_ERR_FORMAT,
                        "%s is not a safetensors file: its header would have %llu bytes; the format allows %llu",
                        file->path, (unsigned long long)length, (unsigned long long)HEADER_LIMIT);
    if (length > file->size - 8)
        return zoe_fail(
            ctx, ZOE_ERR_FORMAT,
            "%s is truncated or not a safetensors file: the header should have %llu bytes, but the file has %zu",
            file->path, (unsigned long long)length, file->size);
    json_error_t error;
    json_t *header = json_loadb((const char *)file->data + 8, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!header)
        return zoe_fail(ctx, json_error_code(&error) == json_error_out_of_memory ? ZOE_ERR_NOMEM : ZOE_ERR_FORMAT,
                        "%s: the header is not valid JSON: %s (byte %d)", file->path, error.text, error.position + 8);
    *out = header;
    if (!json_is_object(header)) return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: the header is not a JSON object", file->path);
    *data_start = 8 + length;
    return ZOE_OK;
}

static int keep_metadata(zoe_context *ctx, zoe_mapped_file *file, json_t *value) {
    if (!json_is_object(value)) return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: \"__metadata__\" is not an object", file->path);
    const char *key;
    json_t *text;
    json_object_foreach(value, key, text) if (!json_is_string(text)) return zoe_fail(ctx, ZOE_ERR_FORMAT,
                                                                                     "%s: metadata \"%s\" is not a string",
                                                                                     file->path, key);
    file->metadata = json_incref(value);
    return ZOE_OK;
}

/* Types that the format has and the engine cannot read. */
static bool is_other_dtype(const char *name) {
    static const char *const others[] = {"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(name, others[i]) == 0) return true;
    return false;
}

static int parse_dtype(zoe_context *ctx, const char *path, const char *name, const json_t *tensor, zoe_dtype *out) {
    const char *text = json_string_value(json_object_get(tensor, "dtype"));
    if (!text) return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: tensor \"%s\" has no dtype", path, name);
    if (zoe_dtype_parse(text, out)) return ZOE_OK;
    if (is_other_dtype(text))
        return zoe_fail(
            ctx, ZOE_ERR_UNSUPPORTED,
            "%s: tensor \"%s\" has the dtype %s, which is not supported; use a checkpoint in BF16, F16, F32 or F8", path,
            name, text);
    return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: tensor \"%s\" has the dtype \"%.32s\", which the format does not know", path,
                    name, text);
}

static int parse_shape(zoe_context *ctx, const char *path, const char *name, const json_t *tensor, int *rank,
                       int64_t *shape) {
    const json_t *array = json_object_get(tensor, "shape");
    if (!json_is_array(array)) return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: tensor \"%s\" has no shape", path, name);
    if (json_array_size(array) > ZOE_MAX_RANK)
        return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED, "%s: tensor \"%s\" has %zu axes; at most %d are supported", path, name,
                        json_array_size(array), ZOE_MAX_RANK);
    *rank = (int)json_array_size(array);
    for (int i = 0; i < *rank; i++) {
        const json_t *value = json_array_get(array, (size_t)i);
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: axis %d of tensor \"%s\" is not a whole number of at least 0", path,
                            i, name);
        shape[i] = json_integer_value(value);
    }
    return ZOE_OK;
}

static int parse_offsets(zoe_context *ctx, const char *path, const char *name, const json_t *tensor, range *out) {
    const json_t *array = json_object_get(tensor, "data_offsets");
    const json_t *begin = json_array_get(array, 0), *end = json_array_get(array, 1);
    if (json_array_size(array) != 2 || !json_is_integer(begin) || !json_is_integer(end) || json_integer_value(begin) < 0 ||
        json_integer_value(end) < json_integer_value(begin))
        return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: the data_offsets of tensor \"%s\" are not [begin, end] with begin <= end",
                        path, name);
    *out = (range){(uint64_t)json_integer_value(begin), (uint64_t)json_integer_value(end), name};
    return ZOE_OK;
}

static int parse_tensor(zoe_checkpoint *ckpt, int number, const char *name, const json_t *tensor, uint64_t data_start,
                        range *place) {
    zoe_context *ctx = ckpt->ctx;
    const zoe_mapped_file *file = &ckpt->files[number];
    zoe_dtype dtype = ZOE_F32;
    int rank = 0;
    int64_t shape[ZOE_MAX_RANK];
    uint64_t bytes, room = file->size - data_start;
    if (!json_is_object(tensor))
        return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: tensor \"%s\" is not an object", file->path, name);
    ZOE_TRY(parse_dtype(ctx, file->path, name, tensor, &dtype));
    ZOE_TRY(parse_shape(ctx, file->path, name, tensor, &rank, shape));
    ZOE_TRY(parse_offsets(ctx, file->path, name, tensor, place));
    char text[160];
    zoe_shape_text(text, sizeof text, rank, shape);
    if (!zoe_checkpoint_bytes(dtype, rank, shape, &bytes))
        return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: tensor \"%s\" of shape %s is too large for any file", file->path, name,
                        text);
    if (bytes != place->end - place->begin)
        return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: tensor \"%s\", %s %s, needs %llu bytes, but its data_offsets span %llu",
                        file->path, name, zoe_dtype_name(dtype), text, (unsigned long long)bytes,
                        (unsigned long long)(place->end - place->begin));
    if (place->end > room)
        return zoe_fail(ctx, ZOE_ERR_FORMAT,
                        "%s is truncated: tensor \"%s\" ends at byte %llu, but the file has %zu bytes; fetch it again",
                        file->path, name, (unsigned long long)(data_start + place->end), file->size);
    return zoe_checkpoint_append(ckpt, number, name, dtype, rank, shape, data_start + place->begin, bytes);
}

/* The format allows neither overlaps nor gaps nor bytes after the last tensor. */
static int check_ranges(zoe_context *ctx, const zoe_mapped_file *file, range *ranges, size_t count, uint64_t data_start) {
    if (count) qsort(ranges, count, sizeof *ranges, compare_ranges);
    uint64_t end = 0;
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].begin < end)
            return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: the data of tensors \"%s\" and \"%s\" overlap", file->path,
                            ranges[i - 1].name, ranges[i].name);
        if (ranges[i].begin > end)
            return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: %llu bytes in front of tensor \"%s\" belong to no tensor", file->path,
                            (unsigned long long)(ranges[i].begin - end), ranges[i].name);
        end = ranges[i].end;
    }
    if (data_start + end != file->size)
        return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s is too long: its tensors end at byte %llu, but the file has %zu bytes",
                        file->path, (unsigned long long)(data_start + end), file->size);
    return ZOE_OK;
}

/* Misaligned tensors are legal, and slower: the loader has to copy them byte by byte. */
static void note_alignment(zoe_checkpoint *ckpt, const char *path, size_t first) {
    size_t misaligned = 0;
    for (size_t i = first; i < ckpt->count; i++)
        if (ckpt->entries[i].offset % zoe_dtype_size(ckpt->entries[i].dtype)) misaligned++;
    if (misaligned)
        zoe_log(ckpt->ctx, ZOE_LOG_DEBUG, "%s: %zu tensors do not lie on multiples of their element size", path,
                misaligned);
}

int zoe_safetensors_read(zoe_checkpoint *ckpt, int number) {
    zoe_context *ctx = ckpt->ctx;
    zoe_mapped_file *file = &ckpt->files[number];
    json_t *header = NULL;
    range *ranges = NULL;
    size_t count = 0, first = ckpt->count;
    uint64_t data_start = 0;
    int status = parse_header(ctx, file, &header, &data_start);
    if (status < 0) goto done;
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, ranges, json_object_size(header)));
    const char *name;
    json_t *value;
    json_object_foreach(header, name, value) {
        if (strcmp(name, "__metadata__") == 0)
            ZOE_TRY_DONE(keep_metadata(ctx, file, value));
        else
            ZOE_TRY_DONE(parse_tensor(ckpt, number, name, value, data_start, &ranges[count++]));
    }
    ZOE_TRY_DONE(check_ranges(ctx, file, ranges, count, data_start));
    note_alignment(ckpt, file->path, first);
done:
    zoe_free(ctx, ranges);
    json_decref(header);
    return status;
}
