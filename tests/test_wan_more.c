/* Wan cases of other shapes, weight types, schedules and pictures; tests/reference/make_wan_cases.sh makes them. */
#include "golden.h"

#include "models/wan/wan_model.h"
#include "pipeline/model.h"

/* Rows of the reference's padded text that are not padding. */
static int64_t text_rows(const float *text, int64_t width) {
    int64_t rows = ZOE_WAN_TEXT_ROWS;
    while (rows > 0 && text[rows * width - 1] == 0) rows--;
    return rows;
}

/* The reference's timesteps, [1], or [1, tokens] where those of the first frame, which is given, have their own. */
static int timestep_groups(const zoe_entry *entry, double times[2], int64_t *start) {
    times[0] = times[1] = 0;
    *start = 0;
    if (entry->dtype == ZOE_I64) {
        int64_t whole;
        memcpy(&whole, entry->data, sizeof whole);
        times[0] = (double)whole;
        return 1;
    }
    const float *values = entry->data;
    int64_t count = (int64_t)(entry->bytes / sizeof *values);
    while (*start < count && values[*start] == values[0]) (*start)++;
    times[0] = values[0];
    if (*start == count) return 1;
    times[1] = values[*start];
    return 2;
}

/* One forward of the first denoiser on the reference's own inputs, all channels joined already. */
static void check_forward(const golden *g) {
    wan_model *m = g->model->impl;
    zoe_backend *be = m->be;
    const zoe_entry *in = zoe_checkpoint_find(g->expected, "dit_in.hidden_states");
    const zoe_entry *image = zoe_checkpoint_find(g->expected, "dit_in.encoder_hidden_states_image");
    const zoe_entry *out = zoe_checkpoint_find(g->expected, "dit_out");
    int64_t count, start, width = zoe_wan_denoiser_config(m->denoisers[0])->text_dim;
    const float *text = golden_values(g->expected, "dit_in.encoder_hidden_states", &count);
    const float *expected = golden_values(g->expected, "dit_out", &count);
    size_t mark = zoe_arena_mark(be);
    double times[2];
    int groups = timestep_groups(zoe_checkpoint_find(g->expected, "dit_in.timestep"), times, &start);
    zoe_tensor x, v;
    zoe_wan_grid grid;
    zoe_wan_context context;
    golden_check(g, zoe_wan_grid_create(m->denoisers[0], in->shape[2], in->shape[3], in->shape[4], &grid));
    golden_check(g, zoe_wan_context_create(m->denoisers[0], text, text_rows(text, width), image ? image->data : NULL,
                                           image ? image->shape[0] * image->shape[1] : 0, &context));
    golden_check(g, zoe_nn_from_host(be, &x, ZOE_F32, 4, in->shape + 1, in->data));
    golden_check(g, zoe_new_tensor(be, &v, ZOE_F32, 4, out->shape + 1));
    const zoe_tensor *parts[] = {&x};
    const zoe_wan_step step = {.parts = 1, .latents = parts, .groups = groups, .timesteps = times, .start = start};
    golden_check(g, zoe_wan_denoiser_forward(m->denoisers[0], &grid, &step, 1, &(zoe_wan_branch){&context, &v}));
    float *found = malloc((size_t)count * sizeof *found);
    golden_check(g, zoe_download(be, found, &v));
    double error = golden_relative(found, expected, count);
    print_message("dit_out: relative error %.1e\n", error);
    assert_true(error <= 1e-5);
    free(found);
    zoe_arena_release(be, mark);
}

static void check_case(const char *name) {
    golden g;
    golden_run(&g, name);
    golden_near(&g, "prompt_embeds", 1e-4);
    if (zoe_checkpoint_find(g.expected, "negative_prompt_embeds")) golden_near(&g, "negative_prompt_embeds", 1e-4);
    if (zoe_checkpoint_find(g.expected, "image_embeds")) golden_near(&g, "image_embeds", 1e-4);
    golden_near(&g, "timesteps", 1e-6);
    golden_near(&g, "sigmas", 1e-6);
    golden_rows_near(&g, "step_latents", 1e-4);
    golden_video_near(&g, 60);
    check_forward(&g);
    golden_end(&g);
}

#define CASE(name)                                                                                                         \
    static void name(void **state) {                                                                                       \
        (void)state;                                                                                                       \
        check_case(#name);                                                                                                 \
    }
CASE(wan_t2v_shards)
CASE(wan_t2v_head128)
CASE(wan_t2v_euler)
CASE(wan_t2v_still)
CASE(wan_t2v_experts)
CASE(wan_i2v_experts)
CASE(wan_i2v_wide)
CASE(wan_flf2v_tall)
CASE(wan_ti2v)
CASE(wan_ti2v_image)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wan_t2v_shards), cmocka_unit_test(wan_t2v_head128), cmocka_unit_test(wan_t2v_euler),
        cmocka_unit_test(wan_t2v_still),  cmocka_unit_test(wan_t2v_experts), cmocka_unit_test(wan_i2v_experts),
        cmocka_unit_test(wan_i2v_wide),   cmocka_unit_test(wan_flf2v_tall),  cmocka_unit_test(wan_ti2v),
        cmocka_unit_test(wan_ti2v_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
