/* The CUDA backend's object, and the plug-in that makes it. */
#include "backend/cuda/cuda.h"

#include <stdio.h>
#include <string.h>

/* ---- failures ---- */

int zoe_cuda_check(zoe_backend *be, cudaError_t error, const char *what) {
    if (error == cudaSuccess) return ZOE_OK;
    cudaGetLastError(); /* it was told */
    int status = error == cudaErrorMemoryAllocation ? ZOE_ERR_NOMEM : ZOE_ERR_DEVICE;
    return zoe_fail(be->ctx, status, "device %d: %s (%s)", zoe_cuda_of(be)->device, cudaGetErrorString(error), what);
}

int zoe_cuda_blas_check(zoe_backend *be, cublasStatus_t status, const char *what) {
    if (status == CUBLAS_STATUS_SUCCESS) return ZOE_OK;
    return zoe_fail(be->ctx, ZOE_ERR_DEVICE, "device %d: cuBLASLt: %s (%s)", zoe_cuda_of(be)->device,
                    cublasLtGetStatusString(status), what);
}

int zoe_cuda_need_float(zoe_backend *be, const char *op, const zoe_tensor *t) {
    if (!t || t->dtype == ZOE_F32 || t->dtype == ZOE_BF16 || t->dtype == ZOE_F16) return ZOE_OK;
    return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "%s: F32, BF16 or F16 is needed, found %s", op, zoe_dtype_name(t->dtype));
}

/* ---- life ---- */

static int cuda_synchronize(zoe_backend *be) {
    ZOE_TRY(zoe_cuda_check(be, cudaStreamSynchronize(zoe_cuda_of(be)->stream), "waiting"));
    return zoe_cuda_copies_synchronize(zoe_cuda_of(be));
}

static void cuda_close(zoe_backend *be) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    cudaSetDevice(cuda->device);
    if (cuda->stream) cudaStreamSynchronize(cuda->stream);
    zoe_cuda_sdpa_close(cuda);
    zoe_cuda_plans_close(cuda);
    if (cuda->blas) cublasLtDestroy(cuda->blas);
    cudaFree(cuda->blas_workspace);
    cudaFree(cuda->flag);
    zoe_cuda_copies_close(cuda);
    zoe_cuda_marks_close(cuda);
    zoe_cuda_staging_close(cuda);
    zoe_pool_close(&cuda->pool);
    zoe_cuda_arena_close(cuda);
    if (cuda->stream) cudaStreamDestroy(cuda->stream);
    zoe_free(be->ctx, cuda);
}

static const zoe_backend_ops ops = {
    .name = "cuda",
    .key_repeats = true,
    .sage = true,
    .computes = true,
    .scratch = true,
    .quantised_rows = true,
    .close = cuda_close,
    .alloc = zoe_cuda_alloc,
    .free = zoe_cuda_free,
    .upload = zoe_cuda_upload,
    .download = zoe_cuda_download,
    .upload_begin = zoe_cuda_upload_begin,
    .upload_end = zoe_cuda_upload_end,
    .download_begin = zoe_cuda_download_begin,
    .download_end = zoe_cuda_download_end,
    .synchronize = cuda_synchronize,
    .pinned_alloc = zoe_cuda_pinned_alloc,
    .pinned_free = zoe_cuda_pinned_free,
    .copy_begin = zoe_cuda_copy_begin,
    .copy_wait = zoe_cuda_copy_wait,
    .copy_release = zoe_cuda_copy_release,
    .copy_end = zoe_cuda_copy_end,
    .copy_expect = zoe_cuda_copy_expect,
    .trim = zoe_cuda_arena_trim,
    .grow = zoe_cuda_arena_grow,
    .mark = zoe_cuda_mark,
    .marks = zoe_cuda_marks_take,
    .linear = zoe_cuda_linear,
    .quantise = zoe_cuda_quantise,
    .norm = zoe_cuda_norm,
    .qk_prepare = zoe_cuda_qk_prepare,
    .attention = zoe_cuda_attention,
    .conv = zoe_cuda_conv,
    .group_norm = zoe_cuda_group_norm_run,
    .embedding = zoe_cuda_embedding,
    .copy = zoe_cuda_copy,
    .zero = zoe_cuda_zero,
    .activate = zoe_cuda_activate,
    .scale_shift = zoe_cuda_scale_shift,
    .lincomb = zoe_cuda_lincomb,
    .finite = zoe_cuda_finite,
};

static int open_device(zoe_cuda *cuda, const zoe_plugin_settings *settings) {
    zoe_backend *be = &cuda->base;
    struct cudaDeviceProp properties;
    size_t available, total;
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    ZOE_CUDA(be, cudaGetDeviceProperties(&properties, cuda->device));
    cuda->level = properties.major * 10 + properties.minor;
    if (cuda->level < 80)
        return zoe_fail(be->ctx, ZOE_ERR_UNSUPPORTED, "device %d: %s has compute capability %d.%d; 8.0 or more is needed",
                        cuda->device, properties.name, properties.major, properties.minor);
    if (settings->largest_level && settings->largest_level < cuda->level) cuda->level = settings->largest_level;
    be->sage_value = cuda->level < 89 ? 2 : 1;
    cuda->processors = properties.multiProcessorCount;
    cuda->shared_bytes = (int)properties.sharedMemPerBlockOptin;
    ZOE_CUDA(be, cudaMemGetInfo(&available, &total));
    zoe_cuda_pool_open(cuda);
    zoe_device_open(be, zoe_device_context(cuda->processors, (int64_t)(total - available)));
    be->device_budget = (int64_t)available + be->device_context - ZOE_DEVICE_MARGIN;
    if (be->device_budget < 1) be->device_budget = 1;
    if (settings->budget && settings->budget < be->device_budget) be->device_budget = settings->budget;
    ZOE_CUDA(be, cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking));
    ZOE_CUDA(be, cudaMalloc((void **)&cuda->flag, sizeof *cuda->flag));
    ZOE_CUDA(be, cudaMalloc(&cuda->blas_workspace, ZOE_CUDA_BLAS_WORKSPACE));
    ZOE_TRY(zoe_cuda_blas_check(be, cublasLtCreate(&cuda->blas), "start"));
    return zoe_cuda_arena_open(cuda, total);
}

/* ---- the plug-in ---- */

static int driver_failure(zoe_context *ctx, cudaError_t error) {
    cudaGetLastError();
    return zoe_fail(ctx, ZOE_ERR_DEVICE, "CUDA: %s", cudaGetErrorString(error));
}

static int plugin_count(zoe_context *ctx, int *count) {
    *count = 0;
    cudaError_t error = cudaGetDeviceCount(count);
    return error == cudaSuccess ? ZOE_OK : driver_failure(ctx, error);
}

static int plugin_describe(zoe_context *ctx, int device, zoe_plugin_device *out) {
    struct cudaDeviceProp properties;
    size_t available = 0, total = 0;
    cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error == cudaSuccess) error = cudaSetDevice(device);
    if (error == cudaSuccess) error = cudaMemGetInfo(&available, &total);
    if (error != cudaSuccess) return driver_failure(ctx, error);
    *out = (zoe_plugin_device){.level = properties.major * 10 + properties.minor,
                               .processors = properties.multiProcessorCount,
                               .memory_total = (int64_t)total,
                               .memory_free = (int64_t)available};
    snprintf(out->name, sizeof out->name, "%s", properties.name);
    return ZOE_OK;
}

static int plugin_create(zoe_context *ctx, const zoe_plugin_settings *settings, zoe_backend **out) {
    int count;
    zoe_cuda *cuda;
    *out = NULL;
    ZOE_TRY(plugin_count(ctx, &count));
    if (settings->device < 0 || settings->device >= count)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "device cuda:%d: found %d CUDA device%s, counted from 0", settings->device,
                        count, count == 1 ? "" : "s");
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, cuda, 1));
    cuda->base = (zoe_backend){.ops = &ops, .ctx = ctx, .dtype = settings->dtype};
    cuda->device = settings->device;
    int status = open_device(cuda, settings);
    if (status < 0) {
        cuda_close(&cuda->base);
        return status;
    }
    *out = &cuda->base;
    return ZOE_OK;
}

ZOE_API const zoe_plugin *zoe_backend_plugin(void);

const zoe_plugin *zoe_backend_plugin(void) {
    static const zoe_plugin plugin = {.layout = ZOE_PLUGIN_LAYOUT,
                                      .backend_size = sizeof(zoe_backend),
                                      .context_size = sizeof(zoe_context),
                                      .count = plugin_count,
                                      .describe = plugin_describe,
                                      .create = plugin_create};
    return &plugin;
}
