/*
 * Attention of bf16 to a few hundred keys, on Hopper's matrix unit: cross-attention to a text, to a picture, or to both
 * with their results added. A block takes an equal share of all query tiles, in order, and keeps a head's keys and values
 * in shared memory. Each of three warpgroups has a tile of 64 queries of its own.
 */
#include "backend/cuda/flash_hopper.cuh"

#define GROUPS  3
#define THREADS (128 * GROUPS)
#define ROWS    64 /* of a query tile */
#define SHORT   48 /* keys of a piece: of a few, */
#define LONG    96 /* and of more */

typedef struct few_maps {
    CUtensorMap q, k[ZOE_CUDA_KEY_SETS], v[ZOE_CUDA_KEY_SETS];
} few_maps;

/* Sets of keys, the longer one first. */
typedef struct few_sets {
    int keys[ZOE_CUDA_KEY_SETS];
    float last[ZOE_CUDA_KEY_SETS];
} few_sets;

/* A set's pieces of KEYS keys, each followed by its values. Slices of 64 channels lie behind each other. */
template <int D, int KEYS> struct few_keys {
    static const uint32_t slice = KEYS * 128, piece = slice * (D / 64);
    uint32_t base;
    int keys;
    __device__ __forceinline__ uint32_t k(int i) const {
        return base + i * 2 * piece;
    }
    __device__ __forceinline__ uint32_t v(int i) const {
        return k(i) + piece;
    }
    __host__ __device__ __forceinline__ int pieces() const {
        return (keys + KEYS - 1) / KEYS;
    }
    __host__ __device__ __forceinline__ uint32_t bytes() const {
        return pieces() * 2 * piece;
    }
};

/* Shared memory: queries of the warpgroups, the sets, barriers. SECOND is 0 where there is one set. */
template <int D, int FIRST, int SECOND> struct few_places {
    static const int second = SECOND ? SECOND : SHORT;
    static const uint32_t query_tile = ROWS * D * 2;
    uint32_t base;
    few_keys<D, FIRST> first_set;
    few_keys<D, second> second_set;
    __host__ __device__ __forceinline__ few_places(uint32_t at, const few_sets &sets) {
        base = at;
        first_set = {base + GROUPS * query_tile, sets.keys[0]};
        second_set = {first_set.base + first_set.bytes(), SECOND ? sets.keys[1] : 0};
    }
    __device__ __forceinline__ uint32_t q(int group) const {
        return base + group * query_tile;
    }
    __host__ __device__ __forceinline__ uint32_t q_full(int group) const {
        return second_set.base + second_set.bytes() + group * 8;
    }
    __host__ __device__ __forceinline__ uint32_t keys_full() const {
        return q_full(GROUPS);
    }
    __host__ __device__ __forceinline__ uint32_t end() const {
        return q_full(GROUPS + 1);
    }
};

template <int D>
__device__ __forceinline__ void bring(uint32_t to, const CUtensorMap *map, int first, int rows, int head,
                                      uint32_t barrier) {
#pragma unroll
    for (int d = 0; d < D; d += 64) bulk_box(to + rows * d * 2, map, d, first, head, barrier);
}

template <int D, int KEYS>
__device__ __forceinline__ void bring_set(const few_keys<D, KEYS> &set, const CUtensorMap *k, const CUtensorMap *v,
                                          int head, uint32_t barrier) {
    for (int i = 0; i < set.pieces(); i++) {
        bring<D>(set.k(i), k, i * KEYS, KEYS, head, barrier);
        bring<D>(set.v(i), v, i * KEYS, KEYS, head, barrier);
    }
}

template <int D>
__device__ __forceinline__ void bring_queries(const CUtensorMap *map, uint32_t to, int tile, int head, uint32_t barrier) {
    mbarrier_expect(barrier, ROWS * D * 2);
    bring<D>(to, map, tile * ROWS, ROWS, head, barrier);
}

template <int D, int KEYS> __device__ __forceinline__ void scores(float (&s)[KEYS / 2], uint32_t q, uint32_t k) {
    uint64_t rows = wgmma_tile(q), columns = wgmma_tile(k);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        wgmma_bf16_to<KEYS>(s, wgmma_step(rows, i / 4 * (ROWS * 128) + i % 4 * 32),
                            wgmma_step(columns, i / 4 * (KEYS * 128) + i % 4 * 32), i > 0);
    wgmma_commit();
    wgmma_wait<0>();
}

template <int D, int KEYS>
__device__ __forceinline__ void values(float (&y)[D / 2], const float (&p)[KEYS / 2], uint32_t v, bool add) {
    uint32_t operands[KEYS / 4];
    uint64_t tile = wgmma_standing_tile(v, KEYS * 128);
    flash_pack<KEYS>(operands, p);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        wgmma_bf16_standing<D>(y, operands + 4 * i, wgmma_step(tile, i * 2048), i > 0 || add);
    wgmma_commit();
    wgmma_wait<0>();
}

/* result over the four sums of each row = attention to a set; calls release() when the queries are no longer read. */
template <int D, int KEYS, typename F>
__device__ __forceinline__ void attend(float (&result)[D / 2], float (&sums)[2], uint32_t q, const few_keys<D, KEYS> &set,
                                       float factor, float last, F release) {
    flash_rows softmax = {{-INFINITY, -INFINITY}, {0, 0}, {1, 1}};
    for (int i = 0, left = set.keys; left > 0; i++, left -= KEYS) {
        float s[KEYS / 2];
        scores<D, KEYS>(s, q, set.k(i));
        if (left <= KEYS) release();
        if (flash_soften<KEYS>(s, softmax, factor, left, last) && i > 0) {
#pragma unroll
            for (int j = 0; j < D / 2; j++) result[j] *= softmax.correction[j / 2 % 2];
        }
        values<D, KEYS>(result, s, set.v(i), i > 0);
    }
    sums[0] = softmax.sum[0], sums[1] = softmax.sum[1];
}

__device__ __forceinline__ float row_sum(float part) {
    part += __shfl_xor_sync(0xffffffffu, part, 1);
    return part + __shfl_xor_sync(0xffffffffu, part, 2);
}

/*
 * result += attention to a set. Its sums are found first, so that probabilities add up to 1 before they go to the matrix
 * unit; by then the last piece's are there, those of others are computed again.
 */
template <int D, int KEYS, typename F>
__device__ __forceinline__ void attend_more(float (&result)[D / 2], uint32_t q, const few_keys<D, KEYS> &set, float factor,
                                            float last, F release) {
    flash_rows softmax = {{-INFINITY, -INFINITY}, {0, 0}, {1, 1}};
    float s[KEYS / 2], low[2];
    int pieces = set.pieces();
    for (int i = 0, left = set.keys; i < pieces; i++, left -= KEYS) {
        scores<D, KEYS>(s, q, set.k(i));
        flash_soften<KEYS>(s, softmax, factor, left, last);
    }
    if (pieces == 1) release();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = row_sum(softmax.sum[half]), share = 1 / sum;
        low[half] = softmax.top[half] + __log2f(sum);
#pragma unroll
        for (int j = 0; j < KEYS / 4; j++) s[j / 2 * 4 + 2 * half + j % 2] *= share;
    }
    values<D, KEYS>(result, s, set.v(pieces - 1), true);
    for (int i = 0; i < pieces - 1; i++) {
        scores<D, KEYS>(s, q, set.k(i));
        if (i == pieces - 2) release();
#pragma unroll
        for (int j = 0; j < KEYS / 2; j++) s[j] = exp2_fast(__fmaf_rn(s[j], factor, -low[j / 2 % 2]));
        values<D, KEYS>(result, s, set.v(i), true);
    }
}

/* Tiles `first` to `stop` of a head's queries, whose keys are on their way. */
template <int D, int FIRST, int SECOND>
__device__ __forceinline__ void consume(const few_maps &maps, const zoe_cuda_flash &o, const few_sets &sets,
                                        const few_places<D, FIRST, SECOND> &at, int head, int first, int stop, int &phase) {
    int group = uniform(threadIdx.x / 128);
    float factor = o.scale * 1.4426950408889634f;
    uint32_t q = at.q(group);
    for (int tile = first + group; tile < stop; tile += GROUPS) {
        float result[D / 2], sums[2];
        auto release = [&] {
            if (tile + GROUPS >= stop) return;
            named_sync(1 + group, 128);
            if (threadIdx.x % 128 == 0) bring_queries<D>(&maps.q, q, tile + GROUPS, head, at.q_full(group));
        };
        mbarrier_wait(at.q_full(group), phase);
        phase ^= 1;
        attend<D, FIRST>(result, sums, q, at.first_set, factor, sets.last[0] / o.scale, [&] {
            if (!SECOND) release();
        });
        if (SECOND) {
            float share[2] = {1 / row_sum(sums[0]), 1 / row_sum(sums[1])};
#pragma unroll
            for (int j = 0; j < D / 2; j++) result[j] *= share[j / 2 % 2];
            attend_more<D>(result, q, at.second_set, factor, sets.last[1] / o.scale, release);
            sums[0] = sums[1] = 0.25f;
        }
        int row = tile * ROWS + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
        write_rows<D>((bf16 *)o.y + head * o.y_head, o.y_row, row, o.queries, sums, result);
    }
}

template <int D, int FIRST, int SECOND>
__global__ void __launch_bounds__(THREADS, 1)
    flash_few_kernel(const __grid_constant__ few_maps maps, const __grid_constant__ zoe_cuda_flash o,
                     const __grid_constant__ few_sets sets) {
#if __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char shared[];
    few_places<D, FIRST, SECOND> at(shared_address(shared), sets);
    int group = threadIdx.x / 128, tiles = (o.queries + ROWS - 1) / ROWS, q_phase = 0, k_phase = 0;
    int64_t all = (int64_t)tiles * o.heads, begin = all * blockIdx.x / gridDim.x, end = all * (blockIdx.x + 1) / gridDim.x;
    if (threadIdx.x == 0) {
        for (int i = 0; i <= GROUPS; i++) mbarrier_init(at.q_full(i), 1);
        mbarrier_fence();
    }
    while (begin < end) {
        int head = (int)(begin / tiles), first = (int)(begin % tiles);
        int stop = end - begin < tiles - first ? first + (int)(end - begin) : tiles;
        __syncthreads(); /* nobody reads the last head's keys and queries any more */
        if (threadIdx.x == 0) {
            mbarrier_expect(at.keys_full(), at.first_set.bytes() + at.second_set.bytes());
            bring_set(at.first_set, &maps.k[0], &maps.v[0], head, at.keys_full());
            if (SECOND) bring_set(at.second_set, &maps.k[1], &maps.v[1], head, at.keys_full());
        }
        if (threadIdx.x % 128 == 0 && first + group < stop)
            bring_queries<D>(&maps.q, at.q(group), first + group, head, at.q_full(group));
        mbarrier_wait(at.keys_full(), k_phase);
        consume<D, FIRST, SECOND>(maps, o, sets, at, head, first, stop, q_phase);
        k_phase ^= 1;
        begin += stop - first;
    }
#endif
}

/* Of `count` sets number i in order of length, the longest first. */
static const zoe_cuda_flash *set_of(const zoe_cuda_flash *p, int count, int i) {
    return p + (count == 2 && p[1].keys > p[0].keys ? 1 - i : i);
}

/* Keys of its pieces. */
static int piece_of(const zoe_cuda_flash *p, int count, int i) {
    return i == count - 1 && set_of(p, count, i)->keys <= SHORT ? SHORT : LONG;
}

template <int D, int FIRST, int SECOND>
static cudaError_t launch(const zoe_cuda_flash *p, int count, int processors, cudaStream_t stream) {
    few_sets sets = {};
    few_maps maps = {};
    bool good = flash_map(&maps.q, p->q, D, p->queries, p->heads, p->q_row, p->q_head, ROWS);
    for (int i = 0; i < count; i++) {
        const zoe_cuda_flash *s = set_of(p, count, i);
        int piece = i ? SECOND : FIRST;
        sets.keys[i] = s->keys, sets.last[i] = s->last;
        good = good && flash_map(&maps.k[i], s->k, D, s->keys, p->heads, s->k_row, s->k_head, piece) &&
               flash_map(&maps.v[i], s->v, D, s->keys, p->heads, s->v_row, s->v_head, piece);
    }
    if (!good) return cudaErrorInvalidValue;
    auto kernel = flash_few_kernel<D, FIRST, SECOND>;
    int bytes = (int)few_places<D, FIRST, SECOND>(0, sets).end();
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    kernel<<<(unsigned)processors, THREADS, bytes, stream>>>(maps, *p, sets);
    return cudaGetLastError();
}

template <int D> static cudaError_t launch(const zoe_cuda_flash *p, int count, int processors, cudaStream_t stream) {
    bool few = piece_of(p, count, count - 1) == SHORT;
    if (count == 1)
        return few ? launch<D, SHORT, 0>(p, 1, processors, stream) : launch<D, LONG, 0>(p, 1, processors, stream);
    return few ? launch<D, LONG, SHORT>(p, 2, processors, stream) : launch<D, LONG, LONG>(p, 2, processors, stream);
}

bool zoe_cuda_flash_few_fits(const zoe_cuda_flash *p, int count, int shared_bytes) {
    int64_t rows = GROUPS * ROWS / 2; /* of a key and a value each */
    for (int i = 0; i < count; i++) {
        int64_t piece = piece_of(p, count, i);
        rows += (set_of(p, count, i)->keys + piece - 1) / piece * piece;
    }
    return rows * p->dim * 4 + (GROUPS + 1) * 8 <= shared_bytes;
}

cudaError_t zoe_cuda_launch_flash_few(const zoe_cuda_flash *p, int count, int processors, cudaStream_t stream) {
    return p->dim == 128 ? launch<128>(p, count, processors, stream) : launch<64>(p, count, processors, stream);
}
