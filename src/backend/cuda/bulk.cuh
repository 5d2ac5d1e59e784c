/* Bulk copies into shared memory, the barriers that count their bytes, and registers handed between warpgroups: sm_90. */
#ifndef ZOE_BACKEND_CUDA_BULK_CUH
#define ZOE_BACKEND_CUDA_BULK_CUH

#include <cuda.h>
#include <stdint.h>

__device__ __forceinline__ void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/* Makes initialised barriers visible to the copy engine. */
__device__ __forceinline__ void mbarrier_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void mbarrier_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

/* Waits for the end of the phase of this parity. */
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
                 "@done bra over;\n"
                 "bra again;\n"
                 "over:\n"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* Addresses and bytes are multiples of 16. */
__device__ __forceinline__ void bulk_copy(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

/* The box of a tensor map's size at {x, y, z}; what lies outside the tensor becomes zero. */
__device__ __forceinline__ void bulk_box(uint32_t to, const CUtensorMap *map, int x, int y, int z, uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
        "[%5];" ::"r"(to),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
        : "memory");
}

/* Barrier `id` of `threads` threads, of which some only arrive. */
__device__ __forceinline__ void named_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* A number that all threads of the warp have, so that the compiler knows. */
__device__ __forceinline__ int uniform(int x) {
    return __shfl_sync(0xffffffffu, x, 0);
}

template <int COUNT> __device__ __forceinline__ void registers_up() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT> __device__ __forceinline__ void registers_down() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

/*
 * A block's queries and, behind them, a ring of STAGES tiles of keys and of values in shared memory at `base`, with
 * barriers for what is full and for what the WARPS consuming warps have left.
 */
template <int QUERY_BYTES, int TILE_BYTES, int STAGES, int WARPS> struct bulk_ring {
    static const int stages = STAGES, bytes = QUERY_BYTES + STAGES * 2 * TILE_BYTES + (4 * STAGES + 1) * 8;
    uint32_t base;
    __device__ __forceinline__ uint32_t k(int stage) const {
        return base + QUERY_BYTES + stage * 2 * TILE_BYTES;
    }
    __device__ __forceinline__ uint32_t v(int stage) const {
        return k(stage) + TILE_BYTES;
    }
    __device__ __forceinline__ uint32_t k_full(int stage) const {
        return k(STAGES) + stage * 8;
    }
    __device__ __forceinline__ uint32_t v_full(int stage) const {
        return k_full(STAGES + stage);
    }
    __device__ __forceinline__ uint32_t k_free(int stage) const {
        return k_full(2 * STAGES + stage);
    }
    __device__ __forceinline__ uint32_t v_free(int stage) const {
        return k_full(3 * STAGES + stage);
    }
    __device__ __forceinline__ uint32_t q_full() const {
        return k_full(4 * STAGES);
    }

    /* By one thread; the block's others may touch the barriers after a __syncthreads(). */
    __device__ __forceinline__ void init() const {
        mbarrier_init(q_full(), 1);
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(k_full(i), 1), mbarrier_init(v_full(i), 1);
            mbarrier_init(k_free(i), WARPS), mbarrier_init(v_free(i), WARPS);
        }
        mbarrier_fence();
    }

    /* Calls bring_k(t, to, barrier) and bring_v for every tile, once its place is free. */
    template <typename K, typename V> __device__ __forceinline__ void produce(int tiles, K bring_k, V bring_v) const {
        for (int t = 0, stage = 0, round = 0; t < tiles; t++) {
            if (round) mbarrier_wait(k_free(stage), (round - 1) & 1);
            bring_k(t, k(stage), k_full(stage));
            if (round) mbarrier_wait(v_free(stage), (round - 1) & 1);
            bring_v(t, v(stage), v_full(stage));
            if (++stage == STAGES) stage = 0, round++;
        }
    }
};

#endif
