/* zoe generate: a video from a request. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "job.h"

/* Everything that can be known to be wrong before a model is opened. */
static int check_output(cli_job *job) {
    const zoe_request *request = &job->request;
    if (request->output && strcmp(request->output, "-") == 0) {
        if (cli_value(job->args, "json")) {
            cli_complain("--json and -o - both write to standard output; name a file with -o FILE");
            return CLI_USAGE;
        }
        if (isatty(STDOUT_FILENO)) {
            cli_complain("-o - writes raw video, which a terminal cannot show; send it to a file or program");
            return CLI_USAGE;
        }
    }
    if (request->output || request->dump) return CLI_DONE;
    return cli_name_output(request->prompt, job->output_name, sizeof job->output_name) ? CLI_DONE : CLI_FAILED;
}

static void on_progress(void *user, const zoe_progress *state) {
    cli_job *job = user;
    cli_progress_show(&job->progress, state);
}

static int make_video(cli_job *job) {
    int status = cli_job_open(job);
    if (status != ZOE_OK) return status;
    if (!job->request.output && !job->request.dump) job->request.output = job->output_name;
    job->request.user = job;
    job->request.progress = on_progress;
    cli_progress_start(&job->progress, cli_value(job->args, "quiet") != NULL);
    /* An interruption while the model was opened is as good as one right now. */
    status = cli_interrupted() ? ZOE_ERR_CANCELLED : zoe_generate(job->model, &job->request, &job->result);
    cli_progress_clear(&job->progress);
    return status;
}

/* The settings as they were used, name to text. */
static json_t *request_record(cli_job *job) {
    json_t *record = json_object();
    size_t count;
    const zoe_option *rows = zoe_options(&count);
    for (size_t i = 0; i < count; i++) {
        char *text = NULL;
        const void *fields = rows[i].scope == ZOE_SCOPE_MODEL ? (const void *)&job->settings : (const void *)&job->request;
        if (zoe_option_get(job->context, &rows[i], fields, &text) == ZOE_OK && text)
            json_object_set_new(record, rows[i].name, json_string(text));
        zoe_string_free(job->context, text);
    }
    json_object_set_new(record, "model", json_string(job->model_dir));
    return record;
}

/* How the weights moved. */
static json_t *weights_record(const zoe_result *r) {
    double rate = r->read_seconds > 0 ? 1e-9 * (double)r->read_bytes / r->read_seconds : 0;
    return json_pack("{s:I, s:I, s:f, s:f, s:I, s:I, s:f}", "loaded_bytes", (json_int_t)r->loaded_bytes, "read_bytes",
                     (json_int_t)r->read_bytes, "read_gbytes_per_second", rate, "stalled_seconds", r->stalled_seconds,
                     "loaded_bytes_per_step", (json_int_t)r->loaded_bytes_per_step, "read_bytes_per_step",
                     (json_int_t)r->read_bytes_per_step, "stalled_seconds_per_step", r->stalled_seconds_per_step);
}

static int print_record(cli_job *job, int status) {
    const zoe_result *result = &job->result;
    json_t *seconds = json_object();
    for (int phase = 0; phase < ZOE_PHASE_COUNT; phase++)
        json_object_set_new(seconds, zoe_phase_name((zoe_phase)phase), json_real(result->seconds[phase]));
    json_t *record =
        json_pack("{s:s, s:s, s:s?, s:s?, s:i, s:i, s:i, s:f, s:o, s:f, s:I, s:I, s:o, s:o}", "status",
                  status == ZOE_OK ? "done" : "interrupted", "version", zoe_version(), "output",
                  result->frames > 0 ? job->request.output : NULL, "device", result->device, "width", result->width,
                  "height", result->height, "frames", result->frames, "fps", result->fps, "seconds", seconds,
                  "seconds_per_step", result->seconds_per_step, "peak_host_bytes", (json_int_t)result->peak_host_bytes,
                  "peak_device_bytes", (json_int_t)result->peak_device_bytes, "weights", weights_record(result), "request",
                  request_record(job));
    if (!record || json_dumpf(record, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0) {
        cli_complain("the result record cannot be written");
        json_decref(record);
        return CLI_FAILED;
    }
    putchar('\n');
    json_decref(record);
    return CLI_DONE;
}

static void print_summary(const cli_job *job) {
    const zoe_result *result = &job->result;
    char memory[32];
    const char *name = job->request.output ? job->request.output : job->request.dump;
    fprintf(stderr, "%s: %dx%d, %d frames, %g a second\n", name, result->width, result->height, result->frames,
            result->fps);
    for (int phase = 0; phase < ZOE_PHASE_COUNT; phase++)
        if (result->seconds[phase] > 0)
            fprintf(stderr, "  %-8s %8.2f s\n", zoe_phase_name((zoe_phase)phase), result->seconds[phase]);
    fprintf(stderr, "  %.3f s a step on %s, %s of memory at most\n", result->seconds_per_step, result->device,
            cli_bytes(memory, (double)result->peak_host_bytes));
}

/* Tells how it ended; returns the exit status. */
static int report(cli_job *job, int status) {
    bool json = cli_value(job->args, "json") != NULL, kept = job->result.frames > 0;
    if (status != ZOE_OK && status != ZOE_ERR_CANCELLED) return cli_failure(job->context, status);
    if (status == ZOE_ERR_CANCELLED)
        cli_complain(kept ? "interrupted; the frames made so far are kept" : "interrupted before the first frame");
    if (json && print_record(job, status) != CLI_DONE) return CLI_FAILED;
    if (kept && !cli_value(job->args, "quiet")) print_summary(job);
    if (kept && !json && job->request.output == job->output_name) puts(job->output_name);
    return status == ZOE_OK ? CLI_DONE : CLI_INTERRUPTED;
}

static int run(const cli_args *args) {
    cli_job job = {.args = args};
    int exit_status = cli_job_start(&job);
    if (exit_status == CLI_DONE) exit_status = check_output(&job);
    if (exit_status == CLI_DONE) {
        cli_catch_signals(job.context);
        signal(SIGPIPE, SIG_IGN); /* a reader of -o - that goes away is a failed write, told as such */
        exit_status = report(&job, make_video(&job));
    }
    cli_catch_signals(NULL);
    cli_job_end(&job);
    return exit_status;
}

static const cli_option own[] = {
    CLI_JOB_OPTIONS,
    {{.name = "json", .help = "Print the result record on standard output, as JSON."}, CLI_FLAG, 0},
};

const cli_command cli_generate = {
    .name = "generate",
    .summary = "Make a video.",
    .settings = true,
    .computes = true,
    .about = "Makes a video from a text, and from pictures where the model takes them. Progress goes to standard error. "
             "Ctrl-C ends the run within a step and keeps the frames decoded so far; a second Ctrl-C ends it at once. "
             "Without -o the video is named after the prompt, never over an existing file, and its name is printed.",
    .example = "zoe generate --model Wan2.1-T2V-1.3B-Diffusers --prompt \"A red fox runs through snow\" -o fox.mp4",
    .own = own,
    .own_count = sizeof own / sizeof own[0],
    .run = run,
};
