/* A CogVideoX model folder opened: its parts, and what a request leaves from phase to phase. */
#ifndef ZOE_MODELS_COGVIDEOX_MODEL_H
#define ZOE_MODELS_COGVIDEOX_MODEL_H

#include "formats/tokenizer.h"
#include "media/media.h"
#include "models/cogvideox/denoiser.h"
#include "models/cogvideox/vae.h"
#include "models/family.h"
#include "nn/t5.h"

typedef struct cogvideox_model {
    zoe_backend *be;
    char *path;
    char variant[64];
    bool joins_image;  /* the encoded picture is joined to the latents */
    int latent_frames; /* of the video itself; denoising may have one more in front */
    zoe_schedule_config schedule;
    zoe_request defaults; /* numbers only */
    zoe_tokenizer *tokenizer;
    zoe_checkpoint *text_ckpt, *denoiser_ckpt, *vae_ckpt;
    zoe_t5 *text;
    zoe_cogvideox_denoiser *denoiser;
    zoe_cogvideox_vae *vae;

    /* of the request under way */
    zoe_picture picture;
    zoe_prompt prompts[2]; /* positive and negative */
    zoe_tensor condition;  /* [frames, channels, height, width], the picture first, in the backend's own memory */
    zoe_cogvideox_grid grid;
    zoe_tensor words[2]; /* the prompts as tokens, on the arena */
    size_t mark;         /* of the arena, before denoising */
} cogvideox_model;

int zoe_cogvideox_open(zoe_backend *be, const zoe_folder *folder, const zoe_linear_policy *linear, void **model);
void zoe_cogvideox_close(void *model);

/* ---- the authors' own layout (layout.c) ---- */

bool zoe_cogvideox_is_original(const zoe_folder *folder);
int zoe_cogvideox_open_original(cogvideox_model *m, const zoe_folder *folder, const zoe_linear_policy *linear);

int zoe_cogvideox_bench(zoe_backend *be, const zoe_config *config, const zoe_bench_settings *settings,
                        zoe_bench_task *task);

#endif
