#include "pipeline/report.h"

#include <stdlib.h>
#include <string.h>

#include "formats/json.h"

int zoe_report_set(zoe_context *ctx, json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) == 0 ? ZOE_OK : zoe_out_of_memory(ctx, 0, key);
}

int zoe_report_append(zoe_context *ctx, json_t *array, json_t *value) {
    return json_array_append_new(array, value) == 0 ? ZOE_OK : zoe_out_of_memory(ctx, 0, "report");
}

json_t *zoe_report_path(const char *path) {
    json_t *value = json_string(path);
    if (value) return value;
    char *copy = strdup(path);
    if (!copy) return NULL;
    for (char *at = copy; *at; at++)
        if ((unsigned char)*at >= 0x80) *at = '?';
    value = json_string(copy);
    free(copy);
    return value;
}

int zoe_report_finish(zoe_context *ctx, int status, json_t *report, char **json) {
    *json = NULL;
    if (status == ZOE_OK) {
        *json = report ? zoe_json_text(ctx, report, true) : NULL;
        if (!*json) status = zoe_out_of_memory(ctx, 0, "report");
    }
    json_decref(report);
    return status;
}
