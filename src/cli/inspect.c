/* zoe inspect: what a file or model folder holds. */
#include <stdio.h>
#include <string.h>

#include "cli.h"

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static long long integer_of(const json_t *object, const char *key) {
    return (long long)json_integer_value(json_object_get(object, key));
}

/* "F32 12, BF16 291" from an object of counts. */
static void print_dtypes(json_t *dtypes) {
    const char *name, *separator = "";
    json_t *count;
    json_object_foreach(dtypes, name, count) {
        printf("%s%s %lld", separator, name, (long long)json_integer_value(count));
        separator = ", ";
    }
    putchar('\n');
}

static void print_weights_line(const json_t *weights) {
    char bytes[32];
    printf("%lld tensors, %lld parameters, %s: ", integer_of(weights, "tensor_count"), integer_of(weights, "parameters"),
           cli_bytes(bytes, (double)integer_of(weights, "bytes")));
    print_dtypes(json_object_get(weights, "dtypes"));
    if (json_object_get(weights, "linear")) printf("  linear weights quantised to %s\n", text_of(weights, "linear"));
}

static void print_model(const json_t *report) {
    const char *pipeline = text_of(report, "pipeline");
    printf("%s: %s\n", text_of(report, "path"), *pipeline ? pipeline : "a model without model_index.json");
    if (json_object_get(report, "family"))
        printf("family: %s (%s)\nsizes: %s\n", text_of(report, "family"), text_of(report, "variant"),
               text_of(report, "sizes"));
    if (json_object_get(report, "error")) printf("error: %s\n", text_of(report, "error"));
    const json_t *parts = json_object_get(report, "parts");
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i), *files = json_object_get(part, "files");
        const char *class_name = text_of(part, "class");
        printf("\n%s%s%s\n", text_of(part, "name"), *class_name ? ": " : "", class_name);
        if (json_object_get(part, "tensor_count")) {
            fputs("  ", stdout);
            print_weights_line(part);
        }
        for (size_t j = 0; j < json_array_size(files); j++) {
            char bytes[32];
            const json_t *file = json_array_get(files, j);
            printf("  %-52s %12s\n", text_of(file, "name"), cli_bytes(bytes, (double)integer_of(file, "bytes")));
        }
        if (json_object_get(part, "error")) printf("  error: %s\n", text_of(part, "error"));
    }
}

static void print_tensors(const json_t *report) {
    printf("%s: ", text_of(report, "path"));
    print_weights_line(report);
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(report, "metadata"), key, value)
        printf("  %s = %s\n", key, json_string_value(value));
    const json_t *tensors = json_object_get(report, "tensors");
    for (size_t i = 0; i < json_array_size(tensors); i++) {
        const json_t *tensor = json_array_get(tensors, i), *shape = json_object_get(tensor, "shape");
        printf("%-7s %-60s [", text_of(tensor, "dtype"), text_of(tensor, "name"));
        for (size_t j = 0; j < json_array_size(shape); j++)
            printf("%s%lld", j ? ", " : "", (long long)json_integer_value(json_array_get(shape, j)));
        puts("]");
    }
}

static void print_video(const json_t *report) {
    printf("%s: %lldx%lld, %lld frames, %g a second, %.2f s, %s\n", text_of(report, "path"), integer_of(report, "width"),
           integer_of(report, "height"), integer_of(report, "frames"), json_number_value(json_object_get(report, "fps")),
           json_number_value(json_object_get(report, "seconds")), text_of(report, "codec"));
    const char *name;
    json_t *value;
    if (json_is_object(json_object_get(report, "request"))) puts("\nrequest");
    json_object_foreach(json_object_get(report, "request"), name, value)
        printf("  %-14s %s\n", name, json_string_value(value));
}

static void print_report(const json_t *report) {
    const char *kind = text_of(report, "kind");
    if (strcmp(kind, "model") == 0)
        print_model(report);
    else if (strcmp(kind, "weights") == 0)
        print_tensors(report);
    else
        print_video(report);
}

static int run(const cli_args *args) {
    zoe_context *context;
    if (!cli_open_context(args, &context)) return CLI_USAGE;
    char *text = NULL;
    int status = zoe_inspect(context, args->operand, &text);
    int exit_status = cli_report(args, context, status, text, print_report);
    zoe_context_free(context);
    return exit_status;
}

static const cli_option own[] = {
    {{.name = "json", .help = "Print the report as JSON."}, CLI_FLAG, 0},
};

const cli_command cli_inspect = {
    .name = "inspect",
    .summary = "Show what a model folder, weight file or video holds.",
    .operand = "PATH",
    .operand_required = true,
    .about =
        "Shows what a model folder holds (family, parts, files, tensors, types, and what is missing), which tensors are "
        "in a weight file, or the size, length and stored request of a video made by zoe.",
    .example = "zoe inspect fox.mp4",
    .own = own,
    .own_count = sizeof own / sizeof own[0],
    .run = run,
};
