/*
 * How fast weights come from a disk, beside a plain sequential reader of the same files: units read by the loader's threads
 * for a device (one that takes no time), and units used where their files are mapped.
 *
 * usage: disk_rate FOLDER [RUNS]      FOLDER: transformer of a Wan model, cold or not; its pages are dropped before each
 * run
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/json.h"
#include "models/wan/denoiser.h"

typedef struct null_device {
    zoe_backend_ops ops; /* first, so that an operation finds the rest */
    const zoe_backend_ops *cpu;
} null_device;

static int take(zoe_backend *be, size_t bytes, void **out) {
    *out = malloc(bytes);
    return *out ? ZOE_OK : zoe_out_of_memory(be->ctx, bytes, "weights");
}

static void give(zoe_backend *be, void *ptr, size_t bytes) {
    (void)be, (void)bytes;
    free(ptr);
}

static int begin(zoe_backend *be, int place, void *to, const void *host, size_t bytes) {
    (void)be, (void)place, (void)to, (void)host, (void)bytes;
    return ZOE_OK;
}

static int event(zoe_backend *be, int place) {
    (void)be, (void)place;
    return ZOE_OK;
}

static void make_device(zoe_backend *be, null_device *device) {
    device->cpu = be->ops;
    device->ops = *be->ops;
    device->ops.host_memory = false;
    device->ops.pinned_alloc = take;
    device->ops.pinned_free = give;
    device->ops.copy_begin = begin;
    device->ops.copy_wait = device->ops.copy_release = device->ops.copy_end = event;
    be->dtype = ZOE_BF16;
    be->ops = &device->ops;
}

static void drop_pages(const zoe_checkpoint *ckpt) {
    for (int i = 0; i < zoe_checkpoint_files(ckpt); i++) {
        int fd = open(zoe_checkpoint_path(ckpt, i), O_RDONLY | O_CLOEXEC);
        if (fd < 0) continue;
        fsync(fd);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
}

static double gbytes(double bytes, double start) {
    return 1e-9 * bytes / (zoe_now() - start);
}

static double plain(const zoe_checkpoint *ckpt) {
    enum { PIECE = 4 << 20 };
    char *buffer = malloc(PIECE);
    double bytes = 0, start = zoe_now();
    for (int i = 0; buffer && i < zoe_checkpoint_files(ckpt); i++) {
        int fd = open(zoe_checkpoint_path(ckpt, i), O_RDONLY | O_CLOEXEC);
        ssize_t got;
        while (fd >= 0 && (got = read(fd, buffer, PIECE)) > 0) bytes += (double)got;
        close(fd);
    }
    free(buffer);
    return gbytes(bytes, start);
}

/* Reads what the processor would read of the mapping: a byte a page. */
static unsigned touch(const zoe_checkpoint *ckpt, const char *prefix) {
    unsigned sum = 0;
    for (size_t i = 0; i < zoe_checkpoint_count(ckpt); i++) {
        const zoe_entry *entry = zoe_checkpoint_at(ckpt, i);
        if (strncmp(entry->name, prefix, strlen(prefix)) != 0) continue;
        for (size_t at = 0; at < entry->bytes; at += 4096) sum += ((const unsigned char *)entry->data)[at];
    }
    return sum;
}

static int pass(zoe_context *ctx, const zoe_config *config, const zoe_checkpoint *ckpt, bool mapped, double *rate) {
    null_device device;
    zoe_backend *be;
    zoe_wan_config c;
    zoe_wan_denoiser *d = NULL;
    volatile unsigned sum = 0;
    ZOE_TRY(zoe_wan_config_read(config, &c));
    ZOE_TRY(zoe_cpu_backend_create(ctx, 0, &be));
    if (!mapped) make_device(be, &device);
    be->weights.budget = be->weights.host_budget = 1; /* nothing stays */
    int status = zoe_wan_denoiser_create(be, &c, ckpt, ZOE_FORM_NATIVE, &d);
    double start = zoe_now();
    for (int i = 0; status == ZOE_OK && i < (int)c.layers; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "blocks.%d.", i);
        status = zoe_weights_acquire(zoe_wan_denoiser_weights(d), i + 1);
        if (status < 0) break;
        if (mapped) sum += touch(ckpt, prefix);
        status = zoe_weights_release(zoe_wan_denoiser_weights(d), i + 1, status);
    }
    double bytes = mapped ? (double)be->weights.loaded : (double)be->weights.read;
    *rate = gbytes(bytes, start);
    zoe_wan_denoiser_free(d);
    if (!mapped) be->ops = device.cpu;
    zoe_backend_close(be);
    return status;
}

int main(int argc, char **argv) {
    zoe_context *ctx;
    zoe_config config = {0};
    zoe_checkpoint *ckpt = NULL;
    char path[4096];
    if (argc < 2 || zoe_context_create(NULL, &ctx) != ZOE_OK) return 1;
    snprintf(path, sizeof path, "%s/config.json", argv[1]);
    int status = zoe_config_load(ctx, path, &config);
    if (status == ZOE_OK) status = zoe_checkpoint_open(ctx, argv[1], &ckpt);
    int runs = argc > 2 ? atoi(argv[2]) : 3;
    for (int i = 0; status == ZOE_OK && i < runs; i++) {
        double rates[3] = {0};
        drop_pages(ckpt);
        rates[0] = plain(ckpt);
        drop_pages(ckpt);
        status = pass(ctx, &config, ckpt, false, &rates[1]);
        drop_pages(ckpt);
        if (status == ZOE_OK) status = pass(ctx, &config, ckpt, true, &rates[2]);
        printf("GB/s: plain reader %.2f, loader %.2f (%.0f %%), mapped %.2f (%.0f %%)\n", rates[0], rates[1],
               100 * rates[1] / rates[0], rates[2], 100 * rates[2] / rates[0]);
    }
    if (status < 0) fprintf(stderr, "%s\n", zoe_context_error(ctx));
    zoe_config_free(&config);
    zoe_checkpoint_close(ckpt);
    zoe_context_free(ctx);
    return status < 0;
}
