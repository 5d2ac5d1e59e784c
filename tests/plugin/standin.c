/* A plug-in without a device, for the tests of loading: LAYOUT is what it says of itself. */
#include "backend/plugin.h"

static int count(zoe_context *ctx, int *out) {
    (void)ctx;
    *out = 7;
    return ZOE_OK;
}

ZOE_API const zoe_plugin *zoe_backend_plugin(void);

const zoe_plugin *zoe_backend_plugin(void) {
    static const zoe_plugin plugin = {.layout = LAYOUT,
                                      .backend_size = sizeof(zoe_backend),
                                      .context_size = sizeof(zoe_context),
                                      .count = count};
    return &plugin;
}
