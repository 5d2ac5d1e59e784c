#include <math.h>
#include <string.h>

#include "base/number.h"
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
    static const char *const others[] = {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"};
    bool flow = false, data = true;
    int64_t order = 2;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) ZOE_TRY(expect_false(config, others[i]));
    ZOE_TRY(expect_text(config, "prediction_type", "flow_prediction"));
    ZOE_TRY(expect_text(config, "solver_type", "bh2"));
    ZOE_TRY(expect_text(config, "final_sigmas_type", "zero"));
    ZOE_TRY(expect_false(config, "thresholding"));
    ZOE_TRY(expect_false(config, "use_dynamic_shifting"));
    ZOE_TRY(zoe_config_bool(config, "use_flow_sigmas", &flow));
    ZOE_TRY(zoe_config_bool(config, "predict_x0", &data));
    ZOE_TRY(zoe_config_bool(config, "lower_order_final", &out->lower_order_final));
    ZOE_TRY(zoe_config_int(config, "solver_order", 1, 2, &order));
    ZOE_TRY(zoe_config_real_in(config, "flow_shift", 0.001, 1000, &out->flow_shift));
    if (!flow) return refuse(config, "use_flow_sigmas", "true");
    if (!data) return refuse(config, "predict_x0", "true");
    if (zoe_config_length(config, "disable_corrector")) return refuse(config, "disable_corrector", "empty");
    if (zoe_config_has(config, "solver_p")) return refuse(config, "solver_p", "null");
    if (zoe_config_has(config, "shift_terminal")) return refuse(config, "shift_terminal", "null");
    out->order = (int)order;
    return ZOE_OK;
}

static int read_euler(const zoe_config *config, zoe_schedule_config *out) {
    static const char *const unused[] = {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas"};
    for (size_t i = 0; i < sizeof unused / sizeof unused[0]; i++) ZOE_TRY(expect_false(config, unused[i]));
    out->base_shift = 0.5, out->max_shift = 1.15, out->base_tokens = 256, out->max_tokens = 4096;
    ZOE_TRY(zoe_config_bool(config, "use_dynamic_shifting", &out->dynamic));
    ZOE_TRY(zoe_config_bool(config, "stochastic_sampling", &out->stochastic));
    ZOE_TRY(zoe_config_real(config, "shift_terminal", &out->shift_terminal));
    ZOE_TRY(zoe_config_real(config, "base_shift", &out->base_shift));
    ZOE_TRY(zoe_config_real(config, "max_shift", &out->max_shift));
    ZOE_TRY(zoe_config_real(config, "base_image_seq_len", &out->base_tokens));
    ZOE_TRY(zoe_config_real(config, "max_image_seq_len", &out->max_tokens));
    if (out->dynamic) ZOE_TRY(expect_text(config, "time_shift_type", "exponential"));
    if (out->dynamic && !(out->max_tokens > out->base_tokens))
        return refuse(config, "max_image_seq_len", "more than base_image_seq_len");
    return zoe_config_real_in(config, "shift", 0.001, 1000, &out->flow_shift);
}

void zoe_schedule_follow_tokens(zoe_schedule_config *c, int64_t tokens) {
    if (!c->dynamic) return;
    double slope = (c->max_shift - c->base_shift) / (c->max_tokens - c->base_tokens);
    c->flow_shift = exp(c->base_shift + slope * ((double)tokens - c->base_tokens));
}

static int read_diffusion(const zoe_config *config, zoe_schedule_config *out) {
    static const char *const spacings[] = {"trailing", "linspace", "leading"};
    const char *spacing = "leading";
    out->beta_start = 0.00085, out->beta_end = 0.012, out->snr_shift = 3, out->ends_clean = true;
    ZOE_TRY(expect_text(config, "prediction_type", "v_prediction"));
    ZOE_TRY(expect_text(config, "beta_schedule", "scaled_linear"));
    ZOE_TRY(expect_false(config, "clip_sample"));
    if (zoe_config_has(config, "trained_betas")) return refuse(config, "trained_betas", "null");
    ZOE_TRY(zoe_config_real(config, "beta_start", &out->beta_start));
    ZOE_TRY(zoe_config_real(config, "beta_end", &out->beta_end));
    ZOE_TRY(zoe_config_real(config, "snr_shift_scale", &out->snr_shift));
    ZOE_TRY(zoe_config_bool(config, "rescale_betas_zero_snr", &out->zero_terminal));
    ZOE_TRY(zoe_config_bool(config, "set_alpha_to_one", &out->ends_clean));
    ZOE_TRY(zoe_config_int(config, "steps_offset", 0, 1000, &out->offset));
    ZOE_TRY(zoe_config_text(config, "timestep_spacing", &spacing));
    if (!(out->beta_start > 0 && out->beta_start < 1 && out->beta_end > 0 && out->beta_end < 1))
        return refuse(config, "beta_start and beta_end", "between 0 and 1");
    if (!(out->snr_shift > 0)) return refuse(config, "snr_shift_scale", "more than 0");
    for (int i = 0; i < 3; i++)
        if (strcmp(spacing, spacings[i]) == 0) {
            out->spacing = (zoe_spacing)i;
            return ZOE_OK;
        }
    return refuse(config, "timestep_spacing", "trailing, linspace or leading");
}

int zoe_schedule_config_read(const zoe_config *config, zoe_schedule_config *out) {
    const char *name = "UniPCMultistepScheduler";
    *out = (zoe_schedule_config){.flow_shift = 1, .train_steps = 1000, .order = 2, .lower_order_final = true};
    ZOE_TRY(zoe_config_text(config, "_class_name", &name));
    ZOE_TRY(zoe_config_int(config, "num_train_timesteps", 2, 1 << 20, &out->train_steps));
    if (strcmp(name, "UniPCMultistepScheduler") == 0) return read_unipc(config, out);
    if (strcmp(name, "FlowMatchEulerDiscreteScheduler") == 0) {
        out->solver = ZOE_SOLVER_EULER;
        return read_euler(config, out);
    }
    bool ddim = strcmp(name, "CogVideoXDDIMScheduler") == 0;
    if (ddim || strcmp(name, "CogVideoXDPMScheduler") == 0) {
        out->solver = ddim ? ZOE_SOLVER_DDIM : ZOE_SOLVER_DPM;
        return read_diffusion(config, out);
    }
    return refuse(config, "_class_name",
                  "UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler, CogVideoXDDIMScheduler or "
                  "CogVideoXDPMScheduler");
}

int zoe_schedule_choose(zoe_context *ctx, const char *name, double flow_shift, zoe_schedule_config *config) {
    static const struct {
        const char *name;
        zoe_solver solver;
        bool stochastic;
    } known[] = {{"unipc", ZOE_SOLVER_UNIPC, false},
                 {"euler", ZOE_SOLVER_EULER, false},
                 {"stochastic", ZOE_SOLVER_EULER, true},
                 {"ddim", ZOE_SOLVER_DDIM, false},
                 {"dpm", ZOE_SOLVER_DPM, false}};
    bool diffuses = zoe_solver_diffuses(config->solver);
    if (flow_shift < 0 || !isfinite(flow_shift))
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "flow shift %g: expected more than 0", flow_shift);
    if (flow_shift > 0 && diffuses)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "flow shift %g: this model is no flow model and has none", flow_shift);
    if (flow_shift > 0) config->flow_shift = flow_shift;
    if (!name) return ZOE_OK;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(name, known[i].name) == 0 && zoe_solver_diffuses(known[i].solver) == diffuses) {
            config->solver = known[i].solver;
            config->stochastic = known[i].stochastic;
            return ZOE_OK;
        }
    return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "sampler %s: this model expects %s", name,
                    diffuses ? "ddim or dpm" : "unipc, euler or stochastic");
}

int zoe_schedule_list(zoe_context *ctx, const char *text, zoe_schedule_config *config) {
    double most = (double)config->train_steps;
    if (zoe_solver_diffuses(config->solver))
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "timesteps %s: this model is no flow model; its schedule takes none", text);
    config->given = 0;
    for (const char *at = text; config->given < ZOE_TIMESTEPS_MOST; at++) {
        double value;
        if (!zoe_read_real(&at, &value) || value <= 0 || value > most ||
            (config->given && value >= config->timesteps[config->given - 1]))
            break;
        config->timesteps[config->given++] = value;
        if (!*at) return ZOE_OK;
        if (*at != ',') break;
    }
    return zoe_fail(ctx, ZOE_ERR_ARGUMENT,
                    "timesteps %s: expected up to %d falling numbers between %g and 0 with commas between them, such as "
                    "1000,993,987,981,975,909,725",
                    text, ZOE_TIMESTEPS_MOST, most);
}

static double shifted(double u, double shift) {
    return shift * u / (1 + (shift - 1) * u);
}

/* steps + 1 even points from 1 to 1 / train_steps, the last dropped; timesteps are whole numbers */
static void unipc_schedule(zoe_sampler *s) {
    const zoe_schedule_config *c = &s->config;
    double least = 1.0 / (double)c->train_steps;
    for (int i = 0; i < s->steps; i++) {
        double point = c->given ? c->timesteps[i] / (double)c->train_steps : 1 + (least - 1) * i / s->steps;
        double sigma = shifted(point, c->flow_shift);
        if (i == 0 && fabs(sigma - 1) < 1e-6) sigma -= 1e-6; /* log(1 - sigma) must exist */
        s->timesteps[i] = trunc(sigma * (double)c->train_steps);
        s->sigmas[i] = (float)sigma;
    }
}

/* Noise levels of `n` steps that fall by the same amount down to 1 - `least`, then by a parabola that meets the line. */
static double linear_quadratic(int i, int n) {
    static const double least = 0.025;
    int linear = n / 2, rest = n - linear;
    if (n < 2) return 1;
    if (i < linear) return 1 - least * i / linear;
    double gap = linear - least * n, a = gap / ((double)linear * rest * rest);
    double b = least / linear - 2 * gap / ((double)rest * rest);
    return 1 - (a * i * i + b * i + a * linear * linear);
}

/* Point number i of `steps` before the (last) shift. */
static double euler_point(const zoe_schedule_config *c, int i, int steps) {
    double least = shifted(1.0 / (double)c->train_steps, c->flow_shift);
    if (c->given) return c->timesteps[i] / (double)c->train_steps;
    if (c->points == ZOE_POINTS_LINEAR_QUADRATIC) return linear_quadratic(i, steps);
    if (c->points == ZOE_POINTS_EVEN) least = 1.0 / steps;
    return steps > 1 ? 1 + (least - 1) * i / (steps - 1) : 1;
}

int zoe_schedule_tail(zoe_context *ctx, int steps, double strength, zoe_schedule_config *config) {
    int count = (int)(steps * strength);
    if (count < 1 || count > ZOE_TIMESTEPS_MOST || count > steps)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "%g of %d steps: expected 1 to %d steps", strength, steps,
                        steps < ZOE_TIMESTEPS_MOST ? steps : ZOE_TIMESTEPS_MOST);
    config->given = 0;
    for (int i = 0; i < count; i++)
        config->timesteps[i] = euler_point(config, steps - count + i, steps) * (double)config->train_steps;
    config->given = count;
    return ZOE_OK;
}

double zoe_schedule_start(const zoe_schedule_config *c) {
    return shifted(c->timesteps[0] / (double)c->train_steps, c->flow_shift);
}

static void euler_schedule(zoe_sampler *s) {
    const zoe_schedule_config *c = &s->config;
    for (int i = 0; i < s->steps; i++) s->sigmas[i] = shifted(euler_point(c, i, s->steps), c->flow_shift);
    double end = s->sigmas[s->steps - 1];
    for (int i = 0; i < s->steps; i++) {
        if (c->shift_terminal > 0 && end < 1) s->sigmas[i] = 1 - (1 - s->sigmas[i]) * (1 - c->shift_terminal) / (1 - end);
        s->sigmas[i] = (float)s->sigmas[i];
        s->timesteps[i] = c->given ? c->timesteps[i] : s->sigmas[i] * (double)c->train_steps;
    }
}

void zoe_sampler_schedule(zoe_sampler *s) {
    if (s->config.solver == ZOE_SOLVER_UNIPC)
        unipc_schedule(s);
    else
        euler_schedule(s);
    s->sigmas[s->steps] = 0;
}
