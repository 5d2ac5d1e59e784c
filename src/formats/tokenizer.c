/* Sentencepiece tokenizers in the folders that models are published in. */
#include "formats/tokenizer.h"

#include <string.h>
#include <sys/stat.h>

#include "formats/file.h"
#include "formats/spm.h"

#define MODEL_LIMIT ((size_t)256 << 20)

struct zoe_tokenizer {
    zoe_context *ctx;
    zoe_spm *spm;
    int eos;
};

static int load_model(zoe_tokenizer *tokenizer, const char *path) {
    zoe_context *ctx = tokenizer->ctx;
    char *data, error[256] = "";
    size_t size;
    ZOE_TRY(zoe_file_read(ctx, path, "a tokenizer", MODEL_LIMIT, &data, &size));
    tokenizer->spm = zoe_spm_open(data, size, error, sizeof error);
    zoe_free(ctx, data);
    if (!tokenizer->spm) return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s is not a sentencepiece model: %s", path, error);
    tokenizer->eos = zoe_spm_eos(tokenizer->spm);
    if (tokenizer->eos < 0)
        return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s has no piece for the end of a text (</s>), as text encoders need it",
                        path);
    return ZOE_OK;
}

int zoe_tokenizer_open(zoe_context *ctx, const char *path, zoe_tokenizer **out) {
    *out = NULL;
    zoe_tokenizer *tokenizer;
    struct stat info;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, tokenizer, 1));
    tokenizer->ctx = ctx;
    bool folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    char *file = zoe_format(ctx, "%s%s", path, folder ? "/spiece.model" : "");
    int status = file ? load_model(tokenizer, file) : zoe_out_of_memory(ctx, strlen(path), "path");
    zoe_free(ctx, file);
    if (status < 0)
        zoe_tokenizer_close(tokenizer);
    else
        *out = tokenizer;
    return status;
}

void zoe_tokenizer_close(zoe_tokenizer *tokenizer) {
    if (!tokenizer) return;
    zoe_spm_close(tokenizer->spm);
    zoe_free(tokenizer->ctx, tokenizer);
}

int zoe_tokenizer_size(const zoe_tokenizer *tokenizer) {
    return zoe_spm_size(tokenizer->spm);
}

int zoe_tokenizer_encode(zoe_tokenizer *tokenizer, const char *text, int max_ids, int32_t **ids, int *count) {
    zoe_context *ctx = tokenizer->ctx;
    char error[256] = "";
    *ids = NULL;
    if (max_ids < 1) return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "room for %d token ids; at least 1 is needed", max_ids);
    ZOE_TRY(zoe_text_check_utf8(ctx, text, "the prompt"));
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, *ids, max_ids));
    int found = zoe_spm_encode(tokenizer->spm, text, strlen(text), *ids, max_ids - 1, error, sizeof error);
    if (found < 0) {
        zoe_free(ctx, *ids);
        *ids = NULL;
        return zoe_fail(ctx, ZOE_ERR_INTERNAL, "the tokenizer failed: %s", error);
    }
    *count = found < max_ids - 1 ? found + 1 : max_ids;
    (*ids)[*count - 1] = tokenizer->eos;
    return ZOE_OK;
}
