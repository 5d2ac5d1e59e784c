/* Prompt cleaning against what the Python reference makes of the same prompts. */
#include "support.h"

#include <jansson.h>

#include "formats/tokenizer.h"

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

static void cleans_as_the_reference(void **state) {
    (void)state;
    json_t *cases = json_load_file(TEST_DATA "/text/clean.json", 0, NULL);
    size_t i;
    json_t *item;
    assert_true(json_array_size(cases) > 20);
    json_array_foreach(cases, i, item) {
        char *out;
        assert_ok(ctx, zoe_text_clean(ctx, json_string_value(json_object_get(item, "in")), &out));
        assert_string_equal(out, json_string_value(json_object_get(item, "out")));
        char *again;
        assert_ok(ctx, zoe_text_clean(ctx, out, &again));
        zoe_free(ctx, again);
        zoe_free(ctx, out);
    }
    json_decref(cases);
}

static void long_prompts(void **state) {
    (void)state;
    enum { COUNT = 20000 };
    char *text = malloc(6 * COUNT + 1), *out;
    assert_non_null(text);
    for (int i = 0; i < COUNT; i++) memcpy(text + 6 * i, "&lt; \n", 7);
    assert_ok(ctx, zoe_text_clean(ctx, text, &out));
    assert_int_equal(strlen(out), 2 * COUNT - 1);
    assert_memory_equal(out, "< < <", 5);
    zoe_free(ctx, out);
    free(text);
}

static void invalid_utf8_is_told(void **state) {
    (void)state;
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"ab\xff", "byte 0xff at position 2"},           {"\xc3", "byte 0xc3 at position 0"},
        {"a\xc0\xaf", "byte 0xc0 at position 1"},        {"\xed\xa0\x80", "byte 0xed at position 0"},
        {"\xf4\x90\x80\x80", "byte 0xf4 at position 0"}, {"x\x80", "byte 0x80 at position 1"},
        {"\xe2\x82", "byte 0xe2 at position 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *out = (char *)&memory;
        assert_fails(ctx, zoe_text_check_utf8(ctx, cases[i].text, "the negative prompt"), ZOE_ERR_ARGUMENT, cases[i].part);
        assert_non_null(strstr(zoe_context_error(ctx), "the negative prompt is not valid UTF-8"));
        assert_fails(ctx, zoe_text_clean(ctx, cases[i].text, &out), ZOE_ERR_ARGUMENT, cases[i].part);
        assert_null(out);
    }
    assert_ok(ctx, zoe_text_check_utf8(ctx, "\xf0\x9f\x8e\x89 \xef\xbf\xbd \xf4\x8f\xbf\xbf", "text"));
}

static int clean_one(zoe_context *context, void *text) {
    char *out;
    ZOE_TRY(zoe_text_clean(context, text, &out));
    zoe_free(context, out);
    return ZOE_OK;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    char text[2000];
    memset(text, 'x', sizeof text);
    memcpy(text, "&amp;hellip; ", 13);
    memcpy(text + 900, "\nline", 5);
    text[sizeof text - 1] = 0;
    test_every_allocation(clean_one, text);
    test_every_allocation(clean_one, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(cleans_as_the_reference, setup, teardown),
        cmocka_unit_test_setup_teardown(long_prompts, setup, teardown),
        cmocka_unit_test_setup_teardown(invalid_utf8_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(every_allocation_may_fail, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
