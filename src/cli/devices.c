/* zoe devices: what can be computed on. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

/* What was not measured is left out. */
static void print_measured(const json_t *measured) {
    static const struct {
        const char *key, *label, *note;
    } rows[] = {{"sgemm_gflops", "products", "in float32, large"},
                {"product_gflops", "products", "as in networks"},
                {"int8_gflops", "", "with int8 weights"},
                {"fp8_gflops", "", "with fp8 weights"},
                {"attention_gflops", "attention", "heads of 128"},
                {"attention_64_gflops", "", "heads of 64"},
                {"sage_gflops", "", "sage, heads of 128"},
                {"sage_64_gflops", "", "sage, heads of 64"},
                {"conv_gflops", "convolution", "3x3x3"},
                {"copy_gbytes", "copying", "read and written, by all threads"},
                {"memory_gbytes", "memory", "read and written by an operation"},
                {"host_copy_gbytes", "from host", "out of page-locked memory"}};
    const json_t *steady = json_object_get(measured, "steady_share");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        json_t *value = json_object_get(measured, rows[i].key);
        if (value)
            printf("  %-11s %9.1f %s  %s\n", rows[i].label, json_number_value(value),
                   strstr(rows[i].key, "gflops") ? "GFLOP/s" : "GB/s   ", rows[i].note);
    }
    if (steady)
        printf("  %-11s %9.1f %%        of computing stays when it is at work for long\n", "steady",
               100 * json_number_value(steady));
}

static void print_device(const json_t *device) {
    char total[32], available[32];
    printf("%s: %s\n", json_string_value(json_object_get(device, "name")),
           json_string_value(json_object_get(device, "model")));
    json_t *cores = json_object_get(device, "cores");
    if (cores) printf("  cores      %lld\n", (long long)json_integer_value(cores));
    json_t *levels = json_object_get(device, "levels");
    if (json_array_size(levels)) {
        printf("  kernels   ");
        for (size_t i = 0; i < json_array_size(levels); i++) printf(" %s", json_string_value(json_array_get(levels, i)));
        putchar('\n');
    }
    printf("  memory     %s, %s available\n",
           cli_bytes(total, (double)json_integer_value(json_object_get(device, "memory_total"))),
           cli_bytes(available, (double)json_integer_value(json_object_get(device, "memory_available"))));
    print_measured(json_object_get(device, "measured"));
    const char *reason = json_string_value(json_object_get(device, "not_measured"));
    if (reason) printf("  not measured: %s\n", reason);
}

static void print_report(const json_t *report) {
    const json_t *devices = json_object_get(report, "devices");
    for (size_t i = 0; i < json_array_size(devices); i++) print_device(json_array_get(devices, i));
}

static int run(const cli_args *args) {
    zoe_context *context;
    if (!cli_open_context(args, &context)) return CLI_USAGE;
    char *text = NULL;
    int status = zoe_devices(context, cli_value(args, "measure") != NULL, &text);
    int exit_status = cli_report(args, context, status, text, print_report);
    zoe_context_free(context);
    return exit_status;
}

static const cli_option own[] = {
    {{.name = "measure", .help = "Measure what each device reaches, which takes some seconds."}, CLI_FLAG, 0},
    {{.name = "json", .help = "Print the report as JSON."}, CLI_FLAG, 0},
};

const cli_command cli_devices = {
    .name = "devices",
    .summary = "Show what can be computed on.",
    .computes = true,
    .about =
        "Shows the processor, the CUDA devices and their memory, and with --measure what each reaches: products in the "
        "type of its activations, int8 and fp8, attention, convolution, memory, and copies from the host. With --json "
        "that is what `plan --rates` reads, here or on another machine.",
    .example = "zoe devices --measure",
    .own = own,
    .own_count = sizeof own / sizeof own[0],
    .run = run,
};
