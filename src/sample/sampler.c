#include "sample/sampler.h"

#include <math.h>

#include "sample/sampler_internal.h"

/* Room for what the solver keeps from step to step. */
static int allocate(zoe_sampler *s, int rank, const int64_t *shape) {
    static const int kept[] = {[ZOE_SOLVER_UNIPC] = 3, [ZOE_SOLVER_DPM] = 2, [ZOE_SOLVER_DDIM] = 0};
    zoe_backend *be = s->be;
    zoe_solver solver = s->config.solver;
    bool draws = solver == ZOE_SOLVER_DPM || (solver == ZOE_SOLVER_EULER && s->config.stochastic);
    if (solver != ZOE_SOLVER_UNIPC && !draws) return ZOE_OK;
    for (int i = 0; i < kept[solver]; i++) ZOE_TRY(zoe_backend_alloc(be, &s->data[i], ZOE_F32, rank, shape));
    ZOE_TRY(zoe_backend_alloc(be, &s->last, ZOE_F32, rank, shape));
    return draws ? ZOE_NEW_ARRAY(be->ctx, s->drawn, zoe_tensor_count(&s->last)) : ZOE_OK;
}

int zoe_sampler_create(zoe_backend *be, const zoe_schedule_config *config, zoe_generator *generator, int steps, int rank,
                       const int64_t *shape, zoe_sampler **out) {
    int status;
    zoe_sampler *s;
    *out = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, s, 1));
    s->be = be;
    s->config = *config;
    s->steps = steps;
    s->generator = generator;
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(be->ctx, s->sigmas, steps + 1));
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(be->ctx, s->timesteps, steps));
    ZOE_TRY_DONE(allocate(s, rank, shape));
    if (zoe_solver_diffuses(config->solver))
        ZOE_TRY_DONE(zoe_diffusion_schedule(s));
    else
        zoe_sampler_schedule(s);
    *out = s;
    return ZOE_OK;
done:
    zoe_sampler_free(s);
    return status;
}

void zoe_sampler_free(zoe_sampler *s) {
    if (!s) return;
    for (int i = 0; i < 3; i++) zoe_backend_free(s->be, s->data[i].data);
    zoe_backend_free(s->be, s->last.data);
    zoe_free(s->be->ctx, s->sigmas);
    zoe_free(s->be->ctx, s->timesteps);
    zoe_free(s->be->ctx, s->alphas);
    zoe_free(s->be->ctx, s->drawn);
    zoe_free(s->be->ctx, s);
}

int zoe_sampler_steps(const zoe_sampler *s) {
    return s->steps;
}

const double *zoe_sampler_sigmas(const zoe_sampler *s) {
    return s->sigmas;
}

const double *zoe_sampler_timesteps(const zoe_sampler *s) {
    return s->timesteps;
}

/* Half the logarithm of the signal-to-noise ratio, up to a constant. */
static double lambda(double sigma) {
    return log(1 - sigma) - log(sigma);
}

/* Refines x at sigma[step], where the predictor had left it, now that the prediction there (data[0]) is known. */
static int correct(zoe_sampler *s, int step, zoe_tensor *x) {
    double sigma = s->sigmas[step], before = s->sigmas[step - 1], alpha = 1 - sigma;
    double h = lambda(sigma) - lambda(before), phi = expm1(-h), b = phi;
    const zoe_tensor *now = &s->data[0], *m0 = &s->data[1], *m1 = &s->data[2];
    double keep = sigma / before, base = -alpha * phi;
    if (s->order == 1) {
        double r = alpha * b * 0.5;
        return zoe_op_lincomb(s->be, x, 3, (const zoe_tensor *[]){&s->last, m0, now},
                              (float[]){(float)keep, (float)(base + r), (float)-r});
    }
    double rk = (lambda(s->sigmas[step - 2]) - lambda(before)) / h;
    double p1 = phi / -h - 1, b1 = p1 / b, p2 = p1 / -h - 0.5, b2 = 2 * p2 / b;
    double r0 = (b1 - b2) / (1 - rk), r1 = b1 - r0;
    /* x = keep last + base m0 - alpha b (r0 (m1 - m0) / rk + r1 (now - m0)) */
    double c1 = -alpha * b * r0 / rk, c2 = -alpha * b * r1;
    return zoe_op_lincomb(s->be, x, 4, (const zoe_tensor *[]){&s->last, m0, m1, now},
                          (float[]){(float)keep, (float)(base - c1 - c2), (float)c1, (float)c2});
}

/* Takes x from sigma[step] to sigma[step + 1]. */
static int predict(zoe_sampler *s, int step, zoe_tensor *x) {
    double sigma = s->sigmas[step], next = s->sigmas[step + 1], alpha = 1 - next;
    const zoe_tensor *m0 = &s->data[0], *m1 = &s->data[1];
    if (next == 0) return zoe_op_copy(s->be, x, m0);
    double h = lambda(next) - lambda(sigma), phi = expm1(-h);
    double keep = next / sigma, base = -alpha * phi;
    if (s->order == 1)
        return zoe_op_lincomb(s->be, x, 2, (const zoe_tensor *[]){x, m0}, (float[]){(float)keep, (float)base});
    double rk = (lambda(s->sigmas[step - 1]) - lambda(sigma)) / h, c1 = -alpha * phi * 0.5 / rk;
    return zoe_op_lincomb(s->be, x, 3, (const zoe_tensor *[]){x, m0, m1},
                          (float[]){(float)keep, (float)(base - c1), (float)c1});
}

static int unipc_step(zoe_sampler *s, int step, zoe_tensor *x, const zoe_tensor *v) {
    zoe_tensor oldest = s->data[2];
    s->data[2] = s->data[1];
    s->data[1] = s->data[0];
    s->data[0] = oldest;
    ZOE_TRY(zoe_op_lincomb(s->be, &s->data[0], 2, (const zoe_tensor *[]){x, v}, (float[]){1, (float)-s->sigmas[step]}));
    if (step > 0) ZOE_TRY(correct(s, step, x));
    int order = s->config.order < step + 1 ? s->config.order : step + 1;
    if (s->config.lower_order_final && order > s->steps - step) order = s->steps - step;
    s->order = order;
    ZOE_TRY(zoe_op_copy(s->be, &s->last, x));
    return predict(s, step, x);
}

int zoe_sampler_draw(zoe_sampler *s) {
    zoe_generator_normal(s->generator, s->drawn, zoe_tensor_count(&s->last));
    return zoe_upload(s->be, &s->last, s->drawn);
}

/* x = (1 - sigma') x0 + sigma' noise, with x0 = x - sigma v. The last step draws, too, as the reference does. */
static int stochastic_step(zoe_sampler *s, int step, zoe_tensor *x, const zoe_tensor *v) {
    double sigma = s->sigmas[step], next = s->sigmas[step + 1];
    ZOE_TRY(zoe_sampler_draw(s));
    return zoe_op_lincomb(s->be, x, 3, (const zoe_tensor *[]){x, v, &s->last},
                          (float[]){(float)(1 - next), (float)(-(1 - next) * sigma), (float)next});
}

int zoe_sampler_step(zoe_sampler *s, int step, zoe_tensor *x, const zoe_tensor *v) {
    if (s->config.solver == ZOE_SOLVER_UNIPC) return unipc_step(s, step, x, v);
    if (zoe_solver_diffuses(s->config.solver)) return zoe_diffusion_step(s, step, x, v);
    if (s->config.stochastic) return stochastic_step(s, step, x, v);
    return zoe_op_lincomb(s->be, x, 2, (const zoe_tensor *[]){x, v},
                          (float[]){1, (float)(s->sigmas[step + 1] - s->sigmas[step])});
}

int zoe_guide(zoe_backend *be, zoe_tensor *c, const zoe_tensor *u, double scale) {
    return zoe_op_lincomb(be, c, 2, (const zoe_tensor *[]){u, c}, (float[]){(float)(1 - scale), (float)scale});
}
