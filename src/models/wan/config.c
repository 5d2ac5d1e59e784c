/* Configurations of the denoiser, in diffusers' words and in Wan-AI's own. */
#include <string.h>

#include "models/wan/denoiser.h"

static int read_diffusers(const zoe_config *config, zoe_wan_config *out) {
    static const char *const keys[] = {"num_layers", "num_attention_heads", "attention_head_dim",
                                       "ffn_dim",    "in_channels",         "out_channels",
                                       NULL};
    const char *norm = "rms_norm_across_heads";
    bool cross_norm = true;
    ZOE_TRY(zoe_config_require(config, keys));
    ZOE_TRY(zoe_config_int(config, "num_layers", 1, 1000, &out->layers));
    ZOE_TRY(zoe_config_int(config, "num_attention_heads", 1, 4096, &out->heads));
    ZOE_TRY(zoe_config_int(config, "attention_head_dim", 2, 4096, &out->head_dim));
    ZOE_TRY(zoe_config_int(config, "ffn_dim", 1, 1 << 24, &out->ffn));
    ZOE_TRY(zoe_config_int(config, "in_channels", 1, 4096, &out->in_channels));
    ZOE_TRY(zoe_config_int(config, "out_channels", 1, 4096, &out->out_channels));
    ZOE_TRY(zoe_config_int(config, "image_dim", 1, 1 << 20, &out->image_dim));
    ZOE_TRY(zoe_config_int(config, "pos_embed_seq_len", 1, 1 << 20, &out->image_positions));
    ZOE_TRY(zoe_config_ints(config, "patch_size", 3, 1, 64, out->patch));
    ZOE_TRY(zoe_config_text(config, "qk_norm", &norm));
    ZOE_TRY(zoe_config_bool(config, "cross_attn_norm", &cross_norm));
    if (strcmp(norm, "rms_norm_across_heads") != 0 || !cross_norm)
        return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED,
                        "%s: expected qk_norm \"rms_norm_across_heads\" with cross_attn_norm true, found \"%s\" and %s",
                        config->path, norm, cross_norm ? "true" : "false");
    return ZOE_OK;
}

static int read_original(const zoe_config *config, zoe_wan_config *out) {
    static const char *const keys[] = {"dim", "num_layers", "num_heads", "ffn_dim", "in_dim", "out_dim", NULL};
    int64_t width = 0, rows = ZOE_WAN_TEXT_ROWS;
    ZOE_TRY(zoe_config_require(config, keys));
    ZOE_TRY(zoe_config_int(config, "dim", 1, 1 << 20, &width));
    ZOE_TRY(zoe_config_int(config, "num_layers", 1, 1000, &out->layers));
    ZOE_TRY(zoe_config_int(config, "num_heads", 1, 4096, &out->heads));
    ZOE_TRY(zoe_config_int(config, "ffn_dim", 1, 1 << 24, &out->ffn));
    ZOE_TRY(zoe_config_int(config, "in_dim", 1, 4096, &out->in_channels));
    ZOE_TRY(zoe_config_int(config, "out_dim", 1, 4096, &out->out_channels));
    ZOE_TRY(zoe_config_int(config, "text_len", 1, 1 << 20, &rows));
    if (rows != ZOE_WAN_TEXT_ROWS)
        return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED, "%s: text_len must be %d, found %lld", config->path,
                        ZOE_WAN_TEXT_ROWS, (long long)rows);
    out->head_dim = width / out->heads;
    if (!out->head_dim || width % out->heads)
        return zoe_fail(config->ctx, ZOE_ERR_FORMAT, "%s: dim %lld cannot be shared by num_heads %lld", config->path,
                        (long long)width, (long long)out->heads);
    return ZOE_OK;
}

void zoe_wan_config_complete(zoe_wan_config *config, const zoe_checkpoint *ckpt) {
    const zoe_entry *features = zoe_checkpoint_find(ckpt, "img_emb.proj.1.weight");
    const zoe_entry *positions = zoe_checkpoint_find(ckpt, "img_emb.emb_pos");
    if (features && features->rank == 2) config->image_dim = features->shape[1];
    if (positions && positions->rank == 3) config->image_positions = positions->shape[1];
}

int zoe_wan_config_read(const zoe_config *config, zoe_wan_config *out) {
    *out = (zoe_wan_config){.patch = {1, 2, 2}, .text_dim = 4096, .freq_dim = 256, .eps = 1e-6};
    ZOE_TRY(zoe_config_has(config, "dim") ? read_original(config, out) : read_diffusers(config, out));
    ZOE_TRY(zoe_config_int(config, "text_dim", 1, 1 << 20, &out->text_dim));
    ZOE_TRY(zoe_config_int(config, "freq_dim", 2, 1 << 16, &out->freq_dim));
    ZOE_TRY(zoe_config_real_in(config, "eps", 0, 1, &out->eps));
    if (out->patch[0] != 1 || out->head_dim % 2 || out->freq_dim % 2)
        return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED,
                        "%s: expected a patch of one frame and even head and frequency sizes, found patch %lld, head %lld, "
                        "frequencies %lld",
                        config->path, (long long)out->patch[0], (long long)out->head_dim, (long long)out->freq_dim);
    return ZOE_OK;
}
