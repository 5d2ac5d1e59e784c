#ifndef ZOE_SAMPLE_SAMPLER_INTERNAL_H
#define ZOE_SAMPLE_SAMPLER_INTERNAL_H

#include "sample/sampler.h"

struct zoe_sampler {
    zoe_backend *be;
    zoe_schedule_config config;
    int steps;
    double *sigmas, *timesteps;
    double *alphas;     /* diffusion: a_t of the training steps */
    int order;          /* of the step before, for its corrector */
    zoe_tensor data[3]; /* predictions of x0: of this step, the one before, and two before; they rotate */
    zoe_tensor last;    /* the sample that the step before started from; solvers that draw: this step's noise */
    zoe_generator *generator;
    float *drawn; /* noise on the host */
};

/* Fills sigmas and timesteps. */
void zoe_sampler_schedule(zoe_sampler *s);

/* Fresh normal numbers into `last`. */
int zoe_sampler_draw(zoe_sampler *s);

/* The schedule, and a step, for diffusion models. */
bool zoe_solver_diffuses(zoe_solver solver);
int zoe_diffusion_schedule(zoe_sampler *s);
int zoe_diffusion_step(zoe_sampler *s, int step, zoe_tensor *x, const zoe_tensor *v);

#endif
