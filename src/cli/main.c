/* Finds the command and lets it run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

const cli_command *const cli_commands[] = {&cli_generate, &cli_plan,    &cli_inspect, &cli_quantize,
                                           &cli_bench,    &cli_devices, &cli_help,    NULL};

const cli_command *cli_find_command(const char *name) {
    for (size_t i = 0; cli_commands[i]; i++)
        if (strcmp(cli_commands[i]->name, name) == 0) return cli_commands[i];
    return NULL;
}

static const char *command_name(const void *list, size_t i) {
    const cli_command *const *commands = list;
    return commands[i] ? commands[i]->name : NULL;
}

static int unknown_command(const char *word) {
    const char *meant = cli_closest(word, command_name, cli_commands);
    if (word[0] == '-')
        cli_complain("a command comes first, such as in: zoe generate %s ... (\"zoe help\" lists them)", word);
    else if (meant)
        cli_complain("no command \"%s\"; did you mean \"zoe %s\"?", word, meant);
    else
        cli_complain("no command \"%s\"; \"zoe help\" lists them", word);
    return CLI_USAGE;
}

/* What was printed must have arrived: a full disk is a failure, not a success with an empty file. */
static int flush_output(int exit_status) {
    if ((ferror(stdout) || fflush(stdout) != 0) && exit_status == CLI_DONE) {
        cli_complain("standard output cannot be written");
        return CLI_FAILED;
    }
    return exit_status;
}

/*
 * OpenMP's threads burn their cores while they wait, unless the environment says otherwise before the program starts;
 * beside anything else on the machine that costs most of the speed. So the program starts itself once more with the policy
 * set. A policy that is there already stands, and if starting again fails only speed is lost.
 */
static void let_threads_sleep(char **argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    if (setenv("OMP_WAIT_POLICY", "passive", 0) == 0) execv("/proc/self/exe", argv);
}

int main(int argc, char **argv) {
    const char *word = argc > 1 ? argv[1] : "help";
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        printf("zoe %s\n", zoe_version());
        return flush_output(CLI_DONE);
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) word = "help";
    const cli_command *command = cli_find_command(word);
    if (!command) return unknown_command(word);
    cli_args args;
    if (!cli_parse(command, argc > 2 ? argc - 2 : 0, argv + 2, &args)) return CLI_USAGE;
    if (cli_value(&args, "help")) {
        args.operand = command->name;
        command = &cli_help;
    }
    if (command->computes) let_threads_sleep(argv);
    (void)zoe_guard_mappings(); /* without it a file that is cut off ends the program all the same */
    return flush_output(command->run(&args));
}
