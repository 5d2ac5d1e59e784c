#include "nn/conv.h"

/* I, O: channels in and out; T, H, W: kernel */
static const zoe_slot conv_slots[] = {
    {"weight", offsetof(zoe_carrier, w), ZOE_SLOT_CONV, "O I T H W", 0},
    {"bias", offsetof(zoe_carrier, b), ZOE_SLOT_VECTOR, "O", 0},
    {0},
};

static const zoe_slot frame_conv_slots[] = {
    {"weight", offsetof(zoe_carrier, w), ZOE_SLOT_CONV, "O I H W", 0},
    {"bias", offsetof(zoe_carrier, b), ZOE_SLOT_VECTOR, "O", 0},
    {0},
};

int zoe_carrier_bind(zoe_weights *weights, zoe_carrier *conv, int64_t in, int64_t out, const int kernel[3],
                     const char *prefix) {
    const zoe_dims dims = {['I' - 'A'] = in,
                           ['O' - 'A'] = out,
                           ['T' - 'A'] = kernel[0],
                           ['H' - 'A'] = kernel[1],
                           ['W' - 'A'] = kernel[2]};
    return zoe_weights_bind(weights, kernel[0] ? conv_slots : frame_conv_slots, dims, conv, "%s", prefix);
}

/* ---- the past ---- */

int zoe_carrier_begin(zoe_backend *be, zoe_carrier *conv, int64_t height, int64_t width, int64_t room) {
    int64_t channels = conv->w.shape[4], values = height * width * channels;
    zoe_tensor memory;
    conv->carried = 0;
    if (conv->w.shape[1] == 1) return ZOE_OK;
    for (int i = 0; i < 2; i++) {
        ZOE_TRY(ZOE_NEW(be, &memory, be->dtype, values > room ? values : room));
        conv->slots[i] = memory.data;
    }
    conv->frame = ZOE_TENSOR(memory.data, be->dtype, 1, height, width, channels);
    return ZOE_OK;
}

int zoe_carrier_begin_zero(zoe_backend *be, zoe_carrier *conv, int64_t height, int64_t width, int64_t room) {
    ZOE_TRY(zoe_carrier_begin(be, conv, height, width, room));
    if (conv->w.shape[1] == 1) return ZOE_OK;
    conv->carried = 2;
    for (int i = 0; i < 2; i++) {
        conv->frame.data = conv->slots[i];
        ZOE_TRY(zoe_op_zero(be, &conv->frame));
    }
    return ZOE_OK;
}

/* [2, height, width, in] in front of x. The frames lie anywhere, so the first axis has any stride. */
static zoe_tensor past_of(const zoe_carrier *conv, const zoe_tensor *x) {
    zoe_tensor past = conv->frame;
    past.shape[0] = 2;
    past.stride[0] = 0;
    past.data = conv->carried > 1 ? conv->slots[0] : conv->carried == 1 ? conv->slots[1] : x->data;
    if (conv->carried > 1)
        past.stride[0] =
            ((intptr_t)conv->slots[1] - (intptr_t)conv->slots[0]) / (intptr_t)zoe_dtype_size(conv->frame.dtype);
    return past;
}

void zoe_carrier_swap(zoe_carrier *conv, zoe_tensor *x) {
    void *freed = conv->slots[0];
    conv->slots[0] = conv->slots[1];
    conv->slots[1] = x->data;
    x->data = freed;
    conv->carried++;
}

int zoe_carrier_copy(zoe_backend *be, zoe_carrier *conv, const zoe_tensor *x) {
    for (int64_t i = x->shape[0] > 2 ? x->shape[0] - 2 : 0; i < x->shape[0]; i++) {
        zoe_tensor to = conv->frame, from = zoe_view_slice(x, 0, i, 1);
        to.data = conv->slots[0];
        ZOE_TRY(zoe_op_copy(be, &to, &from));
        conv->slots[0] = conv->slots[1];
        conv->slots[1] = to.data;
        conv->carried++;
    }
    return ZOE_OK;
}

zoe_tensor zoe_carrier_last(const zoe_carrier *conv) {
    zoe_tensor last = conv->frame;
    last.data = conv->slots[1];
    return last;
}

/* ---- computing ---- */

static zoe_conv settings(const zoe_carrier *conv, const zoe_edges *edges) {
    const int64_t *kernel = conv->w.shape + 1;
    zoe_conv p = {.kernel = {(int)kernel[0], (int)kernel[1], (int)kernel[2]},
                  .stride = {1, 1, 1},
                  .upsample = 1,
                  .bias = &conv->b};
    for (int axis = 0; axis < 2; axis++)
        for (int end = 0; end < 2; end++)
            p.pad[1 + axis][end] = edges && edges->inner[axis][end] ? 0 : (int)kernel[1 + axis] / 2;
    return p;
}

int zoe_carrier_run(zoe_backend *be, const zoe_carrier *conv, const zoe_edges *edges, zoe_tensor *y, const zoe_tensor *x,
                    const zoe_tensor *residual) {
    zoe_conv p = settings(conv, edges);
    zoe_tensor past;
    p.residual = residual;
    if (p.kernel[0] > 1) {
        past = past_of(conv, x);
        p.history = &past;
    }
    return zoe_op_conv(be, y, x, &conv->w, &p);
}

int zoe_carrier_enlarge(zoe_backend *be, const zoe_carrier *conv, const zoe_edges *edges, zoe_tensor *y,
                        const zoe_tensor *x) {
    zoe_conv p = settings(conv, edges);
    p.upsample = 2;
    return zoe_op_conv(be, y, x, &conv->w, &p);
}

void zoe_edges_shrink(const zoe_edges *edges, int64_t size[2], int64_t depth) {
    for (int axis = 0; edges && axis < 2; axis++) size[axis] -= (edges->inner[axis][0] + edges->inner[axis][1]) * depth;
}

zoe_tensor zoe_edges_cut(const zoe_edges *edges, const zoe_tensor *x, int64_t depth) {
    int64_t size[2] = {x->shape[1], x->shape[2]};
    zoe_tensor part = *x;
    zoe_edges_shrink(edges, size, depth);
    for (int axis = 0; edges && axis < 2; axis++)
        part = zoe_view_slice(&part, 1 + axis, edges->inner[axis][0] ? depth : 0, size[axis]);
    return part;
}
