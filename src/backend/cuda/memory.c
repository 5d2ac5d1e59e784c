/*
 * Device memory. Tensors that live until freed come from a pool. Activations live in the arena: a range of addresses behind
 * which memory is put as the stack grows, so that nothing is taken for what a request does not need.
 */
#include <cuda.h>
#include <string.h>

#include "backend/cuda/cuda.h"

#define ALIGNMENT  256
#define SLOT_BYTES ((size_t)32 << 20)

/* ---- the pool ---- */

static int take(zoe_backend *be, size_t bytes, void **out) {
    ZOE_CUDA(be, cudaSetDevice(zoe_cuda_of(be)->device));
    return zoe_cuda_check(be, cudaMalloc(out, bytes), "device memory");
}

/* cudaFree() waits for work that may still read it. */
static void give(zoe_backend *be, void *base) {
    cudaSetDevice(zoe_cuda_of(be)->device);
    cudaFree(base);
}

void zoe_cuda_pool_open(zoe_cuda *cuda) {
    cuda->pool = (zoe_pool){.be = &cuda->base, .take = take, .give = give};
}

int zoe_cuda_alloc(zoe_backend *be, size_t bytes, void **out) {
    return zoe_pool_alloc(&zoe_cuda_of(be)->pool, bytes, out);
}

void zoe_cuda_free(zoe_backend *be, void *ptr) {
    zoe_pool_free(&zoe_cuda_of(be)->pool, ptr);
}

/* ---- the arena ---- */

static int driver_check(zoe_backend *be, CUresult result, const char *what) {
    const char *text = NULL;
    if (result == CUDA_SUCCESS) return ZOE_OK;
    cuGetErrorString(result, &text);
    return zoe_fail(be->ctx, result == CUDA_ERROR_OUT_OF_MEMORY ? ZOE_ERR_NOMEM : ZOE_ERR_DEVICE, "device %d: %s (%s)",
                    zoe_cuda_of(be)->device, text ? text : "unknown error", what);
}

static CUmemAllocationProp memory_kind(const zoe_cuda *cuda) {
    return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda->device}};
}

int zoe_cuda_arena_open(zoe_cuda *cuda, size_t total) {
    zoe_backend *be = &cuda->base;
    CUmemAllocationProp kind = memory_kind(cuda);
    CUdeviceptr base;
    size_t smallest;
    ZOE_TRY(driver_check(be, cuMemGetAllocationGranularity(&smallest, &kind, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
                         "granularity of memory"));
    cuda->granularity = zoe_device_pages(ZOE_DEVICE_PIECE, smallest);
    size_t size = zoe_device_pages(total, cuda->granularity);
    ZOE_TRY(driver_check(be, cuMemAddressReserve(&base, size, 0, 0, 0), "addresses for activations"));
    be->arena.base = (char *)(uintptr_t)base;
    be->arena.size = size;
    return ZOE_OK;
}

static int add_piece(zoe_cuda *cuda) {
    zoe_backend *be = &cuda->base;
    CUmemAllocationProp kind = memory_kind(cuda);
    CUmemAccessDesc access = {.location = kind.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUdeviceptr at = (CUdeviceptr)(uintptr_t)be->arena.base + cuda->piece_count * cuda->granularity;
    CUmemGenericAllocationHandle handle;
    if (cuda->piece_count == cuda->piece_capacity) {
        size_t capacity = cuda->piece_capacity ? 2 * cuda->piece_capacity : 64;
        zoe_cuda_physical *pieces = zoe_realloc(be->ctx, cuda->pieces, capacity * sizeof *pieces);
        if (!pieces) return zoe_out_of_memory(be->ctx, capacity * sizeof *pieces, "device memory's books");
        cuda->pieces = pieces;
        cuda->piece_capacity = capacity;
    }
    ZOE_TRY(driver_check(be, cuMemCreate(&handle, cuda->granularity, &kind, 0), "memory for activations"));
    int status = driver_check(be, cuMemMap(at, cuda->granularity, 0, handle, 0), "mapping activations");
    if (status == ZOE_OK) {
        status = driver_check(be, cuMemSetAccess(at, cuda->granularity, &access, 1), "access to activations");
        if (status < 0) cuMemUnmap(at, cuda->granularity);
    }
    if (status < 0) {
        cuMemRelease(handle);
        return status;
    }
    cuda->pieces[cuda->piece_count++] = handle;
    zoe_device_hold(be, (int64_t)cuda->granularity);
    be->arena.backed += cuda->granularity;
    return ZOE_OK;
}

int zoe_cuda_arena_grow(zoe_backend *be, size_t bytes) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    size_t more = bytes > be->arena.backed ? bytes - be->arena.backed : 0;
    ZOE_TRY(zoe_device_check(be, zoe_device_pages(more, cuda->granularity), "activations"));
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    while (be->arena.backed < bytes) ZOE_TRY(add_piece(cuda));
    return ZOE_OK;
}

static void remove_piece(zoe_cuda *cuda) {
    size_t last = --cuda->piece_count;
    cuMemUnmap((CUdeviceptr)(uintptr_t)cuda->base.arena.base + last * cuda->granularity, cuda->granularity);
    cuMemRelease(cuda->pieces[last]);
    zoe_device_hold(&cuda->base, -(int64_t)cuda->granularity);
    cuda->base.arena.backed -= cuda->granularity;
}

void zoe_cuda_arena_trim(zoe_backend *be) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    cudaSetDevice(cuda->device);
    cudaStreamSynchronize(cuda->stream);
    while (cuda->piece_count && be->arena.backed - cuda->granularity >= be->arena.used) remove_piece(cuda);
}

void zoe_cuda_arena_close(zoe_cuda *cuda) {
    while (cuda->piece_count) remove_piece(cuda);
    if (cuda->base.arena.base) cuMemAddressFree((CUdeviceptr)(uintptr_t)cuda->base.arena.base, cuda->base.arena.size);
    zoe_free(cuda->base.ctx, cuda->pieces);
}

/* ---- to the device and back ---- */

static int open_staging(zoe_cuda *cuda) {
    zoe_backend *be = &cuda->base;
    zoe_cuda_staging *s = &cuda->staging;
    if (s->memory) return ZOE_OK;
    for (int i = 0; i < ZOE_CUDA_SLOTS; i++)
        if (!s->sent[i]) ZOE_CUDA(be, cudaEventCreateWithFlags(&s->sent[i], cudaEventDisableTiming));
    ZOE_CUDA(be, cudaHostAlloc((void **)&s->memory, ZOE_CUDA_SLOTS * SLOT_BYTES, cudaHostAllocDefault));
    return ZOE_OK;
}

static void close_aside(zoe_cuda_aside *a) {
    if (a->stream) cudaStreamSynchronize(a->stream);
    if (a->asked) cudaEventDestroy(a->asked);
    if (a->there) cudaEventDestroy(a->there);
    if (a->bounce) cudaFreeHost(a->bounce);
    if (a->stream) cudaStreamDestroy(a->stream);
}

void zoe_cuda_staging_close(zoe_cuda *cuda) {
    for (int i = 0; i < ZOE_CUDA_SLOTS; i++)
        if (cuda->staging.sent[i]) cudaEventDestroy(cuda->staging.sent[i]);
    if (cuda->staging.memory) cudaFreeHost(cuda->staging.memory);
    close_aside(&cuda->lift);
    close_aside(&cuda->fetch);
}

/* Closes the slot in use and waits until what the next one held has left. */
static int next_slot(zoe_cuda *cuda) {
    zoe_backend *be = &cuda->base;
    zoe_cuda_staging *s = &cuda->staging;
    ZOE_CUDA(be, cudaEventRecord(s->sent[s->slot], cuda->stream));
    s->slot = (s->slot + 1) % ZOE_CUDA_SLOTS;
    s->used = 0;
    return zoe_cuda_check(be, cudaEventSynchronize(s->sent[s->slot]), "upload");
}

static void copy_on_threads(char *to, const char *from, size_t bytes) {
    const size_t part = (size_t)1 << 20;
#pragma omp parallel for schedule(static) if (bytes > 4 * part)
    for (size_t at = 0; at < bytes; at += part) memcpy(to + at, from + at, bytes - at < part ? bytes - at : part);
}

/*
 * In order with the computation, since the bytes may go where an operation in flight still reads. Small pieces share a
 * slot, so that a few of them in a step never wait.
 */
int zoe_cuda_upload(zoe_backend *be, void *to, const void *host, size_t bytes) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    zoe_cuda_staging *s = &cuda->staging;
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    ZOE_TRY(open_staging(cuda));
    for (size_t done = 0; done < bytes;) {
        if (s->used == SLOT_BYTES) ZOE_TRY(next_slot(cuda));
        size_t part = bytes - done < SLOT_BYTES - s->used ? bytes - done : SLOT_BYTES - s->used;
        char *from = s->memory + (size_t)s->slot * SLOT_BYTES + s->used;
        copy_on_threads(from, (const char *)host + done, part);
        ZOE_CUDA(be, cudaMemcpyAsync((char *)to + done, from, part, cudaMemcpyHostToDevice, cuda->stream));
        s->used += (part + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
        done += part;
    }
    return ZOE_OK;
}

int zoe_cuda_download(zoe_backend *be, void *host, const void *from, size_t bytes) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    if (bytes == 0) return ZOE_OK;
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    ZOE_CUDA(be, cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, cuda->stream));
    return zoe_cuda_check(be, cudaStreamSynchronize(cuda->stream), "download");
}

/* ---- copies in two halves ---- */

/* Makes the copy's stream wait for what was asked for so far; the bounce buffer must be free. */
static int open_aside(zoe_cuda *cuda, zoe_cuda_aside *a, size_t bytes) {
    zoe_backend *be = &cuda->base;
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    if (!a->stream) ZOE_CUDA(be, cudaStreamCreateWithFlags(&a->stream, cudaStreamNonBlocking));
    if (!a->asked) ZOE_CUDA(be, cudaEventCreateWithFlags(&a->asked, cudaEventDisableTiming));
    if (!a->there) ZOE_CUDA(be, cudaEventCreateWithFlags(&a->there, cudaEventDisableTiming));
    if (!a->bounce || a->size < bytes) {
        if (a->bounce) cudaFreeHost(a->bounce);
        a->bounce = NULL;
        ZOE_CUDA(be, cudaHostAlloc(&a->bounce, bytes, cudaHostAllocDefault));
        zoe_device_bounce(be, &a->size, bytes);
    }
    ZOE_CUDA(be, cudaEventRecord(a->asked, cuda->stream));
    return zoe_cuda_check(be, cudaStreamWaitEvent(a->stream, a->asked, 0), "copy");
}

int zoe_cuda_upload_begin(zoe_backend *be, void *to, const void *host, size_t bytes) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    zoe_cuda_aside *a = &cuda->lift;
    if (a->there) ZOE_CUDA(be, cudaEventSynchronize(a->there)); /* the one before has left the bounce buffer */
    ZOE_TRY(open_aside(cuda, a, bytes));
    copy_on_threads(a->bounce, host, bytes);
    ZOE_CUDA(be, cudaMemcpyAsync(to, a->bounce, bytes, cudaMemcpyHostToDevice, a->stream));
    return zoe_cuda_check(be, cudaEventRecord(a->there, a->stream), "upload");
}

int zoe_cuda_upload_end(zoe_backend *be) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    if (!cuda->lift.there) return ZOE_OK;
    return zoe_cuda_check(be, cudaStreamWaitEvent(cuda->stream, cuda->lift.there, 0), "upload");
}

int zoe_cuda_download_begin(zoe_backend *be, void *host, const void *from, size_t bytes, bool beside) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    zoe_cuda_aside *a = &cuda->fetch;
    ZOE_TRY(open_aside(cuda, a, bytes));
    cudaStream_t stream = beside ? a->stream : cuda->stream;
    a->host = host;
    a->bytes = bytes;
    ZOE_CUDA(be, cudaMemcpyAsync(a->bounce, from, bytes, cudaMemcpyDeviceToHost, stream));
    return zoe_cuda_check(be, cudaEventRecord(a->there, stream), "download");
}

int zoe_cuda_download_end(zoe_backend *be) {
    zoe_cuda_aside *a = &zoe_cuda_of(be)->fetch;
    if (!a->bytes) return ZOE_OK;
    ZOE_CUDA(be, cudaEventSynchronize(a->there));
    copy_on_threads(a->host, a->bounce, a->bytes);
    a->bytes = 0;
    return ZOE_OK;
}
