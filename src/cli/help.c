/* zoe help: help texts, and the documents made from the same tables. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "documents.h"

enum { WIDTH = 100 };

static void print_overview(void) {
    printf("Videos from text and pictures with the open video models.\n\nUsage: zoe COMMAND [OPTION...]\n\n");
    for (size_t i = 0; cli_commands[i]; i++) printf("  %-10s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
    printf("\n\"zoe help COMMAND\" or \"zoe COMMAND --help\" lists a command's options; \"zoe --version\" tells the "
           "version.\n");
}

static void print_command(const cli_command *command) {
    enum { COLUMN = 28 };
    cli_option options[CLI_MAX_OPTIONS];
    size_t count = cli_options(command, options);
    cli_print_wrapped(command->about, 0, WIDTH);
    printf("\nUsage: zoe %s%s%s%s [OPTION...]\n", command->name, command->operand ? " " : "",
           command->operand ? (command->operand_required ? "" : "[") : "", command->operand ? command->operand : "");
    if (command->operand_choices) printf("%s: %s\n", command->operand, command->operand_choices);
    putchar('\n');
    for (size_t i = 0; i < count; i++) {
        char head[64], help[512];
        cli_option_head(&options[i], head, sizeof head);
        int column = printf("  %s", head);
        if (column >= COLUMN) {
            putchar('\n');
            column = 0;
        }
        printf("%*s", COLUMN - column, "");
        snprintf(help, sizeof help, "%s%s%s", options[i].row.help, options[i].row.choices ? " One of: " : "",
                 options[i].row.choices ? options[i].row.choices : "");
        cli_print_wrapped(help, COLUMN, WIDTH);
    }
    printf("\nExample: %s\n", command->example);
}

static const char *command_name(const void *list, size_t i) {
    const cli_command *const *commands = list;
    return commands[i] ? commands[i]->name : NULL;
}

static int run(const cli_args *args) {
    const char *shell = cli_value(args, "completion");
    if (cli_value(args, "man")) {
        cli_print_man();
    } else if (cli_value(args, "markdown")) {
        cli_print_markdown();
    } else if (shell) {
        if (cli_print_completion(shell)) return CLI_DONE;
        cli_complain("--completion: found \"%s\", expected one of bash|zsh|fish", shell);
        return CLI_USAGE;
    } else if (!args->operand) {
        print_overview();
    } else {
        const cli_command *command = cli_find_command(args->operand);
        if (!command) {
            const char *meant = cli_closest(args->operand, command_name, cli_commands);
            cli_complain("no command \"%s\"%s%s%s", args->operand, meant ? "; did you mean \"" : "", meant ? meant : "",
                         meant ? "\"?" : "");
            return CLI_USAGE;
        }
        print_command(command);
    }
    return CLI_DONE;
}

static const cli_option own[] = {
    {{.name = "markdown", .help = "Print the tables of options for the README."}, CLI_FLAG, 0},
    {{.name = "man", .help = "Print the man page."}, CLI_FLAG, 0},
    {{.name = "completion",
      .type = ZOE_OPTION_CHOICE,
      .meta = "SHELL",
      .choices = "bash|zsh|fish",
      .help = "Print the completion script of a shell."},
     CLI_WORD,
     0},
};

const cli_command cli_help = {
    .name = "help",
    .summary = "Explain a command.",
    .operand = "COMMAND",
    .about = "Explains a command, or prints the documents that are made from the same tables.",
    .example = "zoe help generate",
    .own = own,
    .own_count = sizeof own / sizeof own[0],
    .run = run,
};
