/* zoe_inspect(): what a model folder, weight file or video holds. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/checkpoint.h"
#include "media/media.h"
#include "pipeline/model.h"
#include "pipeline/report.h"

static bool is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static bool is_file(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

static bool ends_in(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

/* ---- weights ---- */

/* Names and sizes of a checkpoint's files, counted from its folder. */
static int list_files(zoe_context *ctx, const zoe_checkpoint *ckpt, json_t *files) {
    for (int i = 0; i < zoe_checkpoint_files(ckpt); i++) {
        const char *path = zoe_checkpoint_path(ckpt, i), *slash = strrchr(path, '/');
        struct stat info;
        if (stat(path, &info) != 0) return zoe_fail(ctx, ZOE_ERR_IO, "%s: %s", path, strerror(errno));
        json_t *file = json_object();
        ZOE_TRY(zoe_report_append(ctx, files, file));
        ZOE_TRY(zoe_report_set(ctx, file, "name", zoe_report_path(slash ? slash + 1 : path)));
        ZOE_TRY(zoe_report_set(ctx, file, "bytes", json_integer((json_int_t)info.st_size)));
    }
    return ZOE_OK;
}

static int64_t elements(const zoe_entry *entry) {
    int64_t count = 1;
    for (int i = 0; i < entry->rank; i++) count *= entry->shape[i];
    return count;
}

/* Adds counts of tensors, parameters and bytes, and how many tensors there are of each dtype. */
static int summarise(zoe_context *ctx, const zoe_checkpoint *ckpt, json_t *report) {
    int64_t parameters = 0, bytes = 0, of_dtype[ZOE_DTYPE_COUNT] = {0};
    size_t count = zoe_checkpoint_count(ckpt);
    const char *linear = zoe_checkpoint_metadata(ckpt, "zoe.linear"); /* two weights of four bits are one byte */
    for (size_t i = 0; i < count; i++) {
        const zoe_entry *entry = zoe_checkpoint_at(ckpt, i);
        if (!ends_in(entry->name, "_scale")) parameters += elements(entry) * (linear && entry->dtype == ZOE_U8 ? 2 : 1);
        bytes += (int64_t)entry->bytes;
        of_dtype[entry->dtype]++;
    }
    json_t *files = json_array(), *dtypes = json_object();
    ZOE_TRY(zoe_report_set(ctx, report, "files", files));
    ZOE_TRY(zoe_report_set(ctx, report, "dtypes", dtypes));
    ZOE_TRY(zoe_report_set(ctx, report, "tensor_count", json_integer((json_int_t)count)));
    ZOE_TRY(zoe_report_set(ctx, report, "parameters", json_integer(parameters)));
    ZOE_TRY(zoe_report_set(ctx, report, "bytes", json_integer(bytes)));
    for (int i = 0; i < ZOE_DTYPE_COUNT; i++)
        if (of_dtype[i]) ZOE_TRY(zoe_report_set(ctx, dtypes, zoe_dtype_name((zoe_dtype)i), json_integer(of_dtype[i])));
    if (linear) ZOE_TRY(zoe_report_set(ctx, report, "linear", json_string(linear)));
    return list_files(ctx, ckpt, files);
}

static int list_tensors(zoe_context *ctx, const zoe_checkpoint *ckpt, json_t *tensors) {
    for (size_t i = 0; i < zoe_checkpoint_count(ckpt); i++) {
        const zoe_entry *entry = zoe_checkpoint_at(ckpt, i);
        json_t *tensor = json_object(), *shape = json_array();
        ZOE_TRY(zoe_report_append(ctx, tensors, tensor));
        ZOE_TRY(zoe_report_set(ctx, tensor, "shape", shape));
        ZOE_TRY(zoe_report_set(ctx, tensor, "name", json_string(entry->name)));
        ZOE_TRY(zoe_report_set(ctx, tensor, "dtype", json_string(zoe_dtype_name(entry->dtype))));
        for (int axis = 0; axis < entry->rank; axis++)
            ZOE_TRY(zoe_report_append(ctx, shape, json_integer(entry->shape[axis])));
    }
    return ZOE_OK;
}

static int list_metadata(zoe_context *ctx, const zoe_checkpoint *ckpt, json_t *metadata) {
    const char *key, *value;
    for (size_t i = 0; zoe_checkpoint_metadata_at(ckpt, i, &key, &value); i++)
        ZOE_TRY(zoe_report_set(ctx, metadata, key, json_string(value)));
    return ZOE_OK;
}

static int inspect_weights(zoe_context *ctx, const char *path, json_t *report) {
    zoe_checkpoint *ckpt = NULL;
    json_t *tensors = json_array(), *metadata = json_object();
    ZOE_TRY(zoe_report_set(ctx, report, "kind", json_string("weights")));
    ZOE_TRY(zoe_report_set(ctx, report, "metadata", metadata));
    ZOE_TRY(zoe_report_set(ctx, report, "tensors", tensors));
    ZOE_TRY(zoe_checkpoint_open(ctx, path, &ckpt));
    int status = summarise(ctx, ckpt, report);
    if (status == ZOE_OK) status = list_metadata(ctx, ckpt, metadata);
    if (status == ZOE_OK) status = list_tensors(ctx, ckpt, tensors);
    zoe_checkpoint_close(ckpt);
    return status;
}

/* ---- models ---- */

/* A part that is a network has weights; what is wrong with them is part of the report. */
static int inspect_network(zoe_context *ctx, const char *folder, json_t *part) {
    zoe_checkpoint *ckpt = NULL;
    int status = zoe_checkpoint_open(ctx, folder, &ckpt);
    if (status == ZOE_ERR_NOMEM) return status;
    if (status < 0) return zoe_report_set(ctx, part, "error", zoe_report_path(zoe_context_error(ctx)));
    status = summarise(ctx, ckpt, part);
    zoe_checkpoint_close(ckpt);
    return status;
}

/* A row of model_index.json, "name": [library, class]; null for a part that this model does not have. */
static int inspect_part(zoe_context *ctx, const char *dir, const char *name, const json_t *row, json_t *parts) {
    const json_t *class_name = json_array_get(row, 1);
    if (!json_is_string(class_name)) return ZOE_OK;
    json_t *part = json_object();
    ZOE_TRY(zoe_report_append(ctx, parts, part));
    ZOE_TRY(zoe_report_set(ctx, part, "name", json_string(name)));
    ZOE_TRY(zoe_report_set(ctx, part, "class", json_string(json_string_value(class_name))));
    char *folder = zoe_format(ctx, "%s/%s", dir, name), *config = zoe_format(ctx, "%s/%s/config.json", dir, name);
    int status = folder && config ? ZOE_OK : zoe_out_of_memory(ctx, strlen(dir), "path");
    if (status == ZOE_OK && !is_folder(folder)) {
        status = zoe_report_set(ctx, part, "error", json_string("the folder is missing"));
    } else if (status == ZOE_OK && is_file(config)) { /* schedulers and tokenizers have theirs under other names */
        status = inspect_network(ctx, folder, part);
    }
    zoe_free(ctx, folder);
    zoe_free(ctx, config);
    return status;
}

static int inspect_index(zoe_context *ctx, const char *dir, const zoe_config *index, json_t *report, json_t *parts) {
    const char *pipeline = NULL, *name;
    json_t *row;
    ZOE_TRY(zoe_config_text(index, "_class_name", &pipeline));
    if (pipeline) ZOE_TRY(zoe_report_set(ctx, report, "pipeline", json_string(pipeline)));
    json_object_foreach(index->root, name, row) {
        if (json_is_array(row) && json_array_size(row) == 2) ZOE_TRY(inspect_part(ctx, dir, name, row, parts));
    }
    return ZOE_OK;
}

/* A folder without an index: its own checkpoint, and every archive in it. */
static int inspect_file(zoe_context *ctx, const char *dir, const char *name, json_t *parts) {
    json_t *part = json_object();
    ZOE_TRY(zoe_report_append(ctx, parts, part));
    ZOE_TRY(zoe_report_set(ctx, part, "name", zoe_report_path(name)));
    char *path = zoe_format(ctx, "%s/%s", dir, name);
    if (!path) return zoe_out_of_memory(ctx, strlen(dir), "path");
    int status = inspect_network(ctx, path, part);
    zoe_free(ctx, path);
    return status;
}

static int inspect_files(zoe_context *ctx, const char *dir, json_t *parts) {
    struct dirent **entries = NULL;
    int count = scandir(dir, &entries, NULL, alphasort);
    if (count < 0) return zoe_fail(ctx, ZOE_ERR_IO, "%s: %s", dir, strerror(errno));
    int status = ZOE_OK;
    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        bool checkpoint = ends_in(name, ".pth") || ends_in(name, ".index.json") || strcmp(name, "model.safetensors") == 0 ||
                          strcmp(name, "diffusion_pytorch_model.safetensors") == 0;
        if (checkpoint && status == ZOE_OK) status = inspect_file(ctx, dir, name, parts);
        free(entries[i]);
    }
    free(entries);
    return status;
}

/* What the family says of the folder, or why it would not open: missing tensors and wrong shapes are listed there. */
static int inspect_family(zoe_context *ctx, const zoe_folder *folder, json_t *report) {
    const zoe_family *family;
    zoe_backend *be = NULL;
    zoe_linear_policy native;
    void *model = NULL;
    zoe_description text;
    int status = zoe_family_find(folder, &family);
    if (status == ZOE_OK) status = zoe_plan_backend_create(ctx, ZOE_F32, false, &be);
    if (status == ZOE_OK) status = zoe_linear_policy_find(ctx, NULL, &native);
    if (status == ZOE_OK) status = family->open(be, folder, &native, &model);
    if (status == ZOE_OK) {
        family->describe(model, &text);
        status = zoe_report_set(ctx, report, "family", json_string(text.family));
        if (status == ZOE_OK) status = zoe_report_set(ctx, report, "variant", json_string(text.variant));
        if (status == ZOE_OK) status = zoe_report_set(ctx, report, "sizes", json_string(text.sizes));
        family->close(model);
    } else if (status != ZOE_ERR_NOMEM) {
        status = zoe_report_set(ctx, report, "error", zoe_report_path(zoe_context_error(ctx)));
    }
    zoe_backend_close(be);
    return status;
}

static int inspect_model(zoe_context *ctx, const zoe_folder *folder, json_t *report) {
    json_t *parts = json_array();
    const char *slash = folder->file ? strrchr(folder->file, '/') : NULL, *name = slash ? slash + 1 : folder->file;
    ZOE_TRY(zoe_report_set(ctx, report, "kind", json_string("model")));
    ZOE_TRY(zoe_report_set(ctx, report, "parts", parts));
    ZOE_TRY(folder->index.root ? inspect_index(ctx, folder->path, &folder->index, report, parts)
            : folder->file     ? inspect_file(ctx, folder->path, name, parts)
                               : inspect_files(ctx, folder->path, parts));
    return inspect_family(ctx, folder, report);
}

/* A folder is a model if it has an index, or, as a file, if a family knows what is in it; else it may hold weights. */
static int inspect_folder(zoe_context *ctx, const char *path, json_t *report) {
    zoe_folder folder;
    const zoe_family *family;
    int status = zoe_folder_open(ctx, path, NULL, &folder);
    if (status == ZOE_OK)
        status = folder.index.root || zoe_family_find(&folder, &family) == ZOE_OK ? inspect_model(ctx, &folder, report)
                                                                                  : inspect_weights(ctx, path, report);
    zoe_folder_close(&folder);
    return status;
}

/* ---- videos ---- */

static int inspect_video(zoe_context *ctx, const char *path, json_t *report) {
    zoe_video_info info;
    char *stored = NULL;
    ZOE_TRY(zoe_video_probe(ctx, path, &info));
    ZOE_TRY(zoe_video_metadata(ctx, path, &stored));
    /* Other programs store other things in the same place; only an object can be a request. */
    json_t *request = stored ? json_loads(stored, 0, NULL) : NULL;
    zoe_free(ctx, stored);
    if (!json_is_object(request)) {
        json_decref(request);
        request = json_null();
    }
    ZOE_TRY(zoe_report_set(ctx, report, "request", request));
    ZOE_TRY(zoe_report_set(ctx, report, "kind", json_string("video")));
    ZOE_TRY(zoe_report_set(ctx, report, "width", json_integer(info.width)));
    ZOE_TRY(zoe_report_set(ctx, report, "height", json_integer(info.height)));
    ZOE_TRY(zoe_report_set(ctx, report, "frames", json_integer(info.frames)));
    ZOE_TRY(zoe_report_set(ctx, report, "fps", json_real(info.fps)));
    ZOE_TRY(zoe_report_set(ctx, report, "seconds", json_real(info.seconds)));
    return zoe_report_set(ctx, report, "codec", json_string(info.codec));
}

static bool is_checkpoint(const char *path) {
    static const char *const endings[] = {".safetensors", ".json", ".pth", ".pt", ".bin"};
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++)
        if (ends_in(path, endings[i])) return true;
    return false;
}

static int inspect(zoe_context *ctx, const char *path, json_t *report) {
    struct stat info;
    if (stat(path, &info) != 0) return zoe_fail(ctx, ZOE_ERR_IO, "%s: %s", path, strerror(errno));
    ZOE_TRY(zoe_report_set(ctx, report, "path", zoe_report_path(path)));
    if (S_ISDIR(info.st_mode) || ends_in(path, ".safetensors")) return inspect_folder(ctx, path, report);
    return is_checkpoint(path) ? inspect_weights(ctx, path, report) : inspect_video(ctx, path, report);
}

int zoe_inspect(zoe_context *ctx, const char *path, char **json) {
    json_t *report = json_object();
    return zoe_report_finish(ctx, inspect(ctx, path, report), report, json);
}
