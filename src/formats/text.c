/*
 * Prompt cleaning as the Wan reference does it: ftfy.fix_text() with its defaults, html.unescape() twice, white space.
 *
 * Of ftfy all steps are here but one: text that was decoded with the wrong encoding ("Ã©" for "é") is left as it is. That
 * step guesses, and a prompt typed into a terminal or a form has no reason to be damaged in this way.
 */
#include <string.h>
#include <utf8proc.h>

#include "formats/text_parts.h"
#include "formats/tokenizer.h"

/* ---- growing text ---- */

void zoe_text_append(zoe_text *text, const char *data, size_t length) {
    if (text->failed) return;
    if (text->capacity - text->length < length + 1 || !text->data) {
        size_t capacity = 2 * text->capacity + length + 64;
        char *grown = zoe_realloc(text->ctx, text->data, capacity);
        if (!grown) {
            text->failed = true;
            return;
        }
        text->data = grown;
        text->capacity = capacity;
    }
    memcpy(text->data + text->length, data, length);
    text->length += length;
    text->data[text->length] = 0;
}

void zoe_text_append_code(zoe_text *text, uint32_t code) {
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t length = utf8proc_encode_char((utf8proc_int32_t)code, bytes);
    zoe_text_append(text, (const char *)bytes, (size_t)length);
}

void zoe_text_reset(zoe_text *text) {
    text->length = 0;
    if (text->data) text->data[0] = 0;
}

void zoe_text_free(zoe_text *text) {
    zoe_free(text->ctx, text->data);
    text->data = NULL;
}

uint32_t zoe_text_next(const char **p, const char *end) {
    utf8proc_int32_t code;
    utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)*p, end - *p, &code);
    if (used < 1) { /* cannot be: the text was checked */
        (*p)++;
        return 0xfffd;
    }
    *p += used;
    return (uint32_t)code;
}

int zoe_text_check_utf8(zoe_context *ctx, const char *text, const char *what) {
    const char *p = text, *end = text + strlen(text);
    while (p < end) {
        utf8proc_int32_t code;
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)p, end - p, &code);
        if (used < 1)
            return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "%s is not valid UTF-8: byte 0x%02x at position %td", what,
                            (unsigned)(uint8_t)*p, p - text);
        p += used;
    }
    return ZOE_OK;
}

/* ---- single characters ---- */

/* Ligatures and digraphs of Latin letters, as code points up to a 0. */
static const struct {
    uint16_t code, letters[4];
} ligatures[] = {
    {0x0132, {'I', 'J'}},    {0x0133, {'i', 'j'}},    {0x0149, {0x02bc, 'n'}},   {0x01c4, {'D', 0x017d}},
    {0x01c5, {'D', 0x017e}}, {0x01c6, {'d', 0x017e}}, {0x01c7, {'L', 'J'}},      {0x01c8, {'L', 'j'}},
    {0x01c9, {'l', 'j'}},    {0x01ca, {'N', 'J'}},    {0x01cb, {'N', 'j'}},      {0x01cc, {'n', 'j'}},
    {0x01f1, {'D', 'Z'}},    {0x01f2, {'D', 'z'}},    {0x01f3, {'d', 'z'}},      {0xfb00, {'f', 'f'}},
    {0xfb01, {'f', 'i'}},    {0xfb02, {'f', 'l'}},    {0xfb03, {'f', 'f', 'i'}}, {0xfb04, {'f', 'f', 'l'}},
    {0xfb05, {0x017f, 't'}}, {0xfb06, {'s', 't'}},
};

static uint32_t straight(uint32_t code) {
    if (code == 0x02bc || (code >= 0x2018 && code <= 0x201b)) return '\'';
    if (code >= 0x201c && code <= 0x201f) return '"';
    if (code == '\r' || code == 0x2028 || code == 0x2029 || code == 0x85) return '\n';
    return code;
}

/* Full-width letters and half-width katakana and hangul in their usual width, then straight quotes and line breaks. */
static void append_usual_width(uint32_t code, zoe_text *out) {
    if (code == 0x3000) code = ' ';
    if (code < 0xff01 || code > 0xffef) {
        zoe_text_append_code(out, straight(code));
        return;
    }
    utf8proc_int32_t parts[8];
    int last_class = 0;
    utf8proc_ssize_t count = utf8proc_decompose_char((utf8proc_int32_t)code, parts, 8,
                                                     UTF8PROC_STABLE | UTF8PROC_COMPAT | UTF8PROC_COMPOSE, &last_class);
    if (count < 1 || count > 8) {
        zoe_text_append_code(out, code);
        return;
    }
    for (utf8proc_ssize_t i = 0; i < count; i++) zoe_text_append_code(out, straight((uint32_t)parts[i]));
}

static void append_fixed(uint32_t code, zoe_text *out) {
    if (code >= 0x80 && code <= 0x9f && zoe_windows_1252[code - 0x80]) code = zoe_windows_1252[code - 0x80];
    for (size_t i = 0; i < sizeof ligatures / sizeof *ligatures; i++) {
        if (ligatures[i].code != code) continue;
        for (const uint16_t *letter = ligatures[i].letters; *letter; letter++) append_usual_width(*letter, out);
        return;
    }
    append_usual_width(code, out);
}

static void fix_characters(const zoe_text *in, zoe_text *out) {
    const char *p = in->data, *end = in->data + in->length;
    while (p < end) {
        uint32_t code = zoe_text_next(&p, end);
        if (code == '\r' && p < end && *p == '\n') continue; /* CR LF is one line break */
        append_fixed(code, out);
    }
}

/* ---- control characters ---- */

/* Bytes of a terminal escape such as ESC [ 3 6 ; 1 m at p, 0 if it is none. */
static size_t escape_length(const char *p, const char *end) {
    if (end - p < 3 || p[0] != 0x1b || p[1] != '[') return 0;
    const char *q = p + 2;
    while (q < end && ((*q >= '0' && *q <= '9') || *q == ';')) q++;
    bool letter = q < end && ((*q >= 'a' && *q <= 'z') || (*q >= 'A' && *q <= 'Z'));
    return letter ? (size_t)(q + 1 - p) : 0;
}

static bool is_control(uint32_t code) {
    if (code < 0x20) return code != '\t' && code != '\n' && code != '\f' && code != '\r';
    return code == 0x7f || (code >= 0x206a && code <= 0x206f) || code == 0xfeff || (code >= 0xfff9 && code <= 0xfffc);
}

static void remove_controls(const zoe_text *in, zoe_text *out) {
    const char *p = in->data, *end = in->data + in->length;
    while (p < end) {
        size_t escape = escape_length(p, end);
        if (escape) {
            p += escape;
            continue;
        }
        uint32_t code = zoe_text_next(&p, end);
        if (!is_control(code)) zoe_text_append_code(out, code);
    }
}

/* ---- composed characters ---- */

/* Normalisation form C. */
static void compose(const zoe_text *in, zoe_text *out) {
    const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    const utf8proc_uint8_t *data = (const utf8proc_uint8_t *)in->data;
    utf8proc_ssize_t length = (utf8proc_ssize_t)in->length;
    utf8proc_ssize_t count = utf8proc_decompose(data, length, NULL, 0, options);
    if (count < 0) {
        out->failed = true;
        return;
    }
    utf8proc_int32_t *codes = zoe_alloc(in->ctx, ((size_t)count + 1) * sizeof *codes);
    if (codes) count = utf8proc_decompose(data, length, codes, count, options);
    if (codes && count >= 0) count = utf8proc_reencode(codes, count, options);
    if (!codes || count < 0)
        out->failed = true;
    else
        zoe_text_append(out, (const char *)codes, (size_t)count);
    zoe_free(in->ctx, codes);
}

/* ---- the whole ---- */

/* One text in the making and two to work in. */
typedef struct cleaner {
    zoe_text line, a, b, out;
} cleaner;

static bool cleaner_failed(const cleaner *c) {
    return c->line.failed || c->a.failed || c->b.failed || c->out.failed;
}

static void set_text(zoe_text *text, const char *data, size_t length) {
    zoe_text_reset(text);
    zoe_text_append(text, data, length);
}

/* Repeats the repairs on c->line until nothing changes: one may uncover work for another. */
static void fix_line(cleaner *c, bool unescape) {
    for (;;) {
        set_text(&c->a, "", 0);
        if (unescape)
            zoe_html_unescape_strict(c->line.data, c->line.length, &c->a);
        else
            zoe_text_append(&c->a, c->line.data, c->line.length);
        set_text(&c->b, "", 0);
        if (cleaner_failed(c)) return;
        fix_characters(&c->a, &c->b);
        set_text(&c->a, "", 0);
        if (cleaner_failed(c)) return;
        remove_controls(&c->b, &c->a);
        set_text(&c->b, "", 0);
        if (cleaner_failed(c)) return;
        compose(&c->a, &c->b);
        if (cleaner_failed(c)) return;
        if (c->b.length == c->line.length && memcmp(c->b.data, c->line.data, c->b.length) == 0) return;
        set_text(&c->line, c->b.data, c->b.length);
    }
}

/* Repairs line by line. From the first line with a '<' on the text counts as HTML, whose references are left alone. */
static void fix_lines(cleaner *c, const char *text) {
    bool unescape = true;
    while (*text && !cleaner_failed(c)) {
        const char *feed = strchr(text, '\n');
        size_t length = feed ? (size_t)(feed + 1 - text) : strlen(text);
        if (memchr(text, '<', length)) unescape = false;
        set_text(&c->line, text, length);
        if (!cleaner_failed(c)) fix_line(c, unescape);
        if (!cleaner_failed(c)) zoe_text_append(&c->out, c->line.data, c->line.length);
        text += length;
    }
}

static bool is_space(uint32_t code) {
    return (code >= 0x09 && code <= 0x0d) || (code >= 0x1c && code <= 0x20) || code == 0x85 || code == 0xa0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f ||
           code == 0x205f || code == 0x3000;
}

static void join_spaces(const zoe_text *in, zoe_text *out) {
    const char *p = in->data, *end = in->data + in->length;
    bool space = false;
    while (p < end) {
        uint32_t code = zoe_text_next(&p, end);
        if (is_space(code)) {
            space = true;
            continue;
        }
        if (space && out->length) zoe_text_append(out, " ", 1);
        space = false;
        zoe_text_append_code(out, code);
    }
}

int zoe_text_clean(zoe_context *ctx, const char *text, char **out) {
    *out = NULL;
    ZOE_TRY(zoe_text_check_utf8(ctx, text, "the prompt"));
    cleaner c = {.line = {.ctx = ctx}, .a = {.ctx = ctx}, .b = {.ctx = ctx}, .out = {.ctx = ctx}};
    set_text(&c.out, "", 0);
    fix_lines(&c, text);
    set_text(&c.a, "", 0);
    set_text(&c.b, "", 0);
    if (!cleaner_failed(&c)) {
        zoe_html_unescape(c.out.data, c.out.length, &c.a);
        zoe_html_unescape(c.a.data, c.a.length, &c.b);
        zoe_text_reset(&c.out);
        if (!cleaner_failed(&c)) join_spaces(&c.b, &c.out);
    }
    int status = ZOE_OK;
    if (cleaner_failed(&c))
        status = zoe_out_of_memory(ctx, strlen(text), "cleaned prompt");
    else
        *out = c.out.data;
    if (status < 0) zoe_text_free(&c.out);
    zoe_text_free(&c.line);
    zoe_text_free(&c.a);
    zoe_text_free(&c.b);
    return status;
}
