/* What `generate` and `plan` share: a request put together from options, and the model that it is for. */
#ifndef ZOE_CLI_JOB_H
#define ZOE_CLI_JOB_H

#include <jansson.h>

#include "cli.h"

/* One run of a command: what has to be given back at its end. */
typedef struct cli_job {
    const cli_args *args;
    zoe_context *context;
    zoe_model *model;
    json_t *from; /* the repeated request; option texts point into it */
    zoe_model_settings settings;
    zoe_request request;
    zoe_result result;
    const char *model_dir;
    char model_path[4096], output_name[128];
    cli_progress progress;
} cli_job;

/* Context, repeated request, settings and model folder; returns an exit status after it has told what is wrong. */
int cli_job_start(cli_job *job);
/* Opens the model and fills the request with its defaults, then with the options. Returns a zoe_status. */
int cli_job_open(cli_job *job);
void cli_job_end(cli_job *job);

/* --model and --from, which both commands take. */
#define CLI_JOB_OPTIONS                                                                                                    \
    {{.name = "model",                                                                                                     \
      .type = ZOE_OPTION_PATH,                                                                                             \
      .meta = "PATH",                                                                                                      \
      .help = "Folder or single file of a model as published; default: the demo model."},                                  \
     CLI_WORD,                                                                                                             \
     0},                                                                                                                   \
    {                                                                                                                      \
        {.name = "from",                                                                                                   \
         .type = ZOE_OPTION_PATH,                                                                                          \
         .meta = "VIDEO",                                                                                                  \
         .help = "Repeat the request that a video made by zoe carries; other options override it."},                       \
            CLI_WORD, 0                                                                                                    \
    }

#endif
