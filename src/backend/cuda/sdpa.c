/*
 * Attention through cuDNN's graph API. A plan is built once for each shape: from the one operation that newer versions
 * have, else from its parts (product, scale, softmax in steps, product), which older ones fuse by themselves.
 */
#include <cudnn.h>
#include <string.h>

#include "backend/cuda/cuda.h"

#define DESCRIPTORS    64
#define CONFIGURATIONS 8

enum { UID_Q = 1, UID_K, UID_V, UID_Y, UID_SCALE, UID_FREE };

/* What a plan depends on: heads, queries, keys, channels, then the strides of q, k, v, y. */
typedef struct shape {
    int64_t heads, queries, keys, dim, stride[4][2];
} shape;

typedef struct plan {
    shape shape;
    cudnnBackendDescriptor_t how; /* NULL: cuDNN has nothing for this shape */
    int64_t workspace;
} plan;

struct zoe_cuda_sdpa {
    cudnnHandle_t handle;
    plan *plans;
    size_t count, capacity;
};

/* ---- descriptors ---- */

/* Everything created while a graph is described, freed together; the first failure stays in `status`. */
typedef struct builder {
    const shape *shape;
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t all[DESCRIPTORS], operations[16];
    int count, operation_count;
    int64_t next_uid;
    cudnnStatus_t status;
} builder;

static cudnnBackendDescriptor_t create(builder *b, cudnnBackendDescriptorType_t type) {
    cudnnBackendDescriptor_t made = NULL;
    if (b->status == CUDNN_STATUS_SUCCESS && b->count == DESCRIPTORS) b->status = CUDNN_STATUS_INTERNAL_ERROR;
    if (b->status == CUDNN_STATUS_SUCCESS) b->status = cudnnBackendCreateDescriptor(type, &made);
    if (b->status == CUDNN_STATUS_SUCCESS) b->all[b->count++] = made;
    return made;
}

static void set(builder *b, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                int64_t count, const void *values) {
    if (b->status == CUDNN_STATUS_SUCCESS) b->status = cudnnBackendSetAttribute(d, name, type, count, values);
}

static void set_descriptor(builder *b, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                           cudnnBackendDescriptor_t value) {
    set(b, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void finalize(builder *b, cudnnBackendDescriptor_t d) {
    if (b->status == CUDNN_STATUS_SUCCESS) b->status = cudnnBackendFinalize(d);
}

static void destroy_all(builder *b) {
    while (b->count > 0) cudnnBackendDestroyDescriptor(b->all[--b->count]);
}

static cudnnBackendDescriptor_t tensor(builder *b, int64_t uid, cudnnDataType_t type, const int64_t dims[4],
                                       const int64_t strides[4], bool inner, bool by_value) {
    int64_t alignment = by_value ? 4 : 16;
    cudnnBackendDescriptor_t d = create(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set(b, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set(b, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(b, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    set(b, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
    set(b, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
    set(b, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &inner);
    set(b, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    finalize(b, d);
    return d;
}

/* Operand `which` (0 q, 1 k, 2 v, 3 y) as [1, heads, tokens, channels], or with the last two axes exchanged. */
static cudnnBackendDescriptor_t operand(builder *b, int which, bool turned) {
    const shape *s = b->shape;
    int64_t tokens = which == 1 || which == 2 ? s->keys : s->queries, head = s->stride[which][0], row = s->stride[which][1];
    int64_t dims[4] = {1, s->heads, turned ? s->dim : tokens, turned ? tokens : s->dim};
    int64_t strides[4] = {head * s->heads, head, turned ? 1 : row, turned ? row : 1};
    return tensor(b, UID_Q + which, CUDNN_DATA_BFLOAT16, dims, strides, false, false);
}

static cudnnBackendDescriptor_t scale_operand(builder *b) {
    static const int64_t ones[4] = {1, 1, 1, 1};
    return tensor(b, UID_SCALE, CUDNN_DATA_FLOAT, ones, ones, false, true);
}

/* A result that exists only inside the kernel: [1, heads, queries, width]. */
static cudnnBackendDescriptor_t inner(builder *b, cudnnDataType_t type, int64_t width) {
    const shape *s = b->shape;
    int64_t dims[4] = {1, s->heads, s->queries, width};
    int64_t strides[4] = {s->heads * s->queries * width, s->queries * width, width, 1};
    return tensor(b, b->next_uid++, type, dims, strides, true, false);
}

/* ---- graphs ---- */

static void one_operation(builder *b) {
    cudnnBackendDescriptor_t op = create(b, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, operand(b, 0, false));
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, operand(b, 1, false));
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, operand(b, 2, false));
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, operand(b, 3, false));
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, scale_operand(b));
    finalize(b, op);
    b->operations[b->operation_count++] = op;
}

static const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;

static void matmul(builder *b, cudnnBackendDescriptor_t left, cudnnBackendDescriptor_t right,
                   cudnnBackendDescriptor_t out) {
    cudnnBackendDescriptor_t what = create(b, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set(b, what, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    finalize(b, what);
    cudnnBackendDescriptor_t op = create(b, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, left);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, right);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, out);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, what);
    finalize(b, op);
    b->operations[b->operation_count++] = op;
}

static void pointwise(builder *b, cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t other,
                      cudnnBackendDescriptor_t y) {
    cudnnBackendDescriptor_t what = create(b, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(b, what, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(b, what, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    finalize(b, what);
    cudnnBackendDescriptor_t op = create(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, what);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (other) set_descriptor(b, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, other);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    finalize(b, op);
    b->operations[b->operation_count++] = op;
}

static void reduction(builder *b, cudnnReduceTensorOp_t mode, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t y) {
    cudnnBackendDescriptor_t what = create(b, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(b, what, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode);
    set(b, what, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    finalize(b, what);
    cudnnBackendDescriptor_t op = create(b, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    set_descriptor(b, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, what);
    finalize(b, op);
    b->operations[b->operation_count++] = op;
}

static void many_operations(builder *b) {
    int64_t keys = b->shape->keys;
    cudnnBackendDescriptor_t scores = inner(b, CUDNN_DATA_FLOAT, keys), scaled = inner(b, CUDNN_DATA_FLOAT, keys);
    cudnnBackendDescriptor_t top = inner(b, CUDNN_DATA_FLOAT, 1), below = inner(b, CUDNN_DATA_FLOAT, keys);
    cudnnBackendDescriptor_t power = inner(b, CUDNN_DATA_FLOAT, keys), sum = inner(b, CUDNN_DATA_FLOAT, 1);
    cudnnBackendDescriptor_t p = inner(b, CUDNN_DATA_BFLOAT16, keys);
    matmul(b, operand(b, 0, false), operand(b, 1, true), scores);
    pointwise(b, CUDNN_POINTWISE_MUL, scores, scale_operand(b), scaled);
    reduction(b, CUDNN_REDUCE_TENSOR_MAX, scaled, top);
    pointwise(b, CUDNN_POINTWISE_SUB, scaled, top, below);
    pointwise(b, CUDNN_POINTWISE_EXP, below, NULL, power);
    reduction(b, CUDNN_REDUCE_TENSOR_ADD, power, sum);
    pointwise(b, CUDNN_POINTWISE_DIV, power, sum, p);
    matmul(b, p, operand(b, 2, false), operand(b, 3, false));
}

/* ---- plans ---- */

static bool make_plan(builder *b, cudnnBackendDescriptor_t configuration, plan *out) {
    cudnnBackendDescriptor_t how = NULL;
    int64_t count;
    if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &how) != CUDNN_STATUS_SUCCESS) return false;
    bool good = cudnnBackendSetAttribute(how, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &b->handle) ==
                    CUDNN_STATUS_SUCCESS &&
                cudnnBackendSetAttribute(how, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                         &configuration) == CUDNN_STATUS_SUCCESS &&
                cudnnBackendFinalize(how) == CUDNN_STATUS_SUCCESS &&
                cudnnBackendGetAttribute(how, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count,
                                         &out->workspace) == CUDNN_STATUS_SUCCESS;
    if (good)
        out->how = how;
    else
        cudnnBackendDestroyDescriptor(how);
    return good;
}

/* The first configuration of the heuristics' list that can be built. */
static void build(zoe_cuda_sdpa *sdpa, void (*describe)(builder *b), plan *out) {
    builder b = {.shape = &out->shape, .handle = sdpa->handle, .next_uid = UID_FREE, .status = CUDNN_STATUS_SUCCESS};
    cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    cudnnBackendDescriptor_t configurations[CONFIGURATIONS];
    int64_t found = 0;
    describe(&b);
    cudnnBackendDescriptor_t graph = create(&b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(&b, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, b.operation_count, b.operations);
    set(&b, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &b.handle);
    finalize(&b, graph);
    cudnnBackendDescriptor_t heuristics = create(&b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_descriptor(&b, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(&b, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    finalize(&b, heuristics);
    for (int i = 0; i < CONFIGURATIONS; i++) configurations[i] = create(&b, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (b.status == CUDNN_STATUS_SUCCESS)
        b.status = cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                            CONFIGURATIONS, &found, configurations);
    if (b.status == CUDNN_STATUS_SUCCESS)
        for (int i = 0; i < found && i < CONFIGURATIONS && !out->how; i++) make_plan(&b, configurations[i], out);
    destroy_all(&b);
}

static int find_plan(zoe_cuda *cuda, const shape *s, plan **out) {
    zoe_cuda_sdpa *sdpa = cuda->sdpa;
    for (size_t i = 0; i < sdpa->count; i++)
        if (memcmp(&sdpa->plans[i].shape, s, sizeof *s) == 0) {
            *out = &sdpa->plans[i];
            return ZOE_OK;
        }
    if (sdpa->count == sdpa->capacity) {
        size_t capacity = sdpa->capacity ? 2 * sdpa->capacity : 16;
        plan *plans = zoe_realloc(cuda->base.ctx, sdpa->plans, capacity * sizeof *plans);
        if (!plans) return zoe_out_of_memory(cuda->base.ctx, capacity * sizeof *plans, "plans of attention");
        sdpa->plans = plans;
        sdpa->capacity = capacity;
    }
    *out = &sdpa->plans[sdpa->count++];
    **out = (plan){.shape = *s};
    build(sdpa, one_operation, *out);
    if (!(*out)->how) build(sdpa, many_operations, *out);
    zoe_log(cuda->base.ctx, (*out)->how ? ZOE_LOG_DEBUG : ZOE_LOG_INFO, "cuDNN %s attention of %lld x %lld tokens",
            (*out)->how ? "plans" : "has no", (long long)s->queries, (long long)s->keys);
    return ZOE_OK;
}

static int open_sdpa(zoe_cuda *cuda) {
    zoe_context *ctx = cuda->base.ctx;
    if (cuda->sdpa) return ZOE_OK;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, cuda->sdpa, 1));
    cudnnStatus_t status = cudnnCreate(&cuda->sdpa->handle);
    if (status == CUDNN_STATUS_SUCCESS) status = cudnnSetStream(cuda->sdpa->handle, cuda->stream);
    if (status == CUDNN_STATUS_SUCCESS) return ZOE_OK;
    return zoe_fail(ctx, ZOE_ERR_DEVICE, "device %d: cuDNN: %s", cuda->device, cudnnGetErrorString(status));
}

static int execute(zoe_cuda *cuda, const plan *chosen, void *const data[5]) {
    zoe_backend *be = &cuda->base;
    static const int64_t uids[5] = {UID_Q, UID_K, UID_V, UID_Y, UID_SCALE};
    builder b = {.status = CUDNN_STATUS_SUCCESS};
    zoe_tensor workspace = {0};
    size_t mark = zoe_arena_mark(be);
    if (chosen->workspace) ZOE_TRY(zoe_new_tensor(be, &workspace, ZOE_U8, 1, &chosen->workspace));
    cudnnBackendDescriptor_t pack = create(&b, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    set(&b, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 5, data);
    set(&b, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 5, uids);
    set(&b, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace.data);
    finalize(&b, pack);
    if (b.status == CUDNN_STATUS_SUCCESS) b.status = cudnnBackendExecute(cuda->sdpa->handle, chosen->how, pack);
    destroy_all(&b);
    zoe_arena_release(be, mark);
    if (b.status == CUDNN_STATUS_SUCCESS) return ZOE_OK;
    return zoe_fail(be->ctx, ZOE_ERR_DEVICE, "device %d: cuDNN attention: %s", cuda->device, cudnnGetErrorString(b.status));
}

int zoe_cuda_sdpa_run(zoe_cuda *cuda, zoe_tensor *y, const zoe_tensor *q, const zoe_tensor *k, const zoe_tensor *v,
                      float scale, bool *done) {
    const zoe_tensor *all[4] = {q, k, v, y};
    shape s = {.heads = q->shape[0], .queries = q->shape[1], .keys = k->shape[1], .dim = q->shape[2]};
    plan *chosen = NULL;
    *done = false;
    if (s.dim % 8 || s.dim > 128) return ZOE_OK;
    for (int i = 0; i < 4; i++) s.stride[i][0] = all[i]->stride[0], s.stride[i][1] = all[i]->stride[1];
    ZOE_TRY(open_sdpa(cuda));
    ZOE_TRY(find_plan(cuda, &s, &chosen));
    if (!chosen->how) return ZOE_OK;
    ZOE_TRY(execute(cuda, chosen, (void *const[5]){q->data, k->data, v->data, y->data, &scale}));
    *done = true;
    return ZOE_OK;
}

void zoe_cuda_sdpa_close(zoe_cuda *cuda) {
    zoe_cuda_sdpa *sdpa = cuda->sdpa;
    if (!sdpa) return;
    for (size_t i = 0; i < sdpa->count; i++)
        if (sdpa->plans[i].how) cudnnBackendDestroyDescriptor(sdpa->plans[i].how);
    if (sdpa->handle) cudnnDestroy(sdpa->handle);
    zoe_free(cuda->base.ctx, sdpa->plans);
    zoe_free(cuda->base.ctx, sdpa);
}
