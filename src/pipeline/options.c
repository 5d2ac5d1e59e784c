/* Every field of zoe_model_settings and zoe_request as one row of a table, and the reading and writing of such fields. */
#include "pipeline/options.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/number.h"
#include "formats/tokenizer.h"

#define MODEL(type_, field, name_, meta_, ...)                                                                             \
    {                                                                                                                      \
        .name = name_, .scope = ZOE_SCOPE_MODEL, .type = type_, .offset = offsetof(zoe_model_settings, field),             \
        .meta = meta_, __VA_ARGS__                                                                                         \
    }
#define REQUEST(type_, field, name_, meta_, ...)                                                                           \
    {                                                                                                                      \
        .name = name_, .scope = ZOE_SCOPE_REQUEST, .type = type_, .offset = offsetof(zoe_request, field), .meta = meta_,   \
        __VA_ARGS__                                                                                                        \
    }

static const zoe_option table[] = {
    REQUEST(ZOE_OPTION_TEXT, prompt, "prompt", "TEXT", .help = "What the video shows; required."),
    REQUEST(ZOE_OPTION_TEXT, negative, "negative", "TEXT",
            .help = "What it should not show; default: the model's own text."),
    REQUEST(ZOE_OPTION_PATH, image, "image", "FILE",
            .help = "First frame, for models that start from a picture; default: none."),
    REQUEST(ZOE_OPTION_PATH, last_image, "last-image", "FILE",
            .help = "Last frame, for models that go from picture to picture; default: none."),
    REQUEST(ZOE_OPTION_TEXT, conditions, "condition", "FILE@N[:S]", .many = 1,
            .help =
                "Picture or clip to be shown from frame N on, with strength S up to 1, for models that take them there; "
                "may be given again; default: none."),
    REQUEST(ZOE_OPTION_REAL, condition_noise, "condition-noise", "S", .min = 0, .max = 10,
            .help = "Noise added to what is given at full strength, for more motion, such as 0.15; default: 0."),
    REQUEST(ZOE_OPTION_SIZE, width, "size", "WxH", .min = 1, .max = 16384,
            .help = "Width and height in pixels; default: the model's own."),
    REQUEST(ZOE_OPTION_INT, frames, "frames", "N", .min = 1, .max = 100000,
            .help = "Number of frames; default: the model's own."),
    REQUEST(ZOE_OPTION_REAL, fps, "fps", "N", .min = 0.1, .max = 1000,
            .help = "Frames a second; default: the model's own."),
    REQUEST(ZOE_OPTION_INT, steps, "steps", "N", .min = 1, .max = 1000,
            .help = "Number of denoising steps; default: the model's own."),
    REQUEST(ZOE_OPTION_REAL, guidance, "guidance", "G", .min = 0, .max = 1000,
            .help = "Classifier-free guidance scale, 1 turns it off; default: the model's own."),
    REQUEST(ZOE_OPTION_REAL, guidance_2, "guidance-2", "G", .min = -1, .max = 1000,
            .help = "Guidance scale of the second expert, for models with two; default: -1, the same as --guidance."),
    REQUEST(ZOE_OPTION_REAL, flow_shift, "flow-shift", "S", .min = 0, .max = 1000,
            .help = "Shift of the flow schedule; default: 0, as the model's scheduler says."),
    REQUEST(ZOE_OPTION_CHOICE, sampler, "sampler", "NAME", .choices = "unipc|euler|stochastic|ddim|dpm",
            .help = "Solver of the denoising steps; default: as the model's scheduler says."),
    REQUEST(ZOE_OPTION_TEXT, timesteps, "timesteps", "LIST",
            .help = "Timesteps of the denoising steps, such as 1000,909,725, for flow models; default: the model's own."),
    REQUEST(ZOE_OPTION_PATH, upsampler, "upsampler", "PATH",
            .help =
                "Latent upsampler, for a first pass at half the size and a second at the full; default: none, one pass."),
    REQUEST(ZOE_OPTION_INT, refine_steps, "refine-steps", "N", .min = 0, .max = 1000,
            .help = "The second pass is the end of a schedule of N steps; default: 0, as published for the model."),
    REQUEST(ZOE_OPTION_REAL, refine_strength, "refine-strength", "S", .min = 0, .max = 1,
            .help = "How much of that schedule the second pass takes; default: 0, as published for the model."),
    REQUEST(ZOE_OPTION_REAL, adain, "adain", "F", .min = -1, .max = 1,
            .help = "How far enlarged latents get the statistics of the first pass's; default: -1, as published."),
    REQUEST(ZOE_OPTION_REAL, tone_map, "tone-map", "R", .min = -1, .max = 1,
            .help = "How far large values of enlarged latents are drawn in; default: -1, as published for the model."),
    REQUEST(ZOE_OPTION_SEED, seed, "seed", "N", .help = "Seed of the noise, 0 to 2^64 - 1; default: 0."),
    REQUEST(ZOE_OPTION_CHOICE, vae_tiling, "vae-tiling", "NAME", .choices = "auto|none|exact|reference",
            .help = "How the VAE divides frames to take less memory: not at all, in parts that give the numbers of whole "
                    "frames, or in the reference's blended tiles; default: auto, in as few parts as the budget needs."),
    MODEL(ZOE_OPTION_TEXT, device, "device", "auto|cpu|cuda[:N]",
          .help = "What to compute on; default: auto, the first CUDA device, or the CPU where there is none."),
    MODEL(ZOE_OPTION_CHOICE, dtype, "dtype", "NAME", .choices = "f32|bf16",
          .help = "Type of the activations; default: the device's own choice (cpu: f32)."),
    MODEL(ZOE_OPTION_CHOICE, linear, "linear", "NAME", .choices = "native|int8|fp8|int4|nvfp4",
          .help = "What the denoiser's and text encoder's linear weights are quantised to while loading; default: native, "
                  "as the files have them."),
    MODEL(ZOE_OPTION_BYTES, vram, "vram", "SIZE", .min = 1 << 20, .max = 0x1p50,
          .help = "Budget of device memory, such as 8G; default: what is free, less a margin."),
    MODEL(ZOE_OPTION_BYTES, ram, "ram", "SIZE", .min = 1 << 20, .max = 0x1p50,
          .help =
              "Budget of host memory, such as 16G; default: none on the CPU, where the system takes mapped weights back "
              "at need; beside a device what is available, less a margin."),
    MODEL(ZOE_OPTION_CHOICE, offload, "offload", "NAME", .choices = "auto|none|model|block",
          .help =
              "Which weights leave the device: auto, what does not fit beside the rest; none, nothing; model, whole parts "
              "that are not at work; block, every block after its use; default: auto."),
    MODEL(ZOE_OPTION_PATH, text_encoder, "text-encoder", "DIR",
          .help = "Folder with text_encoder and tokenizer, for models published without; default: the model's own."),
    MODEL(ZOE_OPTION_CHOICE, attention, "attention", "NAME", .choices = "exact|sage",
          .help = "Attention over long sequences: exact, or sage, on cuda, which is faster through int8 and fp8; default: "
                  "exact."),
    REQUEST(ZOE_OPTION_PATH, init_latents, "init-latents", "FILE:NAME",
            .help = "Start from this tensor of a safetensors file instead of drawing noise; default: none."),
    REQUEST(ZOE_OPTION_PATH, dump, "dump", "FILE",
            .help = "Write what was computed on the way to this safetensors file, in float32; default: none."),
    REQUEST(ZOE_OPTION_PATH, output, "output", "FILE",
            .help = "Video file by its ending: .mp4, .webm, .gif, .y4m, .png with %d for numbered pictures; - for Y4M on "
                    "standard output; default: named after the prompt, or none with --dump."),
};

const zoe_option *zoe_options(size_t *count) {
    *count = sizeof table / sizeof table[0];
    return table;
}

void zoe_model_settings_init(zoe_model_settings *settings) {
    *settings = (zoe_model_settings){.device = "auto", .linear = "native"};
}

/* The one shape of all complaints about a value. */
__attribute__((format(printf, 4, 5))) static int reject(zoe_context *ctx, const zoe_option *option, const char *text,
                                                        const char *format, ...) {
    char expected[256];
    va_list args;
    va_start(args, format);
    vsnprintf(expected, sizeof expected, format, args);
    va_end(args);
    return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "%s: found \"%.200s\", expected %s", option->name, text, expected);
}

static bool in_range(const zoe_option *option, double value) {
    return (option->min == 0 && option->max == 0) || (value >= option->min && value <= option->max);
}

static int set_int(zoe_context *ctx, const zoe_option *option, int32_t *field, const char *text) {
    const char *at = text;
    uint64_t value;
    if (!zoe_read_digits(&at, &value) || *at || value > INT32_MAX || !in_range(option, (double)value))
        return reject(ctx, option, text, "a whole number from %.0f to %.0f, such as %.0f", option->min, option->max,
                      option->min + 16 < option->max ? option->min + 16 : option->min);
    *field = (int32_t)value;
    return ZOE_OK;
}

static int set_seed(zoe_context *ctx, const zoe_option *option, uint64_t *field, const char *text) {
    const char *at = text;
    uint64_t value;
    if (!zoe_read_digits(&at, &value) || *at)
        return reject(ctx, option, text, "a whole number from 0 to %" PRIu64 ", such as 42", UINT64_MAX);
    *field = value;
    return ZOE_OK;
}

static int set_real(zoe_context *ctx, const zoe_option *option, double *field, const char *text) {
    const char *at = text;
    double value;
    if (!zoe_read_real(&at, &value) || *at || !in_range(option, value))
        return reject(ctx, option, text, "a number from %g to %g, such as 7.5", option->min, option->max);
    *field = value;
    return ZOE_OK;
}

/* A number and one of K, M, G, T (powers of 1024, either case, "iB" may follow); without one: bytes. */
static int set_bytes(zoe_context *ctx, const zoe_option *option, int64_t *field, const char *text) {
    static const char units[] = "KMGT";
    const char *at = text;
    double value = 0;
    bool good = *text >= '0' && *text <= '9' && zoe_read_real(&at, &value);
    const char *unit = good && *at ? strchr(units, *at & ~0x20) : NULL;
    if (unit) {
        value = ldexp(value, 10 * (int)(unit - units + 1));
        at++;
        if (strcmp(at, "iB") == 0) at += 2;
    }
    if (!good || *at || !in_range(option, value))
        return reject(ctx, option, text, "a size from %.0fM to %.0fT, such as 8G, 1.5G or 512M", ldexp(option->min, -20),
                      floor(ldexp(option->max, -40)));
    *field = (int64_t)value;
    return ZOE_OK;
}

static int set_size(zoe_context *ctx, const zoe_option *option, int32_t field[2], const char *text) {
    const char *at = text;
    uint64_t side[2];
    bool good = zoe_read_digits(&at, &side[0]) && *at++ == 'x' && zoe_read_digits(&at, &side[1]) && !*at;
    if (!good || !in_range(option, (double)side[0]) || !in_range(option, (double)side[1]))
        return reject(ctx, option, text, "width x height in pixels, each from %.0f to %.0f, such as 832x480", option->min,
                      option->max);
    field[0] = (int32_t)side[0];
    field[1] = (int32_t)side[1];
    return ZOE_OK;
}

/* The field keeps a pointer to the caller's text, as for the other strings. */
static int set_choice(zoe_context *ctx, const zoe_option *option, const char **field, const char *text) {
    size_t length = strlen(text);
    for (const char *word = option->choices; word; word = strchr(word, '|') ? strchr(word, '|') + 1 : NULL) {
        if (length == strcspn(word, "|") && memcmp(word, text, length) == 0) {
            *field = text;
            return ZOE_OK;
        }
    }
    return reject(ctx, option, text, "one of %s", option->choices);
}

int zoe_option_set(zoe_context *ctx, const zoe_option *option, void *target, const char *text) {
    void *field = (char *)target + option->offset;
    switch (option->type) {
    case ZOE_OPTION_TEXT:
        ZOE_TRY(zoe_text_check_utf8(ctx, text, option->name));
        *(const char **)field = text;
        return ZOE_OK;
    case ZOE_OPTION_PATH:
        if (!*text) return reject(ctx, option, text, "a path");
        *(const char **)field = text;
        return ZOE_OK;
    case ZOE_OPTION_INT:
        return set_int(ctx, option, field, text);
    case ZOE_OPTION_SEED:
        return set_seed(ctx, option, field, text);
    case ZOE_OPTION_REAL:
        return set_real(ctx, option, field, text);
    case ZOE_OPTION_BYTES:
        return set_bytes(ctx, option, field, text);
    case ZOE_OPTION_SIZE:
        return set_size(ctx, option, field, text);
    case ZOE_OPTION_CHOICE:
        return set_choice(ctx, option, field, text);
    }
    return zoe_fail(ctx, ZOE_ERR_INTERNAL, "%s: option of unknown type %d", option->name, (int)option->type);
}

/* The shortest decimal text that reads back as the same number, with a point whatever the locale. */
static void real_text(char *text, size_t size, double value) {
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, size, "%.*g", digits, value);
        char *comma = strchr(text, ',');
        if (comma) *comma = '.';
        const char *at = text;
        double back;
        if (zoe_read_real(&at, &back) && back == value) return;
    }
}

int zoe_option_get(zoe_context *ctx, const zoe_option *option, const void *source, char **text) {
    const void *field = (const char *)source + option->offset;
    char number[64] = "";
    const char *value = number;
    *text = NULL;
    switch (option->type) {
    case ZOE_OPTION_TEXT:
    case ZOE_OPTION_PATH:
    case ZOE_OPTION_CHOICE:
        value = *(const char *const *)field;
        break;
    case ZOE_OPTION_INT:
        snprintf(number, sizeof number, "%" PRId32, *(const int32_t *)field);
        break;
    case ZOE_OPTION_SEED:
        snprintf(number, sizeof number, "%" PRIu64, *(const uint64_t *)field);
        break;
    case ZOE_OPTION_REAL:
        real_text(number, sizeof number, *(const double *)field);
        break;
    case ZOE_OPTION_BYTES: /* 0 is "not set", and nothing that zoe_option_set() takes; so it is for sizes */
        if (*(const int64_t *)field == 0) return ZOE_OK;
        snprintf(number, sizeof number, "%" PRId64, *(const int64_t *)field);
        break;
    case ZOE_OPTION_SIZE:
        if (*(const int32_t *)field == 0) return ZOE_OK;
        snprintf(number, sizeof number, "%" PRId32 "x%" PRId32, ((const int32_t *)field)[0], ((const int32_t *)field)[1]);
        break;
    }
    if (!value) return ZOE_OK;
    *text = zoe_strdup(ctx, value);
    return *text ? ZOE_OK : zoe_out_of_memory(ctx, strlen(value) + 1, option->name);
}

/* Adds text to the object. JSON is UTF-8; a path may be any bytes, and is left out where it is not. */
static int add_text(zoe_context *ctx, json_t *object, const char *name, const char *text) {
    int status = zoe_text_check_utf8(ctx, text, name);
    if (status == ZOE_ERR_ARGUMENT) {
        zoe_log(ctx, ZOE_LOG_WARNING, "%s; it is left out of the stored request", ctx->error);
        return ZOE_OK;
    }
    if (status == ZOE_OK && json_object_set_new(object, name, json_string(text)) != 0)
        status = zoe_out_of_memory(ctx, strlen(text), name);
    return status;
}

/* Adds an option's value to the object, unless it is unset. */
static int add_option(zoe_context *ctx, json_t *object, const zoe_option *option, const void *source) {
    char *text;
    ZOE_TRY(zoe_option_get(ctx, option, source, &text));
    int status = text ? add_text(ctx, object, option->name, text) : ZOE_OK;
    zoe_free(ctx, text);
    return status;
}

static int add_request(zoe_context *ctx, const char *model, const zoe_model_settings *settings, const zoe_request *request,
                       json_t *object) {
    size_t count;
    const zoe_option *option = zoe_options(&count);
    ZOE_TRY(add_text(ctx, object, "version", zoe_version()));
    ZOE_TRY(add_text(ctx, object, "model", model));
    for (const zoe_option *end = option + count; option < end; option++) {
        if (strcmp(option->name, "output") == 0 || strcmp(option->name, "dump") == 0) continue;
        const void *source = option->scope == ZOE_SCOPE_MODEL ? (const void *)settings : (const void *)request;
        ZOE_TRY(add_option(ctx, object, option, source));
    }
    return ZOE_OK;
}

int zoe_request_json(zoe_context *ctx, const char *model, const zoe_model_settings *settings, const zoe_request *request,
                     json_t **out) {
    *out = json_object();
    if (!*out) return zoe_out_of_memory(ctx, 0, "request");
    int status = add_request(ctx, model, settings, request, *out);
    if (status < 0) {
        json_decref(*out);
        *out = NULL;
    }
    return status;
}
