/*
 * The normal numbers that PyTorch's CPU generator draws, so that a seed means the same video everywhere.
 * Mersenne Twister MT19937 (Matsumoto, Nishimura 1998), Box-Muller in PyTorch's order.
 */
#ifndef ZOE_SAMPLE_NOISE_H
#define ZOE_SAMPLE_NOISE_H

#include <stdint.h>

typedef struct zoe_generator {
    uint32_t state[624];
    int next;
    int has_spare; /* a second normal number of the small-tensor path is left */
    double spare;
    int silent; /* nothing is drawn, and numbers stay as they are: for plans */
} zoe_generator;

void zoe_generator_seed(zoe_generator *g, uint64_t seed);

/* As torch.randn(count, generator=g) in float32; generators carry on from call to call. */
void zoe_generator_normal(zoe_generator *g, float *out, int64_t count);

#endif
