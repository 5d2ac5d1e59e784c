/* Progress on standard error: one bar on a terminal, plain lines elsewhere. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

void cli_progress_start(cli_progress *progress, bool quiet) {
    *progress = (cli_progress){.quiet = quiet, .terminal = isatty(STDERR_FILENO), .phase = -1, .step = -1};
}

/* "3.21 s/step", or steps a second where that reads better. */
static void describe_rate(char *text, size_t size, const zoe_progress *state) {
    const char *unit = state->phase == ZOE_PHASE_DECODE ? "frame" : "step";
    double seconds = state->seconds_per_step;
    text[0] = 0;
    if (seconds >= 0.1)
        snprintf(text, size, "  %.2f s/%s", seconds, unit);
    else if (seconds > 0)
        snprintf(text, size, "  %.1f %ss/s", 1 / seconds, unit);
}

static void describe_rest(char *text, size_t size, const zoe_progress *state) {
    text[0] = 0;
    if (state->seconds_left < 0 || state->seconds_per_step <= 0) return;
    long seconds = (long)(state->seconds_left + 0.5);
    if (seconds >= 3600)
        snprintf(text, size, "  %ld:%02ld:%02ld left", seconds / 3600, seconds / 60 % 60, seconds % 60);
    else
        snprintf(text, size, "  %ld:%02ld left", seconds / 60, seconds % 60);
}

static void describe_memory(char *text, size_t size, const zoe_progress *state) {
    char host[32], device[32];
    if (state->device_bytes > 0)
        snprintf(text, size, "  %s + %s on the device", cli_bytes(host, (double)state->host_bytes),
                 cli_bytes(device, (double)state->device_bytes));
    else
        snprintf(text, size, "  %s", cli_bytes(host, (double)state->host_bytes));
}

static void draw_bar(const zoe_progress *state, const char *tail) {
    enum { WIDTH = 24 };
    char bar[WIDTH + 1];
    int full = state->steps > 0 ? (int)((long)WIDTH * state->step / state->steps) : 0;
    for (int i = 0; i < WIDTH; i++) bar[i] = i < full ? '=' : i == full ? '>' : ' ';
    bar[WIDTH] = 0;
    fprintf(stderr, "\r%-7s [%s] %d/%d%s\x1b[K", zoe_phase_name(state->phase), bar, state->step, state->steps, tail);
}

void cli_progress_show(cli_progress *progress, const zoe_progress *state) {
    if (progress->quiet) return;
    bool changed = (int)state->phase != progress->phase || state->step != progress->step;
    bool edge = (int)state->phase != progress->phase || state->step == state->steps;
    double time = now();
    if (!changed || (!edge && time - progress->shown < (progress->terminal ? 0.05 : 1.0))) return;
    progress->phase = (int)state->phase;
    progress->step = state->step;
    progress->shown = time;

    char rate[48], rest[48], memory[96], tail[256];
    describe_rate(rate, sizeof rate, state);
    describe_rest(rest, sizeof rest, state);
    describe_memory(memory, sizeof memory, state);
    snprintf(tail, sizeof tail, "%s%s%s", rate, rest, memory);
    if (progress->terminal) {
        draw_bar(state, tail);
        progress->drawn = true;
    } else {
        fprintf(stderr, "%s %d/%d%s\n", zoe_phase_name(state->phase), state->step, state->steps, tail);
    }
    fflush(stderr);
}

void cli_progress_clear(cli_progress *progress) {
    if (progress->drawn) fputs("\r\x1b[K", stderr);
    progress->drawn = false;
}
