/*
 * The description of tensors in a PyTorch file: a pickle, of which a closed list of operations and callables is understood.
 * Nothing is executed; whatever is not on the list is refused by name.
 */
#ifndef ZOE_FORMATS_PICKLE_H
#define ZOE_FORMATS_PICKLE_H

#include "base/context.h"
#include "base/tensor.h"

typedef struct zoe_pickle_text {
    const char *data; /* in the pickle; not NUL-terminated */
    size_t length;
} zoe_pickle_text;

typedef struct zoe_pickle_tensor {
    zoe_pickle_text name, storage; /* storage: the key of the file entry that holds the data */
    zoe_dtype dtype;
    int rank;
    int64_t shape[ZOE_MAX_RANK], stride[ZOE_MAX_RANK]; /* not negative; stride in elements */
    int64_t offset, storage_count;                     /* of the first element; elements of the whole storage */
} zoe_pickle_tensor;

/*
 * Reads a pickled dictionary of tensors and calls `visit` for each, in their order; a failing visit ends the reading.
 * Entries that are no tensors are passed over. Where one of them is a dictionary "module", "state_dict" or "model", as
 * training programs write it, that one is read instead. `path` is for error texts.
 */
int zoe_pickle_read(zoe_context *ctx, const char *path, const void *data, size_t size,
                    int (*visit)(void *user, const zoe_pickle_tensor *tensor), void *user);

#endif
