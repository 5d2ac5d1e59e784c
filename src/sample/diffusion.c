/* Schedules and solvers of diffusion models that predict v, with shifted and rescaled signal-to-noise ratios. */
#include <math.h>

#include "sample/sampler_internal.h"

bool zoe_solver_diffuses(zoe_solver solver) {
    return solver == ZOE_SOLVER_DDIM || solver == ZOE_SOLVER_DPM;
}

/* ---- schedule ---- */

static void fill_alphas(zoe_sampler *s) {
    const zoe_schedule_config *c = &s->config;
    double start = sqrt(c->beta_start), end = sqrt(c->beta_end), product = 1;
    int64_t count = c->train_steps;
    for (int64_t i = 0; i < count; i++) {
        double root = start + (end - start) * (double)i / (double)(count - 1);
        product *= 1 - root * root;
        s->alphas[i] = product / (c->snr_shift + (1 - c->snr_shift) * product);
    }
    if (!c->zero_terminal) return;
    double first = sqrt(s->alphas[0]), last = sqrt(s->alphas[count - 1]);
    for (int64_t i = 0; i < count; i++) {
        double root = (sqrt(s->alphas[i]) - last) * first / (first - last);
        s->alphas[i] = root * root;
    }
}

static double timestep(const zoe_sampler *s, int step) {
    const zoe_schedule_config *c = &s->config;
    double train = (double)c->train_steps;
    switch (c->spacing) {
    case ZOE_SPACING_TRAILING:
        return nearbyint(train - step * (train / s->steps)) - 1;
    case ZOE_SPACING_LINSPACE:
        return s->steps > 1 ? nearbyint((train - 1) * (s->steps - 1 - step) / (s->steps - 1)) : 0;
    case ZOE_SPACING_LEADING:
        return (double)(c->train_steps / s->steps * (s->steps - 1 - step) + c->offset);
    }
    return 0;
}

/* a at training step `t`; a negative one lies behind the end */
static double alpha_at(const zoe_sampler *s, double t) {
    if (t < 0) return s->config.ends_clean ? 1 : s->alphas[0];
    return s->alphas[(int64_t)t];
}

int zoe_diffusion_schedule(zoe_sampler *s) {
    int64_t train = s->config.train_steps;
    if (s->steps > train)
        return zoe_fail(s->be->ctx, ZOE_ERR_ARGUMENT, "%d steps: this model was trained with %lld, which is the most",
                        s->steps, (long long)train);
    ZOE_TRY(ZOE_NEW_ARRAY(s->be->ctx, s->alphas, train));
    fill_alphas(s);
    for (int i = 0; i < s->steps; i++) {
        s->timesteps[i] = timestep(s, i);
        if (!(s->timesteps[i] >= 0 && s->timesteps[i] < (double)train))
            return zoe_fail(s->be->ctx, ZOE_ERR_ARGUMENT, "%d steps with an offset of %lld leave the model's %lld",
                            s->steps, (long long)s->config.offset, (long long)train);
        s->sigmas[i] = sqrt(1 - alpha_at(s, s->timesteps[i]));
    }
    s->sigmas[s->steps] = 0;
    return ZOE_OK;
}

/* ---- steps ---- */

/* x = A x + B x0 with A = sqrt((1 - a') / (1 - a)), B = sqrt(a') - sqrt(a) A, and x0 = sqrt(a) x - sqrt(1 - a) v */
static int ddim_step(zoe_sampler *s, double a, double next, zoe_tensor *x, const zoe_tensor *v) {
    double keep = sqrt((1 - next) / (1 - a)), data = sqrt(next) - sqrt(a) * keep;
    return zoe_op_lincomb(s->be, x, 2, (const zoe_tensor *[]){x, v},
                          (float[]){(float)(keep + data * sqrt(a)), (float)(-data * sqrt(1 - a))});
}

static double lambda(double a) {
    return log(sqrt(a / (1 - a)));
}

/* Without signal lambda is minus infinity, without noise infinity; every factor below is finite all the same. */
static int dpm_step(zoe_sampler *s, int step, bool last, double a, double next, zoe_tensor *x, const zoe_tensor *v) {
    double h = lambda(next) - lambda(a);
    double keep = sqrt((1 - next) / (1 - a)) * exp(-h), data = -expm1(-2 * h) * sqrt(next);
    double noise = sqrt(1 - next) * sqrt(1 - exp(-2 * h));
    zoe_tensor before = s->data[1];
    s->data[1] = s->data[0];
    s->data[0] = before;
    ZOE_TRY(zoe_op_lincomb(s->be, &s->data[0], 2, (const zoe_tensor *[]){x, v},
                           (float[]){(float)sqrt(a), (float)-sqrt(1 - a)}));
    ZOE_TRY(zoe_sampler_draw(s));
    if (step == 0 || last)
        return zoe_op_lincomb(s->be, x, 3, (const zoe_tensor *[]){x, &s->data[0], &s->last},
                              (float[]){(float)keep, (float)data, (float)noise});
    /* The reference draws for the first order, too, and drops it. */
    ZOE_TRY(zoe_sampler_draw(s));
    double older = 0.5 * h / (lambda(a) - lambda(alpha_at(s, s->timesteps[step - 1])));
    return zoe_op_lincomb(s->be, x, 4, (const zoe_tensor *[]){x, &s->data[0], &s->data[1], &s->last},
                          (float[]){(float)keep, (float)(data * (1 + older)), (float)(-data * older), (float)noise});
}

int zoe_diffusion_step(zoe_sampler *s, int step, zoe_tensor *x, const zoe_tensor *v) {
    double t = s->timesteps[step], previous = t - (double)(s->config.train_steps / s->steps);
    double a = alpha_at(s, t), next = alpha_at(s, previous);
    if (s->config.solver == ZOE_SOLVER_DDIM) return ddim_step(s, a, next, x, v);
    return dpm_step(s, step, previous < 0, a, next, x, v);
}
