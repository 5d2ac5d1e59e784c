/* zoe bench: times one part of the engine on random data. */
#include <stdio.h>
#include <string.h>

#include "cli.h"

static void print_report(const json_t *report) {
    const char *key;
    json_t *value;
    printf("%s on %s\n", json_string_value(json_object_get(report, "what")),
           json_string_value(json_object_get(report, "device")));
    json_object_foreach(json_object_get(report, "shape"), key, value) {
        if (json_is_string(value))
            printf("  %-12s %s\n", key, json_string_value(value));
        else
            printf("  %-12s %lld\n", key, (long long)json_integer_value(value));
    }
    char memory[32];
    printf("  %-12s %.4f s, the median of %lld\n", "time", json_number_value(json_object_get(report, "seconds")),
           (long long)json_integer_value(json_object_get(report, "repeats")));
    json_t *gflops = json_object_get(report, "gflops");
    if (json_is_number(gflops)) {
        printf("  %-12s %.1f GFLOP/s\n", "rate", json_number_value(gflops));
        printf("  %-12s %.1f GFLOP/s, matrix products measured beside it\n", "ceiling",
               json_number_value(json_object_get(report, "ceiling_gflops")));
        printf("  %-12s %.2f\n", "ratio", json_number_value(json_object_get(report, "ratio")));
    }
    printf("  %-12s %s at most\n", "memory",
           cli_bytes(memory, (double)json_integer_value(json_object_get(report, "peak_host_bytes"))));
    double device = (double)json_integer_value(json_object_get(report, "peak_device_bytes"));
    if (device > 0) printf("  %-12s %s at most\n", "on device", cli_bytes(memory, device));
}

/* Kind by kind: time, share of it, rate, and that beside what was measured for large products or copies. */
static void print_kinds(const json_t *report) {
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(report, "kinds"), i, row) {
        const json_t *gflops = json_object_get(row, "gflops");
        double rate = json_number_value(gflops ? gflops : json_object_get(row, "gbytes"));
        printf("  %-20s %6lld calls %9.3f ms %5.1f %%  %8.1f %s, %3.0f %% of %.1f\n",
               json_string_value(json_object_get(row, "name")),
               (long long)json_integer_value(json_object_get(row, "calls")),
               1e3 * json_number_value(json_object_get(row, "seconds")),
               100 * json_number_value(json_object_get(row, "share")), rate, gflops ? "GFLOP/s" : "GB/s",
               100 * json_number_value(json_object_get(row, "ratio")), json_number_value(json_object_get(row, "ceiling")));
    }
    const json_t *seconds = json_object_get(report, "profiled_seconds");
    if (seconds)
        printf("  %-20s %12s %9.3f ms of %.3f ms with the clock beside it\n", "between operations", "",
               1e3 * json_number_value(json_object_get(report, "gap_seconds")), 1e3 * json_number_value(seconds));
}

static void print_all(const json_t *report) {
    print_report(report);
    print_kinds(report);
}

static int run(const cli_args *args) {
    zoe_context *context;
    if (!cli_open_context(args, &context)) return CLI_USAGE;
    zoe_bench_settings settings;
    zoe_bench_settings_init(&settings);
    settings.what = args->operand;
    char *text = NULL;
    int exit_status = CLI_USAGE;
    if (cli_apply(args, context, CLI_BENCH, &settings)) {
        int status = zoe_bench(context, &settings, &text);
        exit_status = cli_report(args, context, status, text, print_all);
    }
    zoe_context_free(context);
    return exit_status;
}

#define COUNT(name_, field, most, help_)                                                                                   \
    {                                                                                                                      \
        {.name = name_,                                                                                                    \
         .type = ZOE_OPTION_INT,                                                                                           \
         .offset = offsetof(zoe_bench_settings, field),                                                                    \
         .meta = "N",                                                                                                      \
         .min = 1,                                                                                                         \
         .max = most,                                                                                                      \
         .help = help_},                                                                                                   \
            CLI_BENCH, 0                                                                                                   \
    }

static const cli_option own[] = {
    {{.name = "config",
      .type = ZOE_OPTION_PATH,
      .offset = offsetof(zoe_bench_settings, config),
      .meta = "DIR",
      .help = "Model folder, or folder of the part, for denoise, decode, encode and text; config.json files are enough, "
              "weights are drawn at random; default: none."},
     CLI_BENCH,
     0},
    {{.name = "size",
      .type = ZOE_OPTION_SIZE,
      .offset = offsetof(zoe_bench_settings, width),
      .meta = "WxH",
      .min = 1,
      .max = 16384,
      .help = "Width and height in pixels for denoise, decode and encode; default: 832x480."},
     CLI_BENCH,
     0},
    COUNT("frames", frames, 100000, "Number of frames for denoise, decode and encode; default: 17."),
    {{.name = "vae-tiling",
      .type = ZOE_OPTION_CHOICE,
      .offset = offsetof(zoe_bench_settings, vae_tiling),
      .meta = "NAME",
      .choices = "none|exact|reference",
      .help = "How decode divides frames; default: none."},
     CLI_BENCH,
     0},
    COUNT("vae-parts", vae_parts, 1000, "Parts of a frame for --vae-tiling exact; default: 2."),
    COUNT("tokens", tokens, 10000000, "Rows for linear, tokens for attention; default: 1536."),
    COUNT("inputs", inputs, 1000000, "Input channels of linear; default: 1536."),
    COUNT("outputs", outputs, 1000000, "Output channels of linear; default: 8960."),
    COUNT("heads", heads, 10000, "Heads of attention; default: 12."),
    COUNT("head-dim", head_dim, 4096, "Channels of a head of attention; default: 128."),
    COUNT("repeats", repeats, 10000, "Number of timed repetitions; default: 3."),
    {{.name = "dtype",
      .type = ZOE_OPTION_CHOICE,
      .offset = offsetof(zoe_bench_settings, dtype),
      .meta = "NAME",
      .choices = "f32|bf16|f16",
      .help = "Type of the weights of linear, denoise and text; default: bf16."},
     CLI_BENCH,
     0},
    {{.name = "linear",
      .type = ZOE_OPTION_CHOICE,
      .offset = offsetof(zoe_bench_settings, linear),
      .meta = "NAME",
      .choices = "native|int8|fp8|int4|nvfp4",
      .help = "What the weights of linear, denoise and text are quantised to; default: native."},
     CLI_BENCH,
     0},
    {{.name = "attention",
      .type = ZOE_OPTION_CHOICE,
      .offset = offsetof(zoe_bench_settings, attention),
      .meta = "NAME",
      .choices = "exact|sage",
      .help = "Attention over long sequences, for denoise and attention; default: exact."},
     CLI_BENCH,
     0},
    {{.name = "device",
      .type = ZOE_OPTION_TEXT,
      .offset = offsetof(zoe_bench_settings, device),
      .meta = "auto|cpu|cuda[:N]",
      .help = "What to compute on; default: as for `generate`."},
     CLI_BENCH,
     0},
    {{.name = "vram",
      .type = ZOE_OPTION_BYTES,
      .offset = offsetof(zoe_bench_settings, vram),
      .meta = "SIZE",
      .min = 1 << 20,
      .max = 0x1p50,
      .help = "Budget of device memory for denoise, decode and text, such as 8G; default: what is free, less a margin."},
     CLI_BENCH,
     0},
    {{.name = "ram",
      .type = ZOE_OPTION_BYTES,
      .offset = offsetof(zoe_bench_settings, ram),
      .meta = "SIZE",
      .min = 1 << 20,
      .max = 0x1p50,
      .help = "Budget of host memory for denoise, decode and text, such as 16G; default: as for `generate`."},
     CLI_BENCH,
     0},
    {{.name = "offload",
      .type = ZOE_OPTION_CHOICE,
      .offset = offsetof(zoe_bench_settings, offload),
      .meta = "NAME",
      .choices = "auto|none|model|block",
      .help = "Which weights leave the device, as for `generate`; default: auto."},
     CLI_BENCH,
     0},
    {{.name = "json", .help = "Print the report as JSON."}, CLI_FLAG, 0},
};

const cli_command cli_bench = {
    .name = "bench",
    .summary = "Time one part of the engine.",
    .operand = "PART",
    .operand_choices = "denoise|decode|encode|text|linear|attention",
    .operand_required = true,
    .computes = true,
    .about = "Times one part of the engine on random data: denoise (one forward pass of the denoiser), decode (latents to "
             "frames), encode (frames to latents), text (the text encoder), linear (one matrix product with bias) or "
             "attention. The ceiling is the rate "
             "of matrix products (float32 on the cpu), measured in the same run.",
    .example = "zoe bench linear --tokens 768 --inputs 1536 --outputs 8960 --dtype bf16",
    .own = own,
    .own_count = sizeof own / sizeof own[0],
    .run = run,
};
