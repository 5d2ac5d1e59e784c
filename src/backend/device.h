/*
 * What a device's memory is taken in, said once for the backend that takes it and for the plan that foretells it.
 */
#ifndef ZOE_BACKEND_DEVICE_H
#define ZOE_BACKEND_DEVICE_H

#include "backend/backend.h"

#define ZOE_DEVICE_PAGE  ((size_t)2 << 20)  /* what the driver gives large pieces in */
#define ZOE_DEVICE_PIECE ((size_t)32 << 20) /* small tensors share such pieces, and activations grow by them */
#define ZOE_DEVICE_ALONE ((size_t)4 << 20)  /* tensors from this size on have memory of their own */

/*
 * Held from the start: the driver's context with the kernels of its libraries, and the products' workspace. The context
 * goes with the number of processors: so much where there are 132, as on an H100, of which the last part comes with the
 * first use of kernels.
 */
#define ZOE_DEVICE_CONTEXT    ((int64_t)546 << 20)
#define ZOE_DEVICE_KERNELS    ((int64_t)12 << 20)
#define ZOE_DEVICE_PROCESSORS 132
#define ZOE_DEVICE_WORKSPACE  ((int64_t)32 << 20)

/* The context of a device on which `held` bytes are in use once it is there, maybe by others too. */
int64_t zoe_device_context(int processors, int64_t held);

/* Where the books of a device begin. */
void zoe_device_open(zoe_backend *be, int64_t context);

/* Left to the driver, to other libraries' kernels and to whoever else uses the device, where no budget is given. */
#define ZOE_DEVICE_MARGIN ((int64_t)512 << 20)

/* The device maps locked memory of the host in pages of 4 KiB by entries of 8 bytes. */
#define ZOE_DEVICE_MAPS 512

/* Host memory of a process with driver and libraries, and what of it comes with their first use. */
#define ZOE_DEVICE_HOST ((int64_t)496 << 20)
#define ZOE_DEVICE_LATE ((int64_t)96 << 20)
/* The kernels of a request's other networks, beside those of one. */
#define ZOE_DEVICE_OTHERS ((int64_t)20 << 20)
/* The libraries' kernels for attention that writes its scores, which most networks need not load. */
#define ZOE_DEVICE_SCORES ((int64_t)26 << 20)

/* Bytes of a sum of int8 products, which waits in memory for its scales. */
#define ZOE_DEVICE_SUM 4

/*
 * Whether a product of bf16 multiplies the weights [out, in] by its gate first: with one gate for all rows, and enough of
 * them, that is less work than a pass over the result, and needs less memory than a product that waits for it.
 */
static inline bool zoe_device_folds_gate(const zoe_linear *p, const zoe_tensor *y, int64_t rows, int64_t in) {
    return p->gate && !p->row_group && p->act == ZOE_ACT_NONE && y->dtype == ZOE_BF16 &&
           (!p->residual || p->residual->dtype == ZOE_BF16) && rows >= in && in % 8 == 0;
}

static inline size_t zoe_device_pages(size_t bytes, size_t page) {
    return (bytes + page - 1) / page * page;
}

typedef struct zoe_pool_piece {
    char *base;
    size_t size, used;
    size_t tensors; /* alive in it */
} zoe_pool_piece;

/* Memory that lives until freed: large tensors alone, small ones together, since every request to a driver waits. */
typedef struct zoe_pool {
    zoe_backend *be;
    int (*take)(zoe_backend *be, size_t bytes, void **out); /* whole pages from the device, and back */
    void (*give)(zoe_backend *be, void *base);
    zoe_pool_piece *pieces;
    size_t count, capacity;
} zoe_pool;

int zoe_pool_alloc(zoe_pool *pool, size_t bytes, void **out);
void zoe_pool_free(zoe_pool *pool, void *ptr);
void zoe_pool_close(zoe_pool *pool);

/* Counts bytes of the device as held, or no longer (negative). */
void zoe_device_hold(zoe_backend *be, int64_t bytes);
/* Counts locked host memory that copies in two halves pass through, `held` bytes so far, as growing to `bytes`. */
void zoe_device_bounce(zoe_backend *be, size_t *held, size_t bytes);
/* ZOE_ERR_NOMEM where so many more would exceed the backend's budget. */
int zoe_device_check(zoe_backend *be, size_t bytes, const char *what);

#endif
