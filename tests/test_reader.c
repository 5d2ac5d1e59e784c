/* Reads beside their caller: through a ring and without, whole and in parts, and every way in which they can fail. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "formats/ahead.h"
#include "formats/checkpoint_parts.h"
#include "formats/reader.h"

#define SIZE ((size_t)3 << 20)

static test_memory memory;
static zoe_context *ctx;
static char folder[64], path[128];
static uint8_t *bytes; /* [SIZE], what the file's tensor holds */
static zoe_checkpoint *ckpt;

static int setup(void **state) {
    (void)state;
    zoe_safetensors_writer *writer;
    const int64_t shape[] = {(int64_t)SIZE / 4};
    ctx = test_context(&memory);
    test_folder_create(folder);
    snprintf(path, sizeof path, "%s/one.safetensors", folder);
    bytes = malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++) bytes[i] = (uint8_t)(i * 2654435761u >> 24);
    assert_int_equal(zoe_safetensors_create(ctx, path, &writer), ZOE_OK);
    assert_int_equal(zoe_safetensors_add(writer, "t", ZOE_F32, 1, shape, bytes), ZOE_OK);
    assert_int_equal(zoe_safetensors_finish(writer), ZOE_OK);
    assert_int_equal(zoe_checkpoint_open(ctx, path, &ckpt), ZOE_OK);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    zoe_checkpoint_close(ckpt);
    test_folder_remove(folder);
    free(bytes);
    test_context_free(&memory, ctx);
    return 0;
}

static zoe_read part(size_t at, size_t count, void *to) {
    return (zoe_read){.entry = zoe_checkpoint_at(ckpt, 0), .at = at, .bytes = count, .to = to};
}

static void finish(zoe_reader *reader, const zoe_read *read) {
    while (!read->ended) {
        assert_true(reader->under_way > 0);
        zoe_reader_collect(reader, true);
    }
}

/* Reads the whole in four parts that are under way together; what each gave is in reads[]. */
static void read_parts(zoe_read reads[ZOE_READS], uint8_t *to) {
    zoe_reader reader;
    size_t each = SIZE / ZOE_READS;
    memset(to, 0, SIZE);
    zoe_reader_open(&reader, ckpt);
    for (size_t i = 0; i < ZOE_READS; i++) {
        reads[i] = part(i * each, each, to + i * each);
        zoe_reader_begin(&reader, &reads[i]);
    }
    for (size_t i = 0; i < ZOE_READS; i++) finish(&reader, &reads[i]);
    assert_int_equal(reader.under_way, 0);
    zoe_reader_close(&reader);
}

static void expect_whole(void) {
    zoe_read reads[ZOE_READS];
    uint8_t *to = malloc(SIZE);
    read_parts(reads, to);
    for (int i = 0; i < ZOE_READS; i++) assert_false(reads[i].failed);
    assert_memory_equal(to, bytes, SIZE);
    free(to);
}

static void expect_failure(int error) {
    zoe_read reads[ZOE_READS];
    uint8_t *to = malloc(SIZE);
    read_parts(reads, to);
    assert_false(reads[0].failed);
    assert_memory_equal(to, bytes, SIZE / ZOE_READS);
    assert_true(reads[ZOE_READS - 1].failed);
    assert_int_equal(reads[ZOE_READS - 1].error, error);
    free(to);
}

static void drop_pages(void) {
    int fd = ckpt->files[0].fd;
    fsync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

static void whole(void **state) {
    (void)state;
    for (int way = 0; way < 4; way++) { /* by a ring and without, from the disk and from its pages */
        ckpt->ringless = way / 2;
        if (way % 2 == 0) drop_pages();
        expect_whole();
    }
}

/* What is left out of the middle, wherever the part begins. */
static void gaps(void **state) {
    (void)state;
    const size_t gap = 70000, count = 100000, befores[] = {0, 1, 65536, 99999, 100000, 100001, SIZE};
    uint8_t *to = malloc(count), *expected = malloc(count);
    for (int way = 0; way < 2; way++)
        for (size_t i = 0; i < sizeof befores / sizeof befores[0]; i++) {
            zoe_reader reader;
            size_t before = befores[i];
            zoe_read read = part(123, count, to);
            read.before = before;
            read.gap = gap;
            ckpt->ringless = way;
            memset(to, 0, count);
            zoe_reader_open(&reader, ckpt);
            zoe_reader_begin(&reader, &read);
            finish(&reader, &read);
            zoe_reader_close(&reader);
            if (before > count) before = count; /* the gap lies behind */
            memcpy(expected, bytes + 123, before);
            memcpy(expected + before, bytes + 123 + before + gap, count - before);
            assert_false(read.failed);
            assert_memory_equal(to, expected, count);
        }
    free(to);
    free(expected);
}

/* ---- past the page cache ---- */

typedef struct room {
    char *memory, *to; /* the second begins with a unit */
    size_t size;       /* from there on, before a mark that stays */
} room;

static const char mark[] = "nobody writes here";

static room make_room(size_t count) {
    room r = {.size = ZOE_READ_ROOM(count)};
    r.memory = malloc(r.size + ZOE_READ_UNIT + sizeof mark);
    r.to = zoe_read_start(r.memory);
    memset(r.to, 0, r.size);
    memcpy(r.to + r.size, mark, sizeof mark);
    return r;
}

/* What `read`, of which place and size are given, has to come to past the cache. */
static void expect_past_cache(zoe_read read, const uint8_t *expected) {
    room r = make_room(read.bytes);
    zoe_reader reader;
    read.entry = zoe_checkpoint_at(ckpt, 0);
    read.to = r.to;
    read.past_cache = true;
    zoe_reader_open(&reader, ckpt);
    zoe_reader_begin(&reader, &read);
    finish(&reader, &read);
    zoe_reader_close(&reader);
    assert_false(read.failed);
    assert_memory_equal(read.data, expected, read.bytes);
    assert_memory_equal(r.to + r.size, mark, sizeof mark);
    free(r.memory);
}

static size_t pages_cached(void) {
    static unsigned char there[SIZE / 4096 + 2];
    size_t count = 0, pages = (ckpt->files[0].size + 4095) / 4096;
    assert_int_equal(mincore((void *)(uintptr_t)ckpt->files[0].data, ckpt->files[0].size, there), 0);
    for (size_t i = 0; i < pages; i++) count += there[i] & 1;
    return count;
}

static void past_the_page_cache(void **state) {
    (void)state;
    const size_t places[] = {0, 1, 4095, 4096, 100001, SIZE / 2}, counts[] = {1, 4095, 4096, 70001, SIZE / 2};
    for (int way = 0; way < 2; way++) {
        ckpt->ringless = way;
        for (size_t i = 0; i < 5 * 6; i++) {
            size_t place = places[i % 6], count = counts[i / 6];
            expect_past_cache((zoe_read){.at = place, .bytes = count}, bytes + place);
            expect_past_cache((zoe_read){.at = SIZE - count, .bytes = count}, bytes + SIZE - count);
            if (count < SIZE / 2) /* a gap before and behind */
                expect_past_cache((zoe_read){.at = place, .bytes = count, .gap = 5000}, bytes + place + 5000);
            expect_past_cache((zoe_read){.at = place, .bytes = count, .before = count + 1, .gap = 5000}, bytes + place);
        }
        drop_pages();
        size_t before = pages_cached();
        expect_past_cache((zoe_read){.at = 1, .bytes = SIZE / 2}, bytes + 1);
        if (ckpt->files[0].past_cache >= 0) assert_true(pages_cached() <= before);
    }
}

/* A gap in the middle, and files that only the page cache reads. */
static void back_to_the_page_cache(void **state) {
    (void)state;
    uint8_t *expected = malloc(SIZE);
    int descriptor = ckpt->files[0].past_cache;
    memcpy(expected, bytes + 77, 1000);
    memcpy(expected + 1000, bytes + 77 + 1000 + 5000, 9000);
    for (int way = 0; way < 2; way++) {
        ckpt->ringless = way;
        expect_past_cache((zoe_read){.at = 77, .bytes = 10000, .before = 1000, .gap = 5000}, expected);
        ckpt->files[0].past_cache = -1;
        expect_past_cache((zoe_read){.at = 77, .bytes = SIZE / 2}, bytes + 77);
        ckpt->files[0].past_cache = open("/dev/null", O_WRONLY); /* a file system that refuses */
        expect_past_cache((zoe_read){.at = 77, .bytes = SIZE / 2}, bytes + 77);
        close(ckpt->files[0].past_cache);
        ckpt->files[0].past_cache = descriptor;
    }
    free(expected);
}

static long calls;

static ssize_t little(off_t at, ssize_t got) {
    (void)at;
    return calls++ % 3 == 0 ? -EINTR : got < 65537 ? got : 65537;
}

static ssize_t broken(off_t at, ssize_t got) {
    return at > (off_t)(SIZE / 2) ? -EIO : got;
}

static void disks_that_give_little_or_fail(void **state) {
    (void)state;
    for (int way = 0; way < 2; way++) {
        ckpt->ringless = way;
        calls = 0;
        ckpt->fault = little;
        expect_whole();
        assert_true(calls > (long)(SIZE / 65537));
        expect_past_cache((zoe_read){.at = 1, .bytes = SIZE - 1}, bytes + 1);
        ckpt->fault = broken;
        expect_failure(EIO);
        ckpt->fault = NULL;
    }
}

static void files_that_end_before(void **state) {
    (void)state;
    assert_int_equal(truncate(path, (off_t)SIZE / 2), 0);
    for (int way = 0; way < 2; way++) {
        ckpt->ringless = way;
        expect_failure(0);
    }
}

/* A descriptor that is none: the kernel's own failure. */
static void files_that_cannot_be_read(void **state) {
    (void)state;
    int fd = ckpt->files[0].fd;
    for (int way = 0; way < 2; way++) {
        zoe_reader reader;
        uint8_t to[16];
        zoe_read read = part(0, sizeof to, to);
        ckpt->ringless = way;
        ckpt->files[0].fd = -1;
        zoe_reader_open(&reader, ckpt);
        zoe_reader_begin(&reader, &read);
        finish(&reader, &read);
        zoe_reader_close(&reader);
        ckpt->files[0].fd = fd;
        assert_true(read.failed);
        assert_int_equal(read.error, EBADF);
    }
}

static void rates_of_disks(void **state) {
    (void)state;
    zoe_mapped_file *file = &ckpt->files[0];
    const zoe_entry whole = ckpt->entries[0];
    zoe_entry *entries = ckpt->entries, many[6];
    double rate = -1;
    int descriptor = file->past_cache;
    if (descriptor < 0) file->past_cache = dup(file->fd); /* on a file system without: the page cache's rate */
    assert_int_equal(zoe_files_rate(ckpt, &rate), ZOE_ERR_UNSUPPORTED); /* 3 MiB tell nothing */
    for (int i = 0; i < 6; i++) many[i] = whole;
    ckpt->entries = many;
    ckpt->count = 6;
    for (int way = 0; way < 2; way++) {
        ckpt->ringless = way;
        double start = zoe_now();
        assert_int_equal(zoe_files_rate(ckpt, &rate), ZOE_OK);
        assert_true(rate >= (double)(6 * SIZE) / (zoe_now() - start) && rate < 1e12);
        ckpt->fault = broken;
        assert_int_equal(zoe_files_rate(ckpt, &rate), ZOE_ERR_UNSUPPORTED);
        ckpt->fault = NULL;
    }
    if (descriptor < 0) close(file->past_cache);
    file->past_cache = -1;
    assert_int_equal(zoe_files_rate(ckpt, &rate), ZOE_ERR_UNSUPPORTED);
    file->in_memory = true;
    assert_int_equal(zoe_files_rate(ckpt, &rate), ZOE_OK);
    assert_true(rate == 0);
    file->past_cache = descriptor;
    ckpt->entries = entries;
    ckpt->count = 1;
}

/* All of the files, where the page cache has room for them. */
static void ahead_of_their_use(void **state) {
    (void)state;
    const zoe_checkpoint *ckpts[] = {ckpt};
    zoe_ahead *ahead;
    size_t pages = (ckpt->files[0].size + 4095) / 4096;
    bool in_memory = ckpt->files[0].in_memory;
    drop_pages();
    ckpt->cache_room = (int64_t)ckpt->files[0].size + 10;
    ckpt->files[0].in_memory = false;
    assert_int_equal(zoe_ahead_begin(ctx, ckpts, 1, 11, &ahead), ZOE_OK);
    assert_null(ahead);
    assert_int_equal(zoe_ahead_begin(ctx, ckpts, 1, 10, &ahead), ZOE_OK);
    assert_non_null(ahead);
    zoe_ahead_wait(ahead);
    assert_int_equal(pages_cached(), pages);
    zoe_ahead_end(ahead);
    assert_int_equal(zoe_ahead_begin(ctx, ckpts, 1, 0, &ahead), ZOE_OK);
    zoe_ahead_end(ahead); /* at once */
    zoe_ahead_end(NULL);
    ckpt->files[0].in_memory = true;
    assert_int_equal(zoe_ahead_begin(ctx, ckpts, 1, 0, &ahead), ZOE_OK);
    assert_null(ahead);
    ckpt->files[0].in_memory = in_memory;
}

/* Nothing is written any more once a reader is closed. */
static void closing_waits(void **state) {
    (void)state;
    uint8_t *to = malloc(SIZE);
    zoe_reader reader;
    zoe_read reads[2] = {part(0, SIZE / 2, to), part(SIZE / 2, SIZE / 2, to + SIZE / 2)};
    drop_pages();
    zoe_reader_open(&reader, ckpt);
    for (int i = 0; i < 2; i++) zoe_reader_begin(&reader, &reads[i]);
    zoe_reader_close(&reader);
    for (int i = 0; i < 2; i++) assert_true(reads[i].ended && !reads[i].failed);
    assert_memory_equal(to, bytes, SIZE);
    free(to);
}

/* Where a ring is refused, by count of files or by memory, reading goes on without. */
static void rings_that_are_refused(void **state) {
    (void)state;
    static const int limits[] = {RLIMIT_NOFILE, RLIMIT_AS};
    uint8_t to[100];
    for (int i = 0; i < 2; i++) {
        struct rlimit before, none;
        zoe_reader reader;
        zoe_read read = part(1000, sizeof to, to);
        assert_int_equal(getrlimit(limits[i], &before), 0);
        none = (struct rlimit){1, before.rlim_max};
        assert_int_equal(setrlimit(limits[i], &none), 0);
        zoe_reader_open(&reader, ckpt);
        assert_int_equal(setrlimit(limits[i], &before), 0);
        assert_int_equal(reader.ring, -1);
        zoe_reader_begin(&reader, &read);
        assert_true(read.ended && !read.failed);
        assert_memory_equal(to, bytes + 1000, sizeof to);
        zoe_reader_close(&reader);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(whole, setup, teardown),
        cmocka_unit_test_setup_teardown(gaps, setup, teardown),
        cmocka_unit_test_setup_teardown(past_the_page_cache, setup, teardown),
        cmocka_unit_test_setup_teardown(back_to_the_page_cache, setup, teardown),
        cmocka_unit_test_setup_teardown(disks_that_give_little_or_fail, setup, teardown),
        cmocka_unit_test_setup_teardown(files_that_end_before, setup, teardown),
        cmocka_unit_test_setup_teardown(files_that_cannot_be_read, setup, teardown),
        cmocka_unit_test_setup_teardown(rates_of_disks, setup, teardown),
        cmocka_unit_test_setup_teardown(ahead_of_their_use, setup, teardown),
        cmocka_unit_test_setup_teardown(closing_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(rings_that_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
