/* Times at which the stream reached a point. */
#include "backend/cuda/cuda.h"

static int new_event(zoe_cuda *cuda) {
    zoe_backend *be = &cuda->base;
    zoe_cuda_marks *m = &cuda->marks;
    if (m->count == m->capacity) {
        size_t capacity = m->capacity ? 2 * m->capacity : 1024;
        cudaEvent_t *events = zoe_realloc(be->ctx, m->events, capacity * sizeof *events);
        if (!events) return zoe_out_of_memory(be->ctx, capacity * sizeof *events, "events");
        m->events = events;
        m->capacity = capacity;
    }
    ZOE_CUDA(be, cudaEventCreate(&m->events[m->count]));
    m->count++;
    return ZOE_OK;
}

int zoe_cuda_mark(zoe_backend *be) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    ZOE_CUDA(be, cudaSetDevice(cuda->device));
    if (cuda->marks.used == cuda->marks.count) ZOE_TRY(new_event(cuda));
    return zoe_cuda_check(be, cudaEventRecord(cuda->marks.events[cuda->marks.used++], cuda->stream), "mark");
}

int zoe_cuda_marks_take(zoe_backend *be, size_t count, double *seconds) {
    zoe_cuda *cuda = zoe_cuda_of(be);
    zoe_cuda_marks *m = &cuda->marks;
    m->used = 0;
    ZOE_CUDA(be, cudaStreamSynchronize(cuda->stream));
    double now = 0;
    for (size_t i = 0; i < count && i < m->count; i++) {
        float step = 0;
        if (i) ZOE_CUDA(be, cudaEventElapsedTime(&step, m->events[i - 1], m->events[i]));
        seconds[i] = now += 1e-3 * (double)step;
    }
    return ZOE_OK;
}

void zoe_cuda_marks_close(zoe_cuda *cuda) {
    for (size_t i = 0; i < cuda->marks.count; i++) cudaEventDestroy(cuda->marks.events[i]);
    zoe_free(cuda->base.ctx, cuda->marks.events);
}
