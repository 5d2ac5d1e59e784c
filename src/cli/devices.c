/* zoe devices: what can be computed on. */
#include <jansson.h>
#include <stdio.h>

#include "cli.h"

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
    json_t *measured = json_object_get(device, "measured");
    if (measured) {
        printf("  products   %.1f GFLOP/s in float32\n", json_number_value(json_object_get(measured, "sgemm_gflops")));
        printf("  copying    %.1f GB/s read and written\n", json_number_value(json_object_get(measured, "copy_gbytes")));
    }
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
    {{.name = "measure", .help = "Measure what the device reaches, which takes some seconds."}, CLI_FLAG, 0},
    {{.name = "json", .help = "Print the report as JSON."}, CLI_FLAG, 0},
};

const cli_command cli_devices = {
    .name = "devices",
    .summary = "Show what can be computed on.",
    .computes = true,
    .about = "Shows the processor and its memory, and with --measure the rates of float32 matrix products and of copying "
             "memory, which are the ceilings of what kernels can reach.",
    .example = "zoe devices --measure",
    .own = own,
    .own_count = sizeof own / sizeof own[0],
    .run = run,
};
