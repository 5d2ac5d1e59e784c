/* zoe_devices(): what can be computed on. */
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "backend/plugin.h"
#include "pipeline/measure.h"
#include "pipeline/model.h"
#include "pipeline/rates.h"
#include "pipeline/report.h"

/* The first value of a key in a file of "key : value" lines, such as those of /proc; empty if it is not there. */
static void read_proc(const char *path, const char *key, char *value, size_t size) {
    char line[512];
    value[0] = 0;
    FILE *file = fopen(path, "r");
    if (!file) return;
    while (!*value && fgets(line, sizeof line, file)) {
        const char *rest = line + strlen(key);
        if (strncmp(line, key, strlen(key)) != 0 || rest[strspn(rest, " \t")] != ':') continue;
        rest += strspn(rest, " \t:");
        snprintf(value, size, "%.*s", (int)strcspn(rest, "\n"), rest);
    }
    fclose(file);
}

static int64_t memory_bytes(const char *key) {
    char text[64];
    long long kilobytes = 0;
    read_proc("/proc/meminfo", key, text, sizeof text);
    return sscanf(text, "%lld kB", &kilobytes) == 1 ? (int64_t)kilobytes * 1024 : 0;
}

static int usable_cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static json_t *kernel_levels(const zoe_context *ctx) {
    uint32_t usable = zoe_cpu_levels() & ctx->settings.cpu_mask;
    json_t *levels = json_pack("[s]", "c");
    if (usable & ZOE_CPU_AVX2) json_array_append_new(levels, json_string("avx2"));
    if (usable & ZOE_CPU_AVX2 && usable & ZOE_CPU_AVX512) json_array_append_new(levels, json_string("avx512"));
    if (usable & ZOE_CPU_AVX2 && usable & ZOE_CPU_VNNI) json_array_append_new(levels, json_string("vnni"));
    return levels;
}

/* Adds what the device reaches to `measured`. */
static int add_rates(zoe_context *ctx, const char *device, json_t *measured) {
    zoe_backend *be;
    zoe_rates rates;
    ZOE_TRY(zoe_backend_open(ctx, device, NULL, 0, NULL, &be));
    int status = zoe_rates_measure(be, &rates);
    zoe_backend_close(be);
    return status < 0 ? status : zoe_rates_report(ctx, &rates, measured);
}

static int describe_cpu(zoe_context *ctx, int measure, json_t *cpu) {
    char model[256];
    read_proc("/proc/cpuinfo", "model name", model, sizeof model);
    ZOE_TRY(zoe_report_set(ctx, cpu, "name", json_string("cpu")));
    ZOE_TRY(zoe_report_set(ctx, cpu, "model", json_string(*model ? model : "unknown")));
    ZOE_TRY(zoe_report_set(ctx, cpu, "cores", json_integer(usable_cores())));
    ZOE_TRY(zoe_report_set(ctx, cpu, "levels", kernel_levels(ctx)));
    ZOE_TRY(zoe_report_set(ctx, cpu, "memory_total", json_integer(memory_bytes("MemTotal"))));
    ZOE_TRY(zoe_report_set(ctx, cpu, "memory_available", json_integer(memory_bytes("MemAvailable"))));
    if (!measure) return ZOE_OK;
    double gflops, gbytes;
    ZOE_TRY(zoe_measure_sgemm(ctx, 1536, 1536, 4096, &gflops));
    ZOE_TRY(zoe_measure_copy(ctx, &gbytes));
    json_t *measured = json_pack("{s:f, s:f}", "sgemm_gflops", gflops, "copy_gbytes", gbytes);
    ZOE_TRY(zoe_report_set(ctx, cpu, "measured", measured));
    return add_rates(ctx, "cpu", measured);
}

static int describe_cuda(zoe_context *ctx, const zoe_plugin_device *device, int number, int measure, json_t *out) {
    char text[32];
    snprintf(text, sizeof text, "cuda:%d", number);
    ZOE_TRY(zoe_report_set(ctx, out, "name", json_string(text)));
    ZOE_TRY(zoe_report_set(ctx, out, "model", json_string(device->name)));
    ZOE_TRY(zoe_report_set(ctx, out, "cores", json_integer(device->processors)));
    snprintf(text, sizeof text, "sm_%d", device->level);
    ZOE_TRY(zoe_report_set(ctx, out, "levels", json_pack("[s]", text)));
    ZOE_TRY(zoe_report_set(ctx, out, "memory_total", json_integer(device->memory_total)));
    ZOE_TRY(zoe_report_set(ctx, out, "memory_available", json_integer(device->memory_free)));
    if (!measure) return ZOE_OK;
    json_t *measured = json_object();
    snprintf(text, sizeof text, "cuda:%d", number);
    ZOE_TRY(zoe_report_set(ctx, out, "measured", measured));
    int status = add_rates(ctx, text, measured);
    if (status == ZOE_ERR_CANCELLED || status == ZOE_OK) return status;
    status = zoe_report_set(ctx, out, "not_measured", json_string(ctx->error)); /* too old, or full of others' data */
    ctx->error[0] = 0;
    return status;
}

/* Devices behind a plug-in are listed where it is installed and finds any. */
static int append_cuda(zoe_context *ctx, int measure, json_t *devices) {
    const zoe_plugin *plugin;
    zoe_plugin_device device;
    int count = 0;
    int found = zoe_plugin_load(ctx, "cuda", &plugin);
    if (found == ZOE_ERR_NOMEM) return found;
    if (found < 0 || plugin->count(ctx, &count) < 0) {
        ctx->error[0] = 0;
        return ZOE_OK;
    }
    for (int i = 0; i < count; i++) {
        ZOE_TRY(plugin->describe(ctx, i, &device));
        json_t *row = json_object();
        int status = describe_cuda(ctx, &device, i, measure, row);
        if (status < 0) {
            json_decref(row);
            return status;
        }
        ZOE_TRY(zoe_report_append(ctx, devices, row));
    }
    return ZOE_OK;
}

int zoe_devices(zoe_context *ctx, int measure, char **json) {
    json_t *report = json_object(), *devices = json_array(), *cpu = json_object();
    int status = describe_cpu(ctx, measure, cpu);
    if (status == ZOE_OK)
        status = zoe_report_append(ctx, devices, cpu);
    else
        json_decref(cpu);
    if (status == ZOE_OK) status = append_cuda(ctx, measure, devices);
    if (status == ZOE_OK)
        status = zoe_report_set(ctx, report, "devices", devices);
    else
        json_decref(devices);
    return zoe_report_finish(ctx, status, report, json);
}
