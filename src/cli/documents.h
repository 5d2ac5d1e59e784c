/* Documents made from the tables of commands and options. */
#ifndef ZOE_CLI_DOCUMENTS_H
#define ZOE_CLI_DOCUMENTS_H

#include <stdbool.h>

void cli_print_markdown(void);
void cli_print_man(void);

/* For "bash", "zsh" or "fish"; false for another shell. */
bool cli_print_completion(const char *shell);

#endif
