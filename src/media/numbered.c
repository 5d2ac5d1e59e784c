/* Numbered PNG files: "frame-%05d.png" names one file a frame, from 0 on, each with the video's metadata. */
#include <errno.h>
#include <libavutil/avstring.h>
#include <libavutil/crc.h>
#include <libavutil/intreadwrite.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "media/encoder_parts.h"

/* The place for the number: "%d" or "%05d". Returns its length and sets *digits, 0 where there is none. */
static size_t number_place(const char *p, int *digits) {
    size_t n = 1;
    if (p[0] != '%') return 0;
    if (p[n] == '0') n++;
    *digits = 1;
    if (p[n] >= '1' && p[n] <= '9') *digits = p[n++] - '0';
    return p[n] == 'd' ? n + 1 : 0;
}

bool zoe_encoder_pattern_ok(const char *path) {
    int places = 0, digits;
    for (const char *p = path; *p; p++) {
        if (*p != '%') continue;
        if (!number_place(p, &digits)) return false;
        places++;
    }
    return places == 1 && strlen(path) + 16 < PATH_MAX;
}

static void picture_path(const char *pattern, int64_t number, char path[PATH_MAX]) {
    const char *place = strchr(pattern, '%');
    int digits = 1;
    size_t length = number_place(place, &digits);
    snprintf(path, PATH_MAX, "%.*s%0*lld%s", (int)(place - pattern), pattern, digits, (long long)number, place + length);
}

/* JSON text with everything beyond ASCII as \uXXXX, since PNG's text chunks are Latin-1. Freed by av_free(). */
static char *ascii_json(const char *text) {
    const uint8_t *p = (const uint8_t *)text, *end = p + strlen(text);
    char *ascii = av_malloc(3 * strlen(text) + 1), *out = ascii;
    if (!ascii) return NULL;
    while (p < end) {
        int32_t code;
        if (av_utf8_decode(&code, &p, end, 0) < 0) code = '?';
        if (code < 0x80)
            *out++ = (char)code;
        else if (code < 0x10000)
            out += sprintf(out, "\\u%04x", (unsigned)code);
        else
            out += sprintf(out, "\\u%04x\\u%04x", 0xd7c0u + (unsigned)(code >> 10), 0xdc00u + (unsigned)(code & 0x3ff));
    }
    *out = 0;
    return ascii;
}

#define KEYWORD        "tEXtComment" /* the chunk's type, then the keyword with its NUL */
#define HEADER_BYTES   33            /* signature and IHDR, which has to come first */
#define OUTSIDE_LENGTH 4             /* the type does not count as data */

static int write_text_chunk(FILE *file, const char *metadata) {
    char *text = ascii_json(metadata);
    if (!text) return AVERROR(ENOMEM);
    const AVCRC *table = av_crc_get_table(AV_CRC_32_IEEE_LE);
    uint8_t length[4], sum[4];
    AV_WB32(length, (uint32_t)(sizeof KEYWORD - OUTSIDE_LENGTH + strlen(text)));
    uint32_t crc = av_crc(table, UINT32_MAX, (const uint8_t *)KEYWORD, sizeof KEYWORD);
    AV_WB32(sum, av_crc(table, crc, (const uint8_t *)text, strlen(text)) ^ UINT32_MAX);
    fwrite(length, 1, 4, file);
    fwrite(KEYWORD, 1, sizeof KEYWORD, file);
    fwrite(text, 1, strlen(text), file);
    fwrite(sum, 1, 4, file);
    av_free(text);
    return 0;
}

static int write_picture(FILE *file, const char *metadata, const uint8_t *data, int size) {
    if (size < HEADER_BYTES) return AVERROR_BUG;
    fwrite(data, 1, HEADER_BYTES, file);
    int code = metadata ? write_text_chunk(file, metadata) : 0;
    fwrite(data + HEADER_BYTES, 1, (size_t)(size - HEADER_BYTES), file);
    return code < 0 ? code : ferror(file) ? AVERROR(EIO) : 0;
}

int zoe_numbered_write(const char *pattern, int64_t number, const char *metadata, const uint8_t *data, int size) {
    char path[PATH_MAX], temporary[PATH_MAX + 8];
    picture_path(pattern, number, path);
    snprintf(temporary, sizeof temporary, "%s.part", path);
    FILE *file = fopen(temporary, "wbe");
    if (!file) return AVERROR(errno);
    errno = 0;
    int code = write_picture(file, metadata, data, size);
    if (code == AVERROR(EIO) && errno) code = AVERROR(errno);
    if (fclose(file) != 0 && code >= 0) code = AVERROR(errno);
    if (code >= 0 && rename(temporary, path) != 0) code = AVERROR(errno);
    if (code < 0) unlink(temporary);
    return code;
}

void zoe_numbered_remove(const char *pattern, int64_t count) {
    char path[PATH_MAX];
    for (int64_t i = 0; i < count; i++) {
        picture_path(pattern, i, path);
        unlink(path);
    }
}
