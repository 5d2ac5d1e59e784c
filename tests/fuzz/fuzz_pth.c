/* PyTorch archives: zip directory and all. */
#include "formats/checkpoint.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    zoe_context *ctx = fuzz_context();
    zoe_checkpoint *ckpt = NULL;
    char path[64];
    volatile uint8_t sum = 0;
    if (size < 4) size = 0;
    uint8_t *copy = malloc(size ? size : 1);
    fuzz_expect(copy != NULL);
    if (size) {
        memcpy(copy, data, size);
        memcpy(copy, "PK\3\4", 4); /* without which it would be taken for safetensors */
    }
    int fd = fuzz_file(copy, size, path);
    int status = zoe_checkpoint_open(ctx, path, &ckpt);
    fuzz_expect(status < 0 ? !ckpt && *zoe_context_error(ctx) : ckpt != NULL);
    for (size_t i = 0; ckpt && i < zoe_checkpoint_count(ckpt); i++) {
        const zoe_entry *entry = zoe_checkpoint_at(ckpt, i);
        fuzz_expect(entry->offset <= size && entry->bytes <= size - entry->offset);
        for (size_t k = 0; k < entry->bytes; k++) sum = (uint8_t)(sum + ((const uint8_t *)entry->data)[k]);
    }
    zoe_checkpoint_close(ckpt);
    close(fd);
    free(copy);
    zoe_context_free(ctx);
    return 0;
}
