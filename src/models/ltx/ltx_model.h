/* An LTX-Video model folder opened: its parts, and what a request leaves from phase to phase. */
#ifndef ZOE_MODELS_LTX_MODEL_H
#define ZOE_MODELS_LTX_MODEL_H

#include "formats/tokenizer.h"
#include "media/media.h"
#include "models/family.h"
#include "models/ltx/denoiser.h"
#include "models/ltx/upsampler.h"
#include "models/ltx/vae.h"
#include "nn/t5.h"

#define ZOE_LTX_CONDITIONS 16                       /* most pictures and clips of a request */
#define ZOE_LTX_FRONTS     (2 * ZOE_LTX_CONDITIONS) /* most latent frames in front of the video's */

/* A picture or clip of a request. */
typedef struct ltx_condition {
    char *path;
    bool still;     /* only the first frame counts */
    int64_t frame;  /* of the video, that it begins at */
    float strength; /* over 0, up to 1 */
    float *latents; /* [latent_frames, height, width, channels] on the host */
    int64_t latent_frames;
    int64_t in_front, place; /* how many latents go in front, and where in the video's the others go */
} ltx_condition;

typedef struct ltx_model {
    zoe_backend *be;
    char *path;
    char variant[64];
    bool keyframes;  /* from 0.9.5 on: another schedule, longer text, pictures at any frame */
    bool causal;     /* positions in time: latent frame 0 is one frame of the video */
    bool distilled;  /* made for few steps without guidance */
    double tone_map; /* of enlarged latents, as published for the version */
    zoe_schedule_config schedule;
    zoe_request defaults; /* numbers only */
    zoe_tokenizer *tokenizer;
    zoe_checkpoint *text_ckpt, *denoiser_ckpt, *vae_ckpt;
    zoe_t5 *text;
    zoe_ltx_denoiser *denoiser;
    zoe_ltx_vae *vae;

    /* of the request under way */
    int64_t size[3];       /* latent frames, height, width */
    zoe_prompt prompts[2]; /* positive and negative */
    ltx_condition conditions[ZOE_LTX_CONDITIONS];
    int condition_count;
    float *noise;         /* drawn before the pictures were encoded, [channels, frames, height, width]; or NULL */
    float *start;         /* the latents that denoising starts from [frames * height * width, channels]; or NULL */
    float *strength;      /* of the conditions, by latent frame; NULL: there are none */
    float *front_latents; /* latents in front of the video's, on the host */
    zoe_tensor front;     /* the same in the backend's own memory; rank 0: none */
    int64_t fronts;       /* how many frames of them */
    int64_t front_pixels[ZOE_LTX_FRONTS];
    float front_strength[ZOE_LTX_FRONTS];
    zoe_checkpoint *upsampler_ckpt;
    zoe_ltx_upsampler *upsampler;
    zoe_schedule_config second;   /* of the second pass */
    float levels[ZOE_LTX_LEVELS]; /* the strengths that there are, 0 first */
    int level_count;
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

/* ---- pictures and clips, and the latents that they leave (conditions.c) ---- */

/* Lists the request's pictures and clips and, where it gives no size, chooses one of their shape in steps of `step`. */
int zoe_ltx_take_conditions(ltx_model *m, zoe_request *request, int step);
int zoe_ltx_check_conditions(const ltx_model *m, const zoe_request *request);
int zoe_ltx_encode_conditions(ltx_model *m, zoe_run *run);
int zoe_ltx_start_latents(ltx_model *m, zoe_run *run, bool given, float *latents);
/* For the second pass: once more at its size, with noise of its own. */
int zoe_ltx_encode_again(ltx_model *m, zoe_run *run);
void zoe_ltx_forget_latents(ltx_model *m); /* but not what the request lists */
void zoe_ltx_free_conditions(ltx_model *m);

/* Fills m->levels; (*groups)[tokens], freed by the caller: the level of each token. NULL: all are of one. */
int zoe_ltx_group_tokens(ltx_model *m, int32_t **groups);
/* The timestep that latents of a strength are at while the video's are at `timestep`, and whether they move with it. */
double zoe_ltx_timestep(float strength, double timestep);
bool zoe_ltx_moves(float strength, double timestep);
/* Before a step: what is given at full strength as it was, with the noise that the request adds to it. */
int zoe_ltx_restore(ltx_model *m, zoe_run *run, double timestep, zoe_tensor *x);

/* ---- two passes (refine.c) ---- */

/* Where the request names an upsampler: opens it, halves m->size, and sets up the schedules of both passes. */
int zoe_ltx_prepare_passes(ltx_model *m, const zoe_request *request, zoe_run *run);
/* From the latents of the first pass to those that the second starts from, as zoe_family has it. */
int zoe_ltx_enlarge(ltx_model *m, zoe_run *run, const zoe_tensor *latents, float **start);

#endif
