/* Indexes of sharded checkpoints, beside two real shards. */
#include <sys/stat.h>

#include "formats/checkpoint.h"
#include "fuzz.h"

static char folder[] = "/tmp/zoetrope-fuzz-XXXXXX";

static void in_folder(const char *name, char path[128]) {
    snprintf(path, 128, "%s/%s", folder, name);
}

static void write_file(const char *name, const void *data, size_t size) {
    char path[128];
    in_folder(name, path);
    FILE *file = fopen(path, "wb");
    fuzz_expect(file && fwrite(data, 1, size, file) == size);
    fclose(file);
}

static void remove_folder(void) {
    static const char *const names[] = {"a.safetensors", "b.safetensors", "x.safetensors.index.json"};
    char path[128];
    for (int i = 0; i < 3; i++) {
        in_folder(names[i], path);
        unlink(path);
    }
    rmdir(folder);
}

static void make_folder(void) {
    static const char a[] = "\x3d\0\0\0\0\0\0\0{\"x\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}        \1\2";
    static const char b[] = "\x3d\0\0\0\0\0\0\0{\"y\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}        \3\4";
    fuzz_expect(mkdtemp(folder) != NULL);
    atexit(remove_folder);
    write_file("a.safetensors", a, sizeof a - 1);
    write_file("b.safetensors", b, sizeof b - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int made;
    if (!made++) make_folder();
    zoe_context *ctx = fuzz_context();
    zoe_checkpoint *ckpt;
    char path[128];
    write_file("x.safetensors.index.json", data, size);
    in_folder("x.safetensors.index.json", path);
    int status = zoe_checkpoint_open(ctx, path, &ckpt);
    fuzz_expect(status < 0 ? !ckpt && *zoe_context_error(ctx) : zoe_checkpoint_count(ckpt) > 0);
    zoe_checkpoint_close(ckpt);
    zoe_context_free(ctx);
    return 0;
}
