/*
 * Schedules and solvers, of two kinds.
 *
 * Flow models, x_sigma = (1 - sigma) x0 + sigma noise, predict v = noise - x0. UniPC (Zhao et al. 2023), order 2, bh2, data
 * prediction, with corrector; and the Euler step, also in the stochastic form of few-step models.
 *
 * Diffusion models, x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise, predict v = sqrt(a_t) noise - sqrt(1 - a_t) x0. DDIM (Song et
 * al. 2021), and the stochastic DPM-Solver++ 2M (Lu et al. 2022), which draws fresh noise in every step.
 */
#ifndef ZOE_SAMPLE_SAMPLER_H
#define ZOE_SAMPLE_SAMPLER_H

#include "backend/backend.h"
#include "formats/json.h"
#include "sample/noise.h"

typedef enum zoe_solver { ZOE_SOLVER_UNIPC, ZOE_SOLVER_EULER, ZOE_SOLVER_DDIM, ZOE_SOLVER_DPM } zoe_solver;

/* Where the Euler schedule's points lie before the shift. */
typedef enum zoe_points {
    ZOE_POINTS_TRAINED,          /* even between the shifted ends of the training table */
    ZOE_POINTS_EVEN,             /* even from 1 to 1 / steps */
    ZOE_POINTS_LINEAR_QUADRATIC, /* half of the steps down to 0.975, then faster and faster */
} zoe_points;

typedef enum zoe_spacing { ZOE_SPACING_TRAILING, ZOE_SPACING_LINSPACE, ZOE_SPACING_LEADING } zoe_spacing;

#define ZOE_TIMESTEPS_MOST 64

typedef struct zoe_schedule_config {
    zoe_solver solver;
    int given; /* flow models: so many timesteps are given, the points of the schedule before its shift; 0: none */
    double timesteps[ZOE_TIMESTEPS_MOST];
    double flow_shift;
    int64_t train_steps;    /* 1000 */
    int order;              /* of UniPC: 1 or 2 */
    bool lower_order_final; /* UniPC: the last step is of order 1 */
    bool stochastic;        /* Euler: each step goes to a clean sample and draws fresh noise for it */
    double shift_terminal;  /* Euler: the schedule is stretched to end here; 0: not */
    zoe_points points;
    bool dynamic; /* the shift follows the number of tokens, with these at the two ends of a line: */
    double base_shift, max_shift, base_tokens, max_tokens;

    /* Diffusion: betas are squares of even points between the square roots of these two. */
    double beta_start, beta_end;
    double snr_shift;   /* signal-to-noise ratios are divided by it */
    bool zero_terminal; /* rescaled so that the last training step has no signal */
    bool ends_clean;    /* what follows the last step has no noise; else that of training step 0 */
    zoe_spacing spacing;
    int64_t offset; /* of timesteps with leading spacing */
} zoe_schedule_config;

/* From a diffusers scheduler_config.json; what is not supported is an error that names the key. */
int zoe_schedule_config_read(const zoe_config *config, zoe_schedule_config *out);

typedef struct zoe_sampler zoe_sampler;

/* Sets the flow shift of a schedule that follows the number of tokens; does nothing to others. */
void zoe_schedule_follow_tokens(zoe_schedule_config *config, int64_t tokens);

/*
 * The sampler that a request asks for over the model's own: `name` is NULL or that of a solver, flow_shift 0 or more than
 * 0. Solvers of flow models do not serve diffusion models, nor the other way round.
 */
int zoe_schedule_choose(zoe_context *ctx, const char *name, double flow_shift, zoe_schedule_config *config);

/* Timesteps as a request lists them, "1000,909.5,725": falling, from train_steps to above 0, for flow models. */
int zoe_schedule_list(zoe_context *ctx, const char *text, zoe_schedule_config *config);

/* Gives the last strength * steps points of the schedule of `steps` steps, for denoising again what is almost done. */
int zoe_schedule_tail(zoe_context *ctx, int steps, double strength, zoe_schedule_config *config);

/* Noise level that given timesteps start from. */
double zoe_schedule_start(const zoe_schedule_config *config);

/*
 * For latents of this dense shape, float32. The history is kept in the backend's own memory; stochastic solvers draw from
 * `generator`, which must outlive the sampler.
 */
int zoe_sampler_create(zoe_backend *be, const zoe_schedule_config *config, zoe_generator *generator, int steps, int rank,
                       const int64_t *shape, zoe_sampler **out);
void zoe_sampler_free(zoe_sampler *sampler);

int zoe_sampler_steps(const zoe_sampler *sampler);
const double *zoe_sampler_sigmas(const zoe_sampler *sampler);    /* [steps + 1], the last 0; diffusion: sqrt(1 - a) */
const double *zoe_sampler_timesteps(const zoe_sampler *sampler); /* [steps], what the denoiser is told */

/* One step, in order from 0: x from sigma[i] to sigma[i + 1], by the velocity v at x. */
int zoe_sampler_step(zoe_sampler *sampler, int step, zoe_tensor *x, const zoe_tensor *v);

/* v = u + scale (c - u), in place of c. */
int zoe_guide(zoe_backend *be, zoe_tensor *c, const zoe_tensor *u, double scale);

#endif
