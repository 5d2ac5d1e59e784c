/*
 * What a request takes, known before it runs: the very code of zoe_generate() over the backend that computes nothing.
 */
#ifndef ZOE_PIPELINE_PLAN_H
#define ZOE_PIPELINE_PLAN_H

#include "pipeline/model.h"

/* What moves and is computed meanwhile: what of it takes longest is the time that it takes. */
typedef struct zoe_moves {
    double seconds;            /* of operations, by the rates of a plan */
    int64_t loaded, from_disk; /* bytes */
} zoe_moves;

/* Counted in one phase; all bytes. */
typedef struct zoe_phase_use {
    int steps;
    int64_t activations;    /* most that the arena held */
    int64_t device;         /* most that was held on the device */
    int64_t workspace;      /* that the processor's kernels touched so far, about */
    int64_t host;           /* most that waited on the host to be used again */
    zoe_weight_use weights; /* peaks, least budgets, and what moved in this phase */
    zoe_work work;
    zoe_moves first; /* of the phase's first step, in which what stays is loaded */
} zoe_phase_use;

/* Bytes of weights that may be held in a phase: in the backend's memory, and in host memory beside a device; 0: any. */
typedef struct zoe_phase_budget {
    int64_t weights, host;
    int parts;     /* in which a VAE decodes frames, where the request leaves that open; 0 and 1: whole */
    int64_t rows;  /* of tokens that a denoiser's layers take at a time; 0: as many as are fastest */
    bool together; /* both branches of a guided step go through each block while its weights are there */
} zoe_phase_budget;

typedef struct zoe_plan {
    zoe_phase_use phases[ZOE_PHASE_COUNT];
    zoe_result shape; /* width, height, frames, fps as the request comes out */
    bool device;      /* weights and activations are in a device's memory */
    int parts;        /* in which zoe_plan_fit() found that the VAE must decode, and the rows for a denoiser's layers */
    int64_t rows;
    bool together;   /* and that both branches of a guided step go through each block together */
    zoe_rates rates; /* at which seconds were counted */
    const char *rates_from;
    int64_t base;   /* of the process as it stands, of its kernels, and of what a driver's libraries add */
    int64_t output; /* of the video encoder, an estimate */
} zoe_plan;

/* zoe_generate() with the counts of each phase; budgets by phase, or NULL. */
int zoe_generate_counted(zoe_model *model, const zoe_request *request, const zoe_phase_budget *budgets, zoe_result *result,
                         zoe_phase_use use[ZOE_PHASE_COUNT]);

/* Plans a request on a twin of the model; budgets by phase, or NULL. */
int zoe_plan_make(zoe_model *model, const zoe_request *request, const zoe_phase_budget *budgets, zoe_plan *out);

/* The phase's peak of host memory. */
int64_t zoe_plan_peak(const zoe_plan *plan, zoe_phase phase);

/* Of a budget of host memory: what allocators and encoders may take more than their plan. */
#define ZOE_HOST_RESERVE ((int64_t)8 << 20)

/*
 * Bytes that a model on the backend may take by its plan: of the host `ram` less the reserve, or what is free where that is
 * 0. 0: no limit.
 */
typedef struct zoe_limits {
    int64_t host, device;
} zoe_limits;

zoe_limits zoe_limits_of(const zoe_backend *be, int64_t ram);

/* Host memory of the process before anything is loaded or computed. */
int64_t zoe_plan_base(const zoe_backend *be);

/*
 * Plans a request so that it meets the model's limits, with the denoiser's layers in as many rows and the VAE in as few
 * parts as that takes, and the branches of guidance together where fewer bytes of weights then move; gives the budgets.
 * plan->base is what the process held before, by zoe_plan_base(). At least one limit must be there; one that cannot be met
 * is an error that names the smallest that can.
 */
int zoe_plan_fit(zoe_model *model, const zoe_request *request, zoe_plan *plan, zoe_phase_budget budgets[ZOE_PHASE_COUNT]);

/*
 * Seconds that a phase takes by its operations, by copies to the device and by reading files; and all of them beside each
 * other, as far as they are: in the first step, and in those after it.
 */
typedef struct zoe_plan_time {
    double compute, copy, disk, all;
    const char *bound; /* "compute", "copy" or "disk": what most of that is spent on */
} zoe_plan_time;

zoe_plan_time zoe_plan_time_of(const zoe_plan *plan, zoe_phase phase);

#endif
