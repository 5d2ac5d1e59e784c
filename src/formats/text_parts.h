/* What the parts of text cleaning share. */
#ifndef ZOE_FORMATS_TEXT_PARTS_H
#define ZOE_FORMATS_TEXT_PARTS_H

#include "base/context.h"

/* Text that grows. A failed append leaves `failed` set and the text as it was, so that only the end needs a look. */
typedef struct zoe_text {
    zoe_context *ctx;
    char *data; /* NUL-terminated once anything was appended */
    size_t length, capacity;
    bool failed;
} zoe_text;

void zoe_text_append(zoe_text *text, const char *data, size_t length);
void zoe_text_append_code(zoe_text *text, uint32_t code); /* as UTF-8 */
void zoe_text_reset(zoe_text *text);                      /* empty; keeps its memory */
void zoe_text_free(zoe_text *text);

/* The code point at p < end of valid UTF-8; *p moves behind it. */
uint32_t zoe_text_next(const char **p, const char *end);

/* ---- HTML ---- */

typedef struct zoe_entity {
    const char *name; /* without '&', with the ';' where it needs one */
    const char *value;
} zoe_entity;

/* Sorted by name. The second one holds names in capitals whose value is not the one of the name in small letters. */
extern const zoe_entity zoe_entities[], zoe_entity_capitals[];
extern const size_t zoe_entity_count, zoe_entity_capital_count;

/* What Windows-1252 has at 0x80 to 0x9f, as browsers read numbers in that range; 0: nothing. */
extern const uint16_t zoe_windows_1252[32];

/* Appends `in` to `out` with character references resolved as HTML 5 demands, also those without a semicolon. */
void zoe_html_unescape(const char *in, size_t length, zoe_text *out);

/* Resolves only what is unambiguous: with a semicolon, or a name written in capitals. */
void zoe_html_unescape_strict(const char *in, size_t length, zoe_text *out);

#endif
