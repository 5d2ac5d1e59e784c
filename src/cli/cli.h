/*
 * The command line. Commands and their options are rows of data; parsing, help texts, the man page and shell completion
 * are all made from them. Like every application it knows the library by its public header alone.
 */
#ifndef ZOE_CLI_CLI_H
#define ZOE_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>

#include "zoetrope.h"

/* Exit statuses that scripts rely on. */
enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_INTERRUPTED = 130 };

/* Where an option's value belongs. */
typedef enum cli_target {
    CLI_FLAG,    /* has no value; asked for with cli_value() */
    CLI_WORD,    /* read by the command itself with cli_value() */
    CLI_CONTEXT, /* a field of cli_context_options */
    CLI_MODEL,   /* a field of zoe_model_settings */
    CLI_REQUEST, /* a field of zoe_request */
    CLI_BENCH,   /* a field of zoe_bench_settings */
} cli_target;

typedef struct cli_option {
    zoe_option row; /* name, type, range and help; the offset is within the target */
    cli_target target;
    char letter; /* short form, 0 if none */
} cli_option;

typedef struct cli_context_options {
    int32_t threads, cpu_mask;
    const char *cuda_level;
} cli_context_options;

typedef struct cli_args cli_args;

typedef struct cli_command {
    const char *name, *summary;
    const char *operand; /* what stands beside the options, NULL: nothing */
    const char *operand_choices;
    bool operand_required;
    bool settings; /* takes the library's own options too */
    bool computes; /* takes --threads, --cpu-mask and --cuda-level */
    const char *about;
    const char *example;
    const cli_option *own;
    size_t own_count;
    int (*run)(const cli_args *args); /* returns an exit status */
} cli_command;

extern const cli_command cli_generate, cli_plan, cli_inspect, cli_quantize, cli_bench, cli_devices, cli_help;

/* All commands, in the order of the help text; ended by NULL. */
extern const cli_command *const cli_commands[];
const cli_command *cli_find_command(const char *name);

/* ---- options of a command ---- */

#define CLI_MAX_OPTIONS 64

/* The command's options in the order of its help text; returns their number. */
size_t cli_options(const cli_command *command, cli_option out[CLI_MAX_OPTIONS]);

struct cli_args {
    const cli_command *command;
    cli_option options[CLI_MAX_OPTIONS];
    const char *values[CLI_MAX_OPTIONS]; /* as given; "" for a flag, NULL if absent */
    size_t count;
    const char *operand; /* NULL if absent */
    char lists[8192];    /* values of options that were given again and again, a line each */
    size_t lists_used;
};

/* Reads what follows the command's name; false after it has told what is wrong. */
bool cli_parse(const cli_command *command, int argc, char **argv, cli_args *args);

/* The value of an option as given, NULL if absent. */
const char *cli_value(const cli_args *args, const char *name);

/* Puts the values of all options of a target into its struct; false after it has told what is wrong. */
bool cli_apply(const cli_args *args, zoe_context *context, cli_target target, void *fields);

/* As cli_apply() for one option. */
bool cli_set(zoe_context *context, const zoe_option *row, void *fields, const char *text);

/* The word of a list that was probably meant, NULL if none is close. `next` returns word number i, NULL after the last. */
const char *cli_closest(const char *word, const char *(*next)(const void *list, size_t i), const void *list);

/* ---- common ground of the commands ---- */

/* Creates the context that the options ask for; false after it has told what is wrong. */
bool cli_open_context(const cli_args *args, zoe_context **out);

/* "zoe: ..." on standard error. */
void cli_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Tells a failed call's error text; returns the exit status that belongs to it. */
int cli_failure(const zoe_context *context, int status);

/*
 * Ends a command whose call came back with `status` and a report, which is freed: tells what failed, or shows the report,
 * as it is for --json and by `print` otherwise. Returns the exit status.
 */
int cli_report(const cli_args *args, zoe_context *context, int status, char *text, void (*print)(const json_t *report));

/* From here on SIGINT and SIGTERM cancel the call in progress on this context, until it is another or NULL. */
void cli_catch_signals(zoe_context *context);
bool cli_interrupted(void); /* one of them came */

/* Writes "1.5 GiB" into `text`, and returns it. */
const char *cli_bytes(char text[32], double bytes);

/* Shows on standard error how far a request has come. */
typedef struct cli_progress {
    bool quiet, terminal, drawn;
    int phase, step;
    double started, shown; /* times of the start and of the last line */
} cli_progress;

void cli_progress_start(cli_progress *progress, bool quiet);
void cli_progress_show(cli_progress *progress, const zoe_progress *state);
void cli_progress_bytes(cli_progress *progress, const char *what, int64_t bytes, int64_t of);
void cli_progress_clear(cli_progress *progress); /* so that other text can follow */

/* A file name that tells the prompt and does not exist yet; false if none was found. */
bool cli_name_output(const char *prompt, char *name, size_t size);

/* "-o, --output FILE" */
void cli_option_head(const cli_option *option, char *text, size_t size);

/* Prints `text` broken into lines of at most `width` columns, `indent` columns in; the first line is already there. */
void cli_print_wrapped(const char *text, int indent, int width);

#endif
