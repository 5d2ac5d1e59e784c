/*
 * Everything that can fail beneath a request, on a device that is none, for every family: its memory, page-locked memory,
 * its driver, allocations on the host; and requests that are cancelled at any moment or come with other budgets. A clear
 * error each time, nothing left behind, and the next request makes the same video.
 */
#include "fake_device.h"

#include "golden.h"
#include "pipeline/model.h"
#include "pipeline/plan.h"

#define PICTURE   TEST_DATA "/cases/ltx_i2v/image.png"
#define UPSAMPLER TEST_DATA "/cases/ltx_x_passes/upsampler"

typedef struct subject {
    const char *model, *image; /* in tests/data/cases */
    int width, height, frames;
    int parts; /* in which a device decodes frames */
    const char *upsampler, *conditions;
} subject;

static const subject subjects[] = {
    {"wan21_i2v", "wan21_i2v/image.png", 48, 32, 5, 1, NULL, NULL},
    {"wan22_t2v_a14b", NULL, 96, 64, 5, 2, NULL, NULL},
    {"cogvideox_5b_i2v", "cogvideox_5b_i2v/image.png", 48, 32, 9, 1, NULL, NULL},
    {"ltx_x_end", NULL, 64, 64, 9, 1, UPSAMPLER, PICTURE "@8"},
};
enum { SUBJECTS = sizeof subjects / sizeof subjects[0] };

typedef struct fixture {
    test_memory memory;
    zoe_context *ctx;
    zoe_model *model, *twin; /* on the processor, on the device */
    zoe_backend *be;
    fake_device *device;
    zoe_request request;
    zoe_phase_budget budgets[ZOE_PHASE_COUNT];
    char image[600], dump[128];
    char *expected; /* the dump */
    size_t size;
    long held; /* blocks of memory before a request */
} fixture;

/* The device and the model on it, new: nothing is loaded, no prompt is kept. */
static void renew(fixture *f) {
    zoe_model_close(f->twin);
    f->twin = NULL;
    assert_ok(f->ctx, fake_device_create(f->ctx, &f->be));
    f->device = fake_of(f->be);
    f->device->late = true;
    assert_ok(f->ctx, zoe_model_open_on(f->model, f->be, &f->twin));
    f->held = atomic_load(&f->memory.blocks);
}

static int run(fixture *f) {
    zoe_phase_use use[ZOE_PHASE_COUNT];
    return zoe_generate_counted(f->twin, &f->request, f->budgets, NULL, use);
}

static void expect_same(const fixture *f) {
    test_expect_file(f->dump, f->expected, f->size);
    unlink(f->dump);
}

static void start(fixture *f, const subject *s, int64_t weights, int64_t host) {
    char path[600];
    memset(f, 0, sizeof *f);
    f->ctx = test_context(&f->memory);
    snprintf(path, sizeof path, TEST_DATA "/cases/%s/model", s->model);
    snprintf(f->image, sizeof f->image, TEST_DATA "/cases/%s", s->image ? s->image : "");
    snprintf(f->dump, sizeof f->dump, "/tmp/zoe-faults-%d.safetensors", (int)getpid());
    assert_ok(f->ctx, zoe_model_open(f->ctx, path, NULL, &f->model));
    for (int i = 0; i < ZOE_PHASE_COUNT; i++)
        f->budgets[i] = (zoe_phase_budget){.weights = weights, .host = host, .parts = s->parts};
    zoe_request_init(f->model, &f->request);
    f->request.prompt = "A red ball";
    f->request.width = s->width, f->request.height = s->height, f->request.frames = s->frames, f->request.steps = 1;
    f->request.upsampler = s->upsampler, f->request.conditions = s->conditions;
    if (s->image) f->request.image = f->image;
    f->request.dump = f->dump;
    renew(f);
    assert_ok(f->ctx, run(f));
    f->expected = test_read(f->dump, &f->size);
    unlink(f->dump);
}

static void stop(fixture *f) {
    zoe_model_close(f->twin);
    zoe_model_close(f->model);
    test_context_free(&f->memory, f->ctx);
    free(f->expected);
}

/* ---- a device that fails ---- */

typedef enum fault { DEVICE_MEMORY, LOCKED_MEMORY, DRIVER, ALLOCATIONS } fault;

static void arm(fixture *f, fault kind, long n) {
    if (kind == DEVICE_MEMORY) f->device->device_until_fail = n;
    if (kind == LOCKED_MEMORY) f->device->host_until_fail = n;
    if (kind == DRIVER) f->device->calls_until_fail = n;
    if (kind == ALLOCATIONS) atomic_store(&f->memory.until_fail, n);
}

static long armed(const fixture *f, fault kind) {
    if (kind == DEVICE_MEMORY) return f->device->device_until_fail;
    if (kind == LOCKED_MEMORY) return f->device->host_until_fail;
    return kind == DRIVER ? f->device->calls_until_fail : atomic_load(&f->memory.until_fail);
}

/*
 * Fails at some `tries` points of a request. How often memory is taken depends on how far the reading threads have come,
 * so that a failure late in the request may never be reached.
 */
static void fail_in_turn(fixture *f, const subject *s, fault kind, int tries) {
    const long many = 1000000000;
    renew(f);
    arm(f, kind, many);
    assert_ok(f->ctx, run(f));
    expect_same(f);
    long count = many - armed(f, kind), stride = count / TEST_TRIES(tries) + 1, missed = 0;
    assert_true(count > 3);
    for (long n = 0; n < count; n += stride) {
        renew(f);
        arm(f, kind, n);
        int status = run(f), expected = kind == DRIVER ? ZOE_ERR_DEVICE : ZOE_ERR_NOMEM;
        arm(f, kind, -1);
        if (status == ZOE_OK) {
            missed++;
            expect_same(f);
        } else if (status != expected || !strstr(zoe_context_error(f->ctx), kind == DRIVER ? "device" : "memory")) {
            fail_msg("%s, fault %d, %ld of %ld: status %d: %s", s->model, (int)kind, n, count, status,
                     zoe_context_error(f->ctx));
        }
        if (f->device->pool.count || f->device->host_blocks || f->device->up.pending || f->device->down.pending)
            fail_msg("%s, fault %d, %ld of %ld: the device is not as it was", s->model, (int)kind, n, count);
        assert_int_not_equal(access(f->dump, F_OK), 0);
        if (n / stride % 4) continue;
        assert_ok(f->ctx, run(f));
        expect_same(f);
    }
    if (missed > 2) fail_msg("%s, fault %d: %ld failures led to none", s->model, (int)kind, missed);
}

static void device_that_fails(void **state) {
    (void)state;
    for (int i = 0; i < SUBJECTS; i++)
        for (int host = 0; host < 2; host++) { /* with slabs of page-locked memory, and from the file each time */
            fixture f;
            start(&f, &subjects[i], 1, host);
            fail_in_turn(&f, &subjects[i], DEVICE_MEMORY, 15);
            fail_in_turn(&f, &subjects[i], LOCKED_MEMORY, 15);
            fail_in_turn(&f, &subjects[i], DRIVER, 25);
            fail_in_turn(&f, &subjects[i], ALLOCATIONS, 20);
            stop(&f);
        }
}

/* ---- on the processor, under a budget: with a plan before ---- */

/* Some `tries` allocations of planning and running fail. */
static void planned_without_memory(void **state) {
    (void)state;
    for (int i = 0; i < SUBJECTS; i++) {
        const long many = 1000000000, tries = TEST_TRIES(30);
        fixture f;
        start(&f, &subjects[i], 0, 0);
        f.model->settings.ram = (int64_t)4 << 30;
        assert_ok(f.ctx, zoe_generate(f.model, &f.request, NULL)); /* its prompts are kept from here on */
        long held = atomic_load(&f.memory.blocks);
        atomic_store(&f.memory.until_fail, many);
        assert_ok(f.ctx, zoe_generate(f.model, &f.request, NULL));
        expect_same(&f);
        long count = many - atomic_load(&f.memory.until_fail), stride = count / tries + 1;
        for (long n = 0; n < count; n += stride) {
            atomic_store(&f.memory.until_fail, n);
            int status = zoe_generate(f.model, &f.request, NULL);
            atomic_store(&f.memory.until_fail, -1);
            if (status != ZOE_ERR_NOMEM || !strstr(zoe_context_error(f.ctx), "memory"))
                fail_msg("%s, allocation %ld of %ld: status %d: %s", subjects[i].model, n, count, status,
                         zoe_context_error(f.ctx));
            assert_int_equal(atomic_load(&f.memory.blocks), held);
            assert_int_not_equal(access(f.dump, F_OK), 0);
        }
        assert_ok(f.ctx, zoe_generate(f.model, &f.request, NULL));
        expect_same(&f);
        stop(&f);
    }
}

typedef struct canceller {
    zoe_context *ctx;
    atomic_long calls;
    long at; /* the call of the allocator, freeing included, at which the request is cancelled; < 0: none */
} canceller;

static void *cancelling_reallocate(void *user, void *ptr, size_t size) {
    canceller *c = user;
    if (atomic_fetch_add(&c->calls, 1) == c->at) zoe_cancel(c->ctx);
    if (size) return realloc(ptr, size);
    free(ptr);
    return NULL;
}

/* Whenever it comes, also in the last moment of a plan, and of one of the several that a budget may take. */
static void cancelled_at_any_moment(void **state) {
    (void)state;
    canceller c = {.at = -1};
    zoe_context_settings settings;
    zoe_model_settings model_settings;
    zoe_model *model;
    zoe_request request;
    zoe_context_settings_init(&settings);
    zoe_model_settings_init(&model_settings);
    settings.user = &c;
    settings.reallocate = cancelling_reallocate;
    model_settings.ram = (int64_t)4 << 30;
    assert_int_equal(zoe_context_create(&settings, &c.ctx), ZOE_OK);
    assert_ok(c.ctx, zoe_model_open(c.ctx, TEST_DATA "/cases/wan22_t2v_a14b/model", &model_settings, &model));
    zoe_request_init(model, &request);
    request.prompt = "A red ball";
    request.width = 48, request.height = 32, request.frames = 5, request.steps = 1;
    assert_ok(c.ctx, zoe_generate(model, &request, NULL));
    atomic_store(&c.calls, 0);
    assert_ok(c.ctx, zoe_generate(model, &request, NULL));
    long count = atomic_load(&c.calls);
    for (long n = 0; n < count; n += count / TEST_TRIES(count / 3) + 1) {
        atomic_store(&c.calls, 0);
        c.at = n;
        int status = zoe_generate(model, &request, NULL);
        c.at = -1;
        if (status != ZOE_ERR_CANCELLED && n < count * 9 / 10)
            fail_msg("cancelled at call %ld of %ld: status %d: %s", n, count, status, zoe_context_error(c.ctx));
    }
    assert_ok(c.ctx, zoe_generate(model, &request, NULL));
    zoe_model_close(model);
    zoe_context_free(c.ctx);
}

/* Blocks stay, come and go, or the request is refused, as the budget of the moment says. */
static void budgets_that_change(void **state) {
    (void)state;
    fixture f;
    zoe_phase_use use[ZOE_PHASE_COUNT];
    char *json;
    start(&f, &(subject){"wan22_t2v_a14b", NULL, 48, 32, 5, 1, NULL, NULL}, 0, 0);
    assert_ok(f.ctx, zoe_generate_counted(f.model, &f.request, NULL, NULL, use));
    const zoe_weight_use whole = use[ZOE_PHASE_DENOISE].weights, *now = &use[ZOE_PHASE_DENOISE].weights;
    const int64_t budgets[] = {1, whole.peak - 1, 0};
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < ZOE_PHASE_COUNT; j++) f.budgets[j].weights = budgets[i];
        assert_ok(f.ctx, zoe_generate_counted(f.model, &f.request, f.budgets, NULL, use));
        expect_same(&f);
        bool streams = budgets[i] && budgets[i] < whole.peak;
        assert_true(streams ? now->peak < whole.peak : now->peak == whole.peak);
        f.model->settings.ram = 1 << 20; /* and the setting itself, which the plan turns into such budgets */
        assert_fails(f.ctx, zoe_generate(f.model, &f.request, NULL), ZOE_ERR_BUDGET, "smallest budget that works");
        assert_fails(f.ctx, zoe_plan_request(f.model, &f.request, &json), ZOE_ERR_BUDGET, "--ram: 1.00 MiB is not enough");
        assert_int_not_equal(access(f.dump, F_OK), 0);
        f.model->settings.ram = (int64_t)i << 31;
        assert_ok(f.ctx, zoe_generate(f.model, &f.request, NULL));
        expect_same(&f);
    }
    stop(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(device_that_fails),
        cmocka_unit_test(planned_without_memory),
        cmocka_unit_test(cancelled_at_any_moment),
        cmocka_unit_test(budgets_that_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
