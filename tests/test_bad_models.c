/*
 * Damaged model folders and impossible requests: each is one thing wrong with a folder that works, and each ends with one
 * error that names the file, what was expected and what was found. Nothing stays allocated and no file is left behind.
 */
#include <math.h>
#include <sys/stat.h>

#include "formats/checkpoint.h"
#include "formats/json.h"
#include "support.h"

#define MODELS    TEST_DATA "/cases"
#define DENOISER  "transformer/diffusion_pytorch_model.safetensors"
#define TEXT      "text_encoder/model.safetensors"
#define VAE       "vae/diffusion_pytorch_model.safetensors"
#define SCHEDULER "scheduler/scheduler_config.json"

static char folder[64]; /* "model" in it is the copy that gets damaged */

static const char *at(const char *name) {
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/model/%s", folder, name);
    return path;
}

static void shell(const char *command, const char *a, const char *b) {
    char line[1400];
    snprintf(line, sizeof line, "%s '%s' %s%s%s", command, a, b ? "'" : "", b ? b : "", b ? "'" : "");
    assert_int_equal(system(line), 0);
}

static void remove_folder(const char *path) {
    shell("rm -r", path, NULL);
}

static void copy_folder(const char *from, const char *to) {
    shell("rm -rf", to, NULL);
    shell("cp -rL", from, to);
    shell("chmod -R u+w", to, NULL);
}

/* A fresh copy of a case's model folder, links followed. */
static void start_from(const char *name) {
    char source[512];
    snprintf(source, sizeof source, MODELS "/%s/model", name);
    copy_folder(source, at(""));
}

/* Part `name` of the folder comes from another case. */
static void replace_part(const char *name, const char *other_case) {
    char source[512];
    snprintf(source, sizeof source, MODELS "/%s/model/%s", other_case, name);
    copy_folder(source, at(name));
}

static void remove_file(const char *name) {
    assert_int_equal(unlink(at(name)), 0);
}

/* ---- damage to configurations ---- */

/* Sets a key of a JSON file to a value written as JSON; value NULL removes it. */
static void set_key(const char *file, const char *key, const char *value) {
    json_t *root = json_load_file(at(file), 0, NULL);
    assert_non_null(root);
    assert_true(json_object_get(root, key) != NULL || value); /* a misspelt key would test nothing */
    if (value)
        assert_int_equal(json_object_set_new(root, key, json_loads(value, JSON_DECODE_ANY, NULL)), 0);
    else
        json_object_del(root, key);
    assert_int_equal(json_dump_file(root, at(file), 0), 0);
    json_decref(root);
}

/* ---- damage to weights ---- */

typedef enum change { DROP, RESHAPE, RETYPE, POISON } change;

typedef struct edit {
    const char *name;
    change what;
    float value; /* of element 1 when poisoned */
} edit;

/* Element 1 of data of type bf16, f16 or f32 becomes NaN or infinite. */
static void poison(const zoe_entry *entry, void *data, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (entry->dtype == ZOE_F32) memcpy((float *)data + 1, &bits, sizeof bits);
    if (entry->dtype == ZOE_BF16) ((uint16_t *)data)[1] = (uint16_t)(bits >> 16);
    assert_true(entry->dtype == ZOE_F32 || entry->dtype == ZOE_BF16);
}

static int add_edited(zoe_safetensors_writer *writer, const zoe_entry *entry, const edit *e) {
    int64_t shape[ZOE_MAX_RANK];
    zoe_dtype dtype = entry->dtype;
    char *data = calloc(1, entry->bytes * 4);
    assert_non_null(data);
    memcpy(data, entry->data, entry->bytes);
    memcpy(shape, entry->shape, sizeof shape);
    if (e->what == RESHAPE) shape[0]--;
    if (e->what == RETYPE) dtype = ZOE_I32;
    if (e->what == POISON) poison(entry, data, e->value);
    int status = zoe_safetensors_add(writer, entry->name, dtype, entry->rank, shape, data);
    free(data);
    return status;
}

/* Writes a weight file anew with some of its tensors changed. */
static void edit_weights(const char *file, const edit *edits, size_t count) {
    zoe_context *ctx;
    zoe_checkpoint *ckpt;
    zoe_safetensors_writer *writer;
    size_t found = 0;
    assert_int_equal(zoe_context_create(NULL, &ctx), ZOE_OK);
    assert_ok(ctx, zoe_checkpoint_open(ctx, at(file), &ckpt));
    assert_ok(ctx, zoe_safetensors_create(ctx, at(file), &writer));
    for (size_t i = 0; i < zoe_checkpoint_count(ckpt); i++) {
        const zoe_entry *entry = zoe_checkpoint_at(ckpt, i);
        const edit *e = NULL;
        for (size_t j = 0; j < count; j++)
            if (strcmp(edits[j].name, entry->name) == 0) e = &edits[j];
        found += e != NULL;
        if (!e)
            assert_ok(ctx, zoe_safetensors_add(writer, entry->name, entry->dtype, entry->rank, entry->shape, entry->data));
        else if (e->what != DROP)
            assert_ok(ctx, add_edited(writer, entry, e));
    }
    assert_int_equal(found, count);
    zoe_checkpoint_close(ckpt); /* before its file is replaced */
    assert_ok(ctx, zoe_safetensors_finish(writer));
    zoe_context_free(ctx);
}

static void edit_weight(const char *file, const char *name, change what, float value) {
    edit_weights(file, &(edit){name, what, value}, 1);
}

/* Moves the data of one tensor onto those of the tensor in front of it, in the header alone. */
static void overlap(const char *file, const char *name, int64_t back) {
    size_t size;
    char *data = test_read(at(file), &size);
    uint64_t length;
    memcpy(&length, data, sizeof length);
    json_t *header = json_loadb(data + 8, length, 0, NULL);
    json_t *offsets = json_object_get(json_object_get(header, name), "data_offsets");
    assert_non_null(offsets);
    for (size_t i = 0; i < 2; i++) {
        json_t *offset = json_array_get(offsets, i);
        json_integer_set(offset, json_integer_value(offset) - back);
    }
    char *text = json_dumps(header, JSON_COMPACT);
    uint64_t written = strlen(text);
    assert_true(written <= length);
    memset(data + 8, ' ', length);
    memcpy(data + 8, text, written);
    test_write(at(file), data, size);
    free(text);
    free(data);
    json_decref(header);
}

/* ---- expectations ---- */

typedef struct texts {
    const char *part[4];
} texts;

static void expect(zoe_context *ctx, int status, int expected, const texts *t) {
    const char *error = zoe_context_error(ctx);
    if (status != expected) fail_msg("status %d (%s), expected %d: %s", status, zoe_strerror(status), expected, error);
    for (size_t i = 0; i < 4 && t->part[i]; i++)
        if (!strstr(error, t->part[i])) fail_msg("no \"%s\" in: %s", t->part[i], error);
}

/* Opening the damaged folder fails so, and leaves nothing allocated. */
static void open_fails(int expected, texts t) {
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    zoe_model *model;
    int status = zoe_model_open(ctx, at(""), NULL, &model);
    expect(ctx, status, expected, &t);
    assert_null(model);
    test_context_free(&memory, ctx);
}

typedef struct session {
    test_memory memory;
    zoe_context *ctx;
    zoe_model *model;
    zoe_request request;
    char dump[512];
} session;

/* The copied model, opened, with the smallest request that it can do. */
static void begin(session *s) {
    s->ctx = test_context(&s->memory);
    assert_ok(s->ctx, zoe_model_open(s->ctx, at(""), NULL, &s->model));
    zoe_request_init(s->model, &s->request);
    snprintf(s->dump, sizeof s->dump, "%s/dump.safetensors", folder);
    s->request.prompt = "a ball";
    s->request.width = s->request.height = 16;
    s->request.frames = s->request.steps = 1;
    s->request.dump = s->dump;
}

static void end(session *s) {
    zoe_model_close(s->model);
    test_context_free(&s->memory, s->ctx);
}

/* The request fails so, and leaves no file. */
static void generate_fails(session *s, int expected, texts t) {
    int status = zoe_generate(s->model, &s->request, NULL);
    expect(s->ctx, status, expected, &t);
    assert_int_equal(test_folder_count(folder), 1); /* the model */
}

/* ---- missing and broken files ---- */

static void missing_files(void **state) {
    (void)state;
    start_from("wan_t2v_still");
    remove_file(DENOISER);
    open_fails(ZOE_ERR_IO, (texts){{"/transformer", "holds no weights", "diffusion_pytorch_model.safetensors"}});

    start_from("wan_t2v_still");
    remove_file("vae/config.json");
    open_fails(ZOE_ERR_IO, (texts){{"vae/config.json", "No such file"}});

    start_from("wan_t2v_still");
    remove_file("tokenizer/spiece.model");
    open_fails(ZOE_ERR_IO, (texts){{"tokenizer/spiece.model", "No such file"}});

    start_from("wan_t2v_still");
    remove_file(SCHEDULER);
    open_fails(ZOE_ERR_IO, (texts){{SCHEDULER}});

    start_from("wan_t2v_shards");
    remove_file("transformer/diffusion_pytorch_model-00002-of-00006.safetensors");
    remove_file("transformer/diffusion_pytorch_model-00005-of-00006.safetensors");
    open_fails(ZOE_ERR_IO, (texts){{"2 of 6 files are missing", "00002-of-00006", "00005-of-00006"}});

    start_from("wan_t2v_experts");
    remove_folder(at("transformer_2"));
    open_fails(ZOE_ERR_IO, (texts){{"transformer_2"}});

    start_from("wan_i2v_wide");
    remove_folder(at("image_encoder"));
    open_fails(ZOE_ERR_IO, (texts){{"image_encoder"}});

    start_from("wan_t2v_still");
    remove_file("model_index.json");
    open_fails(ZOE_ERR_FORMAT, (texts){{"/model", "model_index.json"}});

    remove_folder(at(""));
    open_fails(ZOE_ERR_IO, (texts){{"/model", "no such folder"}});
}

static void broken_files(void **state) {
    (void)state;
    static const char not_json[] = "{\"num_layers\": 2,, }", garbage[] = "no tokenizer", array[] = "[1]";
    start_from("wan_t2v_still");
    assert_int_equal(truncate(at(VAE), 60000), 0);
    open_fails(ZOE_ERR_FORMAT, (texts){{VAE, "truncated"}});

    start_from("wan_t2v_still");
    assert_int_equal(truncate(at(TEXT), 100), 0);
    open_fails(ZOE_ERR_FORMAT, (texts){{TEXT, "truncated"}});

    start_from("wan_t2v_still");
    size_t size;
    char *data = test_read(at(DENOISER), &size);
    memset(data, 0x7f, 8);
    test_write(at(DENOISER), data, size);
    free(data);
    open_fails(ZOE_ERR_FORMAT, (texts){{DENOISER, "header"}});

    start_from("wan_t2v_still");
    overlap(DENOISER, "proj_out.bias", 4);
    open_fails(ZOE_ERR_FORMAT, (texts){{DENOISER, "overlap", "proj_out.bias"}});

    start_from("wan_t2v_still");
    test_write(at("transformer/config.json"), not_json, sizeof not_json - 1);
    open_fails(ZOE_ERR_FORMAT, (texts){{"transformer/config.json", "not valid JSON", "line 1"}});

    start_from("wan_t2v_still");
    test_write(at("model_index.json"), array, sizeof array - 1);
    open_fails(ZOE_ERR_FORMAT, (texts){{"model_index.json", "object"}});

    start_from("wan_t2v_still");
    test_write(at("tokenizer/spiece.model"), garbage, sizeof garbage - 1);
    open_fails(ZOE_ERR_FORMAT, (texts){{"spiece.model", "sentencepiece"}});
}

/* ---- tensors ---- */

static void wrong_tensors(void **state) {
    (void)state;
    start_from("wan_t2v_still");
    edit_weight(DENOISER, "blocks.1.attn1.to_q.weight", RESHAPE, 0);
    open_fails(ZOE_ERR_FORMAT, (texts){{DENOISER, "blocks.1.attn1.to_q.weight", "[23, 24]", "expected [24, 24]"}});

    start_from("wan_t2v_still");
    edit_weight(TEXT, "encoder.block.1.layer.1.DenseReluDense.wo.weight", RETYPE, 0);
    open_fails(ZOE_ERR_FORMAT, (texts){{TEXT, "encoder.block.1.layer.1.DenseReluDense.wo.weight", "I32", "expected F32"}});

    start_from("wan_t2v_still");
    edit_weights(VAE,
                 (const edit[]){{"decoder.conv_in.bias", DROP, 0},
                                {"encoder.conv_out.weight", DROP, 0},
                                {"post_quant_conv.weight", DROP, 0}},
                 3);
    open_fails(ZOE_ERR_FORMAT, (texts){{VAE, "decoder.conv_in.bias is missing", "encoder.conv_out.weight is missing",
                                        "post_quant_conv.weight is missing"}});

    /* Another size of the network concerns nearly every tensor: the list ends with how many more there are. */
    start_from("wan_t2v_still");
    set_key("transformer/config.json", "num_attention_heads", "3");
    open_fails(ZOE_ERR_FORMAT, (texts){{DENOISER, "expected [36, 36]", " more"}});
}

static void parts_of_other_models(void **state) {
    (void)state;
    start_from("wan_t2v_still");
    replace_part("text_encoder", "wan_t2v_shards");
    open_fails(ZOE_ERR_FORMAT, (texts){{"text encoder's width is 24", "expects 32"}});

    start_from("wan_t2v_still");
    replace_part("vae", "wan_ti2v");
    open_fails(ZOE_ERR_FORMAT, (texts){{"48 latent channels", "makes 16"}});

    start_from("wan_i2v_wide");
    replace_part("image_encoder", "wan_flf2v_tall");
    open_fails(ZOE_ERR_FORMAT, (texts){{"image encoder's width is 80", "expects 32"}});

    start_from("wan_t2v_experts");
    set_key("transformer_2/config.json", "eps", "1e-5");
    open_fails(ZOE_ERR_FORMAT, (texts){{"two experts differ"}});

    /* The tokenizer knows more pieces than the text encoder has rows for. */
    start_from("wan_t2v_still");
    set_key("text_encoder/config.json", "vocab_size", "699");
    open_fails(ZOE_ERR_FORMAT, (texts){{"shared.weight", "[700, 32]", "[699, 32]"}});
}

/* Files of both layouts in one folder: the video is made of those that the index names, and a warning says so. */
static void mixed_layouts(void **state) {
    (void)state;
    session s;
    start_from("wan_t2v_still");
    copy_folder(TEST_DATA "/layouts/wan_t2v_experts/high_noise_model", at("high_noise_model"));
    begin(&s);
    assert_non_null(strstr(s.memory.log, "mixes the diffusers layout"));
    end(&s);
}

/* ---- configurations ---- */

static void wrong_settings(void **state) {
    (void)state;
    static const struct {
        const char *file, *key, *value;
        int status;
        texts t;
    } cases[] = {
        {"model_index.json", "_class_name", "\"FluxPipeline\"", ZOE_ERR_UNSUPPORTED, {{"FluxPipeline", "WanPipeline"}}},
        {"model_index.json", "_class_name", "7", ZOE_ERR_FORMAT, {{"model_index.json", "_class_name", "7"}}},
        {"model_index.json", "_class_name", NULL, ZOE_ERR_FORMAT, {{"model_index.json"}}},
        {"model_index.json", "expand_timesteps", "\"no\"", ZOE_ERR_FORMAT, {{"expand_timesteps", "true or false"}}},
        {"transformer/config.json",
         "num_attention_heads",
         "0",
         ZOE_ERR_FORMAT,
         {{"config.json", "num_attention_heads", "0"}}},
        {"transformer/config.json", "num_attention_heads", "-2", ZOE_ERR_FORMAT, {{"num_attention_heads", "-2"}}},
        {"transformer/config.json", "num_attention_heads", "\"two\"", ZOE_ERR_FORMAT, {{"num_attention_heads", "two"}}},
        {"transformer/config.json", "num_layers", "1.5", ZOE_ERR_FORMAT, {{"num_layers", "whole number", "1.5"}}},
        {"transformer/config.json", "num_layers", NULL, ZOE_ERR_FORMAT, {{"transformer/config.json", "num_layers"}}},
        {"transformer/config.json",
         "num_layers",
         "3",
         ZOE_ERR_FORMAT,
         {{DENOISER, "blocks.2.attn1.to_q.weight is missing"}}},
        {"transformer/config.json",
         "attention_head_dim",
         "13",
         ZOE_ERR_UNSUPPORTED,
         {{"transformer/config.json", "even", "13"}}},
        {"transformer/config.json", "patch_size", "[1, 2]", ZOE_ERR_FORMAT, {{"patch_size", "3"}}},
        {"transformer/config.json", "patch_size", "[2, 2, 2]", ZOE_ERR_UNSUPPORTED, {{"patch of one frame", "2"}}},
        {"transformer/config.json", "qk_norm", "\"layer_norm\"", ZOE_ERR_UNSUPPORTED, {{"qk_norm", "layer_norm"}}},
        {"transformer/config.json", "eps", "-1", ZOE_ERR_FORMAT, {{"transformer/config.json", "eps", "-1"}}},
        {"transformer/config.json", "in_channels", "20", ZOE_ERR_FORMAT, {{"patch_embedding.weight", "20"}}},
        {"text_encoder/config.json", "d_kv", "0", ZOE_ERR_FORMAT, {{"text_encoder/config.json", "d_kv", "0"}}},
        {"text_encoder/config.json", "num_heads", NULL, ZOE_ERR_FORMAT, {{"text_encoder/config.json", "num_heads"}}},
        {"text_encoder/config.json",
         "model_type",
         "\"bert\"",
         ZOE_ERR_UNSUPPORTED,
         {{"text_encoder/config.json", "bert", "umt5"}}},
        {"text_encoder/config.json", "feed_forward_proj", "\"relu\"", ZOE_ERR_UNSUPPORTED, {{"feed_forward_proj", "relu"}}},
        {"text_encoder/config.json", "layer_norm_epsilon", "-0.5", ZOE_ERR_FORMAT, {{"layer_norm_epsilon", "-0.5"}}},
        {"text_encoder/config.json",
         "relative_attention_max_distance",
         "8",
         ZOE_ERR_FORMAT,
         {{"text_encoder/config.json", "relative_attention_max_distance 8"}}},
        {"vae/config.json", "z_dim", "\"many\"", ZOE_ERR_FORMAT, {{"vae/config.json", "z_dim", "many"}}},
        {"vae/config.json", "dim_mult", "[1, 2, 4]", ZOE_ERR_FORMAT, {{"vae/config.json", "dim_mult", "4"}}},
        {"vae/config.json", "dim_mult", "[1, 2, 0, 2]", ZOE_ERR_FORMAT, {{"vae/config.json", "dim_mult"}}},
        {"vae/config.json", "num_res_blocks", "9", ZOE_ERR_FORMAT, {{"vae/config.json", "num_res_blocks", "9"}}},
        {"vae/config.json", "attn_scales", "[0.5]", ZOE_ERR_UNSUPPORTED, {{"vae/config.json", "attn_scales"}}},
        {"vae/config.json", "latents_mean", "[0]", ZOE_ERR_FORMAT, {{"latents_mean", "16"}}},
        {"vae/config.json",
         "latents_std",
         "[1,1,1,1,1,1,1,0,1,1,1,1,1,1,1,1]",
         ZOE_ERR_FORMAT,
         {{"latents_std", "positive"}}},
        {SCHEDULER, "use_karras_sigmas", "true", ZOE_ERR_UNSUPPORTED, {{SCHEDULER, "use_karras_sigmas"}}},
        {SCHEDULER, "shift_terminal", "0.1", ZOE_ERR_UNSUPPORTED, {{SCHEDULER, "shift_terminal"}}},
        {"vae/config.json",
         "latents_mean",
         "[0.12345678901234,0.12345678901234,0.12345678901234,0.12345678901234,0.12345678901234]",
         ZOE_ERR_FORMAT,
         {{"latents_mean", "16", "0.12345678901234,..."}}},
        {SCHEDULER,
         "_class_name",
         "\"HeunDiscreteScheduler\"",
         ZOE_ERR_UNSUPPORTED,
         {{SCHEDULER, "UniPCMultistepScheduler"}}},
        {SCHEDULER, "solver_type", "\"bh1\"", ZOE_ERR_UNSUPPORTED, {{SCHEDULER, "solver_type", "bh2"}}},
        {SCHEDULER, "solver_order", "3", ZOE_ERR_FORMAT, {{SCHEDULER, "solver_order", "3"}}},
        {SCHEDULER, "prediction_type", "\"epsilon\"", ZOE_ERR_UNSUPPORTED, {{"prediction_type", "flow_prediction"}}},
        {SCHEDULER, "use_flow_sigmas", "false", ZOE_ERR_UNSUPPORTED, {{SCHEDULER, "use_flow_sigmas"}}},
        {SCHEDULER, "disable_corrector", "[0]", ZOE_ERR_UNSUPPORTED, {{SCHEDULER, "disable_corrector"}}},
        {SCHEDULER, "flow_shift", "\"3\"", ZOE_ERR_FORMAT, {{SCHEDULER, "flow_shift", "number"}}},
        {SCHEDULER, "flow_shift", "-3", ZOE_ERR_FORMAT, {{SCHEDULER, "flow_shift", "-3"}}},
        {SCHEDULER, "num_train_timesteps", "0", ZOE_ERR_FORMAT, {{SCHEDULER, "num_train_timesteps", "0"}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        print_message("%s: %s = %s\n", cases[i].file, cases[i].key, cases[i].value ? cases[i].value : "absent");
        start_from("wan_t2v_still");
        set_key(cases[i].file, cases[i].key, cases[i].value);
        open_fails(cases[i].status, cases[i].t);
    }
}

static void wrong_image_processor(void **state) {
    (void)state;
    static const char file[] = "image_processor/preprocessor_config.json";
    start_from("wan_i2v_wide");
    set_key(file, "do_center_crop", "false");
    open_fails(ZOE_ERR_UNSUPPORTED, (texts){{file, "do_center_crop"}});
    start_from("wan_i2v_wide");
    set_key(file, "resample", "2");
    open_fails(ZOE_ERR_UNSUPPORTED, (texts){{file, "resample", "bicubic", "2"}});
    start_from("wan_i2v_wide");
    set_key(file, "image_std", "[1, 2]");
    open_fails(ZOE_ERR_FORMAT, (texts){{file, "image_std", "3 numbers", "[1,2]"}});
}

static void wrong_boundary(void **state) {
    (void)state;
    start_from("wan_t2v_experts");
    set_key("model_index.json", "boundary_ratio", "\"late\"");
    open_fails(ZOE_ERR_FORMAT, (texts){{"model_index.json", "boundary_ratio", "late"}});
    start_from("wan_t2v_experts");
    set_key("model_index.json", "boundary_ratio", "875");
    open_fails(ZOE_ERR_FORMAT, (texts){{"model_index.json", "boundary_ratio", "875"}});
}

/* ---- Wan-AI's own layout ---- */

static void original_layout(void **state) {
    (void)state;
    static const char source[] = TEST_DATA "/layouts/wan_t2v_experts";
    static const struct {
        const char *file;
        texts t;
    } cases[] = {
        {"low_noise_model", {{"low_noise_model"}}},
        {"high_noise_model", {{"high_noise_model"}}},
        {"models_t5_umt5-xxl-enc-bf16.pth", {{"models_t5_umt5-xxl-enc-bf16.pth"}}},
        {"google/umt5-xxl/spiece.model", {{"google/umt5-xxl/spiece.model"}}},
        {"low_noise_model/config.json", {{"low_noise_model/config.json"}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        print_message("without %s\n", cases[i].file);
        copy_folder(source, at(""));
        remove_folder(at(cases[i].file));
        open_fails(ZOE_ERR_IO, cases[i].t);
    }
    copy_folder(source, at(""));
    set_key("low_noise_model/config.json", "text_len", "226");
    open_fails(ZOE_ERR_UNSUPPORTED, (texts){{"low_noise_model/config.json", "text_len", "512", "226"}});
    set_key("high_noise_model/config.json", "num_heads", "5");
    open_fails(ZOE_ERR_FORMAT, (texts){{"high_noise_model/config.json", "dim 24", "num_heads 5"}});
    set_key("high_noise_model/config.json", "in_dim", NULL);
    set_key("high_noise_model/config.json", "ffn_dim", NULL);
    open_fails(ZOE_ERR_FORMAT, (texts){{"high_noise_model/config.json", "missing: ffn_dim, in_dim"}});
    remove_file("Wan2.1_VAE.pth");
    open_fails(ZOE_ERR_FORMAT, (texts){{"/model", "Wan2.1_VAE.pth"}});
}

/* ---- values that are no numbers ---- */

static void numbers_that_are_none(void **state) {
    (void)state;
    static const struct {
        const char *file, *tensor, *word;
        float value;
    } cases[] = {
        {DENOISER, "blocks.1.ffn.net.2.weight", "NaN", NAN},
        {DENOISER, "blocks.0.attn1.norm_q.weight", "NaN", NAN},
        {DENOISER, "proj_out.bias", "infinity", INFINITY},
        {TEXT, "encoder.block.0.layer.0.SelfAttention.q.weight", "NaN", NAN},
        {TEXT, "encoder.final_layer_norm.weight", "infinity", -INFINITY},
        {VAE, "decoder.conv_in.weight", "NaN", NAN},
        {VAE, "decoder.norm_out.gamma", "NaN", NAN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        session s;
        print_message("%s in %s\n", cases[i].word, cases[i].tensor);
        start_from("wan_t2v_still");
        edit_weight(cases[i].file, cases[i].tensor, POISON, cases[i].value);
        begin(&s);
        generate_fails(&s, ZOE_ERR_NUMERIC, (texts){{cases[i].tensor, cases[i].word, "damaged"}});
        end(&s);
    }
}

/* ---- requests ---- */

static void write_latents(const char *path, int64_t channels, float value) {
    zoe_context *ctx;
    zoe_safetensors_writer *writer;
    float *data = calloc((size_t)channels * 4, sizeof *data);
    assert_non_null(data);
    data[5] = value;
    assert_int_equal(zoe_context_create(NULL, &ctx), ZOE_OK);
    assert_ok(ctx, zoe_safetensors_create(ctx, path, &writer));
    assert_ok(ctx, zoe_safetensors_add(writer, "x", ZOE_F32, 4, (const int64_t[]){channels, 1, 2, 2}, data));
    assert_ok(ctx, zoe_safetensors_add(writer, "whole", ZOE_I32, 4, (const int64_t[]){channels, 1, 2, 2}, data));
    assert_ok(ctx, zoe_safetensors_finish(writer));
    zoe_context_free(ctx);
    free(data);
}

static void latents_that_do_not_fit(void **state) {
    (void)state;
    session s;
    char file[512], path[600];
    start_from("wan_t2v_still");
    begin(&s);
    snprintf(file, sizeof file, "%s", at("latents.safetensors"));
    write_latents(file, 16, NAN);
    s.request.init_latents = path;
    snprintf(path, sizeof path, "%s:x", file);
    generate_fails(&s, ZOE_ERR_NUMERIC, (texts){{"latents.safetensors", "tensor x", "element 5"}});
    snprintf(path, sizeof path, "%s:y", file);
    generate_fails(&s, ZOE_ERR_ARGUMENT, (texts){{"latents.safetensors", "no tensor named y"}});
    snprintf(path, sizeof path, "%s:whole", file);
    generate_fails(&s, ZOE_ERR_ARGUMENT, (texts){{"whole", "I32", "F32"}});
    snprintf(path, sizeof path, "%s", file);
    generate_fails(&s, ZOE_ERR_ARGUMENT, (texts){{"latents.safetensors", "NAME"}});
    snprintf(path, sizeof path, "%s.none:x", file);
    generate_fails(&s, ZOE_ERR_IO, (texts){{"latents.safetensors.none"}});
    write_latents(file, 12, 0);
    snprintf(path, sizeof path, "%s:x", file);
    generate_fails(&s, ZOE_ERR_ARGUMENT, (texts){{"tensor x", "[12, 1, 2, 2]", "[16, 1, 2, 2]"}});
    end(&s);
}

static void requests_that_cannot_be_met(void **state) {
    (void)state;
    session s;
    start_from("wan_t2v_still");
    begin(&s);
    const zoe_request good = s.request;
#define FAILS(field, value, status, ...)                                                                                   \
    s.request = good;                                                                                                      \
    s.request.field = (value);                                                                                             \
    generate_fails(&s, (status), (texts){{__VA_ARGS__}})
    FAILS(prompt, NULL, ZOE_ERR_ARGUMENT, "prompt");
    FAILS(prompt, "a \xff ball", ZOE_ERR_ARGUMENT, "prompt", "UTF-8");
    FAILS(negative, "blur\xc3", ZOE_ERR_ARGUMENT, "negative prompt", "UTF-8");
    FAILS(frames, 7, ZOE_ERR_ARGUMENT, "7 frames", "5 and 9");
    FAILS(frames, 0, ZOE_ERR_ARGUMENT, "0 frames");
    FAILS(frames, -3, ZOE_ERR_ARGUMENT, "-3 frames");
    FAILS(width, 50, ZOE_ERR_ARGUMENT, "50x16", "steps of 16", "48x16");
    FAILS(height, 3, ZOE_ERR_ARGUMENT, "16x3", "16x16");
    FAILS(width, -16, ZOE_ERR_ARGUMENT, "-16x16");
    FAILS(steps, 0, ZOE_ERR_ARGUMENT, "0 steps", "1 to 1000");
    FAILS(fps, 0, ZOE_ERR_ARGUMENT, "frames a second");
    FAILS(guidance, NAN, ZOE_ERR_ARGUMENT, "guidance");
    FAILS(guidance_2, NAN, ZOE_ERR_ARGUMENT, "guidance");
    FAILS(flow_shift, -1, ZOE_ERR_ARGUMENT, "flow shift -1");
    FAILS(flow_shift, NAN, ZOE_ERR_ARGUMENT, "flow shift");
    FAILS(sampler, "magic", ZOE_ERR_ARGUMENT, "magic", "unipc");
    FAILS(image, MODELS "/wan_i2v_wide/image.png", ZOE_ERR_UNSUPPORTED, "--image", "text");
    FAILS(last_image, MODELS "/wan_i2v_wide/image.png", ZOE_ERR_ARGUMENT, "--last-image");
    FAILS(dump, "/nonexistent/dump.safetensors", ZOE_ERR_IO, "/nonexistent/dump.safetensors");
    s.request = good; /* none of this has harmed the model */
    assert_ok(s.ctx, zoe_generate(s.model, &s.request, NULL));
    end(&s);
    unlink(s.dump);
}

static void pictures_that_are_missing(void **state) {
    (void)state;
    session s;
    start_from("wan_flf2v_tall");
    begin(&s);
    s.request.frames = 5;
    generate_fails(&s, ZOE_ERR_ARGUMENT, (texts){{"--image"}});
    s.request.image = MODELS "/wan_flf2v_tall/image.png";
    generate_fails(&s, ZOE_ERR_ARGUMENT, (texts){{"--last-image"}});
    s.request.last_image = MODELS "/wan_flf2v_tall/none.png";
    generate_fails(&s, ZOE_ERR_IO, (texts){{"none.png"}});
    s.request.last_image = MODELS "/wan_flf2v_tall/case.json";
    generate_fails(&s, ZOE_ERR_FORMAT, (texts){{"case.json"}});
    end(&s);
}

static int set_up(void **state) {
    (void)state;
    test_folder_create(folder);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    remove_folder(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_files),
        cmocka_unit_test(broken_files),
        cmocka_unit_test(wrong_tensors),
        cmocka_unit_test(parts_of_other_models),
        cmocka_unit_test(mixed_layouts),
        cmocka_unit_test(wrong_settings),
        cmocka_unit_test(wrong_image_processor),
        cmocka_unit_test(wrong_boundary),
        cmocka_unit_test(original_layout),
        cmocka_unit_test(numbers_that_are_none),
        cmocka_unit_test(latents_that_do_not_fit),
        cmocka_unit_test(requests_that_cannot_be_met),
        cmocka_unit_test(pictures_that_are_missing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
