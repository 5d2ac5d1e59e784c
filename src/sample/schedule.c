#include <math.h>
#include <string.h>

#include "sample/sampler_internal.h"

static int refuse(const zoe_config *config, const char *key, const char *expected) {
    return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED, "%s: %s must be %s", config->path, key, expected);
}

static int expect_text(const zoe_config *config, const char *key, const char *expected) {
    const char *found = expected;
    ZOE_TRY(zoe_config_text(config, key, &found));
    return strcmp(found, expected) == 0 ? ZOE_OK : refuse(config, key, expected);
}

static int expect_false(const zoe_config *config, const char *key) {
    bool found = false;
    ZOE_TRY(zoe_config_bool(config, key, &found));
    return found ? refuse(config, key, "false") : ZOE_OK;
}

static int read_unipc(const zoe_config *config, zoe_schedule_config *out) {
    bool flow = false, data = true;
    int64_t order = 2;
    ZOE_TRY(expect_text(config, "prediction_type", "flow_prediction"));
    ZOE_TRY(expect_text(config, "solver_type", "bh2"));
    ZOE_TRY(expect_text(config, "final_sigmas_type", "zero"));
    ZOE_TRY(expect_false(config, "thresholding"));
    ZOE_TRY(expect_false(config, "use_dynamic_shifting"));
    ZOE_TRY(zoe_config_bool(config, "use_flow_sigmas", &flow));
    ZOE_TRY(zoe_config_bool(config, "predict_x0", &data));
    ZOE_TRY(zoe_config_bool(config, "lower_order_final", &out->lower_order_final));
    ZOE_TRY(zoe_config_int(config, "solver_order", 1, 2, &order));
    ZOE_TRY(zoe_config_real(config, "flow_shift", &out->flow_shift));
    if (!flow) return refuse(config, "use_flow_sigmas", "true");
    if (!data) return refuse(config, "predict_x0", "true");
    if (zoe_config_length(config, "disable_corrector")) return refuse(config, "disable_corrector", "empty");
    out->order = (int)order;
    return ZOE_OK;
}

int zoe_schedule_config_read(const zoe_config *config, zoe_schedule_config *out) {
    const char *name = "UniPCMultistepScheduler";
    *out = (zoe_schedule_config){.flow_shift = 1, .train_steps = 1000, .order = 2, .lower_order_final = true};
    ZOE_TRY(zoe_config_text(config, "_class_name", &name));
    ZOE_TRY(zoe_config_int(config, "num_train_timesteps", 2, 1 << 20, &out->train_steps));
    if (strcmp(name, "UniPCMultistepScheduler") == 0) return read_unipc(config, out);
    if (strcmp(name, "FlowMatchEulerDiscreteScheduler") == 0) {
        out->solver = ZOE_SOLVER_EULER;
        ZOE_TRY(expect_false(config, "use_dynamic_shifting"));
        ZOE_TRY(zoe_config_real(config, "shift_terminal", &out->shift_terminal));
        return zoe_config_real(config, "shift", &out->flow_shift);
    }
    return refuse(config, "_class_name", "UniPCMultistepScheduler or FlowMatchEulerDiscreteScheduler");
}

static double shifted(double u, double shift) {
    return shift * u / (1 + (shift - 1) * u);
}

/* steps + 1 even points from 1 to 1 / train_steps, the last dropped; timesteps are whole numbers */
static void unipc_schedule(zoe_sampler *s) {
    const zoe_schedule_config *c = &s->config;
    double least = 1.0 / (double)c->train_steps;
    for (int i = 0; i < s->steps; i++) {
        double sigma = shifted(1 + (least - 1) * i / s->steps, c->flow_shift);
        if (i == 0 && fabs(sigma - 1) < 1e-6) sigma -= 1e-6; /* log(1 - sigma) must exist */
        s->timesteps[i] = trunc(sigma * (double)c->train_steps);
        s->sigmas[i] = (float)sigma;
    }
}

/* Even points between the shifted ends of the training table, shifted once more, as the reference does by default. */
static void euler_schedule(zoe_sampler *s) {
    const zoe_schedule_config *c = &s->config;
    double least = shifted(1.0 / (double)c->train_steps, c->flow_shift);
    for (int i = 0; i < s->steps; i++) {
        double u = s->steps > 1 ? 1 + (least - 1) * i / (s->steps - 1) : 1;
        s->sigmas[i] = shifted(u, c->flow_shift);
    }
    double end = s->sigmas[s->steps - 1];
    for (int i = 0; i < s->steps; i++) {
        if (c->shift_terminal > 0 && end < 1) s->sigmas[i] = 1 - (1 - s->sigmas[i]) * (1 - c->shift_terminal) / (1 - end);
        s->sigmas[i] = (float)s->sigmas[i];
        s->timesteps[i] = s->sigmas[i] * (double)c->train_steps;
    }
}

void zoe_sampler_schedule(zoe_sampler *s) {
    if (s->config.solver == ZOE_SOLVER_UNIPC)
        unipc_schedule(s);
    else
        euler_schedule(s);
    s->sigmas[s->steps] = 0;
}
