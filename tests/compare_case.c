/*
 * Compares what `zoe generate --dump` wrote with what the reference implementation computed, tensor by tensor, prints how
 * close they are and fails where a bound is passed.
 *
 *     compare_case GOLDEN.safetensors DUMP.safetensors
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/checkpoint.h"

typedef enum measure {
    LARGEST,  /* largest absolute difference */
    RELATIVE, /* relative L2 distance of the worst row of the first axis */
    PSNR,     /* peak signal-to-noise ratio in dB of values in 0..1 */
} measure;

static const struct {
    const char *name;
    measure measure;
    double bound;
    const char *unit;
} checks[] = {
    {"prompt_embeds", LARGEST, 1e-4, "largest difference"},
    {"negative_prompt_embeds", LARGEST, 1e-4, "largest difference"},
    {"image_embeds", LARGEST, 1e-4, "largest difference"},
    {"timesteps", LARGEST, 1e-3, "largest difference"},
    {"sigmas", LARGEST, 1e-6, "largest difference"},
    {"step_latents", RELATIVE, 1e-4, "relative L2 of the worst step"},
    {"video", PSNR, 60, "dB"},
};

static int64_t elements(const zoe_entry *entry) {
    int64_t count = 1;
    for (int i = 0; i < entry->rank; i++) count *= entry->shape[i];
    return count;
}

static double value_at(const zoe_entry *entry, int64_t i) {
    if (entry->dtype == ZOE_I64) return (double)((const int64_t *)entry->data)[i];
    return (double)((const float *)entry->data)[i];
}

/* The larger of two differences; one that is no number is the largest of all. */
static double worse(double a, double b) {
    return isnan(a) || isnan(b) ? INFINITY : fmax(a, b);
}

static double largest(const zoe_entry *a, const zoe_entry *b) {
    double most = 0;
    for (int64_t i = 0; i < elements(b); i++) most = worse(most, fabs(value_at(a, i) - value_at(b, i)));
    return most;
}

static double relative(const zoe_entry *a, const zoe_entry *b) {
    int64_t rows = b->shape[0], width = elements(b) / rows;
    double worst = 0;
    for (int64_t row = 0; row < rows; row++) {
        double difference = 0, size = 0;
        for (int64_t i = row * width; i < (row + 1) * width; i++) {
            double d = value_at(a, i) - value_at(b, i);
            difference += d * d;
            size += value_at(b, i) * value_at(b, i);
        }
        worst = worse(worst, sqrt(difference / size));
    }
    return worst;
}

static double psnr(const zoe_entry *a, const zoe_entry *b) {
    double sum = 0;
    for (int64_t i = 0; i < elements(b); i++) {
        double d = value_at(a, i) - value_at(b, i);
        sum += d * d;
    }
    return sum > 0 ? -10 * log10(sum / (double)elements(b)) : INFINITY;
}

/*
 * The dump of latents has no batch axis where the reference has one of length 1, so that counts decide. Of two pictures
 * the reference may have recorded the features of the first alone.
 */
static bool comparable(const zoe_entry *found, const zoe_entry *expected) {
    bool numbers =
        (found->dtype == ZOE_F32 || found->dtype == ZOE_I64) && (expected->dtype == ZOE_F32 || expected->dtype == ZOE_I64);
    if (strcmp(expected->name, "image_embeds") == 0 && expected->shape[0] == 1)
        return numbers && elements(found) == elements(expected) * found->shape[0];
    return numbers && elements(found) == elements(expected) && found->shape[0] == expected->shape[0];
}

static bool check(const zoe_checkpoint *golden, const zoe_checkpoint *dump, size_t i) {
    const zoe_entry *expected = zoe_checkpoint_find(golden, checks[i].name);
    const zoe_entry *found = zoe_checkpoint_find(dump, checks[i].name);
    if (!expected) return true;
    if (!found || !comparable(found, expected)) {
        printf("%-24s %s\n", checks[i].name, found ? "has another shape" : "is missing");
        return false;
    }
    double value = checks[i].measure == LARGEST    ? largest(found, expected)
                   : checks[i].measure == RELATIVE ? relative(found, expected)
                                                   : psnr(found, expected);
    bool good = checks[i].measure == PSNR ? value >= checks[i].bound : value <= checks[i].bound;
    printf("%-24s %.3g %s (%s %g)%s\n", checks[i].name, value, checks[i].unit,
           checks[i].measure == PSNR ? "at least" : "at most", checks[i].bound, good ? "" : "  FAILED");
    return good;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s GOLDEN.safetensors DUMP.safetensors\n", argv[0]);
        return 2;
    }
    zoe_context *ctx = NULL;
    zoe_checkpoint *golden = NULL, *dump = NULL;
    bool good = false;
    if (zoe_context_create(NULL, &ctx) != ZOE_OK) return 1;
    if (zoe_checkpoint_open(ctx, argv[1], &golden) != ZOE_OK || zoe_checkpoint_open(ctx, argv[2], &dump) != ZOE_OK) {
        fprintf(stderr, "%s\n", zoe_context_error(ctx));
    } else {
        good = true;
        for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) good &= check(golden, dump, i);
    }
    zoe_checkpoint_close(golden);
    zoe_checkpoint_close(dump);
    zoe_context_free(ctx);
    return good ? 0 : 1;
}
