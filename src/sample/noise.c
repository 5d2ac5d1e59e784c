#include "sample/noise.h"

#include <math.h>

#define PI     3.14159265358979323846
#define LENGTH 624

void zoe_generator_seed(zoe_generator *g, uint64_t seed) {
    g->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < LENGTH; i++) g->state[i] = 1812433253u * (g->state[i - 1] ^ g->state[i - 1] >> 30) + i;
    g->next = LENGTH;
    g->has_spare = g->silent = 0;
}

static void refill(zoe_generator *g) {
    for (int i = 0; i < LENGTH; i++) {
        uint32_t joined = (g->state[i] & 0x80000000u) | (g->state[(i + 1) % LENGTH] & 0x7fffffffu);
        g->state[i] = g->state[(i + 397) % LENGTH] ^ joined >> 1 ^ (joined & 1 ? 0x9908b0dfu : 0);
    }
    g->next = 0;
}

static uint32_t draw(zoe_generator *g) {
    if (g->next == LENGTH) refill(g);
    uint32_t y = g->state[g->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

static float uniform_single(zoe_generator *g) {
    return (float)(draw(g) & 0xffffff) * 0x1p-24f;
}

static double uniform_double(zoe_generator *g) {
    uint64_t high = draw(g);
    uint64_t bits = high << 32 | draw(g);
    return (double)(bits & 0x1fffffffffffffu) * 0x1p-53;
}

/* Sixteen uniform numbers become sixteen normal ones: number i pairs with i + 8. */
static void transform(float *block) {
    for (int i = 0; i < 8; i++) {
        float radius = sqrtf(-2.0f * logf(1.0f - block[i]));
        float angle = (float)(2.0 * PI) * block[i + 8];
        block[i] = radius * cosf(angle);
        block[i + 8] = radius * sinf(angle);
    }
}

/* Tensors of fewer than 16 numbers are drawn one by one, in double precision. */
static float normal_single(zoe_generator *g) {
    if (g->has_spare) {
        g->has_spare = 0;
        return (float)g->spare;
    }
    double angle = 2.0 * PI * uniform_double(g);
    double radius = sqrt(-2.0 * log1p(-uniform_double(g)));
    g->spare = radius * sin(angle);
    g->has_spare = 1;
    return (float)(radius * cos(angle));
}

void zoe_generator_normal(zoe_generator *g, float *out, int64_t count) {
    if (g->silent) return;
    if (count < 16) {
        for (int64_t i = 0; i < count; i++) out[i] = normal_single(g);
        return;
    }
    for (int64_t i = 0; i < count; i++) out[i] = uniform_single(g);
    for (int64_t i = 0; i + 16 <= count; i += 16) transform(out + i);
    if (count % 16 == 0) return;
    /* What is left over is drawn anew, as part of the last sixteen. */
    for (int64_t i = count - 16; i < count; i++) out[i] = uniform_single(g);
    transform(out + count - 16);
}
