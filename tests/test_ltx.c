/* The LTX-Video family against the reference implementation. */
#include "golden.h"

#include "models/ltx/ltx_model.h"
#include "pipeline/model.h"

/*
 * The rows that the denoiser was given; a case's own prompt_embeds may have been encoded with more padding. Rows of the
 * unconditional prompt come first.
 */
static void check_text(const golden *g) {
    int64_t both, count, negative_count;
    const float *expected = golden_values(g->expected, "dit_in.encoder_hidden_states", &both);
    const float *found = golden_values(g->found, "prompt_embeds", &count);
    const float *negative = golden_values(g->found, "negative_prompt_embeds", &negative_count);
    assert_int_equal(count, both / 2);
    assert_int_equal(negative_count, both / 2);
    assert_true(golden_largest(negative, expected, both / 2) <= 1e-4);
    assert_true(golden_largest(found, expected + both / 2, both / 2) <= 1e-4);
}

/* The denoiser's first call, on the reference's own inputs: unconditional, then conditional. */
static void check_denoiser(golden *g) {
    ltx_model *m = g->model->impl;
    zoe_backend *be = m->be;
    const zoe_entry *in = zoe_checkpoint_find(g->expected, "dit_in.hidden_states");
    const zoe_entry *mask = zoe_checkpoint_find(g->expected, "dit_in.encoder_attention_mask");
    int64_t values, texts, count, times, rows = mask->shape[1], tokens = in->shape[1];
    const float *x = golden_values(g->expected, "dit_in.hidden_states", &values);
    const float *text = golden_values(g->expected, "dit_in.encoder_hidden_states", &texts);
    const float *timestep = golden_values(g->expected, "dit_in.timestep", &times);
    const float *expected = golden_values(g->expected, "dit_out", &count);
    int64_t given = 0, size[3] = {2, 2, 3};
    while (times > 2 && timestep[given] == 0) given++;
    float *found = malloc((size_t)count * sizeof *found);
    size_t mark = zoe_arena_mark(be), width = zoe_dtype_size(mask->dtype);
    for (int i = 0; i < 2; i++) {
        zoe_ltx_place place = {.size = {size[0], size[1], size[2]}, .fps = 25, .causal = m->conditions};
        zoe_ltx_context context;
        zoe_ltx_grid grid;
        zoe_tensor latents, v;
        int64_t length = 0;
        while (length < rows && ((const char *)mask->data)[(size_t)(i * rows + length) * width]) length++;
        golden_check(g, zoe_ltx_grid_create(m->denoiser, &place, &grid));
        golden_check(g, zoe_ltx_context_create(m->denoiser, text + i * texts / 2, length, &context));
        golden_check(g, zoe_nn_from_host(be, &latents, ZOE_F32, 2, in->shape + 1, x + i * values / 2));
        golden_check(g, zoe_new_tensor(be, &v, ZOE_F32, 2, in->shape + 1));
        assert_int_equal(grid.tokens, tokens);
        golden_check(g, zoe_ltx_denoiser_forward(m->denoiser, &grid, &context, NULL, &latents, given, timestep[times - 1],
                                                 &v));
        golden_check(g, zoe_download(be, found + i * count / 2, &v));
        zoe_arena_release(be, mark);
    }
    double error = golden_relative(found, expected, count);
    print_message("dit_out: relative error %.1e\n", error);
    assert_true(error <= 2e-5);
    free(found);
}

static void check_case(const char *name) {
    golden g;
    golden_run(&g, name);
    check_text(&g);
    golden_near(&g, "timesteps", 1e-6);
    golden_near(&g, "sigmas", 1e-6);
    check_denoiser(&g);
    golden_rows_near(&g, "step_latents", 2e-4);
    golden_video_near(&g, 55);
    golden_end(&g);
}

#define CASE(name)                                                                                                         \
    static void name(void **state) {                                                                                       \
        (void)state;                                                                                                       \
        check_case(#name);                                                                                                 \
    }
CASE(ltx_t2v)
CASE(ltx_i2v)
CASE(ltx095_t2v)
CASE(ltx095_i2v)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ltx_t2v),
        cmocka_unit_test(ltx_i2v),
        cmocka_unit_test(ltx095_t2v),
        cmocka_unit_test(ltx095_i2v),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
