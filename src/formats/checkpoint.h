/*
 * Checkpoints: named tensors in one or several mapped files.
 *
 * A checkpoint only describes; who reads an entry decides when its pages come in. Entries are sorted by name.
 */
#ifndef ZOE_FORMATS_CHECKPOINT_H
#define ZOE_FORMATS_CHECKPOINT_H

#include "base/context.h"
#include "base/tensor.h"

typedef struct zoe_entry {
    char *name;
    zoe_dtype dtype;
    int rank;
    int64_t shape[ZOE_MAX_RANK];
    const void *data; /* in the mapping; aligned to the element size, or to 1 where the file is not */
    size_t bytes;
    int file;        /* index of the file that holds it */
    uint64_t offset; /* of the data from that file's start, for readers that bypass the mapping */
} zoe_entry;

typedef struct zoe_checkpoint zoe_checkpoint;

/*
 * Opens `path`: a .safetensors file, an index (.safetensors.index.json), an archive of torch.save() (.pth, .pt, .bin; only
 * a dictionary of dense tensors, nothing of it is executed), or a folder that holds one of
 * `<stem>.safetensors`, `<stem>.safetensors.index.json` with stem "diffusion_pytorch_model" or "model".
 * Checks header size, JSON, dtypes, shapes, offsets, overlaps and the files' sizes; reads no tensor data.
 */
int zoe_checkpoint_open(zoe_context *ctx, const char *path, zoe_checkpoint **out);
void zoe_checkpoint_close(zoe_checkpoint *ckpt);

size_t zoe_checkpoint_count(const zoe_checkpoint *ckpt);
const zoe_entry *zoe_checkpoint_at(const zoe_checkpoint *ckpt, size_t index);
const zoe_entry *zoe_checkpoint_find(const zoe_checkpoint *ckpt, const char *name); /* NULL if absent */
const char *zoe_checkpoint_path(const zoe_checkpoint *ckpt, int file);              /* of file number `file` */
int zoe_checkpoint_files(const zoe_checkpoint *ckpt);

/* A "__metadata__" value of the first file that has the key, or NULL. */
const char *zoe_checkpoint_metadata(const zoe_checkpoint *ckpt, const char *key);
/* All of them: number `index` of all files' values together; false past the last. */
bool zoe_checkpoint_metadata_at(const zoe_checkpoint *ckpt, size_t index, const char **key, const char **value);

/* Bytes of its files that the page cache may come to hold, if nobody takes more memory. */
int64_t zoe_checkpoint_cache_room(const zoe_checkpoint *ckpt);

/* Tells the kernel that the pages of an entry will be wanted soon, or no longer. */
void zoe_checkpoint_prefetch(const zoe_checkpoint *ckpt, const zoe_entry *entry);
void zoe_checkpoint_drop(const zoe_checkpoint *ckpt, const zoe_entry *entry);

/*
 * An error if a file is shorter than when it was opened, or if pages of it could not be had when they were touched: what
 * was read from the mappings since the last call is then zeros in part. To be called before they are used, because without
 * zoe_guard_mappings() touching what is gone ends the process, and after, before anybody relies on what was read. What was
 * told is told once: the files are mapped anew, and work again if they have become whole.
 */
int zoe_checkpoint_intact(const zoe_checkpoint *ckpt);
/* Maps anew files that lost pages, for when what was read meanwhile is of no use in any case. */
void zoe_checkpoint_renew(const zoe_checkpoint *ckpt);

/* ---- writing ---- */

typedef struct zoe_safetensors_writer zoe_safetensors_writer;

/*
 * Collects tensors and writes `path` (through a temporary file beside it, renamed when complete). Data are appended to a
 * scratch file as they come, so that memory stays bounded and the number of tensors need not be known before.
 */
int zoe_safetensors_create(zoe_context *ctx, const char *path, zoe_safetensors_writer **out);
int zoe_safetensors_add(zoe_safetensors_writer *writer, const char *name, zoe_dtype dtype, int rank, const int64_t *shape,
                        const void *data);
/* A "__metadata__" value. */
int zoe_safetensors_note(zoe_safetensors_writer *writer, const char *key, const char *value);
/* Appends one more row to tensor `name`, whose first axis counts the rows; the row's shape must stay the same. */
int zoe_safetensors_add_row(zoe_safetensors_writer *writer, const char *name, zoe_dtype dtype, int rank,
                            const int64_t *row_shape, const void *data);
/* Completes the file; frees the writer in any case. */
int zoe_safetensors_finish(zoe_safetensors_writer *writer);
/* Leaves no file; frees the writer. NULL is fine. */
void zoe_safetensors_abort(zoe_safetensors_writer *writer);

#endif
