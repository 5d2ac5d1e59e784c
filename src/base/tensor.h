/* Tensors: dtype, shape, strides and a pointer. A view copies no bytes. */
#ifndef ZOE_BASE_TENSOR_H
#define ZOE_BASE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ZOE_MAX_RANK 6

typedef enum zoe_dtype {
    ZOE_F32,
    ZOE_BF16,
    ZOE_F16,
    ZOE_F64,
    ZOE_F8_E4M3,
    ZOE_F8_E5M2,
    ZOE_I8,
    ZOE_I16,
    ZOE_I32,
    ZOE_I64,
    ZOE_U8,
    ZOE_U16,
    ZOE_U32,
    ZOE_U64,
    ZOE_BOOL,
    ZOE_FILE_DTYPE_COUNT,          /* the types above are those that files have */
    ZOE_I4 = ZOE_FILE_DTYPE_COUNT, /* two's complement, two to a byte, the even element in the low half */
    ZOE_F4_E2M1,                   /* likewise */
    ZOE_DTYPE_COUNT
} zoe_dtype;

int zoe_dtype_bits(zoe_dtype dtype);         /* of one element */
size_t zoe_dtype_size(zoe_dtype dtype);      /* bytes of one element; 0 for those smaller than a byte */
const char *zoe_dtype_name(zoe_dtype dtype); /* as in safetensors headers: "F32", "BF16", ... */
/* Knows the types that files have. */
bool zoe_dtype_parse(const char *name, zoe_dtype *out);

typedef struct zoe_tensor {
    zoe_dtype dtype;
    int rank;
    int64_t shape[ZOE_MAX_RANK];
    int64_t stride[ZOE_MAX_RANK]; /* in elements */
    void *data;                   /* memory of the backend that made it */
    void *scales;                 /* of a quantised matrix (backend/quantised.h), behind its data; else NULL */
    int group;                    /* elements of a row under one scale; 0: the whole row */
} zoe_tensor;

/* A dense row-major tensor over `data`. */
zoe_tensor zoe_tensor_of(void *data, zoe_dtype dtype, int rank, const int64_t *shape);
#define ZOE_TENSOR(data, dtype, ...)                                                                                       \
    zoe_tensor_of((data), (dtype), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                              \
                  (const int64_t[]){__VA_ARGS__})

int64_t zoe_tensor_count(const zoe_tensor *t); /* elements */
int64_t zoe_tensor_bytes(const zoe_tensor *t); /* of a dense tensor of this shape, without scales */
bool zoe_tensor_dense(const zoe_tensor *t);    /* row-major without gaps */
bool zoe_tensor_same_shape(const zoe_tensor *a, const zoe_tensor *b);
int64_t zoe_tensor_rows(const zoe_tensor *t); /* product of all axes but the last */

/* Views. The caller sees to it that they fit; a dense tensor is needed where it says so. */
zoe_tensor zoe_view_slice(const zoe_tensor *t, int axis, int64_t start, int64_t count);
zoe_tensor zoe_view_permute(const zoe_tensor *t, const int *axes);              /* result axis i is axes[i] of t */
zoe_tensor zoe_view_split(const zoe_tensor *t, int axis, int64_t inner);        /* axis of n becomes [n / inner, inner] */
zoe_tensor zoe_view_shape(const zoe_tensor *t, int rank, const int64_t *shape); /* of a dense tensor */
#define ZOE_VIEW(t, ...)                                                                                                   \
    zoe_view_shape((t), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})

/* [tokens, heads * head_dim] seen as [heads, tokens, head_dim]; the rows may be strided. */
zoe_tensor zoe_view_heads(const zoe_tensor *t, int64_t heads);

/* Writes "[2, 3, 4]" into `text`. */
void zoe_shape_text(char *text, size_t size, int rank, const int64_t *shape);

/* Conversions of single numbers; bf16 and f16 round to nearest even. */
float zoe_bf16_to_f32(uint16_t x);
uint16_t zoe_f32_to_bf16(float x);
float zoe_f16_to_f32(uint16_t x);
uint16_t zoe_f32_to_f16(float x);

#endif
