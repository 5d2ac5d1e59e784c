/*
 * Attention of bf16 to a few hundred keys, on Hopper's matrix unit: cross-attention to a text, to a picture, or to both with
 * their results added. A block takes an equal share of all query tiles, in order, and keeps a head's keys and values in
 * shared memory. Each of three warpgroups has a tile of 64 queries in registers while its next one is on its way.
 */
#include "backend/cuda/flash_hopper.cuh"

#define GROUPS  3
#define THREADS (128 * GROUPS)
#define ROWS    64 /* of a query tile */
#define KEYS    48 /* of a piece of the keys */

typedef struct few_maps {
    CUtensorMap q, k[ZOE_CUDA_KEY_SETS], v[ZOE_CUDA_KEY_SETS];
} few_maps;

/* Sets of keys; a piece belongs to one of them. */
typedef struct few_sets {
    int count, keys[ZOE_CUDA_KEY_SETS], pieces[ZOE_CUDA_KEY_SETS], all_pieces;
    float last[ZOE_CUDA_KEY_SETS];
    bool add;
} few_sets;

template <int D> struct places {
    static const uint32_t slice = KEYS * 128, piece = slice * (D / 64), query_tile = ROWS * D * 2;
    uint32_t base;
    int pieces;
    __device__ __forceinline__ uint32_t q(int group) const {
        return base + group * query_tile;
    }
    __device__ __forceinline__ uint32_t k(int i) const {
        return q(GROUPS) + i * 2 * piece;
    }
    __device__ __forceinline__ uint32_t v(int i) const {
        return k(i) + piece;
    }
    __device__ __forceinline__ uint32_t q_full(int group) const {
        return k(pieces) + group * 8;
    }
    __device__ __forceinline__ uint32_t keys_full() const {
        return q_full(GROUPS);
    }
    static int64_t bytes(int64_t pieces) {
        return GROUPS * query_tile + pieces * 2 * piece + (GROUPS + 1) * 8;
    }
};

template <int D>
__device__ __forceinline__ void bring(uint32_t to, const CUtensorMap *map, int first, int rows, int head,
                                      uint32_t barrier) {
#pragma unroll
    for (int d = 0; d < D; d += 64) bulk_box(to + rows * d * 2, map, d, first, head, barrier);
}

template <int D>
__device__ __forceinline__ void bring_keys(const few_maps &maps, const few_sets &sets, const places<D> &at, int head) {
    mbarrier_expect(at.keys_full(), at.pieces * 2 * at.piece);
    for (int set = 0, piece = 0; set < sets.count; set++)
        for (int i = 0; i < sets.pieces[set]; i++, piece++) {
            bring<D>(at.k(piece), &maps.k[set], i * KEYS, KEYS, head, at.keys_full());
            bring<D>(at.v(piece), &maps.v[set], i * KEYS, KEYS, head, at.keys_full());
        }
}

template <int D>
__device__ __forceinline__ void bring_queries(const few_maps &maps, const places<D> &at, int group, int tile, int head) {
    mbarrier_expect(at.q_full(group), at.query_tile);
    bring<D>(at.q(group), &maps.q, tile * ROWS, ROWS, head, at.q_full(group));
}

template <int D> __device__ __forceinline__ void load_queries(uint32_t (&q)[D / 16][4], uint32_t tile) {
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane % 16;
#pragma unroll
    for (int j = 0; j < D / 16; j++) {
        int piece = j % 4 * 2 + lane / 16;
        ldmatrix(q[j], tile + j / 4 * (ROWS * 128) + row * 128 + (piece ^ (row & 7)) * 16);
    }
}

/*
 * A tile of 64 queries, whose rows are in q, against one set of keys. Calls loaded() once the matrix unit has had the
 * queries, so that they are no longer on their way from shared memory into registers.
 */
template <int D, typename F>
__device__ __forceinline__ void attend(float (&result)[D / 2], float (&sums)[2], const places<D> &at,
                                       const uint32_t (&q)[D / 16][4], int piece, int keys, float factor, float last,
                                       F loaded) {
    flash_rows softmax = {{-INFINITY, -INFINITY}, {0, 0}, {1, 1}};
    for (int start = 0; start < keys; start += KEYS, piece++) {
        float s[KEYS / 2];
        uint32_t operands[KEYS / 4];
        wgmma_fence();
#pragma unroll
        for (int j = 0; j < D / 16; j++)
            wgmma_bf16_48(s, q[j], wgmma_tile(at.k(piece) + j / 4 * at.slice + j % 4 * 32), j > 0);
        wgmma_commit();
        wgmma_wait<0>();
        if (start == 0) loaded();
        bool moved = flash_soften<KEYS>(s, softmax, factor, keys - start, last);
        if (moved && start > 0) {
#pragma unroll
            for (int j = 0; j < D / 2; j++) result[j] *= softmax.correction[j / 2 % 2];
        }
        flash_pack<KEYS>(operands, s);
        wgmma_fence();
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++)
            wgmma_bf16_standing<D>(result, operands + 4 * j, wgmma_standing_tile(at.v(piece) + j * 2048, at.slice),
                                   start > 0 || j > 0);
        wgmma_commit();
        wgmma_wait<0>();
    }
    sums[0] = softmax.sum[0], sums[1] = softmax.sum[1];
}

/* Tiles `first` to `stop` of a head's queries, whose keys have been brought. */
template <int D>
__device__ __forceinline__ void consume(const few_maps &maps, const zoe_cuda_flash &o, const few_sets &sets,
                                        const places<D> &at, int head, int first, int stop, int &q_phase) {
    int group = threadIdx.x / 128;
    float factor = o.scale * 1.4426950408889634f;
    bf16 *y = (bf16 *)o.y + head * o.y_head;
    for (int tile = first + group; tile < stop; tile += GROUPS) {
        uint32_t q[D / 16][4];
        mbarrier_wait(at.q_full(group), q_phase);
        q_phase ^= 1;
        load_queries<D>(q, at.q(group));
        for (int set = 0, piece = 0; set < sets.count; piece += sets.pieces[set++]) {
            float result[D / 2], sums[2];
            attend<D>(result, sums, at, q, piece, sets.keys[set], factor, sets.last[set] / o.scale, [&] {
                if (set > 0 || tile + GROUPS >= stop) return;
                fence_async();
                named_sync(1 + group, 128);
                if (threadIdx.x % 128 == 0) bring_queries<D>(maps, at, group, tile + GROUPS, head);
            });
            int row = tile * ROWS + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
            write_rows<D>(y, o.y_row, row, o.queries, sums, result, set > 0 || sets.add);
        }
    }
}

template <int D>
__global__ void __launch_bounds__(THREADS, 1)
    flash_few_kernel(const __grid_constant__ few_maps maps, const __grid_constant__ zoe_cuda_flash o,
                     const __grid_constant__ few_sets sets) {
#if __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char shared[];
    places<D> at = {shared_address(shared), sets.all_pieces};
    int group = threadIdx.x / 128, tiles = (o.queries + ROWS - 1) / ROWS, q_phase = 0, k_phase = 0;
    int64_t all = (int64_t)tiles * o.heads, begin = all * blockIdx.x / gridDim.x, end = all * (blockIdx.x + 1) / gridDim.x;
    if (threadIdx.x == 0) {
        for (int i = 0; i <= GROUPS; i++) mbarrier_init(at.q_full(i), 1);
        mbarrier_fence();
    }
    while (begin < end) {
        int head = (int)(begin / tiles), first = (int)(begin % tiles);
        int stop = end - begin < tiles - first ? first + (int)(end - begin) : tiles;
        fence_async();
        __syncthreads(); /* nobody reads the last head's keys and queries any more */
        if (threadIdx.x == 0) bring_keys<D>(maps, sets, at, head);
        if (threadIdx.x % 128 == 0 && first + group < stop) bring_queries<D>(maps, at, group, first + group, head);
        mbarrier_wait(at.keys_full(), k_phase);
        consume<D>(maps, o, sets, at, head, first, stop, q_phase);
        k_phase ^= 1;
        begin += stop - first;
    }
#endif
}

static int64_t pieces_of(const zoe_cuda_flash *p) {
    return (p->keys + KEYS - 1) / KEYS;
}

static int64_t bytes_of(const zoe_cuda_flash *p, int count) {
    int64_t pieces = 0;
    for (int i = 0; i < count; i++) pieces += pieces_of(p + i);
    return p->dim == 128 ? places<128>::bytes(pieces) : places<64>::bytes(pieces);
}

bool zoe_cuda_flash_few_fits(const zoe_cuda_flash *p, int count, int shared_bytes) {
    return bytes_of(p, count) <= shared_bytes;
}

template <int D>
static cudaError_t launch(const zoe_cuda_flash *p, int count, bool add, int processors, cudaStream_t stream) {
    int bytes = (int)bytes_of(p, count);
    few_sets sets = {};
    few_maps maps = {};
    sets.count = count, sets.add = add;
    bool good = flash_map(&maps.q, p->q, D, p->queries, p->heads, p->q_row, p->q_head, ROWS);
    for (int i = 0; i < count; i++) {
        sets.keys[i] = p[i].keys, sets.last[i] = p[i].last, sets.pieces[i] = (int)pieces_of(p + i);
        sets.all_pieces += sets.pieces[i];
        good = good && flash_map(&maps.k[i], p[i].k, D, p[i].keys, p->heads, p[i].k_row, p[i].k_head, KEYS) &&
               flash_map(&maps.v[i], p[i].v, D, p[i].keys, p->heads, p[i].v_row, p[i].v_head, KEYS);
    }
    if (!good) return cudaErrorInvalidValue;
    cudaError_t error = cudaFuncSetAttribute(flash_few_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    flash_few_kernel<D><<<(unsigned)processors, THREADS, bytes, stream>>>(maps, *p, sets);
    return cudaGetLastError();
}

cudaError_t zoe_cuda_launch_flash_few(const zoe_cuda_flash *p, int count, bool add, int processors, cudaStream_t stream) {
    return p->dim == 128 ? launch<128>(p, count, add, processors, stream) : launch<64>(p, count, add, processors, stream);
}
