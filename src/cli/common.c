/* What all commands share: the context, complaints, small texts. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

void cli_complain(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("zoe: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

int cli_failure(const zoe_context *context, int status) {
    if (status == ZOE_ERR_CANCELLED) return CLI_INTERRUPTED;
    const char *text = zoe_context_error(context);
    cli_complain("%s", *text ? text : zoe_strerror(status));
    return status == ZOE_ERR_ARGUMENT ? CLI_USAGE : CLI_FAILED;
}

int cli_report(const cli_args *args, zoe_context *context, int status, char *text, void (*print)(const json_t *report)) {
    int exit_status = CLI_DONE;
    if (status != ZOE_OK) {
        exit_status = cli_failure(context, status);
    } else if (cli_value(args, "json")) {
        puts(text);
    } else {
        json_t *report = json_loads(text, 0, NULL);
        print(report);
        json_decref(report);
    }
    zoe_string_free(context, text);
    return exit_status;
}

static void log_line(void *user, zoe_log_level level, const char *line) {
    (void)user;
    if (level <= ZOE_LOG_WARNING) cli_complain("%s%s", level == ZOE_LOG_WARNING ? "warning: " : "", line);
}

bool cli_open_context(const cli_args *args, zoe_context **out) {
    zoe_context_settings settings;
    zoe_context_settings_init(&settings);
    settings.log = log_line;
    int status = zoe_context_create(&settings, out);
    cli_context_options options = {.threads = 0, .cpu_mask = -1};
    if (status == ZOE_OK) {
        if (!cli_apply(args, *out, CLI_CONTEXT, &options)) {
            zoe_context_free(*out);
            *out = NULL;
            return false;
        }
        zoe_context_free(*out);
        settings.threads = options.threads;
        settings.cpu_mask = (uint32_t)options.cpu_mask;
        if (options.cuda_level) settings.cuda_level = atoi(options.cuda_level + strlen("sm_"));
        status = zoe_context_create(&settings, out);
    }
    if (status != ZOE_OK) cli_complain("%s", zoe_strerror(status));
    return status == ZOE_OK;
}

const char *cli_bytes(char text[32], double bytes) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    int unit = 0;
    for (; bytes >= 1024 && unit < 4; unit++) bytes /= 1024;
    snprintf(text, 32, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return text;
}

void cli_print_wrapped(const char *text, int indent, int width) {
    int column = indent;
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (column > indent && column + 1 + length > width) {
            printf("\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            putchar(' ');
            column++;
        }
        printf("%.*s", length, text);
        column += length;
        text += length + strspn(text + length, " ");
    }
    putchar('\n');
}

void cli_option_head(const cli_option *option, char *text, size_t size) {
    char letter[8] = "";
    if (option->letter) snprintf(letter, sizeof letter, "-%c, ", option->letter);
    snprintf(text, size, "%s--%s%s%s", letter, option->row.name, option->row.meta ? " " : "",
             option->row.meta ? option->row.meta : "");
}
