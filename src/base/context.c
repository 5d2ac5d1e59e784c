#include "base/context.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ZOE_TEXT_OF(x)  #x
#define ZOE_TEXT(x)     ZOE_TEXT_OF(x)
#define ZOE_VERSION_STR ZOE_TEXT(ZOE_VERSION_MAJOR) "." ZOE_TEXT(ZOE_VERSION_MINOR) "." ZOE_TEXT(ZOE_VERSION_PATCH)

const char *zoe_version(void) {
    return ZOE_VERSION_STR;
}

const char *zoe_strerror(int status) {
    switch (status) {
    case ZOE_OK:
        return "success";
    case ZOE_ERR_NOMEM:
        return "out of memory";
    case ZOE_ERR_IO:
        return "input or output failed";
    case ZOE_ERR_FORMAT:
        return "malformed file";
    case ZOE_ERR_ARGUMENT:
        return "invalid setting";
    case ZOE_ERR_UNSUPPORTED:
        return "not supported";
    case ZOE_ERR_CANCELLED:
        return "interrupted";
    case ZOE_ERR_BUDGET:
        return "memory budget too small";
    case ZOE_ERR_NUMERIC:
        return "not a finite number";
    case ZOE_ERR_DEVICE:
        return "device failure";
    case ZOE_ERR_INTERNAL:
        return "internal error";
    default:
        return "unknown status";
    }
}

const char *zoe_phase_name(zoe_phase phase) {
    static const char *const names[ZOE_PHASE_COUNT] = {"load", "text", "image", "denoise", "decode"};
    return phase >= 0 && phase < ZOE_PHASE_COUNT ? names[phase] : "unknown";
}

void zoe_context_settings_init(zoe_context_settings *settings) {
    memset(settings, 0, sizeof *settings);
    settings->cpu_mask = UINT32_MAX;
}

static void *default_reallocate(void *user, void *ptr, size_t size) {
    (void)user;
    if (size == 0) {
        free(ptr);
        return NULL;
    }
    return realloc(ptr, size);
}

int zoe_context_create(const zoe_context_settings *settings, zoe_context **out) {
    zoe_context_settings defaults;
    *out = NULL;
    if (!settings) {
        zoe_context_settings_init(&defaults);
        settings = &defaults;
    }
    void *(*reallocate)(void *, void *, size_t) = settings->reallocate ? settings->reallocate : default_reallocate;
    zoe_context *ctx = reallocate(settings->user, NULL, sizeof *ctx);
    if (!ctx) return ZOE_ERR_NOMEM;
    memset(ctx, 0, sizeof *ctx);
    ctx->settings = *settings;
    ctx->settings.reallocate = reallocate;
    atomic_init(&ctx->cancelled, 0);
    *out = ctx;
    return ZOE_OK;
}

void zoe_context_free(zoe_context *ctx) {
    if (ctx) ctx->settings.reallocate(ctx->settings.user, ctx, 0);
}

const char *zoe_context_error(const zoe_context *ctx) {
    return ctx->error;
}

void zoe_cancel(zoe_context *ctx) {
    atomic_store(&ctx->cancelled, 1);
}

void zoe_cancel_ended(zoe_context *ctx) {
    atomic_store(&ctx->cancelled, 0);
}

int zoe_check_cancelled(zoe_context *ctx) {
    return atomic_load(&ctx->cancelled) ? zoe_fail(ctx, ZOE_ERR_CANCELLED, "interrupted") : ZOE_OK;
}

void zoe_error_text(zoe_context *ctx, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(ctx->error, sizeof ctx->error, format, args);
    va_end(args);
}

int zoe_fail_in(zoe_context *ctx, int status, const char *format, ...) {
    char prefix[512], rest[ZOE_ERROR_TEXT - 520];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    snprintf(rest, sizeof rest, "%s", ctx->error);
    snprintf(ctx->error, sizeof ctx->error, "%s: %s", prefix, rest);
    return status;
}

void zoe_log(zoe_context *ctx, zoe_log_level level, const char *format, ...) {
    if (!ctx->settings.log) return;
    char line[ZOE_ERROR_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    ctx->settings.log(ctx->settings.user, level, line);
}

void *zoe_realloc(zoe_context *ctx, void *ptr, size_t size) {
    return ctx->settings.reallocate(ctx->settings.user, ptr, size ? size : 1);
}

void *zoe_alloc(zoe_context *ctx, size_t size) {
    return zoe_realloc(ctx, NULL, size);
}

void *zoe_calloc(zoe_context *ctx, size_t count, size_t size) {
    if (size && count > SIZE_MAX / size) return NULL;
    void *ptr = zoe_alloc(ctx, count * size);
    if (ptr) memset(ptr, 0, count * size);
    return ptr;
}

void zoe_free(zoe_context *ctx, void *ptr) {
    if (ptr) ctx->settings.reallocate(ctx->settings.user, ptr, 0);
}

char *zoe_strdup(zoe_context *ctx, const char *text) {
    size_t size = strlen(text) + 1;
    char *copy = zoe_alloc(ctx, size);
    if (copy) memcpy(copy, text, size);
    return copy;
}

char *zoe_format(zoe_context *ctx, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0) return NULL;
    char *text = zoe_alloc(ctx, (size_t)length + 1);
    if (!text) return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)length + 1, format, args);
    va_end(args);
    return text;
}

void zoe_string_free(zoe_context *ctx, char *text) {
    zoe_free(ctx, text);
}

int zoe_out_of_memory(zoe_context *ctx, size_t bytes, const char *what) {
    char size[32];
    zoe_bytes_text(size, sizeof size, (int64_t)bytes);
    return zoe_fail(ctx, ZOE_ERR_NOMEM, "out of memory: %s more were needed (%s)", size, what);
}

double zoe_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void zoe_bytes_text(char *text, size_t size, int64_t bytes) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 1024 && unit < 4) {
        value /= 1024;
        unit++;
    }
    snprintf(text, size, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
}
