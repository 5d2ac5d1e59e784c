/*
 * Writing safetensors as tensors come. Pieces of data go one after another into a scratch file without a name; the header
 * needs every tensor's final size, so the file proper is put together at the end, tensor by tensor.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/checkpoint_parts.h"
#include "formats/file.h"
#include "formats/json.h"

typedef struct piece {
    uint64_t offset, bytes; /* in the scratch file */
} piece;

typedef struct output {
    char *name;
    zoe_dtype dtype;
    int rank;
    int64_t shape[ZOE_MAX_RANK];
    bool rows; /* grows by zoe_safetensors_add_row() */
    uint64_t bytes;
    piece *pieces;
    size_t piece_count, piece_capacity;
} output;

struct zoe_safetensors_writer {
    zoe_context *ctx;
    char *path, *temporary;
    int scratch, file; /* descriptors, -1 where none */
    uint64_t scratch_bytes;
    json_t *metadata; /* or NULL */
    bool broken;      /* a piece is missing in the scratch file */
    output *outputs;
    size_t count, capacity;
};

static int write_all(zoe_safetensors_writer *writer, int fd, const void *data, size_t bytes) {
    const char *p = data;
    while (bytes) {
        ssize_t done = write(fd, p, bytes);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return zoe_fail(writer->ctx, ZOE_ERR_IO, "cannot write %s: %m", writer->path);
        p += done;
        bytes -= (size_t)done;
    }
    return ZOE_OK;
}

int zoe_safetensors_create(zoe_context *ctx, const char *path, zoe_safetensors_writer **out) {
    *out = NULL;
    zoe_safetensors_writer *writer;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, writer, 1));
    *writer = (zoe_safetensors_writer){.ctx = ctx, .scratch = -1, .file = -1};
    char *scratch = NULL;
    int status = ZOE_OK;
    writer->path = zoe_strdup(ctx, path);
    if (!writer->path) {
        status = zoe_out_of_memory(ctx, strlen(path) + 1, "path");
        goto done;
    }
    ZOE_TRY_DONE(zoe_file_beside(ctx, path, &scratch, &writer->scratch));
    unlink(scratch); /* it goes with its descriptor, however this process ends */
    zoe_free(ctx, scratch);
    *out = writer;
    return ZOE_OK;
done:
    zoe_safetensors_abort(writer);
    return status;
}

static output *find_output(zoe_safetensors_writer *writer, const char *name) {
    for (size_t i = 0; i < writer->count; i++)
        if (strcmp(writer->outputs[i].name, name) == 0) return &writer->outputs[i];
    return NULL;
}

static int new_output(zoe_safetensors_writer *writer, const char *name, output **out) {
    zoe_context *ctx = writer->ctx;
    if (writer->count == writer->capacity) {
        size_t capacity = writer->capacity ? 2 * writer->capacity : 16;
        output *outputs = zoe_realloc(ctx, writer->outputs, capacity * sizeof *outputs);
        if (!outputs) return zoe_out_of_memory(ctx, capacity * sizeof *outputs, "list of tensors");
        writer->outputs = outputs;
        writer->capacity = capacity;
    }
    output *fresh = &writer->outputs[writer->count];
    memset(fresh, 0, sizeof *fresh);
    fresh->name = zoe_strdup(ctx, name);
    if (!fresh->name) return zoe_out_of_memory(ctx, strlen(name) + 1, "tensor name");
    writer->count++;
    *out = fresh;
    return ZOE_OK;
}

static int add_piece(zoe_safetensors_writer *writer, output *target, uint64_t bytes, const void *data) {
    zoe_context *ctx = writer->ctx;
    uint64_t offset = writer->scratch_bytes;
    if (writer->broken) return zoe_fail(ctx, ZOE_ERR_IO, "%s is given up: writing its data failed before", writer->path);
    writer->broken = true; /* until the piece is complete */
    piece *last = target->piece_count ? &target->pieces[target->piece_count - 1] : NULL;
    bool joins = last && last->offset + last->bytes == offset;
    if (!joins && target->piece_count == target->piece_capacity) {
        size_t capacity = target->piece_capacity ? 2 * target->piece_capacity : 4;
        piece *pieces = zoe_realloc(ctx, target->pieces, capacity * sizeof *pieces);
        if (!pieces) return zoe_out_of_memory(ctx, capacity * sizeof *pieces, "list of rows");
        target->pieces = pieces;
        target->piece_capacity = capacity;
    }
    ZOE_TRY(write_all(writer, writer->scratch, data, (size_t)bytes));
    if (joins)
        last->bytes += bytes;
    else
        target->pieces[target->piece_count++] = (piece){offset, bytes};
    writer->scratch_bytes += bytes;
    target->bytes += bytes;
    writer->broken = false;
    return ZOE_OK;
}

static int check_shape(zoe_context *ctx, const char *name, zoe_dtype dtype, int rank, int max_rank, const int64_t *shape,
                       uint64_t *bytes) {
    if (rank < 0 || rank > max_rank)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "tensor \"%s\" has %d axes; at most %d can be written", name, rank,
                        max_rank);
    for (int i = 0; i < rank; i++)
        if (shape[i] < 0) return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "axis %d of tensor \"%s\" is negative", i, name);
    if (!zoe_checkpoint_bytes(dtype, rank, shape, bytes))
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "tensor \"%s\" is too large for any file", name);
    return ZOE_OK;
}

int zoe_safetensors_add(zoe_safetensors_writer *writer, const char *name, zoe_dtype dtype, int rank, const int64_t *shape,
                        const void *data) {
    uint64_t bytes;
    output *target;
    ZOE_TRY(check_shape(writer->ctx, name, dtype, rank, ZOE_MAX_RANK, shape, &bytes));
    if (find_output(writer, name) || strcmp(name, "__metadata__") == 0)
        return zoe_fail(writer->ctx, ZOE_ERR_ARGUMENT, "tensor name \"%s\" is already taken", name);
    ZOE_TRY(new_output(writer, name, &target));
    target->dtype = dtype;
    target->rank = rank;
    for (int i = 0; i < rank; i++) target->shape[i] = shape[i];
    return add_piece(writer, target, bytes, data);
}

int zoe_safetensors_note(zoe_safetensors_writer *writer, const char *key, const char *value) {
    if (!writer->metadata) writer->metadata = json_object();
    if (json_object_set_new(writer->metadata, key, json_string(value)) == 0) return ZOE_OK;
    return zoe_fail(writer->ctx, ZOE_ERR_NOMEM, "cannot note \"%s\": out of memory, or the text is not UTF-8", key);
}

int zoe_safetensors_add_row(zoe_safetensors_writer *writer, const char *name, zoe_dtype dtype, int rank,
                            const int64_t *row_shape, const void *data) {
    zoe_context *ctx = writer->ctx;
    uint64_t bytes;
    ZOE_TRY(check_shape(ctx, name, dtype, rank, ZOE_MAX_RANK - 1, row_shape, &bytes));
    output *target = find_output(writer, name);
    if (!target) {
        ZOE_TRY(new_output(writer, name, &target));
        target->dtype = dtype;
        target->rank = rank + 1;
        target->rows = true;
        for (int i = 0; i < rank; i++) target->shape[i + 1] = row_shape[i];
    }
    bool fits = target->rows && target->dtype == dtype && target->rank == rank + 1;
    for (int i = 0; fits && i < rank; i++) fits = target->shape[i + 1] == row_shape[i];
    if (!fits) {
        char rows[160], row[160];
        zoe_shape_text(rows, sizeof rows, target->rank, target->shape);
        zoe_shape_text(row, sizeof row, rank, row_shape);
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "a row %s %s does not fit tensor \"%s\", %s %s", zoe_dtype_name(dtype), row,
                        name, zoe_dtype_name(target->dtype), rows);
    }
    ZOE_TRY(add_piece(writer, target, bytes, data));
    target->shape[0]++;
    return ZOE_OK;
}

/* ---- putting the file together ---- */

static int compare_outputs(const void *a, const void *b) {
    const output *x = a, *y = b;
    size_t x_size = zoe_dtype_size(x->dtype), y_size = zoe_dtype_size(y->dtype);
    if (x_size != y_size) return x_size > y_size ? -1 : 1; /* widest first: then every tensor is aligned */
    return strcmp(x->name, y->name);
}

static json_t *describe(const output *target, uint64_t begin) {
    json_t *shape = json_array();
    for (int i = 0; i < target->rank; i++) json_array_append_new(shape, json_integer(target->shape[i]));
    json_t *tensor = json_pack("{s:s, s:o, s:[I, I]}", "dtype", zoe_dtype_name(target->dtype), "shape", shape,
                               "data_offsets", (json_int_t)begin, (json_int_t)(begin + target->bytes));
    /* A lost axis would be a wrong file: appending tells by the length. */
    if (tensor && json_array_size(shape) != (size_t)target->rank) {
        json_decref(tensor);
        return NULL;
    }
    return tensor;
}

static int write_header(zoe_safetensors_writer *writer) {
    json_t *header = json_object();
    char *text = NULL;
    int status = ZOE_OK;
    uint64_t begin = 0;
    if (writer->metadata && json_object_set(header, "__metadata__", writer->metadata) != 0) {
        status = zoe_out_of_memory(writer->ctx, 64, "metadata");
        goto done;
    }
    for (size_t i = 0; i < writer->count; i++) {
        if (json_object_set_new(header, writer->outputs[i].name, describe(&writer->outputs[i], begin)) != 0) {
            status =
                zoe_fail(writer->ctx, ZOE_ERR_NOMEM,
                         "cannot describe tensor \"%s\": out of memory, or its name is not UTF-8", writer->outputs[i].name);
            goto done;
        }
        begin += writer->outputs[i].bytes;
    }
    text = zoe_json_text(writer->ctx, header, false);
    if (!text) {
        status = zoe_out_of_memory(writer->ctx, 128 * writer->count, "header");
        goto done;
    }
    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (uint8_t)((uint64_t)padded >> 8 * i);
    ZOE_TRY_DONE(write_all(writer, writer->file, prefix, sizeof prefix));
    ZOE_TRY_DONE(write_all(writer, writer->file, text, length));
    ZOE_TRY_DONE(write_all(writer, writer->file, "       ", padded - length));
done:
    zoe_free(writer->ctx, text);
    json_decref(header);
    return status;
}

static int copy_pieces(zoe_safetensors_writer *writer, const output *target, char *buffer, size_t size) {
    for (size_t i = 0; i < target->piece_count; i++) {
        uint64_t offset = target->pieces[i].offset, left = target->pieces[i].bytes;
        while (left) {
            ssize_t got = pread(writer->scratch, buffer, left < size ? (size_t)left : size, (off_t)offset);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) return zoe_fail(writer->ctx, ZOE_ERR_IO, "cannot read back the data for %s: %m", writer->path);
            ZOE_TRY(write_all(writer, writer->file, buffer, (size_t)got));
            offset += (uint64_t)got;
            left -= (uint64_t)got;
        }
    }
    return ZOE_OK;
}

static int assemble(zoe_safetensors_writer *writer) {
    zoe_context *ctx = writer->ctx;
    const size_t size = (size_t)1 << 20;
    char *buffer = zoe_alloc(ctx, size);
    if (!buffer) return zoe_out_of_memory(ctx, size, "copy buffer");
    int status = zoe_file_beside(ctx, writer->path, &writer->temporary, &writer->file);
    if (status < 0) goto done;
    if (writer->count) qsort(writer->outputs, writer->count, sizeof *writer->outputs, compare_outputs);
    ZOE_TRY_DONE(write_header(writer));
    for (size_t i = 0; i < writer->count; i++) ZOE_TRY_DONE(copy_pieces(writer, &writer->outputs[i], buffer, size));
    int fd = writer->file;
    writer->file = -1;
    if (close(fd) != 0 || rename(writer->temporary, writer->path) != 0) {
        status = zoe_fail(ctx, ZOE_ERR_IO, "cannot write %s: %m", writer->path);
        goto done;
    }
    zoe_free(ctx, writer->temporary);
    writer->temporary = NULL;
done:
    zoe_free(ctx, buffer);
    return status;
}

int zoe_safetensors_finish(zoe_safetensors_writer *writer) {
    int status = writer->broken
                     ? zoe_fail(writer->ctx, ZOE_ERR_IO, "%s is given up: writing its data failed before", writer->path)
                     : assemble(writer);
    zoe_safetensors_abort(writer);
    return status;
}

void zoe_safetensors_abort(zoe_safetensors_writer *writer) {
    if (!writer) return;
    zoe_context *ctx = writer->ctx;
    if (writer->scratch >= 0) close(writer->scratch);
    if (writer->file >= 0) close(writer->file);
    if (writer->temporary) unlink(writer->temporary);
    for (size_t i = 0; i < writer->count; i++) {
        zoe_free(ctx, writer->outputs[i].name);
        zoe_free(ctx, writer->outputs[i].pieces);
    }
    zoe_free(ctx, writer->outputs);
    json_decref(writer->metadata);
    zoe_free(ctx, writer->temporary);
    zoe_free(ctx, writer->path);
    zoe_free(ctx, writer);
}
