#include "formats/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int zoe_file_beside(zoe_context *ctx, const char *path, char **name, int *fd) {
    int descriptor = -1;
    *name = NULL;
    for (int attempt = 0; descriptor < 0 && attempt < 1000; attempt++) {
        zoe_free(ctx, *name);
        *name = zoe_format(ctx, "%s.part-%ld-%d", path, (long)getpid(), attempt);
        if (!*name) return zoe_out_of_memory(ctx, strlen(path) + 32, "path");
        descriptor = open(*name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor < 0 && errno != EEXIST) break;
    }
    if (descriptor < 0) {
        int status = zoe_fail(ctx, ZOE_ERR_IO, "cannot write %s: %m", path);
        zoe_free(ctx, *name);
        *name = NULL;
        return status;
    }
    if (fd)
        *fd = descriptor;
    else
        close(descriptor);
    return ZOE_OK;
}
