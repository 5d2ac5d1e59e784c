#ifndef ZOE_SAMPLE_SAMPLER_INTERNAL_H
#define ZOE_SAMPLE_SAMPLER_INTERNAL_H

#include "sample/sampler.h"

struct zoe_sampler {
    zoe_backend *be;
    zoe_schedule_config config;
    int steps;
    double *sigmas, *timesteps;
    int order;          /* of the step before, for its corrector */
    zoe_tensor data[3]; /* predictions of x0: of this step, the one before, and two before; they rotate */
    zoe_tensor last;    /* the sample that the step before started from */
};

/* Fills sigmas and timesteps. */
void zoe_sampler_schedule(zoe_sampler *s);

#endif
