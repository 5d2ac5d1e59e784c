/* Matrices that are quantised in their file, bound as int8, fp8, int4 or nvfp4, loaded and multiplied with. */
#include "formats/checkpoint.h"
#include "fuzz.h"
#include "weights/weights.h"

enum { IN = 64, OUT = 32 };

typedef struct layer {
    zoe_tensor weight;
} layer;

static const zoe_slot slots[] = {{"weight", offsetof(layer, weight), ZOE_SLOT_LINEAR, "O I", 0}, {0}};

static int multiply(zoe_backend *be, layer *l) {
    zoe_tensor x, y;
    static const float ones[2 * IN] = {1, -1, 0.5f};
    size_t mark = zoe_arena_mark(be);
    ZOE_TRY(ZOE_NEW(be, &x, ZOE_F32, 2, IN));
    ZOE_TRY(ZOE_NEW(be, &y, ZOE_F32, 2, OUT));
    ZOE_TRY(zoe_upload(be, &x, ones));
    int status = zoe_op_linear(be, &y, &x, &l->weight, NULL);
    zoe_arena_release(be, mark);
    return status;
}

static int use(zoe_backend *be, const zoe_checkpoint *ckpt) {
    zoe_dims dims = {['I' - 'A'] = IN, ['O' - 'A'] = OUT};
    zoe_weights *weights;
    layer l = {0};
    ZOE_TRY(zoe_weights_create(be, ckpt, "layer", NULL, ZOE_FORM_NATIVE, &weights));
    int status = zoe_weights_unit(weights);
    if (status >= 0) status = zoe_weights_bind(weights, slots, dims, &l, "%s", "");
    if (status >= 0) status = zoe_weights_check(weights);
    if (status >= 0) status = zoe_weights_acquire(weights, 0);
    if (status >= 0) {
        fuzz_expect(l.weight.shape[0] == OUT && l.weight.shape[1] == IN);
        status = multiply(be, &l);
        status = zoe_weights_release(weights, 0, status);
    }
    zoe_weights_free(weights);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static zoe_context *ctx;
    static zoe_backend *be;
    zoe_checkpoint *ckpt;
    char path[64];
    if (!ctx) ctx = fuzz_context();
    if (!be) fuzz_expect(zoe_cpu_backend_create(ctx, (size_t)1 << 24, &be) == ZOE_OK);
    int fd = fuzz_file(data, size, path);
    if (zoe_checkpoint_open(ctx, path, &ckpt) == ZOE_OK) {
        int status = use(be, ckpt);
        fuzz_expect(status >= 0 || *zoe_context_error(ctx));
        fuzz_expect(be->weights.held == 0);
        zoe_checkpoint_close(ckpt);
    }
    close(fd);
    return 0;
}
