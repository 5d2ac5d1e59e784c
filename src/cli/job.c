/* Putting a request together. */
#include "job.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool has_model(const char *dir) {
    char file[4200];
    snprintf(file, sizeof file, "%s/model_index.json", dir);
    return access(file, R_OK) == 0;
}

/* The demo model, as installed beside the program or in the source tree that it was built in. */
static bool find_demo_model(char *path, size_t size) {
    static const char *const places[] = {"../share/zoetrope/models/demo", "../../models/demo", "../models/demo"};
    char program[2048];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0) return false;
    program[length] = 0;
    char *slash = strrchr(program, '/');
    if (slash) *slash = 0;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        snprintf(path, size, "%s/%s", program, places[i]);
        if (has_model(path)) return true;
    }
    return false;
}

static bool choose_model(cli_job *job) {
    job->model_dir = cli_value(job->args, "model");
    if (!job->model_dir) job->model_dir = json_string_value(json_object_get(job->from, "model"));
    if (job->model_dir) return true;
    if (find_demo_model(job->model_path, sizeof job->model_path)) {
        job->model_dir = job->model_path;
        return true;
    }
    cli_complain("which model? --model DIR names the folder of a published model; the demo model is not installed");
    return false;
}

/* Reads the request that a video carries into job->from. */
static int load_from(cli_job *job) {
    const char *path = cli_value(job->args, "from");
    if (!path) return CLI_DONE;
    char *text = NULL;
    int status = zoe_inspect(job->context, path, &text);
    if (status != ZOE_OK) return cli_failure(job->context, status);
    json_t *report = json_loads(text, 0, NULL);
    zoe_string_free(job->context, text);
    job->from = json_incref(json_object_get(report, "request"));
    json_decref(report);
    if (json_is_object(job->from)) return CLI_DONE;
    cli_complain("--from: \"%s\" carries no request; a video made by zoe does, unless other tools dropped its metadata",
                 path);
    return CLI_FAILED;
}

static const zoe_option *find_setting(const char *name) {
    size_t count;
    const zoe_option *rows = zoe_options(&count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(rows[i].name, name) == 0) return &rows[i];
    return NULL;
}

/* Applies the repeated request's settings of one scope. */
static bool apply_from(cli_job *job, zoe_option_scope scope, void *fields) {
    const char *name;
    json_t *value;
    json_object_foreach(job->from, name, value) {
        const zoe_option *row = find_setting(name);
        if (row && row->scope == scope && json_is_string(value) &&
            !cli_set(job->context, row, fields, json_string_value(value)))
            return false;
    }
    return true;
}

static bool fill_request(cli_job *job) {
    return apply_from(job, ZOE_SCOPE_REQUEST, &job->request) &&
           cli_apply(job->args, job->context, CLI_REQUEST, &job->request);
}

int cli_job_start(cli_job *job) {
    if (!cli_open_context(job->args, &job->context)) return CLI_USAGE;
    int exit_status = load_from(job);
    if (exit_status != CLI_DONE) return exit_status;
    zoe_model_settings_init(&job->settings);
    if (!apply_from(job, ZOE_SCOPE_MODEL, &job->settings) ||
        !cli_apply(job->args, job->context, CLI_MODEL, &job->settings) || !fill_request(job) || !choose_model(job))
        return CLI_USAGE;
    if (job->request.prompt) return CLI_DONE;
    cli_complain("what should the video show? --prompt TEXT says it");
    return CLI_USAGE;
}

int cli_job_open(cli_job *job) {
    int status = zoe_model_open(job->context, job->model_dir, &job->settings, &job->model);
    if (status != ZOE_OK) return status;
    zoe_request_init(job->model, &job->request);
    fill_request(job); /* was checked before */
    return ZOE_OK;
}

void cli_job_end(cli_job *job) {
    zoe_model_close(job->model);
    json_decref(job->from);
    zoe_context_free(job->context);
}
