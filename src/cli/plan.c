/* zoe plan: what a request takes, before it runs. */
#include <stdio.h>
#include <string.h>

#include "job.h"

static double number(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

/* "compute" needs no mention. */
static const char *bound_of(const json_t *row) {
    const char *bound = json_string_value(json_object_get(row, "bound"));
    return strcmp(bound, "copy") == 0 ? "  of copying weights" : strcmp(bound, "disk") == 0 ? "  of reading files" : "";
}

static void print_rates(const json_t *plan, bool device) {
    const json_t *rates = json_object_get(plan, "rates");
    const char *from = json_string_value(json_object_get(rates, "from"));
    printf("Time at the rates %s", strcmp(from, "measured") == 0 ? "measured here"
                                   : strcmp(from, "file") == 0   ? "in the file"
                                                                 : "of an H100");
    printf(" (products: %.0f GFLOP/s)", number(rates, "product_gflops"));
    double disk = number(rates, "disk_gbytes");
    if (device && disk > 0) printf(" and of a disk that reads %.1f GB/s", disk);
    printf(": about ");
}

static void print_time(double seconds) {
    if (seconds < 120)
        printf("%10.*f s", seconds < 10 ? 2 : 1, seconds);
    else if (seconds < 7200)
        printf("%8.1f min", seconds / 60);
    else
        printf("%10.1f h", seconds / 3600);
}

static void print_table(const json_t *plan) {
    static const char *const columns[] = {"weight_bytes",     "host_weight_bytes", "streamed_bytes_per_step",
                                          "activation_bytes", "peak_device_bytes", "peak_host_bytes"};
    bool device = number(plan, "peak_device_bytes") > 0;
    const json_t *phases = json_object_get(plan, "phases");
    char text[32];
    size_t i;
    json_t *row;
    printf("%dx%d, %d frames\n\n", (int)number(plan, "width"), (int)number(plan, "height"), (int)number(plan, "frames"));
    printf("%-8s %6s %12s", "phase", "steps", "weights");
    if (device) printf(" %12s", "in host slabs");
    printf(" %14s %12s", "streamed/step", "activations");
    if (device) printf(" %12s", "device peak");
    printf(" %12s %11s %12s\n", device ? "host peak" : "peak", "TFLOP", "time");
    json_array_foreach(phases, i, row) {
        printf("%-8s %6d", json_string_value(json_object_get(row, "phase")), (int)number(row, "steps"));
        for (size_t c = 0; c < sizeof columns / sizeof columns[0]; c++)
            if (device || (c != 1 && c != 4))
                printf(" %*s", c == 2 ? 14 : c == 1 ? 13 : 12, cli_bytes(text, number(row, columns[c])));
        printf(" %11.3f", 1e-12 * number(row, "flops"));
        print_time(number(row, "seconds"));
        printf("%s\n", bound_of(row));
    }
    putchar('\n');
    if (device) printf("Device memory at most %s.\n", cli_bytes(text, number(plan, "peak_device_bytes")));
    printf("Host memory at most %s", cli_bytes(text, number(plan, "peak_host_bytes")));
    printf(", of which the program itself %s", cli_bytes(text, number(plan, "process_bytes")));
    printf(" and the video encoder about %s.\n", cli_bytes(text, number(plan, "encoder_bytes")));
    if (number(plan, "rows_at_a_time") > 0)
        printf("To stay within the budget, the denoiser's layers take %.0f tokens at a time.\n",
               number(plan, "rows_at_a_time"));
    if (json_is_true(json_object_get(plan, "branches_together")))
        printf("To move fewer weights, both prompts go through each block of the denoiser while it is there.\n");
    if (number(plan, "vae_parts") > 1)
        printf("To stay within the budget, the VAE decodes frames in %.0f parts.\n", number(plan, "vae_parts"));
    print_rates(plan, device);
    print_time(number(plan, "seconds"));
    printf(".\n");
}

static int run(const cli_args *args) {
    cli_job job = {.args = args};
    char *text = NULL;
    int exit_status = cli_job_start(&job);
    job.settings.plan_only = 1;
    job.settings.rates = cli_value(args, "rates");
    if (exit_status == CLI_DONE) {
        int status = cli_job_open(&job);
        if (status == ZOE_OK && !job.request.output && !job.request.dump)
            job.request.output = "video.mp4"; /* counts as `generate` would */
        if (status == ZOE_OK) status = zoe_plan_request(job.model, &job.request, &text);
        exit_status = cli_report(args, job.context, status, text, print_table);
    }
    cli_job_end(&job);
    return exit_status;
}

static const cli_option own[] = {
    CLI_JOB_OPTIONS,
    {{.name = "rates",
      .type = ZOE_OPTION_PATH,
      .meta = "FILE",
      .help = "What `zoe devices --measure --json` wrote, maybe on another machine, to tell times by; default: measured "
              "here, or an H100's where no device is at hand."},
     CLI_WORD,
     0},
    {{.name = "json", .help = "Print the plan as JSON."}, CLI_FLAG, 0},
};

const cli_command cli_plan = {
    .name = "plan",
    .summary = "Tell what a video would take.",
    .settings = true,
    .computes = true,
    .about =
        "Takes the options of `generate` and tells, for each phase, the weights, activations and peak of memory, the bytes "
        "that stream, the operations and about the time that they take. It runs the same code over a backend that "
        "computes nothing, so it loads no weights, needs no device and ends at once. With --vram and --ram it says whether "
        "the "
        "budgets can be met, and what then stays where.",
    .example = "zoe plan --model Wan2.1-T2V-1.3B-Diffusers --prompt \"A red fox runs through snow\" --ram 8G",
    .own = own,
    .own_count = sizeof own / sizeof own[0],
    .run = run,
};
