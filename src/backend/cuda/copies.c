/*
 * Copies from the host that go on beside the computation: a stream of their own, two events a place. The device itself
 * waits, one stream for the other; the host never does, except for host memory that is to be used again.
 */
#include <string.h>
#include <sys/mman.h>

#include "backend/cuda/cuda.h"

/*
 * Memory is touched by all threads before it is locked: locking alone would bring its pages in one by one. It is as large
 * as asked for, to the page.
 */
int zoe_cuda_pinned_alloc(zoe_backend *be, size_t bytes, void **out) {
    const size_t part = (size_t)2 << 20;
    *out = NULL;
    ZOE_CUDA(be, cudaSetDevice(zoe_cuda_of(be)->device));
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return zoe_out_of_memory(be->ctx, bytes, "weights in host memory");
    madvise(memory, bytes, MADV_HUGEPAGE);
#pragma omp parallel for schedule(dynamic)
    for (size_t at = 0; at < bytes; at += part) memset((char *)memory + at, 0, bytes - at < part ? bytes - at : part);
    cudaError_t error = cudaHostRegister(memory, bytes, cudaHostRegisterDefault);
    if (error != cudaSuccess) {
        munmap(memory, bytes);
        return zoe_cuda_check(be, error, "locking host memory");
    }
    zoe_device_hold(be, (int64_t)(bytes / ZOE_DEVICE_MAPS));
    *out = memory;
    return ZOE_OK;
}

void zoe_cuda_pinned_free(zoe_backend *be, void *ptr, size_t bytes) {
    zoe_device_hold(be, -(int64_t)(bytes / ZOE_DEVICE_MAPS));
    cudaSetDevice(zoe_cuda_of(be)->device);
    cudaHostUnregister(ptr);
    munmap(ptr, bytes);
}

static int new_event(zoe_backend *be, cudaEvent_t *event, unsigned flags) {
    return *event ? ZOE_OK : zoe_cuda_check(be, cudaEventCreateWithFlags(event, flags), "event");
}

int zoe_cuda_copy_begin(zoe_backend *be, int place, void *to, const void *host, size_t bytes) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    zoe_cuda_place *p = &cuda->copies.places[place];
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    if (!cuda->copies.stream) ZOE_CUDA(be, cudaStreamCreateWithFlags(&cuda->copies.stream, cudaStreamNonBlocking));
    ZOE_TRY(new_event(be, &p->arrived, cudaEventDisableTiming));
    if (p->released) ZOE_CUDA(be, cudaStreamWaitEvent(cuda->copies.stream, p->released, 0));
    ZOE_CUDA(be, cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, cuda->copies.stream));
    return zoe_cuda_check(be, cudaEventRecord(p->arrived, cuda->copies.stream), "copy");
}

/* Adds up the waits whose end has been reached; `all`: they all have. */
static void count_waits(zoe_cuda *cuda, bool all) {
    zoe_cuda_copies *c = &cuda->copies;
    float milliseconds;
    while (c->told != c->counted) {
        zoe_cuda_wait *w = &c->waits[c->counted % ZOE_CUDA_WAITS];
        if (!all && c->told - c->counted < ZOE_CUDA_WAITS && cudaEventQuery(w->end) != cudaSuccess) break;
        if (cudaEventSynchronize(w->end) == cudaSuccess &&
            cudaEventElapsedTime(&milliseconds, w->begin, w->end) == cudaSuccess)
            cuda->base.weights.stalled += 1e-3 * (double)milliseconds;
        c->counted++;
    }
    cudaGetLastError(); /* "not ready" is no failure */
}

int zoe_cuda_copy_expect(zoe_backend *be) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    zoe_cuda_copies *c = &cuda->copies;
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    count_waits(cuda, false);
    zoe_cuda_wait *w = &c->waits[c->told % ZOE_CUDA_WAITS];
    ZOE_TRY(new_event(be, &w->begin, cudaEventDefault));
    ZOE_TRY(new_event(be, &w->end, cudaEventDefault));
    c->expecting = true;
    return zoe_cuda_check(be, cudaEventRecord(w->begin, cuda->stream), "copy");
}

int zoe_cuda_copy_wait(zoe_backend *be, int place) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    zoe_cuda_copies *c = &cuda->copies;
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    ZOE_CUDA(be, cudaStreamWaitEvent(cuda->stream, c->places[place].arrived, 0));
    if (!c->expecting) return ZOE_OK;
    c->expecting = false;
    ZOE_CUDA(be, cudaEventRecord(c->waits[c->told % ZOE_CUDA_WAITS].end, cuda->stream));
    c->told++;
    return ZOE_OK;
}

int zoe_cuda_copy_release(zoe_backend *be, int place) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    zoe_cuda_place *p = &cuda->copies.places[place];
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    ZOE_TRY(new_event(be, &p->released, cudaEventDisableTiming));
    return zoe_cuda_check(be, cudaEventRecord(p->released, cuda->stream), "copy");
}

int zoe_cuda_copy_end(zoe_backend *be, int place) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    cudaEvent_t arrived = cuda->copies.places[place].arrived;
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    return arrived ? zoe_cuda_check(be, cudaEventSynchronize(arrived), "copy") : ZOE_OK;
}

int zoe_cuda_copies_synchronize(zoe_cuda *cuda) {
    zoe_backend *be = &cuda->base;
    if (!cuda->copies.stream) return ZOE_OK;
    ZOE_CUDA(be, cudaStreamSynchronize(cuda->copies.stream));
    count_waits(cuda, true);
    return ZOE_OK;
}

void zoe_cuda_copies_close(zoe_cuda *cuda) {
    zoe_cuda_copies *c = &cuda->copies;
    if (c->stream) cudaStreamSynchronize(c->stream);
    for (int i = 0; i < ZOE_COPY_PLACES; i++) {
        if (c->places[i].arrived) cudaEventDestroy(c->places[i].arrived);
        if (c->places[i].released) cudaEventDestroy(c->places[i].released);
    }
    for (int i = 0; i < ZOE_CUDA_WAITS; i++) {
        if (c->waits[i].begin) cudaEventDestroy(c->waits[i].begin);
        if (c->waits[i].end) cudaEventDestroy(c->waits[i].end);
    }
    if (c->stream) cudaStreamDestroy(c->stream);
}
