/* Backends: the arena, views, shape checks, conversions, the plan's books, and results that do not depend on threads. */
#include "support.h"

#include <math.h>

#include "backend/cpu/cpu.h"

typedef struct fixture {
    test_memory memory;
    zoe_context *ctx;
    zoe_backend *be;
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    f->ctx = test_context(&f->memory);
    if (zoe_cpu_backend_create(f->ctx, (size_t)1 << 26, &f->be)) return -1;
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    zoe_backend_close(f->be);
    test_context_free(&f->memory, f->ctx);
    free(f);
    return 0;
}

static zoe_tensor tensor(zoe_backend *be, int rank, const int64_t *shape) {
    zoe_tensor t;
    assert_int_equal(zoe_new_tensor(be, &t, ZOE_F32, rank, shape), ZOE_OK);
    float *data = t.data;
    if (be->ops->computes)
        for (int64_t i = 0; i < zoe_tensor_count(&t); i++) data[i] = (float)((i * 37 + 11) % 101) / 50 - 1;
    return t;
}
#define T(be, ...) tensor(be, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})

/* ---- memory ---- */

static void arena_is_a_stack(void **state) {
    zoe_backend *be = ((fixture *)*state)->be;
    zoe_tensor a, b, c;
    assert_int_equal(ZOE_NEW(be, &a, ZOE_F32, 3, 5), ZOE_OK);
    assert_int_equal(be->arena.used, 256);
    size_t mark = zoe_arena_mark(be);
    assert_int_equal(ZOE_NEW(be, &b, ZOE_BF16, 129), ZOE_OK);
    assert_int_equal((uintptr_t)b.data % 256, 0);
    assert_int_equal(be->arena.used, 256 + 512);
    assert_ptr_equal(b.data, (char *)a.data + 256);
    zoe_arena_release(be, mark);
    assert_int_equal(ZOE_NEW(be, &c, ZOE_U8, 1), ZOE_OK);
    assert_ptr_equal(c.data, b.data);
    assert_int_equal(be->arena.used, 512);
    assert_int_equal(be->arena.peak, 768);
}

static void arena_runs_out(void **state) {
    fixture *f = *state;
    zoe_tensor t;
    assert_int_equal(ZOE_NEW(f->be, &t, ZOE_F32, (int64_t)1 << 24), ZOE_OK); /* all of the 64 MiB */
    size_t used = f->be->arena.used;
    assert_int_equal(ZOE_NEW(f->be, &t, ZOE_U8, 1), ZOE_ERR_NOMEM);
    assert_non_null(strstr(zoe_context_error(f->ctx), "out of memory"));
    assert_int_equal(f->be->arena.used, used);
}

static void trim_gives_back_what_is_above(void **state) {
    zoe_backend *be = ((fixture *)*state)->be;
    zoe_tensor keep = T(be, 1000), more;
    size_t mark = zoe_arena_mark(be);
    more = T(be, 1 << 22);
    float first = ((float *)keep.data)[0], last = ((float *)keep.data)[999];
    int64_t before = zoe_resident_bytes();
    zoe_arena_release(be, mark);
    zoe_arena_trim(be);
    assert_true(zoe_resident_bytes() < before - (12 << 20));
    assert_true(((float *)keep.data)[0] == first && ((float *)keep.data)[999] == last);
    assert_true(((float *)more.data)[1 << 21] == 0);
}

static int create_and_close(zoe_context *ctx, void *user) {
    zoe_backend *be;
    (void)user;
    int status = zoe_cpu_backend_create(ctx, 1 << 20, &be);
    if (status >= 0) {
        void *ptr;
        status = be->ops->alloc(be, 100, &ptr);
        if (status >= 0) be->ops->free(be, ptr);
        zoe_backend_close(be);
    } else {
        assert_null(be);
    }
    return status;
}

static void creation_survives_failures(void **state) {
    fixture *f = *state;
    zoe_backend *be;
    test_every_allocation(create_and_close, NULL);
    assert_int_equal(zoe_cpu_backend_create(f->ctx, (size_t)1 << 60, &be), ZOE_ERR_NOMEM);
    assert_null(be);
}

static void memory_goes_up_and_down(void **state) {
    zoe_backend *be = ((fixture *)*state)->be;
    const float host[3] = {1, 2, 3};
    float back[3] = {0};
    zoe_tensor t;
    assert_int_equal(zoe_backend_alloc(be, &t, ZOE_F32, 1, (const int64_t[]){3}), ZOE_OK);
    assert_int_equal((uintptr_t)t.data % 64, 0);
    assert_int_equal(zoe_upload(be, &t, host), ZOE_OK);
    assert_int_equal(zoe_download(be, back, &t), ZOE_OK);
    assert_memory_equal(host, back, sizeof host);
    zoe_backend_free(be, t.data);
    zoe_backend_free(be, NULL);
}

/* ---- tensors ---- */

static const float *at(const zoe_tensor *t, const int64_t *index) {
    int64_t offset = 0;
    for (int i = 0; i < t->rank; i++) offset += index[i] * t->stride[i];
    return (const float *)t->data + offset;
}

static void views_reach_the_same_elements(void **state) {
    zoe_backend *be = ((fixture *)*state)->be;
    zoe_tensor t = T(be, 4, 6, 10);
    zoe_tensor slice = zoe_view_slice(&t, 1, 2, 3);
    assert_ptr_equal(at(&slice, (int64_t[]){3, 2, 9}), at(&t, (int64_t[]){3, 4, 9}));
    assert_false(zoe_tensor_dense(&slice));
    zoe_tensor turned = zoe_view_permute(&t, (const int[]){2, 0, 1});
    assert_int_equal(turned.shape[0], 10);
    assert_ptr_equal(at(&turned, (int64_t[]){7, 1, 5}), at(&t, (int64_t[]){1, 5, 7}));
    zoe_tensor split = zoe_view_split(&t, 1, 2);
    assert_int_equal(split.rank, 4);
    assert_int_equal(split.shape[1], 3);
    assert_ptr_equal(at(&split, (int64_t[]){2, 1, 1, 4}), at(&t, (int64_t[]){2, 3, 4}));
    assert_true(zoe_tensor_dense(&split));
    zoe_tensor flat = ZOE_VIEW(&t, 24, 10);
    assert_ptr_equal(at(&flat, (int64_t[]){13, 3}), at(&t, (int64_t[]){2, 1, 3}));
    zoe_tensor wide = ZOE_VIEW(&t, 24, 10), part = zoe_view_slice(&wide, 1, 0, 8), heads = zoe_view_heads(&part, 4);
    assert_int_equal(heads.shape[0], 4);
    assert_int_equal(heads.shape[1], 24);
    assert_int_equal(heads.shape[2], 2);
    assert_ptr_equal(at(&heads, (int64_t[]){3, 5, 1}), at(&wide, (int64_t[]){5, 7}));
}

/* ---- shape checks ---- */

#define REFUSED(f, call, op)                                                                                               \
    do {                                                                                                                   \
        assert_int_equal(call, ZOE_ERR_INTERNAL);                                                                          \
        assert_non_null(strstr(zoe_context_error((f)->ctx), op ":"));                                                      \
    } while (0)

static void wrong_shapes_are_refused(void **state) {
    fixture *f = *state;
    zoe_backend *be = f->be;
    zoe_tensor x = T(be, 4, 6), y = T(be, 4, 8), w = T(be, 8, 6), wrong = T(be, 8, 5), eight = T(be, 8), six = T(be, 6);
    zoe_tensor heads = T(be, 2, 4, 3), other = T(be, 2, 5, 3), out = T(be, 2, 4, 3);
    double work = be->work.linear_flops;
    REFUSED(f, zoe_op_linear(be, &y, &x, &wrong, NULL), "linear");
    REFUSED(f, zoe_op_linear(be, &y, &x, &w, &(zoe_linear){.bias = &six}), "linear");
    REFUSED(f, zoe_op_linear(be, &y, &x, &w, &(zoe_linear){.residual = &x}), "linear");
    assert_true(be->work.linear_flops == work); /* what was refused is not counted */
    assert_int_equal(zoe_op_linear(be, &y, &x, &w, &(zoe_linear){.bias = &eight}), ZOE_OK);
    REFUSED(f, zoe_op_norm(be, &y, &x, &(zoe_norm){.eps = 1}), "norm");
    REFUSED(f, zoe_op_norm(be, &x, &x, &(zoe_norm){.weight = &eight}), "norm");
    REFUSED(f, zoe_op_qk_prepare(be, &x, &x, &(zoe_qk){.heads = 4}), "qk_prepare");
    REFUSED(f, zoe_op_attention(be, &out, &heads, &other, &heads, &(zoe_attention){.scale = 1}), "attention");
    REFUSED(f, zoe_op_attention(be, &other, &heads, &other, &other, &(zoe_attention){.scale = 1}), "attention");
    assert_int_equal(zoe_op_attention(be, &out, &heads, &other, &other, &(zoe_attention){.scale = 1}), ZOE_OK);
    zoe_attention half = {.scale = 1, .more_k = &other}, odd = {.scale = 1, .more_k = &heads, .more_v = &other};
    REFUSED(f, zoe_op_attention(be, &out, &heads, &other, &other, &half), "attention");
    REFUSED(f, zoe_op_attention(be, &out, &heads, &other, &other, &odd), "attention");
    REFUSED(f, zoe_op_copy(be, &y, &x), "copy");
    REFUSED(f, zoe_op_activate(be, &x, &x, &y, ZOE_ACT_NONE), "activate");
    REFUSED(f, zoe_op_scale_shift(be, &x, &x, &eight, NULL), "scale_shift");
    REFUSED(f, zoe_op_lincomb(be, &x, 2, (const zoe_tensor *[]){&x, &y}, (const float[]){1, 1}), "lincomb");
    zoe_tensor column = zoe_view_slice(&x, 1, 0, 3);
    bool finite;
    REFUSED(f, zoe_op_finite(be, &column, &finite), "finite");
}

static void wrong_convolutions_are_refused(void **state) {
    fixture *f = *state;
    zoe_backend *be = f->be;
    zoe_tensor x = T(be, 1, 4, 4, 2), y = T(be, 1, 4, 4, 3), w = T(be, 3, 1, 3, 3, 2), history = T(be, 2, 4, 3, 2);
    zoe_conv p = {.kernel = {1, 3, 3}, .stride = {1, 1, 1}, .pad = {{0, 0}, {1, 1}, {1, 1}}, .upsample = 1};
    assert_int_equal(zoe_op_conv(be, &y, &x, &w, &p), ZOE_OK);
    zoe_conv unpadded = p, carried = p;
    unpadded.pad[2][0] = 0;
    REFUSED(f, zoe_op_conv(be, &y, &x, &w, &unpadded), "conv");
    carried.history = &history;
    REFUSED(f, zoe_op_conv(be, &y, &x, &w, &carried), "conv");
    REFUSED(f, zoe_op_conv(be, &x, &x, &w, &p), "conv");
}

static void wrong_contents_are_refused(void **state) {
    fixture *f = *state;
    zoe_backend *be = f->be;
    zoe_tensor table = T(be, 4, 3), y = T(be, 2, 3), ids, half;
    assert_int_equal(ZOE_NEW(be, &ids, ZOE_I32, 2), ZOE_OK);
    assert_int_equal(ZOE_NEW(be, &half, ZOE_BF16, 2, 3), ZOE_OK);
    ((int32_t *)ids.data)[0] = 3;
    ((int32_t *)ids.data)[1] = 4;
    REFUSED(f, zoe_op_embedding(be, &y, &table, &ids), "embedding");
    ((int32_t *)ids.data)[1] = -1;
    REFUSED(f, zoe_op_embedding(be, &y, &table, &ids), "embedding");
    REFUSED(f, zoe_op_norm(be, &y, &half, &(zoe_norm){.eps = 1}), "norm");
}

/* ---- conversions ---- */

static void every_half_survives_a_round_trip(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        float f16 = zoe_f16_to_f32((uint16_t)i), bf16 = zoe_bf16_to_f32((uint16_t)i);
        if (isnan(f16)) {
            assert_true((i & 0x7c00) == 0x7c00 && (i & 0x3ff));
            assert_true(isnan(zoe_f16_to_f32(zoe_f32_to_f16(f16))));
        } else {
            assert_int_equal(zoe_f32_to_f16(f16), i);
        }
        if (isnan(bf16))
            assert_true(isnan(zoe_bf16_to_f32(zoe_f32_to_bf16(bf16))));
        else
            assert_int_equal(zoe_f32_to_bf16(bf16), i);
    }
}

/* Between two neighbours the nearer one is taken, and the even one from the very middle. */
static void halves_round_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 0x7bff; i++) {
        float middle = (zoe_f16_to_f32((uint16_t)i) + zoe_f16_to_f32((uint16_t)(i + 1))) / 2;
        assert_int_equal(zoe_f32_to_f16(middle), i + (i & 1));
        assert_int_equal(zoe_f32_to_f16(nextafterf(middle, 0)), i);
        assert_int_equal(zoe_f32_to_f16(-nextafterf(middle, INFINITY)), 0x8000 | (i + 1));
    }
    assert_int_equal(zoe_f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(zoe_f32_to_f16(65520), 0x7c00);
    for (uint32_t i = 0; i < 0x7f7f; i++) {
        uint32_t bits = i << 16 | 0x8000;
        float middle;
        memcpy(&middle, &bits, sizeof middle);
        assert_int_equal(zoe_f32_to_bf16(middle), i + (i & 1));
        assert_int_equal(zoe_f32_to_bf16(nextafterf(middle, 0)), i);
        assert_int_equal(zoe_f32_to_bf16(-nextafterf(middle, INFINITY)), 0x8000 | (i + 1));
    }
}

/* The kernels of every level convert every half, and floats around it, as the functions above do. */
static void kernels_convert_alike(void **state) {
    (void)state;
    enum { COUNT = 65536 };
    uint16_t *half = malloc(COUNT * sizeof *half), *back = malloc(COUNT * sizeof *back);
    float *wide = malloc(COUNT * sizeof *wide);
    assert_true(half && back && wide);
    for (uint32_t i = 0; i < COUNT; i++) half[i] = (uint16_t)i;
    for (uint32_t levels = 0; levels <= zoe_cpu_levels(); levels = 2 * levels + 1) {
        zoe_cpu_kernels k;
        zoe_cpu_kernels_init(&k, levels);
        for (int f16 = 0; f16 < 2; f16++) {
            zoe_dtype dtype = f16 ? ZOE_F16 : ZOE_BF16;
            k.load[dtype](wide, half, COUNT);
            for (uint32_t i = 0; i < COUNT; i++) {
                float expected = f16 ? zoe_f16_to_f32(half[i]) : zoe_bf16_to_f32(half[i]);
                assert_true(wide[i] == expected || (isnan(wide[i]) && isnan(expected)));
                wide[i] = wide[i] * 1.0003f;
            }
            k.store[dtype](back, wide, COUNT);
            for (uint32_t i = 0; i < COUNT; i++)
                if (!isnan(wide[i])) assert_int_equal(back[i], f16 ? zoe_f32_to_f16(wide[i]) : zoe_f32_to_bf16(wide[i]));
        }
    }
    free(half), free(back), free(wide);
}

/* ---- the same model code on several backends ---- */

/* A little of everything; the result's bytes, when the backend computes, go to `out`. */
static int small_network(zoe_backend *be, float *out) {
    zoe_tensor x = T(be, 70, 96), w = T(be, 96, 96), y = T(be, 70, 96), z = T(be, 70, 96), bias = T(be, 96);
    ZOE_TRY(zoe_op_linear(be, &y, &x, &w, &(zoe_linear){.bias = &bias, .act = ZOE_ACT_GELU_TANH}));
    ZOE_TRY(zoe_op_norm(be, &y, &y, &(zoe_norm){.eps = 1e-6f}));
    zoe_tensor q = zoe_view_heads(&y, 3), v = zoe_view_heads(&x, 3), to = zoe_view_heads(&z, 3);
    ZOE_TRY(zoe_op_attention(be, &to, &q, &q, &v, &(zoe_attention){.scale = 0.2f}));
    size_t mark = zoe_arena_mark(be);
    zoe_tensor wide_head = T(be, 1, 300, 1024), narrow = T(be, 1, 300, 1024); /* too wide for whole tiles in scratch */
    ZOE_TRY(zoe_op_attention(be, &narrow, &wide_head, &wide_head, &wide_head, &(zoe_attention){.scale = 0.03f}));
    zoe_tensor picture = ZOE_VIEW(&z, 2, 7, 5, 96), kernel = T(be, 40, 3, 3, 3, 96), made = T(be, 2, 7, 5, 40);
    zoe_conv p = {.kernel = {3, 3, 3}, .stride = {1, 1, 1}, .pad = {{2, 0}, {1, 1}, {1, 1}}, .upsample = 1};
    ZOE_TRY(zoe_op_conv(be, &made, &picture, &kernel, &p));
    bool finite = false;
    ZOE_TRY(zoe_op_finite(be, &made, &finite));
    assert_true(finite);
    if (out) {
        ZOE_TRY(zoe_download(be, out, &made));
        ZOE_TRY(zoe_download(be, out + 2 * 7 * 5 * 40, &narrow));
    }
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

static void plan_keeps_the_same_books(void **state) {
    fixture *f = *state;
    zoe_backend *plan;
    assert_int_equal(zoe_plan_backend_create(f->ctx, ZOE_F32, false, &plan), ZOE_OK);
    assert_int_equal(small_network(f->be, NULL), ZOE_OK);
    assert_int_equal(small_network(plan, NULL), ZOE_OK);
    assert_int_equal(plan->arena.peak, f->be->arena.peak);
    assert_int_equal(plan->arena.used, f->be->arena.used);
    assert_memory_equal(&plan->work, &f->be->work, sizeof plan->work);
    assert_true(plan->work.linear_flops == 2.0 * 70 * 96 * 96);
    assert_true(plan->work.conv_flops == 2.0 * 2 * 7 * 5 * 40 * 27 * 96);
    assert_true(plan->work.attention_flops == 4.0 * (70.0 * 70 * 96 + 300.0 * 300 * 1024));
    void *a, *b;
    assert_int_equal(plan->ops->alloc(plan, 300, &a), ZOE_OK);
    assert_int_equal(plan->ops->alloc(plan, 0, &b), ZOE_OK);
    assert_true((char *)b - (char *)a >= 300);
    assert_int_equal((uintptr_t)b % 256, 0);
    zoe_backend_close(plan);
}

/* Memory that quantised attention takes while it runs is in a device's plan, for long sequences alone. */
static void plan_foretells_quantised_attention(void **state) {
    fixture *f = *state;
    for (int i = 0; i < 5; i++) {
        int64_t heads = 2, queries = 300, keys = i == 1 ? 1024 : 1100, dim = 64, value = i == 4 ? 2 : 1;
        zoe_backend *plan;
        zoe_tensor q, k, y;
        assert_int_equal(zoe_plan_backend_create(f->ctx, ZOE_BF16, true, &plan), ZOE_OK);
        assert_int_equal(ZOE_NEW(plan, &q, ZOE_BF16, heads, queries, dim), ZOE_OK);
        assert_int_equal(ZOE_NEW(plan, &k, ZOE_BF16, heads, keys, dim), ZOE_OK);
        assert_int_equal(ZOE_NEW(plan, &y, ZOE_BF16, heads, queries, dim), ZOE_OK);
        size_t before = plan->arena.used;
        plan->sage = i > 0;
        plan->sage_value = (int)value;
        zoe_attention p = {.scale = 1, .last_key_repeats = i == 2 ? 9 : 0};
        assert_int_equal(zoe_op_attention(plan, &y, &q, &k, &k, &p), ZOE_OK);
        assert_int_equal(plan->arena.used, before);
        /* at least int8 queries and keys, and values of e4m3 or half, in whole tiles */
        int64_t least = heads * dim * (384 + (1 + value) * 1152), most = least + least / 10;
        int64_t taken = (int64_t)(plan->arena.peak - before);
        assert_true(i < 3 ? taken == 0 : taken >= least && taken <= most);
        zoe_backend_close(plan);
    }
}

static void threads_change_no_bit(void **state) {
    (void)state;
    enum { COUNT = 2 * 7 * 5 * 40 + 300 * 1024 };
    float *results[2];
    for (int i = 0; i < 2; i++) {
        zoe_context_settings settings;
        zoe_context *ctx;
        zoe_backend *be;
        zoe_context_settings_init(&settings);
        settings.threads = i ? 5 : 1;
        assert_int_equal(zoe_context_create(&settings, &ctx), ZOE_OK);
        assert_int_equal(zoe_cpu_backend_create(ctx, 0, &be), ZOE_OK);
        results[i] = malloc(COUNT * sizeof(float));
        assert_non_null(results[i]);
        assert_int_equal(small_network(be, results[i]), ZOE_OK);
        zoe_backend_close(be);
        zoe_context_free(ctx);
    }
    assert_memory_equal(results[0], results[1], COUNT * sizeof(float));
    free(results[0]), free(results[1]);
}

static void mask_turns_levels_off(void **state) {
    (void)state;
    zoe_cpu_kernels k;
    zoe_cpu_kernels_init(&k, 0);
    assert_string_equal(k.level, "c");
    zoe_cpu_kernels_init(&k, ZOE_CPU_AVX512); /* stands on AVX2 */
    assert_string_equal(k.level, "c");
    if (!(zoe_cpu_levels() & ZOE_CPU_AVX2)) skip();
    zoe_cpu_kernels_init(&k, ZOE_CPU_AVX2);
    assert_string_equal(k.level, "avx2");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(arena_is_a_stack, setup, teardown),
        cmocka_unit_test_setup_teardown(arena_runs_out, setup, teardown),
        cmocka_unit_test_setup_teardown(trim_gives_back_what_is_above, setup, teardown),
        cmocka_unit_test_setup_teardown(creation_survives_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(memory_goes_up_and_down, setup, teardown),
        cmocka_unit_test_setup_teardown(views_reach_the_same_elements, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_shapes_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_convolutions_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_contents_are_refused, setup, teardown),
        cmocka_unit_test(every_half_survives_a_round_trip),
        cmocka_unit_test(halves_round_to_nearest_even),
        cmocka_unit_test(kernels_convert_alike),
        cmocka_unit_test_setup_teardown(plan_keeps_the_same_books, setup, teardown),
        cmocka_unit_test_setup_teardown(plan_foretells_quantised_attention, setup, teardown),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(mask_turns_levels_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
