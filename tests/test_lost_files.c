/*
 * Weight files that are cut off while they are mapped and in use: no crash, never a video of wrong numbers, and the next
 * request works once the files are whole again. Signals that have nothing to do with it do what they always did.
 */
#define _XOPEN_SOURCE 700 /* nftw() */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "formats/checkpoint.h"
#include "golden.h"
#include "pipeline/model.h"

/* ---- the guard ---- */

/* cmocka puts a handler of its own in the place of ours before each test. */
static void guard(void) {
    static struct sigaction ours;
    if (ours.sa_flags) {
        sigaction(SIGBUS, &ours, NULL);
    } else {
        assert_int_equal(zoe_guard_mappings(), ZOE_OK);
        assert_int_equal(zoe_guard_mappings(), ZOE_OK);
        sigaction(SIGBUS, NULL, &ours);
    }
}

/* ---- files ---- */

enum { MOST = 16 };

static struct {
    char *path, *data;
    size_t size;
} weights[MOST]; /* of the folder under test, as they were */
static int weight_count;

static int note_file(const char *path, const struct stat *info, int type, struct FTW *where) {
    (void)info, (void)where;
    if (type != FTW_F || !strstr(path, ".safetensors") || strstr(path, ".json")) return 0;
    assert_true(weight_count < MOST);
    weights[weight_count].path = strdup(path);
    weights[weight_count].data = test_read(path, &weights[weight_count].size);
    weight_count++;
    return 0;
}

static void cut_all(void) {
    for (int i = 0; i < weight_count; i++) assert_int_equal(truncate(weights[i].path, 0), 0);
}

static void mend_all(void) {
    for (int i = 0; i < weight_count; i++) {
        int fd = open(weights[i].path, O_WRONLY);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, weights[i].data, weights[i].size), weights[i].size);
        close(fd);
    }
}

static void shell(const char *format, const char *a, const char *b) {
    char command[1400];
    snprintf(command, sizeof command, format, a, b);
    assert_int_equal(system(command), 0);
}

/* ---- a backend that cuts the files off in the middle of its work ---- */

typedef struct saboteur {
    zoe_backend_ops ops; /* first, so that an operation finds the rest */
    const zoe_backend_ops *cpu;
    long products, allocations; /* until the files are cut off: before a product, or before memory is taken; < 0: never */
    bool mends;                 /* right after that product */
    long seen[2];               /* products and allocations so far */
} saboteur;

static int sabotaged_linear(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_linear *p) {
    saboteur *s = (saboteur *)(uintptr_t)be->ops;
    bool now = s->seen[0]++ == s->products;
    if (now) cut_all();
    int status = s->cpu->linear(be, y, x, w, p);
    if (now && s->mends) mend_all();
    return status;
}

static int sabotaged_alloc(zoe_backend *be, size_t bytes, void **out) {
    saboteur *s = (saboteur *)(uintptr_t)be->ops;
    if (s->seen[1]++ == s->allocations) cut_all();
    return s->cpu->alloc(be, bytes, out);
}

static void watch(saboteur *s, zoe_backend *be) {
    *s = (saboteur){.ops = *be->ops, .cpu = be->ops, .products = -1, .allocations = -1};
    s->ops.linear = sabotaged_linear;
    s->ops.alloc = sabotaged_alloc;
    be->ops = &s->ops;
}

/* ---- requests ---- */

typedef struct fixture {
    const char *name; /* of the case */
    char folder[64], model[128], dump[128], image[600], upsampler[200];
    zoe_context *ctx;
    zoe_model *open;
    zoe_request request;
    char *expected; /* the dump */
    size_t size;
    long seen[2];
} fixture;

static int run(fixture *f) {
    return zoe_generate(f->open, &f->request, NULL);
}

static void expect_same(const fixture *f) {
    test_expect_file(f->dump, f->expected, f->size);
    unlink(f->dump);
}

/* The model opened anew: no prompt is remembered, no weight is loaded. */
static void open_watched(fixture *f, saboteur *s) {
    int frames = strncmp(f->name, "wan", 3) == 0 ? 5 : 9;
    assert_ok(f->ctx, zoe_model_open(f->ctx, f->model, NULL, &f->open));
    watch(s, f->open->be);
    zoe_request_init(f->open, &f->request);
    f->request.prompt = "A red ball";
    f->request.width = f->upsampler[0] ? 64 : 48, f->request.height = f->upsampler[0] ? 64 : 32;
    f->request.frames = frames, f->request.steps = 1;
    f->request.dump = f->dump;
    if (access(f->image, R_OK) == 0) f->request.image = f->image;
    if (f->upsampler[0]) f->request.upsampler = f->upsampler;
}

static void close_watched(fixture *f, saboteur *s) {
    f->open->be->ops = s->cpu;
    zoe_model_close(f->open);
}

/* A copy of a case's model, and what it makes when nothing happens to it. */
static void start(fixture *f, const char *name, bool enlarges) {
    char path[600];
    saboteur s;
    memset(f, 0, sizeof *f);
    f->name = name;
    assert_int_equal(zoe_context_create(NULL, &f->ctx), ZOE_OK);
    test_folder_create(f->folder);
    snprintf(path, sizeof path, TEST_DATA "/cases/%s", name);
    snprintf(f->model, sizeof f->model, "%s/model", f->folder);
    snprintf(f->dump, sizeof f->dump, "%s/dump", f->folder);
    snprintf(f->image, sizeof f->image, "%s/image.png", path);
    shell("cp -rL '%s'/model '%s'", path, f->folder);
    if (enlarges) {
        shell("cp -rL '%s'/upsampler '%s'", path, f->folder);
        snprintf(f->upsampler, sizeof f->upsampler, "%s/upsampler", f->folder);
    }
    shell("chmod -R u+w '%s'%s", f->folder, "");
    weight_count = 0;
    assert_int_equal(nftw(f->folder, note_file, 8, FTW_PHYS), 0);
    assert_true(weight_count >= 3);
    open_watched(f, &s);
    assert_ok(f->ctx, run(f));
    f->expected = test_read(f->dump, &f->size);
    unlink(f->dump);
    memcpy(f->seen, s.seen, sizeof s.seen);
    close_watched(f, &s);
}

static void stop(fixture *f) {
    for (int i = 0; i < weight_count; i++) {
        free(weights[i].path);
        free(weights[i].data);
    }
    free(f->expected);
    zoe_context_free(f->ctx);
    shell("rm -r '%s'%s", f->folder, "");
}

/*
 * The files are gone from a moment on, or for a moment: an error, which is then told, or all that was needed was in memory
 * already and the result is right.
 */
static bool lose(fixture *f, const saboteur *how, zoe_offload offload) {
    const char *text = how->mends ? "parts of it could not be read" : "shorter than when it was opened";
    saboteur s;
    open_watched(f, &s);
    s.products = how->products, s.allocations = how->allocations, s.mends = how->mends;
    f->open->be->weights.offload = offload;
    int status = run(f);
    s.products = s.allocations = -1;
    if (status != ZOE_OK && (status != ZOE_ERR_IO || !strstr(zoe_context_error(f->ctx), text)))
        fail_msg("product %ld, allocation %ld: status %d: %s", how->products, how->allocations, status,
                 zoe_context_error(f->ctx));
    if (status == ZOE_OK) expect_same(f);
    assert_int_not_equal(access(f->dump, F_OK), 0);
    mend_all();
    assert_ok(f->ctx, run(f));
    expect_same(f);
    close_watched(f, &s);
    return status < 0;
}

static void lose_in_turn(const char *name, bool enlarges, int tries) {
    fixture f;
    int told = 0, asked = 0;
    guard();
    start(&f, name, enlarges);
    long products = f.seen[0], allocations = f.seen[1], stride = products / TEST_TRIES(tries) + 1;
    assert_true(products > 20 && allocations > 3);
    /* For good, at a product of matrices, of which most are used where they are mapped. */
    for (long n = products - 1; n >= 0; n -= stride)
        assert_true(lose(&f, &(saboteur){.products = n, .allocations = -1}, ZOE_OFFLOAD_AUTO));
    for (long n = products - 1; n >= 0; n -= stride / 8 + 1, asked++)
        told += lose(&f, &(saboteur){.products = n, .allocations = -1, .mends = true}, ZOE_OFFLOAD_AUTO);
    if (told <= asked / 2) fail_msg("%d of %d losses were noticed", told, asked);
    /* While weights are read into memory, also into such that stays from request to request. */
    told = asked = 0;
    for (long n = 0; n < allocations; n += allocations / 5 + 1, asked++)
        told += lose(&f, &(saboteur){.products = -1, .allocations = n}, n % 2 ? ZOE_OFFLOAD_AUTO : ZOE_OFFLOAD_NONE);
    if (told <= asked / 2) fail_msg("%d of %d losses were noticed", told, asked);
    stop(&f);
}

static void wan_from_a_picture(void **state) {
    (void)state;
    lose_in_turn("wan21_i2v", false, 5);
}

static void wan_with_two_experts(void **state) {
    (void)state;
    lose_in_turn("wan22_t2v_a14b", false, 4);
}

static void cogvideox(void **state) {
    (void)state;
    lose_in_turn("cogvideox_5b_i2v", false, 5);
}

static void ltx_in_two_passes(void **state) {
    (void)state;
    lose_in_turn("ltx_x_passes", true, 5);
}

/* ---- quantising ---- */

typedef struct cutter {
    atomic_long calls, blocks;
    long cut; /* the files are cut off at this allocation */
} cutter;

static void *cutting_reallocate(void *user, void *ptr, size_t size) {
    cutter *c = user;
    if (size && atomic_fetch_add(&c->calls, 1) == c->cut) cut_all();
    if (!ptr && size) atomic_fetch_add(&c->blocks, 1);
    if (ptr && !size) atomic_fetch_sub(&c->blocks, 1);
    if (size) return realloc(ptr, size);
    free(ptr);
    return NULL;
}

static int quantise(zoe_context *ctx, const fixture *f, const char *out) {
    char *json;
    int status = zoe_quantize(ctx, f->model, "int8", out, NULL, NULL, &json);
    if (status == ZOE_OK) zoe_string_free(ctx, json);
    return status;
}

static void quantised_while_it_is_cut_off(void **state) {
    (void)state;
    fixture f;
    cutter c = {.cut = -1};
    zoe_context *ctx;
    zoe_context_settings settings;
    char good[128], out[128];
    int told = 0, asked = 0;
    guard();
    start(&f, "wan21_t2v", false);
    snprintf(good, sizeof good, "%s/good", f.folder);
    snprintf(out, sizeof out, "%s/out", f.folder);
    zoe_context_settings_init(&settings);
    settings.user = &c;
    settings.reallocate = cutting_reallocate;
    assert_int_equal(zoe_context_create(&settings, &ctx), ZOE_OK);
    assert_ok(ctx, quantise(ctx, &f, good));
    long calls = atomic_load(&c.calls);
    for (long n = calls / 2; n < calls; n += calls / TEST_TRIES(50) + 1, asked++) { /* the model is open by then */
        atomic_store(&c.calls, 0);
        c.cut = n;
        int status = quantise(ctx, &f, out);
        c.cut = -1;
        mend_all();
        if (status == ZOE_OK) {
            shell("diff -r '%s' '%s'", good, out);
            shell("rm -r '%s'%s", out, "");
        } else if (status != ZOE_ERR_IO || !strstr(zoe_context_error(ctx), "shorter than when it was opened")) {
            fail_msg("call %ld of %ld: status %d: %s", n, calls, status, zoe_context_error(ctx));
        }
        told += status < 0;
        assert_int_not_equal(access(out, F_OK), 0);
        assert_int_equal(atomic_load(&c.blocks), 1);
    }
    if (told <= asked / 2) fail_msg("%d of %d losses were noticed", told, asked);
    zoe_context_free(ctx);
    stop(&f);
}

/* ---- checkpoints ---- */

static void a_file_that_shrinks(void **state) {
    (void)state;
    guard();
    char folder[64], path[128];
    const size_t count = 100000;
    zoe_context *ctx;
    zoe_checkpoint *ckpt;
    zoe_safetensors_writer *writer;
    float *values = malloc(count * sizeof *values);
    test_folder_create(folder);
    snprintf(path, sizeof path, "%s/x.safetensors", folder);
    for (size_t i = 0; i < count; i++) values[i] = (float)i + 1;
    assert_int_equal(zoe_context_create(NULL, &ctx), ZOE_OK);
    assert_ok(ctx, zoe_safetensors_create(ctx, path, &writer));
    assert_ok(ctx, zoe_safetensors_add(writer, "x", ZOE_F32, 1, (const int64_t[]){(int64_t)count}, values));
    assert_ok(ctx, zoe_safetensors_finish(writer));
    size_t size;
    char *whole = test_read(path, &size);
    assert_ok(ctx, zoe_checkpoint_open(ctx, path, &ckpt));
    const float *mapped = zoe_checkpoint_at(ckpt, 0)->data;
    assert_memory_equal(mapped, values, count * sizeof *values);
    errno = 77;
    for (int turn = 0; turn < 2; turn++) {
        assert_int_equal(truncate(path, 1000), 0);
        assert_true(mapped[count - 1] == 0); /* and nothing worse */
        assert_int_equal(errno, 77);
        assert_fails(ctx, zoe_checkpoint_intact(ckpt), ZOE_ERR_IO, "shorter than when");
        assert_fails(ctx, zoe_checkpoint_intact(ckpt), ZOE_ERR_IO, "shorter than when"); /* untouched, and short */
        int fd = open(path, O_WRONLY);
        assert_int_equal(write(fd, whole, size), size);
        close(fd);
        assert_ok(ctx, zoe_checkpoint_intact(ckpt));
        assert_memory_equal(mapped, values, count * sizeof *values);
        errno = 77;
    }
    /* Lost and found between two looks: told once. */
    assert_int_equal(truncate(path, 1000), 0);
    assert_true(mapped[count - 1] == 0);
    test_write(path, whole, size);
    assert_fails(ctx, zoe_checkpoint_intact(ckpt), ZOE_ERR_IO, "parts of it could not be read");
    assert_ok(ctx, zoe_checkpoint_intact(ckpt));
    assert_memory_equal(mapped, values, count * sizeof *values);
    zoe_checkpoint_close(ckpt);
    zoe_context_free(ctx);
    free(values);
    free(whole);
    test_folder_remove(folder);
}

/* ---- other signals ---- */

enum { ALIVE = 7, CAUGHT = 42 };

static void catch_bus(int number, siginfo_t *info, void *where) {
    (void)number, (void)info, (void)where;
    _exit(CAUGHT);
}

static void catch_plainly(int number) {
    _exit(number == SIGBUS ? CAUGHT : ALIVE);
}

/* A page behind the end of a file that no checkpoint mapped. */
static void touch_foreign_page(void) {
    FILE *file = tmpfile();
    volatile char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fileno(file), 0);
    (void)*page;
}

static void send_signal(void) {
    kill(getpid(), SIGBUS);
}

/* How a process of its own ends that has this handler, guards mappings and then does `what`. */
static int ending(const struct sigaction *own, void (*what)(void)) {
    int status;
    pid_t child = fork();
    if (child == 0) {
        if (own) sigaction(SIGBUS, own, NULL);
        (void)zoe_guard_mappings();
        what();
        _exit(ALIVE);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void signals_of_others(void **state) {
    (void)state;
    struct sigaction plain = {.sa_handler = catch_plainly}, full = {.sa_sigaction = catch_bus, .sa_flags = SA_SIGINFO};
    struct sigaction ignored = {.sa_handler = SIG_IGN}, standard = {.sa_handler = SIG_DFL};
    void (*const what[])(void) = {touch_foreign_page, send_signal};
    for (int i = 0; i < 2; i++) {
        int status = ending(&plain, what[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == CAUGHT);
        status = ending(&full, what[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == CAUGHT);
        status = ending(&standard, what[i]);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
        status = ending(&ignored, what[i]); /* what a process does to itself cannot be ignored */
        if (what[i] == send_signal)
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) == ALIVE);
        else
            assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signals_of_others),
        cmocka_unit_test(a_file_that_shrinks),
        cmocka_unit_test(wan_from_a_picture),
        cmocka_unit_test(wan_with_two_experts),
        cmocka_unit_test(cogvideox),
        cmocka_unit_test(ltx_in_two_passes),
        cmocka_unit_test(quantised_while_it_is_cut_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
