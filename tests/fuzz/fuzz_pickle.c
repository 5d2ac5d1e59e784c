/* The pickle machine alone: quicker than through an archive. */
#include "formats/pickle.h"
#include "fuzz.h"

static int visit(void *user, const zoe_pickle_tensor *tensor) {
    volatile uint8_t *sum = user;
    fuzz_expect(tensor->rank >= 0 && tensor->rank <= ZOE_MAX_RANK && tensor->offset >= 0);
    for (int i = 0; i < tensor->rank; i++) fuzz_expect(tensor->shape[i] >= 0 && tensor->stride[i] >= 0);
    for (size_t i = 0; i < tensor->name.length; i++) *sum = (uint8_t)(*sum + (uint8_t)tensor->name.data[i]);
    for (size_t i = 0; i < tensor->storage.length; i++) *sum = (uint8_t)(*sum + (uint8_t)tensor->storage.data[i]);
    return ZOE_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    zoe_context *ctx = fuzz_context();
    uint8_t sum = 0;
    int status = zoe_pickle_read(ctx, "input", data, size, visit, &sum);
    fuzz_expect(status >= 0 || *zoe_context_error(ctx));
    zoe_context_free(ctx);
    return 0;
}
