/*
 * Checkpoints as folders publish them: one file, or shards named by an index. This file finds and maps the files and
 * keeps the sorted list of entries; what stands in a file is the business of safetensors.c and pth.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "formats/checkpoint_parts.h"
#include "formats/guard.h"
#include "formats/json.h"

#define INDEX_ENDING ".safetensors.index.json"

static bool ends_with(const char *text, const char *ending) {
    size_t length = strlen(text), tail = strlen(ending);
    return length >= tail && strcmp(text + length - tail, ending) == 0;
}

/* ---- lists of names for error texts ---- */

void zoe_name_list_add(zoe_name_list *list, const char *name) {
    size_t length = strlen(name), room = sizeof list->text - 32; /* 32: for "and N more" */
    list->count++;
    if (list->left_out || list->used + length + 3 > room) {
        list->left_out++;
        return;
    }
    if (list->used) {
        memcpy(list->text + list->used, ", ", 2);
        list->used += 2;
    }
    memcpy(list->text + list->used, name, length + 1);
    list->used += length;
}

const char *zoe_name_list_text(zoe_name_list *list) {
    if (list->left_out)
        snprintf(list->text + list->used, sizeof list->text - list->used, "%sand %zu more", list->used ? ", " : "",
                 list->left_out);
    return list->text;
}

/* ---- files and entries ---- */

static int map_open_file(zoe_context *ctx, int fd, const char *path, zoe_mapped_file *file) {
    struct stat info;
    if (fstat(fd, &info) != 0) return zoe_fail(ctx, ZOE_ERR_IO, "cannot read %s: %m", path);
    if (!S_ISREG(info.st_mode)) return zoe_fail(ctx, ZOE_ERR_IO, "%s is not a regular file", path);
    if (info.st_size == 0) return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s is empty: fetch it again", path);
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) return zoe_fail(ctx, ZOE_ERR_IO, "cannot map %s into memory: %m", path);
    file->data = data;
    file->size = (size_t)info.st_size;
    file->guard = zoe_guard_add(data, file->size);
    return ZOE_OK;
}

/* The open file once more, for reads past the page cache; -1 where its file system has none. */
static int open_past_cache(int fd, const char *path) {
    struct stat here, there;
    int past = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (past < 0) return -1;
    bool same =
        fstat(fd, &here) == 0 && fstat(past, &there) == 0 && here.st_dev == there.st_dev && here.st_ino == there.st_ino;
    if (same) return past;
    close(past);
    return -1;
}

int zoe_checkpoint_map(zoe_checkpoint *ckpt, const char *path) {
    zoe_context *ctx = ckpt->ctx;
    size_t size = (size_t)(ckpt->file_count + 1) * sizeof *ckpt->files;
    zoe_mapped_file *files = zoe_realloc(ctx, ckpt->files, size);
    if (!files) return zoe_out_of_memory(ctx, size, "list of files");
    ckpt->files = files;
    zoe_mapped_file *file = &files[ckpt->file_count];
    memset(file, 0, sizeof *file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return zoe_fail(ctx, ZOE_ERR_IO, "cannot open %s: %m", path);
    int status = map_open_file(ctx, fd, path, file);
    if (status < 0) {
        close(fd);
        return status;
    }
    struct statfs system;
    file->fd = fd;
    file->in_memory = fstatfs(fd, &system) == 0 && system.f_type == TMPFS_MAGIC;
    file->past_cache = file->in_memory ? -1 : open_past_cache(fd, path);
    ckpt->file_count++; /* from here on zoe_checkpoint_close() unmaps it */
    file->path = zoe_strdup(ctx, path);
    return file->path ? ZOE_OK : zoe_out_of_memory(ctx, strlen(path) + 1, "path");
}

bool zoe_checkpoint_bytes(zoe_dtype dtype, int rank, const int64_t *shape, uint64_t *out) {
    int64_t bytes = (int64_t)zoe_dtype_size(dtype);
    for (int i = 0; i < rank; i++)
        if (__builtin_mul_overflow(bytes, shape[i], &bytes)) return false;
    *out = (uint64_t)bytes;
    return true;
}

int zoe_checkpoint_append(zoe_checkpoint *ckpt, int file, const char *name, zoe_dtype dtype, int rank, const int64_t *shape,
                          uint64_t offset, uint64_t bytes) {
    zoe_context *ctx = ckpt->ctx;
    if (ckpt->count == ckpt->capacity) {
        size_t capacity = ckpt->capacity ? 2 * ckpt->capacity : 64;
        zoe_entry *entries = zoe_realloc(ctx, ckpt->entries, capacity * sizeof *entries);
        if (!entries) return zoe_out_of_memory(ctx, capacity * sizeof *entries, "list of tensors");
        ckpt->entries = entries;
        ckpt->capacity = capacity;
    }
    zoe_entry *entry = &ckpt->entries[ckpt->count];
    *entry = (zoe_entry){.dtype = dtype, .rank = rank, .bytes = (size_t)bytes, .file = file, .offset = offset};
    memcpy(entry->shape, shape, (size_t)rank * sizeof *shape);
    entry->data = ckpt->files[file].data + offset;
    entry->name = zoe_strdup(ctx, name);
    if (!entry->name) return zoe_out_of_memory(ctx, strlen(name) + 1, "tensor name");
    ckpt->count++;
    return ZOE_OK;
}

static int compare_entries(const void *a, const void *b) {
    return strcmp(((const zoe_entry *)a)->name, ((const zoe_entry *)b)->name);
}

/* Sorts the entries by name. Two files that both hold a tensor leave open which one is meant. */
static int sort_entries(zoe_checkpoint *ckpt) {
    if (ckpt->count) qsort(ckpt->entries, ckpt->count, sizeof *ckpt->entries, compare_entries);
    for (size_t i = 1; i < ckpt->count; i++) {
        const zoe_entry *a = &ckpt->entries[i - 1], *b = &ckpt->entries[i];
        if (strcmp(a->name, b->name) == 0)
            return zoe_fail(ckpt->ctx, ZOE_ERR_FORMAT, "tensor \"%s\" is there twice: in %s and in %s", a->name,
                            ckpt->files[a->file].path, ckpt->files[b->file].path);
    }
    return ZOE_OK;
}

/* Reads the tensors of a mapped file by what it is. */
static int read_file(zoe_checkpoint *ckpt, int number) {
    const zoe_mapped_file *file = &ckpt->files[number];
    static const char pointer[] = "version https://git-lfs";
    if (file->size < 1024 && file->size > sizeof pointer && memcmp(file->data, pointer, sizeof pointer - 1) == 0)
        return zoe_fail(ckpt->ctx, ZOE_ERR_FORMAT, "%s is a Git LFS pointer, not the weights themselves: run git lfs pull",
                        file->path);
    bool zip = file->size >= 4 && memcmp(file->data, "PK\3\4", 4) == 0;
    if (zip || ends_with(file->path, ".pth") || ends_with(file->path, ".pt") || ends_with(file->path, ".bin"))
        return zoe_pth_read(ckpt, number);
    return zoe_safetensors_read(ckpt, number);
}

static int open_single(zoe_checkpoint *ckpt, const char *path) {
    ZOE_TRY(zoe_checkpoint_map(ckpt, path));
    return read_file(ckpt, 0);
}

/* ---- sharded checkpoints ---- */

typedef struct shard_index {
    zoe_config config;
    json_t *map; /* tensor name -> file name; borrowed from config */
    const char *path;
} shard_index;

static int load_index(zoe_context *ctx, const char *path, shard_index *index) {
    index->path = path;
    ZOE_TRY(zoe_config_load(ctx, path, &index->config));
    index->map = json_object_get(index->config.root, "weight_map");
    if (!json_is_object(index->map) || json_object_size(index->map) == 0)
        return zoe_fail(ctx, ZOE_ERR_FORMAT,
                        "%s: \"weight_map\" is missing or empty; expected an object of tensor and file names", path);
    const char *name;
    json_t *value;
    json_object_foreach(index->map, name, value) {
        const char *file = json_string_value(value);
        if (!file) return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s: the file of tensor \"%s\" is not a string", path, name);
        if (!*file || strchr(file, '/') || !ends_with(file, ".safetensors"))
            return zoe_fail(
                ctx, ZOE_ERR_FORMAT,
                "%s: tensor \"%s\" is said to be in \"%s\"; expected the name of a .safetensors file beside the index",
                path, name, file);
    }
    return ZOE_OK;
}

static int compare_texts(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct file names of the index, sorted: count of them in (*names)[]. */
static int index_files(zoe_context *ctx, const shard_index *index, const char ***names, size_t *count) {
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, *names, json_object_size(index->map)));
    size_t all = 0, kept = 0;
    const char *name;
    json_t *value;
    json_object_foreach(index->map, name, value)(*names)[all++] = json_string_value(value);
    qsort(*names, all, sizeof **names, compare_texts);
    for (size_t i = 0; i < all; i++)
        if (i == 0 || strcmp((*names)[i], (*names)[i - 1]) != 0) (*names)[kept++] = (*names)[i];
    *count = kept;
    return ZOE_OK;
}

static int map_shards(zoe_checkpoint *ckpt, const shard_index *index, const char *const *names, size_t count) {
    zoe_context *ctx = ckpt->ctx;
    int folder = (int)(strrchr(index->path, '/') ? strrchr(index->path, '/') - index->path + 1 : 0);
    zoe_name_list missing = {0};
    for (size_t i = 0; i < count; i++) {
        char *path = zoe_format(ctx, "%.*s%s", folder, index->path, names[i]);
        if (!path) return zoe_out_of_memory(ctx, strlen(names[i]), "path");
        bool absent = access(path, F_OK) != 0 && errno == ENOENT;
        int status = ZOE_OK;
        if (absent)
            zoe_name_list_add(&missing, names[i]);
        else if (!missing.count)
            status = zoe_checkpoint_map(ckpt, path);
        zoe_free(ctx, path);
        ZOE_TRY(status);
    }
    if (missing.count)
        return zoe_fail(ctx, ZOE_ERR_IO, "%s: %zu of %zu files are missing: %s", index->path, missing.count, count,
                        zoe_name_list_text(&missing));
    return ZOE_OK;
}

/* Takes out the entries first.. that the index looks for in another file than number `file`, whose name is `name`. */
static void drop_foreign(zoe_checkpoint *ckpt, const shard_index *index, const char *name, size_t first) {
    size_t kept = first;
    for (size_t i = first; i < ckpt->count; i++) {
        const char *home = json_string_value(json_object_get(index->map, ckpt->entries[i].name));
        if (home && strcmp(home, name) != 0)
            zoe_free(ckpt->ctx, ckpt->entries[i].name);
        else
            ckpt->entries[kept++] = ckpt->entries[i];
    }
    ckpt->count = kept;
}

static int check_index(zoe_checkpoint *ckpt, const shard_index *index) {
    zoe_name_list missing = {0};
    const char *name;
    json_t *value;
    json_object_foreach(index->map, name, value) if (!zoe_checkpoint_find(ckpt, name)) zoe_name_list_add(&missing, name);
    if (missing.count)
        return zoe_fail(ckpt->ctx, ZOE_ERR_FORMAT, "%s: %zu tensors are not in the files that it names: %s", index->path,
                        missing.count, zoe_name_list_text(&missing));
    return ZOE_OK;
}

static int open_index(zoe_checkpoint *ckpt, const char *path) {
    shard_index index = {0};
    const char **names = NULL;
    size_t count = 0;
    int status = load_index(ckpt->ctx, path, &index);
    if (status < 0) goto done;
    ZOE_TRY_DONE(index_files(ckpt->ctx, &index, &names, &count));
    ZOE_TRY_DONE(map_shards(ckpt, &index, names, count));
    for (size_t i = 0; i < count; i++) {
        size_t first = ckpt->count;
        ZOE_TRY_DONE(read_file(ckpt, (int)i));
        drop_foreign(ckpt, &index, names[i], first);
    }
    ZOE_TRY_DONE(sort_entries(ckpt));
    ZOE_TRY_DONE(check_index(ckpt, &index));
done:
    zoe_free(ckpt->ctx, names);
    zoe_config_free(&index.config);
    return status;
}

/* ---- folders ---- */

static int open_folder(zoe_checkpoint *ckpt, const char *folder) {
    static const char *const stems[] = {"diffusion_pytorch_model", "model"};
    static const char *const endings[] = {INDEX_ENDING, ".safetensors"};
    zoe_context *ctx = ckpt->ctx;
    for (size_t i = 0; i < 4; i++) {
        char *path = zoe_format(ctx, "%s/%s%s", folder, stems[i / 2], endings[i % 2]);
        if (!path) return zoe_out_of_memory(ctx, strlen(folder) + 64, "path");
        bool there = access(path, F_OK) == 0;
        int status = !there ? ZOE_OK : i % 2 ? open_single(ckpt, path) : open_index(ckpt, path);
        zoe_free(ctx, path);
        if (there) return status;
    }
    return zoe_fail(ctx, ZOE_ERR_IO,
                    "%s holds no weights: expected diffusion_pytorch_model.safetensors, model.safetensors, or the "
                    ".safetensors.index.json of either",
                    folder);
}

int zoe_checkpoint_open(zoe_context *ctx, const char *path, zoe_checkpoint **out) {
    *out = NULL;
    struct stat info;
    if (stat(path, &info) != 0) return zoe_fail(ctx, ZOE_ERR_IO, "cannot open %s: %m", path);
    zoe_checkpoint *ckpt;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, ckpt, 1));
    ckpt->ctx = ctx;
    int status = S_ISDIR(info.st_mode)           ? open_folder(ckpt, path)
                 : ends_with(path, INDEX_ENDING) ? open_index(ckpt, path)
                                                 : open_single(ckpt, path);
    if (status >= 0) status = sort_entries(ckpt);
    /* What is taken for malformed may be a file that ended while its header was read. */
    if ((status == ZOE_OK || status == ZOE_ERR_FORMAT) && zoe_checkpoint_intact(ckpt) < 0) status = ZOE_ERR_IO;
    if (status < 0) {
        zoe_checkpoint_close(ckpt);
        return status;
    }
    *out = ckpt;
    return ZOE_OK;
}

void zoe_checkpoint_close(zoe_checkpoint *ckpt) {
    if (!ckpt) return;
    zoe_context *ctx = ckpt->ctx;
    for (size_t i = 0; i < ckpt->count; i++) zoe_free(ctx, ckpt->entries[i].name);
    zoe_free(ctx, ckpt->entries);
    for (int i = 0; i < ckpt->file_count; i++) {
        zoe_guard_remove(ckpt->files[i].guard);
        munmap((void *)(uintptr_t)ckpt->files[i].data, ckpt->files[i].size);
        close(ckpt->files[i].fd);
        if (ckpt->files[i].past_cache >= 0) close(ckpt->files[i].past_cache);
        json_decref(ckpt->files[i].metadata);
        zoe_free(ctx, ckpt->files[i].path);
    }
    zoe_free(ctx, ckpt->files);
    zoe_free(ctx, ckpt);
}

/* ---- what it holds ---- */

size_t zoe_checkpoint_count(const zoe_checkpoint *ckpt) {
    return ckpt->count;
}

const zoe_entry *zoe_checkpoint_at(const zoe_checkpoint *ckpt, size_t index) {
    return &ckpt->entries[index];
}

const zoe_entry *zoe_checkpoint_find(const zoe_checkpoint *ckpt, const char *name) {
    size_t low = 0, high = ckpt->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, ckpt->entries[middle].name);
        if (order == 0) return &ckpt->entries[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const char *zoe_checkpoint_path(const zoe_checkpoint *ckpt, int file) {
    return ckpt->files[file].path;
}

int zoe_checkpoint_files(const zoe_checkpoint *ckpt) {
    return ckpt->file_count;
}

const char *zoe_checkpoint_metadata(const zoe_checkpoint *ckpt, const char *key) {
    for (int i = 0; i < ckpt->file_count; i++) {
        json_t *value = json_object_get(ckpt->files[i].metadata, key);
        if (value) return json_string_value(value);
    }
    return NULL;
}

bool zoe_checkpoint_metadata_at(const zoe_checkpoint *ckpt, size_t index, const char **key, const char **value) {
    for (int i = 0; i < ckpt->file_count; i++) {
        json_t *metadata = ckpt->files[i].metadata;
        for (void *at = json_object_iter(metadata); at; at = json_object_iter_next(metadata, at))
            if (index-- == 0) {
                *key = json_object_iter_key(at);
                *value = json_string_value(json_object_iter_value(at));
                return true;
            }
    }
    return false;
}

/* ---- paging ---- */

/* Whether pages were lost since the file was mapped last. */
static bool renew(const zoe_mapped_file *file) {
    if (!zoe_guard_lost(file->guard)) return false;
    void *data = mmap((void *)(uintptr_t)file->data, file->size, PROT_READ, MAP_PRIVATE | MAP_FIXED, file->fd, 0);
    if (data != MAP_FAILED) zoe_guard_renewed(file->guard);
    return true;
}

void zoe_checkpoint_renew(const zoe_checkpoint *ckpt) {
    for (int i = 0; i < ckpt->file_count; i++) (void)renew(&ckpt->files[i]);
}

int zoe_checkpoint_intact(const zoe_checkpoint *ckpt) {
    struct stat info;
    int status = ZOE_OK;
    for (int i = 0; i < ckpt->file_count; i++) {
        const zoe_mapped_file *file = &ckpt->files[i];
        bool lost = renew(file);
        if (fstat(file->fd, &info) != 0 || (size_t)info.st_size < file->size)
            status =
                zoe_fail(ckpt->ctx, ZOE_ERR_IO,
                         "%s is shorter than when it was opened: its weights are gone; open the model again", file->path);
        else if (lost)
            status =
                zoe_fail(ckpt->ctx, ZOE_ERR_IO,
                         "%s: parts of it could not be read: its disk failed, or it was cut off for a while; try again",
                         file->path);
    }
    return status;
}

int64_t zoe_checkpoint_cache_room(const zoe_checkpoint *ckpt) {
    return ckpt->cache_room ? ckpt->cache_room : zoe_available_bytes();
}

void zoe_checkpoint_prefetch(const zoe_checkpoint *ckpt, const zoe_entry *entry) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)ckpt->files[entry->file].data + entry->offset;
    uintptr_t first = start / page * page;
    if (entry->bytes) madvise((void *)first, start + entry->bytes - first, MADV_WILLNEED);
}

void zoe_checkpoint_drop(const zoe_checkpoint *ckpt, const zoe_entry *entry) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)ckpt->files[entry->file].data + entry->offset;
    /* Only whole pages: the neighbours on the first and the last one may still be in use. */
    uintptr_t first = (start + page - 1) / page * page, end = (start + entry->bytes) / page * page;
    if (end > first) madvise((void *)first, end - first, MADV_DONTNEED);
}
