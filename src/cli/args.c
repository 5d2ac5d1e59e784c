/* Reading of the command line. */
#include <stdio.h>
#include <string.h>

#include "cli.h"

static const cli_option common[] = {
    {{.name = "quiet", .help = "Show neither progress nor summary on standard error."}, CLI_FLAG, 'q'},
    {{.name = "help", .help = "Show this command's options."}, CLI_FLAG, 'h'},
};

static const cli_option computing[] = {
    {{.name = "threads",
      .type = ZOE_OPTION_INT,
      .offset = offsetof(cli_context_options, threads),
      .meta = "N",
      .min = 1,
      .max = 4096,
      .help = "CPU threads; default: one for each core."},
     CLI_CONTEXT,
     0},
    {{.name = "cpu-mask",
      .type = ZOE_OPTION_INT,
      .offset = offsetof(cli_context_options, cpu_mask),
      .meta = "MASK",
      .min = 0,
      .max = 7,
      .help = "Levels of CPU kernels that may be used, added up: 1 AVX2, 2 AVX-512, 4 VNNI, 0 plain C; default: 7."},
     CLI_CONTEXT,
     0},
    {{.name = "cuda-level",
      .type = ZOE_OPTION_CHOICE,
      .offset = offsetof(cli_context_options, cuda_level),
      .meta = "LEVEL",
      .choices = "sm_80|sm_89|sm_90|sm_100|sm_120",
      .help = "Newest kind of CUDA kernels that may be used; default: the device's own."},
     CLI_CONTEXT,
     0},
};

size_t cli_options(const cli_command *command, cli_option out[CLI_MAX_OPTIONS]) {
    size_t count = 0, rows = 0;
    for (size_t i = 0; i < command->own_count; i++) out[count++] = command->own[i];
    const zoe_option *row = command->settings ? zoe_options(&rows) : NULL;
    for (size_t i = 0; i < rows; i++) {
        char letter = strcmp(row[i].name, "output") == 0 ? 'o' : 0;
        out[count++] = (cli_option){row[i], row[i].scope == ZOE_SCOPE_MODEL ? CLI_MODEL : CLI_REQUEST, letter};
    }
    if (command->computes)
        for (size_t i = 0; i < sizeof computing / sizeof computing[0]; i++) out[count++] = computing[i];
    for (size_t i = 0; i < sizeof common / sizeof common[0]; i++) out[count++] = common[i];
    return count;
}

/* Damerau-Levenshtein distance (adjacent swaps count once) of words shorter than 32 letters. */
static int distance(const char *a, const char *b) {
    enum { MAX = 32 };
    int d[MAX + 1][MAX + 1];
    size_t n = strlen(a), m = strlen(b);
    if (n >= MAX || m >= MAX) return MAX;
    for (size_t i = 0; i <= n; i++) {
        for (size_t j = 0; j <= m; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = (int)(i + j);
                continue;
            }
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    }
    return d[n][m];
}

const char *cli_closest(const char *word, const char *(*next)(const void *list, size_t i), const void *list) {
    const char *best = NULL, *candidate;
    int least = strlen(word) < 5 ? 2 : 3; /* fewer than this many mistakes */
    for (size_t i = 0; (candidate = next(list, i)); i++) {
        /* An abbreviation is as good as one mistake. */
        int mistakes = strlen(word) > 1 && strncmp(candidate, word, strlen(word)) == 0 ? 1 : distance(word, candidate);
        if (mistakes < least) {
            least = mistakes;
            best = candidate;
        }
    }
    return best;
}

static const char *option_name(const void *list, size_t i) {
    const cli_args *args = list;
    return i < args->count ? args->options[i].row.name : NULL;
}

static bool unknown_option(const cli_args *args, const char *word) {
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + strspn(word, "-"), "="), word + strspn(word, "-"));
    const char *meant = cli_closest(name, option_name, args);
    if (meant)
        cli_complain("no option \"%s\" in \"zoe %s\"; did you mean --%s?", word, args->command->name, meant);
    else
        cli_complain("no option \"%s\" in \"zoe %s\"; \"zoe %s --help\" lists them", word, args->command->name,
                     args->command->name);
    return false;
}

/* Finds the option that `word` names; *value is what is joined to it, or NULL. */
static cli_option *find_option(cli_args *args, const char *word, const char **value) {
    *value = NULL;
    if (word[1] != '-') {
        for (size_t i = 0; i < args->count; i++)
            if (args->options[i].letter && args->options[i].letter == word[1]) {
                if (word[2]) *value = word + 2;
                return &args->options[i];
            }
        return NULL;
    }
    size_t length = strcspn(word + 2, "=");
    for (size_t i = 0; i < args->count; i++) {
        const char *name = args->options[i].row.name;
        if (strlen(name) == length && memcmp(name, word + 2, length) == 0) {
            if (word[2 + length]) *value = word + 2 + length + 1;
            return &args->options[i];
        }
    }
    return NULL;
}

static bool take_operand(cli_args *args, const char *word) {
    if (!args->command->operand) {
        cli_complain("\"zoe %s\" takes options only, found \"%s\"; \"zoe %s --help\" lists them", args->command->name, word,
                     args->command->name);
        return false;
    }
    if (args->operand) {
        cli_complain("\"zoe %s\" takes one %s, found \"%s\" and \"%s\"", args->command->name, args->command->operand,
                     args->operand, word);
        return false;
    }
    args->operand = word;
    return true;
}

/* Puts a further value of an option below the ones that it has. */
static bool add_value(cli_args *args, size_t index, const char *value) {
    const char *before = args->values[index];
    size_t room = sizeof args->lists - args->lists_used;
    char *list = args->lists + args->lists_used;
    if (!before) {
        args->values[index] = value;
        return true;
    }
    size_t length = (size_t)snprintf(list, room, "%s\n%s", before, value) + 1;
    if (length > room) {
        cli_complain("--%s: too many values", args->options[index].row.name);
        return false;
    }
    args->values[index] = list;
    args->lists_used += length;
    return true;
}

bool cli_parse(const cli_command *command, int argc, char **argv, cli_args *args) {
    *args = (cli_args){.command = command};
    args->count = cli_options(command, args->options);
    bool options_end = false;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i], *value;
        if (options_end || word[0] != '-' || !word[1]) {
            if (!take_operand(args, word)) return false;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            options_end = true;
            continue;
        }
        const cli_option *option = find_option(args, word, &value);
        if (!option) return unknown_option(args, word);
        if (option->target == CLI_FLAG && value) {
            cli_complain("--%s takes no value, found \"%s\"", option->row.name, word);
            return false;
        }
        if (option->target != CLI_FLAG && !value && i + 1 == argc) {
            cli_complain("--%s needs a value: --%s %s", option->row.name, option->row.name, option->row.meta);
            return false;
        }
        size_t index = (size_t)(option - args->options);
        if (option->target != CLI_FLAG && !value) value = argv[++i];
        if (option->row.many && !add_value(args, index, value)) return false;
        if (!option->row.many) args->values[index] = option->target == CLI_FLAG ? "" : value;
    }
    if (command->operand_required && !args->operand && !cli_value(args, "help")) {
        cli_complain("\"zoe %s\" needs a %s: zoe %s %s", command->name, command->operand, command->name, command->operand);
        return false;
    }
    return true;
}

const char *cli_value(const cli_args *args, const char *name) {
    for (size_t i = 0; i < args->count; i++)
        if (strcmp(args->options[i].row.name, name) == 0) return args->values[i];
    return NULL;
}

bool cli_set(zoe_context *context, const zoe_option *row, void *fields, const char *text) {
    if (zoe_option_set(context, row, fields, text) == ZOE_OK) return true;
    cli_complain("--%s", zoe_context_error(context)); /* which begins with the option's name */
    return false;
}

bool cli_apply(const cli_args *args, zoe_context *context, cli_target target, void *fields) {
    for (size_t i = 0; i < args->count; i++)
        if (args->options[i].target == target && args->values[i] &&
            !cli_set(context, &args->options[i].row, fields, args->values[i]))
            return false;
    return true;
}
