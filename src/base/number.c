#include "base/number.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool zoe_read_digits(const char **text, uint64_t *out) {
    if (**text < '0' || **text > '9') return false;
    char *end;
    errno = 0;
    *out = strtoull(*text, &end, 10);
    *text = end;
    return errno == 0;
}

bool zoe_read_real(const char **text, double *out) {
    size_t length = strspn(*text, "+-.0123456789eE");
    if (length == 0) return false;
    char *end;
    locale_t c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c_locale) return false;
    *out = strtod_l(*text, &end, c_locale);
    freelocale(c_locale);
    if (end == *text || end > *text + length || !isfinite(*out)) return false;
    *text = end;
    return true;
}
