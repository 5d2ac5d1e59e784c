#include "pipeline/model.h"

#include <string.h>
#include <sys/stat.h>

int zoe_folder_open(zoe_context *ctx, const char *path, zoe_folder *out) {
    struct stat info;
    *out = (zoe_folder){.ctx = ctx, .path = path};
    if (stat(path, &info) != 0) return zoe_fail(ctx, ZOE_ERR_IO, "%s: no such folder", path);
    if (!S_ISDIR(info.st_mode)) return zoe_fail(ctx, ZOE_ERR_FORMAT, "%s is a file; expected a model folder", path);
    char *index = zoe_format(ctx, "%s/model_index.json", path);
    if (!index) return zoe_out_of_memory(ctx, strlen(path), "path");
    int status = stat(index, &info) == 0 ? zoe_config_load(ctx, index, &out->index) : ZOE_OK;
    zoe_free(ctx, index);
    return status;
}

void zoe_folder_close(zoe_folder *folder) {
    zoe_config_free(&folder->index);
}

int zoe_backend_open(zoe_context *ctx, const char *device, const char *dtype, zoe_backend **out) {
    *out = NULL;
    if (!device) device = "cpu";
    if (strcmp(device, "cpu") == 0) {
        if (dtype && strcmp(dtype, "f32") != 0)
            return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED,
                            "dtype %s: the CPU computes in f32 (weights stay in the type of their file)", dtype);
        return zoe_cpu_backend_create(ctx, 0, out);
    }
    if (strncmp(device, "cuda", 4) == 0 && (device[4] == 0 || device[4] == ':'))
        return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED, "device %s: this build computes on the CPU only; use cpu", device);
    return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "device %s: expected cpu, cuda or cuda:N", device);
}

int zoe_model_open(zoe_context *ctx, const char *dir, const zoe_model_settings *settings, zoe_model **out) {
    zoe_model_settings initial;
    zoe_folder folder = {0};
    zoe_model *model;
    int status;
    *out = NULL;
    zoe_model_settings_init(&initial);
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, model, 1));
    model->ctx = ctx;
    model->settings = settings ? *settings : initial;
    model->path = zoe_strdup(ctx, dir);
    if (!model->path) ZOE_TRY_DONE(zoe_out_of_memory(ctx, strlen(dir), "path"));
    ZOE_TRY_DONE(zoe_folder_open(ctx, dir, &folder));
    ZOE_TRY_DONE(zoe_family_find(&folder, &model->family));
    ZOE_TRY_DONE(zoe_backend_open(ctx, model->settings.device, model->settings.dtype, &model->be));
    ZOE_TRY_DONE(model->family->open(model->be, &folder, ZOE_DTYPE_COUNT, &model->impl));
    *out = model;
done:
    zoe_folder_close(&folder);
    if (status < 0) zoe_model_close(model);
    return status;
}

void zoe_model_close(zoe_model *model) {
    if (!model) return;
    if (model->impl) model->family->close(model->impl);
    zoe_backend_close(model->be);
    zoe_free(model->ctx, model->path);
    zoe_free(model->ctx, model);
}

void zoe_request_init(const zoe_model *model, zoe_request *request) {
    *request = (zoe_request){.guidance = 1, .guidance_2 = -1, .steps = 1, .frames = 1, .fps = 16};
    model->family->defaults(model->impl, request);
}
