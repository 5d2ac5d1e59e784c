/*
 * How fast weights come from a disk or the page cache, beside a plain sequential reader of the same files: units read by
 * the loader's threads for a device (one that takes no time), with pread(), through rings, and past the page cache, and
 * units used where their files are mapped; as they are and quantised on the way.
 *
 * usage: disk_rate FOLDER [RUNS [cold|warm [FORM...]]]
 *     FOLDER: transformer of a Wan model; cold: its pages are dropped before each reading, warm: they are all there
 *     FORM: native, int8, fp8, int4, nvfp4; without any, native alone
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "formats/checkpoint_parts.h"
#include "formats/json.h"
#include "models/wan/denoiser.h"
#include "weights/quantise.h"

/* A stretch of time, by the clock and by what processors worked in it. */
typedef struct stretch {
    double seconds, work;
} stretch;

static stretch now(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (stretch){zoe_now(), (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                                    1e-6 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec)};
}

typedef struct null_device {
    zoe_backend_ops ops; /* first, so that an operation finds the rest */
    const zoe_backend_ops *cpu;
    stretch taking; /* of memory */
} null_device;

/* A device has its memory touched before anything is read into it. */
static int take(zoe_backend *be, size_t bytes, void **out) {
    null_device *device = (null_device *)(uintptr_t)be->ops;
    stretch start = now(), end;
    *out = malloc(bytes);
    if (!*out) return zoe_out_of_memory(be->ctx, bytes, "weights");
    memset(*out, 0, bytes);
    end = now();
    device->taking.seconds += end.seconds - start.seconds;
    device->taking.work += end.work - start.work;
    return ZOE_OK;
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
    *device = (null_device){.cpu = be->ops, .ops = *be->ops};
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

typedef struct speed {
    double rate, work; /* GB/s; seconds of a processor for a GB */
} speed;

static speed speed_of(double bytes, stretch start) {
    stretch end = now();
    return (speed){1e-9 * bytes / (end.seconds - start.seconds), 1e9 * (end.work - start.work) / bytes};
}

static speed plain(const zoe_checkpoint *ckpt) {
    enum { PIECE = 4 << 20 };
    char *buffer = malloc(PIECE);
    double bytes = 0;
    stretch start = now();
    for (int i = 0; buffer && i < zoe_checkpoint_files(ckpt); i++) {
        int fd = open(zoe_checkpoint_path(ckpt, i), O_RDONLY | O_CLOEXEC);
        ssize_t got;
        while (fd >= 0 && (got = read(fd, buffer, PIECE)) > 0) bytes += (double)got;
        close(fd);
    }
    free(buffer);
    return speed_of(bytes, start);
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

typedef enum way { PREAD, RINGS, PAST_CACHE, MAPPED } way;

typedef struct subject {
    zoe_context *ctx;
    zoe_wan_config config;
    zoe_checkpoint *ckpt;
} subject;

static int pass(const subject *s, way how, zoe_weight_form form, speed *out) {
    null_device device;
    zoe_backend *be;
    zoe_wan_denoiser *d = NULL;
    volatile unsigned sum = 0;
    ZOE_TRY(zoe_cpu_backend_create(s->ctx, 0, &be));
    s->ckpt->ringless = how == PREAD;
    s->ckpt->cache_room = how == PAST_CACHE;
    if (how != MAPPED) make_device(be, &device);
    be->weights.budget = be->weights.host_budget = 1; /* nothing stays */
    int status = zoe_wan_denoiser_create(be, &s->config, s->ckpt, form, &d);
    stretch start = now();
    for (int i = 0; status == ZOE_OK && i < (int)s->config.layers; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "blocks.%d.", i);
        status = zoe_weights_acquire(zoe_wan_denoiser_weights(d), i + 1);
        if (status < 0) break;
        if (how == MAPPED) sum += touch(s->ckpt, prefix);
        status = zoe_weights_release(zoe_wan_denoiser_weights(d), i + 1, status);
    }
    if (how != MAPPED) {
        start.seconds += device.taking.seconds;
        start.work += device.taking.work;
    }
    *out = speed_of(how == MAPPED ? (double)be->weights.loaded : (double)be->weights.read, start);
    zoe_wan_denoiser_free(d);
    if (how != MAPPED) be->ops = device.cpu;
    zoe_backend_close(be);
    return status;
}

static int compare(const subject *s, const char *name, bool cold) {
    static const char *const names[] = {"threads", "rings", "past the cache", "mapped"};
    zoe_weight_form form = ZOE_FORM_NATIVE;
    if (!zoe_form_named(name, &form.dtype)) return zoe_fail(s->ctx, ZOE_ERR_ARGUMENT, "%s is no form of weights", name);
    bool native = form.dtype == ZOE_DTYPE_COUNT;
    if (cold) drop_pages(s->ckpt);
    speed all = plain(s->ckpt), here;
    printf("%s %-6s GB/s (by plain; processor's s/GB): plain reader %.2f (%.2f)", cold ? "cold" : "warm", name, all.rate,
           all.work);
    for (way how = PREAD; how <= (native ? MAPPED : PAST_CACHE); how++) {
        if (cold) drop_pages(s->ckpt);
        ZOE_TRY(pass(s, how, form, &here));
        printf(", %s %.2f (%.0f %%; %.2f)", names[how], here.rate, 100 * here.rate / all.rate, here.work);
    }
    printf("\n");
    fflush(stdout);
    return ZOE_OK;
}

int main(int argc, char **argv) {
    static char *native[] = {"native"};
    subject s = {0};
    zoe_config config = {0};
    char path[4096];
    if (argc < 2 || zoe_context_create(NULL, &s.ctx) != ZOE_OK) return 1;
    snprintf(path, sizeof path, "%s/config.json", argv[1]);
    int status = zoe_config_load(s.ctx, path, &config);
    if (status == ZOE_OK) status = zoe_wan_config_read(&config, &s.config);
    if (status == ZOE_OK) status = zoe_checkpoint_open(s.ctx, argv[1], &s.ckpt);
    int runs = argc > 2 ? atoi(argv[2]) : 3, forms = argc > 4 ? argc - 4 : 1;
    bool cold = argc <= 3 || strcmp(argv[3], "warm") != 0;
    if (status == ZOE_OK && !cold) plain(s.ckpt);
    for (int i = 0; status == ZOE_OK && i < runs; i++)
        for (int k = 0; status == ZOE_OK && k < forms; k++) status = compare(&s, (argc > 4 ? argv + 4 : native)[k], cold);
    if (status < 0) fprintf(stderr, "%s\n", zoe_context_error(s.ctx));
    zoe_config_free(&config);
    zoe_checkpoint_close(s.ckpt);
    zoe_context_free(s.ctx);
    return status < 0;
}
