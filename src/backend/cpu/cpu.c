/* The CPU backend's object: kernels chosen once, one address range for activations, scratch taken once. */
#include "backend/cpu/cpu.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ARENA_DEFAULT  ((size_t)256 << 30)
#define ARENA_SMALLEST ((size_t)1 << 30)
#define ALIGNMENT      64

static void *aligned(void *ptr) {
    return (void *)(((uintptr_t)ptr + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1));
}

/* ---- memory ---- */

/* Aligned inside a block of the context's allocator, which is kept in front of it. */
static int cpu_alloc(zoe_backend *be, size_t bytes, void **out) {
    *out = NULL;
    if (bytes > SIZE_MAX - ALIGNMENT - sizeof(void *)) return zoe_out_of_memory(be->ctx, bytes, "a tensor");
    char *block = zoe_alloc(be->ctx, bytes + ALIGNMENT + sizeof(void *));
    if (!block) return zoe_out_of_memory(be->ctx, bytes, "a tensor");
    char *ptr = aligned(block + sizeof(void *));
    memcpy(ptr - sizeof(void *), &block, sizeof block);
    *out = ptr;
    return ZOE_OK;
}

static void cpu_free(zoe_backend *be, void *ptr) {
    void *block;
    memcpy(&block, (char *)ptr - sizeof(void *), sizeof block);
    zoe_free(be->ctx, block);
}

static int cpu_upload(zoe_backend *be, void *to, const void *host, size_t bytes) {
    (void)be;
    if (bytes) memcpy(to, host, bytes);
    return ZOE_OK;
}

static int cpu_synchronize(zoe_backend *be) {
    (void)be;
    return ZOE_OK;
}

/* Pages above the stack go back to the system; they come back zeroed when touched again. */
static void cpu_trim(zoe_backend *be) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), keep = (be->arena.used + page - 1) & ~(page - 1);
    if (keep < be->arena.size) madvise(be->arena.base + keep, be->arena.size - keep, MADV_DONTNEED);
}

/* The range costs no memory; where the system limits address space, a smaller one has to do. */
static int reserve_arena(zoe_cpu *cpu, size_t bytes) {
    size_t size = bytes ? bytes : ARENA_DEFAULT;
    for (;;) {
        void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base != MAP_FAILED) {
            cpu->base.arena.base = base;
            cpu->base.arena.size = size;
            return ZOE_OK;
        }
        if (bytes || size <= ARENA_SMALLEST) return zoe_out_of_memory(cpu->base.ctx, size, "address range for activations");
        size /= 2;
    }
}

/* ---- threads and scratch ---- */

float *zoe_cpu_scratch(const zoe_cpu *cpu) {
    return (float *)(void *)(cpu->scratch + (size_t)omp_get_thread_num() * ZOE_CPU_SCRATCH);
}

int zoe_cpu_team(const zoe_cpu *cpu, double work) {
    double grain = 16384;
    return work < 2 * grain ? 1 : (int)(work / grain < cpu->threads ? work / grain : cpu->threads);
}

int zoe_cpu_need_f32(zoe_backend *be, const char *op, const zoe_tensor *t) {
    if (!t || t->dtype == ZOE_F32) return ZOE_OK;
    return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "%s: the CPU backend needs F32 activations, found %s", op,
                    zoe_dtype_name(t->dtype));
}

int zoe_cpu_need_float(zoe_backend *be, const char *op, const zoe_tensor *t) {
    if (!t || zoe_cpu_of(be)->kernels.load[t->dtype]) return ZOE_OK;
    return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "%s: a floating-point tensor is needed, found %s", op,
                    zoe_dtype_name(t->dtype));
}

/* ---- life ---- */

static void cpu_close(zoe_backend *be) {
    zoe_cpu *cpu = zoe_cpu_of(be);
    if (be->arena.base) munmap(be->arena.base, be->arena.size);
    zoe_free(be->ctx, cpu->memory);
    zoe_free(be->ctx, cpu);
}

static int cpu_download(zoe_backend *be, void *host, const void *from, size_t bytes) {
    return cpu_upload(be, host, from, bytes);
}

static const zoe_backend_ops ops = {
    .name = "cpu",
    .host_memory = true,
    .key_repeats = true,
    .computes = true,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_upload,
    .download = cpu_download,
    .synchronize = cpu_synchronize,
    .trim = cpu_trim,
    .linear = zoe_cpu_linear,
    .quantise = zoe_cpu_quantise,
    .norm = zoe_cpu_norm,
    .qk_prepare = zoe_cpu_qk_prepare,
    .attention = zoe_cpu_attention,
    .conv = zoe_cpu_conv,
    .group_norm = zoe_cpu_group_norm,
    .embedding = zoe_cpu_embedding,
    .copy = zoe_cpu_copy,
    .zero = zoe_cpu_zero,
    .activate = zoe_cpu_activate,
    .scale_shift = zoe_cpu_scale_shift,
    .lincomb = zoe_cpu_lincomb,
    .finite = zoe_cpu_finite,
};

int zoe_cpu_backend_create(zoe_context *ctx, size_t arena_bytes, zoe_backend **out) {
    int status = ZOE_OK;
    *out = NULL;
    zoe_cpu *cpu;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, cpu, 1));
    cpu->base = (zoe_backend){.ops = &ops, .ctx = ctx, .dtype = ZOE_F32};
    cpu->threads = ctx->settings.threads > 0 ? ctx->settings.threads : omp_get_max_threads();
    zoe_cpu_kernels_init(&cpu->kernels, zoe_cpu_levels() & ctx->settings.cpu_mask);
    size_t bytes = ZOE_CPU_SHARED + (size_t)cpu->threads * ZOE_CPU_SCRATCH + ALIGNMENT;
    cpu->base.workspace = (int64_t)bytes;
    cpu->memory = zoe_alloc(ctx, bytes);
    if (!cpu->memory) ZOE_TRY_DONE(zoe_out_of_memory(ctx, bytes, "scratch of the CPU backend"));
    cpu->shared = aligned(cpu->memory);
    cpu->scratch = (char *)cpu->shared + ZOE_CPU_SHARED;
    ZOE_TRY_DONE(reserve_arena(cpu, arena_bytes));
    *out = &cpu->base;
    return ZOE_OK;
done:
    cpu_close(&cpu->base);
    return status;
}
