#include "pipeline/model.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/device.h"
#include "backend/plugin.h"

static int open_file(zoe_context *ctx, const char *path, zoe_folder *out) {
    const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
    if (!dot || strcmp(dot, ".safetensors") != 0)
        return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s is a file; expected a model folder or a .safetensors file", path);
    out->file = path;
    out->path = slash ? zoe_format(ctx, "%.*s", (int)(slash - path) + 1, path) : zoe_strdup(ctx, ".");
    return out->path ? zoe_checkpoint_open(ctx, path, &out->whole) : zoe_out_of_memory(ctx, strlen(path), "path");
}

int zoe_folder_open(zoe_context *ctx, const char *path, const char *text, zoe_folder *out) {
    struct stat info;
    *out = (zoe_folder){.ctx = ctx, .text = text};
    if (stat(path, &info) != 0) return zoe_fail(ctx, ZOE_ERR_IO, "%s: no such folder", path);
    if (!S_ISDIR(info.st_mode)) return open_file(ctx, path, out);
    out->path = zoe_strdup(ctx, path);
    char *index = out->path ? zoe_format(ctx, "%s/model_index.json", path) : NULL;
    if (!index) return zoe_out_of_memory(ctx, strlen(path), "path");
    int status = stat(index, &info) == 0 ? zoe_config_load(ctx, index, &out->index) : ZOE_OK;
    zoe_free(ctx, index);
    return status;
}

void zoe_folder_close(zoe_folder *folder) {
    if (!folder->ctx) return;
    zoe_free(folder->ctx, (char *)(uintptr_t)folder->path);
    zoe_checkpoint_close(folder->whole);
    zoe_config_free(&folder->index);
}

int zoe_device_find(zoe_context *ctx, const char *asked, const char **out) {
    const zoe_plugin *plugin;
    int count = 0;
    *out = asked ? asked : "auto";
    if (strcmp(*out, "auto") != 0) return ZOE_OK;
    *out = "cpu";
    int status = zoe_plugin_load(ctx, "cuda", &plugin);
    if (status == ZOE_OK) status = plugin->count(ctx, &count);
    if (status == ZOE_ERR_NOMEM) return status;
    if (status < 0 && status != ZOE_ERR_UNSUPPORTED) zoe_log(ctx, ZOE_LOG_WARNING, "%s; using the CPU", ctx->error);
    if (status < 0) ctx->error[0] = 0;
    if (count > 0) *out = "cuda";
    return ZOE_OK;
}

/* "cuda" or "cuda:N" */
static bool is_cuda(const char *device) {
    return strncmp(device, "cuda", 4) == 0 && (device[4] == 0 || device[4] == ':');
}

static int cuda_settings(zoe_context *ctx, const char *device, const char *dtype, int64_t vram, zoe_plugin_settings *out) {
    zoe_plugin_settings settings = {.dtype = ZOE_BF16, .budget = vram, .largest_level = ctx->settings.cuda_level};
    if (device[4] == ':') {
        char *end;
        long number = strtol(device + 5, &end, 10);
        if (end == device + 5 || *end || number < 0 || number > 1023)
            return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "device %s: expected cuda or cuda:N with N from 0", device);
        settings.device = (int)number;
    }
    if (dtype && strcmp(dtype, "f32") == 0)
        settings.dtype = ZOE_F32;
    else if (dtype && strcmp(dtype, "bf16") != 0)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "dtype %s: expected f32 or bf16", dtype);
    *out = settings;
    return ZOE_OK;
}

static int open_cuda(zoe_context *ctx, const char *device, const char *dtype, int64_t vram, zoe_backend **out) {
    zoe_plugin_settings settings;
    const zoe_plugin *plugin;
    ZOE_TRY(cuda_settings(ctx, device, dtype, vram, &settings));
    ZOE_TRY(zoe_plugin_load(ctx, "cuda", &plugin));
    return plugin->create(ctx, &settings, out);
}

static int open_device(zoe_context *ctx, const char *device, const char *dtype, int64_t vram, zoe_backend **out) {
    if (strcmp(device, "cpu") == 0) {
        if (dtype && strcmp(dtype, "f32") != 0)
            return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED,
                            "dtype %s: the CPU computes in f32 (weights stay in the type of their file)", dtype);
        return zoe_cpu_backend_create(ctx, 0, out);
    }
    if (is_cuda(device)) return open_cuda(ctx, device, dtype, vram, out);
    return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "device %s: expected auto, cpu, cuda or cuda:N", device);
}

/* Has the attention that `name` says, or closes the backend. */
static int choose_attention(zoe_backend **be, const char *name) {
    zoe_backend *b = *be;
    int status = ZOE_OK;
    if (!name || strcmp(name, "exact") == 0) return ZOE_OK;
    if (strcmp(name, "sage") != 0)
        status = zoe_fail(b->ctx, ZOE_ERR_ARGUMENT, "attention %s: expected exact or sage", name);
    else if (!b->ops->sage || b->dtype != ZOE_BF16)
        status = zoe_fail(b->ctx, ZOE_ERR_UNSUPPORTED, "attention sage: %s in %s has only exact; sage needs cuda in bf16",
                          b->ops->name, zoe_dtype_name(b->dtype));
    b->sage = true;
    if (status == ZOE_OK) return ZOE_OK;
    zoe_backend_close(b);
    *be = NULL;
    return status;
}

int zoe_backend_open(zoe_context *ctx, const char *device, const char *dtype, int64_t vram, const char *attention,
                     zoe_backend **out) {
    *out = NULL;
    ZOE_TRY(zoe_device_find(ctx, device, &device));
    ZOE_TRY(open_device(ctx, device, dtype, vram, out));
    return choose_attention(out, attention);
}

int zoe_offload_parse(zoe_context *ctx, const char *name, zoe_offload *out) {
    static const char *const names[] = {[ZOE_OFFLOAD_AUTO] = "auto",
                                        [ZOE_OFFLOAD_NONE] = "none",
                                        [ZOE_OFFLOAD_MODEL] = "model",
                                        [ZOE_OFFLOAD_BLOCK] = "block"};
    *out = ZOE_OFFLOAD_AUTO;
    if (!name) return ZOE_OK;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (zoe_offload)i;
            return ZOE_OK;
        }
    return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "offload %s: expected auto, none, model or block", name);
}

/* What only the device could tell, if it is there: its context, and how much of it is free. */
static void ask_device(zoe_context *ctx, int number, zoe_backend *be) {
    const zoe_plugin *plugin;
    zoe_plugin_device device;
    if (zoe_plugin_load(ctx, "cuda", &plugin) < 0 || plugin->describe(ctx, number, &device) < 0) {
        ctx->error[0] = 0;
        return;
    }
    zoe_device_open(be, zoe_device_context(device.processors, device.memory_total - device.memory_free));
    if (!be->device_budget) be->device_budget = device.memory_free + be->device_context - ZOE_DEVICE_MARGIN;
}

/* The books of a device that may not be there. */
static int open_planned(zoe_context *ctx, const zoe_model_settings *s, zoe_backend **out) {
    zoe_plugin_settings settings;
    const char *device;
    *out = NULL;
    ZOE_TRY(zoe_device_find(ctx, s->device, &device));
    if (!is_cuda(device)) return zoe_backend_open(ctx, device, s->dtype, s->vram, s->attention, out);
    ZOE_TRY(cuda_settings(ctx, device, s->dtype, s->vram, &settings));
    ZOE_TRY(zoe_plan_backend_create(ctx, settings.dtype, true, out));
    (*out)->device_budget = s->vram;
    ask_device(ctx, settings.device, *out);
    return choose_attention(out, s->attention);
}

static int open_backend(zoe_context *ctx, const zoe_model_settings *s, zoe_backend **out) {
    if (s->plan_only) return open_planned(ctx, s, out);
    return zoe_backend_open(ctx, s->device, s->dtype, s->vram, s->attention, out);
}

/* Opens the folder on `be`, which the model then owns, or on the one that the settings name. */
int zoe_model_open_with(zoe_context *ctx, const char *dir, const zoe_model_settings *settings, zoe_backend *be,
                        zoe_model **out) {
    zoe_folder folder = {0};
    zoe_linear_policy linear;
    zoe_model *model = NULL;
    int status;
    *out = NULL;
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(ctx, model, 1));
    *model = (zoe_model){.ctx = ctx, .settings = *settings, .be = be};
    be = NULL;
    model->path = zoe_strdup(ctx, dir);
    if (!model->path) ZOE_TRY_DONE(zoe_out_of_memory(ctx, strlen(dir), "path"));
    ZOE_TRY_DONE(zoe_folder_open(ctx, dir, settings->text_encoder, &folder));
    ZOE_TRY_DONE(zoe_family_find(&folder, &model->family));
    if (!model->be) ZOE_TRY_DONE(open_backend(ctx, settings, &model->be));
    ZOE_TRY_DONE(zoe_offload_parse(ctx, settings->offload, &model->be->weights.offload));
    ZOE_TRY_DONE(zoe_linear_policy_find(ctx, settings->linear, &linear));
    ZOE_TRY_DONE(model->family->open(model->be, &folder, &linear, &model->impl));
    *out = model;
done:
    zoe_folder_close(&folder);
    zoe_backend_close(be);
    if (status < 0) zoe_model_close(model);
    return status;
}

int zoe_model_open(zoe_context *ctx, const char *dir, const zoe_model_settings *settings, zoe_model **out) {
    zoe_model_settings initial;
    zoe_model_settings_init(&initial);
    return zoe_model_open_with(ctx, dir, settings ? settings : &initial, NULL, out);
}

int zoe_model_open_on(const zoe_model *model, zoe_backend *be, zoe_model **out) {
    return zoe_model_open_with(model->ctx, model->path, &model->settings, be, out);
}

void zoe_model_close(zoe_model *model) {
    if (!model) return;
    if (model->impl) model->family->close(model->impl);
    zoe_backend_close(model->be);
    zoe_free(model->ctx, model->path);
    zoe_free(model->ctx, model);
}

void zoe_request_init(const zoe_model *model, zoe_request *request) {
    *request =
        (zoe_request){.guidance = 1, .guidance_2 = -1, .steps = 1, .frames = 1, .fps = 16, .adain = -1, .tone_map = -1};
    model->family->defaults(model->impl, request);
}
