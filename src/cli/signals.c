/* Ctrl-C, and a polite request to end: the call in progress is cancelled. The second time the program ends at once. */
#include <signal.h>
#include <unistd.h>

#include "cli.h"

/* The only state outside a job: a handler has no argument of ours. */
static zoe_context *volatile context_in_use;
static volatile sig_atomic_t count;

static void on_signal(int number) {
    (void)number;
    if (count++ > 0) _exit(CLI_INTERRUPTED);
    if (context_in_use) zoe_cancel(context_in_use);
}

void cli_catch_signals(zoe_context *context) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    context_in_use = context;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool cli_interrupted(void) {
    return count > 0;
}
