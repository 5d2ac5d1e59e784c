#include "weights/slots.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int zoe_shape_rule(const char *rule, const zoe_dims dims, int64_t shape[ZOE_MAX_RANK]) {
    int rank = 0;
    while (*rule) {
        if (rank == ZOE_MAX_RANK) return -1;
        int64_t axis = 1;
        const char *start = rule;
        while (*rule && *rule != ' ') {
            if (isdigit((unsigned char)*rule)) {
                char *end;
                axis *= strtoll(rule, &end, 10);
                rule = end;
            } else if (isupper((unsigned char)*rule)) {
                axis *= dims[*rule++ - 'A'];
            } else {
                return -1;
            }
        }
        if (rule == start) return -1;
        shape[rank++] = axis;
        if (*rule == ' ') rule++;
    }
    return rank;
}

/* Matches `name` against a pattern with '*' for digits; *rest is what follows (empty, or from a dot on). */
static bool match(const char *pattern, const char *name, const char *digits[4], size_t lengths[4], const char **rest) {
    int stars = 0;
    for (; *pattern; pattern++) {
        if (*pattern != '*') {
            if (*name++ != *pattern) return false;
            continue;
        }
        size_t length = strspn(name, "0123456789");
        if (length == 0 || stars == 4) return false;
        digits[stars] = name;
        lengths[stars++] = length;
        name += length;
    }
    *rest = name;
    return *name == 0 || *name == '.';
}

static bool append(char *out, size_t size, size_t *used, const char *text, size_t length) {
    if (*used + length >= size) return false;
    memcpy(out + *used, text, length);
    *used += length;
    out[*used] = 0;
    return true;
}

/* Writes a row's other name with the digits that matched; false if it does not fit. */
static bool expand(const zoe_alias *alias, const char *const digits[4], const size_t lengths[4], const char *rest,
                   char *other, size_t size, zoe_part *part) {
    size_t used = 0;
    int star = 0;
    const char *p = alias->other;
    *part = (zoe_part){0, -1, 1};
    for (; *p && *p != '@'; p++) {
        bool ok = *p == '*' ? append(other, size, &used, digits[star], lengths[star]) : append(other, size, &used, p, 1);
        if (!ok) return false;
        star += *p == '*';
    }
    if (*p == '@' && sscanf(p, "@%d/%d", &part->first, &part->of) != 2 &&
        sscanf(p, "@%d+%d/%d", &part->first, &part->second, &part->of) != 3)
        return false;
    return append(other, size, &used, rest, strlen(rest));
}

const zoe_alias *zoe_alias_next(const zoe_alias *aliases, const char *name, char *other, size_t size, zoe_part *part) {
    for (const zoe_alias *alias = aliases; alias && alias->name; alias++) {
        const char *digits[4], *rest;
        size_t lengths[4];
        if (match(alias->name, name, digits, lengths, &rest) && expand(alias, digits, lengths, rest, other, size, part))
            return alias + 1;
    }
    return NULL;
}
