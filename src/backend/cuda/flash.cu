/*
 * Attention of bf16 on mma.sync (sm_80 and later), for the shapes that cuDNN's is too large for: cross-attention to a few
 * dozen keys, of which the last may stand for many. Tiles of keys with an online softmax (Dao et al. 2022).
 *
 * A block of four warps takes 64 queries of one head, a warp 16 of them. Tiles of 64 keys and values are fetched while the
 * ones before are worked on. Rows in shared memory are swizzled: 16-byte piece c of row r lies at piece c ^ (r % 8).
 */
#include "backend/cuda/device.cuh"
#include "backend/cuda/mma.cuh"

#define QUERIES 64
#define KEYS    64
#define THREADS 128

/* Address of piece `piece` of row `row` in a tile of rows of D elements. */
template <int D> __device__ __forceinline__ uint32_t tile_at(uint32_t base, int row, int piece) {
    return base + (uint32_t)(row * D * 2 + ((piece ^ (row & 7)) * 16));
}

/* Fetches 64 rows of a head from row `first` on; rows past `rows` become zero. */
template <int D>
__device__ __forceinline__ void fetch_tile(uint32_t base, const bf16 *from, int64_t step, int first, int rows) {
    constexpr int pieces = D / 8;
#pragma unroll
    for (int i = 0; i < QUERIES * pieces / THREADS; i++) {
        int index = threadIdx.x + i * THREADS, row = index / pieces, piece = index % pieces;
        bool there = first + row < rows;
        cp_async16(tile_at<D>(base, row, piece), from + (there ? first + row : 0) * step + piece * 8, there);
    }
}

template <int D> __global__ void __launch_bounds__(THREADS) flash_kernel(zoe_cuda_flash p) {
    extern __shared__ __align__(128) char shared[];
    constexpr int tile = QUERIES * D * 2;
    uint32_t base = shared_address(shared), q_tile = base, k_tiles = base + tile, v_tiles = base + 3 * tile;
    int head = blockIdx.y, first = blockIdx.x * QUERIES, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bf16 *q = (const bf16 *)p.q + head * p.q_head, *k = (const bf16 *)p.k + head * p.k_head;
    const bf16 *v = (const bf16 *)p.v + head * p.v_head;
    float factor = p.scale * 1.4426950408889634f, last = p.last * 1.4426950408889634f;
    int tiles = (p.keys + KEYS - 1) / KEYS;

    fetch_tile<D>(q_tile, q, p.q_row, first, p.queries);
    fetch_tile<D>(k_tiles, k, p.k_row, 0, p.keys);
    fetch_tile<D>(v_tiles, v, p.v_row, 0, p.keys);
    cp_async_commit();

    uint32_t q_part[D / 16][4];
    float out[D / 8][4], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < D / 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) out[i][j] = 0;

    for (int t = 0; t < tiles; t++) {
        uint32_t k_tile = k_tiles + (t & 1) * tile, v_tile = v_tiles + (t & 1) * tile;
        if (t + 1 < tiles) {
            fetch_tile<D>(k_tiles + (~t & 1) * tile, k, p.k_row, (t + 1) * KEYS, p.keys);
            fetch_tile<D>(v_tiles + (~t & 1) * tile, v, p.v_row, (t + 1) * KEYS, p.keys);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (t == 0) {
#pragma unroll
            for (int i = 0; i < D / 16; i++)
                ldmatrix(q_part[i], tile_at<D>(q_tile, warp * 16 + lane % 16, 2 * i + lane / 16));
        }

        /* scores [16, 64] of the warp: two columns of rows lane / 4 and lane / 4 + 8 in every eight keys */
        float s[KEYS / 8][4];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[j][i] = 0;
#pragma unroll
        for (int i = 0; i < D / 16; i++)
#pragma unroll
            for (int j = 0; j < KEYS / 16; j++) {
                uint32_t b[4];
                ldmatrix(b, tile_at<D>(k_tile, j * 16 + lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
                mma_bf16(s[2 * j], q_part[i], b[0], b[1]);
                mma_bf16(s[2 * j + 1], q_part[i], b[2], b[3]);
            }
        int left = p.keys - t * KEYS; /* keys from this tile on */
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = j * 8 + lane % 4 * 2 + i % 2;
                s[j][i] = key < left ? s[j][i] * factor + (key == left - 1 ? last : 0) : -INFINITY;
            }

            /* Each half of the registers is one row. */
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float best = top[half];
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++) best = fmaxf(best, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
            best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
            best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
            float correction = exp2f(top[half] - best), part = 0;
            top[half] = best;
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) part += s[j][i] = exp2f(s[j][i] - best);
            sum[half] = sum[half] * correction + part;
#pragma unroll
            for (int j = 0; j < D / 8; j++) out[j][2 * half] *= correction, out[j][2 * half + 1] *= correction;
        }

#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) {
            uint32_t a[4] = {pack_bf16(s[2 * i][0], s[2 * i][1]), pack_bf16(s[2 * i][2], s[2 * i][3]),
                             pack_bf16(s[2 * i + 1][0], s[2 * i + 1][1]), pack_bf16(s[2 * i + 1][2], s[2 * i + 1][3])};
#pragma unroll
            for (int j = 0; j < D / 16; j++) {
                uint32_t b[4];
                ldmatrix_transposed(b, tile_at<D>(v_tile, i * 16 + lane % 16, 2 * j + lane / 16));
                mma_bf16(out[2 * j], a, b[0], b[1]);
                mma_bf16(out[2 * j + 1], a, b[2], b[3]);
            }
        }
        __syncthreads(); /* the next round fetches into this tile */
    }

    /* Through the warp's own rows of the queries' tile, so that whole pieces are written. */
#pragma unroll
    for (int half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
        float scale = 1.0f / sum[half];
        int row = warp * 16 + lane / 4 + half * 8;
#pragma unroll
        for (int j = 0; j < D / 8; j++)
            *(uint32_t *)(shared + (tile_at<D>(q_tile, row, j) - base) + lane % 4 * 4) =
                pack_bf16(out[j][2 * half] * scale, out[j][2 * half + 1] * scale);
    }
    __syncwarp();
    bf16 *y = (bf16 *)p.y + head * p.y_head;
#pragma unroll
    for (int i = 0; i < 16 * (D / 8) / 32; i++) {
        int index = lane + i * 32, row = warp * 16 + index / (D / 8), piece = index % (D / 8);
        if (first + row < p.queries)
            *(uint4 *)(y + (first + row) * p.y_row + piece * 8) =
                *(uint4 *)(shared + (tile_at<D>(q_tile, row, piece) - base));
    }
}

template <int D> static cudaError_t launch(const zoe_cuda_flash *p, cudaStream_t stream) {
    int bytes = 5 * QUERIES * D * 2;
    cudaError_t error = cudaFuncSetAttribute(flash_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    dim3 grid((unsigned)((p->queries + QUERIES - 1) / QUERIES), (unsigned)p->heads);
    flash_kernel<D><<<grid, THREADS, bytes, stream>>>(*p);
    return cudaGetLastError();
}

cudaError_t zoe_cuda_launch_flash(const zoe_cuda_flash *p, cudaStream_t stream) {
    if (p->queries <= 0 || p->heads <= 0) return cudaSuccess;
    return p->dim == 128 ? launch<128>(p, stream) : launch<64>(p, stream);
}
