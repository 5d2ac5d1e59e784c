/* Settings described as data: what the library itself does with the table behind zoe_options(). */
#ifndef ZOE_PIPELINE_OPTIONS_H
#define ZOE_PIPELINE_OPTIONS_H

#include <jansson.h>

#include "base/context.h"

/*
 * Everything that a video depends on as a JSON object: "version" of the library, "model" (its folder, as given), and every
 * option's name with the text that zoe_option_set() reads back. What is unset is left out, and so are `output` and `dump`,
 * which a repetition chooses anew. The caller decrefs *out.
 */
int zoe_request_json(zoe_context *ctx, const char *model, const zoe_model_settings *settings, const zoe_request *request,
                     json_t **out);

#endif
