/*
 * Zoetrope: videos from text and pictures with the open video models.
 *
 * The library has no process-wide state, unless zoe_guard_mappings() is called: everything hangs off a context, and one
 * context serves one thread at a time.
 * It never prints, exits or aborts. Calls that can fail return a negative zoe_status; zoe_context_error() then holds the
 * longer text: what was wrong, where, what was expected and what to do.
 */
#ifndef ZOETROPE_H
#define ZOETROPE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define ZOE_API __attribute__((visibility("default")))
#else
#define ZOE_API
#endif

#define ZOE_VERSION_MAJOR 0
#define ZOE_VERSION_MINOR 1
#define ZOE_VERSION_PATCH 0

/* ---- status ---- */

typedef enum zoe_status {
    ZOE_OK = 0,
    ZOE_ERR_NOMEM = -1,       /* an allocation failed, on the host or on a device */
    ZOE_ERR_IO = -2,          /* a file could not be opened, read or written */
    ZOE_ERR_FORMAT = -3,      /* a file's contents are not what its format demands */
    ZOE_ERR_ARGUMENT = -4,    /* a setting is out of range or contradicts another */
    ZOE_ERR_UNSUPPORTED = -5, /* understood, but not something this build or model can do */
    ZOE_ERR_CANCELLED = -6,   /* zoe_cancel() was called */
    ZOE_ERR_BUDGET = -7,      /* a memory budget cannot be met */
    ZOE_ERR_NUMERIC = -8,     /* NaN or infinity in weights or in a result */
    ZOE_ERR_DEVICE = -9,      /* a driver or device failed */
    ZOE_ERR_INTERNAL = -10,   /* a broken promise inside the library: a bug, please report it */
} zoe_status;

/* The library's version as "major.minor.patch". */
ZOE_API const char *zoe_version(void);

/* One short English phrase for a status; never NULL. */
ZOE_API const char *zoe_strerror(int status);

/* ---- context ---- */

typedef struct zoe_context zoe_context;

typedef enum zoe_log_level { ZOE_LOG_ERROR, ZOE_LOG_WARNING, ZOE_LOG_INFO, ZOE_LOG_DEBUG } zoe_log_level;

/* Settings of a context. Fill with zoe_context_settings_init(), then change what you need. */
typedef struct zoe_context_settings {
    void *user; /* handed to the callbacks below */
    /* Receives one line without a line feed; NULL keeps the library silent. May be called from any of its threads. */
    void (*log)(void *user, zoe_log_level level, const char *line);
    /* realloc-like: (ptr, 0) frees, (NULL, n) allocates; results aligned as malloc's. NULL: the C library's. */
    void *(*reallocate)(void *user, void *ptr, size_t size);
    int threads;       /* CPU threads for kernels; 0: one for each core */
    uint32_t cpu_mask; /* levels of CPU kernels that may be used: bit 0 AVX2, 1 AVX-512, 2 VNNI; all ones by default */
    int cuda_level;    /* newest compute capability whose kernels may be used, such as 80 for 8.0; 0: the device's own */
} zoe_context_settings;

ZOE_API void zoe_context_settings_init(zoe_context_settings *settings);

/* Creates a context; settings may be NULL for the defaults. On failure *out is NULL. */
ZOE_API int zoe_context_create(const zoe_context_settings *settings, zoe_context **out);
ZOE_API void zoe_context_free(zoe_context *context);

/* Text of the last failure in this context, valid until the next call on it; empty if nothing failed. */
ZOE_API const char *zoe_context_error(const zoe_context *context);

/* Asks the call in progress to end soon with ZOE_ERR_CANCELLED. Safe from any thread and from a signal handler. */
ZOE_API void zoe_cancel(zoe_context *context);

/* Frees a string that a call below handed over. */
ZOE_API void zoe_string_free(zoe_context *context, char *text);

/*
 * Weights are used where their files are mapped into memory. By itself that means that a file which is cut off while it is
 * in use, or a disk which fails, ends the process with SIGBUS. After this call it ends the request in progress, with
 * ZOE_ERR_IO: a handler of SIGBUS, for the whole process, looks after files that are opened from here on and passes
 * everything else on to the handler that was there before. For programs to call once, at their start; not for libraries.
 * Safe from any thread. ZOE_ERR_UNSUPPORTED if no handler can be installed.
 */
ZOE_API int zoe_guard_mappings(void);

/* ---- settings described as data ---- */

typedef enum zoe_option_type {
    ZOE_OPTION_TEXT,   /* const char * (UTF-8) */
    ZOE_OPTION_PATH,   /* const char * */
    ZOE_OPTION_INT,    /* int32_t */
    ZOE_OPTION_SEED,   /* uint64_t */
    ZOE_OPTION_REAL,   /* double */
    ZOE_OPTION_BYTES,  /* int64_t, written as 8G, 512M, ... (powers of 1024) */
    ZOE_OPTION_SIZE,   /* two int32_t, width then height, written as WxH */
    ZOE_OPTION_CHOICE, /* const char *, one of `choices` */
} zoe_option_type;

typedef enum zoe_option_scope { ZOE_SCOPE_MODEL, ZOE_SCOPE_REQUEST } zoe_option_scope;

/* One field of zoe_model_settings or zoe_request. Command line, help, man page and bindings are made from these rows. */
typedef struct zoe_option {
    const char *name; /* as on the command line, without the dashes */
    zoe_option_scope scope;
    zoe_option_type type;
    size_t offset;       /* of the field in the struct of its scope */
    const char *meta;    /* placeholder in help text, such as "WxH" */
    const char *choices; /* ZOE_OPTION_CHOICE: the words, separated by '|'; else NULL */
    double min, max;     /* inclusive range of numbers; 0, 0: no limit */
    const char *help;    /* one sentence, says the default */
    int many;            /* may be given again and again: the field is a text with a line for each */
} zoe_option;

/* The table of all options; *count receives its length. */
ZOE_API const zoe_option *zoe_options(size_t *count);

/*
 * Reads `text` into the option's field of `target` (a zoe_model_settings or zoe_request, by scope).
 * Strings are kept by pointer: `text` must outlive the struct.
 */
ZOE_API int zoe_option_set(zoe_context *context, const zoe_option *option, void *target, const char *text);

/*
 * The option's field of `source` as text that zoe_option_set() reads back, freed by zoe_string_free(); *text is NULL when
 * the field is not set.
 */
ZOE_API int zoe_option_get(zoe_context *context, const zoe_option *option, const void *source, char **text);

/* ---- models ---- */

typedef struct zoe_model zoe_model;

typedef struct zoe_model_settings {
    const char *device; /* "auto": the first CUDA device, or the CPU where there is none; "cpu", "cuda" or "cuda:N" */
    const char *dtype;  /* "f32" or "bf16": type of activations; NULL: the device's own choice (cpu: f32) */
    /* "native", "int8", "fp8", "int4" or "nvfp4": what the linear weights are quantised to while loading; NULL: native */
    const char *linear;
    int64_t vram; /* budget of device memory in bytes, all that its driver counts; 0: what is free, less a margin */
    /* Budget of host memory in bytes; 0: on the CPU none, weights being mapped pages that the system can take back; beside
     * a device what is available, less a margin. */
    int64_t ram;
    /* "auto": as much of a part's weights as fits stays on the device while the part is at work; "none": everything stays
     * there; "model": a part is there as a whole or not at all; "block": its blocks come one by one; NULL: auto */
    const char *offload;
    const char *text_encoder; /* folder with text_encoder and tokenizer, for models published without; NULL: the model's */
    const char *attention;    /* "exact" or "sage": over long sequences through int8 and e4m3, on cuda; NULL: exact */
    int plan_only;            /* not 0: for zoe_plan_request() alone, which needs no device to be there */
    const char *rates;        /* file of what zoe_devices() measured, by which zoe_plan_request() tells times; NULL: none */
} zoe_model_settings;

ZOE_API void zoe_model_settings_init(zoe_model_settings *settings);

/*
 * Opens a model as published, a folder or a .safetensors file: reads its configurations, checks that every tensor is there
 * with the right shape and maps the weights. settings may be NULL. The context must outlive the model.
 */
ZOE_API int zoe_model_open(zoe_context *context, const char *path, const zoe_model_settings *settings, zoe_model **out);
ZOE_API void zoe_model_close(zoe_model *model);

/* ---- requests ---- */

typedef enum zoe_phase { ZOE_PHASE_LOAD, ZOE_PHASE_TEXT, ZOE_PHASE_IMAGE, ZOE_PHASE_DENOISE, ZOE_PHASE_DECODE } zoe_phase;
#define ZOE_PHASE_COUNT 5

ZOE_API const char *zoe_phase_name(zoe_phase phase);

typedef struct zoe_progress {
    zoe_phase phase;
    int step, steps;         /* done and in all; decode counts frames */
    double seconds_per_step; /* mean of this phase so far; 0 before the first step is done */
    double seconds_left;     /* of this phase; negative while unknown */
    int64_t host_bytes;      /* resident memory of the process */
    int64_t device_bytes;    /* memory held on the device; 0 on the CPU */
} zoe_progress;

typedef struct zoe_request {
    const char *prompt;
    const char *negative;   /* NULL: the family's default */
    const char *image;      /* path of the first frame, for models that take one */
    const char *last_image; /* path of the last frame, for models that take one */
    const char
        *conditions; /* pictures and clips from other frames on, a line each: "FILE@FRAME" or "FILE@FRAME:STRENGTH" */
    double condition_noise; /* noise added to what is given at full strength, in each step; 0: none */
    int32_t width, height;  /* pixels */
    int32_t frames;
    double fps;
    int32_t steps;
    int32_t refine_steps;   /* of the second pass's schedule, with an upsampler; 0: as published for the model */
    double guidance;        /* classifier-free guidance scale; 1 turns it off */
    double guidance_2;      /* scale of the second expert; negative: the same as `guidance` */
    double flow_shift;      /* shift of the flow schedule; 0: as the model's scheduler says */
    const char *sampler;    /* "unipc", "euler", "stochastic", "ddim" or "dpm"; NULL: as the model's scheduler says */
    const char *timesteps;  /* "1000,909,725": those of the steps, for flow models; NULL: as `steps` makes them */
    const char *upsampler;  /* folder or file of a latent upsampler: a first pass at half the size, a second at the full;
                               NULL: one pass */
    double refine_strength; /* the second pass takes so much of the end of its schedule; 0: as published for the model */
    double adain, tone_map; /* of the enlarged latents, 0 to 1; negative: as published for the model */
    uint64_t seed;
    const char *vae_tiling;   /* "auto", "none", "exact" or "reference": how the VAE divides frames; NULL: "auto" */
    const char *init_latents; /* "FILE.safetensors:NAME": start from this tensor instead of drawing noise */
    const char *dump;         /* safetensors file for what was computed on the way */
    const char *output;       /* video file, by its ending: .mp4 .webm .gif .y4m, a folder with %d for .png, "-" for Y4M on
                                 standard output; NULL: none */
    void *user;               /* handed to the callbacks below, which are called from the calling thread */
    void (*progress)(void *user, const zoe_progress *progress);
    /* One decoded frame, [height, width, 3] bytes, as soon as it is ready; a non-zero return cancels. */
    int (*frame)(void *user, int index, const uint8_t *rgb, int width, int height);
} zoe_request;

/* Fills a request with the model's defaults. */
ZOE_API void zoe_request_init(const zoe_model *model, zoe_request *request);

typedef struct zoe_result {
    const char *device;            /* what it was computed on: "cpu" or "cuda" */
    int32_t width, height, frames; /* frames: how many were decoded and written, also after an interruption */
    double fps;
    double seconds[ZOE_PHASE_COUNT]; /* spent in each phase */
    double seconds_per_step;         /* mean of a denoising step */
    int64_t peak_host_bytes;         /* largest resident memory of the process */
    int64_t peak_device_bytes;
    /* Weights on their way, in all phases: brought to where they are computed with (on the CPU: mapped); read from files
     * for a device, and the seconds during which files were being read; seconds for which a device had to wait for weights.
     */
    int64_t loaded_bytes, read_bytes;
    double read_seconds, stalled_seconds;
    /* The same for a step of denoising, the first step apart: what streams. */
    int64_t loaded_bytes_per_step, read_bytes_per_step;
    double stalled_seconds_per_step;
} zoe_result;

/*
 * Makes a video. *result (may be NULL) is filled on success and, with what was reached, on failure. After
 * ZOE_ERR_CANCELLED the frames decoded so far stay in a playable output file; after any other failure no output is left.
 */
ZOE_API int zoe_generate(zoe_model *model, const zoe_request *request, zoe_result *result);

/*
 * What zoe_generate() would take: for each phase the weights, activations and peaks of memory, the bytes that stream and
 * the operations, with an estimate of the time; freed by zoe_string_free(). Computes and loads nothing. Under a budget that
 * cannot be met: ZOE_ERR_BUDGET, with the smallest that can.
 */
ZOE_API int zoe_plan_request(zoe_model *model, const zoe_request *request, char **json);

/* ---- reports: JSON text, freed by zoe_string_free() ---- */

/* What a model folder, weight file or generated video holds: family, parts, dtypes, sizes, what is missing; its request. */
ZOE_API int zoe_inspect(zoe_context *context, const char *path, char **json);

/*
 * Writes the model folder `dir` anew into the folder `out`, which must not exist, with its linear weights quantised to
 * `linear` ("int8", "fp8", "int4" or "nvfp4"); it then loads without being quantised again. Files that stay as they are
 * are linked where that is possible, else copied. `progress` (may be NULL) is told how many bytes of the files that are
 * written anew have been read, and of how many. json: what was written and the error of each matrix, relative L2.
 */
ZOE_API int zoe_quantize(zoe_context *context, const char *dir, const char *linear, const char *out,
                         void (*progress)(void *user, int64_t bytes, int64_t of), void *user, char **json);

/* What can be computed on, with memory; measure != 0: with measured ceilings too. */
ZOE_API int zoe_devices(zoe_context *context, int measure, char **json);

typedef struct zoe_bench_settings {
    const char *what;   /* "denoise", "decode", "encode", "text", "linear" or "attention" */
    const char *config; /* folder with config.json files, for denoise, decode, encode and text */
    const char *device, *dtype;
    const char *linear; /* as in zoe_model_settings, for linear, denoise and text */
    int32_t width, height, frames;
    const char *vae_tiling;                           /* "none", "exact" or "reference", for decode */
    int32_t vae_parts;                                /* for "exact": in which frames are decoded */
    const char *attention;                            /* as in zoe_model_settings, for denoise and attention */
    int32_t tokens, inputs, outputs, heads, head_dim; /* shapes of linear and attention */
    int32_t repeats;
    int64_t vram, ram;   /* as in zoe_model_settings, for denoise, decode and text */
    const char *offload; /* likewise */
} zoe_bench_settings;

ZOE_API void zoe_bench_settings_init(zoe_bench_settings *settings);

/* Times one part on random data and weights, beside the measured ceiling. */
ZOE_API int zoe_bench(zoe_context *context, const zoe_bench_settings *settings, char **json);

#ifdef __cplusplus
}
#endif
#endif
