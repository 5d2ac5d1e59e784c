/* A Wan model folder opened: its parts, and what a request leaves from phase to phase. */
#ifndef ZOE_MODELS_WAN_MODEL_H
#define ZOE_MODELS_WAN_MODEL_H

#include "formats/tokenizer.h"
#include "media/media.h"
#include "models/family.h"
#include "models/wan/denoiser.h"
#include "models/wan/vae.h"
#include "nn/clip.h"
#include "nn/t5.h"

/* What Wan-AI recommends for each published kind of model. */
typedef struct wan_kind {
    const char *name;
    int32_t width, height, frames; /* width and height: an area where a picture gives the shape */
    double fps;
    int32_t steps;
    double guidance, guidance_2;
    double flow_shift, boundary; /* where the folder has no scheduler configuration or model index */
} wan_kind;

/* Keys and values of both prompts for one expert. */
typedef struct wan_contexts {
    zoe_wan_context positive, negative;
} wan_contexts;

typedef struct wan_model {
    zoe_backend *be;
    char *path;
    const wan_kind *kind;
    bool expand_timesteps; /* TI2V: a picture replaces the first latent frame, whose tokens have timestep 0 */
    bool joins_image;      /* mask and encoded pictures are joined to the latents */
    double boundary;       /* share of the schedule above which the first of two experts works */
    double clip_mean[3], clip_std[3];
    zoe_schedule_config schedule;
    zoe_request defaults; /* numbers and the negative prompt */
    char *negative;       /* of the defaults, if the folder gives one */
    zoe_tokenizer *tokenizer;
    zoe_checkpoint *text_ckpt, *clip_ckpt, *vae_ckpt, *denoiser_ckpts[2];
    zoe_t5 *text;
    zoe_clip *clip;
    zoe_wan_vae *vae;
    zoe_wan_denoiser *denoisers[2]; /* the second is the expert for low noise, or NULL */

    /* of the request under way */
    zoe_picture pictures[2]; /* first and last; rgb NULL: none */
    zoe_prompt prompts[2];   /* positive and negative */
    float *features;         /* [feature_rows, width] of CLIP */
    int64_t feature_rows;
    zoe_tensor condition; /* encoded pictures [channels, frames, height, width], in the backend's own memory */
    zoe_tensor mask;      /* [4, frames, height, width], on the arena */
    zoe_wan_grid grid;
    wan_contexts contexts;
    int expert;  /* whose contexts these are; -1: none yet */
    size_t mark; /* of the arena, before denoising */
} wan_model;

/* ---- opening ---- */

int zoe_wan_open(zoe_backend *be, const zoe_folder *folder, const zoe_linear_policy *linear, void **model);
void zoe_wan_close(void *model);

/* Opens the parts in whichever layout the folder has. */
int zoe_wan_open_parts(wan_model *m, const zoe_folder *folder, const zoe_linear_policy *linear);
/* True for Wan-AI's own layout. */
bool zoe_wan_is_original(const zoe_folder *folder);

/* ---- pictures ---- */

/* Reads the request's pictures and, where it gives no size, chooses one of their shape in steps of `step` pixels. */
int zoe_wan_take_pictures(wan_model *m, zoe_request *request, int64_t step);
/* CLIP features and encoded pictures. */
int zoe_wan_encode_pictures(wan_model *m, zoe_run *run);
/* The mask that says which latent frames are given, on the arena. */
int zoe_wan_make_mask(wan_model *m, const zoe_run *run);

/* ---- benchmarks ---- */

int zoe_wan_bench(zoe_backend *be, const zoe_config *config, const zoe_bench_settings *settings, zoe_bench_task *task);

#endif
