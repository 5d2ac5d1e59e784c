/* Prompts: cleaned text is valid UTF-8 without white space at its ends, and its ids are in the vocabulary. */
#include "formats/tokenizer.h"
#include "fuzz.h"

static void encode(zoe_context *ctx, zoe_tokenizer *tokenizer, const char *text) {
    int32_t *ids;
    int count;
    fuzz_expect(zoe_tokenizer_encode(tokenizer, text, 64, &ids, &count) >= 0);
    fuzz_expect(count >= 1 && count <= 64 && ids[count - 1] == 1);
    for (int i = 0; i < count; i++) fuzz_expect(ids[i] >= 0 && ids[i] < zoe_tokenizer_size(tokenizer));
    zoe_free(ctx, ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static zoe_context *ctx;
    static zoe_tokenizer *tokenizer;
    if (!ctx) {
        ctx = fuzz_context();
        fuzz_expect(zoe_tokenizer_open(ctx, TEST_DATA "/tokenizer/wan", &tokenizer) >= 0);
    }
    char *text = malloc(size + 1), *clean;
    fuzz_expect(text != NULL);
    if (size) memcpy(text, data, size);
    text[size] = 0;
    int valid = zoe_text_check_utf8(ctx, text, "the prompt");
    int status = zoe_text_clean(ctx, text, &clean);
    fuzz_expect((valid >= 0) == (status >= 0));
    if (status >= 0) {
        size_t length = strlen(clean);
        fuzz_expect(zoe_text_check_utf8(ctx, clean, "clean text") >= 0);
        fuzz_expect(!length || (clean[0] != ' ' && clean[length - 1] != ' '));
        fuzz_expect(!strstr(clean, "  "));
        encode(ctx, tokenizer, clean);
        encode(ctx, tokenizer, text);
        zoe_free(ctx, clean);
    }
    free(text);
    return 0;
}
