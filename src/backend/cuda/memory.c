/*
 * Device memory. Tensors that live until freed come from a pool: large ones alone, small ones together in slabs, since
 * every request to the driver waits for the device. Activations live in the arena: a range of addresses behind which
 * memory is put as the stack grows, so that nothing is taken for what a request does not need.
 */
#include <cuda.h>
#include <string.h>

#include "backend/cuda/cuda.h"

#define ALIGNMENT  256
#define SLAB_BYTES ((size_t)32 << 20)
#define ALONE      ((size_t)4 << 20) /* tensors from this size on */
#define SLOT_BYTES ((size_t)32 << 20)
#define GROWTH     ((size_t)32 << 20)

struct zoe_cuda_slab {
    char *base;
    size_t size, used;
    size_t tensors; /* alive in it */
};

static int over_budget(zoe_cuda *cuda, size_t bytes, const char *what) {
    char wanted[32], held[32], budget[32];
    zoe_bytes_text(wanted, sizeof wanted, (int64_t)bytes);
    zoe_bytes_text(held, sizeof held, cuda->base.device_bytes);
    zoe_bytes_text(budget, sizeof budget, (int64_t)cuda->budget);
    return zoe_fail(cuda->base.ctx, ZOE_ERR_NOMEM, "device %d: %s more for %s do not fit: %s of %s are in use",
                    cuda->device, wanted, what, held, budget);
}

static void hold(zoe_cuda *cuda, int64_t bytes) {
    zoe_backend *be = &cuda->base;
    be->device_bytes += bytes;
    if (be->device_bytes > be->device_peak) be->device_peak = be->device_bytes;
}

static bool within_budget(const zoe_cuda *cuda, size_t more) {
    size_t held = (size_t)cuda->base.device_bytes;
    return more <= cuda->budget && held <= cuda->budget - more;
}

/* ---- the pool ---- */

static int new_slab(zoe_cuda *cuda, size_t size, zoe_cuda_slab **out) {
    zoe_backend *be = &cuda->base;
    zoe_cuda_pool *pool = &cuda->pool;
    if (pool->count == pool->capacity) {
        size_t capacity = pool->capacity ? 2 * pool->capacity : 64;
        zoe_cuda_slab *slabs = zoe_realloc(be->ctx, pool->slabs, capacity * sizeof *slabs);
        if (!slabs) return zoe_out_of_memory(be->ctx, capacity * sizeof *slabs, "device memory's books");
        pool->slabs = slabs;
        pool->capacity = capacity;
    }
    if (!within_budget(cuda, size)) return over_budget(cuda, size, "weights");
    void *base;
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    ZOE_CUDA(be, cudaMalloc(&base, size));
    hold(cuda, (int64_t)size);
    *out = &pool->slabs[pool->count++];
    **out = (zoe_cuda_slab){.base = base, .size = size};
    return ZOE_OK;
}

int zoe_cuda_alloc(zoe_backend *be, size_t bytes, void **out) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    zoe_cuda_pool *pool = &cuda->pool;
    zoe_cuda_slab *slab = NULL;
    *out = NULL;
    if (bytes > SIZE_MAX - ALIGNMENT) return zoe_out_of_memory(be->ctx, bytes, "a tensor");
    bytes = (bytes + ALIGNMENT) & ~(size_t)(ALIGNMENT - 1); /* even nothing gets an address of its own */
    for (size_t i = pool->count; i-- > 0 && bytes < ALONE && !slab;)
        if (pool->slabs[i].size == SLAB_BYTES && SLAB_BYTES - pool->slabs[i].used >= bytes) slab = &pool->slabs[i];
    if (!slab) ZOE_TRY(new_slab(cuda, bytes < ALONE ? SLAB_BYTES : bytes, &slab));
    *out = slab->base + slab->used;
    slab->used += bytes;
    slab->tensors++;
    return ZOE_OK;
}

/* A slab goes when its last tensor goes; cudaFree() waits for work that may still read it. */
void zoe_cuda_free(zoe_backend *be, void *ptr) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    zoe_cuda_pool *pool = &cuda->pool;
    for (size_t i = 0; i < pool->count; i++) {
        zoe_cuda_slab *slab = &pool->slabs[i];
        if ((char *)ptr < slab->base || (char *)ptr >= slab->base + slab->size) continue;
        if (--slab->tensors > 0) return;
        cudaSetDevice(cuda->device);
        cudaFree(slab->base);
        hold(cuda, -(int64_t)slab->size);
        *slab = pool->slabs[--pool->count];
        return;
    }
}

void zoe_cuda_pool_close(zoe_cuda *cuda) {
    for (size_t i = 0; i < cuda->pool.count; i++) cudaFree(cuda->pool.slabs[i].base);
    zoe_free(cuda->base.ctx, cuda->pool.slabs);
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
    cuda->granularity = (GROWTH + smallest - 1) / smallest * smallest;
    size_t size = (total + cuda->granularity - 1) / cuda->granularity * cuda->granularity;
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
    hold(cuda, (int64_t)cuda->granularity);
    be->arena.backed += cuda->granularity;
    return ZOE_OK;
}

int zoe_cuda_arena_grow(zoe_backend *be, size_t bytes) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    size_t more = bytes > be->arena.backed ? bytes - be->arena.backed : 0;
    more = (more + cuda->granularity - 1) / cuda->granularity * cuda->granularity;
    if (!within_budget(cuda, more)) return over_budget(cuda, more, "activations");
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    while (be->arena.backed < bytes) ZOE_TRY(add_piece(cuda));
    return ZOE_OK;
}

static void remove_piece(zoe_cuda *cuda) {
    size_t last = --cuda->piece_count;
    cuMemUnmap((CUdeviceptr)(uintptr_t)cuda->base.arena.base + last * cuda->granularity, cuda->granularity);
    cuMemRelease(cuda->pieces[last]);
    hold(cuda, -(int64_t)cuda->granularity);
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

void zoe_cuda_staging_close(zoe_cuda *cuda) {
    for (int i = 0; i < ZOE_CUDA_SLOTS; i++)
        if (cuda->staging.sent[i]) cudaEventDestroy(cuda->staging.sent[i]);
    if (cuda->staging.memory) cudaFreeHost(cuda->staging.memory);
    if (cuda->fetch.there) cudaEventDestroy(cuda->fetch.there);
    if (cuda->fetch.bounce) cudaFreeHost(cuda->fetch.bounce);
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

static int open_fetch(zoe_cuda *cuda, size_t bytes) {
    zoe_backend *be = &cuda->base;
    zoe_cuda_fetch *f = &cuda->fetch;
    if (!f->there) ZOE_CUDA(be, cudaEventCreateWithFlags(&f->there, cudaEventDisableTiming));
    if (f->size >= bytes) return ZOE_OK;
    if (f->bounce) cudaFreeHost(f->bounce);
    f->bounce = NULL;
    f->size = 0;
    ZOE_CUDA(be, cudaHostAlloc(&f->bounce, bytes, cudaHostAllocDefault));
    f->size = bytes;
    return ZOE_OK;
}

int zoe_cuda_download_begin(zoe_backend *be, void *host, const void *from, size_t bytes) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    zoe_cuda_fetch *f = &cuda->fetch;
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    ZOE_TRY(open_fetch(cuda, bytes));
    f->host = host;
    f->bytes = bytes;
    ZOE_CUDA(be, cudaMemcpyAsync(f->bounce, from, bytes, cudaMemcpyDeviceToHost, cuda->stream));
    return zoe_cuda_check(be, cudaEventRecord(f->there, cuda->stream), "download");
}

int zoe_cuda_download_end(zoe_backend *be) {
    zoe_cuda_fetch *f = &zoe_cuda_of(be)->fetch;
    if (!f->bytes) return ZOE_OK;
    ZOE_CUDA(be, cudaEventSynchronize(f->there));
    copy_on_threads(f->host, f->bounce, f->bytes);
    f->bytes = 0;
    return ZOE_OK;
}
