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
    *progress =
        (cli_progress){.quiet = quiet, .terminal = isatty(STDERR_FILENO), .phase = -1, .step = -1, .started = now()};
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

static void describe_rest(char *text, size_t size, double left) {
    long seconds = (long)(left + 0.5);
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

/* A bar of `part` of `of`, or a line; `counts` says so in words. */
static void draw(cli_progress *progress, const char *what, double part, double of, const char *counts, const char *tail) {
    enum { WIDTH = 24 };
    char bar[WIDTH + 1];
    int full = of > 0 ? (int)(WIDTH * part / of) : 0;
    for (int i = 0; i < WIDTH; i++) bar[i] = i < full ? '=' : i == full ? '>' : ' ';
    bar[WIDTH] = 0;
    if (progress->terminal)
        fprintf(stderr, "\r%-7s [%s] %s%s\x1b[K", what, bar, counts, tail);
    else
        fprintf(stderr, "%s %s%s\n", what, counts, tail);
    progress->drawn = progress->terminal;
    fflush(stderr);
}

/* Whether the last line is old enough for another; one at an edge always comes. */
static bool due(cli_progress *progress, bool edge) {
    double time = now();
    if (progress->quiet || (!edge && time - progress->shown < (progress->terminal ? 0.05 : 1.0))) return false;
    progress->shown = time;
    return true;
}

void cli_progress_show(cli_progress *progress, const zoe_progress *state) {
    bool other = (int)state->phase != progress->phase;
    if (!other && state->step == progress->step) return;
    if (!due(progress, other || state->step == state->steps)) return;
    progress->phase = (int)state->phase;
    progress->step = state->step;

    char counts[32], rate[48], rest[48] = "", memory[96], tail[256];
    snprintf(counts, sizeof counts, "%d/%d", state->step, state->steps);
    describe_rate(rate, sizeof rate, state);
    if (state->seconds_left >= 0 && state->seconds_per_step > 0) describe_rest(rest, sizeof rest, state->seconds_left);
    describe_memory(memory, sizeof memory, state);
    snprintf(tail, sizeof tail, "%s%s%s", rate, rest, memory);
    draw(progress, zoe_phase_name(state->phase), state->step, state->steps, counts, tail);
}

void cli_progress_bytes(cli_progress *progress, const char *what, int64_t bytes, int64_t of) {
    char done[32], all[32], counts[80], rest[48];
    if (!due(progress, bytes == of)) return;
    snprintf(counts, sizeof counts, "%s of %s", cli_bytes(done, (double)bytes), cli_bytes(all, (double)of));
    describe_rest(rest, sizeof rest, (now() - progress->started) * (double)(of - bytes) / (double)(bytes > 0 ? bytes : 1));
    draw(progress, what, (double)bytes, (double)of, counts, rest);
}

void cli_progress_clear(cli_progress *progress) {
    if (progress->drawn) fputs("\r\x1b[K", stderr);
    progress->drawn = false;
}
