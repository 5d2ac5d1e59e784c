/*
 * Backends: memory and some twenty operations, behind one table of functions.
 *
 * Model code calls the zoe_op_* functions below and nothing else. They check shapes once for all backends, count the
 * work (floating-point operations and bytes), and hand over to the backend's table. `cpu` and `cuda` compute; `plan`
 * computes nothing, so that the counts and the arena's high-water mark of the very same model code can be had alone.
 *
 * Activations are dense or strided tensors in the backend's memory. Conventions: tokens [tokens, channels], attention
 * [heads, tokens, head_dim] by strides, pictures and VAE activations channels-last [frames, height, width, channels].
 * Small per-channel parameters (norm weights, biases, modulation, rotary tables) are float32 on every backend; the
 * weights of linear may be any float type or quantised (backend/quantised.h); those of conv are [out, kt, kh, kw, in].
 *
 * Products with int8 and fp8 weights quantise the rows of x. Where the backend has `quantised_rows`, that can be done once
 * for several products: norm, linear and quantise write quantised rows (zoe_new_rows()), and linear with weights of the
 * same form reads them.
 */
#ifndef ZOE_BACKEND_BACKEND_H
#define ZOE_BACKEND_BACKEND_H

#include "base/context.h"
#include "base/tensor.h"

typedef struct zoe_backend zoe_backend;

typedef enum zoe_act { ZOE_ACT_NONE, ZOE_ACT_SILU, ZOE_ACT_GELU_TANH, ZOE_ACT_GELU_ERF } zoe_act;

/* y = residual + gate * act(x W^T + bias); every pointer may be NULL. */
typedef struct zoe_linear {
    const zoe_tensor *bias; /* [out] f32 */
    zoe_act act;
    const zoe_tensor *gate;      /* [groups, out] f32 */
    const zoe_tensor *row_group; /* [rows] i32: the row of `gate` for each row of x; NULL: row 0 for all */
    const zoe_tensor *residual;  /* [rows, out]; may be y itself */
} zoe_linear;

typedef enum zoe_norm_kind {
    ZOE_NORM_LAYER, /* (x - mean) / sqrt(var + eps) */
    ZOE_NORM_RMS,   /* x / sqrt(mean(x^2) + eps) */
    ZOE_NORM_L2,    /* x / max(|x|, eps) * sqrt(channels) */
} zoe_norm_kind;

/* y = act(((norm(x) * weight + bias) * (1 + scale)) + shift) over the last axis; every pointer may be NULL. */
typedef struct zoe_norm {
    zoe_norm_kind kind;
    float eps;
    const zoe_tensor *weight, *bias; /* [channels] f32 */
    const zoe_tensor *scale, *shift; /* [groups, channels] f32, rows may be strided */
    const zoe_tensor *row_group;     /* as in zoe_linear */
    zoe_act act;
} zoe_norm;

/*
 * Query or key preparation: norm over all heads together or over each head, then rotation of interleaved pairs
 * (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin).
 */
typedef struct zoe_qk {
    int64_t heads;
    bool normalise, per_head;
    zoe_norm_kind kind;
    float eps;
    const zoe_tensor *weight, *bias; /* [heads * head_dim], or [head_dim] when per_head; f32 */
    const zoe_tensor *cos, *sin; /* [tokens, head_dim / 2] shared by the heads, or [tokens, heads * head_dim / 2]; f32 */
} zoe_qk;

/* softmax(scale q k^T + bias) v */
typedef struct zoe_attention {
    float scale;
    /* [heads, q_tokens + k_tokens - 1] f32, element k - q + q_tokens - 1: an additive bias by relative position; or NULL */
    const zoe_tensor *relative_bias;
    /* The last key stands for this many equal ones: ln(repeats) is added to its logit. 0 and 1: itself alone. */
    int64_t last_key_repeats;
    /* softmax(scale q more_k^T) more_v is added, of the shapes of k and v but for the number of tokens; or NULL */
    const zoe_tensor *more_k, *more_v;
} zoe_attention;

/*
 * Convolution over [frames, height, width] with zero padding. `history` frames stand in front of x, then pad[0][0] zero
 * frames in front of those. upsample 2 reads x as if every pixel were repeated 2 x 2.
 */
typedef struct zoe_conv {
    int kernel[3], stride[3], pad[3][2]; /* time, height, width; pad: before, after */
    int upsample;                        /* 1 or 2 */
    const zoe_tensor *history;           /* [n, height, width, in] of dense frames that may lie anywhere, or NULL */
    const zoe_tensor *bias;              /* [out] f32 or NULL */
    const zoe_tensor *residual;          /* as y, or y itself, or NULL: added to the result; only channels need be dense */
} zoe_conv;

/*
 * y = act((norm(x) * weight + bias) * scale + shift); the norm is taken over all frames and pixels of a group of channels.
 * scale and shift are maps of fewer frames and pixels, of which each output takes the nearest cell, or both NULL.
 */
typedef struct zoe_group_norm {
    int64_t groups;
    float eps;
    const zoe_tensor *weight, *bias; /* [channels] f32 */
    const zoe_tensor *scale, *shift; /* [t, h, w, channels], dense; height and width of x are multiples of h and w */
    bool first_apart;                /* maps: frame 0 takes map frame 0, which no other frame takes */
    zoe_act act;
} zoe_group_norm;

#define ZOE_LINCOMB_MAX 8

typedef struct zoe_backend_ops {
    const char *name;
    bool host_memory;    /* its memory can be read and written by the processor: weights are used where they are mapped */
    bool key_repeats;    /* attention honours last_key_repeats */
    bool sage;           /* attention honours the backend's `sage` */
    bool computes;       /* false for the plan, whose tensors hold nothing */
    bool quantised_rows; /* norm and linear write rows of int8 and fp8, linear reads them */
    bool scratch;        /* operations take memory of the arena while they run, as the plan of a device foretells it */
    void (*close)(zoe_backend *be);

    /* Memory that lives until freed. Alignment 64 on the host, 256 on a device. */
    int (*alloc)(zoe_backend *be, size_t bytes, void **out);
    void (*free)(zoe_backend *be, void *ptr);
    int (*upload)(zoe_backend *be, void *to, const void *host, size_t bytes);
    int (*download)(zoe_backend *be, void *host, const void *from, size_t bytes);
    /* The same in two halves, `beside`: as zoe_download_beside(); NULL where upload() and download() wait for nothing. */
    int (*upload_begin)(zoe_backend *be, void *to, const void *host, size_t bytes);
    int (*upload_end)(zoe_backend *be);
    int (*download_begin)(zoe_backend *be, void *host, const void *from, size_t bytes, bool beside);
    int (*download_end)(zoe_backend *be);
    int (*synchronize)(zoe_backend *be);

    /*
     * Copies from the host that go on beside the operations; all NULL where host_memory. A place is a number below
     * ZOE_COPY_PLACES, for device memory that is filled again and again.
     */
    int (*pinned_alloc)(zoe_backend *be, size_t bytes, void **out); /* memory that such copies come from */
    void (*pinned_free)(zoe_backend *be, void *ptr, size_t bytes);
    /* Waits on the device for what was asked for before copy_release(place). */
    int (*copy_begin)(zoe_backend *be, int place, void *to, const void *host, size_t bytes);
    int (*copy_wait)(zoe_backend *be, int place);    /* operations from now on come after the copy */
    int (*copy_release)(zoe_backend *be, int place); /* copies from now on come after the operations asked for so far */
    int (*copy_end)(zoe_backend *be, int place);     /* returns when the copy has left the host's memory */
    /* The device has nothing to do until the next copy_wait(): how long that takes is counted. NULL: not counted. */
    int (*copy_expect)(zoe_backend *be);

    void (*trim)(zoe_backend *be); /* gives memory behind the unused part of the arena back to the system */
    /* Puts memory behind the arena's first `bytes` bytes; NULL where the system does that when they are touched. */
    int (*grow)(zoe_backend *be, size_t bytes);

    /* Notes when all that was asked for so far is done; NULL where operations are done when they return. */
    int (*mark)(zoe_backend *be);
    /* The times noted since the last call, of which there are `count`, in seconds from the first. Waits. */
    int (*marks)(zoe_backend *be, size_t count, double *seconds);

    int (*linear)(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p);
    int (*quantise)(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x); /* NULL: has no quantised products */
    int (*norm)(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_norm *p);
    int (*qk_prepare)(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_qk *p);
    int (*attention)(zoe_backend *be, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                     const zoe_attention *p);
    int (*conv)(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_conv *p);
    int (*group_norm)(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_group_norm *p); /* NULL: has none */
    int (*embedding)(zoe_backend *be, zoe_tensor *y, const zoe_tensor *table, const zoe_tensor *ids);
    int (*copy)(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x);
    int (*zero)(zoe_backend *be, zoe_tensor *y);
    int (*activate)(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *times, zoe_act act);
    int (*scale_shift)(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *scale,
                       const zoe_tensor *shift);
    int (*lincomb)(zoe_backend *be, zoe_tensor *y, int count, const zoe_tensor *const *x, const float *coefficients);
    int (*finite)(zoe_backend *be, const zoe_tensor *x, bool *out);
} zoe_backend_ops;

#define ZOE_COPY_PLACES 12

typedef enum zoe_offload {
    ZOE_OFFLOAD_AUTO,  /* as much of a part as its budget allows stays while the part is at work */
    ZOE_OFFLOAD_NONE,  /* everything stays */
    ZOE_OFFLOAD_MODEL, /* a part is there as a whole while it is at work */
    ZOE_OFFLOAD_BLOCK, /* no block stays */
} zoe_offload;

/* Weights on a backend. Host memory counts here where it stands beside a device; bytes throughout. */
typedef struct zoe_weight_use {
    zoe_offload offload;
    int64_t budget, host_budget; /* that may be held at a time; 0: no limit */
    int ahead;                   /* streaming blocks on their way while one is at work; 0: one */
    int64_t held, peak;          /* in the backend's memory, now and at most so far */
    int64_t host_held, host_peak;
    int64_t least, host_least; /* smallest budgets under which what was used so far runs */
    int64_t loaded;            /* brought into the backend's memory, again and again where weights stream */
    int64_t read;              /* from files, for a device */
    int64_t from_disk;         /* of that, in a plan, what the page cache cannot give */
    double read_seconds;       /* during which files were being read */
    double stalled;            /* seconds for which operations waited for weights */
} zoe_weight_use;

/* Work counted by the wrappers, for rates and plans. */
typedef struct zoe_work {
    double linear_flops, attention_flops, conv_flops;
    double int8_flops, fp8_flops; /* of the linear ones, those with weights in that form */
    double sage_flops;            /* of attention, through int8 and e4m3 */
    double bytes;                 /* read and written by the operations, each operand once */
    double seconds;               /* that they take by the rates of a plan; 0 where they are computed */
} zoe_work;

zoe_work zoe_work_since(const zoe_work *now, const zoe_work *before);

/* Stack memory for activations: one reservation a backend, taken and given back in order. */
typedef struct zoe_arena {
    char *base;
    size_t size, used, peak;
    size_t backed; /* bytes with memory behind them, where the backend has grow() */
} zoe_arena;

struct zoe_backend {
    const zoe_backend_ops *ops;
    zoe_context *ctx;
    zoe_dtype dtype;   /* of activations */
    int64_t rows;      /* of tokens that layers take at a time where they can; 0: as many as are fastest */
    bool together;     /* the branches of a guided step go through each block while its weights are there */
    bool sage;         /* attention over long sequences may go through int8 and e4m3 */
    int sage_value;    /* bytes of its values on a device: 1, or 2 where they are halves instead of e4m3 */
    int64_t workspace; /* bytes that the processor's kernels have for themselves; of a plan: touch */
    zoe_weight_use weights;
    /* Memory of a device: held now and at most so far, as its driver counts it, and allowed (0: no limit). */
    int64_t device_bytes, device_peak, device_budget;
    int64_t device_context;        /* of it, what the driver takes for itself and for kernels */
    int64_t host_bytes, host_peak; /* memory of zoe_host_alloc() now, and at most so far */
    zoe_arena arena;
    zoe_work work;
    struct zoe_profile *profile; /* NULL: none is wanted (backend/profile.h) */
};

/*
 * The CPU, computing in float32 with the kernels that the processor and the context's cpu_mask allow. `arena_bytes`: the
 * address range kept for activations (pages are taken from the system when first touched); 0: a generous default.
 */
int zoe_cpu_backend_create(zoe_context *ctx, size_t arena_bytes, zoe_backend **out);

/* The levels of kernels that this processor has, as bits of a cpu_mask. */
#define ZOE_CPU_AVX2   1u
#define ZOE_CPU_AVX512 2u
#define ZOE_CPU_VNNI   4u /* of AVX or AVX-512 */
uint32_t zoe_cpu_levels(void);

/* Computes nothing and keeps the books: for activations of type `dtype`, on the processor or on a device. */
int zoe_plan_backend_create(zoe_context *ctx, zoe_dtype dtype, bool device, zoe_backend **out);

/*
 * What a machine reaches, in operations and bytes a second; 0: not known. Heads of attention are 128 or 64 channels wide.
 */
typedef struct zoe_rates {
    double product, int8, fp8; /* products: in the backend's own type; with weights and rows of 8 bits */
    double attention[2], sage[2];
    double conv;
    double bytes;  /* read and written */
    double copy;   /* from locked memory of the host to a device */
    double disk;   /* files of weights; 0: they lie in memory */
    double least;  /* seconds that every operation takes to begin */
    double steady; /* what stays of products, attention and convolutions when a device is at work for long; 0: all */
} zoe_rates;

/* From now on a plan counts work.seconds: an operation takes the longer of its products and its bytes. */
void zoe_plan_backend_rates(zoe_backend *be, const zoe_rates *rates);

/* The same for what `be` would compute: its type of activations, its kind of memory, its budgets. */
int zoe_plan_backend_like(const zoe_backend *be, zoe_backend **out);

void zoe_backend_close(zoe_backend *be);

/* ---- arena ---- */

/* A dense tensor on top of the arena's stack. */
int zoe_new_tensor(zoe_backend *be, zoe_tensor *t, zoe_dtype dtype, int rank, const int64_t *shape);
#define ZOE_NEW(be, t, dtype, ...)                                                                                         \
    zoe_new_tensor((be), (t), (dtype), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                          \
                   (const int64_t[]){__VA_ARGS__})

/* Activations [rows, width] of any type; those of int8 and fp8 have a scale a row behind them. */
int zoe_new_rows(zoe_backend *be, zoe_tensor *t, zoe_dtype dtype, int64_t rows, int64_t width);

/* zoe_arena_release() gives back what was taken since the mark. */
size_t zoe_arena_mark(const zoe_backend *be);
void zoe_arena_release(zoe_backend *be, size_t mark);

/* Gives the memory above the stack back to the system: at the end of a phase whose tensors were larger than the next one's.
 */
void zoe_arena_trim(zoe_backend *be);

/* ---- memory ---- */

/* A dense tensor that lives until zoe_backend_free(t.data). */
int zoe_backend_alloc(zoe_backend *be, zoe_tensor *t, zoe_dtype dtype, int rank, const int64_t *shape);
void zoe_backend_free(zoe_backend *be, void *data);

/* Large memory on the host, for what waits there to be used again: counted, and made up where nothing is computed. */
int zoe_host_alloc(zoe_backend *be, size_t bytes, void **out);
void zoe_host_free(zoe_backend *be, void *memory);

int zoe_upload(zoe_backend *be, const zoe_tensor *to, const void *host); /* dense, the tensor's bytes */
int zoe_download(zoe_backend *be, void *host, const zoe_tensor *from);   /* dense, the tensor's bytes */
/*
 * The same in two halves, one at a time. `host` may change once zoe_upload_begin() returned, and is filled once
 * zoe_download_end() did. Operations asked for between the halves run beside an upload and leave `to` alone; they run after
 * a download, or beside it and leave `from` alone.
 */
int zoe_upload_begin(zoe_backend *be, const zoe_tensor *to, const void *host);
int zoe_upload_end(zoe_backend *be);
int zoe_download_beside(zoe_backend *be, void *host, const zoe_tensor *from);
int zoe_download_begin(zoe_backend *be, void *host, const zoe_tensor *from);
int zoe_download_end(zoe_backend *be);
int zoe_synchronize(zoe_backend *be);

/* ---- operations; y is always preallocated, shapes are checked ---- */

/*
 * y[rows, out] from x[rows, in] and w[out, in]; leading axes are joined into rows, which may be strided. Quantised rows of
 * x have the form of w; quantised rows of y have no residual.
 */
int zoe_op_linear(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p);

/* The quantised matrix (or rows) y [out, in], in memory of zoe_quantised_bytes(), from the float matrix x [out, in], dense.
 */
int zoe_op_quantise(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x);

/* Over the last axis of x; y may be x, or quantised rows. Rows may be strided. */
int zoe_op_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_norm *p);

/* y, x [tokens, heads * head_dim]; y may be x. */
int zoe_op_qk_prepare(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_qk *p);

/* y, q [heads, q_tokens, head_dim]; k [heads, k_tokens, head_dim]; v [heads, k_tokens, value_dim]; any strides, last axis
 * dense. */
int zoe_op_attention(zoe_backend *be, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                     const zoe_attention *p);

/* For backends: attention to k and v and to more_k and more_v one after the other, with memory of the arena between. */
int zoe_attention_apart(zoe_backend *be, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                        const zoe_attention *p);

/* y [frames', height', width', out], x [frames, height, width, in], w [out, kt, kh, kw, in]. */
int zoe_op_conv(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_conv *p);

/* y, x [frames, height, width, channels], dense; y may be x. */
int zoe_op_group_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_group_norm *p);

/* y[n, channels] = table[ids[n], channels]; ids i32. */
int zoe_op_embedding(zoe_backend *be, zoe_tensor *y, const zoe_tensor *table, const zoe_tensor *ids);

/* Elementwise on equal shapes with any strides; float types convert. */
int zoe_op_copy(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x);
int zoe_op_zero(zoe_backend *be, zoe_tensor *y);
int zoe_op_activate(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *times,
                    zoe_act act); /* act(x) * times */
int zoe_op_lincomb(zoe_backend *be, zoe_tensor *y, int count, const zoe_tensor *const *x, const float *coefficients);

/* y = x * scale[channel] + shift[channel] over the last axis; scale or shift may be NULL. */
int zoe_op_scale_shift(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *scale,
                       const zoe_tensor *shift);

/* *out: no element is NaN or infinite. Waits for the result. */
int zoe_op_finite(zoe_backend *be, const zoe_tensor *x, bool *out);

#endif
