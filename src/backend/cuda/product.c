/* Matrix products through cuBLASLt. What is asked for once is asked for again: algorithms are chosen once and kept. */
#include <string.h>

#include "backend/cuda/cuda.h"

struct zoe_cuda_plan {
    zoe_cuda_product product;
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
    return dtype == ZOE_F32 ? CUDA_R_32F : dtype == ZOE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
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

static int set_bias(zoe_backend *be, zoe_cuda_plan *plan, const void *bias) {
    if (!bias) return ZOE_OK;
    return zoe_cuda_blas_check(
        be, cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias), "bias");
}

static int describe(zoe_backend *be, zoe_cuda_plan *plan, const void *bias) {
    const zoe_cuda_product *p = &plan->product;
    cublasOperation_t turn = p->straight ? CUBLAS_OP_N : CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = (cublasLtEpilogue_t)p->epilogue;
    int64_t w_width = p->straight ? p->cols : p->depth, w_rows = p->straight ? p->depth : p->cols;
    ZOE_TRY(zoe_cuda_blas_check(be, cublasLtMatmulDescCreate(&plan->what, CUBLAS_COMPUTE_32F, CUDA_R_32F), "product"));
    ZOE_TRY(zoe_cuda_blas_check(be,
                                cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_TRANSA, &turn, sizeof turn),
                                "transposition"));
    ZOE_TRY(zoe_cuda_blas_check(be,
                                cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                                               sizeof epilogue),
                                "epilogue"));
    ZOE_TRY(set_bias(be, plan, bias));
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
    ZOE_TRY(zoe_cuda_blas_check(be, status, "choice of an algorithm"));
    const zoe_cuda_product *p = &plan->product;
    if (!found)
        return zoe_fail(be->ctx, ZOE_ERR_DEVICE, "cuBLASLt has no algorithm for the product [%lld, %lld] x [%lld, %lld]",
                        (long long)p->rows, (long long)p->depth, (long long)p->depth, (long long)p->cols);
    plan->how = result.algo;
    return ZOE_OK;
}

static int find_plan(zoe_cuda *cuda, const zoe_cuda_product *p, const int alignment[4], const void *bias,
                     zoe_cuda_plan **out) {
    zoe_backend *be = &cuda->base;
    for (size_t i = 0; i < cuda->plan_count; i++)
        if (memcmp(&cuda->plans[i].product, p, sizeof *p) == 0 &&
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
    memcpy(&plan->product, p, sizeof *p);
    memcpy(plan->alignment, alignment, sizeof plan->alignment);
    int status = describe(be, plan, bias);
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
    zoe_cuda_product key; /* with the gaps between members zeroed, as it is compared by bytes */
    memset(&key, 0, sizeof key);
    key.rows = p->rows, key.cols = p->cols, key.depth = p->depth, key.batch = p->batch;
    key.ldx = p->ldx, key.ldw = p->ldw, key.ldy = p->ldy, key.ldc = p->ldc;
    key.step_x = p->step_x, key.step_w = p->step_w, key.step_y = p->step_y;
    key.in = p->in, key.out = p->out, key.straight = p->straight, key.epilogue = p->epilogue;
    key.alpha = p->alpha, key.beta = p->beta;
    ZOE_TRY(find_plan(cuda, &key, alignment, bias, &plan));
    ZOE_TRY(set_bias(be, plan, bias));
    return zoe_cuda_blas_check(be,
                               cublasLtMatmul(cuda->blas, plan->what, &p->alpha, w, plan->w, x, plan->x, &p->beta,
                                              p->beta != 0 ? c : y, plan->c, y, plan->y, &plan->how, cuda->blas_workspace,
                                              ZOE_CUDA_BLAS_WORKSPACE, cuda->stream),
                               "product");
}

void zoe_cuda_plans_close(zoe_cuda *cuda) {
    for (size_t i = 0; i < cuda->plan_count; i++) destroy(&cuda->plans[i]);
    zoe_free(cuda->base.ctx, cuda->plans);
}
