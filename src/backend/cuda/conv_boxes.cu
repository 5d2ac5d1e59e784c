/*
 * Convolution as an implicit matrix product on Hopper, for input channels in multiples of 32. One thread brings boxes: a
 * tile's pixels of one frame with all that its taps reach beside them, and for each tap the weights; two warpgroups
 * compute. All taps read the same box, each from another first pixel on: the second-level cache gives every pixel once for
 * nine products, and its rate is what bounds the kernels that fetch for each tap.
 *
 * The sums of a pixel are added up in the same order whatever the tile, so parts of frames give the bits of whole ones.
 */
#include "backend/cuda/bulk.cuh"
#include "backend/cuda/conv.cuh"
#include "backend/cuda/wgmma.cuh"

#define CONSUMERS          256 /* two warpgroups; behind them the fetching thread's */
#define FETCHER_REGISTERS  24
#define CONSUMER_REGISTERS 240
#define SIDE               8 /* a warpgroup's product is of 8 x 8 pixels */

/* Frames of history lie anywhere, so each has a map of its own. */
typedef struct conv_maps {
    CUtensorMap x, history[2], w;
    int box[2]; /* rows and columns of a box of pixels */
} conv_maps;

/*
 * A block of COLS channels and 16 columns by 8 * PRODUCTS rows of pixels, of which each warpgroup takes PRODUCTS squares of
 * 8 x 8, in slices of DEPTH input channels, the weights of TAPS taps at a time (3 or 9 of a kernel 3 wide, and high).
 * Enlarging, the squares are those of 8 x 8 input pixels that make the four pixels in place of each.
 */
template <int COLS_, int DEPTH_, int PRODUCTS_, int A_STAGES_, int B_STAGES_, int BLOCKS_, int TAPS_ = 1> struct conv_tile {
    static constexpr int COLS = COLS_, DEPTH = DEPTH_, PRODUCTS = PRODUCTS_, A_STAGES = A_STAGES_, B_STAGES = B_STAGES_,
                         BLOCKS = BLOCKS_, TAPS = TAPS_;
    static constexpr int ROWS = 128 * PRODUCTS, HEIGHT = SIDE * PRODUCTS, WIDTH = 2 * SIDE;
    static constexpr int LINE = DEPTH * 2; /* bytes of a pixel's slice */
    static constexpr int B_BYTES = TAPS * COLS * LINE, B_SIZE = (B_BYTES + 1023) / 1024 * 1024;
    static constexpr int PITCH = COLS + 8;      /* of sums on their way out */
    static constexpr bool HANDED = BLOCKS == 1; /* registers go from the fetcher's warpgroup to the others */
    static constexpr int THREADS = CONSUMERS + (HANDED ? 128 : 32);
};

struct conv_ring {
    uint32_t base, a_size, b_size, a_stages, b_stages;
    __device__ __forceinline__ uint32_t a(int stage) const {
        return base + stage * a_size;
    }
    __device__ __forceinline__ uint32_t b(int stage) const {
        return base + a_stages * a_size + stage * b_size;
    }
    __device__ __forceinline__ uint32_t a_full(int stage) const {
        return b(b_stages) + stage * 8;
    }
    __device__ __forceinline__ uint32_t a_free(int stage) const {
        return a_full(a_stages + stage);
    }
    __device__ __forceinline__ uint32_t b_full(int stage) const {
        return a_full(2 * a_stages + stage);
    }
    __device__ __forceinline__ uint32_t b_free(int stage) const {
        return a_full(2 * a_stages + b_stages + stage);
    }
};

/* A place in a ring that goes round. */
struct turn {
    int stage, phase;
    __device__ __forceinline__ void next(int stages) {
        if (++stage == stages) stage = 0, phase ^= 1;
    }
};

__device__ __forceinline__ void box_of_pixels(uint32_t to, const CUtensorMap *map, int channel, int x, int y, int frame,
                                              uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, "
                 "%5}], [%6];" ::"r"(to),
                 "l"(map), "r"(channel), "r"(x), "r"(y), "r"(frame), "r"(barrier)
                 : "memory");
}

/* Output pixels of a block. */
struct conv_place {
    int frame, line, column, channel;
    int first, end; /* taps in time with a frame behind them */
};

template <typename TILE> __device__ __forceinline__ conv_place place_of(const zoe_cuda_convolution &p) {
    int across = (p.out_width + TILE::WIDTH - 1) / TILE::WIDTH;
    conv_place o = {(int)blockIdx.z,
                    (int)blockIdx.y / across * TILE::HEIGHT,
                    (int)blockIdx.y % across * TILE::WIDTH,
                    (int)blockIdx.x * TILE::COLS,
                    0,
                    p.kernel[0]};
    while (o.first < o.end && !input_frame<bf16>(p, o.frame, o.first)) o.first++;
    while (o.first < o.end && !input_frame<bf16>(p, o.frame, o.end - 1)) o.end--;
    return o;
}

/* First line or column of a box for output pixels from `at` on. */
__device__ __forceinline__ int box_start(int at, int pad, int shift) {
    return (at >> shift) + (-pad >> shift);
}

template <typename TILE>
__device__ __forceinline__ void produce(const zoe_cuda_convolution &p, const conv_maps &maps, const conv_place &o,
                                        const conv_ring &ring) {
    int shift = p.upsample == 2, y = box_start(o.line, p.pad[1], shift), x = box_start(o.column, p.pad[2], shift);
    int taps = p.kernel[1] * p.kernel[2];
    uint32_t a_bytes = maps.box[0] * maps.box[1] * TILE::LINE;
    turn a = {0, 1}, b = {0, 1};
    for (int t = o.first; t < o.end; t++) {
        int at = o.frame * p.stride[0] + t - p.pad[0];
        const CUtensorMap *map = at < p.before ? &maps.history[at] : &maps.x;
        for (int channel = 0; channel < p.in; channel += TILE::DEPTH) {
            mbarrier_wait(ring.a_free(a.stage), a.phase);
            mbarrier_expect(ring.a_full(a.stage), a_bytes);
            box_of_pixels(ring.a(a.stage), map, channel, x, y, at < p.before ? 0 : at - p.before, ring.a_full(a.stage));
            a.next(TILE::A_STAGES);
            for (int tap = 0; tap < taps; tap += TILE::TAPS) {
                mbarrier_wait(ring.b_free(b.stage), b.phase);
                mbarrier_expect(ring.b_full(b.stage), TILE::B_BYTES);
                bulk_box(ring.b(b.stage), &maps.w, channel, o.channel, t * taps + tap, ring.b_full(b.stage));
                b.next(TILE::B_STAGES);
            }
        }
    }
}

/* Square `index` of a block: its first line and column, or which of four enlarged pixels. */
template <typename TILE> __device__ __forceinline__ int2 square(const zoe_cuda_convolution &p, int index) {
    int2 at = TILE::PRODUCTS == 2 ? make_int2(index % 2, index / 2) : make_int2(index, 0);
    return p.upsample == 2 ? at : make_int2(at.x * SIDE, at.y * SIDE);
}

/* Eight pixels of a line are 8 lines of 128 or 64 bytes, swizzled by their addresses; lines of the square are `pitch`
 * apart. */
template <typename TILE> __device__ __forceinline__ uint64_t pixels_tile(uint32_t address, int pitch) {
    uint64_t swizzle = TILE::DEPTH == 64 ? 1 : 2;
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(pitch >> 4) << 32 | swizzle << 62;
}

template <typename TILE> __device__ __forceinline__ uint64_t weights_tile(uint32_t address) {
    return TILE::DEPTH == 64 ? wgmma_tile(address) : wgmma_narrow_tile(address);
}

/* Column (x) and line (y) of a row of the block's products. */
template <typename TILE>
__device__ __forceinline__ int2 row_place(const zoe_cuda_convolution &p, const conv_place &o, int row) {
    int shift = p.upsample == 2, line = row % 64 / SIDE, column = row % SIDE;
    int2 start = square<TILE>(p, row / 64);
    return make_int2(o.column + (column << shift) + start.x, o.line + (line << shift) + start.y);
}

template <typename TILE>
__device__ __forceinline__ void consume(const zoe_cuda_convolution &p, const conv_maps &maps, const conv_place &o,
                                        const conv_ring &ring, float *result) {
    constexpr int COLS = TILE::COLS, PRODUCTS = TILE::PRODUCTS;
    int thread = threadIdx.x, group = thread / 128, warp = thread / 32 % 4, lane = thread % 32;
    int shift = p.upsample == 2, pitch = maps.box[1] * TILE::LINE;
    int2 from[PRODUCTS]; /* where a square's first tap begins, in enlarged pixels of the box */
    float sum[PRODUCTS][COLS / 2];
#pragma unroll
    for (int j = 0; j < PRODUCTS; j++) {
        from[j] = square<TILE>(p, group * PRODUCTS + j);
        from[j].x += -p.pad[2] - (-p.pad[2] >> shift << shift), from[j].y += -p.pad[1] - (-p.pad[1] >> shift << shift);
#pragma unroll
        for (int i = 0; i < COLS / 2; i++) sum[j][i] = 0;
    }
    turn a = {0, 0}, b = {0, 0};
    uint32_t left_a = 0, left_b = 0; /* barriers of what the products before the last ones read */
    for (int slices = (o.end - o.first) * (p.in / TILE::DEPTH); slices > 0; slices--) {
        mbarrier_wait(ring.a_full(a.stage), a.phase);
        for (int h = 0; h < p.kernel[1]; h += TILE::TAPS == 9 ? 3 : 1)
            for (int w = 0; w < p.kernel[2]; w += TILE::TAPS == 1 ? 1 : 3) {
                uint32_t pixels[TILE::TAPS][PRODUCTS];
#pragma unroll
                for (int tap = 0; tap < TILE::TAPS; tap++)
#pragma unroll
                    for (int j = 0; j < PRODUCTS; j++) {
                        int line = (from[j].y + h + tap / 3) >> shift, column = (from[j].x + w + tap % 3) >> shift;
                        pixels[tap][j] = ring.a(a.stage) + line * pitch + column * TILE::LINE;
                    }
                uint32_t first = ring.b(b.stage);
                mbarrier_wait(ring.b_full(b.stage), b.phase);
                wgmma_fence();
#pragma unroll
                for (int tap = 0; tap < TILE::TAPS; tap++) {
                    uint32_t weights = first + tap * TILE::COLS * TILE::LINE;
#pragma unroll
                    for (int k = 0; k < TILE::DEPTH / 16; k++)
#pragma unroll
                        for (int j = 0; j < PRODUCTS; j++)
                            wgmma_bf16<COLS>(sum[j], pixels_tile<TILE>(pixels[tap][j] + k * 32, pitch),
                                             weights_tile<TILE>(weights + k * 32));
                }
                wgmma_commit();
                wgmma_wait<1>();
                if (lane == 0) {
                    if (left_b) mbarrier_arrive(left_b);
                    if (left_a) mbarrier_arrive(left_a);
                }
                left_b = ring.b_free(b.stage), left_a = 0;
                b.next(TILE::B_STAGES);
            }
        left_a = ring.a_free(a.stage);
        a.next(TILE::A_STAGES);
    }
    wgmma_wait<0>();
    named_sync(1, CONSUMERS); /* both groups have read all there was */
#pragma unroll
    for (int j = 0; j < PRODUCTS; j++)
#pragma unroll
        for (int i = 0; i < COLS / 8; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = (group * PRODUCTS + j) * 64 + warp * 16 + lane / 4 + half * 8, n = i * 8 + lane % 4 * 2;
                *(float2 *)(result + row * TILE::PITCH + n) =
                    make_float2(sum[j][4 * i + 2 * half], sum[j][4 * i + 2 * half + 1]);
            }
    named_sync(1, CONSUMERS);
    conv_write<TILE::ROWS, COLS, CONSUMERS, TILE::PITCH>(p, result, o.frame, o.channel, thread,
                                                         [&](int row) { return row_place<TILE>(p, o, row); });
}

template <typename TILE>
__global__ void __launch_bounds__(TILE::THREADS, TILE::BLOCKS)
    conv_boxes_kernel(const __grid_constant__ conv_maps maps, const __grid_constant__ zoe_cuda_convolution p, int a_size) {
#if __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char shared[];
    conv_ring ring = {shared_address(shared), (uint32_t)a_size, TILE::B_SIZE, TILE::A_STAGES, TILE::B_STAGES};
    conv_place o = place_of<TILE>(p);
    if (threadIdx.x == 0) {
        for (int i = 0; i < TILE::A_STAGES; i++)
            mbarrier_init(ring.a_full(i), 1), mbarrier_init(ring.a_free(i), CONSUMERS / 32);
        for (int i = 0; i < TILE::B_STAGES; i++)
            mbarrier_init(ring.b_full(i), 1), mbarrier_init(ring.b_free(i), CONSUMERS / 32);
        mbarrier_fence();
    }
    __syncthreads();
    if (threadIdx.x >= CONSUMERS) {
        if (TILE::HANDED) registers_down<FETCHER_REGISTERS>();
        if (threadIdx.x == CONSUMERS) produce<TILE>(p, maps, o, ring);
    } else {
        if (TILE::HANDED) registers_up<CONSUMER_REGISTERS>();
        consume<TILE>(p, maps, o, ring, (float *)shared);
    }
#endif
}

static bool encode(CUtensorMap *map, int rank, const void *data, const cuuint64_t *shape, const cuuint64_t *strides,
                   const cuuint32_t *box) {
    const cuuint32_t steps[4] = {1, 1, 1, 1};
    return cuTensorMapEncodeTiled(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, (cuuint32_t)rank, (void *)data, shape, strides,
                                  box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                  box[0] == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* Boxes of a slice of the channels of [frames, height, width, in]. */
static bool encode_frames(CUtensorMap *map, const zoe_cuda_convolution *p, const void *data, int frames, int depth,
                          const int box[2]) {
    cuuint64_t shape[4] = {(cuuint64_t)p->in, (cuuint64_t)p->width, (cuuint64_t)p->height, (cuuint64_t)frames};
    cuuint64_t strides[3] = {shape[0] * 2, shape[0] * shape[1] * 2, shape[0] * shape[1] * shape[2] * 2};
    cuuint32_t boxes[4] = {(cuuint32_t)depth, (cuuint32_t)box[1], (cuuint32_t)box[0], 1};
    return encode(map, 4, data, shape, strides, boxes);
}

template <typename TILE> static cudaError_t launch(const zoe_cuda_convolution *p, cudaStream_t stream) {
    conv_maps maps;
    int taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
    for (int i = 0; i < 2; i++) {
        int size = i ? TILE::WIDTH : TILE::HEIGHT;
        maps.box[i] = p->upsample == 2 ? size / 2 + 2 : size + p->kernel[1 + i] - 1;
    }
    cuuint64_t shape[3] = {(cuuint64_t)p->in, (cuuint64_t)p->out, (cuuint64_t)taps};
    cuuint64_t strides[2] = {shape[0] * shape[2] * 2, shape[0] * 2};
    cuuint32_t box[3] = {TILE::DEPTH, TILE::COLS, TILE::TAPS};
    if (!encode(&maps.w, 3, p->w, shape, strides, box) ||
        !encode_frames(&maps.x, p, p->x, p->frames, TILE::DEPTH, maps.box))
        return cudaErrorInvalidValue;
    for (int i = 0; i < 2; i++) {
        const bf16 *frame = i < p->before ? (const bf16 *)p->history + i * p->history_stride : (const bf16 *)p->x;
        if (!encode_frames(&maps.history[i], p, frame, 1, TILE::DEPTH, maps.box)) return cudaErrorInvalidValue;
    }
    int a_size = (maps.box[0] * maps.box[1] * TILE::LINE + 1023) / 1024 * 1024;
    int bytes = TILE::A_STAGES * a_size + TILE::B_STAGES * TILE::B_SIZE + 2 * (TILE::A_STAGES + TILE::B_STAGES) * 8;
    int result = TILE::ROWS * TILE::PITCH * 4;
    if (bytes < result) bytes = result;
    cudaError_t error = cudaFuncSetAttribute(conv_boxes_kernel<TILE>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    int across = (p->out_width + TILE::WIDTH - 1) / TILE::WIDTH, down = (p->out_height + TILE::HEIGHT - 1) / TILE::HEIGHT;
    dim3 grid((unsigned)((p->out + TILE::COLS - 1) / TILE::COLS), (unsigned)(across * down), (unsigned)p->out_frames);
    conv_boxes_kernel<TILE><<<grid, TILE::THREADS, bytes, stream>>>(maps, *p, a_size);
    return cudaGetLastError();
}

/* ---- which tile ---- */

/* A tile, and what a convolution takes by it: rounds of blocks over the device, by their work, by how slowly they do it. */
typedef struct choice {
    cudaError_t (*run)(const zoe_cuda_convolution *p, cudaStream_t stream);
    int64_t price;
} choice;

template <typename TILE> static choice choice_of(const zoe_cuda_convolution *p, int processors, int slowness) {
    int64_t across = (p->out_width + TILE::WIDTH - 1) / TILE::WIDTH,
            down = (p->out_height + TILE::HEIGHT - 1) / TILE::HEIGHT;
    int64_t blocks = (p->out + TILE::COLS - 1) / TILE::COLS * across * down * p->out_frames;
    int64_t price = (blocks + processors - 1) / processors * TILE::ROWS * TILE::COLS * slowness;
    bool possible = TILE::PRODUCTS == 2 || p->upsample == 1; /* four enlarged pixels take four products */
    return {launch<TILE>, possible ? price : INT64_MAX};
}

static cudaError_t launch_cheapest(const zoe_cuda_convolution *p, cudaStream_t stream, int count, const choice *choices) {
    const choice *best = choices;
    for (int i = 1; i < count; i++)
        if (choices[i].price < best->price) best = &choices[i];
    return best->run(p, stream);
}

bool zoe_cuda_conv_in_boxes(const zoe_cuda_convolution *p) {
    int shift = p->upsample == 2;
    if (p->in % 32 || p->before > 2 || p->stride[1] != 1 || p->stride[2] != 1) return false;
    for (int i = 1; i < 3; i++)
        if (shift ? p->kernel[i] != 3 || p->pad[i] > 1 : p->kernel[i] > 3) return false;
    return true;
}

/*
 * The tiles that were fastest on the decoders' layers. Large ones read less; small ones fill the device better where frames
 * are small, and two of them on a processor hide their ends, which are longer with a residual.
 */
cudaError_t zoe_cuda_launch_conv_boxes(const zoe_cuda_convolution *p, cudaStream_t stream) {
    bool nine = p->kernel[1] == 3 && p->kernel[2] == 3;
    int device, processors, ends = p->residual ? 0 : 7;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (error != cudaSuccess) return error;
    if (nine && p->out <= 16)
        return p->in % 64 ? launch<conv_tile<16, 32, 2, 3, 4, 1, 9>>(p, stream)
                          : launch<conv_tile<16, 64, 2, 3, 4, 1, 9>>(p, stream);
    if (p->in % 64) {
        if (!nine) return launch<conv_tile<96, 32, 2, 3, 12, 1>>(p, stream);
        const choice choices[] = {choice_of<conv_tile<96, 32, 2, 3, 4, 1, 3>>(p, processors, 100),
                                  choice_of<conv_tile<96, 32, 1, 3, 3, 2, 3>>(p, processors, 97 + ends)};
        return launch_cheapest(p, stream, 2, choices);
    }
    if (nine && p->out <= 48) return launch<conv_tile<48, 64, 2, 3, 5, 1, 3>>(p, stream);
    if (p->out <= 96 || p->out % 192 == 0) {
        const choice choices[] = {choice_of<conv_tile<96, 64, 2, 2, 8, 1>>(p, processors, 104),
                                  choice_of<conv_tile<96, 64, 1, 2, 4, 2>>(p, processors, 105),
                                  choice_of<conv_tile<192, 64, 2, 2, 5, 1>>(p, processors, 100),
                                  choice_of<conv_tile<192, 64, 1, 3, 6, 1>>(p, processors, 103)};
        return launch_cheapest(p, stream, p->out <= 96 ? 2 : 4, choices);
    }
    const choice choices[] = {choice_of<conv_tile<128, 64, 2, 2, 6, 1>>(p, processors, 100),
                              choice_of<conv_tile<128, 64, 1, 2, 3, 2>>(p, processors, 97 + ends)};
    return launch_cheapest(p, stream, 2, choices);
}
