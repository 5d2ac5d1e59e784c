/*
 * What a request takes, known before it runs: the very code of zoe_generate() over the backend that computes nothing.
 */
#ifndef ZOE_PIPELINE_PLAN_H
#define ZOE_PIPELINE_PLAN_H

#include "pipeline/model.h"

/* Counted in one phase; all bytes. */
typedef struct zoe_phase_use {
    int steps;
    int64_t activations;   /* most that the arena held */
    int64_t weights;       /* most that was loaded at a time */
    int64_t least_weights; /* smallest budget of weights under which the phase runs */
    int64_t loaded;        /* weights loaded, again and again where they stream */
    zoe_work work;
} zoe_phase_use;

typedef struct zoe_plan {
    zoe_phase_use phases[ZOE_PHASE_COUNT];
    zoe_result shape;  /* width, height, frames, fps as the request comes out */
    int64_t base;      /* of the process as it stands: code, libraries */
    int64_t workspace; /* of the kernels */
    int64_t output;    /* of the video encoder, an estimate */
} zoe_plan;

/* zoe_generate() with the counts of each phase; budgets by phase, or NULL. */
int zoe_generate_counted(zoe_model *model, const zoe_request *request, const int64_t *budgets, zoe_result *result,
                         zoe_phase_use use[ZOE_PHASE_COUNT]);

/* Plans a request on a twin of the model; budgets by phase, or NULL. */
int zoe_plan_make(zoe_model *model, const zoe_request *request, const int64_t *budgets, zoe_plan *out);

/* The phase's peak of host memory. */
int64_t zoe_plan_peak(const zoe_plan *plan, zoe_phase phase);

/*
 * What is left for weights in each phase under the model's --ram; ZOE_ERR_BUDGET, naming the smallest budget that works,
 * when it is not enough. The plan is one without budgets.
 */
int zoe_plan_budgets(const zoe_model *model, const zoe_plan *plan, int64_t budgets[ZOE_PHASE_COUNT]);

#endif
