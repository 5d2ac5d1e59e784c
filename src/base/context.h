/* The context as the library's parts see it: error text, allocation, log, cancellation. */
#ifndef ZOE_BASE_CONTEXT_H
#define ZOE_BASE_CONTEXT_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "zoetrope.h"

#define ZOE_ERROR_TEXT 4096

struct zoe_context {
    zoe_context_settings settings;
    atomic_int cancelled;
    char error[ZOE_ERROR_TEXT];
};

/*
 * Stores the text of a failure and evaluates to `status`, so that `return zoe_fail(...)` reads well. A macro, so that the
 * compiler sees the status: it can then tell results of calls that failed from uninitialised ones.
 */
#define zoe_fail(ctx, status, ...) (zoe_error_text((ctx), __VA_ARGS__), (status))
void zoe_error_text(zoe_context *ctx, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "prefix: " in front of the stored text: where a failure happened, told by the caller. Returns `status`. */
int zoe_fail_in(zoe_context *ctx, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

void zoe_log(zoe_context *ctx, zoe_log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ZOE_ERR_CANCELLED with its text once zoe_cancel() was called, else ZOE_OK. */
int zoe_check_cancelled(zoe_context *ctx);
/* The public call in progress, which was to be cancelled if any was, is over. */
void zoe_cancel_ended(zoe_context *ctx);

/* Memory through the context's allocator. NULL on failure; zoe_alloc_try() also stores the error text. */
void *zoe_alloc(zoe_context *ctx, size_t size);
void *zoe_calloc(zoe_context *ctx, size_t count, size_t size);
void *zoe_realloc(zoe_context *ctx, void *ptr, size_t size);
void zoe_free(zoe_context *ctx, void *ptr);
char *zoe_strdup(zoe_context *ctx, const char *text);
/* printf into fresh memory; NULL when it ran out. */
char *zoe_format(zoe_context *ctx, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Records that `what` could not be allocated. */
int zoe_out_of_memory(zoe_context *ctx, size_t bytes, const char *what);

/* Zeroed array of `count` elements of *ptr's type; evaluates to a status. */
#define ZOE_NEW_ARRAY(ctx, ptr, count)                                                                                     \
    (((ptr) = zoe_calloc((ctx), (size_t)(count), sizeof *(ptr)))                                                           \
         ? ZOE_OK                                                                                                          \
         : zoe_out_of_memory((ctx), (size_t)(count) * sizeof *(ptr), #ptr))

/* Propagates a failure. */
#define ZOE_TRY(expression)                                                                                                \
    do {                                                                                                                   \
        int zoe_try_status_ = (expression);                                                                                \
        if (zoe_try_status_ < 0) return zoe_try_status_;                                                                   \
    } while (0)

/* Propagates a failure through the function's `done` label, where `status` is returned after the release. */
#define ZOE_TRY_DONE(expression)                                                                                           \
    do {                                                                                                                   \
        status = (expression);                                                                                             \
        if (status < 0) goto done;                                                                                         \
    } while (0)

/* Seconds of a clock that never goes back. */
double zoe_now(void);

/* Resident and peak resident memory of the process in bytes; 0 where unknown. */
int64_t zoe_resident_bytes(void);
int64_t zoe_peak_resident_bytes(void);
/* Memory that the process can still have: of the machine's by its own account, and by the limits of the control groups that
 * it is in; 0 where unknown. */
int64_t zoe_available_bytes(void);

/* Writes a byte count as "1.5 GiB" into `text`. */
void zoe_bytes_text(char *text, size_t size, int64_t bytes);

#endif
