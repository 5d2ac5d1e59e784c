/*
 * Both branches of a guided step at each block while its weights are there: the same bits as one after the other, half the
 * bytes of weights, and chosen where that moves fewer of them.
 */
#include "fake_device.h"

#include "golden.h"

#include <sys/stat.h>

#include "models/family.h"
#include "models/wan/denoiser.h"
#include "pipeline/plan.h"

/* What a request made: its dump as a whole, and what it took. */
typedef struct outcome {
    char *dump;
    size_t size;
    zoe_result result;
    zoe_phase_use use[ZOE_PHASE_COUNT];
} outcome;

static const zoe_weight_use *denoised(const outcome *o) {
    return &o->use[ZOE_PHASE_DENOISE].weights;
}

/* With budgets for weights in every phase; 0: none. */
static outcome run(const golden *g, zoe_model *model, const zoe_request *request, int64_t weights, int64_t host,
                   bool together) {
    outcome o;
    zoe_phase_budget budgets[ZOE_PHASE_COUNT];
    for (int i = 0; i < ZOE_PHASE_COUNT; i++)
        budgets[i] = (zoe_phase_budget){.weights = weights, .host = host, .together = together};
    unlink(request->dump);
    golden_check(g, zoe_generate_counted(model, request, budgets, &o.result, o.use));
    o.dump = test_read(request->dump, &o.size);
    return o;
}

static void expect_same(outcome *found, const outcome *expected) {
    assert_int_equal(found->size, expected->size);
    assert_memory_equal(found->dump, expected->dump, expected->size);
    assert_true(found->use[ZOE_PHASE_DENOISE].work.attention_flops ==
                expected->use[ZOE_PHASE_DENOISE].work.attention_flops);
    free(found->dump);
}

/* Of all that a step has: pictures among the tokens, timesteps by token, two experts, two passes. */
static void branches_together_change_no_bit(void **state) {
    static const struct {
        const char *name;
        int networks; /* that come one after the other, or the same one again */
    } cases[] = {{"wan21_t2v", 1},       {"wan21_flf2v", 1},      {"wan22_ti2v_5b_i2v", 1},
                 {"wan_t2v_experts", 2}, {"cogvideox_5b_i2v", 1}, {"cogvideox15_5b", 1},
                 {"ltx_t2v", 1},         {"ltx_x_clips", 1},      {"ltx_x_passes", 2}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[600], latents[600], image[600], last_image[600];
        golden g;
        zoe_config config;
        zoe_request request;
        golden_run(&g, cases[i].name);
        snprintf(path, sizeof path, "%s/case.json", g.dir);
        golden_check(&g, zoe_config_load(g.ctx, path, &config));
        golden_request(&g, &config, &request, latents, image, last_image);
        assert_true(zoe_guided(&request));
        outcome resident = run(&g, g.model, &request, 0, 0, false);
        outcome whole = run(&g, g.model, &request, 0, 0, true);
        outcome apart = run(&g, g.model, &request, 1, 0, false), together = run(&g, g.model, &request, 1, 0, true);
        /* a step brings all blocks twice, or once; the rest is brought once, as it is where all stays */
        int64_t steps = resident.use[ZOE_PHASE_DENOISE].steps, all = denoised(&resident)->loaded;
        int64_t saved = denoised(&apart)->loaded - denoised(&together)->loaded;
        assert_true(saved > 0 && saved % steps == 0);
        assert_int_equal(denoised(&together)->loaded - saved, all - cases[i].networks * saved / steps);
        assert_int_equal(denoised(&whole)->loaded, all);
        expect_same(&whole, &resident);
        expect_same(&apart, &resident);
        expect_same(&together, &resident);
        free(resident.dump);
        zoe_config_free(&config);
        golden_end(&g);
    }
}

#define EIGHT_BLOCKS SOURCE_DIR "/models/demo"

static void open_model(golden *g, const char *folder, const char *offload, zoe_request *request) {
    zoe_model_settings settings;
    memset(g, 0, sizeof *g);
    zoe_model_settings_init(&settings);
    settings.offload = offload;
    snprintf(g->dump, sizeof g->dump, "/tmp/zoe-branches-%d.safetensors", (int)getpid());
    assert_int_equal(zoe_context_create(NULL, &g->ctx), ZOE_OK);
    golden_check(g, zoe_model_open(g->ctx, folder, &settings, &g->model));
    zoe_request_init(g->model, request);
    request->prompt = "A red ball rolls.";
    request->width = 32, request->height = 32, request->frames = 1, request->steps = 3, request->guidance = 4;
    request->dump = g->dump;
}

/* From host memory and from files: half as much in each step. */
static void a_device_gets_half(void **state) {
    (void)state;
    golden g;
    zoe_request request;
    open_model(&g, EIGHT_BLOCKS, "auto", &request);
    for (int late = 0; late < 2; late++) {
        zoe_backend *be;
        zoe_model *twin;
        golden_check(&g, fake_device_create(g.ctx, &be));
        fake_of(be)->late = late;
        golden_check(&g, zoe_model_open_on(g.model, be, &twin));
        outcome resident = run(&g, twin, &request, 0, 0, false);
        outcome apart = run(&g, twin, &request, 1, 0, false), together = run(&g, twin, &request, 1, 0, true);
        assert_int_equal(apart.result.loaded_bytes_per_step, 2 * together.result.loaded_bytes_per_step);
        assert_int_equal(denoised(&together)->read, denoised(&resident)->read);
        expect_same(&apart, &resident);
        expect_same(&together, &resident);
        apart = run(&g, twin, &request, 1, 1, false), together = run(&g, twin, &request, 1, 1, true);
        /* some blocks are read ahead for a forward that does not come */
        assert_true(2 * denoised(&together)->read <= denoised(&apart)->read + denoised(&resident)->read);
        expect_same(&apart, &resident);
        expect_same(&together, &resident);
        free(resident.dump);
        zoe_model_close(twin);
    }
    golden_end(&g);
}

/* ---- the plan's choice ---- */

/* Under `ram` bytes for the process, of which it holds none yet. */
static int fit(golden *g, zoe_request *request, int64_t ram, zoe_plan *plan, zoe_phase_budget budgets[ZOE_PHASE_COUNT]) {
    g->model->settings.ram = ram + ZOE_HOST_RESERVE;
    *plan = (zoe_plan){0};
    int status = zoe_plan_fit(g->model, request, plan, budgets);
    if (status == ZOE_OK) assert_int_equal(plan->together, budgets[ZOE_PHASE_DENOISE].together);
    return status;
}

static void only_where_blocks_come_and_go(void **state) {
    (void)state;
    golden g;
    zoe_request request;
    zoe_plan plan;
    zoe_phase_budget budgets[ZOE_PHASE_COUNT];
    const int64_t ample = (int64_t)1 << 36;
    open_model(&g, EIGHT_BLOCKS, "auto", &request);
    golden_check(&g, fit(&g, &request, ample, &plan, budgets));
    assert_false(plan.together);
    golden_end(&g);
    open_model(&g, EIGHT_BLOCKS, "block", &request);
    golden_check(&g, fit(&g, &request, ample, &plan, budgets));
    assert_true(plan.together);
    request.guidance = 1;
    golden_check(&g, fit(&g, &request, ample, &plan, budgets));
    assert_false(plan.together);
    golden_end(&g);
}

/* A file of holes that has the network's tensors. */
static void write_holes(const char *path, const zoe_weights *weights) {
    const char *name;
    int rank;
    int64_t shape[ZOE_MAX_RANK], end = 0;
    char *header = NULL;
    size_t size;
    FILE *text = open_memstream(&header, &size), *file = fopen(path, "wb");
    for (size_t i = 0; zoe_weights_describe(weights, i, &name, &rank, shape); i++) {
        int64_t count = 1, start = end;
        fprintf(text, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[", i ? "," : "{", name);
        for (int k = 0; k < rank; k++) {
            fprintf(text, "%s%lld", k ? "," : "", (long long)shape[k]);
            count *= shape[k];
        }
        end += 2 * count;
        fprintf(text, "],\"data_offsets\":[%lld,%lld]}", (long long)start, (long long)end);
    }
    fputc('}', text);
    fclose(text);
    uint64_t length = size;
    fwrite(&length, sizeof length, 1, file);
    fwrite(header, size, 1, file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(truncate(path, (off_t)(sizeof length + size) + end), 0);
    free(header);
}

/*
 * The demo model with a denoiser that is wider, 33 MiB a block, and a VAE that is smaller, so that it is the denoiser which
 * a budget is too small for.
 */
static void make_folder(char folder[64]) {
    static const char *const parts[] = {"model_index.json", "scheduler", "text_encoder", "tokenizer", "vae"};
    static const char json[] =
        "{\"_class_name\":\"WanTransformer3DModel\",\"patch_size\":[1,2,2],\"num_attention_heads\":16,"
        "\"attention_head_dim\":64,\"in_channels\":16,\"out_channels\":16,\"text_dim\":128,"
        "\"freq_dim\":256,\"ffn_dim\":4096,\"num_layers\":8,\"cross_attn_norm\":true,"
        "\"qk_norm\":\"rms_norm_across_heads\",\"eps\":1e-06}";
    char from[600], to[128];
    zoe_context *ctx;
    zoe_backend *be;
    zoe_config config;
    zoe_wan_config network;
    zoe_wan_denoiser *denoiser;
    test_folder_create(folder);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        snprintf(from, sizeof from, "%s/%s", i == 4 ? TEST_DATA "/cases/wan21_t2v/model" : EIGHT_BLOCKS, parts[i]);
        snprintf(to, sizeof to, "%s/%s", folder, parts[i]);
        assert_int_equal(symlink(from, to), 0);
    }
    snprintf(to, sizeof to, "%s/transformer", folder);
    assert_int_equal(mkdir(to, 0700), 0);
    snprintf(to, sizeof to, "%s/transformer/config.json", folder);
    test_write(to, json, sizeof json - 1);
    assert_int_equal(zoe_context_create(NULL, &ctx), ZOE_OK);
    assert_ok(ctx, zoe_config_load(ctx, to, &config));
    assert_ok(ctx, zoe_wan_config_read(&config, &network));
    assert_ok(ctx, zoe_cpu_backend_create(ctx, 0, &be));
    assert_ok(ctx, zoe_wan_denoiser_create(be, &network, NULL, ZOE_FORM_NATIVE, &denoiser));
    snprintf(to, sizeof to, "%s/transformer/diffusion_pytorch_model.safetensors", folder);
    write_holes(to, zoe_wan_denoiser_weights(denoiser));
    zoe_wan_denoiser_free(denoiser);
    zoe_backend_close(be);
    zoe_config_free(&config);
    zoe_context_free(ctx);
}

static void remove_folder(const char *folder) {
    char part[128];
    snprintf(part, sizeof part, "%s/transformer", folder);
    test_folder_remove(part);
    test_folder_remove(folder);
}

/* What became of a choice. */
typedef enum kind { ALL_STAYS, TOGETHER, APART_MOVES_LESS, TOGETHER_DOES_NOT_FIT, KINDS } kind;

/* Holds a choice against the other one under the same limit. */
static kind judge(const golden *g, const zoe_request *request, const zoe_plan *chosen, const zoe_phase_budget *budgets) {
    zoe_phase_budget other[ZOE_PHASE_COUNT];
    zoe_plan plan;
    const zoe_phase_use *use = &plan.phases[ZOE_PHASE_DENOISE];
    golden_check(g, zoe_plan_make(g->model, request, budgets, &plan));
    int64_t loaded = use->weights.loaded, peak = use->weights.peak;
    for (int i = 0; i < ZOE_PHASE_COUNT; i++) other[i] = (zoe_phase_budget){.parts = chosen->parts, .rows = chosen->rows};
    other[ZOE_PHASE_DENOISE].together = !chosen->together;
    golden_check(g, zoe_plan_make(g->model, request, other, &plan));
    int64_t room = budgets[ZOE_PHASE_DENOISE].weights + chosen->phases[ZOE_PHASE_DENOISE].activations - use->activations;
    bool fits = room >= use->weights.least;
    other[ZOE_PHASE_DENOISE].weights = room;
    golden_check(g, zoe_plan_make(g->model, request, other, &plan));
    if (chosen->together) {
        assert_true(fits && loaded < use->weights.loaded);
        return TOGETHER;
    }
    if (fits) assert_true(loaded <= use->weights.loaded);
    return loaded <= peak ? ALL_STAYS : fits ? APART_MOVES_LESS : TOGETHER_DOES_NOT_FIT;
}

static void what_moves_less_is_chosen(void **state) {
    (void)state;
    char folder[64];
    int found[KINDS] = {0};
    golden g;
    zoe_request request;
    zoe_plan plan;
    zoe_phase_budget budgets[ZOE_PHASE_COUNT];
    int64_t ram = (int64_t)900 << 20;
    make_folder(folder);
    open_model(&g, folder, "auto", &request);
    /* a hidden state takes the room of three blocks and a half */
    request.width = request.height = 1024, request.frames = 25, request.steps = 10;
    for (; fit(&g, &request, ram, &plan, budgets) == ZOE_OK; ram -= (int64_t)15 << 20)
        found[judge(&g, &request, &plan, budgets)]++;
    assert_non_null(strstr(zoe_context_error(g.ctx), "smallest budget that works"));
    for (int i = 0; i < KINDS; i++)
        if (!found[i]) fail_msg("no choice of kind %d", i);
    request.guidance = 1;
    for (ram = (int64_t)900 << 20; fit(&g, &request, ram, &plan, budgets) == ZOE_OK; ram -= (int64_t)60 << 20)
        assert_false(plan.together);
    golden_end(&g);
    remove_folder(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(branches_together_change_no_bit),
        cmocka_unit_test(a_device_gets_half),
        cmocka_unit_test(only_where_blocks_come_and_go),
        cmocka_unit_test(what_moves_less_is_chosen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
