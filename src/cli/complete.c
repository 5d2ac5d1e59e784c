/* Completion scripts for the shells. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "documents.h"

/* Prints a list of words separated by '|' with blanks between them instead. */
static void print_words(const char *words) {
    for (; *words; words++) putchar(*words == '|' ? ' ' : *words);
}

/* What may follow an option: words of a list, or NULL. Devices are an open list of which the plain ones are offered. */
static const char *values_of(const cli_option *option) {
    return strcmp(option->row.name, "device") == 0 ? "cpu|cuda" : option->row.choices;
}

static bool takes_folder(const cli_option *option) {
    return option->row.type == ZOE_OPTION_PATH && option->row.meta && strcmp(option->row.meta, "DIR") == 0;
}

static bool takes_file(const cli_option *option) {
    return option->row.meta && option->row.type == ZOE_OPTION_PATH && !takes_folder(option);
}

static void print_operands(const cli_command *command) {
    if (command == &cli_help)
        for (size_t i = 0; cli_commands[i]; i++) printf("%s%s", i ? " " : "", cli_commands[i]->name);
    else if (command->operand_choices)
        print_words(command->operand_choices);
}

static void print_bash(void) {
    fputs("# Completion of zoe for bash.\n"
          "_zoe() {\n"
          "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n"
          "    COMPREPLY=()\n"
          "    if ((COMP_CWORD == 1)); then\n"
          "        COMPREPLY=($(compgen -W \"",
          stdout);
    print_operands(&cli_help);
    fputs(" --version --help\" -- \"$word\"))\n        return\n    fi\n    case $command,$before in\n", stdout);
    for (size_t i = 0; cli_commands[i]; i++) {
        cli_option options[CLI_MAX_OPTIONS];
        size_t count = cli_options(cli_commands[i], options);
        for (size_t j = 0; j < count; j++) {
            if (!options[j].row.meta) continue;
            printf("    %s,--%s", cli_commands[i]->name, options[j].row.name);
            if (options[j].letter) printf("|%s,-%c", cli_commands[i]->name, options[j].letter);
            fputs(") ", stdout);
            if (values_of(&options[j])) {
                fputs("COMPREPLY=($(compgen -W \"", stdout);
                print_words(values_of(&options[j]));
                fputs("\" -- \"$word\"));", stdout);
            } else if (takes_folder(&options[j])) {
                fputs("COMPREPLY=($(compgen -d -- \"$word\"));", stdout);
            } else if (takes_file(&options[j])) {
                fputs("COMPREPLY=($(compgen -f -- \"$word\"));", stdout);
            }
            fputs(" return ;;\n", stdout);
        }
    }
    fputs("    esac\n    case $command,$word in\n", stdout);
    for (size_t i = 0; cli_commands[i]; i++) {
        cli_option options[CLI_MAX_OPTIONS];
        size_t count = cli_options(cli_commands[i], options);
        printf("    %s,-*) COMPREPLY=($(compgen -W \"", cli_commands[i]->name);
        for (size_t j = 0; j < count; j++) printf("%s--%s", j ? " " : "", options[j].row.name);
        printf("\" -- \"$word\")) ;;\n    %s,*) ", cli_commands[i]->name);
        if (cli_commands[i] == &cli_help || cli_commands[i]->operand_choices) {
            fputs("COMPREPLY=($(compgen -W \"", stdout);
            print_operands(cli_commands[i]);
            fputs("\" -- \"$word\"))", stdout);
        } else if (cli_commands[i]->operand) {
            fputs("COMPREPLY=($(compgen -f -- \"$word\"))", stdout);
        }
        fputs(" ;;\n", stdout);
    }
    fputs("    esac\n}\ncomplete -o filenames -F _zoe zoe\n", stdout);
}

/* Help text within single quotes and brackets. */
static void print_zsh_text(const char *text) {
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", stdout);
        else {
            if (strchr("[]:\\", *text)) putchar('\\');
            putchar(*text);
        }
    }
}

static void print_zsh(void) {
    fputs("#compdef zoe\n# Completion of zoe for zsh.\n_zoe() {\n    local -a commands\n    commands=(\n", stdout);
    for (size_t i = 0; cli_commands[i]; i++) printf("        '%s:%s'\n", cli_commands[i]->name, cli_commands[i]->summary);
    fputs("    )\n    if ((CURRENT == 2)); then\n        _describe command commands\n        return\n    fi\n"
          "    local command=$words[2]\n    shift words\n    ((CURRENT--))\n    case $command in\n",
          stdout);
    for (size_t i = 0; cli_commands[i]; i++) {
        cli_option options[CLI_MAX_OPTIONS];
        size_t count = cli_options(cli_commands[i], options);
        printf("    %s)\n        _arguments", cli_commands[i]->name);
        for (size_t j = 0; j < count; j++) {
            printf(" \\\n            '--%s%s[", options[j].row.name, options[j].row.meta ? "=" : "");
            print_zsh_text(options[j].row.help);
            putchar(']');
            if (options[j].row.meta) {
                putchar(':');
                print_zsh_text(options[j].row.meta);
                putchar(':');
                if (values_of(&options[j])) {
                    putchar('(');
                    print_words(values_of(&options[j]));
                    putchar(')');
                } else if (takes_folder(&options[j])) {
                    fputs("_files -/", stdout);
                } else if (takes_file(&options[j])) {
                    fputs("_files", stdout);
                }
            }
            putchar('\'');
        }
        if (cli_commands[i] == &cli_help || cli_commands[i]->operand_choices) {
            printf(" \\\n            ':%s:(", cli_commands[i]->operand);
            print_operands(cli_commands[i]);
            fputs(")'", stdout);
        } else if (cli_commands[i]->operand) {
            printf(" \\\n            ':%s:_files'", cli_commands[i]->operand);
        }
        fputs("\n        ;;\n", stdout);
    }
    fputs("    esac\n}\n_zoe \"$@\"\n", stdout);
}

static void print_fish_text(const char *text) {
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\') putchar('\\');
        putchar(*text);
    }
}

static void print_fish(void) {
    fputs("# Completion of zoe for fish.\ncomplete -c zoe -f\n"
          "complete -c zoe -n __fish_use_subcommand -l version -d 'Tell the version'\n",
          stdout);
    for (size_t i = 0; cli_commands[i]; i++) {
        const cli_command *command = cli_commands[i];
        cli_option options[CLI_MAX_OPTIONS];
        size_t count = cli_options(command, options);
        printf("complete -c zoe -n __fish_use_subcommand -a %s -d '%s'\n", command->name, command->summary);
        for (size_t j = 0; j < count; j++) {
            printf("complete -c zoe -n '__fish_seen_subcommand_from %s' -l %s", command->name, options[j].row.name);
            if (options[j].letter) printf(" -s %c", options[j].letter);
            if (values_of(&options[j])) {
                fputs(" -x -a '", stdout);
                print_words(values_of(&options[j]));
                putchar('\'');
            } else if (takes_folder(&options[j])) {
                fputs(" -x -a '(__fish_complete_directories)'", stdout);
            } else if (options[j].row.meta) {
                fputs(takes_file(&options[j]) ? " -r -F" : " -x", stdout);
            }
            fputs(" -d '", stdout);
            print_fish_text(options[j].row.help);
            fputs("'\n", stdout);
        }
        if (command == &cli_help || command->operand_choices) {
            printf("complete -c zoe -n '__fish_seen_subcommand_from %s' -a '", command->name);
            print_operands(command);
            fputs("'\n", stdout);
        } else if (command->operand) {
            printf("complete -c zoe -n '__fish_seen_subcommand_from %s' -F\n", command->name);
        }
    }
}

bool cli_print_completion(const char *shell) {
    if (strcmp(shell, "bash") == 0)
        print_bash();
    else if (strcmp(shell, "zsh") == 0)
        print_zsh();
    else if (strcmp(shell, "fish") == 0)
        print_fish();
    else
        return false;
    return true;
}
