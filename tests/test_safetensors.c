/* Safetensors in and out: what a good file gives, and that each way of being wrong is told apart. */
#include "support.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>

#include "formats/checkpoint.h"

static test_memory memory;
static zoe_context *ctx;
static char folder[64];

static int setup(void **state) {
    (void)state;
    ctx = test_context(&memory);
    test_folder_create(folder);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    test_folder_remove(folder);
    test_context_free(&memory, ctx);
    return 0;
}

static const char *in_folder(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* Writes a file of this header and `data_bytes` bytes of data 0, 1, 2, ... and opens it. */
static int open_made(const char *header, size_t data_bytes, zoe_checkpoint **ckpt) {
    uint8_t bytes[4096] = {0};
    size_t length = strlen(header);
    bytes[0] = (uint8_t)length;
    bytes[1] = (uint8_t)(length >> 8);
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++) bytes[8 + length + i] = (uint8_t)i;
    test_write(in_folder("made.safetensors"), bytes, 8 + length + data_bytes);
    return zoe_checkpoint_open(ctx, in_folder("made.safetensors"), ckpt);
}

#define ONE(dtype, shape, offsets) "{\"x\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

/* ---- good files ---- */

static void reads_all_types(void **state) {
    (void)state;
    zoe_checkpoint *ckpt;
    assert_ok(ctx, zoe_checkpoint_open(ctx, TEST_DATA "/formats/all_types.safetensors", &ckpt));
    assert_int_equal(zoe_checkpoint_count(ckpt), ZOE_FILE_DTYPE_COUNT + 3);
    for (int dtype = 0; dtype < ZOE_FILE_DTYPE_COUNT; dtype++) {
        char name[32];
        snprintf(name, sizeof name, "type.%s", zoe_dtype_name((zoe_dtype)dtype));
        const zoe_entry *entry = zoe_checkpoint_find(ckpt, name);
        assert_non_null(entry);
        assert_int_equal(entry->dtype, dtype);
        assert_int_equal(entry->rank, 2);
        assert_int_equal(entry->shape[0], 2);
        assert_int_equal(entry->shape[1], 3);
        assert_int_equal(entry->bytes, 6 * zoe_dtype_size((zoe_dtype)dtype));
    }
    const zoe_entry *ramp = zoe_checkpoint_find(ckpt, "ramp");
    assert_int_equal(ramp->rank, 3);
    for (int i = 0; i < 24; i++) {
        float value;
        memcpy(&value, (const char *)ramp->data + 4 * i, 4);
        assert_true(value == (float)i);
    }
    assert_int_equal(zoe_checkpoint_find(ckpt, "scalar")->rank, 0);
    assert_int_equal(zoe_checkpoint_find(ckpt, "scalar")->bytes, 4);
    assert_int_equal(zoe_checkpoint_find(ckpt, "empty")->bytes, 0);
    assert_null(zoe_checkpoint_find(ckpt, "ram"));
    assert_null(zoe_checkpoint_find(ckpt, "zzz"));
    assert_string_equal(zoe_checkpoint_metadata(ckpt, "format"), "pt");
    assert_string_equal(zoe_checkpoint_metadata(ckpt, "note"), "\xc3\xa4");
    assert_null(zoe_checkpoint_metadata(ckpt, "other"));
    for (size_t i = 0; i + 1 < zoe_checkpoint_count(ckpt); i++)
        assert_true(strcmp(zoe_checkpoint_at(ckpt, i)->name, zoe_checkpoint_at(ckpt, i + 1)->name) < 0);
    zoe_checkpoint_close(ckpt);
}

static void paging_keeps_data(void **state) {
    (void)state;
    zoe_checkpoint *ckpt;
    assert_ok(ctx, zoe_checkpoint_open(ctx, TEST_DATA "/formats/all_types.safetensors", &ckpt));
    for (size_t i = 0; i < zoe_checkpoint_count(ckpt); i++) {
        const zoe_entry *entry = zoe_checkpoint_at(ckpt, i);
        uint8_t before[256];
        assert_true(entry->bytes <= sizeof before);
        memcpy(before, entry->data, entry->bytes);
        zoe_checkpoint_prefetch(ckpt, entry);
        zoe_checkpoint_drop(ckpt, entry);
        assert_memory_equal(before, entry->data, entry->bytes);
    }
    zoe_checkpoint_close(ckpt);
}

static void reads_shards(void **state) {
    (void)state;
    static const char *const paths[] = {TEST_DATA "/formats/sharded",
                                        TEST_DATA "/formats/sharded/diffusion_pytorch_model.safetensors.index.json"};
    for (int i = 0; i < 2; i++) {
        zoe_checkpoint *ckpt;
        assert_ok(ctx, zoe_checkpoint_open(ctx, paths[i], &ckpt));
        assert_int_equal(zoe_checkpoint_count(ckpt), 3);
        assert_int_equal(zoe_checkpoint_files(ckpt), 2);
        const zoe_entry *c = zoe_checkpoint_find(ckpt, "c.weight");
        assert_int_equal(c->dtype, ZOE_BF16);
        assert_non_null(strstr(zoe_checkpoint_path(ckpt, c->file), "-00002-of-00002"));
        uint16_t bits;
        memcpy(&bits, c->data, 2);
        assert_true(zoe_bf16_to_f32(bits) == 3.0f);
        zoe_checkpoint_close(ckpt);
    }
}

static void handmade_file_opens(void **state) {
    (void)state;
    zoe_checkpoint *ckpt;
    assert_ok(ctx, open_made(ONE("U8", "[2,2]", "[0,4]") "   ", 4, &ckpt));
    assert_memory_equal(zoe_checkpoint_find(ckpt, "x")->data, "\0\1\2\3", 4);
    zoe_checkpoint_close(ckpt);
    assert_ok(ctx, open_made("{}", 0, &ckpt));
    assert_int_equal(zoe_checkpoint_count(ckpt), 0);
    assert_null(zoe_checkpoint_find(ckpt, "x"));
    zoe_checkpoint_close(ckpt);
}

/* ---- bad files ---- */

static void bad_headers(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        int status;
        const char *part;
    } cases[] = {
        {"[]", 0, ZOE_ERR_FORMAT, "not a JSON object"},
        {"{\"x\":1}", 0, ZOE_ERR_FORMAT, "tensor \"x\" is not an object"},
        {"{\"x\":", 0, ZOE_ERR_FORMAT, "not valid JSON"},
        {"{\"\xff\":{}}", 0, ZOE_ERR_FORMAT, "not valid JSON"},
        {"{} x", 0, ZOE_ERR_FORMAT, "not valid JSON"},
        {"{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
         1, ZOE_ERR_FORMAT, "duplicate"},
        {"{\"__metadata__\":{\"a\":1}}", 0, ZOE_ERR_FORMAT, "metadata \"a\" is not a string"},
        {"{\"__metadata__\":[]}", 0, ZOE_ERR_FORMAT, "\"__metadata__\" is not an object"},
        {"{\"x\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ZOE_ERR_FORMAT, "\"x\" has no dtype"},
        {"{\"x\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, ZOE_ERR_FORMAT, "\"x\" has no shape"},
        {"{\"x\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, ZOE_ERR_FORMAT, "data_offsets of tensor \"x\""},
        {ONE("Q7", "[1]", "[0,1]"), 1, ZOE_ERR_FORMAT, "\"x\" has the dtype \"Q7\""},
        {ONE("F4", "[2]", "[0,1]"), 1, ZOE_ERR_UNSUPPORTED, "\"x\" has the dtype F4"},
        {ONE("U8", "[1,1,1,1,1,1,1]", "[0,1]"), 1, ZOE_ERR_UNSUPPORTED, "\"x\" has 7 axes; at most 6"},
        {ONE("U8", "[-1]", "[0,1]"), 1, ZOE_ERR_FORMAT, "axis 0 of tensor \"x\""},
        {ONE("U8", "[1.5]", "[0,1]"), 1, ZOE_ERR_FORMAT, "axis 0 of tensor \"x\""},
        {ONE("F32", "[4294967296,4294967296]", "[0,0]"), 0, ZOE_ERR_FORMAT, "too large"},
        {ONE("F64", "[2305843009213693952]", "[0,0]"), 0, ZOE_ERR_FORMAT, "too large"},
        {ONE("F32", "[2]", "[0,4]"), 4, ZOE_ERR_FORMAT, "F32 [2], needs 8 bytes, but its data_offsets span 4"},
        {ONE("U8", "[1]", "[1,0]"), 1, ZOE_ERR_FORMAT, "begin <= end"},
        {ONE("U8", "[1]", "[-1,0]"), 1, ZOE_ERR_FORMAT, "begin <= end"},
        {ONE("U8", "[1]", "[0,1,2]"), 1, ZOE_ERR_FORMAT, "begin <= end"},
        {ONE("U8", "[1]", "[0,99999999999999999999]"), 1, ZOE_ERR_FORMAT, "not valid JSON"},
        {ONE("U8", "[8]", "[0,8]"), 7, ZOE_ERR_FORMAT, "truncated: tensor \"x\" ends at byte"},
        {ONE("U8", "[8]", "[0,8]"), 9, ZOE_ERR_FORMAT, "too long"},
        {ONE("U8", "[4]", "[2,6]"), 6, ZOE_ERR_FORMAT, "2 bytes in front of tensor \"x\""},
        {"{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"y\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
         7, ZOE_ERR_FORMAT, "\"x\" and \"y\" overlap"},
        {"{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"y\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]}}",
         9, ZOE_ERR_FORMAT, "1 bytes in front of tensor \"y\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zoe_checkpoint *ckpt = (zoe_checkpoint *)&memory;
        assert_fails(ctx, open_made(cases[i].header, cases[i].data, &ckpt), cases[i].status, cases[i].part);
        assert_null(ckpt);
        assert_non_null(strstr(zoe_context_error(ctx), "made.safetensors"));
    }
}

static void bad_files(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *part;
    } cases[] = {
        {"", 0, "is empty"},
        {"\2\0\0\0\0\0\0\0{", 9, "only 9 bytes"},
        {"\3\0\0\0\0\0\0\0{}", 10, "truncated or not a safetensors file"},
        {"\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, "the format allows"},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", 63, "Git LFS pointer"},
    };
    zoe_checkpoint *ckpt;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_write(in_folder("bad.safetensors"), cases[i].bytes, cases[i].size);
        assert_fails(ctx, zoe_checkpoint_open(ctx, in_folder("bad.safetensors"), &ckpt), ZOE_ERR_FORMAT, cases[i].part);
    }
    assert_fails(ctx, zoe_checkpoint_open(ctx, in_folder("none.safetensors"), &ckpt), ZOE_ERR_IO, "No such file");
    assert_fails(ctx, zoe_checkpoint_open(ctx, folder, &ckpt), ZOE_ERR_IO, "holds no weights");
    assert_fails(ctx, zoe_checkpoint_open(ctx, "/dev/null", &ckpt), ZOE_ERR_IO, "not a regular file");
}

static void bad_indexes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int status;
        const char *part;
    } cases[] = {
        {"{}", ZOE_ERR_FORMAT, "\"weight_map\" is missing"},
        {"{\"weight_map\":{\"x\":1}}", ZOE_ERR_FORMAT, "tensor \"x\" is not a string"},
        {"{\"weight_map\":{\"x\":\"../made.safetensors\"}}", ZOE_ERR_FORMAT, "beside the index"},
        {"{\"weight_map\":{\"x\":\"made.bin\"}}", ZOE_ERR_FORMAT, "beside the index"},
        {"{\"weight_map\":{\"x\":\"p.safetensors\",\"y\":\"made.safetensors\",\"z\":\"q.safetensors\"}}", ZOE_ERR_IO,
         "2 of 3 files are missing: p.safetensors, q.safetensors"},
        {"{\"weight_map\":{\"x\":\"made.safetensors\",\"y\":\"made.safetensors\",\"z\":\"made.safetensors\"}}",
         ZOE_ERR_FORMAT, "2 tensors are not in the files that it names: y, z"},
        {"nonsense", ZOE_ERR_FORMAT, "not valid JSON"},
    };
    zoe_checkpoint *ckpt;
    assert_ok(ctx, open_made(ONE("U8", "[1]", "[0,1]"), 1, &ckpt));
    zoe_checkpoint_close(ckpt);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = in_folder("m.safetensors.index.json");
        test_write(path, cases[i].text, strlen(cases[i].text));
        assert_fails(ctx, zoe_checkpoint_open(ctx, path, &ckpt), cases[i].status, cases[i].part);
    }
}

static void long_lists_end_with_a_count(void **state) {
    (void)state;
    char text[40000];
    size_t used = (size_t)snprintf(text, sizeof text, "{\"weight_map\":{\"x\":\"made.safetensors\"");
    for (int i = 0; i < 500; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, ",\"missing.tensor.%d\":\"made.safetensors\"", i);
    snprintf(text + used, sizeof text - used, "}}");
    zoe_checkpoint *ckpt;
    assert_ok(ctx, open_made(ONE("U8", "[1]", "[0,1]"), 1, &ckpt));
    zoe_checkpoint_close(ckpt);
    const char *path = in_folder("m.safetensors.index.json");
    test_write(path, text, strlen(text));
    assert_fails(ctx, zoe_checkpoint_open(ctx, path, &ckpt), ZOE_ERR_FORMAT, "500 tensors are not in the files");
    assert_non_null(strstr(zoe_context_error(ctx), "missing.tensor.0, "));
    assert_non_null(strstr(zoe_context_error(ctx), " more"));
}

/* ---- writing ---- */

static int write_some(zoe_context *context, void *path) {
    zoe_safetensors_writer *writer;
    const float values[6] = {0, 1, 2, 3, 4, 5};
    const uint8_t bytes[3] = {7, 8, 9};
    ZOE_TRY(zoe_safetensors_create(context, path, &writer));
    int status = ZOE_OK;
    ZOE_TRY_DONE(zoe_safetensors_add(writer, "odd", ZOE_U8, 1, (const int64_t[]){3}, bytes));
    for (int i = 0; i < 3; i++) {
        ZOE_TRY_DONE(zoe_safetensors_add_row(writer, "rows", ZOE_F32, 1, (const int64_t[]){2}, values + 2 * i));
        ZOE_TRY_DONE(zoe_safetensors_add_row(writer, "numbers", ZOE_F32, 0, NULL, values + i));
    }
    ZOE_TRY_DONE(zoe_safetensors_add(writer, "whole", ZOE_F32, 2, (const int64_t[]){2, 3}, values));
    return zoe_safetensors_finish(writer);
done:
    zoe_safetensors_abort(writer);
    return status;
}

static void writes_and_reads_back(void **state) {
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/out.safetensors", folder);
    assert_ok(ctx, write_some(ctx, path));
    assert_int_equal(test_folder_count(folder), 1);
    zoe_checkpoint *ckpt;
    assert_ok(ctx, zoe_checkpoint_open(ctx, path, &ckpt));
    assert_int_equal(zoe_checkpoint_count(ckpt), 4);
    const zoe_entry *rows = zoe_checkpoint_find(ckpt, "rows"), *numbers = zoe_checkpoint_find(ckpt, "numbers");
    assert_int_equal(rows->rank, 2);
    assert_int_equal(rows->shape[0], 3);
    assert_int_equal(rows->shape[1], 2);
    assert_int_equal(numbers->rank, 1);
    assert_int_equal(numbers->shape[0], 3);
    assert_memory_equal(rows->data, ((const float[]){0, 1, 2, 3, 4, 5}), 24);
    assert_memory_equal(numbers->data, ((const float[]){0, 1, 2}), 12);
    assert_memory_equal(zoe_checkpoint_find(ckpt, "whole")->data, ((const float[]){0, 1, 2, 3, 4, 5}), 24);
    assert_memory_equal(zoe_checkpoint_find(ckpt, "odd")->data, "\7\10\11", 3);
    for (size_t i = 0; i < 4; i++) {
        const zoe_entry *entry = zoe_checkpoint_at(ckpt, i);
        assert_int_equal(entry->offset % zoe_dtype_size(entry->dtype), 0);
    }
    zoe_checkpoint_close(ckpt);
}

static void writer_refuses(void **state) {
    (void)state;
    zoe_safetensors_writer *writer;
    const float values[4] = {0};
    assert_fails(ctx, zoe_safetensors_create(ctx, "/nonexistent/x.safetensors", &writer), ZOE_ERR_IO, "No such file");
    assert_ok(ctx, zoe_safetensors_create(ctx, in_folder("out.safetensors"), &writer));
    assert_ok(ctx, zoe_safetensors_add(writer, "a", ZOE_F32, 1, (const int64_t[]){4}, values));
    assert_ok(ctx, zoe_safetensors_add_row(writer, "r", ZOE_F32, 1, (const int64_t[]){4}, values));
    assert_fails(ctx, zoe_safetensors_add(writer, "a", ZOE_F32, 1, (const int64_t[]){4}, values), ZOE_ERR_ARGUMENT,
                 "already taken");
    assert_fails(ctx, zoe_safetensors_add_row(writer, "a", ZOE_F32, 0, NULL, values), ZOE_ERR_ARGUMENT, "does not fit");
    assert_fails(ctx, zoe_safetensors_add_row(writer, "r", ZOE_F32, 1, (const int64_t[]){3}, values), ZOE_ERR_ARGUMENT,
                 "a row F32 [3] does not fit tensor \"r\", F32 [1, 4]");
    assert_fails(ctx, zoe_safetensors_add_row(writer, "r", ZOE_I32, 1, (const int64_t[]){4}, values), ZOE_ERR_ARGUMENT,
                 "a row I32");
    zoe_safetensors_abort(writer);
    zoe_safetensors_abort(NULL);
    assert_int_equal(test_folder_count(folder), 0);
}

static void full_disk_is_reported(void **state) {
    (void)state;
    struct rlimit old, small;
    zoe_safetensors_writer *writer;
    static uint8_t data[65537];
    /* A limit on file sizes stands in for a full disk: writing fails in the same place. */
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    for (int scratch = 0; scratch < 2; scratch++) { /* the scratch file is hit, or only the complete one with its header */
        size_t bytes = scratch ? 65537 : 65536;
        assert_ok(ctx, zoe_safetensors_create(ctx, in_folder("out.safetensors"), &writer));
        small = old;
        small.rlim_cur = 65536;
        setrlimit(RLIMIT_FSIZE, &small);
        int added = zoe_safetensors_add(writer, "x", ZOE_U8, 1, (const int64_t[]){(int64_t)bytes}, data);
        if (scratch) assert_int_equal(zoe_safetensors_add(writer, "y", ZOE_U8, 1, (const int64_t[]){0}, data), ZOE_ERR_IO);
        int finished = zoe_safetensors_finish(writer);
        setrlimit(RLIMIT_FSIZE, &old);
        assert_int_equal(added, scratch ? ZOE_ERR_IO : ZOE_OK);
        assert_int_equal(finished, ZOE_ERR_IO);
        assert_non_null(strstr(zoe_context_error(ctx), scratch ? "given up" : "cannot write"));
        assert_non_null(strstr(zoe_context_error(ctx), "out.safetensors"));
        assert_int_equal(test_folder_count(folder), 0);
    }
}

/* ---- memory ---- */

static int open_and_close(zoe_context *context, void *path) {
    zoe_checkpoint *ckpt;
    ZOE_TRY(zoe_checkpoint_open(context, path, &ckpt));
    zoe_checkpoint_close(ckpt);
    return ZOE_OK;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/out.safetensors", folder);
    test_every_allocation(open_and_close, TEST_DATA "/formats/all_types.safetensors");
    test_every_allocation(open_and_close, TEST_DATA "/formats/sharded");
    test_every_allocation(write_some, path);
    assert_int_equal(test_folder_count(folder), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_all_types, setup, teardown),
        cmocka_unit_test_setup_teardown(paging_keeps_data, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_shards, setup, teardown),
        cmocka_unit_test_setup_teardown(handmade_file_opens, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_files, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_indexes, setup, teardown),
        cmocka_unit_test_setup_teardown(long_lists_end_with_a_count, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_and_reads_back, setup, teardown),
        cmocka_unit_test_setup_teardown(writer_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(full_disk_is_reported, setup, teardown),
        cmocka_unit_test_setup_teardown(every_allocation_may_fail, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
