/*
 * zoe_quantize(): a model folder written anew with quantised linear weights, one matrix after the other. It is put together
 * under another name beside the one asked for, which stays empty until all is there: however this ends, half a model is
 * not taken for a whole one.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pipeline/model.h"
#include "pipeline/report.h"
#include "weights/convert.h"
#include "weights/quantise.h"

#define ENDING ".safetensors"
#define PART   16 /* rows that a thread takes at a time */

typedef struct job {
    zoe_context *ctx;
    const char *dir, *target, *linear;
    char *out; /* where it is put together */
    json_t *matrices, *parts;
    const zoe_checkpoint *written[16]; /* checkpoints that have been quantised */
    int written_count;
    void (*progress)(void *user, int64_t bytes, int64_t of);
    void *user;
    int64_t done, total; /* bytes of the files that are written anew */
} job;

static bool ends_in(const char *text, const char *ending) {
    size_t length = strlen(text), tail = strlen(ending);
    return length >= tail && strcmp(text + length - tail, ending) == 0;
}

/* ---- one matrix ---- */

/* Adds NAME, NAME_scale and, for nvfp4, NAME_global_scale. */
static int write_matrix(job *j, zoe_safetensors_writer *writer, const char *name, const zoe_tensor *q) {
    int64_t out = q->shape[0], in = q->shape[1], groups = q->group ? in / q->group : 0;
    bool bytes = zoe_dtype_bits(q->dtype) == 4;
    zoe_dtype scale = q->dtype == ZOE_I4 ? ZOE_F16 : q->dtype == ZOE_F4_E2M1 ? ZOE_F8_E4M3 : ZOE_F32;
    char *scales = zoe_format(j->ctx, "%s_scale", name), *global = zoe_format(j->ctx, "%s_global_scale", name);
    int status = scales && global ? ZOE_OK : zoe_out_of_memory(j->ctx, strlen(name), "name");
    if (status == ZOE_OK)
        status = zoe_safetensors_add(writer, name, bytes ? ZOE_U8 : q->dtype, 2,
                                     (const int64_t[]){out, bytes ? in / 2 : in}, q->data);
    if (status == ZOE_OK)
        status = zoe_safetensors_add(writer, scales, scale, groups ? 2 : 1, (const int64_t[]){out, groups}, q->scales);
    if (status == ZOE_OK && q->dtype == ZOE_F4_E2M1)
        status = zoe_safetensors_add(writer, global, ZOE_F32, 1, (const int64_t[]){1}, zoe_quantised_global(q));
    zoe_free(j->ctx, scales);
    zoe_free(j->ctx, global);
    return status;
}

/* Some rows of a matrix, and what they lost: sums of squares. */
typedef struct rows {
    double all, lost;
    uint32_t largest; /* magnitude */
    bool finite;
} rows;

static void add_squares(rows *sums, const float *given, const float *back, int64_t count) {
    enum { LANES = 8 };
    double all[LANES] = {0}, lost[LANES] = {0};
    for (int64_t i = 0; i < count; i += LANES) /* a multiple of 16 */
        for (int k = 0; k < LANES; k++) {
            double x = (double)given[i + k], d = (double)back[i + k] - x;
            lost[k] += d * d;
            all[k] += x * x;
        }
    for (int k = 0; k < LANES; k++) sums->all += all[k], sums->lost += lost[k];
}

static rows quantise_rows(const zoe_entry *entry, zoe_tensor *q, int64_t row, int64_t count, float *given, float *back) {
    int64_t width = entry->shape[1];
    const char *from = (const char *)entry->data + (size_t)(row * width) * zoe_dtype_size(entry->dtype);
    rows sums = {.finite = zoe_load_finite(given, from, entry->dtype, count * width)};
    sums.largest = zoe_quantise_rows(q, from, entry->dtype, row, count);
    zoe_dequantise_rows(q, back, row, count);
    add_squares(&sums, given, back, count * width);
    return sums;
}

/* All of them, by all threads, into `part`; the sums are added up in the order of the rows. */
static void quantise_parts(const zoe_entry *entry, zoe_tensor *q, rows *part, float *scratch, rows *sums) {
    int64_t width = entry->shape[1], all = entry->shape[0], parts = (all + PART - 1) / PART;
    *sums = (rows){.finite = true};
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < parts; i++) {
        float *mine = scratch + (int64_t)omp_get_thread_num() * 2 * PART * width;
        part[i] =
            quantise_rows(entry, q, i * PART, (i + 1) * PART < all ? PART : all - i * PART, mine, mine + PART * width);
    }
    for (int64_t i = 0; i < parts; i++) {
        sums->all += part[i].all;
        sums->lost += part[i].lost;
        sums->finite = sums->finite && part[i].finite;
        if (part[i].largest > sums->largest) sums->largest = part[i].largest;
    }
}

static int quantise_matrix(job *j, const zoe_entry *entry, zoe_tensor *q, rows *sums) {
    int64_t width = entry->shape[1], parts = (entry->shape[0] + PART - 1) / PART;
    rows *part;
    float *scratch; /* [threads, 2, PART, width] */
    ZOE_TRY(ZOE_NEW_ARRAY(j->ctx, part, parts));
    int status = ZOE_NEW_ARRAY(j->ctx, scratch, (int64_t)omp_get_max_threads() * 2 * PART * width);
    if (status == ZOE_OK) {
        zoe_quantised_begin(q);
        do quantise_parts(entry, q, part, scratch, sums);
        while (zoe_quantised_again(q, sums->largest));
        zoe_free(j->ctx, scratch);
    }
    zoe_free(j->ctx, part);
    return status;
}

static int add_matrix(job *j, zoe_safetensors_writer *writer, const char *part, const zoe_entry *entry,
                      const zoe_tensor *form) {
    int64_t out = entry->shape[0], in = entry->shape[1];
    size_t bytes = (size_t)zoe_quantised_bytes(form->dtype, out, in, form->group);
    void *memory = zoe_alloc(j->ctx, bytes);
    rows sums = {0};
    if (!memory) return zoe_out_of_memory(j->ctx, bytes, entry->name);
    zoe_tensor q = zoe_quantised_of(memory, form->dtype, out, in, form->group);
    int status = quantise_matrix(j, entry, &q, &sums);
    if (status == ZOE_OK && !sums.finite)
        status =
            zoe_fail(j->ctx, ZOE_ERR_NUMERIC, "%s: tensor %s holds NaN or infinity at element %lld; the file is damaged",
                     part, entry->name, (long long)zoe_first_nonfinite(entry->data, entry->dtype, out * in));
    if (status == ZOE_OK) status = write_matrix(j, writer, entry->name, &q);
    zoe_free(j->ctx, memory);
    ZOE_TRY(status);
    json_t *row = json_object();
    ZOE_TRY(zoe_report_append(j->ctx, j->matrices, row));
    ZOE_TRY(zoe_report_set(j->ctx, row, "part", json_string(part)));
    ZOE_TRY(zoe_report_set(j->ctx, row, "name", json_string(entry->name)));
    ZOE_TRY(zoe_report_set(j->ctx, row, "outputs", json_integer(out)));
    ZOE_TRY(zoe_report_set(j->ctx, row, "inputs", json_integer(in)));
    return zoe_report_set(j->ctx, row, "error", json_real(sums.all > 0 ? sqrt(sums.lost / sums.all) : 0));
}

/* ---- one checkpoint ---- */

/* What becomes of each entry: the form of its slots if all of them are quantised, else none (rank 0). */
static void choose(const zoe_weights *weights, const zoe_checkpoint *ckpt, zoe_tensor *forms) {
    const zoe_entry *entry, *first = zoe_checkpoint_at(ckpt, 0);
    zoe_tensor form;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; zoe_weights_source(weights, i, &entry, &form); i++) {
            bool fits = zoe_is_quantised(&form) && entry->rank == 2;
            if (pass == 0 && fits) forms[entry - first] = form;
            if (pass == 1 && !fits) forms[entry - first].rank = 0;
        }
}

/* transformer/diffusion_pytorch_model-00001-of-00002.safetensors becomes transformer/diffusion_pytorch_model.safetensors.
 */
static char *target_path(job *j, const zoe_checkpoint *ckpt) {
    const char *path = zoe_checkpoint_path(ckpt, 0) + strlen(j->dir), *shard = strstr(path, "-00001-of-");
    int length = (int)(shard ? (size_t)(shard - path) : strlen(path) - strlen(ENDING));
    return zoe_format(j->ctx, "%s%.*s" ENDING, j->out, length, path);
}

static int make_folders(job *j, char *path) {
    for (char *at = path + strlen(j->out); (at = strchr(at + 1, '/'));) {
        *at = 0;
        int failed = mkdir(path, 0777) != 0 && errno != EEXIST;
        if (failed) return zoe_fail(j->ctx, ZOE_ERR_IO, "%s: cannot be made: %s", path, strerror(errno));
        *at = '/';
    }
    return ZOE_OK;
}

static int write_entry(job *j, const zoe_entry *entry, const char *part, const zoe_tensor *form,
                       zoe_safetensors_writer *writer, int64_t *bytes) {
    if (!form->rank) {
        *bytes += (int64_t)entry->bytes;
        return zoe_safetensors_add(writer, entry->name, entry->dtype, entry->rank, entry->shape, entry->data);
    }
    *bytes += zoe_quantised_bytes(form->dtype, entry->shape[0], entry->shape[1], form->group);
    return add_matrix(j, writer, part, entry, form);
}

static int write_entries(job *j, const zoe_checkpoint *ckpt, const char *part, const zoe_tensor *forms,
                         zoe_safetensors_writer *writer, int64_t *bytes) {
    const char *key, *value;
    for (size_t i = 0; zoe_checkpoint_metadata_at(ckpt, i, &key, &value); i++)
        ZOE_TRY(zoe_safetensors_note(writer, key, value));
    ZOE_TRY(zoe_safetensors_note(writer, "zoe.linear", j->linear));
    for (size_t i = 0; i < zoe_checkpoint_count(ckpt); i++) {
        const zoe_entry *entry = zoe_checkpoint_at(ckpt, i);
        ZOE_TRY(zoe_check_cancelled(j->ctx));
        ZOE_TRY(zoe_checkpoint_intact(ckpt));
        if (i + 1 < zoe_checkpoint_count(ckpt)) zoe_checkpoint_prefetch(ckpt, entry + 1);
        int status = write_entry(j, entry, part, &forms[i], writer, bytes);
        ZOE_TRY(zoe_checkpoint_intact(ckpt)); /* tells more than what else it may have led to */
        ZOE_TRY(status);
        zoe_checkpoint_drop(ckpt, entry);
        j->done += (int64_t)entry->bytes;
        if (j->progress) j->progress(j->user, j->done, j->total);
    }
    return ZOE_OK;
}

static int64_t bytes_of(const zoe_checkpoint *ckpt) {
    int64_t bytes = 0;
    for (size_t i = 0; i < zoe_checkpoint_count(ckpt); i++) bytes += (int64_t)zoe_checkpoint_at(ckpt, i)->bytes;
    return bytes;
}

static int write_checkpoint(job *j, const zoe_checkpoint *ckpt, const zoe_tensor *forms) {
    int64_t after = 0;
    zoe_safetensors_writer *writer = NULL;
    char *path = target_path(j, ckpt);
    int status;
    if (!path) return zoe_out_of_memory(j->ctx, strlen(j->out), "path");
    const char *part = path + strlen(j->out) + 1;
    ZOE_TRY_DONE(make_folders(j, path));
    ZOE_TRY_DONE(zoe_safetensors_create(j->ctx, path, &writer));
    ZOE_TRY_DONE(write_entries(j, ckpt, part, forms, writer, &after));
    status = zoe_safetensors_finish(writer);
    writer = NULL;
    if (status < 0) goto done;
    json_t *row = json_object();
    ZOE_TRY_DONE(zoe_report_append(j->ctx, j->parts, row));
    ZOE_TRY_DONE(zoe_report_set(j->ctx, row, "file", zoe_report_path(part)));
    ZOE_TRY_DONE(zoe_report_set(j->ctx, row, "bytes_before", json_integer(bytes_of(ckpt))));
    ZOE_TRY_DONE(zoe_report_set(j->ctx, row, "bytes", json_integer(after)));
done:
    zoe_safetensors_abort(writer);
    zoe_free(j->ctx, path);
    return status;
}

/* Only files beside a configuration can be written in another way and still be found. */
static int check_files(job *j, const zoe_checkpoint *ckpt) {
    for (int i = 0; i < zoe_checkpoint_files(ckpt); i++) {
        const char *path = zoe_checkpoint_path(ckpt, i);
        if (!ends_in(path, ENDING) || strncmp(path, j->dir, strlen(j->dir)) != 0)
            return zoe_fail(j->ctx, ZOE_ERR_UNSUPPORTED,
                            "%s: only models in the diffusers layout, with safetensors files, can be written quantised",
                            path);
    }
    return ZOE_OK;
}

static bool has_matrices(const zoe_weights *weights) {
    const zoe_entry *entry;
    zoe_tensor form;
    for (size_t i = 0; zoe_weights_source(weights, i, &entry, &form); i++)
        if (entry && zoe_is_quantised(&form)) return true;
    return false;
}

static int quantise_network(job *j, const zoe_weights *weights) {
    const zoe_checkpoint *ckpt = zoe_weights_checkpoint(weights);
    size_t count = zoe_checkpoint_count(ckpt), wanted = 0;
    zoe_tensor *forms;
    ZOE_TRY(ZOE_NEW_ARRAY(j->ctx, forms, count));
    choose(weights, ckpt, forms);
    for (size_t i = 0; i < count; i++) wanted += forms[i].rank > 0;
    int status = ZOE_OK;
    if (wanted) {
        j->written[j->written_count++] = ckpt;
        status = zoe_checkpoint_metadata(ckpt, "zoe.linear")
                     ? zoe_fail(j->ctx, ZOE_ERR_ARGUMENT, "%s is quantised already, in %s", zoe_checkpoint_path(ckpt, 0),
                                zoe_checkpoint_metadata(ckpt, "zoe.linear"))
                     : check_files(j, ckpt);
        if (status == ZOE_OK) status = write_checkpoint(j, ckpt, forms);
    }
    zoe_free(j->ctx, forms);
    return status;
}

/* ---- the other files ---- */

/* A file whose tensors have been written, or the index of such files. */
static bool is_written(const job *j, const char *path) {
    for (int i = 0; i < j->written_count; i++)
        for (int file = 0; file < zoe_checkpoint_files(j->written[i]); file++) {
            const char *other = zoe_checkpoint_path(j->written[i], file), *slash = strrchr(other, '/');
            size_t folder = (size_t)(slash - other) + 1;
            if (strcmp(path, other) == 0) return true;
            if (ends_in(path, ENDING ".index.json") && strncmp(path, other, folder) == 0 && !strchr(path + folder, '/'))
                return true;
        }
    return false;
}

static int copy_file(job *j, const char *from, const char *to) {
    enum { SIZE = 1 << 16 };
    int in = open(from, O_RDONLY | O_CLOEXEC), out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    char *buffer = zoe_alloc(j->ctx, SIZE);
    ssize_t got = in < 0 || out < 0 || !buffer ? -1 : 1;
    while (got > 0 && (got = read(in, buffer, SIZE)) > 0)
        for (ssize_t done = 0, part; done < got; done += part)
            if ((part = write(out, buffer + done, (size_t)(got - done))) < 0) {
                got = -1;
                break;
            }
    int failed = got < 0 ? errno : 0;
    if (in >= 0) close(in);
    if (out >= 0 && close(out) != 0 && !failed) failed = errno;
    bool memory = buffer != NULL;
    zoe_free(j->ctx, buffer);
    if (!memory) return zoe_out_of_memory(j->ctx, SIZE, "copy buffer");
    return failed ? zoe_fail(j->ctx, ZOE_ERR_IO, "copying %s to %s: %s", from, to, strerror(failed)) : ZOE_OK;
}

static int copy_folder(job *j, const char *from, const char *to);

static int copy_one(job *j, const char *from, const char *to) {
    struct stat info;
    if (is_written(j, from)) return ZOE_OK;
    if (stat(from, &info) != 0) return zoe_fail(j->ctx, ZOE_ERR_IO, "%s: %s", from, strerror(errno));
    if (S_ISDIR(info.st_mode)) return copy_folder(j, from, to);
    if (linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW) == 0) return ZOE_OK;
    return copy_file(j, from, to);
}

static int copy_folder(job *j, const char *from, const char *to) {
    struct dirent **entries = NULL;
    if (mkdir(to, 0777) != 0 && errno != EEXIST)
        return zoe_fail(j->ctx, ZOE_ERR_IO, "%s: cannot be made: %s", to, strerror(errno));
    int count = scandir(from, &entries, NULL, alphasort), status = ZOE_OK;
    if (count < 0) return zoe_fail(j->ctx, ZOE_ERR_IO, "%s: %s", from, strerror(errno));
    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        if (status == ZOE_OK && strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
            char *source = zoe_format(j->ctx, "%s/%s", from, name), *target = zoe_format(j->ctx, "%s/%s", to, name);
            status = source && target ? copy_one(j, source, target) : zoe_out_of_memory(j->ctx, strlen(from), "path");
            zoe_free(j->ctx, source);
            zoe_free(j->ctx, target);
        }
        free(entries[i]);
    }
    free(entries);
    return status;
}

/* ---- all ---- */

static int quantise_model(job *j, zoe_model *model) {
    zoe_weights *weights;
    for (int i = 0; (weights = model->family->weights(model->impl, i)); i++)
        if (has_matrices(weights)) j->total += bytes_of(zoe_weights_checkpoint(weights));
    for (int i = 0; (weights = model->family->weights(model->impl, i)); i++)
        if (zoe_weights_checkpoint(weights)) ZOE_TRY(quantise_network(j, weights));
    return copy_folder(j, j->dir, j->out);
}

static int make_folder(job *j, const char *path) {
    if (mkdir(path, 0777) == 0) return ZOE_OK;
    return zoe_fail(j->ctx, ZOE_ERR_IO, "%s: cannot be made: %s", path, strerror(errno));
}

/* A copy inside of what is copied would have no end. */
static int check_apart(job *j) {
    char from[PATH_MAX], to[PATH_MAX];
    if (!realpath(j->dir, from) || !realpath(j->target, to))
        return zoe_fail(j->ctx, ZOE_ERR_IO, "%s: %s", j->target, strerror(errno));
    size_t length = strlen(from);
    if (strncmp(from, to, length) != 0 || to[length] != '/') return ZOE_OK;
    return zoe_fail(j->ctx, ZOE_ERR_ARGUMENT, "%s lies inside the model %s: choose a folder outside", j->target, j->dir);
}

static int open_quantised(job *j, zoe_model **out) {
    zoe_model_settings settings;
    zoe_backend *be = NULL;
    zoe_model_settings_init(&settings);
    settings.linear = j->linear;
    ZOE_TRY(zoe_plan_backend_create(j->ctx, ZOE_F32, false, &be));
    return zoe_model_open_with(j->ctx, j->dir, &settings, be, out);
}

/* What was begun is not left behind. */
static int remove_one(const char *path, const struct stat *info, int type, struct FTW *where) {
    (void)info, (void)type, (void)where;
    return remove(path);
}

/* The report, too, is complete before the folder appears. */
static int fill_target(job *j, zoe_model *model, json_t *report, char **json) {
    ZOE_TRY(make_folder(j, j->out));
    int status = quantise_model(j, model);
    if (status == ZOE_OK) status = zoe_report_finish(j->ctx, ZOE_OK, json_incref(report), json);
    if (status == ZOE_OK && rename(j->out, j->target) != 0)
        status = zoe_fail(j->ctx, ZOE_ERR_IO, "%s: cannot be renamed to %s: %s", j->out, j->target, strerror(errno));
    if (status == ZOE_OK) return ZOE_OK;
    nftw(j->out, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    zoe_string_free(j->ctx, *json);
    *json = NULL;
    return status;
}

static int quantise_folder(job *j, json_t *report, char **json) {
    zoe_linear_policy policy;
    zoe_model *model = NULL;
    struct stat info;
    j->matrices = json_array(), j->parts = json_array();
    ZOE_TRY(zoe_report_set(j->ctx, report, "parts", j->parts));
    ZOE_TRY(zoe_report_set(j->ctx, report, "matrices", j->matrices));
    if (zoe_linear_policy_find(j->ctx, j->linear, &policy) < 0 || policy.denoiser.dtype == ZOE_DTYPE_COUNT)
        return zoe_fail(j->ctx, ZOE_ERR_ARGUMENT, "linear: found \"%s\", expected one of int8|fp8|int4|nvfp4", j->linear);
    if (stat(j->dir, &info) == 0 && !S_ISDIR(info.st_mode))
        return zoe_fail(
            j->ctx, ZOE_ERR_UNSUPPORTED,
            "%s is a file; only models in the diffusers layout, with safetensors files, can be written quantised", j->dir);
    ZOE_TRY(open_quantised(j, &model));
    int status = make_folder(j, j->target);
    if (status == ZOE_OK) {
        status = check_apart(j);
        if (status == ZOE_OK) status = fill_target(j, model, report, json);
        if (status < 0) rmdir(j->target);
    }
    zoe_model_close(model);
    return status;
}

/* The path without slashes at its end, so that those below it are its continuation. */
static char *trimmed(zoe_context *ctx, const char *path) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    return zoe_format(ctx, "%.*s", (int)length, path);
}

int zoe_quantize(zoe_context *ctx, const char *dir, const char *linear, const char *out,
                 void (*progress)(void *user, int64_t bytes, int64_t of), void *user, char **json) {
    json_t *report = json_object();
    char *from = trimmed(ctx, dir), *to = trimmed(ctx, out);
    job j = {.ctx = ctx, .dir = from, .target = to, .linear = linear, .progress = progress, .user = user};
    *json = NULL;
    if (to) j.out = zoe_format(ctx, "%s.part-%ld", to, (long)getpid());
    int status = from && j.out ? quantise_folder(&j, report, json) : zoe_out_of_memory(ctx, strlen(dir), "path");
    zoe_free(ctx, from);
    zoe_free(ctx, to);
    zoe_free(ctx, j.out);
    zoe_cancel_ended(ctx);
    json_decref(report);
    return status;
}
