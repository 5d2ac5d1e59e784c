/* Configuration files: every getter on every key of the file and on one that is not there. */
#include "formats/json.h"
#include "fuzz.h"

static void read_all(const zoe_config *config, const char *key) {
    int64_t whole = 1, wholes[3];
    double real, reals[3];
    bool flag;
    const char *text = NULL;
    zoe_config_has(config, key);
    if (zoe_config_int(config, key, 0, 1000, &whole) >= 0) fuzz_expect(whole >= 0 && whole <= 1000);
    zoe_config_real(config, key, &real);
    zoe_config_bool(config, key, &flag);
    zoe_config_text(config, key, &text);
    for (size_t n = 0; n <= 3; n++) {
        zoe_config_ints(config, key, n, INT64_MIN, INT64_MAX, wholes);
        zoe_config_reals(config, key, n, reals);
    }
    zoe_config_length(config, key);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    zoe_context *ctx = fuzz_context();
    zoe_config config;
    char path[64];
    int fd = fuzz_file(data, size, path);
    int status = zoe_config_load(ctx, path, &config);
    fuzz_expect(status < 0 ? !config.root && *zoe_context_error(ctx) : json_is_object(config.root));
    if (status >= 0) {
        const char *key;
        json_t *value;
        json_object_foreach(config.root, key, value) read_all(&config, key);
        read_all(&config, "no such key");
        char *text = zoe_json_text(ctx, config.root, size % 2);
        fuzz_expect(text != NULL);
        zoe_free(ctx, text);
    }
    zoe_config_free(&config);
    close(fd);
    zoe_context_free(ctx);
    return 0;
}
