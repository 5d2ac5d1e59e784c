/*
 * The authors' own layout (SAT): transformer/<iteration>/mp_rank_00_model_states.pt with the iteration's name in
 * transformer/latest, vae/3d-vae.pt, and a folder t5-v1_1-xxl. Its configurations are not in it; the tensors tell the
 * sizes, and which of the published models it is.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "models/cogvideox/cogvideox_model.h"
#include "models/cogvideox/names.h"
#include "models/cogvideox/vae_blocks.h"

#define VAE_FILE   "vae/3d-vae.pt"
#define TEXT_PLACE "t5-v1_1-xxl"
#define DIT        "model.diffusion_model."
#define MOST       (1 << 20) /* of an axis: no network has more */

/* Folders of the transformer: 1.5 publishes both kinds in one place. */
static const char *const places[] = {"transformer", "transformer_t2v", "transformer_i2v"};

static bool exists(const char *folder, const char *name) {
    char path[PATH_MAX]; /* the system knows no longer ones */
    struct stat info;
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    return length > 0 && (size_t)length < sizeof path && stat(path, &info) == 0;
}

bool zoe_cogvideox_is_original(const zoe_folder *folder) {
    return !folder->file && !folder->index.root && exists(folder->path, VAE_FILE);
}

/* ---- files ---- */

/* "<place>/<iteration>/mp_rank_00_model_states.pt", the iteration as the file `latest` says */
static int states_path(const zoe_folder *folder, const char *place, char **out) {
    char *latest = zoe_format(folder->ctx, "%s/%s/latest", folder->path, place), name[64] = "";
    *out = NULL;
    if (!latest) return zoe_out_of_memory(folder->ctx, strlen(folder->path), "path");
    FILE *file = fopen(latest, "rb");
    if (!file || fscanf(file, "%63[0-9a-zA-Z_-]", name) != 1) name[0] = 0;
    if (file) fclose(file);
    zoe_free(folder->ctx, latest);
    if (!name[0])
        return zoe_fail(folder->ctx, ZOE_ERR_FORMAT,
                        "%s/%s: expected a file named latest with the name of the folder that holds "
                        "mp_rank_00_model_states.pt, such as 1000",
                        folder->path, place);
    *out = zoe_format(folder->ctx, "%s/%s/%s/mp_rank_00_model_states.pt", folder->path, place, name);
    return *out ? ZOE_OK : zoe_out_of_memory(folder->ctx, strlen(folder->path), "path");
}

static int find_place(const zoe_folder *folder, const char **out) {
    *out = NULL;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (!exists(folder->path, places[i])) continue;
        if (*out)
            return zoe_fail(folder->ctx, ZOE_ERR_UNSUPPORTED,
                            "%s holds two models, %s and %s: put links to vae, " TEXT_PLACE
                            " and the one that is meant into "
                            "a folder of their own",
                            folder->path, *out, places[i]);
        *out = places[i];
    }
    if (*out) return ZOE_OK;
    return zoe_fail(folder->ctx, ZOE_ERR_IO, "%s has %s but no folder transformer, transformer_t2v or transformer_i2v",
                    folder->path, VAE_FILE);
}

static int open_states(cogvideox_model *m, const zoe_folder *folder) {
    const char *place;
    char *path;
    ZOE_TRY(find_place(folder, &place));
    ZOE_TRY(states_path(folder, place, &path));
    int status = zoe_checkpoint_open(folder->ctx, path, &m->denoiser_ckpt);
    zoe_free(folder->ctx, path);
    if (status < 0) return status;
    path = zoe_format(folder->ctx, "%s/%s", folder->path, VAE_FILE);
    if (!path) return zoe_out_of_memory(folder->ctx, strlen(folder->path), "path");
    status = zoe_checkpoint_open(folder->ctx, path, &m->vae_ckpt);
    zoe_free(folder->ctx, path);
    return status;
}

/* ---- what the tensors tell ---- */

static int64_t axis_of(const zoe_checkpoint *ckpt, const zoe_alias *names, const char *name, int axis) {
    const zoe_entry *entry = zoe_weights_find(ckpt, names, name);
    return entry && axis < entry->rank && entry->shape[axis] <= MOST ? entry->shape[axis] : 0;
}

/* Sizes that all published models of a version share; what the authors' configurations say of them. */
static void set_version(zoe_cogvideox_config *c, bool second) {
    c->patch = 2;
    c->patch_time = second ? 2 : 0;
    c->text_rows = second ? 224 : 226;
    c->sample_frames = second ? 81 : 49;
    c->sample_size[0] = second ? 300 : 60;
    c->sample_size[1] = second ? 300 : 90;
    c->time_ratio = ZOE_COGVIDEOX_VAE_TIME;
    c->space_scale = 1.875;
    c->time_scale = 1;
    c->eps = 1e-5;
}

int zoe_cogvideox_config_from_checkpoint(zoe_context *ctx, const zoe_checkpoint *ckpt, zoe_cogvideox_config *out) {
    const zoe_alias *names = zoe_cogvideox_denoiser_aliases;
    const zoe_entry *patch = zoe_weights_find(ckpt, names, "patch_embed.proj.weight");
    bool second = patch && patch->rank == 2;
    int64_t width = axis_of(ckpt, names, "patch_embed.proj.weight", 0), cells = second ? 8 : 4;
    char name[96];
    *out = (zoe_cogvideox_config){
        .head_dim = axis_of(ckpt, names, "transformer_blocks.0.attn1.norm_q.weight", 0),
        .in_channels = axis_of(ckpt, names, "patch_embed.proj.weight", 1) / (second ? cells : 1),
        .out_channels = axis_of(ckpt, names, "proj_out.weight", 0) / cells,
        .time_dim = axis_of(ckpt, names, "time_embedding.linear_1.weight", 0),
        .ofs_dim = axis_of(ckpt, names, "ofs_embedding.linear_1.weight", 0),
        .text_dim = axis_of(ckpt, names, "patch_embed.text_proj.weight", 1),
        .rotary = zoe_checkpoint_find(ckpt, DIT "mixins.pos_embed.freqs_cos"),
    };
    set_version(out, second);
    /* The 2B model's table of positions is computed, and may be stored all the same. */
    out->learned = out->rotary && zoe_weights_find(ckpt, names, "patch_embed.pos_embedding");
    out->heads = out->head_dim ? width / out->head_dim : 0;
    for (;; out->layers++) {
        snprintf(name, sizeof name, "transformer_blocks.%lld.attn1.norm_q.weight", (long long)out->layers);
        if (!zoe_weights_find(ckpt, names, name)) break;
    }
    if (out->layers && out->heads && out->head_dim % 16 == 0 && out->in_channels && out->out_channels && out->time_dim &&
        out->text_dim)
        return ZOE_OK;
    return zoe_fail(ctx, ZOE_ERR_FORMAT,
                    "%s: expected the transformer of CogVideoX (" DIT
                    "mixins.patch_embed.proj, transformer.layers.*, mixins.adaln_layer.*)",
                    zoe_checkpoint_path(ckpt, 0));
}

static int64_t smaller_divisor(int64_t a, int64_t b) {
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Norms have 32 groups, or as many as there are channels. */
int zoe_cogvideox_vae_config_from_checkpoint(zoe_context *ctx, const zoe_checkpoint *ckpt, zoe_cogvideox_vae_config *out) {
    const zoe_alias *names = zoe_cogvideox_vae_aliases;
    char name[96];
    bool whole = true;
    *out = (zoe_cogvideox_vae_config){.channels = axis_of(ckpt, names, "decoder.conv_in.conv.weight", 1), .eps = 1e-6};
    for (int i = 0; i < ZOE_COGVIDEOX_VAE_LEVELS; i++) {
        snprintf(name, sizeof name, "encoder.down_blocks.%d.resnets.0.conv1.conv.weight", i);
        out->widths[i] = axis_of(ckpt, names, name, 0);
        whole = whole && out->widths[i];
    }
    for (;; out->resnets++) {
        snprintf(name, sizeof name, "encoder.down_blocks.0.resnets.%lld.conv1.conv.weight", (long long)out->resnets);
        if (!zoe_weights_find(ckpt, names, name)) break;
    }
    out->groups = smaller_divisor(out->widths[0], 32);
    for (int i = 0; whole && i < ZOE_COGVIDEOX_VAE_LEVELS; i++) whole = out->widths[i] % out->groups == 0;
    if (whole && out->channels && out->resnets && out->resnets < ZOE_COGVIDEOX_VAE_RESNETS) return ZOE_OK;
    return zoe_fail(ctx, ZOE_ERR_FORMAT,
                    "%s: expected the autoencoder of CogVideoX (encoder.down.*.block.*, decoder.up.*.block.*)",
                    zoe_checkpoint_path(ckpt, 0));
}

/* ---- opening ---- */

/* As the authors sample: the stochastic solver, timesteps from the end; the 2B model's noise is shifted. */
static zoe_schedule_config published_schedule(bool shifted) {
    return (zoe_schedule_config){.solver = ZOE_SOLVER_DPM,
                                 .train_steps = 1000,
                                 .beta_start = 0.00085,
                                 .beta_end = 0.012,
                                 .snr_shift = shifted ? 3 : 1,
                                 .zero_terminal = true,
                                 .ends_clean = true,
                                 .spacing = ZOE_SPACING_TRAILING};
}

static int open_text(cogvideox_model *m, const zoe_folder *folder, zoe_weight_form form) {
    zoe_folder home = *folder;
    char *place = NULL;
    if (!folder->text && exists(folder->path, TEXT_PLACE)) {
        home.text = place = zoe_format(folder->ctx, "%s/" TEXT_PLACE, folder->path);
        if (!place) return zoe_out_of_memory(folder->ctx, strlen(folder->path), "path");
    }
    int status = !home.text && !exists(folder->path, "text_encoder")
                     ? zoe_fail(folder->ctx, ZOE_ERR_IO,
                                "%s holds no text encoder: expected a folder " TEXT_PLACE
                                " (google/t5-v1_1-xxl with spiece.model), or --text-encoder DIR",
                                folder->path)
                     : zoe_part_text(&home, m->be, NULL, form, &m->tokenizer, &m->text_ckpt, &m->text);
    zoe_free(folder->ctx, place);
    return status;
}

int zoe_cogvideox_open_original(cogvideox_model *m, const zoe_folder *folder, const zoe_linear_policy *linear) {
    zoe_cogvideox_config c;
    zoe_cogvideox_vae_config vae;
    ZOE_TRY(open_states(m, folder));
    ZOE_TRY(zoe_cogvideox_config_from_checkpoint(folder->ctx, m->denoiser_ckpt, &c));
    ZOE_TRY(zoe_cogvideox_vae_config_from_checkpoint(folder->ctx, m->vae_ckpt, &vae));
    vae.scale = c.rotary ? 0.7 : 1.15258426;
    vae.invert_scale = c.patch_time != 0;
    m->joins_image = c.in_channels == 2 * vae.channels;
    m->schedule = published_schedule(!c.rotary);
    ZOE_TRY(open_text(m, folder, linear->text));
    ZOE_TRY(zoe_cogvideox_denoiser_create(m->be, &c, m->denoiser_ckpt, linear->denoiser, &m->denoiser));
    return zoe_cogvideox_vae_create(m->be, &vae, m->vae_ckpt, &m->vae);
}
