/* An LTX-Video model folder opened: its parts, and what a request leaves from phase to phase. */
#ifndef ZOE_MODELS_LTX_MODEL_H
#define ZOE_MODELS_LTX_MODEL_H

#include "formats/tokenizer.h"
#include "media/media.h"
#include "models/family.h"
#include "models/ltx/denoiser.h"
#include "models/ltx/vae.h"
#include "nn/t5.h"

/* A prompt's states without padding. */
typedef struct ltx_text {
    float *states; /* [count, text_dim] on the host */
    int count;
} ltx_text;

typedef struct ltx_model {
    zoe_backend *be;
    char *path;
    char variant[64];
    bool conditions; /* from 0.9.5 on: another schedule, longer text, pictures at any frame */
    bool causal;     /* positions in time: latent frame 0 is one frame of the video */
    bool distilled;  /* made for few steps without guidance */
    zoe_schedule_config schedule;
    zoe_request defaults; /* numbers only */
    zoe_tokenizer *tokenizer;
    zoe_checkpoint *text_ckpt, *denoiser_ckpt, *vae_ckpt;
    zoe_t5 *text;
    zoe_ltx_denoiser *denoiser;
    zoe_ltx_vae *vae;

    /* of the request under way */
    int64_t size[3];         /* latent frames, height, width */
    zoe_picture pictures[2]; /* first and last; rgb NULL: none */
    ltx_text prompts[2];     /* positive and negative */
    float *noise;            /* drawn before the pictures were encoded, [channels, frames, height, width]; or NULL */
    float *first;            /* latents of the first frame [height * width, channels]; or NULL */
    zoe_tensor last;         /* of the last frame, in the backend's own memory; rank 0: none */
    zoe_ltx_grid grid;
    zoe_ltx_context contexts[2];
    size_t mark; /* of the arena, before denoising */
} ltx_model;

int zoe_ltx_open(zoe_backend *be, const zoe_folder *folder, const zoe_linear_policy *linear, void **model);
void zoe_ltx_close(void *model);

/* ---- a file of Lightricks' own (file.c) ---- */

bool zoe_ltx_is_file(const zoe_folder *folder);
int zoe_ltx_open_file(ltx_model *m, const zoe_folder *folder, const zoe_linear_policy *linear);

int zoe_ltx_bench(zoe_backend *be, const zoe_config *config, const zoe_bench_settings *settings, zoe_bench_task *task);

/* ---- pictures and the latents that they leave (image.c) ---- */

/* Reads the request's pictures and, where it gives no size, chooses one of their shape in steps of `step` pixels. */
int zoe_ltx_take_pictures(ltx_model *m, zoe_request *request, int step);
int zoe_ltx_encode_pictures(ltx_model *m, zoe_run *run);
int zoe_ltx_start_latents(ltx_model *m, zoe_run *run, bool given, float *latents);

#endif
