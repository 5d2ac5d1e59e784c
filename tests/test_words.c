/* Prompts outside a small model's world. */
#include "support.h"

#include "pipeline/words.h"

static void unknown_words_are_told_once(void **state) {
    (void)state;
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    char dir[] = "/tmp/zoe-words-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/words.txt", dir);
    zoe_words_check(ctx, dir, "a purple elephant"); /* no list: nothing to say */
    assert_string_equal(memory.log, "");
    FILE *file = fopen(path, "w");
    fputs("a\nred\nball\nrolls\nball-like\n", file);
    fclose(file);
    zoe_words_check(ctx, dir, "A red ball, rolls!");
    assert_string_equal(memory.log, "");
    zoe_words_check(ctx, dir, "A red cat: the Cat rolls, 球 re");
    assert_non_null(strstr(memory.log, "cat, the, 球, re;"));
    unlink(path);
    rmdir(dir);
    test_context_free(&memory, ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(unknown_words_are_told_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
