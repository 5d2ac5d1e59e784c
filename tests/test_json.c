/* Configuration getters: defaults stay, and wrong values are told with file, key, expectation and what was there. */
#include "support.h"

#include "formats/json.h"

static test_memory memory;
static zoe_context *ctx;
static char folder[64];
static char path[128];
static zoe_config config;

static const char text[] = "{\"layers\": 30, \"whole\": 2.0, \"half\": 2.5, \"eps\": 1e-06, \"none\": null, \"flag\": true,"
                           " \"name\": \"umt5\", \"patch\": [1, 2, 2], \"flags\": [false, true], \"means\": [0.5, 1, true],"
                           " \"mixed\": [1, \"x\"], \"object\": {\"a\": 1}}";

static int setup(void **state) {
    (void)state;
    ctx = test_context(&memory);
    test_folder_create(folder);
    snprintf(path, sizeof path, "%s/config.json", folder);
    test_write(path, text, strlen(text));
    assert_ok(ctx, zoe_config_load(ctx, path, &config));
    return 0;
}

static int teardown(void **state) {
    (void)state;
    zoe_config_free(&config);
    zoe_config_free(&config); /* a zeroed one is fine */
    test_folder_remove(folder);
    test_context_free(&memory, ctx);
    return 0;
}

static void reads_values(void **state) {
    (void)state;
    int64_t whole = -1, patch[3] = {0}, flags[2] = {7, 7};
    double real = -1, means[3] = {0};
    bool flag = false;
    const char *name = "default";
    assert_ok(ctx, zoe_config_int(&config, "layers", 1, 100, &whole));
    assert_int_equal(whole, 30);
    assert_ok(ctx, zoe_config_int(&config, "whole", 1, 100, &whole));
    assert_int_equal(whole, 2);
    assert_ok(ctx, zoe_config_real(&config, "eps", &real));
    assert_true(real == 1e-6);
    assert_ok(ctx, zoe_config_real(&config, "layers", &real));
    assert_true(real == 30);
    assert_ok(ctx, zoe_config_bool(&config, "flag", &flag));
    assert_true(flag);
    assert_ok(ctx, zoe_config_text(&config, "name", &name));
    assert_string_equal(name, "umt5");
    assert_ok(ctx, zoe_config_ints(&config, "patch", 3, 1, 8, patch));
    assert_true(patch[0] == 1 && patch[1] == 2 && patch[2] == 2);
    assert_ok(ctx, zoe_config_ints(&config, "flags", 2, 0, 1, flags));
    assert_true(flags[0] == 0 && flags[1] == 1);
    assert_ok(ctx, zoe_config_reals(&config, "means", 3, means));
    assert_true(means[0] == 0.5 && means[1] == 1 && means[2] == 1);
    assert_int_equal(zoe_config_length(&config, "patch"), 3);
    assert_int_equal(zoe_config_length(&config, "absent"), 0);
    assert_int_equal(zoe_config_length(&config, "name"), 0);
    assert_true(zoe_config_has(&config, "layers"));
    assert_false(zoe_config_has(&config, "none"));
    assert_false(zoe_config_has(&config, "absent"));
}

static void absent_keeps_defaults(void **state) {
    (void)state;
    static const char *const keys[] = {"absent", "none"};
    for (int i = 0; i < 2; i++) {
        int64_t whole = 5, whole2[2] = {6, 7};
        double real = 8;
        bool flag = true;
        const char *name = "default";
        assert_ok(ctx, zoe_config_int(&config, keys[i], 0, 1, &whole));
        assert_ok(ctx, zoe_config_ints(&config, keys[i], 2, 0, 1, whole2));
        assert_ok(ctx, zoe_config_real(&config, keys[i], &real));
        assert_ok(ctx, zoe_config_reals(&config, keys[i], 1, &real));
        assert_ok(ctx, zoe_config_bool(&config, keys[i], &flag));
        assert_ok(ctx, zoe_config_text(&config, keys[i], &name));
        assert_true(whole == 5 && whole2[0] == 6 && whole2[1] == 7 && real == 8 && flag);
        assert_string_equal(name, "default");
    }
}

static void wrong_values(void **state) {
    (void)state;
    int64_t whole = 5, three[3] = {1, 2, 3};
    double real = 5, reals[3];
    bool flag = true;
    const char *name = "default";
    assert_fails(ctx, zoe_config_int(&config, "name", 0, 9, &whole), ZOE_ERR_FORMAT,
                 "config.json: \"name\": expected a whole number from 0 to 9, found \"umt5\"");
    assert_fails(ctx, zoe_config_int(&config, "layers", 0, 9, &whole), ZOE_ERR_FORMAT, "from 0 to 9, found 30");
    assert_fails(ctx, zoe_config_int(&config, "layers", 31, INT64_MAX, &whole), ZOE_ERR_FORMAT, "of at least 31, found 30");
    assert_fails(ctx, zoe_config_int(&config, "half", 0, 9, &whole), ZOE_ERR_FORMAT, "found 2.5");
    assert_fails(ctx, zoe_config_int(&config, "flag", 0, 9, &whole), ZOE_ERR_FORMAT, "found true");
    assert_fails(ctx, zoe_config_real(&config, "flag", &real), ZOE_ERR_FORMAT, "expected a number, found true");
    assert_fails(ctx, zoe_config_bool(&config, "layers", &flag), ZOE_ERR_FORMAT, "expected true or false, found 30");
    assert_fails(ctx, zoe_config_text(&config, "patch", &name), ZOE_ERR_FORMAT, "expected a string, found [1,2,2]");
    assert_fails(ctx, zoe_config_ints(&config, "patch", 2, 0, 9, three), ZOE_ERR_FORMAT, "an array of 2 whole numbers");
    assert_fails(ctx, zoe_config_ints(&config, "patch", 3, 2, 9, three), ZOE_ERR_FORMAT, "from 2 to 9, found [1,2,2]");
    assert_fails(ctx, zoe_config_ints(&config, "layers", 1, 0, 99, three), ZOE_ERR_FORMAT, "found 30");
    assert_fails(ctx, zoe_config_reals(&config, "mixed", 2, reals), ZOE_ERR_FORMAT, "found [1,\"x\"]");
    assert_true(whole == 5 && real == 5 && flag && three[0] == 1 && three[1] == 2 && three[2] == 3);
    assert_string_equal(name, "default");
}

static void bad_files(void **state) {
    (void)state;
    zoe_config bad;
    char bad_path[128];
    snprintf(bad_path, sizeof bad_path, "%s/bad.json", folder);
    test_write(bad_path, "{\n\"a\": }", 8);
    assert_fails(ctx, zoe_config_load(ctx, bad_path, &bad), ZOE_ERR_FORMAT, "line 2");
    assert_null(bad.root);
    test_write(bad_path, "[1]", 3);
    assert_fails(ctx, zoe_config_load(ctx, bad_path, &bad), ZOE_ERR_FORMAT, "expected a JSON object");
    assert_null(bad.root);
    test_write(bad_path, "{\"a\":1,\"a\":2}", 13);
    assert_fails(ctx, zoe_config_load(ctx, bad_path, &bad), ZOE_ERR_FORMAT, "duplicate");
    test_write(bad_path, "", 0);
    assert_fails(ctx, zoe_config_load(ctx, bad_path, &bad), ZOE_ERR_FORMAT, "not valid JSON");
    assert_int_equal(truncate(bad_path, (64 << 20) + 1), 0);
    assert_fails(ctx, zoe_config_load(ctx, bad_path, &bad), ZOE_ERR_FORMAT, "is not a configuration");
    assert_fails(ctx, zoe_config_load(ctx, folder, &bad), ZOE_ERR_IO, folder);
    assert_fails(ctx, zoe_config_load(ctx, "/nonexistent", &bad), ZOE_ERR_IO, "No such file");
}

static void long_values_are_cut(void **state) {
    (void)state;
    json_t *array = json_array();
    int64_t one;
    for (int i = 0; i < 100; i++) json_array_append_new(array, json_integer(i));
    json_object_set_new(config.root, "long", array);
    assert_fails(ctx, zoe_config_int(&config, "long", 0, 1, &one), ZOE_ERR_FORMAT, "found [0,1,2,");
    const char *error = zoe_context_error(ctx);
    assert_string_equal(error + strlen(error) - 3, "...");
}

static void writes_text(void **state) {
    (void)state;
    json_t *value = json_pack("{s:f, s:s}", "guidance", 0.1, "prompt", "\xe7\x8c\xab");
    char *line = zoe_json_text(ctx, value, false), *lines = zoe_json_text(ctx, value, true);
    assert_string_equal(line, "{\"guidance\":0.1,\"prompt\":\"\xe7\x8c\xab\"}");
    assert_non_null(strchr(lines, '\n'));
    zoe_free(ctx, line);
    zoe_free(ctx, lines);
    json_decref(value);
}

static int load_and_free(zoe_context *context, void *file) {
    zoe_config loaded;
    ZOE_TRY(zoe_config_load(context, file, &loaded));
    zoe_config_free(&loaded);
    return ZOE_OK;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    test_every_allocation(load_and_free, path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_values, setup, teardown),
        cmocka_unit_test_setup_teardown(absent_keeps_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_values, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_files, setup, teardown),
        cmocka_unit_test_setup_teardown(long_values_are_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_text, setup, teardown),
        cmocka_unit_test_setup_teardown(every_allocation_may_fail, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
