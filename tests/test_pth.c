/* PyTorch archives: plain dictionaries of tensors are read, everything else is refused by name. */
#include "support.h"

#include <sys/mman.h>

#include "formats/checkpoint.h"

#define FILES TEST_DATA "/formats/"

static test_memory memory;
static zoe_context *ctx;

static int setup(void **state) {
    (void)state;
    ctx = test_context(&memory);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    test_context_free(&memory, ctx);
    return 0;
}

static void check(const zoe_checkpoint *ckpt, const char *name, zoe_dtype dtype, int rank, const int64_t *shape,
                  const void *data) {
    const zoe_entry *entry = zoe_checkpoint_find(ckpt, name);
    if (!entry) fail_msg("no tensor %s", name);
    assert_int_equal(entry->dtype, dtype);
    assert_int_equal(entry->rank, rank);
    size_t bytes = zoe_dtype_size(dtype);
    for (int i = 0; i < rank; i++) {
        assert_int_equal(entry->shape[i], shape[i]);
        bytes *= (size_t)shape[i];
    }
    assert_int_equal(entry->bytes, bytes);
    if (bytes) assert_memory_equal(entry->data, data, bytes);
}

static void check_plain(const char *path) {
    zoe_checkpoint *ckpt;
    float ramp[24];
    for (int i = 0; i < 24; i++) ramp[i] = (float)i;
    assert_ok(ctx, zoe_checkpoint_open(ctx, path, &ckpt));
    assert_int_equal(zoe_checkpoint_count(ckpt), 12);
    check(ckpt, "ramp", ZOE_F32, 3, (const int64_t[]){2, 3, 4}, ramp);
    check(ckpt, "tail", ZOE_F32, 1, (const int64_t[]){4}, ramp + 20);
    check(ckpt, "column", ZOE_F32, 2, (const int64_t[]){24, 1}, ramp);
    check(ckpt, "bf16", ZOE_BF16, 1, (const int64_t[]){2}, (const uint16_t[]){0x3fc0, 0xc000});
    check(ckpt, "half", ZOE_F16, 2, (const int64_t[]){1, 1}, (const uint16_t[]){0x3400});
    check(ckpt, "parameter", ZOE_F32, 2, (const int64_t[]){2, 2}, (const float[]){7, 7, 7, 7});
    check(ckpt, "long", ZOE_I64, 1, (const int64_t[]){2}, (const int64_t[]){-1, (int64_t)1 << 40});
    check(ckpt, "bool", ZOE_BOOL, 1, (const int64_t[]){2}, "\1");
    check(ckpt, "scalar", ZOE_F32, 0, NULL, (const float[]){3.5f});
    check(ckpt, "empty", ZOE_F32, 2, (const int64_t[]){0, 3}, NULL);
    check(ckpt, "byte", ZOE_U8, 1, (const int64_t[]){3}, "\1\2\xff");
    check(ckpt, "double", ZOE_F64, 1, (const int64_t[]){1}, (const double[]){(double)0.1f});
    zoe_checkpoint_close(ckpt);
}

static void reads_dictionaries(void **state) {
    (void)state;
    check_plain(FILES "plain.pth");
    check_plain(FILES "zip64.pth");
}

static void reads_state_dictionaries(void **state) {
    (void)state;
    static const char *const files[] = {FILES "ordered.pth", FILES "wrapped.pth", FILES "training.pth"};
    for (int i = 0; i < 3; i++) { /* the second one with "module." in front of every name, the third within another */
        zoe_checkpoint *ckpt;
        assert_ok(ctx, zoe_checkpoint_open(ctx, files[i], &ckpt));
        assert_int_equal(zoe_checkpoint_count(ckpt), 7);
        check(ckpt, "0.weight", ZOE_F32, 2, (const int64_t[]){2, 3}, (const float[]){.5f, .5f, .5f, .5f, .5f, .5f});
        check(ckpt, "1.running_var", ZOE_F32, 1, (const int64_t[]){2}, (const float[]){1, 1});
        check(ckpt, "1.num_batches_tracked", ZOE_I64, 0, NULL, (const int64_t[]){0});
        zoe_checkpoint_close(ckpt);
    }
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *path;
        int status;
        const char *part;
    } cases[] = {
        {FILES "evil.pth", ZOE_ERR_UNSUPPORTED, "asks for os.system, which is refused"},
        {FILES "code.pth", ZOE_ERR_UNSUPPORTED, "asks for __builtin__.eval, which is refused"},
        {FILES "object.pth", ZOE_ERR_UNSUPPORTED, "asks for torch.nn.modules.container.Sequential, which is refused"},
        {FILES "strided.pth", ZOE_ERR_UNSUPPORTED, "tensor \"x\" is not stored row by row"},
        {FILES "alone.pth", ZOE_ERR_UNSUPPORTED, "holds no dictionary of tensors"},
        {FILES "legacy.pth", ZOE_ERR_UNSUPPORTED, "load it with torch.load() and save it again"},
        {FILES "compressed.pth", ZOE_ERR_UNSUPPORTED, "compressed or encrypted"},
        {FILES "outside.pth", ZOE_ERR_FORMAT, "tensor \"x\" reaches beyond its data of 8 bytes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zoe_checkpoint *ckpt;
        assert_fails(ctx, zoe_checkpoint_open(ctx, cases[i].path, &ckpt), cases[i].status, cases[i].part);
        assert_null(ckpt);
    }
}

/* Opens `size` bytes as an archive. A result, good or bad, is all that is asked for; reading what it claims must be safe.
 */
static int open_bytes(const char *data, size_t size) {
    char path[64];
    zoe_checkpoint *ckpt;
    volatile uint8_t sum = 0;
    int fd = memfd_create("x", MFD_CLOEXEC); /* thousands of files on a disk would take their time */
    assert_true(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int status = zoe_checkpoint_open(ctx, path, &ckpt);
    close(fd);
    if (status < 0) return status;
    for (size_t i = 0; i < zoe_checkpoint_count(ckpt); i++) {
        const zoe_entry *entry = zoe_checkpoint_at(ckpt, i);
        for (size_t k = 0; k < entry->bytes; k++) sum = (uint8_t)(sum + ((const uint8_t *)entry->data)[k]);
    }
    zoe_checkpoint_close(ckpt);
    return status;
}

static void truncated_files_fail(void **state) {
    (void)state;
    size_t size;
    char *data = test_read(FILES "ordered.pth", &size);
    assert_ok(ctx, open_bytes(data, size));
    for (size_t cut = 0; cut < size; cut++) assert_true(open_bytes(data, cut) < 0);
    free(data);
}

static void damaged_files_are_safe(void **state) {
    (void)state;
    static const char *const files[] = {FILES "plain.pth", FILES "zip64.pth"};
    for (int f = 0; f < 2; f++) {
        size_t size;
        char *data = test_read(files[f], &size);
        for (size_t i = 0; i < size; i++) {
            char flipped = (char)(1 << i % 8);
            data[i] ^= flipped;
            open_bytes(data, size);
            data[i] ^= flipped;
        }
        assert_ok(ctx, open_bytes(data, size));
        free(data);
    }
}

static int open_and_close(zoe_context *context, void *path) {
    zoe_checkpoint *ckpt;
    ZOE_TRY(zoe_checkpoint_open(context, path, &ckpt));
    zoe_checkpoint_close(ckpt);
    return ZOE_OK;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    test_every_allocation(open_and_close, FILES "plain.pth");
    test_every_allocation(open_and_close, FILES "wrapped.pth");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_dictionaries, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_state_dictionaries, setup, teardown),
        cmocka_unit_test_setup_teardown(refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(truncated_files_fail, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_files_are_safe, setup, teardown),
        cmocka_unit_test_setup_teardown(every_allocation_may_fail, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
