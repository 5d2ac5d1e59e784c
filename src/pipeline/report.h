/* Reports as JSON: building blocks shared by zoe_inspect(), zoe_devices() and zoe_bench(). */
#ifndef ZOE_PIPELINE_REPORT_H
#define ZOE_PIPELINE_REPORT_H

#include <jansson.h>

#include "base/context.h"

/* Puts `value` into an object, or at the end of an array, and owns it in any case; fails when memory ran out. */
int zoe_report_set(zoe_context *ctx, json_t *object, const char *key, json_t *value);
int zoe_report_append(zoe_context *ctx, json_t *array, json_t *value);

/* A path as JSON text, which is UTF-8 where a path may be any bytes: others become '?'. */
json_t *zoe_report_path(const char *path);

/* Hands the finished report over as text if `status` is ZOE_OK; releases it in any case. Returns a status. */
int zoe_report_finish(zoe_context *ctx, int status, json_t *report, char **json);

#endif
