/* The tables of the README and the man page. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "documents.h"

/* Prints text with a backslash before every character of `special`. */
static void print_escaped(const char *text, const char *special) {
    for (; *text; text++) {
        if (strchr(special, *text)) putchar('\\');
        putchar(*text);
    }
}

static void print_choices(const char *choices, const char *special) {
    if (!choices) return;
    fputs(" One of: ", stdout);
    print_escaped(choices, special);
}

void cli_print_markdown(void) {
    for (size_t i = 0; cli_commands[i]; i++) {
        const cli_command *command = cli_commands[i];
        cli_option options[CLI_MAX_OPTIONS];
        size_t count = cli_options(command, options);
        printf("%s#### `zoe %s%s%s`\n\n%s\n\n| option | meaning |\n|---|---|\n", i ? "\n" : "", command->name,
               command->operand ? " " : "", command->operand ? command->operand : "", command->about);
        for (size_t j = 0; j < count; j++) {
            char head[64];
            cli_option_head(&options[j], head, sizeof head);
            fputs("| `", stdout);
            print_escaped(head, "|");
            fputs("` | ", stdout);
            print_escaped(options[j].row.help, "|");
            print_choices(options[j].row.choices, "|");
            fputs(" |\n", stdout);
        }
    }
}

/* Text for troff: hyphens are minus signs, backslashes are doubled, no line starts with a control character. */
static void print_troff(const char *text) {
    if (*text == '.' || *text == '\'') fputs("\\&", stdout);
    print_escaped(text, "-\\");
}

static void print_man_command(const cli_command *command) {
    cli_option options[CLI_MAX_OPTIONS];
    size_t count = cli_options(command, options);
    printf(".SS zoe %s%s%s\n", command->name, command->operand ? " " : "", command->operand ? command->operand : "");
    print_troff(command->about);
    if (command->operand_choices) {
        printf("\n%s is one of ", command->operand);
        print_troff(command->operand_choices);
        putchar('.');
    }
    putchar('\n');
    for (size_t i = 0; i < count; i++) {
        char head[64];
        cli_option_head(&options[i], head, sizeof head);
        fputs(".TP\n.B ", stdout);
        print_troff(head);
        putchar('\n');
        print_troff(options[i].row.help);
        print_choices(options[i].row.choices, "-\\");
        putchar('\n');
    }
    fputs(".PP\nExample:\n.PP\n.EX\n", stdout);
    print_troff(command->example);
    fputs("\n.EE\n", stdout);
}

void cli_print_man(void) {
    printf(".TH ZOE 1 \"\" \"zoe %s\" \"User commands\"\n", zoe_version());
    fputs(".SH NAME\nzoe \\- videos from text and pictures with the open video models\n"
          ".SH SYNOPSIS\n.B zoe\n.I COMMAND\n.RI [ OPTION ...]\n"
          ".SH DESCRIPTION\nZoetrope makes videos with open video models, from the folders in which they are published.\n"
          "Options are written as \\-\\-name value or \\-\\-name=value.\n"
          ".SH COMMANDS\n",
          stdout);
    for (size_t i = 0; cli_commands[i]; i++) print_man_command(cli_commands[i]);
    fputs(".SH EXIT STATUS\n.TP\n.B 0\nDone.\n.TP\n.B 1\nFailed; standard error says why, and no output file is left.\n"
          ".TP\n.B 2\nWrong usage: an option, or a setting that the model cannot do.\n"
          ".TP\n.B 130\nInterrupted; the frames decoded so far are kept in a playable file.\n",
          stdout);
}
