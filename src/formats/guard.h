/*
 * Guarded mappings: what zoe_guard_mappings() does for the files that are mapped after it. Where it was not called, files
 * are not guarded and all of this does nothing.
 */
#ifndef ZOE_FORMATS_GUARD_H
#define ZOE_FORMATS_GUARD_H

#include <stdbool.h>
#include <stddef.h>

/* Guards a mapping until zoe_guard_remove(), which comes before munmap(); returns its number, -1: it is not guarded. */
int zoe_guard_add(const void *data, size_t size);
void zoe_guard_remove(int number);

/* A page of the mapping could not be had, so all of it is zeros since. */
bool zoe_guard_lost(int number);
/* The mapping was renewed. */
void zoe_guard_renewed(int number);

#endif
