/* The CogVideoX family against the reference implementation. */
#include "golden.h"

#include "models/cogvideox/cogvideox_model.h"
#include "pipeline/model.h"

static void check_case(const char *name) {
    golden g;
    golden_run(&g, name);
    golden_near(&g, "prompt_embeds", 1e-4);
    golden_near(&g, "negative_prompt_embeds", 1e-4);
    golden_near(&g, "timesteps", 0);
    golden_rows_near(&g, "step_latents", 2e-4);
    golden_video_near(&g, 55);
    golden_end(&g);
}

/* The denoiser's first call, on the reference's own inputs: unconditional, then conditional. */
static void check_denoiser(const char *name) {
    golden g;
    int64_t values, texts, count, timestep;
    golden_run(&g, name);
    cogvideox_model *m = g.model->impl;
    zoe_backend *be = m->be;
    const zoe_entry *in = zoe_checkpoint_find(g.expected, "dit_in.hidden_states");
    const float *x = golden_values(g.expected, "dit_in.hidden_states", &values);
    const float *text = golden_values(g.expected, "dit_in.encoder_hidden_states", &texts);
    const float *expected = golden_values(g.expected, "dit_out", &count);
    memcpy(&timestep, zoe_checkpoint_find(g.expected, "dit_in.timestep")->data, sizeof timestep);
    int64_t shape[4] = {in->shape[1], count / 2 * in->shape[2] / (values / 2), in->shape[3], in->shape[4]};
    float *found = malloc((size_t)count * sizeof *found);
    size_t mark = zoe_arena_mark(be);
    for (int i = 0; i < 2; i++) {
        zoe_tensor latents, words, v;
        zoe_cogvideox_grid grid;
        golden_check(&g, zoe_cogvideox_grid_create(m->denoiser, in->shape[1], in->shape[3], in->shape[4], &grid));
        golden_check(&g, zoe_cogvideox_text_create(m->denoiser, text + i * texts / 2, &words));
        golden_check(&g, zoe_nn_from_host(be, &latents, ZOE_F32, 4, in->shape + 1, x + i * values / 2));
        golden_check(&g, zoe_new_tensor(be, &v, ZOE_F32, 4, shape));
        const zoe_tensor *parts[] = {&latents};
        golden_check(&g, zoe_cogvideox_denoiser_forward(m->denoiser, &grid, &words, 1, parts, (double)timestep, &v));
        golden_check(&g, zoe_download(be, found + i * count / 2, &v));
        zoe_arena_release(be, mark);
    }
    double error = golden_relative(found, expected, count);
    print_message("dit_out: relative error %.1e\n", error);
    assert_true(error <= 2e-5);
    free(found);
    golden_end(&g);
}

#define CASE(name)                                                                                                         \
    static void name(void **state) {                                                                                       \
        (void)state;                                                                                                       \
        check_case(#name);                                                                                                 \
        check_denoiser(#name);                                                                                             \
    }
CASE(cogvideox_2b)
CASE(cogvideox_5b)
CASE(cogvideox_5b_i2v)
CASE(cogvideox15_5b)
CASE(cogvideox15_5b_i2v)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cogvideox_2b),   cmocka_unit_test(cogvideox_5b),       cmocka_unit_test(cogvideox_5b_i2v),
        cmocka_unit_test(cogvideox15_5b), cmocka_unit_test(cogvideox15_5b_i2v),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
