/* The table of settings: every row is sound, every value reads back, and bad values are told apart from good ones. */
#include "support.h"

#include <locale.h>
#include <math.h>

#include "pipeline/options.h"

typedef struct settings {
    zoe_model_settings model;
    zoe_request request;
} settings;

static const zoe_option *find(const char *name) {
    size_t count;
    const zoe_option *rows = zoe_options(&count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(rows[i].name, name) == 0) return &rows[i];
    fail_msg("no option \"%s\"", name);
    return NULL;
}

static void *target(const zoe_option *option, settings *s) {
    return option->scope == ZOE_SCOPE_MODEL ? (void *)&s->model : (void *)&s->request;
}

static int set(zoe_context *ctx, settings *s, const char *name, const char *text) {
    const zoe_option *option = find(name);
    return zoe_option_set(ctx, option, target(option, s), text);
}

static size_t field_size(zoe_option_type type) {
    switch (type) {
    case ZOE_OPTION_INT:
        return sizeof(int32_t);
    case ZOE_OPTION_SIZE:
        return 2 * sizeof(int32_t);
    case ZOE_OPTION_SEED:
        return sizeof(uint64_t);
    case ZOE_OPTION_REAL:
        return sizeof(double);
    case ZOE_OPTION_BYTES:
        return sizeof(int64_t);
    default:
        return sizeof(char *);
    }
}

/* Every byte of both structs belongs to one row at most, and to one row unless it is padding or a callback. */
static void test_rows_cover_the_structs(void **state) {
    (void)state;
    unsigned char used[2][sizeof(zoe_request)] = {{0}};
    size_t count;
    const zoe_option *rows = zoe_options(&count);
    for (size_t i = 0; i < count; i++) {
        assert_non_null(rows[i].meta);
        assert_true(strlen(rows[i].help) > 10 && rows[i].help[strlen(rows[i].help) - 1] == '.');
        assert_true(strstr(rows[i].help, "default: ") || strstr(rows[i].help, "required"));
        assert_int_equal(rows[i].type == ZOE_OPTION_CHOICE, rows[i].choices != NULL);
        for (size_t j = 0; j < i; j++) assert_string_not_equal(rows[i].name, rows[j].name);
        for (size_t byte = 0; byte < field_size(rows[i].type); byte++)
            assert_int_equal(used[rows[i].scope][rows[i].offset + byte]++, 0);
    }
    size_t model = 0, request = 0;
    for (size_t byte = 0; byte < sizeof(zoe_request); byte++) {
        model += used[ZOE_SCOPE_MODEL][byte];
        request += used[ZOE_SCOPE_REQUEST][byte];
    }
    assert_int_equal(model, offsetof(zoe_model_settings, plan_only));
    assert_in_range(request, offsetof(zoe_request, user) - 8, offsetof(zoe_request, user)); /* less padding */
}

static void test_good_values(void **state) {
    (void)state;
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    settings s = {0};
    assert_ok(ctx, set(ctx, &s, "prompt", "Ein Fuchs läuft 🦊"));
    assert_string_equal(s.request.prompt, "Ein Fuchs läuft 🦊");
    assert_ok(ctx, set(ctx, &s, "size", "832x480"));
    assert_int_equal(s.request.width, 832);
    assert_int_equal(s.request.height, 480);
    assert_ok(ctx, set(ctx, &s, "frames", "81"));
    assert_int_equal(s.request.frames, 81);
    assert_ok(ctx, set(ctx, &s, "fps", "23.976"));
    assert_true(s.request.fps == 23.976);
    assert_ok(ctx, set(ctx, &s, "guidance-2", "-1"));
    assert_true(s.request.guidance_2 == -1);
    assert_ok(ctx, set(ctx, &s, "flow-shift", "1e1"));
    assert_true(s.request.flow_shift == 10);
    assert_ok(ctx, set(ctx, &s, "sampler", "euler"));
    assert_string_equal(s.request.sampler, "euler");
    assert_ok(ctx, set(ctx, &s, "seed", "18446744073709551615"));
    assert_true(s.request.seed == UINT64_MAX);
    assert_ok(ctx, set(ctx, &s, "dtype", "bf16"));
    assert_string_equal(s.model.dtype, "bf16");
    assert_ok(ctx, set(ctx, &s, "linear", "nvfp4"));
    assert_string_equal(s.model.linear, "nvfp4");

    static const struct {
        const char *text;
        int64_t bytes;
    } sizes[] = {{"8G", INT64_C(8) << 30},     {"512M", 512 << 20},         {"1.5g", INT64_C(3) << 29},
                 {"2TiB", INT64_C(2) << 40},   {"2048K", 2 << 20},          {"1048576", 1 << 20},
                 {"0.5GiB", INT64_C(1) << 29}, {"1024T", INT64_C(1) << 50}, {"2e9", 2000000000}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_ok(ctx, set(ctx, &s, "vram", sizes[i].text));
        if (s.model.vram != sizes[i].bytes) fail_msg("%s: %lld", sizes[i].text, (long long)s.model.vram);
    }
    test_context_free(&memory, ctx);
}

/* The message names option and value, and says what was expected; the field stays as it was. */
static void test_bad_values(void **state) {
    (void)state;
    static const struct {
        const char *name, *text, *expected;
    } cases[] = {
        {"size", "832", "such as 832x480"},
        {"size", "832x", "such as 832x480"},
        {"size", "x480", "such as 832x480"},
        {"size", "832*480", "such as 832x480"},
        {"size", "-832x480", "such as 832x480"},
        {"size", "832x480x", "such as 832x480"},
        {"size", "832 x480", "such as 832x480"},
        {"size", "0x480", "from 1 to 16384"},
        {"size", "4294967297x480", "from 1 to 16384"},
        {"size", "99999999999999999999x480", "from 1 to 16384"},
        {"frames", "", "whole number"},
        {"frames", "0", "from 1 to 100000"},
        {"frames", "-5", "whole number"},
        {"frames", "17.0", "whole number"},
        {"frames", "17 ", "whole number"},
        {"frames", " 17", "whole number"},
        {"frames", "0x11", "whole number"},
        {"frames", "4294967313", "from 1 to 100000"},
        {"frames", "18446744073709551633", "from 1 to 100000"},
        {"steps", "1001", "from 1 to 1000"},
        {"seed", "-1", "18446744073709551615"},
        {"seed", "18446744073709551616", "18446744073709551615"},
        {"seed", "1e3", "whole number"},
        {"linear", "int", "native|int8|fp8|int4|nvfp4"},
        {"guidance", "nan", "a number"},
        {"guidance", "inf", "a number"},
        {"guidance", "1e999", "a number"},
        {"guidance", "-1", "from 0 to 1000"},
        {"guidance", "5,5", "a number"},
        {"guidance", "0x5", "a number"},
        {"guidance", "", "a number"},
        {"guidance", "5x", "a number"},
        {"fps", "0", "from 0.1"},
        {"sampler", "Euler", "unipc|euler|stochastic|ddim|dpm"},
        {"sampler", "eul", "unipc|euler|stochastic|ddim|dpm"},
        {"sampler", "unipc|euler|stochastic|ddim|dpm", "unipc|euler"},
        {"sampler", "", "unipc|euler|stochastic|ddim|dpm"},
        {"dtype", "f16", "f32|bf16"},
        {"vram", "8GB", "such as 8G"},
        {"vram", "8 G", "such as 8G"},
        {"vram", "G", "such as 8G"},
        {"vram", "-8G", "such as 8G"},
        {"vram", "0", "from 1M"},
        {"vram", "1023K", "from 1M"},
        {"vram", "9999999T", "to 1024T"},
        {"vram", "8Gi", "such as 8G"},
        {"ram", "infG", "such as 8G"},
        {"image", "", "a path"},
        {"prompt", "caf\xe9", ""},
        {"prompt", "\xed\xa0\x80", ""},
    };
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        settings s, before;
        memset(&s, 0x5a, sizeof s);
        before = s;
        if (set(ctx, &s, cases[i].name, cases[i].text) != ZOE_ERR_ARGUMENT)
            fail_msg("%s \"%s\" was taken", cases[i].name, cases[i].text);
        assert_memory_equal(&s, &before, sizeof s);
        const char *error = zoe_context_error(ctx);
        if (strncmp(error, cases[i].name, strlen(cases[i].name)) != 0 || !strstr(error, cases[i].expected) ||
            (*cases[i].expected && !strstr(error, cases[i].text)))
            fail_msg("%s \"%s\": %s", cases[i].name, cases[i].text, error);
    }
    test_context_free(&memory, ctx);
}

/* A decimal comma in the program's locale changes nothing. */
static void test_locale(void **state) {
    (void)state;
    if (!setlocale(LC_ALL, "de_DE.UTF-8")) skip();
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    settings s = {0};
    char *text;
    assert_ok(ctx, set(ctx, &s, "guidance", "7.5"));
    assert_true(s.request.guidance == 7.5);
    assert_int_equal(set(ctx, &s, "guidance", "7,5"), ZOE_ERR_ARGUMENT);
    assert_ok(ctx, zoe_option_get(ctx, find("guidance"), &s.request, &text));
    assert_string_equal(text, "7.5");
    zoe_string_free(ctx, text);
    test_context_free(&memory, ctx);
    setlocale(LC_ALL, "C");
}

static void fill(zoe_context *ctx, settings *s) {
    static const char *const values[][2] = {
        {"prompt", "\"A fox\"\n in snow"},
        {"negative", ""},
        {"image", "a b.png"},
        {"last-image", "c.png"},
        {"condition", "a.png@0\nb.mp4@8:0.5"},
        {"condition-noise", "0.15"},
        {"size", "832x480"},
        {"frames", "17"},
        {"fps", "29.97"},
        {"steps", "20"},
        {"guidance", "0.1"},
        {"guidance-2", "-0.3"},
        {"flow-shift", "3"},
        {"sampler", "unipc"},
        {"timesteps", "1000,725"},
        {"upsampler", "u.safetensors"},
        {"refine-steps", "10"},
        {"refine-strength", "0.4"},
        {"adain", "0.5"},
        {"tone-map", "0.6"},
        {"seed", "18446744073709551615"},
        {"vae-tiling", "exact"},
        {"device", "cuda:1"},
        {"dtype", "bf16"},
        {"linear", "int8"},
        {"vram", "1.5G"},
        {"ram", "1073741825"},
        {"offload", "block"},
        {"text-encoder", "t5"},
        {"attention", "sage"},
        {"init-latents", "x:y"},
        {"dump", "d.safetensors"},
        {"output", "o.mp4"},
    };
    size_t count;
    zoe_options(&count);
    assert_int_equal(sizeof values / sizeof values[0], count);
    for (size_t i = 0; i < count; i++) assert_ok(ctx, set(ctx, s, values[i][0], values[i][1]));
}

static void test_values_read_back(void **state) {
    (void)state;
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    settings s = {0}, back = {0};
    fill(ctx, &s);
    s.request.guidance = 0.1 + 0.2; /* needs all 17 digits */
    char *texts[64];
    size_t count;
    const zoe_option *rows = zoe_options(&count);
    for (size_t i = 0; i < count; i++) {
        assert_ok(ctx, zoe_option_get(ctx, &rows[i], target(&rows[i], &s), &texts[i]));
        assert_ok(ctx, zoe_option_set(ctx, &rows[i], target(&rows[i], &back), texts[i]));
    }
    for (size_t i = 0; i < count; i++) {
        const char *a = (const char *)target(&rows[i], &s) + rows[i].offset;
        const char *b = (const char *)target(&rows[i], &back) + rows[i].offset;
        if (field_size(rows[i].type) == sizeof(char *) &&
            (rows[i].type == ZOE_OPTION_TEXT || rows[i].type == ZOE_OPTION_PATH || rows[i].type == ZOE_OPTION_CHOICE))
            assert_string_equal(*(char *const *)(const void *)a, *(char *const *)(const void *)b);
        else
            assert_memory_equal(a, b, field_size(rows[i].type));
    }
    for (size_t i = 0; i < count; i++) zoe_string_free(ctx, texts[i]);
    test_context_free(&memory, ctx);
}

/* What is not set is left out; what a repetition chooses anew as well. */
static void test_request_json(void **state) {
    (void)state;
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    settings s = {0};
    json_t *json;
    zoe_model_settings_init(&s.model);
    s.request.prompt = "A fox";
    assert_ok(ctx, zoe_request_json(ctx, "models/wan", &s.model, &s.request, &json));
    assert_string_equal(json_string_value(json_object_get(json, "prompt")), "A fox");
    assert_string_equal(json_string_value(json_object_get(json, "device")), "auto");
    assert_string_equal(json_string_value(json_object_get(json, "seed")), "0");
    assert_null(json_object_get(json, "image"));
    assert_null(json_object_get(json, "vram"));
    json_decref(json);

    fill(ctx, &s);
    assert_ok(ctx, zoe_request_json(ctx, "models/wan", &s.model, &s.request, &json));
    size_t count;
    zoe_options(&count);
    assert_int_equal(json_object_size(json), count);
    assert_string_equal(json_string_value(json_object_get(json, "model")), "models/wan");
    assert_string_equal(json_string_value(json_object_get(json, "version")), zoe_version());
    assert_null(json_object_get(json, "output"));
    assert_null(json_object_get(json, "dump"));
    assert_string_equal(json_string_value(json_object_get(json, "fps")), "29.97");
    json_decref(json);

    s.request.image = "caf\xe9.png"; /* a path may be any bytes, JSON not */
    assert_ok(ctx, zoe_request_json(ctx, "models/wan", &s.model, &s.request, &json));
    assert_null(json_object_get(json, "image"));
    assert_non_null(strstr(memory.log, "image"));
    json_decref(json);
    test_context_free(&memory, ctx);
}

static int make_json(zoe_context *ctx, void *user) {
    settings *s = user;
    json_t *json;
    int status = zoe_request_json(ctx, "models/wan", &s->model, &s->request, &json);
    json_decref(json);
    return status;
}

static void test_allocations(void **state) {
    (void)state;
    settings s = {0};
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    fill(ctx, &s);
    test_context_free(&memory, ctx);
    test_every_allocation(make_json, &s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_cover_the_structs),
        cmocka_unit_test(test_good_values),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_locale),
        cmocka_unit_test(test_values_read_back),
        cmocka_unit_test(test_request_json),
        cmocka_unit_test(test_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
