/* Pictures in: each kind as Pillow reads it, resizing to the same bytes as Pillow's, and files that are no pictures. */
#include "support.h"

#include "formats/checkpoint.h"
#include "media/media.h"

#define FILES TEST_DATA "/pictures/"

static test_memory memory;
static zoe_context *ctx;
static zoe_checkpoint *expected; /* uint8 [height, width, 3] by file name */

static int setup(void **state) {
    (void)state;
    ctx = test_context(&memory);
    assert_ok(ctx, zoe_checkpoint_open(ctx, FILES "expected.safetensors", &expected));
    return 0;
}

static int teardown(void **state) {
    (void)state;
    zoe_checkpoint_close(expected);
    test_context_free(&memory, ctx);
    return 0;
}

/* Compares with the expectation of this name: no value further off than `worst`, and `mean` on average. */
static void check(const zoe_picture *picture, const char *name, int worst, double mean) {
    const zoe_entry *entry = zoe_checkpoint_find(expected, name);
    if (!entry) fail_msg("no expectation for %s", name);
    if (picture->height != entry->shape[0] || picture->width != entry->shape[1])
        fail_msg("%s: %dx%d, expected %dx%d", name, picture->width, picture->height, (int)entry->shape[1],
                 (int)entry->shape[0]);
    const uint8_t *data = entry->data;
    double sum = 0;
    int largest = 0;
    for (size_t i = 0; i < entry->bytes; i++) {
        int error = abs(picture->rgb[i] - data[i]);
        sum += error;
        if (error > largest) largest = error;
    }
    if (largest > worst || sum > mean * (double)entry->bytes)
        fail_msg("%s: differs by %d at most, %.4f on average; allowed are %d and %.4f", name, largest,
                 sum / (double)entry->bytes, worst, mean);
}

static void check_file(const char *name, int worst, double mean) {
    char path[256];
    zoe_picture picture;
    snprintf(path, sizeof path, "%s%s", FILES, name);
    assert_ok(ctx, zoe_picture_load(ctx, path, &picture));
    check(&picture, name, worst, mean);
    zoe_picture_free(ctx, &picture);
}

static void lossless_files(void **state) {
    (void)state;
    static const char *const names[] = {
        "rgb.png",   "rgba.png",  "grey_alpha.png", "grey.png",      "palette.png",      "palette2.png",
        "bits.png",  "rgb16.png", "rgba16.png",     "grey16.png",    "grey_alpha16.png", "palette_transparent.png",
        "plain.gif", "plain.bmp", "plain.ppm",      "lossless.webp", "alpha.webp",       "lzw.tif",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_file(names[i], 0, 0);
    assert_string_equal(memory.log, "");
}

static void jpeg_files(void **state) {
    (void)state;
    /* One step of the transform's rounding is up to two in blue. */
    static const char *const names[] = {"sampling0.jpg",   "sampling1.jpg", "sampling2.jpg",
                                        "progressive.jpg", "narrow.jpg",    "one.jpg"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_file(names[i], 3, 0.06);
    check_file("extra.jpg", 3, 0.06); /* with a second picture behind it, as telephones write */
    assert_string_equal(memory.log, "");
    check_file("grey.jpg", 1, 0.03);
    check_file("cmyk.jpg", 2, 1.1); /* FFmpeg cuts the product with black off, Pillow rounds it */
    check_file("lossy.webp", 4, 0.2);
}

static void orientations(void **state) {
    (void)state;
    char name[32];
    for (int i = 1; i <= 8; i++) {
        snprintf(name, sizeof name, "turned%d.jpg", i);
        check_file(name, 3, 0.06);
    }
    check_file("turned.png", 0, 0);
    check_file("turned.webp", 0, 0);
    check_file("turned.tif", 0, 0);
}

static void animations(void **state) {
    (void)state;
    check_file("animated.gif", 0, 0);
    assert_non_null(strstr(memory.log, "animated.gif is an animation: its first frame is used"));
    memory.log[0] = 0;
    check_file("animated.png", 0, 0);
    assert_non_null(strstr(memory.log, "animated.png is an animation"));
}

static void resizes_as_pillow(void **state) {
    (void)state;
    int checked = 0;
    for (size_t i = 0; i < zoe_checkpoint_count(expected); i++) {
        const zoe_entry *entry = zoe_checkpoint_at(expected, i);
        char filter[16], file[32], path[256];
        int width, height;
        zoe_picture in, out;
        if (sscanf(entry->name, "%15s %31s %dx%d", filter, file, &width, &height) != 4) continue;
        snprintf(path, sizeof path, "%s%s", FILES, file);
        assert_ok(ctx, zoe_picture_load(ctx, path, &in));
        zoe_filter kind = strcmp(filter, "bicubic") == 0 ? ZOE_FILTER_BICUBIC : ZOE_FILTER_LANCZOS;
        assert_ok(ctx, zoe_picture_resize(ctx, &in, width, height, kind, &out));
        check(&out, entry->name, 0, 0);
        zoe_picture_free(ctx, &in);
        zoe_picture_free(ctx, &out);
        checked++;
    }
    assert_int_equal(checked, 20);
}

static void refuses_sizes(void **state) {
    (void)state;
    zoe_picture in, out;
    assert_ok(ctx, zoe_picture_load(ctx, FILES "rgb.png", &in));
    assert_fails(ctx, zoe_picture_resize(ctx, &in, 0, 5, ZOE_FILTER_BICUBIC, &out), ZOE_ERR_ARGUMENT, "0x5");
    assert_fails(ctx, zoe_picture_resize(ctx, &in, 5, 99999, ZOE_FILTER_BICUBIC, &out), ZOE_ERR_ARGUMENT, "5x99999");
    zoe_picture_free(ctx, &in);
}

static void what_is_no_picture(void **state) {
    (void)state;
    char folder[64], path[128];
    zoe_picture picture;
    test_folder_create(folder);
    snprintf(path, sizeof path, "%s/x.png", folder);
    test_write(path, "this is a text", 14);
    assert_fails(ctx, zoe_picture_load(ctx, path, &picture), ZOE_ERR_FORMAT, "is not a picture that FFmpeg can read");
    assert_null(picture.rgb);
    test_write(path, "", 0);
    assert_fails(ctx, zoe_picture_load(ctx, path, &picture), ZOE_ERR_FORMAT, "is not a picture");
    size_t size;
    char *data = test_read(FILES "rgb.png", &size);
    test_write(path, data, 40);
    assert_fails(ctx, zoe_picture_load(ctx, path, &picture), ZOE_ERR_FORMAT, path);
    free(data);
    assert_fails(ctx, zoe_picture_load(ctx, FILES "cut.jpg", &picture), ZOE_ERR_FORMAT, "cut.jpg cannot be decoded");
    assert_null(picture.rgb);
    /* A list of other files opens none of them. */
    const char list[] = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n" FILES "rgb.png\n#EXT-X-ENDLIST\n";
    test_write(path, list, sizeof list - 1);
    assert_fails(ctx, zoe_picture_load(ctx, path, &picture), ZOE_ERR_FORMAT, path);
    assert_fails(ctx, zoe_picture_load(ctx, folder, &picture), ZOE_ERR_IO, "it is a folder, not a picture");
    test_folder_remove(folder);
    assert_fails(ctx, zoe_picture_load(ctx, path, &picture), ZOE_ERR_IO, "No such file");
}

/* ---- memory ---- */

static int load_one(zoe_context *context, void *path) {
    zoe_picture picture, small;
    ZOE_TRY(zoe_picture_load(context, path, &picture));
    int status = zoe_picture_resize(context, &picture, 7, 5, ZOE_FILTER_LANCZOS, &small);
    zoe_picture_free(context, &picture);
    if (status >= 0) zoe_picture_free(context, &small);
    return status;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    test_every_allocation(load_one, FILES "turned6.jpg");
    test_every_allocation(load_one, FILES "rgba.png");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lossless_files, setup, teardown),
        cmocka_unit_test_setup_teardown(jpeg_files, setup, teardown),
        cmocka_unit_test_setup_teardown(orientations, setup, teardown),
        cmocka_unit_test_setup_teardown(animations, setup, teardown),
        cmocka_unit_test_setup_teardown(resizes_as_pillow, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_picture, setup, teardown),
        cmocka_unit_test_setup_teardown(every_allocation_may_fail, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
