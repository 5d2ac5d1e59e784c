/* Pictures, with whatever FFmpeg takes the bytes for. */
#include "fuzz.h"
#include "media/media.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    zoe_context *ctx = fuzz_context();
    zoe_picture picture, small;
    char path[64];
    int fd = fuzz_file(data, size, path);
    int status = zoe_picture_load(ctx, path, &picture);
    fuzz_expect(status < 0 ? !picture.rgb && *zoe_context_error(ctx)
                           : picture.rgb && picture.width > 0 && picture.height > 0);
    if (status >= 0 && picture.width <= 512 && picture.height <= 512) {
        fuzz_expect(zoe_picture_resize(ctx, &picture, 9, 7, ZOE_FILTER_LANCZOS, &small) >= 0);
        zoe_picture_free(ctx, &small);
    }
    if (status >= 0) zoe_picture_free(ctx, &picture);
    close(fd);
    zoe_context_free(ctx);
    return 0;
}
