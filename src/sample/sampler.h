/*
 * Schedules and solvers for flow models, x_sigma = (1 - sigma) x0 + sigma noise, which predict v = noise - x0.
 *
 * UniPC (Zhao et al. 2023), order 2, bh2, data prediction, with corrector; and the Euler step.
 */
#ifndef ZOE_SAMPLE_SAMPLER_H
#define ZOE_SAMPLE_SAMPLER_H

#include "backend/backend.h"
#include "formats/json.h"

typedef enum zoe_solver { ZOE_SOLVER_UNIPC, ZOE_SOLVER_EULER } zoe_solver;

typedef struct zoe_schedule_config {
    zoe_solver solver;
    double flow_shift;
    int64_t train_steps;    /* 1000 */
    int order;              /* of UniPC: 1 or 2 */
    bool lower_order_final; /* UniPC: the last step is of order 1 */
    double shift_terminal;  /* Euler: the schedule is stretched to end here; 0: not */
} zoe_schedule_config;

/* From a diffusers scheduler_config.json; what is not supported is an error that names the key. */
int zoe_schedule_config_read(const zoe_config *config, zoe_schedule_config *out);

typedef struct zoe_sampler zoe_sampler;

/* For latents of this dense shape, float32. The history is kept in the backend's own memory. */
int zoe_sampler_create(zoe_backend *be, const zoe_schedule_config *config, int steps, int rank, const int64_t *shape,
                       zoe_sampler **out);
void zoe_sampler_free(zoe_sampler *sampler);

int zoe_sampler_steps(const zoe_sampler *sampler);
const double *zoe_sampler_sigmas(const zoe_sampler *sampler);    /* [steps + 1], the last 0 */
const double *zoe_sampler_timesteps(const zoe_sampler *sampler); /* [steps], what the denoiser is told */

/* One step, in order from 0: x from sigma[i] to sigma[i + 1], by the velocity v at x. */
int zoe_sampler_step(zoe_sampler *sampler, int step, zoe_tensor *x, const zoe_tensor *v);

/* v = u + scale (c - u), in place of c. */
int zoe_guide(zoe_backend *be, zoe_tensor *c, const zoe_tensor *u, double scale);

#endif
