/* Numbers in texts that people write. */
#ifndef ZOE_BASE_NUMBER_H
#define ZOE_BASE_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

/* Reads decimal digits up to the first other character; false if there are none or the number is too large. */
bool zoe_read_digits(const char **text, uint64_t *out);

/* Reads a decimal number such as -1.5e3, whatever the locale; hexadecimal, infinity, NaN and overflow are refused. */
bool zoe_read_real(const char **text, double *out);

#endif
