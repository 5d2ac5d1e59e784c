#include "formats/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
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

static int read_open(zoe_context *ctx, FILE *file, const char *path, const char *what, size_t limit, char **data,
                     size_t *size) {
    struct stat info;
    if (fstat(fileno(file), &info) != 0) return zoe_fail(ctx, ZOE_ERR_IO, "cannot read %s: %m", path);
    if (!S_ISREG(info.st_mode)) return zoe_fail(ctx, ZOE_ERR_IO, "%s is not a regular file", path);
    size_t length = (size_t)info.st_size;
    if (length > limit)
        return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s is not %s: it has %zu bytes, at most %zu are read", path, what, length,
                        limit);
    *data = zoe_alloc(ctx, length + 1);
    if (!*data) return zoe_out_of_memory(ctx, length + 1, path);
    if (fread(*data, 1, length, file) != length) return zoe_fail(ctx, ZOE_ERR_IO, "cannot read %s to its end", path);
    (*data)[length] = 0;
    *size = length;
    return ZOE_OK;
}

int zoe_file_read(zoe_context *ctx, const char *path, const char *what, size_t limit, char **data, size_t *size) {
    *data = NULL;
    FILE *file = fopen(path, "rbe");
    if (!file) return zoe_fail(ctx, ZOE_ERR_IO, "cannot open %s: %m", path);
    int status = read_open(ctx, file, path, what, limit, data, size);
    fclose(file);
    if (status < 0) {
        zoe_free(ctx, *data);
        *data = NULL;
    }
    return status;
}
