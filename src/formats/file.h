/* Whole files in, and files that appear under their name only when they are complete. */
#ifndef ZOE_FORMATS_FILE_H
#define ZOE_FORMATS_FILE_H

#include "base/context.h"

/*
 * Creates a fresh file in the folder of `path`, to be renamed to `path` when it is complete. *name is its path, freed by
 * zoe_free(). fd may be NULL: the file is then left empty and closed.
 */
int zoe_file_beside(zoe_context *ctx, const char *path, char **name, int *fd);

/*
 * Reads a regular file of at most `limit` bytes; what it is ("a configuration") stands in the error of a larger one. *data
 * is freed by zoe_free() and has a NUL behind its *size bytes.
 */
int zoe_file_read(zoe_context *ctx, const char *path, const char *what, size_t limit, char **data, size_t *size);

#endif
