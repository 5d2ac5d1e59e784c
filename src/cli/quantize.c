/* zoe quantize: a model folder written anew with quantised linear weights. */
#include <stdio.h>

#include "cli.h"

static void print_report(const json_t *report) {
    const json_t *matrices = json_object_get(report, "matrices"), *parts = json_object_get(report, "parts");
    char before[32], after[32];
    puts("error (relative L2)  outputs x inputs  matrix");
    for (size_t i = 0; i < json_array_size(matrices); i++) {
        const json_t *row = json_array_get(matrices, i);
        printf("%19.5f  %7lld x %-6lld  %s\n", json_number_value(json_object_get(row, "error")),
               (long long)json_integer_value(json_object_get(row, "outputs")),
               (long long)json_integer_value(json_object_get(row, "inputs")),
               json_string_value(json_object_get(row, "name")));
    }
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *row = json_array_get(parts, i);
        printf("%s: %s, was %s\n", json_string_value(json_object_get(row, "file")),
               cli_bytes(after, (double)json_integer_value(json_object_get(row, "bytes"))),
               cli_bytes(before, (double)json_integer_value(json_object_get(row, "bytes_before"))));
    }
}

static void show_progress(void *user, int64_t bytes, int64_t of) {
    cli_progress_bytes(user, "quantize", bytes, of);
}

static int run(const cli_args *args) {
    zoe_context *context;
    cli_progress progress;
    const char *model = cli_value(args, "model"), *linear = cli_value(args, "linear"), *output = cli_value(args, "output");
    char *text = NULL;
    if (!model || !linear || !output || !*output) {
        cli_complain("--model, --linear and --output are needed");
        return CLI_USAGE;
    }
    if (!cli_open_context(args, &context)) return CLI_USAGE;
    cli_catch_signals(context);
    cli_progress_start(&progress, cli_value(args, "quiet") != NULL);
    int status = zoe_quantize(context, model, linear, output, show_progress, &progress, &text);
    cli_progress_clear(&progress);
    cli_catch_signals(NULL);
    if (status == ZOE_ERR_CANCELLED) cli_complain("interrupted; nothing was written");
    int exit_status = cli_report(args, context, status, text, print_report);
    zoe_context_free(context);
    return exit_status;
}

static const cli_option own[] = {
    {{.name = "model",
      .type = ZOE_OPTION_PATH,
      .meta = "DIR",
      .help = "Model folder as published, in the diffusers layout; required."},
     CLI_WORD,
     0},
    {{.name = "linear",
      .type = ZOE_OPTION_CHOICE,
      .meta = "NAME",
      .choices = "int8|fp8|int4|nvfp4",
      .help = "What the denoiser's and text encoder's linear weights are quantised to; required."},
     CLI_WORD,
     0},
    {{.name = "output", .type = ZOE_OPTION_PATH, .meta = "DIR", .help = "Folder to be made; required."}, CLI_WORD, 'o'},
    {{.name = "json", .help = "Print the report as JSON."}, CLI_FLAG, 0},
};

const cli_command cli_quantize = {
    .name = "quantize",
    .summary = "Write a model folder with quantised weights.",
    .about =
        "Writes a model folder anew with its linear weights quantised, so that it loads without being quantised again, "
        "and tells what each matrix lost. Files that stay as they are are linked where that is possible.",
    .example = "zoe quantize --model Wan2.1-T2V-1.3B-Diffusers --linear int8 -o Wan2.1-T2V-1.3B-int8",
    .own = own,
    .own_count = sizeof own / sizeof own[0],
    .run = run,
};
