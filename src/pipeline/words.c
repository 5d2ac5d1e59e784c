#include "pipeline/words.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define FILE_MOST (1 << 20)

/* The whole file as text, freed by the caller; NULL if there is none. */
static char *read_words(zoe_context *ctx, const char *dir) {
    char path[PATH_MAX], *text = NULL;
    bool fits = snprintf(path, sizeof path, "%s/words.txt", dir) < (int)sizeof path;
    FILE *file = fits ? fopen(path, "rb") : NULL;
    if (file && (text = zoe_alloc(ctx, FILE_MOST))) text[fread(text, 1, FILE_MOST - 1, file)] = 0;
    if (file) fclose(file);
    return text;
}

/* `word` stands in `list` between separators. */
static bool listed(const char *list, const char *word, size_t length, const char *separators) {
    for (const char *p = list; *p; p += strspn(p, separators)) {
        size_t entry = strcspn(p, separators);
        if (entry == length && memcmp(p, word, length) == 0) return true;
        p += entry;
    }
    return false;
}

/* Letters, and every byte of what is not ASCII. */
static size_t word_length(const char *text) {
    size_t length = 0;
    while (isalpha((unsigned char)text[length]) || (text[length] & 0x80)) length++;
    return length;
}

void zoe_words_check(zoe_context *ctx, const char *dir, const char *prompt) {
    char unknown[512] = "";
    size_t used = 0;
    char *words = read_words(ctx, dir), *lower = words ? zoe_strdup(ctx, prompt) : NULL;
    for (char *p = lower; p && *p; p++) *p = (char)tolower((unsigned char)*p);
    for (const char *p = lower; p && *p;) {
        size_t length = word_length(p);
        bool fits = used + length + 3 < sizeof unknown;
        if (length && fits && !listed(words, p, length, "\r\n") && !listed(unknown, p, length, ", "))
            used += (size_t)snprintf(unknown + used, sizeof unknown - used, "%s%.*s", used ? ", " : "", (int)length, p);
        p += length ? length : 1;
    }
    if (used)
        zoe_log(
            ctx, ZOE_LOG_WARNING,
            "this model was trained on a small world and does not know: %s; the video will show what it makes of the rest",
            unknown);
    zoe_free(ctx, lower);
    zoe_free(ctx, words);
}
