/* Matrix products through cuBLASLt. What is asked for once is asked for again: algorithms are chosen once and kept. */
#include <string.h>

#include "backend/cuda/cuda.h"

struct zoe_cuda_plan {
    zoe_cuda_product product; /* without its scales */
    bool scaled;
    int alignment[4]; /* of y, x, w, c in bytes, up to 256 */
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t x, w, y, c;
    cublasLtMatmulAlgo_t how;
};

static int alignment_of(const void *ptr) {
    uintptr_t bits = (uintptr_t)ptr;
    return bits % 256 == 0 ? 256 : (int)(bits & -bits);
}

static cudaDataType_t type_of(zoe_dtype dtype) {
    switch (dtype) {
    case ZOE_F32:
        return CUDA_R_32F;
    case ZOE_BF16:
        return CUDA_R_16BF;
    case ZOE_I8:
        return CUDA_R_8I;
    case ZOE_I32:
        return CUDA_R_32I;
    case ZOE_F8_E4M3:
        return CUDA_R_8F_E4M3;
    default:
        return CUDA_R_16F;
    }
}

/* A row-major matrix seen by columns: its rows become columns. */
static int layout(zoe_backend *be, cublasLtMatrixLayout_t *out, zoe_dtype dtype, int64_t width, int64_t rows, int64_t ld,
                  int64_t batch, int64_t step) {
    int32_t count = (int32_t)batch;
    ZOE_TRY(zoe_cuda_blas_check(be,
                                cublasLtMatrixLayoutCreate(out, type_of(dtype), (uint64_t)width, (uint64_t)rows,
                                                           rows > 1 ? ld : width),
                                "layout"));
    if (batch <= 1) return ZOE_OK;
    ZOE_TRY(zoe_cuda_blas_check(
        be, cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count), "batch"));
    return zoe_cuda_blas_check(be,
                               cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step,
                                                                sizeof step),
                               "batch");
}

static void destroy(zoe_cuda_plan *plan) {
    if (plan->what) cublasLtMatmulDescDestroy(plan->what);
    cublasLtMatrixLayout_t layouts[] = {plan->x, plan->w, plan->y, plan->c};
    for (int i = 0; i < 4; i++)
        if (layouts[i]) cublasLtMatrixLayoutDestroy(layouts[i]);
}

static int set(zoe_backend *be, zoe_cuda_plan *plan, cublasLtMatmulDescAttributes_t what, const void *value, size_t size,
               const char *name) {
    return zoe_cuda_blas_check(be, cublasLtMatmulDescSetAttribute(plan->what, what, value, size), name);
}

static int set_bias(zoe_backend *be, zoe_cuda_plan *plan, const void *bias) {
    return bias ? set(be, plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias, "bias") : ZOE_OK;
}

/* The library's first matrix is our second. */
static int set_scales(zoe_backend *be, zoe_cuda_plan *plan, const zoe_cuda_product *p) {
    if (!plan->scaled) return ZOE_OK;
    ZOE_TRY(set(be, plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &p->col_scale, sizeof p->col_scale, "scales"));
    return set(be, plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &p->row_scale, sizeof p->row_scale, "scales");
}

/* fp8: sums may keep fewer bits, at which the matrix units are fastest. */
static int describe_narrow(zoe_backend *be, zoe_cuda_plan *plan) {
    int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    int8_t fast = 1;
    if (plan->product.in != ZOE_F8_E4M3) return ZOE_OK;
    ZOE_TRY(set(be, plan, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast, "accumulation"));
    if (!plan->scaled) return ZOE_OK;
    ZOE_TRY(set(be, plan, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode, "scales"));
    return set(be, plan, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode, "scales");
}

/* The library wants to know of bias and scales before it chooses; which they are may change from product to product. */
static int describe(zoe_backend *be, zoe_cuda_plan *plan, const zoe_cuda_product *first, const void *bias) {
    const zoe_cuda_product *p = &plan->product;
    cublasOperation_t turn = p->straight ? CUBLAS_OP_N : CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = (cublasLtEpilogue_t)p->epilogue;
    int64_t w_width = p->straight ? p->cols : p->depth, w_rows = p->straight ? p->depth : p->cols;
    bool whole = p->in == ZOE_I8; /* numbers */
    ZOE_TRY(zoe_cuda_blas_check(be,
                                cublasLtMatmulDescCreate(&plan->what, whole ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                                         whole ? CUDA_R_32I : CUDA_R_32F),
                                "product"));
    ZOE_TRY(set(be, plan, CUBLASLT_MATMUL_DESC_TRANSA, &turn, sizeof turn, "transposition"));
    ZOE_TRY(set(be, plan, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue, "epilogue"));
    ZOE_TRY(describe_narrow(be, plan));
    ZOE_TRY(set_bias(be, plan, bias));
    ZOE_TRY(set_scales(be, plan, first));
    ZOE_TRY(layout(be, &plan->w, p->in, w_width, w_rows, p->ldw, p->batch, p->step_w));
    ZOE_TRY(layout(be, &plan->x, p->in, p->depth, p->rows, p->ldx, p->batch, p->step_x));
    ZOE_TRY(layout(be, &plan->c, p->out, p->cols, p->rows, p->beta != 0 ? p->ldc : p->ldy, p->batch, p->step_y));
    return layout(be, &plan->y, p->out, p->cols, p->rows, p->ldy, p->batch, p->step_y);
}

static int choose(zoe_cuda *cuda, zoe_cuda_plan *plan) {
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                                                                      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                                                      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                                                      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES};
    zoe_backend *be = &cuda->base;
    size_t workspace = ZOE_CUDA_BLAS_WORKSPACE;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    ZOE_TRY(zoe_cuda_blas_check(be, cublasLtMatmulPreferenceCreate(&preference), "preference"));
    cublasStatus_t status = cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                                 &workspace, sizeof workspace);
    for (int i = 0; i < 4 && status == CUBLAS_STATUS_SUCCESS; i++) {
        uint32_t bytes = (uint32_t)plan->alignment[i];
        status = cublasLtMatmulPreferenceSetAttribute(preference, alignments[i], &bytes, sizeof bytes);
    }
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulAlgoGetHeuristic(cuda->blas, plan->what, plan->w, plan->x, plan->c, plan->y, preference, 1,
                                                &result, &found);
    cublasLtMatmulPreferenceDestroy(preference);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) status = CUBLAS_STATUS_SUCCESS, found = 0;
    ZOE_TRY(zoe_cuda_blas_check(be, status, "choice of an algorithm"));
    const zoe_cuda_product *p = &plan->product;
    if (!found)
        return zoe_fail(be->ctx, ZOE_ERR_UNSUPPORTED,
                        "cuBLASLt has no algorithm for the product [%lld, %lld] x [%lld, %lld]", (long long)p->rows,
                        (long long)p->depth, (long long)p->depth, (long long)p->cols);
    plan->how = result.algo;
    return ZOE_OK;
}

/* `key`: the product without scales, with the gaps between members zeroed, as it is compared by bytes. */
static int find_plan(zoe_cuda *cuda, const zoe_cuda_product *key, const zoe_cuda_product *first, const int alignment[4],
                     const void *bias, zoe_cuda_plan **out) {
    bool scaled = first->row_scale != NULL;
    zoe_backend *be = &cuda->base;
    for (size_t i = 0; i < cuda->plan_count; i++)
        if (memcmp(&cuda->plans[i].product, key, sizeof *key) == 0 && cuda->plans[i].scaled == scaled &&
            memcmp(cuda->plans[i].alignment, alignment, sizeof cuda->plans[i].alignment) == 0) {
            *out = &cuda->plans[i];
            return ZOE_OK;
        }
    if (cuda->plan_count == cuda->plan_capacity) {
        size_t capacity = cuda->plan_capacity ? 2 * cuda->plan_capacity : 64;
        zoe_cuda_plan *plans = zoe_realloc(be->ctx, cuda->plans, capacity * sizeof *plans);
        if (!plans) return zoe_out_of_memory(be->ctx, capacity * sizeof *plans, "plans of products");
        cuda->plans = plans;
        cuda->plan_capacity = capacity;
    }
    zoe_cuda_plan *plan = &cuda->plans[cuda->plan_count];
    memset(plan, 0, sizeof *plan);
    memcpy(&plan->product, key, sizeof *key);
    plan->scaled = scaled;
    memcpy(plan->alignment, alignment, sizeof plan->alignment);
    int status = describe(be, plan, first, bias);
    if (status == ZOE_OK) status = choose(cuda, plan);
    if (status < 0) {
        destroy(plan);
        return status;
    }
    cuda->plan_count++;
    *out = plan;
    return ZOE_OK;
}

int zoe_cuda_multiply(zoe_cuda *cuda, const zoe_cuda_product *p, void *y, const void *x, const void *w, const void *c,
                      const void *bias) {
    zoe_backend *be = &cuda->base;
    int alignment[4] = {alignment_of(y), alignment_of(x), alignment_of(w), alignment_of(p->beta != 0 ? c : y)};
    zoe_cuda_plan *plan = NULL;
    zoe_cuda_product key;
    memset(&key, 0, sizeof key);
    key.rows = p->rows, key.cols = p->cols, key.depth = p->depth, key.batch = p->batch;
    key.ldx = p->ldx, key.ldw = p->ldw, key.ldy = p->ldy, key.ldc = p->ldc;
    key.step_x = p->step_x, key.step_w = p->step_w, key.step_y = p->step_y;
    key.in = p->in, key.out = p->out, key.straight = p->straight, key.epilogue = p->epilogue;
    key.alpha = p->alpha, key.beta = p->beta;
    ZOE_TRY(find_plan(cuda, &key, p, alignment, bias, &plan));
    ZOE_TRY(set_bias(be, plan, bias));
    ZOE_TRY(set_scales(be, plan, p));
    int32_t whole[2] = {(int32_t)p->alpha, (int32_t)p->beta}; /* of products of integers */
    bool integers = p->out == ZOE_I32;
    return zoe_cuda_blas_check(be,
                               cublasLtMatmul(cuda->blas, plan->what, integers ? (const void *)&whole[0] : &p->alpha, w,
                                              plan->w, x, plan->x, integers ? (const void *)&whole[1] : &p->beta,
                                              p->beta != 0 ? c : y, plan->c, y, plan->y, &plan->how, cuda->blas_workspace,
                                              ZOE_CUDA_BLAS_WORKSPACE, cuda->stream),
                               "product");
}

void zoe_cuda_plans_close(zoe_cuda *cuda) {
    for (size_t i = 0; i < cuda->plan_count; i++) destroy(&cuda->plans[i]);
    zoe_free(cuda->base.ctx, cuda->plans);
}
