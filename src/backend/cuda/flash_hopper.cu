/*
 * Attention of bf16 on Hopper's matrix unit (the form of FlashAttention-3, Shah et al. 2024). One warp brings tiles of keys
 * and values through a ring in shared memory; each of two or three warpgroups keeps 64 queries. A warpgroup asks for the
 * scores of its next tile before it hands in the product with the values of this one, and takes exponentials of the first
 * while the matrix unit works on the second.
 */
#include "backend/cuda/flash_hopper.cuh"

#define STAGES            4
#define ROWS              64 /* of a warpgroup's queries */
#define FETCHER_REGISTERS 24

/*
 * By channels of a head: warpgroups, the keys of a tile that registers then hold the scores of, registers of a computing
 * thread (65536 at most in all), and whether warpgroups take turns at the matrix unit.
 */
template <int D> struct flash_form;
template <> struct flash_form<128> {
    static const int groups = 3, keys = 80, registers = 160;
    static const bool turns = false;
};
template <> struct flash_form<64> {
    static const int groups = 3, keys = 128, registers = 160;
    static const bool turns = false;
};

template <int D> struct flash : flash_form<D> {
    using flash_form<D>::groups;
    using flash_form<D>::keys;
    static const int queries = ROWS * groups, threads = 128 * (groups + 1);
    using ring = bulk_ring<queries * D * 2, keys * D * 2, STAGES, groups * 4>;
};

/* A tile of rows `first` on, in slices of 64 channels that follow each other. */
template <int D>
__device__ __forceinline__ void bring(uint32_t to, const CUtensorMap *map, int first, int rows, uint32_t barrier) {
    mbarrier_expect(barrier, rows * D * 2);
#pragma unroll
    for (int d = 0; d < D; d += 64) bulk_box(to + rows * d * 2, map, d, first, blockIdx.y, barrier);
}

template <int D>
__device__ __forceinline__ void produce(const flash_maps &maps, int tiles, const typename flash<D>::ring &ring) {
    constexpr int keys = flash<D>::keys, queries = flash<D>::queries;
    bring<D>(ring.base, &maps.q, blockIdx.x * queries, queries, ring.q_full());
    ring.produce(
        tiles, [&](int t, uint32_t to, uint32_t barrier) { bring<D>(to, &maps.k, t * keys, keys, barrier); },
        [&](int t, uint32_t to, uint32_t barrier) { bring<D>(to, &maps.v, t * keys, keys, barrier); });
}

template <int D, int KEYS> __device__ __forceinline__ void ask_scores(float (&s)[KEYS / 2], uint64_t q, uint64_t k) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        wgmma_bf16_to<KEYS>(s, wgmma_step(q, i / 4 * (flash<D>::queries * 128) + i % 4 * 32),
                            wgmma_step(k, i / 4 * (KEYS * 128) + i % 4 * 32), i > 0);
    wgmma_commit();
}

template <int D, int KEYS>
__device__ __forceinline__ void ask_values(float (&y)[D / 2], const uint32_t (&p)[KEYS / 4], uint64_t v, bool add) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++) wgmma_bf16_standing<D>(y, p + 4 * i, wgmma_step(v, i * 2048), i > 0 || add);
    wgmma_commit();
}

/* The warpgroups' turns at the matrix unit: barrier 1 + group opens when the one before has handed in its products. */
template <int D> __device__ __forceinline__ void await_turn(int group) {
    if (flash<D>::turns) named_sync(1 + group, 256);
}

template <int D> __device__ __forceinline__ void pass_turn(int group) {
    if (flash<D>::turns) named_arrive(1 + (group + 1) % flash<D>::groups, 256);
}

/* A warpgroup's 64 queries against all keys. */
template <int D>
__device__ __forceinline__ void consume(const zoe_cuda_flash &o, int tiles, const typename flash<D>::ring &ring) {
    constexpr int KEYS = flash<D>::keys, GROUPS = flash<D>::groups;
    int group = uniform(threadIdx.x / 128) - 1, lane = threadIdx.x % 32, stage = 0, phase = 0;
    uint64_t q = wgmma_tile(ring.base + group * ROWS * 128);
    uint32_t operands[KEYS / 4];
    float factor = o.scale * 1.4426950408889634f, last = o.last / o.scale, result[D / 2];
    flash_rows softmax = {{-INFINITY, -INFINITY}, {0, 0}, {1, 1}};
    if (group == GROUPS - 1) pass_turn<D>(group);
    mbarrier_wait(ring.q_full(), 0);
    mbarrier_wait(ring.k_full(0), 0);
    {
        float s[KEYS / 2];
        await_turn<D>(group);
        ask_scores<D, KEYS>(s, q, wgmma_tile(ring.k(0)));
        pass_turn<D>(group);
        wgmma_wait<0>();
        if (lane == 0) mbarrier_arrive(ring.k_free(0));
        flash_soften<KEYS>(s, softmax, factor, o.keys, last);
        mbarrier_wait(ring.v_full(0), 0);
        flash_pack<KEYS>(operands, s);
    }
    for (int t = 1; t < tiles; t++) {
        int before = stage;
        float s[KEYS / 2];
        if (++stage == STAGES) stage = 0, phase ^= 1;
        mbarrier_wait(ring.k_full(stage), phase);
        await_turn<D>(group);
        ask_scores<D, KEYS>(s, q, wgmma_tile(ring.k(stage)));
        ask_values<D, KEYS>(result, operands, wgmma_standing_tile(ring.v(before), KEYS * 128), t > 1);
        pass_turn<D>(group);
        wgmma_wait<1>();
        if (lane == 0) mbarrier_arrive(ring.k_free(stage));
        bool moved = flash_soften<KEYS>(s, softmax, factor, o.keys - t * KEYS, last);
        /* This stands here, and wants sums that are never negative, so that the compiler does not wait for the product
         * before it takes the exponentials: it moves waiting ahead, but not over a loop. */
        mbarrier_wait(ring.v_full(stage), phase ^ (softmax.sum[0] + softmax.sum[1] < 0));
        wgmma_wait<0>();
        if (lane == 0) mbarrier_arrive(ring.v_free(before));
        if (moved) {
#pragma unroll
            for (int i = 0; i < D / 2; i++) result[i] *= softmax.correction[i / 2 % 2];
        }
        flash_pack<KEYS>(operands, s);
    }
    await_turn<D>(group);
    ask_values<D, KEYS>(result, operands, wgmma_standing_tile(ring.v(stage), KEYS * 128), tiles > 1);
    if (group < GROUPS - 1) pass_turn<D>(group);
    wgmma_wait<0>();
    int row = (blockIdx.x * GROUPS + group) * ROWS + threadIdx.x / 32 % 4 * 16 + lane / 4;
    write_rows<D>((bf16 *)o.y + blockIdx.y * o.y_head, o.y_row, row, o.queries, softmax.sum, result);
}

template <int D>
__global__ void __launch_bounds__(flash<D>::threads, 1)
    flash_wgmma_kernel(const __grid_constant__ flash_maps maps, zoe_cuda_flash o) {
#if __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char shared[];
    typename flash<D>::ring ring = {shared_address(shared)};
    int tiles = (o.keys + flash<D>::keys - 1) / flash<D>::keys;
    if (threadIdx.x == 0) ring.init();
    __syncthreads();
    if (threadIdx.x < 128) {
        registers_down<FETCHER_REGISTERS>();
        if (threadIdx.x == 0) produce<D>(maps, tiles, ring);
    } else {
        registers_up<flash<D>::registers>();
        consume<D>(o, tiles, ring);
    }
#endif
}

template <int D> static cudaError_t launch(const zoe_cuda_flash *p, cudaStream_t stream) {
    constexpr int bytes = flash<D>::ring::bytes, queries = flash<D>::queries, keys = flash<D>::keys;
    flash_maps maps;
    if (!flash_map(&maps.q, p->q, D, p->queries, p->heads, p->q_row, p->q_head, queries) ||
        !flash_map(&maps.k, p->k, D, p->keys, p->heads, p->k_row, p->k_head, keys) ||
        !flash_map(&maps.v, p->v, D, p->keys, p->heads, p->v_row, p->v_head, keys))
        return cudaErrorInvalidValue;
    cudaError_t error = cudaFuncSetAttribute(flash_wgmma_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    dim3 grid((unsigned)((p->queries + queries - 1) / queries), (unsigned)p->heads);
    flash_wgmma_kernel<D><<<grid, flash<D>::threads, bytes, stream>>>(maps, *p);
    return cudaGetLastError();
}

cudaError_t zoe_cuda_launch_flash_hopper(const zoe_cuda_flash *p, cudaStream_t stream) {
    return p->dim == 128 ? launch<128>(p, stream) : launch<64>(p, stream);
}
