/* What the readers of single files (safetensors, PyTorch archives) share with checkpoint.c. */
#ifndef ZOE_FORMATS_CHECKPOINT_PARTS_H
#define ZOE_FORMATS_CHECKPOINT_PARTS_H

#include <jansson.h>
#include <sys/types.h>

#include "formats/checkpoint.h"

typedef struct zoe_mapped_file {
    char *path;
    const uint8_t *data; /* the whole file, read-only */
    size_t size;
    int fd;           /* stays open, for readers that bypass the mapping */
    int past_cache;   /* the file once more, for reads past the page cache; -1: it cannot be read so */
    int guard;        /* of the mapping, as in formats/guard.h */
    bool in_memory;   /* on no disk: all of it is there at once */
    json_t *metadata; /* its "__metadata__" object, or NULL */
} zoe_mapped_file;

struct zoe_checkpoint {
    zoe_context *ctx;
    zoe_mapped_file *files;
    int file_count;
    zoe_entry *entries;
    size_t count, capacity;
    /* for tests: */
    bool ringless;                           /* readers do without an io_uring */
    int64_t cache_room;                      /* bytes that the page cache is taken to hold; 0: what the machine leaves */
    ssize_t (*fault)(off_t at, ssize_t got); /* a bad disk: what a read is to have given, or -errno */
};

/* Maps one more file; its number is file_count - 1 afterwards. */
int zoe_checkpoint_map(zoe_checkpoint *ckpt, const char *path);

/*
 * Appends an entry whose data lie at `offset` of file number `file`. The reader has checked that they lie inside it and
 * that shape and bytes agree.
 */
int zoe_checkpoint_append(zoe_checkpoint *ckpt, int file, const char *name, zoe_dtype dtype, int rank, const int64_t *shape,
                          uint64_t offset, uint64_t bytes);

/* Bytes of a tensor; false when the product does not fit into 63 bits. Dimensions are not negative. */
bool zoe_checkpoint_bytes(zoe_dtype dtype, int rank, const int64_t *shape, uint64_t *out);

/* Read the tensors of a mapped file. */
int zoe_safetensors_read(zoe_checkpoint *ckpt, int file);
int zoe_pth_read(zoe_checkpoint *ckpt, int file);

/* A list of names in an error text, which ends with "and N more" where the space does. */
typedef struct zoe_name_list {
    char text[2048];
    size_t used, count, left_out;
} zoe_name_list;

void zoe_name_list_add(zoe_name_list *list, const char *name);
/* The finished list; call it once. */
const char *zoe_name_list_text(zoe_name_list *list);

#endif
