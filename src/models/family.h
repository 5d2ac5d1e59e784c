/*
 * Model families: how the pipeline drives any of them. A family is one row of zoe_families[] and one folder beside this
 * file; nothing above knows more of it than this table, and it knows nothing of the tiers of memory or of other families.
 */
#ifndef ZOE_MODELS_FAMILY_H
#define ZOE_MODELS_FAMILY_H

#include "formats/checkpoint.h"
#include "formats/json.h"
#include "formats/tokenizer.h"
#include "media/media.h"
#include "nn/film.h"
#include "nn/t5.h"
#include "sample/sampler.h"

/* A model being looked at: a folder, or a file that holds several networks. */
typedef struct zoe_folder {
    zoe_context *ctx;
    const char *path;      /* of the folder, or of the one that the file is in */
    const char *file;      /* path of the file, or NULL */
    zoe_checkpoint *whole; /* what the file holds, or NULL */
    const char *text;      /* folder of the text encoder and tokenizer, or NULL: `path` */
    zoe_config index;      /* model_index.json; root NULL if the folder has none */
} zoe_folder;

/* The forms that the linear weights of a model's parts take; what is not named here stays as the files have it. */
typedef struct zoe_linear_policy {
    zoe_weight_form denoiser, text;
} zoe_linear_policy;

/* The policy that the setting `linear` names; NULL: native. */
int zoe_linear_policy_find(zoe_context *ctx, const char *name, zoe_linear_policy *out);

/* What a family says of a folder without loading it; strings are static or live as long as the model. */
typedef struct zoe_description {
    const char *family;  /* "Wan" */
    const char *variant; /* "Wan 2.1 T2V 1.3B" */
    bool takes_image, takes_last_image, takes_conditions, takes_upsampler;
    char sizes[96]; /* rules for sizes and frame counts, in words */
} zoe_description;

/* One request under way, as the pipeline shares it with the family. */
typedef struct zoe_run {
    zoe_context *ctx;
    zoe_backend *be;
    const zoe_request *request;   /* every default filled in */
    zoe_safetensors_writer *dump; /* or NULL */
    int latent_rank;
    int64_t latent_shape[ZOE_MAX_RANK]; /* without a batch axis; set by the family's prepare() */
    zoe_schedule_config schedule;       /* set by prepare() */
    int second_steps;                   /* of a second pass over larger latents; 0: there is none */
    zoe_generator generator;            /* seeded; all draws of a request come from it, in the reference's order */
    zoe_tiling tiling;                  /* of the VAE's frames */
    /* Receives decoded frames [height, width, 3] float32 in -1..1, in order. */
    int (*frame)(struct zoe_run *run, const float *frame);
} zoe_run;

/* One network of a family on random weights and data, to be timed. */
typedef struct zoe_bench_task {
    void *state;
    int (*run)(void *state);    /* one forward, one decoded clip, one encoded prompt */
    void (*close)(void *state); /* state may be NULL */
    int64_t weight_bytes;
} zoe_bench_task;

typedef struct zoe_family {
    const char *name;

    bool (*recognises)(const zoe_folder *folder);

    /* Opens all parts, checks every tensor by name and shape, maps the weights; `linear` says what they turn into. */
    int (*open)(zoe_backend *be, const zoe_folder *folder, const zoe_linear_policy *linear, void **model);
    void (*close)(void *model);
    void (*describe)(const void *model, zoe_description *out);

    /* The model's defaults; width and height stay 0 where they follow the request. */
    void (*defaults)(const void *model, zoe_request *request);

    /*
     * Fills what is still open (size by the picture), checks the request, says what would be valid instead, and sets
     * up the run: latent shape and schedule.
     */
    int (*prepare)(void *model, zoe_request *request, zoe_run *run);

    /* The phases in their order. What one leaves for the next the model keeps until finish(). */
    int (*encode_text)(void *model, zoe_run *run);
    int (*encode_image)(void *model, zoe_run *run); /* called if the request has a picture */
    /*
     * The latents that denoising starts from, on the host: `given` by the request, or to be drawn; what the picture fixes
     * is put in place. NULL: normal numbers as they come.
     */
    int (*start_latents)(void *model, zoe_run *run, bool given, float *latents);
    int (*denoise_begin)(void *model, zoe_run *run);
    /*
     * v receives the guided velocity for the latents x at this step of the schedule. Where the request fixes latents, the
     * family may put them back into x.
     */
    int (*denoise)(void *model, zoe_run *run, const zoe_sampler *sampler, int step, zoe_tensor *x, zoe_tensor *v);
    /* Last changes to the latents; releases what denoising held. */
    int (*denoise_end)(void *model, zoe_run *run, zoe_tensor *x);
    /*
     * For a second pass, where prepare() set one up: sets the run up for it, and gives the latents that it starts from,
     * freed by zoe_free(). NULL: the family has none.
     */
    int (*enlarge)(void *model, zoe_run *run, const zoe_tensor *latents, float **start);
    int (*decode)(void *model, zoe_run *run, const zoe_tensor *latents);
    /* Releases what belongs to the request, after success and failure. */
    void (*finish)(void *model);

    /* The weights of network number `index`, in the order of their use; NULL past the last. */
    zoe_weights *(*weights)(void *model, int index);

    /*
     * Makes a task of the network that `config` describes, with the sizes and the type of weights that the settings ask
     * for. ZOE_ERR_UNSUPPORTED if the network is not of this family.
     */
    int (*bench)(zoe_backend *be, const zoe_config *config, const zoe_bench_settings *settings, zoe_bench_task *task);
} zoe_family;

extern const zoe_family *const zoe_families[]; /* ends with NULL */

/* The family of a folder; an error says what was expected. */
int zoe_family_find(const zoe_folder *folder, const zoe_family **out);

/* Opens folder/name as a checkpoint and folder/name/config.json as a configuration. */
int zoe_part_open(const zoe_folder *folder, const char *name, zoe_config *config, zoe_checkpoint **ckpt);

/* Loads the configuration folder/name. */
int zoe_part_config(const zoe_folder *folder, const char *name, zoe_config *config);
int zoe_part_tokenizer(const zoe_folder *folder, const char *name, zoe_tokenizer **tokenizer);

/* Tokenizer and T5 text encoder of a diffusers folder, or of a folder that is both. What was opened before a failure is the
 * caller's to close too. */
int zoe_part_text(const zoe_folder *folder, zoe_backend *be, const zoe_alias *aliases, zoe_weight_form form,
                  zoe_tokenizer **tokenizer, zoe_checkpoint **ckpt, zoe_t5 **text);

/* A tensor on the host as one entry of the dump; no dump: nothing happens. */
int zoe_run_dump(zoe_run *run, const char *name, int rank, const int64_t *shape, const float *data);

/* ---- what all families do with a request (requests.c) ---- */

/* The multiple of `step` that is nearest to a size, not 0. */
int32_t zoe_nearest_size(int32_t size, int64_t step);

/* Refuse, with the nearest that is valid: sizes that are no multiples of these steps; frames other than factor n + 1. */
int zoe_check_size(zoe_context *ctx, const zoe_request *request, int64_t width_step, int64_t height_step);
int zoe_check_frames(zoe_context *ctx, const zoe_request *request, int64_t factor);

/* Whether the negative prompt is used. */
bool zoe_guided(const zoe_request *request);

/* A prompt's hidden states on the host. */
typedef struct zoe_prompt {
    float *states; /* [rows, width]: of the prompt's `count` rows, and of padding where that is read or wanted */
    int count;
} zoe_prompt;

typedef enum zoe_padding {
    ZOE_PADDING_NONE,   /* the encoder sees none; up to `most` rows of zeros follow */
    ZOE_PADDING_MASKED, /* the encoder does not attend to it; its rows are wanted by the dump alone */
    ZOE_PADDING_READ,   /* it takes part like any other token, up to `most` rows */
} zoe_padding;

typedef struct zoe_prompt_form {
    zoe_tokenizer *tokenizer;
    zoe_t5 *text;
    int most; /* rows */
    zoe_padding padding;
    bool clean; /* the text is cleaned first */
} zoe_prompt_form;

/* The prompt and, with guidance, the negative one; the encoder's weights leave. Dumps both. */
int zoe_encode_prompts(zoe_run *run, const zoe_prompt_form *form, zoe_prompt out[2]);
void zoe_prompts_free(zoe_context *ctx, zoe_prompt prompts[2]);

/* The picture at this size, by Lanczos' filter: pixels [height, width, 3] in -1..1. */
int zoe_picture_pixels(zoe_context *ctx, const zoe_picture *picture, int width, int height, float *pixels);

#endif
