/*
 * Weights on a device that is none: wherever they lie and however early or late they come, the video is the same to the
 * bit; what the plan says of memory and copies is what happens; and whatever fails, the next request works.
 */
#include "fake_device.h"
#include "golden.h"

#include "formats/checkpoint_parts.h"
#include "models/wan/wan_model.h"
#include "pipeline/plan.h"

typedef struct fixture {
    golden g; /* model: on the processor */
    zoe_model *twin;
    zoe_backend *be;
    fake_device *device;
    zoe_request request;
    float *expected; /* latents of all steps */
    int64_t count;
} fixture;

static int open_twin(fixture *f) {
    ZOE_TRY(fake_device_create(f->g.ctx, &f->be));
    f->device = fake_of(f->be);
    return zoe_model_open_on(f->g.model, f->be, &f->twin);
}

static void open_fixture(fixture *f, const char *folder) {
    memset(f, 0, sizeof *f);
    snprintf(f->g.dump, sizeof f->g.dump, "/tmp/zoe-store-%d.safetensors", (int)getpid());
    assert_int_equal(zoe_context_create(NULL, &f->g.ctx), ZOE_OK);
    golden_check(&f->g, zoe_model_open(f->g.ctx, folder, NULL, &f->g.model));
    golden_check(&f->g, open_twin(f));
    zoe_request_init(f->twin, &f->request);
    f->request.prompt = "A red ball rolls.";
    f->request.width = 32, f->request.height = 32, f->request.frames = 5, f->request.steps = 2;
}

static void close_fixture(fixture *f) {
    zoe_model_close(f->twin);
    free(f->expected);
    golden_end(&f->g);
}

/* The step latents of one run. */
static float *run(fixture *f, const zoe_phase_budget *budgets, zoe_phase_use *use, int64_t *count) {
    zoe_checkpoint *dump;
    f->request.dump = f->g.dump;
    golden_check(&f->g, zoe_generate_counted(f->twin, &f->request, budgets, NULL, use));
    f->request.dump = NULL;
    golden_check(&f->g, zoe_checkpoint_open(f->g.ctx, f->g.dump, &dump));
    const float *values = golden_values(dump, "step_latents", count);
    float *copy = malloc((size_t)*count * sizeof *copy);
    memcpy(copy, values, (size_t)*count * sizeof *copy);
    zoe_checkpoint_close(dump);
    unlink(f->g.dump);
    return copy;
}

static void expect_same(fixture *f, const zoe_phase_budget *budgets, zoe_phase_use *use) {
    int64_t count;
    float *found = run(f, budgets, use, &count);
    assert_int_equal(count, f->count);
    assert_memory_equal(found, f->expected, (size_t)count * sizeof *found);
    free(found);
}

static void spread(zoe_phase_budget budgets[ZOE_PHASE_COUNT], int64_t weights, int64_t host) {
    for (int i = 0; i < ZOE_PHASE_COUNT; i++) budgets[i] = (zoe_phase_budget){.weights = weights, .host = host};
}

#define EIGHT_BLOCKS SOURCE_DIR "/models/demo"
#define TWO_EXPERTS  TEST_DATA "/cases/wan22_t2v_a14b/model"

static void placement_changes_no_bit(void **state) {
    (void)state;
    fixture f;
    zoe_phase_use resident[ZOE_PHASE_COUNT], use[ZOE_PHASE_COUNT];
    zoe_phase_budget budgets[ZOE_PHASE_COUNT];
    open_fixture(&f, EIGHT_BLOCKS);
    f.expected = run(&f, NULL, resident, &f.count);
    const zoe_weight_use *all = &resident[ZOE_PHASE_DENOISE].weights, *w = &use[ZOE_PHASE_DENOISE].weights;
    for (int ahead = 1; ahead <= 3; ahead += 2)
        for (int late = ahead == 3; late < 2; late++) {
            f.be->weights.ahead = ahead;
            f.device->late = late;
            expect_same(&f, NULL, use);
            assert_int_equal(w->loaded, all->loaded);
            /* Not all fits; what comes and goes comes from slabs: nothing is read twice. */
            spread(budgets, all->peak - 1, 0);
            expect_same(&f, budgets, use);
            if (ahead == 1) assert_true(w->peak <= budgets[0].weights);
            assert_int_equal(w->read, all->read);
            if (ahead == 1) assert_true(w->loaded > all->loaded && w->host_peak > 0);
            /* Nothing stays but what must. */
            spread(budgets, 1, 0);
            expect_same(&f, budgets, use);
            assert_int_equal(w->read, all->read);
            assert_true(w->loaded > 2 * all->loaded);
            /* No slabs: from the file each time. */
            spread(budgets, 1, 1);
            expect_same(&f, budgets, use);
            assert_true(w->read > 2 * all->read && w->host_peak < resident[ZOE_PHASE_DENOISE].weights.peak);
        }
    f.be->weights.ahead = 0;
    f.be->weights.offload = ZOE_OFFLOAD_BLOCK;
    expect_same(&f, NULL, use);
    assert_true(w->peak < all->peak && w->read == all->read);
    f.be->weights.offload = ZOE_OFFLOAD_NONE;
    expect_same(&f, NULL, use);
    expect_same(&f, NULL, use);
    assert_int_equal(w->loaded, 0); /* the second time it was all there */
    close_fixture(&f);
}

/* Tensors that the file has in parts of larger ones, also in two halves apart, arrive as if they stood alone. */
static void parts_of_tensors(void **state) {
    (void)state;
    fixture whole, parts;
    zoe_phase_use use[ZOE_PHASE_COUNT];
    zoe_phase_budget budgets[ZOE_PHASE_COUNT];
    open_fixture(&whole, TEST_DATA "/cases/cogvideox_x_sat_5b/model");
    open_fixture(&parts, TEST_DATA "/layouts/cogvideox_x_sat_5b");
    whole.request.frames = parts.request.frames = 9;
    parts.expected = run(&whole, NULL, use, &parts.count);
    expect_same(&parts, NULL, use);
    spread(budgets, 1, 1);
    expect_same(&parts, budgets, use);
    close_fixture(&whole);
    close_fixture(&parts);
}

/* Plan and run under the same budgets. */
static void compare_plan(fixture *f, const zoe_phase_budget *budgets) {
    zoe_plan plan;
    zoe_phase_use use[ZOE_PHASE_COUNT];
    golden_check(&f->g, zoe_plan_make(f->twin, &f->request, budgets, &plan));
    golden_check(&f->g, zoe_generate_counted(f->twin, &f->request, budgets, NULL, use));
    for (int i = 0; i < ZOE_PHASE_COUNT; i++) {
        const zoe_weight_use *a = &plan.phases[i].weights, *b = &use[i].weights;
        assert_int_equal(plan.phases[i].activations, use[i].activations);
        assert_int_equal(plan.phases[i].device, use[i].device);
        assert_int_equal(a->peak, b->peak);
        assert_int_equal(a->host_peak, b->host_peak);
        assert_int_equal(a->least, b->least);
        assert_int_equal(a->host_least, b->host_least);
        /* What is not read in time is not copied ahead, which may save the last copies ahead of all. */
        assert_true(b->loaded <= a->loaded && b->read <= a->read);
        if (budgets && budgets[i].host) continue;
        assert_int_equal(a->read, b->read);
        assert_true(a->loaded - b->loaded <= (budgets ? a->least : 0));
    }
}

static void plan_is_what_the_device_takes(void **state) {
    (void)state;
    static const char *const folders[] = {EIGHT_BLOCKS, TWO_EXPERTS};
    for (int i = 0; i < 2; i++) {
        fixture f;
        zoe_phase_budget budgets[ZOE_PHASE_COUNT];
        open_fixture(&f, folders[i]);
        compare_plan(&f, NULL);
        spread(budgets, 20 << 20, 0);
        compare_plan(&f, budgets);
        spread(budgets, 1, 0);
        compare_plan(&f, budgets);
        spread(budgets, 1, 1);
        compare_plan(&f, budgets);
        close_fixture(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(placement_changes_no_bit),
        cmocka_unit_test(parts_of_tensors),
        cmocka_unit_test(plan_is_what_the_device_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
