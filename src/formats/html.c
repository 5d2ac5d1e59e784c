/*
 * HTML character references in prompts: the HTML 5 rules as Python's html.unescape() applies them, and the stricter set
 * that ftfy resolves before.
 */
#include <string.h>

#include "formats/text_parts.h"

#define LONGEST_NAME 32

/* The entity whose name is exactly name[0 .. length), or NULL. */
static const zoe_entity *find(const zoe_entity *table, size_t count, const char *name, size_t length) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strncmp(name, table[middle].name, length);
        if (order == 0 && table[middle].name[length] != 0) order = -1; /* a prefix sorts in front */
        if (order == 0) return &table[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* The longest entity name that `name` begins with, or NULL. */
static const zoe_entity *find_prefix(const char *name, size_t length) {
    for (size_t n = length < LONGEST_NAME ? length : LONGEST_NAME; n > 1; n--) {
        const zoe_entity *entity = find(zoe_entities, zoe_entity_count, name, n);
        if (entity) return entity;
    }
    return NULL;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_hex(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

const uint16_t zoe_windows_1252[32] = {
    0x20ac, 0,      0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160,
    0x2039, 0x0152, 0,      0x017d, 0,      0,      0x2018, 0x2019, 0x201c, 0x201d, 0x2022,
    0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0,      0x017e, 0x0178,
};

static void append_number(uint32_t code, zoe_text *out) {
    if (code >= 0x80 && code <= 0x9f) {
        zoe_text_append_code(out, zoe_windows_1252[code - 0x80] ? zoe_windows_1252[code - 0x80] : code);
        return;
    }
    if (code == 0 || (code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) {
        zoe_text_append_code(out, 0xfffd);
        return;
    }
    bool control = (code < 0x20 && code != '\t' && code != '\n' && code != '\f' && code != '\r') || code == 0x7f;
    bool noncharacter = (code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) == 0xfffe;
    if (!control && !noncharacter) zoe_text_append_code(out, code);
}

/* Reads "#123;" or "#x1f;" at p, with or without the semicolon. Returns the bytes taken, 0 if it is none. */
static size_t read_number(const char *p, size_t length, uint32_t *code) {
    if (length < 2 || p[0] != '#') return 0;
    bool hex = p[1] == 'x' || p[1] == 'X';
    size_t start = hex ? 2 : 1, n = start;
    *code = 0;
    for (; n < length && (hex ? is_hex(p[n]) : is_digit(p[n])); n++) {
        uint32_t digit = (uint32_t)(is_digit(p[n]) ? p[n] - '0' : (p[n] | 32) - 'a' + 10);
        if (*code <= 0x10ffff) *code = *code * (hex ? 16 : 10) + digit;
    }
    if (n == start) return 0;
    return n < length && p[n] == ';' ? n + 1 : n;
}

void zoe_html_unescape(const char *in, size_t length, zoe_text *out) {
    const char *end = in + length;
    while (in < end) {
        const char *mark = memchr(in, '&', (size_t)(end - in));
        if (!mark) mark = end;
        zoe_text_append(out, in, (size_t)(mark - in));
        in = mark;
        if (in == end) break;
        size_t left = (size_t)(end - in) - 1;
        uint32_t code;
        size_t number = read_number(in + 1, left, &code);
        const zoe_entity *entity = number ? NULL : find_prefix(in + 1, left);
        if (number) {
            append_number(code, out);
            in += 1 + number;
        } else if (entity) {
            zoe_text_append(out, entity->value, strlen(entity->value));
            in += 1 + strlen(entity->name);
        } else {
            zoe_text_append(out, in++, 1);
        }
    }
}

/* The value of name[0 .. length), which ends with ';', in small letters or in capitals; NULL if there is none. */
static const char *strict_value(const char *name, size_t length) {
    char small[LONGEST_NAME];
    const zoe_entity *entity = find(zoe_entities, zoe_entity_count, name, length);
    if (!entity) entity = find(zoe_entity_capitals, zoe_entity_capital_count, name, length);
    if (entity) return entity->value;
    if (length > sizeof small || find_prefix(name, length)) return NULL; /* "&COPYSR;" may as well be "&COPY" and "SR;" */
    for (size_t i = 0; i < length; i++) {
        if (name[i] >= 'a' && name[i] <= 'z') return NULL;
        small[i] = (char)(is_letter(name[i]) ? name[i] | 32 : name[i]);
    }
    entity = find(zoe_entities, zoe_entity_count, small, length);
    return entity ? entity->value : NULL;
}

/* Bytes of "#abc123;" at p (up to 24 letters and digits and the semicolon), 0 if it is none. */
static size_t strict_length(const char *p, size_t length) {
    size_t start = length && p[0] == '#' ? 1 : 0, n = start;
    while (n < length && n - start < 24 && (is_letter(p[n]) || is_digit(p[n]))) n++;
    return n > start && n < length && p[n] == ';' ? n + 1 : 0;
}

void zoe_html_unescape_strict(const char *in, size_t length, zoe_text *out) {
    const char *end = in + length;
    while (in < end) {
        size_t left = (size_t)(end - in) - 1, taken = *in == '&' ? strict_length(in + 1, left) : 0;
        uint32_t code;
        const char *value = taken ? strict_value(in + 1, taken) : NULL;
        if (value) {
            zoe_text_append(out, value, strlen(value));
        } else if (taken && read_number(in + 1, taken, &code) == taken && code != ';') {
            append_number(code, out);
        } else {
            zoe_text_append(out, in, 1);
            taken = 0;
        }
        in += 1 + taken;
    }
}
