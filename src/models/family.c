#include "models/family.h"

#include <string.h>

#include "models/cogvideox/cogvideox.h"
#include "models/ltx/ltx.h"
#include "models/wan/wan.h"

const zoe_family *const zoe_families[] = {&zoe_wan_family, &zoe_cogvideox_family, &zoe_ltx_family, NULL};

int zoe_family_find(const zoe_folder *folder, const zoe_family **out) {
    const char *class = NULL;
    for (int i = 0; zoe_families[i]; i++)
        if (zoe_families[i]->recognises(folder)) {
            *out = zoe_families[i];
            return ZOE_OK;
        }
    if (folder->index.root) ZOE_TRY(zoe_config_text(&folder->index, "_class_name", &class));
    if (class)
        return zoe_fail(
            folder->ctx, ZOE_ERR_UNSUPPORTED,
            "%s: pipeline %s is not supported; supported are WanPipeline, WanImageToVideoPipeline, CogVideoXPipeline, "
            "CogVideoXImageToVideoPipeline, LTXPipeline, LTXImageToVideoPipeline and LTXConditionPipeline",
            folder->path, class);
    return zoe_fail(
        folder->ctx, ZOE_ERR_FORMAT,
        "%s is no model folder that is known here: expected model_index.json (diffusers layout), or config.json with "
        "Wan2.1_VAE.pth or Wan2.2_VAE.pth (Wan-AI's own layout)",
        folder->path);
}

int zoe_part_open(const zoe_folder *folder, const char *name, zoe_config *config, zoe_checkpoint **ckpt) {
    zoe_context *ctx = folder->ctx;
    char *dir = zoe_format(ctx, "%s/%s", folder->path, name),
         *json = zoe_format(ctx, "%s/%s/config.json", folder->path, name);
    int status = dir && json ? ZOE_OK : zoe_out_of_memory(ctx, strlen(folder->path), "path");
    if (status == ZOE_OK) status = zoe_config_load(ctx, json, config);
    if (status == ZOE_OK) status = zoe_checkpoint_open(ctx, dir, ckpt);
    zoe_free(ctx, dir);
    zoe_free(ctx, json);
    return status;
}

int zoe_run_dump(zoe_run *run, const char *name, int rank, const int64_t *shape, const float *data) {
    return run->dump ? zoe_safetensors_add(run->dump, name, ZOE_F32, rank, shape, data) : ZOE_OK;
}
