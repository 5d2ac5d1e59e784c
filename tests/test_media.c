/* Videos out: every kind of file, padding, metadata, interruptions, and what goes wrong. */
#include "support.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>

#include "media/media.h"

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

/* A smooth picture that moves: bright enough and coloured enough to tell a wrong conversion. */
static void draw(uint8_t *rgb, int width, int height, int frame) {
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            uint8_t *pixel = rgb + 3 * ((size_t)y * (size_t)width + (size_t)x);
            pixel[0] = (uint8_t)(40 + 160 * x / width);
            pixel[1] = (uint8_t)(200 - 150 * y / height);
            pixel[2] = (uint8_t)(60 + 8 * frame);
        }
}

static int write_frames(zoe_context *context, zoe_video_writer *writer, int width, int height, int count) {
    uint8_t *rgb = malloc((size_t)width * (size_t)height * 3);
    int status = ZOE_OK;
    (void)context;
    assert_non_null(rgb);
    for (int i = 0; i < count && status >= 0; i++) {
        draw(rgb, width, height, i);
        status = zoe_video_write(writer, rgb);
    }
    free(rgb);
    return status;
}

static const char metadata[] = "{\"prompt\":\"a \\\"red\\\" b\xc3\xa4ll; \xe7\x8c\xab = \xf0\x9f\x8e\x89\\n\",\"seed\":11}";

static void make(const char *path, int width, int height, double fps, int count) {
    zoe_video_writer *writer;
    const zoe_video_settings settings = {.width = width, .height = height, .fps = fps, .metadata = metadata};
    assert_ok(ctx, zoe_video_create(ctx, path, &settings, &writer));
    assert_ok(ctx, write_frames(ctx, writer, width, height, count));
    assert_ok(ctx, zoe_video_finish(writer));
}

/* The largest difference of the first frame to what was drawn, over the pixels that both have. */
static int first_frame_error(const char *path, int width, int height) {
    zoe_picture picture;
    uint8_t *rgb = malloc((size_t)width * (size_t)height * 3);
    int worst = 0;
    assert_non_null(rgb);
    assert_ok(ctx, zoe_picture_load(ctx, path, &picture));
    draw(rgb, width, height, 0);
    for (int y = 0; y < height; y++)
        for (int i = 0; i < 3 * width; i++) {
            int error =
                abs(picture.rgb[(size_t)y * (size_t)picture.width * 3 + (size_t)i] - rgb[(size_t)(y * width * 3 + i)]);
            if (error > worst) worst = error;
        }
    zoe_picture_free(ctx, &picture);
    free(rgb);
    return worst;
}

static void check(const char *path, const char *codec, int width, int height, double fps, int64_t count) {
    zoe_video_info info;
    assert_ok(ctx, zoe_video_probe(ctx, path, &info));
    assert_string_equal(info.codec, codec);
    assert_int_equal(info.width, width);
    assert_int_equal(info.height, height);
    assert_int_equal(info.frames, count);
    assert_true(fabs(info.fps - fps) < 0.01);
    assert_true(fabs(info.seconds - (double)count / fps) < 0.05);
}

static void check_metadata(const char *path, bool there) {
    char *json;
    assert_ok(ctx, zoe_video_metadata(ctx, path, &json));
    if (there)
        assert_string_equal(json, metadata);
    else
        assert_null(json);
    zoe_free(ctx, json);
}

/* ---- kinds of files ---- */

static void writes_mp4(void **state) {
    (void)state;
    const char *path = in_folder("out.mp4");
    make(path, 64, 48, 16, 21);
    assert_int_equal(test_folder_count(folder), 1);
    check(path, "h264", 64, 48, 16, 21);
    check_metadata(path, true);
    assert_in_range(first_frame_error(path, 64, 48), 0, 6);
    /* faststart: the index stands in front of the data */
    size_t size, moov = 0, mdat = 0;
    char *data = test_read(path, &size);
    for (size_t i = 0; i + 4 < size; i++) {
        if (!moov && memcmp(data + i, "moov", 4) == 0) moov = i;
        if (!mdat && memcmp(data + i, "mdat", 4) == 0) mdat = i;
    }
    assert_true(moov > 0 && moov < mdat);
    free(data);
}

static void mp4_pads_odd_sizes(void **state) {
    (void)state;
    const char *path = in_folder("out.mp4");
    make(path, 65, 49, 24, 3);
    check(path, "h264", 66, 50, 24, 3);
    assert_in_range(first_frame_error(path, 65, 49), 0, 6);
    zoe_picture picture;
    assert_ok(ctx, zoe_picture_load(ctx, path, &picture));
    const uint8_t *row = picture.rgb + (size_t)8 * 66 * 3; /* the last column is the one before it, not black */
    for (int c = 0; c < 3; c++) assert_in_range(abs(row[65 * 3 + c] - row[64 * 3 + c]), 0, 3);
    zoe_picture_free(ctx, &picture);
}

static void fractional_rates(void **state) {
    (void)state;
    const char *path = in_folder("out.mp4");
    static const double rates[] = {23.976, 29.97, 12.5, 0.5, 60, 16};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        zoe_video_info info;
        make(path, 16, 16, rates[i], 5);
        assert_ok(ctx, zoe_video_probe(ctx, path, &info));
        double exact = rates[i] == 23.976 ? 24000 / 1001.0 : rates[i] == 29.97 ? 30000 / 1001.0 : rates[i];
        assert_true(fabs(info.fps - exact) < 1e-6);
        assert_int_equal(info.frames, 5);
    }
}

static void writes_webm(void **state) {
    (void)state;
    const char *path = in_folder("out.webm");
    make(path, 63, 47, 16, 9);
    check(path, "vp9", 63, 47, 16, 9);
    check_metadata(path, true);
    assert_in_range(first_frame_error(path, 63, 47), 0, 10);
}

static void writes_gif(void **state) {
    (void)state;
    const char *path = in_folder("out.gif");
    make(path, 63, 47, 10, 9);
    check(path, "gif", 63, 47, 10, 9);
    check_metadata(path, true);
    assert_in_range(first_frame_error(path, 63, 47), 0, 40);
}

static void writes_numbered_pngs(void **state) {
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/f-%%03d.png", folder);
    make(path, 31, 17, 10, 3);
    assert_int_equal(test_folder_count(folder), 3);
    for (int i = 0; i < 3; i++) {
        zoe_picture picture;
        uint8_t expected[31 * 17 * 3];
        snprintf(path, sizeof path, "%s/f-%03d.png", folder, i);
        assert_ok(ctx, zoe_picture_load(ctx, path, &picture));
        draw(expected, 31, 17, i);
        assert_int_equal(picture.width, 31);
        assert_int_equal(picture.height, 17);
        assert_memory_equal(picture.rgb, expected, sizeof expected);
        zoe_picture_free(ctx, &picture);
    }
    char *json;
    assert_ok(ctx, zoe_video_metadata(ctx, path, &json));
    assert_string_equal(json, "{\"prompt\":\"a \\\"red\\\" b\\u00e4ll; \\u732b = \\ud83c\\udf89\\n\",\"seed\":11}");
    zoe_free(ctx, json);
}

static void writes_y4m(void **state) {
    (void)state;
    const char *path = in_folder("out.Y4M");
    make(path, 31, 17, 23.976, 2);
    size_t size;
    char *data = test_read(path, &size);
    const char *end = memchr(data, '\n', size);
    assert_memory_equal(data, "YUV4MPEG2 W31 H17 F24000:1001", 29);
    assert_non_null(strstr(data, "C444"));
    assert_int_equal(size, (size_t)(end + 1 - data) + 2 * (6 + 3 * 31 * 17));
    /* Every pixel by the definition of BT.709 in limited range. */
    uint8_t rgb[31 * 17 * 3];
    const uint8_t *planes = (const uint8_t *)end + 1 + 6;
    draw(rgb, 31, 17, 0);
    for (int i = 0; i < 31 * 17; i++) {
        double luma = (0.2126 * rgb[3 * i] + 0.7152 * rgb[3 * i + 1] + 0.0722 * rgb[3 * i + 2]) / 255;
        assert_true(fabs(planes[i] - (16 + 219 * luma)) <= 1);
        assert_true(fabs(planes[i + 31 * 17] - (128 + 224 * (rgb[3 * i + 2] / 255.0 - luma) / 1.8556)) <= 1);
        assert_true(fabs(planes[i + 2 * 31 * 17] - (128 + 224 * (rgb[3 * i] / 255.0 - luma) / 1.5748)) <= 1);
    }
    free(data);
}

/* ---- standard output ---- */

/* Runs with descriptor 1 replaced by `fd`. */
static int to_standard_output(int fd, int count) {
    zoe_video_writer *writer;
    const zoe_video_settings settings = {.width = 640, .height = 480, .fps = 16};
    fflush(stdout);
    int kept = dup(1);
    dup2(fd, 1);
    int status = zoe_video_create(ctx, "-", &settings, &writer);
    if (status >= 0) {
        status = write_frames(ctx, writer, 640, 480, count);
        int finished = zoe_video_finish(writer);
        if (status >= 0) status = finished;
    }
    dup2(kept, 1);
    close(kept);
    return status;
}

static void standard_output(void **state) {
    (void)state;
    const char *path = in_folder("out.y4m");
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_ok(ctx, to_standard_output(fd, 3));
    close(fd);
    check(path, "rawvideo", 640, 480, 16, 3);
}

static void closed_standard_output(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    signal(SIGPIPE, SIG_DFL); /* it would end the test */
    assert_fails(ctx, to_standard_output(ends[1], 30), ZOE_ERR_IO, "the reader has gone away");
    close(ends[1]);
    int full = open("/dev/full", O_WRONLY);
    if (full >= 0) {
        assert_fails(ctx, to_standard_output(full, 30), ZOE_ERR_IO, "No space left on device");
        close(full);
    }
}

/* ---- ends ---- */

static void abort_leaves_nothing(void **state) {
    (void)state;
    static const char *const names[] = {"out.mp4", "out.webm", "out.gif", "out.y4m", "f%d.png"};
    for (int i = 0; i < 5; i++)
        for (int count = 0; count < 12; count += 11) {
            zoe_video_writer *writer;
            const zoe_video_settings settings = {.width = 32, .height = 32, .fps = 16};
            assert_ok(ctx, zoe_video_create(ctx, in_folder(names[i]), &settings, &writer));
            assert_ok(ctx, write_frames(ctx, writer, 32, 32, count));
            zoe_error_text(ctx, "the reason");
            zoe_video_abort(writer);
            assert_string_equal(zoe_context_error(ctx), "the reason");
            assert_int_equal(test_folder_count(folder), 0);
        }
    zoe_video_abort(NULL);
}

static void nothing_written_leaves_nothing(void **state) {
    (void)state;
    zoe_video_writer *writer;
    const zoe_video_settings settings = {.width = 32, .height = 32, .fps = 16};
    assert_ok(ctx, zoe_video_create(ctx, in_folder("out.mp4"), &settings, &writer));
    assert_ok(ctx, zoe_video_finish(writer));
    assert_int_equal(test_folder_count(folder), 0);
}

static void earlier_file_stays_until_the_end(void **state) {
    (void)state;
    zoe_video_writer *writer;
    const zoe_video_settings settings = {.width = 32, .height = 32, .fps = 16};
    char path[128];
    snprintf(path, sizeof path, "%s/out.mp4", folder);
    test_write(path, "old", 3);
    assert_ok(ctx, zoe_video_create(ctx, path, &settings, &writer));
    assert_ok(ctx, write_frames(ctx, writer, 32, 32, 5));
    zoe_video_abort(writer);
    char *data = test_read(path, NULL);
    assert_string_equal(data, "old");
    free(data);
    make(path, 32, 32, 16, 1);
    check(path, "h264", 32, 32, 16, 1);
}

static void refusals(void **state) {
    (void)state;
    zoe_video_writer *writer = (zoe_video_writer *)&memory;
    zoe_video_settings settings = {.width = 32, .height = 32, .fps = 16};
    assert_fails(ctx, zoe_video_create(ctx, in_folder("out.avi"), &settings, &writer), ZOE_ERR_ARGUMENT, "use one of .mp4");
    assert_null(writer);
    assert_fails(ctx, zoe_video_create(ctx, in_folder("mp4"), &settings, &writer), ZOE_ERR_ARGUMENT, "use one of .mp4");
    assert_fails(ctx, zoe_video_create(ctx, "/nonexistent/out.mp4", &settings, &writer), ZOE_ERR_IO, "No such file");
    assert_fails(ctx, zoe_video_create(ctx, "/nonexistent/%d.png", &settings, &writer), ZOE_ERR_IO, "No such file");
    assert_fails(ctx, zoe_video_create(ctx, "/proc/out.mp4", &settings, &writer), ZOE_ERR_IO, "cannot write /proc/out.mp4");
    static const char *const patterns[] = {"x.png", "%s.png", "%d-%d.png", "%05x.png", "%%d.png", "%123d.png"};
    for (int i = 0; i < 6; i++)
        assert_fails(ctx, zoe_video_create(ctx, in_folder(patterns[i]), &settings, &writer), ZOE_ERR_ARGUMENT, "%05d.png");
    settings.fps = NAN;
    assert_fails(ctx, zoe_video_create(ctx, in_folder("out.mp4"), &settings, &writer), ZOE_ERR_ARGUMENT, "frames a second");
    settings.fps = 16;
    settings.width = 0;
    assert_fails(ctx, zoe_video_create(ctx, in_folder("out.mp4"), &settings, &writer), ZOE_ERR_ARGUMENT, "0x32 pixels");
    assert_int_equal(test_folder_count(folder), 0);
}

static void full_disk_is_reported(void **state) {
    (void)state;
    static const char *const names[] = {"out.y4m", "out.mp4", "f%d.png"};
    struct rlimit old, small;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 300; /* stands in for a full disk */
    for (int i = 0; i < 3; i++) {
        zoe_video_writer *writer;
        const zoe_video_settings settings = {.width = 320, .height = 256, .fps = 16, .metadata = metadata};
        setrlimit(RLIMIT_FSIZE, &small);
        int status = zoe_video_create(ctx, in_folder(names[i]), &settings, &writer);
        int written = status < 0 ? status : write_frames(ctx, writer, 320, 256, 20);
        int finished = status < 0 ? status : zoe_video_finish(writer);
        setrlimit(RLIMIT_FSIZE, &old);
        assert_true(written < 0 || finished < 0);
        assert_int_equal(finished, ZOE_ERR_IO);
        assert_non_null(strstr(zoe_context_error(ctx), "File too large"));
        assert_int_equal(test_folder_count(folder), 0);
    }
}

/* Frames of a clip: how many, all of this size and each a little bluer than the one before. */
static void check_clip(const char *path, int width, int height, int count) {
    zoe_clip *clip;
    zoe_picture picture;
    double before = 0;
    int found = 0;
    assert_ok(ctx, zoe_clip_open(ctx, path, &clip));
    for (;; found++) {
        double blue = 0;
        assert_ok(ctx, zoe_clip_next(clip, &picture));
        if (!picture.rgb) break;
        assert_int_equal(picture.width, width);
        assert_int_equal(picture.height, height);
        for (int i = 0; i < width * height; i++) blue += picture.rgb[3 * i + 2];
        blue /= width * height;
        assert_true(blue > before + 3 && fabs(blue - 60 - 8 * found) < 4);
        before = blue;
        zoe_picture_free(ctx, &picture);
    }
    assert_int_equal(found, count);
    assert_ok(ctx, zoe_clip_next(clip, &picture)); /* stays at its end */
    assert_null(picture.rgb);
    zoe_clip_close(clip);
}

static void reads_clips(void **state) {
    static const char *const names[] = {"c.y4m", "c.mp4", "c.gif", "c.webm"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        make(in_folder(names[i]), 64, 48, 16, 11);
        check_clip(in_folder(names[i]), 64, 48, 11);
    }
    make(in_folder("p%d.png"), 64, 48, 16, 2);
    check_clip(in_folder("p0.png"), 64, 48, 1);
}

static void clips_that_are_none(void **state) {
    zoe_clip *clip;
    zoe_picture picture;
    (void)state;
    assert_fails(ctx, zoe_clip_open(ctx, in_folder("absent.mp4"), &clip), ZOE_ERR_IO, "absent.mp4");
    assert_null(clip);
    test_write(in_folder("text.mp4"), "hello", 5);
    assert_fails(ctx, zoe_clip_open(ctx, in_folder("text.mp4"), &clip), ZOE_ERR_FORMAT, "text.mp4");
    /* A picture that ends too early. */
    size_t size;
    make(in_folder("p%d.png"), 64, 48, 16, 1);
    char *bytes = test_read(in_folder("p0.png"), &size);
    test_write(in_folder("cut.png"), bytes, 60);
    free(bytes);
    assert_ok(ctx, zoe_clip_open(ctx, in_folder("cut.png"), &clip));
    assert_fails(ctx, zoe_clip_next(clip, &picture), ZOE_ERR_FORMAT, "cut.png");
    assert_null(picture.rgb);
    zoe_clip_close(clip);
}

static int read_clip(zoe_context *context, void *path) {
    zoe_clip *clip;
    zoe_picture picture;
    ZOE_TRY(zoe_clip_open(context, path, &clip));
    int status = zoe_clip_next(clip, &picture);
    if (status >= 0) zoe_picture_free(context, &picture);
    zoe_clip_close(clip);
    return status;
}

static void clip_allocations(void **state) {
    char path[256];
    (void)state;
    snprintf(path, sizeof path, "%s", in_folder("c.y4m"));
    make(path, 64, 48, 16, 2);
    test_every_allocation(read_clip, path);
}

static void reading_what_is_none(void **state) {
    (void)state;
    zoe_video_info info;
    char *json;
    test_write(in_folder("x.mp4"), "no video at all", 15);
    assert_fails(ctx, zoe_video_probe(ctx, in_folder("x.mp4"), &info), ZOE_ERR_FORMAT, "not a video");
    assert_fails(ctx, zoe_video_metadata(ctx, in_folder("x.mp4"), &json), ZOE_ERR_FORMAT, "not a video");
    assert_null(json);
    assert_fails(ctx, zoe_video_probe(ctx, in_folder("none.mp4"), &info), ZOE_ERR_IO, "No such file");
    assert_fails(ctx, zoe_video_probe(ctx, folder, &info), ZOE_ERR_IO, "it is a folder");
    zoe_video_writer *writer;
    const zoe_video_settings settings = {.width = 32, .height = 32, .fps = 16};
    assert_ok(ctx, zoe_video_create(ctx, in_folder("plain.mp4"), &settings, &writer));
    assert_ok(ctx, write_frames(ctx, writer, 32, 32, 2));
    assert_ok(ctx, zoe_video_finish(writer));
    check_metadata(in_folder("plain.mp4"), false);
}

/* ---- memory ---- */

static int make_small(zoe_context *context, void *path) {
    zoe_video_writer *writer;
    const zoe_video_settings settings = {.width = 16, .height = 16, .fps = 16, .metadata = "{}"};
    ZOE_TRY(zoe_video_create(context, path, &settings, &writer));
    int status = write_frames(context, writer, 16, 16, 1);
    int finished = zoe_video_finish(writer);
    if (status < 0 || finished < 0) return status < 0 ? status : finished;
    char *json;
    ZOE_TRY(zoe_video_metadata(context, path, &json));
    zoe_free(context, json);
    return ZOE_OK;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/out.mp4", folder);
    test_every_allocation(make_small, path);
    assert_int_equal(test_folder_count(folder), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(writes_mp4, setup, teardown),
        cmocka_unit_test_setup_teardown(mp4_pads_odd_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(fractional_rates, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_webm, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_gif, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_numbered_pngs, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_y4m, setup, teardown),
        cmocka_unit_test_setup_teardown(standard_output, setup, teardown),
        cmocka_unit_test_setup_teardown(closed_standard_output, setup, teardown),
        cmocka_unit_test_setup_teardown(abort_leaves_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_written_leaves_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(earlier_file_stays_until_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(full_disk_is_reported, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_clips, setup, teardown),
        cmocka_unit_test_setup_teardown(clips_that_are_none, setup, teardown),
        cmocka_unit_test_setup_teardown(clip_allocations, setup, teardown),
        cmocka_unit_test_setup_teardown(reading_what_is_none, setup, teardown),
        cmocka_unit_test_setup_teardown(every_allocation_may_fail, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
