/* What attention through int8 and e4m3 needs of memory, said once for the backend that takes it and for the plan. */
#ifndef ZOE_BACKEND_SAGE_H
#define ZOE_BACKEND_SAGE_H

#include <stdbool.h>
#include <stdint.h>

#define ZOE_SAGE_FEWEST 1025 /* keys for which quantising is worth it */

#define ZOE_SAGE_QUERIES 64  /* rows of a query tile */
#define ZOE_SAGE_KEYS    128 /* of a key tile */
#define ZOE_SAGE_BLOCK   3   /* query tiles come in multiples of this, as many as a block of the widest kernel takes */
#define ZOE_SAGE_CHUNK   512 /* keys whose sums stand together */

/* The pieces of scratch memory; see backend/cuda/sage.cuh. */
enum {
    ZOE_SAGE_Q,
    ZOE_SAGE_K,
    ZOE_SAGE_V,
    ZOE_SAGE_Q_FACTOR,
    ZOE_SAGE_K_FACTOR,
    ZOE_SAGE_V_FACTOR,
    ZOE_SAGE_K_SUMS,
    ZOE_SAGE_V_MOSTS,
    ZOE_SAGE_K_MEAN,
    ZOE_SAGE_PIECES
};

typedef struct zoe_sage_layout {
    int64_t query_tiles, key_tiles, chunks; /* of a head */
    int64_t at[ZOE_SAGE_PIECES], bytes;     /* where pieces start, and all together */
} zoe_sage_layout;

/* Whether attention goes that way where it may. */
static inline bool zoe_sage_takes(int64_t keys, int64_t dim, int64_t value_dim, int64_t last_key_repeats) {
    return keys >= ZOE_SAGE_FEWEST && last_key_repeats <= 1 && dim == value_dim && (dim == 64 || dim == 128);
}

static inline int64_t zoe_sage_tiles(int64_t rows, int64_t tile) {
    return (rows + tile - 1) / tile;
}

/* value_size: bytes of a value, 1 for e4m3 and 2 for half. */
static inline zoe_sage_layout zoe_sage_lay_out(int64_t heads, int64_t queries, int64_t keys, int64_t dim, int value_size) {
    zoe_sage_layout l;
    l.query_tiles = zoe_sage_tiles(queries, ZOE_SAGE_QUERIES * ZOE_SAGE_BLOCK) * ZOE_SAGE_BLOCK;
    l.key_tiles = zoe_sage_tiles(keys, ZOE_SAGE_KEYS);
    l.chunks = zoe_sage_tiles(keys, ZOE_SAGE_CHUNK);
    int64_t query_rows = heads * l.query_tiles * ZOE_SAGE_QUERIES, key_rows = heads * l.key_tiles * ZOE_SAGE_KEYS;
    int64_t sizes[ZOE_SAGE_PIECES] = {
        query_rows * dim,        key_rows * dim,  key_rows * dim * value_size, query_rows * 4,
        heads * l.key_tiles * 4, heads * dim * 4, l.chunks * heads * dim * 4,  l.chunks * heads * dim * 4,
        heads * dim * 4};
    l.bytes = 0;
    for (int i = 0; i < ZOE_SAGE_PIECES; i++) {
        l.at[i] = l.bytes;
        l.bytes += (sizes[i] + 255) / 256 * 256;
    }
    return l;
}

#endif
