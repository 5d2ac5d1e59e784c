/* An open model: backend, family and what the family made of the folder. */
#ifndef ZOE_PIPELINE_MODEL_H
#define ZOE_PIPELINE_MODEL_H

#include "models/family.h"

struct zoe_model {
    zoe_context *ctx;
    char *path; /* of the folder, as given */
    zoe_model_settings settings;
    zoe_backend *be;
    const zoe_family *family;
    void *impl;
};

/*
 * A folder with its model_index.json if there is one, or a .safetensors file with its header; `text` as in zoe_folder. Free
 * with zoe_folder_close(), also after a failure.
 */
int zoe_folder_open(zoe_context *ctx, const char *path, const char *text, zoe_folder *out);
void zoe_folder_close(zoe_folder *folder);

/* *out: `asked`, or, where that is "auto" or NULL, "cuda" if the plug-in is installed and finds a device, else "cpu". */
int zoe_device_find(zoe_context *ctx, const char *asked, const char **out);

/* The backend that `device` ("auto", "cpu", "cuda:N"; NULL: "auto") and `dtype` (NULL: its own choice) name; `vram`: bytes
 * of a device's memory that it may use, 0: what is free, less a margin. `attention` as in zoe_model_settings. */
int zoe_backend_open(zoe_context *ctx, const char *device, const char *dtype, int64_t vram, const char *attention,
                     zoe_backend **out);

/* "auto", "none", "model", "block" or NULL, which is "auto". */
int zoe_offload_parse(zoe_context *ctx, const char *name, zoe_offload *out);

/* Opens the folder on `be`, which the model then owns, also on failure; NULL: on the one that the settings name. */
int zoe_model_open_with(zoe_context *ctx, const char *dir, const zoe_model_settings *settings, zoe_backend *be,
                        zoe_model **out);

/* A twin of the model on another backend, which it owns, also on failure. */
int zoe_model_open_on(const zoe_model *model, zoe_backend *be, zoe_model **out);

#endif
