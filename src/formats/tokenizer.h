/* Text to token ids: sentencepiece models, and the cleaning that goes before. */
#ifndef ZOE_FORMATS_TOKENIZER_H
#define ZOE_FORMATS_TOKENIZER_H

#include "base/context.h"

typedef struct zoe_tokenizer zoe_tokenizer;

/* Opens a sentencepiece model (spiece.model, or a folder that holds it). */
int zoe_tokenizer_open(zoe_context *ctx, const char *path, zoe_tokenizer **out);
void zoe_tokenizer_close(zoe_tokenizer *tokenizer);
int zoe_tokenizer_size(const zoe_tokenizer *tokenizer); /* pieces in the vocabulary */

/*
 * Ids of `text` (UTF-8) followed by `</s>` (id 1), cut to `max_ids` with the `</s>` kept. *ids is freed by zoe_free().
 * Invalid UTF-8 is an error that names the byte.
 */
int zoe_tokenizer_encode(zoe_tokenizer *tokenizer, const char *text, int max_ids, int32_t **ids, int *count);

/*
 * Cleans a prompt as the Wan reference does: repaired text (NFC, straight quotes, no control characters, ligatures and
 * full-width letters resolved), HTML entities resolved twice, runs of white space joined, ends trimmed.
 * *out is freed by zoe_free().
 */
int zoe_text_clean(zoe_context *ctx, const char *text, char **out);

/* ZOE_ERR_ARGUMENT naming the first bad byte of text that is not UTF-8; `what` names the text. */
int zoe_text_check_utf8(zoe_context *ctx, const char *text, const char *what);

#endif
