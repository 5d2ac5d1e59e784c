/* What the families' single networks on random weights share. */
#ifndef ZOE_MODELS_BENCH_H
#define ZOE_MODELS_BENCH_H

#include "models/family.h"

/* The beginning of a family's state of a task. */
typedef struct zoe_bench_state {
    zoe_backend *be;
    const zoe_bench_settings *settings; /* while the task is made */
    zoe_linear_policy linear;
    zoe_tiling tiling;
    zoe_tensor latents; /* random, on the arena */
    float *host;        /* what goes in or comes out there */
    zoe_t5 *text;
    int32_t *ids;        /* of the tokens to encode */
    int64_t text_tokens; /* how many, as the family says */
} zoe_bench_state;

/* A network that a family can time. */
typedef struct zoe_bench_part {
    const char *what;        /* the settings' `what` */
    const char *key, *value; /* the entry of its configuration that it is known by */
    int (*prepare)(void *state, const zoe_config *config, zoe_weights **weights);
    int (*run)(void *state);
} zoe_bench_part;

/* The task of the part that configuration and settings name; `parts` end with zeros. ZOE_ERR_UNSUPPORTED: none of them. */
int zoe_bench_make(zoe_backend *be, zoe_bench_state *state, const zoe_bench_part *parts, const zoe_config *config,
                   const zoe_bench_settings *settings, zoe_bench_task *task);
void zoe_bench_release(zoe_bench_state *state);

/* Random latents of this shape, of a picture whose sides must be multiples of `step` pixels. */
int zoe_bench_latents(zoe_bench_state *state, const int64_t shape[4], int64_t step);

/* `count` random numbers of about this size in state->host. */
int zoe_bench_host(zoe_bench_state *state, int64_t count, float size);

/* The T5 encoder that several families have. */
int zoe_bench_prepare_text(void *state, const zoe_config *config, zoe_weights **weights);
int zoe_bench_run_text(void *state);

/* A sink for decoded frames. */
int zoe_bench_ignore(void *user, const float *frame);

#endif
