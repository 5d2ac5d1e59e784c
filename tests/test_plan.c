/* The plan is what the run then takes, and where weights lie changes no bit. */
#include "golden.h"

#include "pipeline/plan.h"

static void make_request(golden *g, zoe_request *request) {
    memset(g, 0, sizeof *g);
    snprintf(g->dump, sizeof g->dump, "/tmp/zoe-plan-%d.safetensors", (int)getpid());
    assert_int_equal(zoe_context_create(NULL, &g->ctx), ZOE_OK);
    golden_check(g, zoe_model_open(g->ctx, TEST_DATA "/cases/wan22_t2v_a14b/model", NULL, &g->model));
    zoe_request_init(g->model, request);
    request->prompt = "A red ball rolls.";
    request->width = 64, request->height = 48, request->frames = 13, request->steps = 4;
    request->dump = g->dump;
}

/* The tensors of the dump, read back. */
static void open_dump(golden *g) {
    golden_check(g, zoe_checkpoint_open(g->ctx, g->dump, &g->found));
}

static void plan_is_what_the_run_takes(void **state) {
    (void)state;
    golden g;
    zoe_request request;
    zoe_plan plan;
    zoe_phase_use use[ZOE_PHASE_COUNT];
    make_request(&g, &request);
    golden_check(&g, zoe_plan_make(g.model, &request, NULL, &plan));
    golden_check(&g, zoe_generate_counted(g.model, &request, NULL, NULL, use));
    for (int i = 0; i < ZOE_PHASE_COUNT; i++) {
        assert_int_equal(plan.phases[i].steps, use[i].steps);
        assert_int_equal(plan.phases[i].activations, use[i].activations);
        assert_int_equal(plan.phases[i].weights.peak, use[i].weights.peak);
        assert_int_equal(plan.phases[i].weights.loaded, use[i].weights.loaded);
        assert_true(plan.phases[i].work.linear_flops == use[i].work.linear_flops);
        assert_true(plan.phases[i].work.conv_flops == use[i].work.conv_flops);
        assert_true(plan.phases[i].work.attention_flops == use[i].work.attention_flops);
    }
    /* scratch of the kernels, of which a small network touches a small part */
    assert_true(plan.phases[ZOE_PHASE_DENOISE].workspace > 0);
    assert_true(plan.phases[ZOE_PHASE_DECODE].workspace >= plan.phases[ZOE_PHASE_DENOISE].workspace);
    assert_true(plan.phases[ZOE_PHASE_DECODE].workspace < g.model->be->workspace / 2);
    assert_true(plan.phases[ZOE_PHASE_DENOISE].work.linear_flops > 0);
    assert_true(plan.phases[ZOE_PHASE_DECODE].work.conv_flops > 0);
    golden_end(&g);
}

static void streaming_changes_no_bit(void **state) {
    (void)state;
    golden g;
    zoe_request request;
    zoe_phase_use resident[ZOE_PHASE_COUNT], streamed[ZOE_PHASE_COUNT];
    zoe_phase_budget budgets[ZOE_PHASE_COUNT] = {0};
    int64_t count, found_count;
    make_request(&g, &request);
    golden_check(&g, zoe_generate_counted(g.model, &request, NULL, NULL, resident));
    open_dump(&g);
    g.expected = g.found;
    const float *expected = golden_values(g.expected, "step_latents", &count);
    for (int i = 0; i < ZOE_PHASE_COUNT; i++) budgets[i].weights = 1; /* whatever is not at work leaves */
    unlink(g.dump);                                                   /* the mapping of the first dump stays */
    golden_check(&g, zoe_generate_counted(g.model, &request, budgets, NULL, streamed));
    open_dump(&g);
    const float *found = golden_values(g.found, "step_latents", &found_count);
    assert_int_equal(count, found_count);
    assert_memory_equal(expected, found, (size_t)count * sizeof *found);
    assert_true(streamed[ZOE_PHASE_DENOISE].weights.peak < resident[ZOE_PHASE_DENOISE].weights.peak);
    assert_true(streamed[ZOE_PHASE_DENOISE].weights.loaded > resident[ZOE_PHASE_DENOISE].weights.loaded);
    golden_end(&g);
}

static void unmet_budget_is_refused(void **state) {
    (void)state;
    golden g;
    zoe_request request;
    zoe_model_settings settings;
    make_request(&g, &request);
    zoe_model_close(g.model);
    zoe_model_settings_init(&settings);
    settings.ram = 1 << 20;
    golden_check(&g, zoe_model_open(g.ctx, TEST_DATA "/cases/wan22_t2v_a14b/model", &settings, &g.model));
    assert_int_equal(zoe_generate(g.model, &request, NULL), ZOE_ERR_BUDGET);
    assert_non_null(strstr(zoe_context_error(g.ctx), "smallest budget that works"));
    assert_int_not_equal(access(g.dump, F_OK), 0);
    golden_end(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_is_what_the_run_takes),
        cmocka_unit_test(streaming_changes_no_bit),
        cmocka_unit_test(unmet_budget_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
