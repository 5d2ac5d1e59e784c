/* Files that appear under their name only when they are complete. */
#ifndef ZOE_FORMATS_FILE_H
#define ZOE_FORMATS_FILE_H

#include "base/context.h"

/*
 * Creates a fresh file in the folder of `path`, to be renamed to `path` when it is complete. *name is its path, freed by
 * zoe_free(). fd may be NULL: the file is then left empty and closed.
 */
int zoe_file_beside(zoe_context *ctx, const char *path, char **name, int *fd);

#endif
