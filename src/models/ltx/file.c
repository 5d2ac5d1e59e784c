/*
 * Lightricks' own files: denoiser and autoencoder in one, the later ones with a configuration in their metadata. What that
 * leaves open the tensors tell. The text encoder is published elsewhere, for all versions the same.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "models/ltx/ltx_model.h"
#include "models/ltx/names.h"
#include "models/ltx/vae_blocks.h"

/* All published denoisers have as many. */
#define HEADS 32
#define MOST  (1 << 20)

/* The entry that the slot tables call by this name. */
__attribute__((format(printf, 3, 4))) static const zoe_entry *find(const zoe_checkpoint *ckpt, const zoe_alias *aliases,
                                                                   const char *format, ...) {
    char name[128];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return zoe_weights_find(ckpt, aliases, name);
}

/* Axis `axis` of such an entry; 0 if it is not there, has none, or one that no network has. */
static int64_t axis_of(const zoe_entry *entry, int axis) {
    return entry && axis < entry->rank && entry->shape[axis] <= MOST ? entry->shape[axis] : 0;
}

/* ---- denoiser ---- */

int zoe_ltx_config_from_checkpoint(zoe_context *ctx, const zoe_checkpoint *ckpt, int64_t heads, zoe_ltx_config *out) {
    const zoe_alias *names = zoe_ltx_denoiser_aliases;
    int64_t width = axis_of(find(ckpt, names, "proj_in.weight"), 0);
    *out = (zoe_ltx_config){.heads = heads,
                            .head_dim = width / heads,
                            .in_channels = axis_of(find(ckpt, names, "proj_in.weight"), 1),
                            .out_channels = axis_of(find(ckpt, names, "proj_out.weight"), 0),
                            .text_dim = axis_of(find(ckpt, names, "caption_projection.linear_1.weight"), 1),
                            .eps = 1e-6};
    while (find(ckpt, names, "transformer_blocks.%d.scale_shift_table", (int)out->layers)) out->layers++;
    if (out->layers && out->in_channels && out->out_channels && out->text_dim && width % (2 * heads) == 0 && width >= 12)
        return ZOE_OK;
    return zoe_fail(ctx, ZOE_ERR_FORMAT,
                    "%s: expected the denoiser of LTX-Video (model.diffusion_model.patchify_proj, proj_out, "
                    "caption_projection, transformer_blocks.*) with a width that %lld heads divide, found %lld",
                    zoe_checkpoint_path(ckpt, 0), (long long)heads, (long long)width);
}

/* ---- autoencoder ---- */

static int64_t count_resnets(const zoe_checkpoint *ckpt, const zoe_alias *names, const char *place) {
    int64_t count = 0;
    while (count < 1000 && find(ckpt, names, "%s.resnets.%d.conv1.conv.weight", place, (int)count)) count++;
    return count;
}

/* By how much a level's end divides time and space, from the channels that it packs. */
static void find_stride(const zoe_ltx_vae_config *c, const zoe_entry *sampler, int64_t out, int64_t stride[2]) {
    int64_t made = axis_of(sampler, 0), cells = !sampler ? 1 : !c->shuffles ? 8 : made ? out / made : 0;
    stride[0] = cells == 2 || cells == 8 ? 2 : 1;
    stride[1] = cells == 4 || cells == 8 ? 2 : 1;
}

static void find_encoder(const zoe_checkpoint *ckpt, const zoe_alias *names, zoe_ltx_vae_config *c) {
    char place[64];
    const char *inner = c->shuffles ? "conv." : "";
    int64_t last = axis_of(find(ckpt, names, "encoder.conv_out.conv.weight"), 1);
    for (c->levels = 0; c->levels < ZOE_LTX_VAE_LEVELS; c->levels++) {
        snprintf(place, sizeof place, "encoder.down_blocks.%d", c->levels);
        const zoe_entry *first = find(ckpt, names, "%s.resnets.0.conv1.conv.weight", place);
        if (!first) break;
        c->widths[c->levels] = axis_of(first, 0);
        c->layers[c->levels] = count_resnets(ckpt, names, place);
    }
    for (int i = 0; i < c->levels; i++) {
        c->out_widths[i] = i + 1 < c->levels ? c->widths[i + 1] : last;
        find_stride(c, find(ckpt, names, "encoder.down_blocks.%d.downsamplers.0.%sconv.weight", i, inner), c->out_widths[i],
                    c->stride[i]);
    }
    if (c->levels <= ZOE_LTX_VAE_LEVELS) c->layers[c->levels] = count_resnets(ckpt, names, "encoder.mid_block");
}

static void find_decoder(const zoe_checkpoint *ckpt, const zoe_alias *names, zoe_ltx_vae_config *c) {
    char place[64];
    c->up_widths[0] = axis_of(find(ckpt, names, "decoder.conv_in.conv.weight"), 0);
    c->up_layers[0] = count_resnets(ckpt, names, "decoder.mid_block");
    c->up_noise[0] = find(ckpt, names, "decoder.mid_block.resnets.0.per_channel_scale1");
    for (c->up_levels = 0; c->up_levels < ZOE_LTX_VAE_LEVELS; c->up_levels++) {
        int i = c->up_levels;
        snprintf(place, sizeof place, "decoder.up_blocks.%d", i);
        const zoe_entry *first = find(ckpt, names, "%s.resnets.0.conv1.conv.weight", place);
        const zoe_entry *sampler = find(ckpt, names, "%s.upsamplers.0.conv.conv.weight", place);
        if (!first) break;
        int64_t made = axis_of(sampler, 0);
        c->up_widths[i + 1] = axis_of(first, 0);
        c->up_layers[i + 1] = count_resnets(ckpt, names, place);
        c->up_noise[i + 1] = find(ckpt, names, "%s.resnets.0.per_channel_scale1", place);
        c->up_scales[i] = sampler;
        c->up_factor[i] = made ? axis_of(sampler, 1) * 8 / made : 1;
        c->up_residual[i] = c->up_factor[i] > 1;
    }
}

static bool complete(const zoe_ltx_vae_config *c) {
    bool whole = c->channels && c->patch && c->levels && c->up_levels;
    for (int i = 0; i <= c->levels; i++) whole = whole && c->layers[i] && c->layers[i] <= ZOE_LTX_VAE_RESNETS;
    for (int i = 0; i <= c->up_levels; i++) whole = whole && c->up_layers[i] && c->up_layers[i] <= ZOE_LTX_VAE_RESNETS;
    for (int i = 0; i < c->up_levels; i++)
        whole = whole && c->up_factor[i] && (!c->up_residual[i] || c->up_widths[i] % 8 == 0);
    return whole && zoe_ltx_vae_space_factor(c) == 32 && zoe_ltx_vae_time_factor(c) == 8;
}

int zoe_ltx_vae_config_from_checkpoint(zoe_context *ctx, const zoe_checkpoint *ckpt, zoe_ltx_vae_config *out) {
    zoe_ltx_vae_config *c = out;
    *c = (zoe_ltx_vae_config){.eps = 1e-6,
                              .shuffles = zoe_checkpoint_find(ckpt, "vae.encoder.down_blocks.1.conv.conv.weight"),
                              .timestep = zoe_checkpoint_find(ckpt, "vae.decoder.last_scale_shift_table")};
    const zoe_alias *names = zoe_ltx_vae_aliases(c);
    c->channels = axis_of(find(ckpt, names, "decoder.conv_in.conv.weight"), 1);
    c->patch = (int64_t)sqrt((double)axis_of(find(ckpt, names, "encoder.conv_in.conv.weight"), 1) / 3);
    find_encoder(ckpt, names, c);
    find_decoder(ckpt, names, c);
    if (complete(c)) return ZOE_OK;
    return zoe_fail(ctx, ZOE_ERR_FORMAT,
                    "%s: expected the autoencoder of LTX-Video 0.9.0, 0.9.1, or 0.9.5 and later (vae.encoder.*, "
                    "vae.decoder.*, vae.per_channel_statistics.*), which makes one latent of 32x32 pixels and 8 frames",
                    zoe_checkpoint_path(ckpt, 0));
}

/* ---- metadata ---- */

/* One object of the configuration in the file's metadata; root NULL: there is none. Free with zoe_config_free(). */
static int read_metadata(const zoe_folder *folder, zoe_config *out) {
    const char *text = zoe_checkpoint_metadata(folder->whole, "config");
    json_error_t error;
    *out = (zoe_config){.ctx = folder->ctx};
    if (!text) return ZOE_OK;
    out->root = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(out->root)) {
        zoe_config_free(out);
        return zoe_fail(folder->ctx, ZOE_ERR_FORMAT, "%s: \"config\" of its metadata is no JSON object: %s", folder->file,
                        error.text);
    }
    out->path = zoe_strdup(folder->ctx, folder->file);
    if (out->path) return ZOE_OK;
    zoe_config_free(out);
    return zoe_out_of_memory(folder->ctx, strlen(folder->file), "path");
}

/* The object `name` in it, borrowed; reading from a config without one leaves all defaults. */
static zoe_config section(const zoe_config *metadata, const char *name) {
    return (zoe_config){.ctx = metadata->ctx, .root = json_object_get(metadata->root, name), .path = metadata->path};
}

static int check_vae(const zoe_config *c) {
    const char *padding = "zeros";
    bool causal = false;
    ZOE_TRY(zoe_config_text(c, "spatial_padding_mode", &padding));
    ZOE_TRY(zoe_config_bool(c, "causal_decoder", &causal));
    if (strcmp(padding, "zeros") == 0 && !causal) return ZOE_OK;
    return zoe_fail(c->ctx, ZOE_ERR_UNSUPPORTED,
                    "%s: expected an autoencoder with spatial_padding_mode zeros and causal_decoder false", c->path);
}

/* The schedule of the version, unless the metadata name another. */
static int read_schedule(ltx_model *m, const zoe_config *c) {
    const char *sampler = m->keyframes ? "LinearQuadratic" : "Uniform", *shifting = m->keyframes ? "" : "SD3";
    zoe_schedule_config *s = &m->schedule;
    *s = (zoe_schedule_config){.solver = ZOE_SOLVER_EULER, .flow_shift = 1, .train_steps = 1000};
    ZOE_TRY(zoe_config_text(c, "sampler", &sampler));
    if (c->root && json_object_get(c->root, "shifting")) shifting = "";
    ZOE_TRY(zoe_config_text(c, "shifting", &shifting));
    ZOE_TRY(zoe_config_bool(c, "stochastic_sampling", &s->stochastic));
    s->dynamic = strcmp(shifting, "SD3") == 0;
    bool known = strcmp(sampler, "LinearQuadratic") == 0 || strcmp(sampler, "Uniform") == 0;
    if (!known || (*shifting && !s->dynamic))
        return zoe_fail(c->ctx, ZOE_ERR_UNSUPPORTED,
                        "%s: sampler %s with shifting %s; expected LinearQuadratic or Uniform with SD3 or none", c->path,
                        sampler, *shifting ? shifting : "null");
    s->points = strcmp(sampler, "LinearQuadratic") == 0 ? ZOE_POINTS_LINEAR_QUADRATIC : ZOE_POINTS_EVEN;
    if (!s->dynamic) return ZOE_OK;
    s->base_shift = 0.95, s->max_shift = 2.05, s->base_tokens = 1024, s->max_tokens = 4096, s->shift_terminal = 0.1;
    return zoe_config_real_in(c, "target_shift_terminal", 0, 1, &s->shift_terminal);
}

/* ---- opening ---- */

/* The text encoder is not in the file: says where it is expected, and where it is published. */
static int check_text(const zoe_folder *folder) {
    static const char *const parts[] = {"text_encoder", "tokenizer"};
    const char *home = folder->text ? folder->text : folder->path;
    for (int i = 0; i < 2; i++) {
        char *path = zoe_format(folder->ctx, "%s/%s", home, parts[i]);
        if (!path) return zoe_out_of_memory(folder->ctx, strlen(home), "path");
        bool there = access(path, F_OK) == 0;
        zoe_free(folder->ctx, path);
        if (!there)
            return zoe_fail(folder->ctx, ZOE_ERR_IO,
                            "%s holds no text encoder, and there is no %s in %s: fetch the folders text_encoder and "
                            "tokenizer of Lightricks/LTX-Video (T5 v1.1 XXL), put them beside the file, or name the folder "
                            "that has both with --text-encoder DIR",
                            folder->file, parts[i], home);
    }
    return ZOE_OK;
}

static int make_networks(ltx_model *m, const zoe_config *metadata, zoe_weight_form form) {
    const zoe_config transformer = section(metadata, "transformer"), vae = section(metadata, "vae");
    zoe_ltx_config config;
    zoe_ltx_vae_config vae_config;
    int64_t heads = HEADS;
    ZOE_TRY(check_vae(&vae));
    ZOE_TRY(zoe_config_int(&transformer, "num_attention_heads", 1, 4096, &heads));
    ZOE_TRY(zoe_ltx_config_from_checkpoint(m->be->ctx, m->denoiser_ckpt, heads, &config));
    ZOE_TRY(zoe_ltx_vae_config_from_checkpoint(m->be->ctx, m->vae_ckpt, &vae_config));
    m->keyframes = m->causal = vae_config.shuffles;
    ZOE_TRY(zoe_config_bool(&transformer, "causal_temporal_positioning", &m->causal));
    ZOE_TRY(zoe_ltx_denoiser_create(m->be, &config, m->denoiser_ckpt, form, &m->denoiser));
    return zoe_ltx_vae_create(m->be, &vae_config, m->vae_ckpt, &m->vae);
}

static int open_with(ltx_model *m, const zoe_folder *folder, const zoe_config *metadata, const zoe_linear_policy *linear) {
    const zoe_config scheduler = section(metadata, "scheduler");
    m->distilled = zoe_config_has(metadata, "allowed_inference_steps");
    ZOE_TRY(check_text(folder));
    ZOE_TRY(zoe_checkpoint_open(folder->ctx, folder->file, &m->denoiser_ckpt));
    ZOE_TRY(zoe_checkpoint_open(folder->ctx, folder->file, &m->vae_ckpt));
    ZOE_TRY(make_networks(m, metadata, linear->denoiser));
    ZOE_TRY(read_schedule(m, &scheduler));
    return zoe_part_text(folder, m->be, NULL, linear->text, &m->tokenizer, &m->text_ckpt, &m->text);
}

bool zoe_ltx_is_file(const zoe_folder *folder) {
    return folder->whole && (zoe_checkpoint_find(folder->whole, "model.diffusion_model.patchify_proj.weight") ||
                             zoe_checkpoint_find(folder->whole, "vae.per_channel_statistics.std-of-means"));
}

int zoe_ltx_open_file(ltx_model *m, const zoe_folder *folder, const zoe_linear_policy *linear) {
    zoe_config metadata;
    ZOE_TRY(read_metadata(folder, &metadata));
    int status = open_with(m, folder, &metadata, linear);
    zoe_config_free(&metadata);
    return status;
}
