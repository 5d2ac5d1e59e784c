/*
 * What the published Wan networks consist of (tests/data/manifests) against what the engine will ask for: every tensor's
 * name and shape, in the diffusers layout and in Wan-AI's own.
 */
#include <limits.h>
#include <math.h>

#include "manifest.h"

#include "models/wan/denoiser.h"
#include "models/wan/names.h"
#include "models/wan/vae.h"
#include "nn/clip.h"
#include "nn/t5.h"
#include "weights/slots.h"

static int by_original(const void *a, const void *b) {
    return strcmp(((const row *)a)->original, ((const row *)b)->original);
}

/* Does an alias table, or the name itself, lead to the original name "other" or "other@part/parts"? */
static bool leads_to(const zoe_alias *aliases, const char *name, const char *original) {
    char other[TEXT], full[TEXT + 16];
    zoe_part part;
    bool any = false;
    while ((aliases = zoe_alias_next(aliases, name, other, sizeof other, &part))) {
        any = true;
        if (part.of > 1)
            snprintf(full, sizeof full, "%s@%d/%d", other, part.first, part.of);
        else
            snprintf(full, sizeof full, "%s", other);
        if (strcmp(full, original) == 0) return true;
    }
    return !any && strcmp(name, original) == 0;
}

/* Every tensor is found under its original name, and no two share one. */
static void same_originals(list *published, const zoe_alias *aliases) {
    int differences = 0;
    for (size_t i = 0; i < published->count; i++) {
        const row *r = &published->rows[i];
        if (leads_to(aliases, r->name, r->original)) continue;
        print_message("%s: not found as %s\n", r->name, r->original);
        differences++;
    }
    qsort(published->rows, published->count, sizeof *published->rows, by_original);
    for (size_t i = 1; i < published->count; i++)
        differences += strcmp(published->rows[i].original, published->rows[i - 1].original) == 0;
    assert_int_equal(differences, 0);
}

static void check_network(list *published, const zoe_weights *weights, const zoe_alias *aliases) {
    list wanted = wanted_by(weights);
    print_message("%zu tensors\n", published->count);
    assert_true(published->count > 100);
    same_tensors(published, &wanted);
    same_originals(published, aliases);
    free(published->rows);
    free(wanted.rows);
}

/* ---- the networks ---- */

/* Wan-AI's own configuration means the same network; what it leaves out is known from the tensors. */
static void same_original_config(bench *b, const char *network, const zoe_wan_config *expected) {
    char path[512];
    zoe_config config;
    zoe_wan_config found;
    snprintf(path, sizeof path, "%s/%s/original.json", manifests, network);
    assert_ok(b->ctx, zoe_config_load(b->ctx, path, &config));
    assert_ok(b->ctx, zoe_wan_config_read(&config, &found));
    found.image_dim = expected->image_dim;
    found.image_positions = expected->image_positions;
    assert_memory_equal(&found, expected, sizeof found);
    zoe_config_free(&config);
}

static void denoiser(void **state) {
    const char *network = *state;
    bench b;
    zoe_wan_config config;
    zoe_wan_denoiser *d;
    set_up(&b, network);
    assert_ok(b.ctx, zoe_wan_config_read(&b.config, &config));
    same_original_config(&b, network, &config);
    assert_ok(b.ctx, zoe_wan_denoiser_create(b.be, &config, NULL, ZOE_FORM_NATIVE, &d));
    list published = read_manifest(network);
    check_network(&published, zoe_wan_denoiser_weights(d), zoe_wan_denoiser_aliases);
    zoe_wan_denoiser_free(d);
    tear_down(&b);
}

static void same_numbers(const double *a, const double *b, int64_t count) {
    for (int64_t i = 0; i < count; i++) assert_true(fabs(a[i] - b[i]) < 1e-9);
}

/* Where a configuration leaves the statistics of the latents out, the published ones are used. */
static void same_statistics(bench *b, const zoe_wan_vae_config *expected) {
    zoe_wan_vae_config found;
    json_object_del(b->config.root, "latents_mean");
    json_object_del(b->config.root, "latents_std");
    assert_ok(b->ctx, zoe_wan_vae_config_read(&b->config, &found));
    assert_int_equal(found.channels, expected->channels);
    same_numbers(found.mean, expected->mean, found.channels);
    same_numbers(found.std, expected->std, found.channels);
    zoe_wan_vae_config_free(b->ctx, &found);
}

static void autoencoder(void **state) {
    const char *network = *state;
    bool second = strcmp(network, "wan2.2-vae") == 0;
    bench b;
    zoe_wan_vae_config config;
    zoe_wan_vae *vae;
    set_up(&b, network);
    assert_ok(b.ctx, zoe_wan_vae_config_read(&b.config, &config));
    same_statistics(&b, &config);
    assert_ok(b.ctx, zoe_wan_vae_create(b.be, &config, NULL, &vae));
    list published = read_manifest(network);
    check_network(&published, zoe_wan_vae_weights(vae), second ? zoe_wan_vae_22_aliases : zoe_wan_vae_21_aliases);
    zoe_wan_vae_free(vae);
    tear_down(&b);
}

static void text_encoder(void **state) {
    const char *network = *state;
    bench b;
    zoe_t5_config config;
    zoe_t5 *t5;
    set_up(&b, network);
    assert_ok(b.ctx, zoe_t5_config_read(&b.config, &config));
    assert_ok(b.ctx, zoe_t5_create(b.be, &config, NULL, zoe_wan_text_aliases, ZOE_FORM_NATIVE, &t5));
    list published = read_manifest(network);
    check_network(&published, zoe_t5_weights(t5), zoe_wan_text_aliases);
    zoe_t5_free(t5);
    tear_down(&b);
}

/* Only the states before the last block are used: what computes more than those is not asked for. */
static void drop_unused(list *l) {
    static const char *const unused[] = {"vision_model.encoder.layers.31.", "vision_model.post_layernorm.",
                                         "visual_projection."};
    size_t kept = 0;
    for (size_t i = 0; i < l->count; i++) {
        bool drop = false;
        for (size_t j = 0; j < sizeof unused / sizeof *unused; j++)
            drop = drop || strncmp(l->rows[i].name, unused[j], strlen(unused[j])) == 0;
        if (!drop) l->rows[kept++] = l->rows[i];
    }
    assert_int_equal(l->count - kept, 16 + 2 + 1);
    l->count = kept;
}

static void image_encoder(void **state) {
    const char *network = *state;
    bench b;
    zoe_clip_config config;
    zoe_clip *clip;
    set_up(&b, network);
    assert_ok(b.ctx, zoe_clip_config_read(&b.config, &config));
    assert_ok(b.ctx, zoe_clip_create(b.be, &config, NULL, zoe_wan_clip_aliases, ZOE_FORM_NATIVE, &clip));
    list published = read_manifest(network);
    drop_unused(&published);
    check_network(&published, zoe_clip_weights(clip), zoe_wan_clip_aliases);
    zoe_clip_free(clip);
    tear_down(&b);
}

#define NETWORK(check, folder)                                                                                             \
    { #check " " folder, check, NULL, NULL, (void *)(uintptr_t)folder }

int main(void) {
    const struct CMUnitTest tests[] = {
        NETWORK(denoiser, "wan2.1-t2v-1.3b"),  NETWORK(denoiser, "wan2.1-t2v-14b"),  NETWORK(denoiser, "wan2.1-i2v-14b"),
        NETWORK(denoiser, "wan2.1-flf2v-14b"), NETWORK(denoiser, "wan2.2-t2v-a14b"), NETWORK(denoiser, "wan2.2-i2v-a14b"),
        NETWORK(denoiser, "wan2.2-ti2v-5b"),   NETWORK(autoencoder, "wan2.1-vae"),   NETWORK(autoencoder, "wan2.2-vae"),
        NETWORK(text_encoder, "umt5-xxl"),     NETWORK(image_encoder, "clip-vit-h"),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
