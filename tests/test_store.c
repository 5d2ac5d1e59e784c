/*
 * Weights on a device that is none: wherever they lie and however early or late they come, the video is the same to the
 * bit; what the plan says of memory and copies is what happens; and whatever fails, the next request works.
 */
#include "fake_device.h"

#include "golden.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "formats/checkpoint_parts.h"
#include "models/wan/wan_model.h"
#include "pipeline/plan.h"
#include "weights/convert.h"
#include "weights/parts.h"
#include "weights/quantise.h"

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

static void open_models(fixture *f, const char *folder) {
    golden_check(&f->g, zoe_model_open(f->g.ctx, folder, NULL, &f->g.model));
    golden_check(&f->g, open_twin(f));
    zoe_request_init(f->twin, &f->request);
    f->request.prompt = "A red ball rolls.";
    f->request.width = 32, f->request.height = 32, f->request.frames = 5, f->request.steps = 2;
}

static void open_fixture(fixture *f, const char *folder) {
    memset(f, 0, sizeof *f);
    snprintf(f->g.dump, sizeof f->g.dump, "/tmp/zoe-store-%d.safetensors", (int)getpid());
    assert_int_equal(zoe_context_create(NULL, &f->g.ctx), ZOE_OK);
    open_models(f, folder);
}

/* A twin that has encoded no prompt yet. */
static void renew_twin(fixture *f) {
    zoe_weight_use use = f->be->weights;
    bool late = f->device->late;
    zoe_model_close(f->twin);
    f->twin = NULL;
    golden_check(&f->g, open_twin(f));
    f->be->weights.ahead = use.ahead;
    f->be->weights.offload = use.offload;
    f->device->late = late;
    zoe_request fresh;
    zoe_request_init(f->twin, &fresh);
    f->request.negative = fresh.negative;
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
            renew_twin(&f);
            expect_same(&f, NULL, use);
            assert_int_equal(w->loaded, all->loaded);
            /* Not all fits; what comes and goes comes from slabs: nothing is read twice. */
            spread(budgets, all->peak - 1, 0);
            renew_twin(&f);
            expect_same(&f, budgets, use);
            if (ahead == 1) assert_true(w->peak <= budgets[0].weights);
            assert_int_equal(w->read, all->read);
            if (ahead == 1) assert_true(w->loaded > all->loaded && w->host_peak > 0);
            /* Nothing stays but what must. */
            spread(budgets, 1, 0);
            renew_twin(&f);
            expect_same(&f, budgets, use);
            assert_int_equal(w->read, all->read);
            assert_true(w->loaded > 2 * all->loaded);
            /* No slabs: from the file each time. */
            spread(budgets, 1, 1);
            renew_twin(&f);
            expect_same(&f, budgets, use);
            assert_true(w->read > 2 * all->read && w->host_peak < resident[ZOE_PHASE_DENOISE].weights.peak);
        }
    /* And past the page cache. */
    zoe_weights *weights = f.twin->family->weights(f.twin->impl, 1);
    zoe_checkpoint *ckpt = ((wan_model *)f.twin->impl)->denoiser_ckpts[0];
    ckpt->cache_room = 1;
    expect_same(&f, budgets, use);
    assert_true(weights->units[0].past_cache && weights->units[1].past_cache && w->read > 2 * all->read);
    /* What is read once goes past it where only what comes again has room. */
    ckpt->cache_room = weights->stage_count * (int64_t)weights->stage_bytes - 1;
    for (int i = 0; i < weights->unit_count; i++) ckpt->cache_room += weights->units[i].in_file;
    expect_same(&f, budgets, use);
    assert_true(weights->units[0].past_cache && !weights->units[1].past_cache);
    ckpt->cache_room++;
    expect_same(&f, budgets, use);
    assert_true(!weights->units[0].past_cache && !weights->units[1].past_cache);
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

enum { ROWS = 1040, WIDTH = 1024, SIZE = ROWS * WIDTH };

typedef struct matrix {
    zoe_tensor w;
} matrix;

/* The bytes of a matrix in one of the quantised forms; NULL if it does not come. */
static uint8_t *load_matrix(zoe_backend *be, const zoe_checkpoint *ckpt, zoe_dtype dtype, size_t *count) {
    static const zoe_slot slots[] = {{"w", offsetof(matrix, w), ZOE_SLOT_LINEAR, "A B", 0}, {0}};
    const zoe_dims dims = {ROWS, WIDTH};
    zoe_weights *weights;
    matrix m;
    assert_int_equal(zoe_weights_create(be, ckpt, "test", NULL, (zoe_weight_form){.dtype = dtype}, &weights), ZOE_OK);
    assert_int_equal(zoe_weights_block(weights), 0);
    assert_int_equal(zoe_weights_bind(weights, slots, dims, &m, "%s", ""), ZOE_OK);
    assert_int_equal(zoe_weights_check(weights), ZOE_OK);
    uint8_t *bytes = NULL;
    assert_int_equal(zoe_weights_presence(weights), ZOE_WEIGHTS_AWAY);
    if (zoe_weights_acquire(weights, 0) == ZOE_OK) {
        assert_int_equal(zoe_weights_presence(weights), be->weights.budget ? ZOE_WEIGHTS_COMING : ZOE_WEIGHTS_SETTLED);
        assert_int_equal(m.w.dtype, dtype);
        *count = (size_t)zoe_form_bytes(&m.w);
        bytes = malloc(*count);
        memcpy(bytes, m.w.data, *count);
        assert_int_equal(zoe_weights_release(weights, 0, ZOE_OK), ZOE_OK);
    }
    zoe_weights_unload(weights);
    assert_int_equal(zoe_weights_presence(weights), ZOE_WEIGHTS_AWAY);
    zoe_weights_free(weights);
    return bytes;
}

/* Moves a file's tensors by one byte, so that they are aligned to nothing. */
static void misalign(const char *path) {
    uint64_t header;
    FILE *file = fopen(path, "rb+");
    size_t size = 8 + (size_t)SIZE * 2 + 4096;
    char *all = malloc(size);
    size = fread(all, 1, size, file);
    memcpy(&header, all, sizeof header);
    header++;
    rewind(file);
    fwrite(&header, sizeof header, 1, file);
    fwrite(all + 8, 1, (size_t)header - 1, file);
    fputc(' ', file);
    fwrite(all + 7 + header, 1, size - 7 - (size_t)header, file);
    assert_int_equal(fclose(file), 0);
    free(all);
}

static atomic_int first_reads;

/* The first piece of the file comes once. */
static ssize_t broken_again(off_t at, ssize_t got) {
    return at < 1024 && atomic_fetch_add(&first_reads, 1) > 0 ? -EIO : got;
}

/* For another scale than the usual one a matrix is read again. */
static void fail_in_second_round(zoe_backend *device, zoe_checkpoint *ckpt, const uint8_t *expected, float global) {
    size_t bytes;
    ckpt->fault = broken_again;
    atomic_store(&first_reads, 0);
    uint8_t *found = load_matrix(device, ckpt, ZOE_F4_E2M1, &bytes);
    assert_int_equal(found != NULL, global == 0x1p-9f);
    if (!found) assert_non_null(strstr(zoe_context_error(device->ctx), "Input/output error"));
    free(found);
    ckpt->fault = NULL;
    found = load_matrix(device, ckpt, ZOE_F4_E2M1, &bytes);
    assert_memory_equal(found, expected, bytes);
    free(found);
}

/* In each form, by threads, through rings and past the page cache; nvfp4 with this scale for all of it. */
static void take_forms(zoe_context *ctx, const char *folder, const uint16_t *values, float global) {
    static const zoe_dtype forms[] = {ZOE_I8, ZOE_F8_E4M3, ZOE_I4, ZOE_F4_E2M1};
    char path[128];
    zoe_backend *cpu, *device;
    zoe_checkpoint *ckpt;
    zoe_safetensors_writer *writer;
    snprintf(path, sizeof path, "%s/one.safetensors", folder);
    assert_int_equal(zoe_safetensors_create(ctx, path, &writer), ZOE_OK);
    assert_int_equal(zoe_safetensors_add(writer, "w", ZOE_BF16, 2, (const int64_t[]){ROWS, WIDTH}, values), ZOE_OK);
    assert_int_equal(zoe_safetensors_finish(writer), ZOE_OK);
    misalign(path);
    assert_int_equal(zoe_checkpoint_open(ctx, path, &ckpt), ZOE_OK);
    assert_int_equal(zoe_checkpoint_at(ckpt, 0)->offset % 2, 1);
    assert_int_equal(zoe_cpu_backend_create(ctx, 0, &cpu), ZOE_OK);
    assert_int_equal(fake_device_create(ctx, &device), ZOE_OK);
    device->weights.budget = device->weights.host_budget = 1;
    for (size_t i = 0; i < 3 * sizeof forms / sizeof forms[0]; i++) {
        size_t expected_bytes, bytes;
        ckpt->ringless = i % 3 == 0;
        ckpt->cache_room = i % 3 == 2;
        uint8_t *expected = load_matrix(cpu, ckpt, forms[i / 3], &expected_bytes);
        uint8_t *found = load_matrix(device, ckpt, forms[i / 3], &bytes);
        assert_int_equal(bytes, expected_bytes);
        assert_memory_equal(found, expected, bytes);
        if (forms[i / 3] == ZOE_F4_E2M1) {
            assert_memory_equal(found + bytes - sizeof global, &global, sizeof global);
            fail_in_second_round(device, ckpt, expected, global);
            device->weights.read = SIZE * (int64_t)sizeof *values;
        }
        assert_int_equal(device->weights.read, SIZE * (int64_t)sizeof *values);
        device->weights.read = 0;
        free(expected);
        free(found);
    }
    zoe_backend_close(device);
    zoe_backend_close(cpu);
    zoe_checkpoint_close(ckpt);
}

/* Read and quantised piece by piece on the way to a device, a matrix comes to what the processor makes of it in place. */
static void forms_that_matrices_take(void **state) {
    (void)state;
    char folder[64];
    zoe_context *ctx;
    uint16_t *values = malloc((size_t)SIZE * sizeof *values);
    test_folder_create(folder);
    assert_int_equal(zoe_context_create(NULL, &ctx), ZOE_OK);
    zoe_random_fill(values, ZOE_BF16, SIZE, 7, 0, 1);
    take_forms(ctx, folder, values, 0x1p-9f);
    values[SIZE - 5] = 0xc180; /* -16, in the last piece, has no scale beside the others' */
    take_forms(ctx, folder, values, 0x1p-7f);
    zoe_random_fill(values, ZOE_BF16, SIZE, 7, 0, 0x1p-9f);
    take_forms(ctx, folder, values, 0x1p-20f);
    zoe_context_free(ctx);
    test_folder_remove(folder);
    free(values);
}

/* The same prompt again needs no encoder, and gives the same video. */
static void prompts_that_come_again(void **state) {
    (void)state;
    fixture f;
    int64_t count;
    zoe_phase_use use[ZOE_PHASE_COUNT];
    const zoe_weight_use *text = &use[ZOE_PHASE_TEXT].weights;
    open_fixture(&f, TWO_EXPERTS);
    f.expected = run(&f, NULL, use, &f.count);
    assert_true(text->loaded > 0);
    float *again = run(&f, NULL, use, &count);
    assert_int_equal(count, f.count);
    assert_memory_equal(again, f.expected, (size_t)count * sizeof *again);
    assert_int_equal(text->loaded, 0);
    free(again);
    f.request.prompt = "A blue ball rolls.";
    free(run(&f, NULL, use, &count));
    assert_true(text->loaded > 0);
    f.request.prompt = "A red ball rolls.";
    again = run(&f, NULL, use, &count);
    assert_memory_equal(again, f.expected, (size_t)count * sizeof *again);
    assert_int_equal(text->loaded, 0);
    free(again);
    close_fixture(&f);
}

/* Plan and run under the same budgets. */
static void compare_plan(fixture *f, const zoe_phase_budget *budgets) {
    zoe_plan plan;
    zoe_phase_use use[ZOE_PHASE_COUNT];
    renew_twin(f);
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

/* What is read for each use comes from the page cache if that has room, else from the disk. */
static void expect_disk(fixture *f, const zoe_phase_budget *budgets) {
    zoe_backend *be;
    zoe_model *planned;
    zoe_phase_use use[ZOE_PHASE_COUNT];
    const zoe_weight_use *w = &use[ZOE_PHASE_DENOISE].weights;
    golden_check(&f->g, zoe_plan_backend_like(f->be, &be));
    golden_check(&f->g, zoe_model_open_on(f->g.model, be, &planned));
    golden_check(&f->g, zoe_generate_counted(planned, &f->request, NULL, NULL, use));
    int64_t once = w->read;
    assert_int_equal(w->from_disk, once);
    golden_check(&f->g, zoe_generate_counted(planned, &f->request, budgets, NULL, use));
    assert_true(w->read > once);
    assert_int_equal(w->from_disk, once);
    ((wan_model *)planned->impl)->denoiser_ckpts[0]->cache_room = 1;
    golden_check(&f->g, zoe_generate_counted(planned, &f->request, budgets, NULL, use));
    assert_true(w->read > once);
    assert_int_equal(w->from_disk, w->read);
    zoe_model_close(planned);
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
        if (i == 0) expect_disk(&f, budgets); /* many steps */
        budgets[ZOE_PHASE_DENOISE].together = true;
        compare_plan(&f, budgets);
        budgets[ZOE_PHASE_DENOISE].host = 0;
        compare_plan(&f, budgets);
        close_fixture(&f);
    }
}

/* ---- ahead of the next part ---- */

typedef struct witness {
    const zoe_mapped_file *file; /* that nothing of the phase reads */
    bool came;
} witness;

static bool is_cached(const zoe_mapped_file *file) {
    size_t pages = (file->size + 4095) / 4096, count = 0;
    unsigned char *there = malloc(pages);
    assert_int_equal(mincore((void *)(uintptr_t)file->data, file->size, there), 0);
    for (size_t i = 0; i < pages; i++) count += there[i] & 1;
    free(there);
    return count == pages;
}

/* At the end of the second step the decoder's file is on its way. */
static void watch(void *user, const zoe_progress *p) {
    witness *w = user;
    if (p->phase != ZOE_PHASE_DENOISE || p->step != 2) return;
    for (int i = 0; i < 2000 && !w->came; i++) {
        w->came = is_cached(w->file);
        if (!w->came) usleep(5000);
    }
}

static void parts_that_come_next(void **state) {
    (void)state;
    fixture f;
    zoe_phase_use use[ZOE_PHASE_COUNT];
    open_fixture(&f, EIGHT_BLOCKS);
    const zoe_weights *vae = f.twin->family->weights(f.twin->impl, 2);
    const zoe_checkpoint *ckpt = zoe_weights_checkpoint(vae);
    witness w = {.file = &ckpt->files[0]};
    f.request.steps = 3;
    f.request.progress = watch;
    f.request.user = &w;
    posix_fadvise(w.file->fd, 0, 0, POSIX_FADV_DONTNEED);
    golden_check(&f.g, zoe_generate_counted(f.twin, &f.request, NULL, NULL, use));
    assert_true(w.came);
    close_fixture(&f);
}

/* ---- what fails ---- */

static void nothing_is_left(const fixture *f) {
    assert_int_equal(f->device->pool.count, 0);
    assert_int_equal(f->device->host_blocks, 0);
}

/* The first, second, ... taking of memory fails, until none does. */
static void fail_in_turn(fixture *f, const zoe_phase_budget *budgets, long *until_fail) {
    zoe_phase_use use[ZOE_PHASE_COUNT];
    int status = ZOE_ERR_NOMEM;
    long n = 0;
    for (; status < 0; n++) {
        *until_fail = n;
        status = zoe_generate_counted(f->twin, &f->request, budgets, NULL, use);
        if (status < 0 && (status != ZOE_ERR_NOMEM || !strstr(zoe_context_error(f->g.ctx), "memory")))
            fail_msg("failure %ld: status %d: %s", n, status, zoe_context_error(f->g.ctx));
        nothing_is_left(f);
        assert_true(n < 1000);
    }
    *until_fail = -1;
    assert_true(n > 3);
    expect_same(f, budgets, use);
}

static void memory_that_is_refused(void **state) {
    (void)state;
    fixture f;
    zoe_phase_use use[ZOE_PHASE_COUNT];
    zoe_phase_budget budgets[ZOE_PHASE_COUNT];
    open_fixture(&f, EIGHT_BLOCKS);
    f.request.steps = 1;
    f.expected = run(&f, NULL, use, &f.count);
    spread(budgets, 1, 0);
    f.device->late = true;
    fail_in_turn(&f, budgets, &f.device->device_until_fail);
    fail_in_turn(&f, budgets, &f.device->host_until_fail);
    close_fixture(&f);
}

/* Every so many-th allocation on the host fails, the loader's among them. */
static void allocations_that_fail(void **state) {
    (void)state;
    fixture f;
    test_memory memory;
    zoe_phase_use use[ZOE_PHASE_COUNT];
    zoe_phase_budget budgets[ZOE_PHASE_COUNT];
    const long many = 1000000000, tries = 60;
    memset(&f, 0, sizeof f);
    f.g.ctx = test_context(&memory);
    open_models(&f, TWO_EXPERTS);
    spread(budgets, 1, 1);
    f.request.steps = 1;
    atomic_store(&memory.until_fail, many);
    golden_check(&f.g, zoe_generate_counted(f.twin, &f.request, budgets, NULL, use));
    long count = many - atomic_load(&memory.until_fail), stride = count / tries + 1;
    for (long n = 0; n < count; n += stride) {
        atomic_store(&memory.until_fail, -1);
        renew_twin(&f);
        atomic_store(&memory.until_fail, n);
        int status = zoe_generate_counted(f.twin, &f.request, budgets, NULL, use);
        if (status != ZOE_ERR_NOMEM && n + 2 * stride < count)
            fail_msg("allocation %ld of %ld: status %d: %s", n, count, status, zoe_context_error(f.g.ctx));
        nothing_is_left(&f);
    }
    atomic_store(&memory.until_fail, -1);
    golden_check(&f.g, zoe_generate_counted(f.twin, &f.request, budgets, NULL, use));
    zoe_model_close(f.twin);
    zoe_model_close(f.g.model);
    test_context_free(&memory, f.g.ctx);
}

static ssize_t broken(off_t at, ssize_t got) {
    return at > 1000000 ? -EIO : got;
}

/* Late, and little at a time. */
static ssize_t slow(off_t at, ssize_t got) {
    (void)at;
    usleep(500);
    return got < 100000 ? got : 100000;
}

static void disks_that_fail_or_are_slow(void **state) {
    (void)state;
    fixture f;
    zoe_phase_use use[ZOE_PHASE_COUNT];
    zoe_phase_budget budgets[ZOE_PHASE_COUNT];
    open_fixture(&f, EIGHT_BLOCKS);
    f.request.steps = 1;
    f.expected = run(&f, NULL, use, &f.count);
    zoe_checkpoint *ckpt = ((wan_model *)f.twin->impl)->denoiser_ckpts[0];
    for (int i = 0; i < 6; i++) { /* with slabs and without, by rings and without, past the page cache */
        spread(budgets, 1, i % 2 || i == 4);
        ckpt->ringless = i / 2 == 1 || i == 5;
        ckpt->cache_room = i / 2 == 2;
        ckpt->fault = broken;
        assert_fails(f.g.ctx, zoe_generate_counted(f.twin, &f.request, budgets, NULL, use), ZOE_ERR_IO,
                     "Input/output error");
        nothing_is_left(&f);
        ckpt->fault = slow;
        expect_same(&f, budgets, use);
        assert_true(use[ZOE_PHASE_DENOISE].weights.read_seconds > 0);
    }
    close_fixture(&f);
}

static void files_that_are_cut_off(void **state) {
    (void)state;
    fixture f;
    char folder[64], model[128], file[256], command[512];
    zoe_phase_use use[ZOE_PHASE_COUNT];
    zoe_phase_budget budgets[ZOE_PHASE_COUNT];
    test_folder_create(folder);
    snprintf(model, sizeof model, "%s/model", folder);
    snprintf(file, sizeof file, "%s/transformer/diffusion_pytorch_model.safetensors", model);
    snprintf(command, sizeof command, "cp -r '%s' '%s'", EIGHT_BLOCKS, model);
    assert_int_equal(system(command), 0);
    open_fixture(&f, model);
    f.request.steps = 1;
    f.expected = run(&f, NULL, use, &f.count);
    spread(budgets, 1, 1);
    assert_int_equal(truncate(file, 5000000), 0);
    assert_fails(f.g.ctx, zoe_generate_counted(f.twin, &f.request, budgets, NULL, use), ZOE_ERR_IO, "shorter than when");
    nothing_is_left(&f);
    assert_fails(f.g.ctx, zoe_generate_counted(f.g.model, &f.request, NULL, NULL, use), ZOE_ERR_IO, "shorter than when");
    snprintf(command, sizeof command, "cp '%s/transformer/diffusion_pytorch_model.safetensors' '%s'", EIGHT_BLOCKS, file);
    assert_int_equal(system(command), 0);
    expect_same(&f, budgets, use);
    golden_check(&f.g, zoe_generate_counted(f.g.model, &f.request, NULL, NULL, use));
    close_fixture(&f);
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    assert_int_equal(system(command), 0);
}

static void budgets_that_change(void **state) {
    (void)state;
    fixture f;
    zoe_phase_use use[ZOE_PHASE_COUNT];
    zoe_result result;
    open_fixture(&f, EIGHT_BLOCKS);
    f.request.steps = 1;
    f.expected = run(&f, NULL, use, &f.count);
    int64_t held = f.be->device_bytes;
    int64_t whole = use[ZOE_PHASE_DENOISE].device;
    f.request.prompt = "A green ball rolls.";
    f.be->device_budget = held + 1;
    assert_fails(f.g.ctx, zoe_generate(f.twin, &f.request, &result), ZOE_ERR_BUDGET, "--vram");
    nothing_is_left(&f);
    f.be->device_budget = whole - (4 << 20);
    golden_check(&f.g, zoe_generate(f.twin, &f.request, &result));
    assert_true(result.peak_device_bytes <= f.be->device_budget);
    f.twin->settings.ram = 1 << 20;
    assert_fails(f.g.ctx, zoe_generate(f.twin, &f.request, &result), ZOE_ERR_BUDGET, "--ram");
    f.twin->settings.ram = 0;
    f.be->device_budget = 0;
    f.request.prompt = "A red ball rolls.";
    expect_same(&f, NULL, use);
    close_fixture(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_that_come_next),     cmocka_unit_test(placement_changes_no_bit),
        cmocka_unit_test(parts_of_tensors),         cmocka_unit_test(plan_is_what_the_device_takes),
        cmocka_unit_test(memory_that_is_refused),   cmocka_unit_test(disks_that_fail_or_are_slow),
        cmocka_unit_test(files_that_are_cut_off),   cmocka_unit_test(budgets_that_change),
        cmocka_unit_test(prompts_that_come_again),  cmocka_unit_test(allocations_that_fail),
        cmocka_unit_test(forms_that_matrices_take),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
