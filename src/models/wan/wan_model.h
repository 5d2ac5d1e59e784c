/* A Wan model folder opened: its parts, and what a request leaves from phase to phase. */
#ifndef ZOE_MODELS_WAN_MODEL_H
#define ZOE_MODELS_WAN_MODEL_H

#include "formats/tokenizer.h"
#include "models/family.h"
#include "models/wan/denoiser.h"
#include "models/wan/vae.h"
#include "nn/t5.h"

/* A prompt's states without padding. */
typedef struct wan_text {
    float *states; /* [count, text_dim] on the host */
    int count;
} wan_text;

typedef struct wan_model {
    zoe_backend *be;
    char *path;
    char variant[64];
    bool expand_timesteps; /* TI2V: tokens of the first frame have timestep 0 when a picture is given */
    zoe_schedule_config schedule;
    zoe_request defaults; /* numbers only */
    zoe_tokenizer *tokenizer;
    zoe_checkpoint *text_ckpt, *denoiser_ckpt, *vae_ckpt;
    zoe_t5 *text;
    zoe_wan_denoiser *denoiser;
    zoe_wan_vae *vae;

    /* of the request under way */
    wan_text positive, negative;
    zoe_wan_grid grid;
    zoe_wan_context positive_context, negative_context;
    size_t mark; /* of the arena, before denoising */
} wan_model;

int zoe_wan_open(zoe_backend *be, const zoe_folder *folder, zoe_dtype weight_dtype, void **model);
void zoe_wan_close(void *model);

#endif
