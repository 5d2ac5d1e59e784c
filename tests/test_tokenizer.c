/* Token ids against sentencepiece's own, the cut at the end, and files that are no tokenizers. */
#include "support.h"

#include <jansson.h>

#include "formats/tokenizer.h"

#define MODEL TEST_DATA "/tokenizer/wan/spiece.model"

static test_memory memory;
static zoe_context *ctx;
static zoe_tokenizer *tokenizer;

static int setup(void **state) {
    (void)state;
    ctx = test_context(&memory);
    assert_ok(ctx, zoe_tokenizer_open(ctx, TEST_DATA "/tokenizer/wan", &tokenizer));
    return 0;
}

static int teardown(void **state) {
    (void)state;
    zoe_tokenizer_close(tokenizer);
    test_context_free(&memory, ctx);
    return 0;
}

static void ids_are_the_references(void **state) {
    (void)state;
    json_t *cases = json_load_file(TEST_DATA "/text/tokens.json", 0, NULL);
    size_t i;
    json_t *item;
    assert_true(json_array_size(cases) > 8);
    json_array_foreach(cases, i, item) {
        const json_t *expected = json_object_get(item, "ids");
        int32_t *ids;
        int count;
        assert_ok(ctx,
                  zoe_tokenizer_encode(tokenizer, json_string_value(json_object_get(item, "text")), 512, &ids, &count));
        assert_int_equal(count, json_array_size(expected));
        for (int k = 0; k < count; k++) assert_int_equal(ids[k], json_integer_value(json_array_get(expected, (size_t)k)));
        zoe_free(ctx, ids);
    }
    json_decref(cases);
    assert_int_equal(zoe_tokenizer_size(tokenizer), 700);
}

static void long_texts_keep_the_end_mark(void **state) {
    (void)state;
    int32_t *all, *some;
    int all_count, count;
    const char *text = "A red ball rolls across a wooden table";
    assert_ok(ctx, zoe_tokenizer_encode(tokenizer, text, 512, &all, &all_count));
    assert_int_equal(all[all_count - 1], 1);
    for (int max = 1; max <= all_count + 1; max++) {
        assert_ok(ctx, zoe_tokenizer_encode(tokenizer, text, max, &some, &count));
        assert_int_equal(count, max < all_count ? max : all_count);
        assert_int_equal(some[count - 1], 1);
        assert_memory_equal(some, all, (size_t)(count - 1) * sizeof *all);
        zoe_free(ctx, some);
    }
    zoe_free(ctx, all);
}

static void bad_input(void **state) {
    (void)state;
    int32_t *ids;
    int count;
    char folder[64], path[128];
    zoe_tokenizer *other;
    assert_fails(ctx, zoe_tokenizer_encode(tokenizer, "a\xff", 8, &ids, &count), ZOE_ERR_ARGUMENT,
                 "byte 0xff at position 1");
    assert_null(ids);
    assert_fails(ctx, zoe_tokenizer_encode(tokenizer, "a", 0, &ids, &count), ZOE_ERR_ARGUMENT, "at least 1");
    test_folder_create(folder);
    assert_fails(ctx, zoe_tokenizer_open(ctx, folder, &other), ZOE_ERR_IO, "spiece.model");
    assert_null(other);
    snprintf(path, sizeof path, "%s/spiece.model", folder);
    test_write(path, "nonsense that is no model", 25);
    assert_fails(ctx, zoe_tokenizer_open(ctx, folder, &other), ZOE_ERR_FORMAT, "not a sentencepiece model");
    test_write(path, "", 0);
    assert_fails(ctx, zoe_tokenizer_open(ctx, folder, &other), ZOE_ERR_FORMAT, "spiece.model");
    size_t size;
    char *model = test_read(MODEL, &size);
    test_write(path, model, size / 2);
    assert_fails(ctx, zoe_tokenizer_open(ctx, path, &other), ZOE_ERR_FORMAT, "not a sentencepiece model");
    free(model);
    test_folder_remove(folder);
}

static int encode_one(zoe_context *context, void *path) {
    zoe_tokenizer *opened;
    int32_t *ids;
    int count;
    ZOE_TRY(zoe_tokenizer_open(context, path, &opened));
    int status = zoe_tokenizer_encode(opened, "a red ball", 8, &ids, &count);
    if (status >= 0) zoe_free(context, ids);
    zoe_tokenizer_close(opened);
    return status;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    test_every_allocation(encode_one, MODEL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ids_are_the_references, setup, teardown),
        cmocka_unit_test_setup_teardown(long_texts_keep_the_end_mark, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_input, setup, teardown),
        cmocka_unit_test_setup_teardown(every_allocation_may_fail, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
