/* The parts of checkkernels. */
#ifndef CHECKKERNELS_H
#define CHECKKERNELS_H

#include "backend/cpu/cpu.h"
#include "backend/plugin.h"
#include "check_operand.h"
#include "check_reference.h"

/* Elementwise operations and the like (check_elementwise.c). */
void check_embedding(checker *c);
void check_copy(checker *c);
void check_zero(checker *c);
void check_activate(checker *c);
void check_scale_shift(checker *c);
void check_lincomb(checker *c);
void check_finite(checker *c);

/* check_attention.c */
void check_attention(checker *c);

/* check_group_norm.c */
void check_group_norm(checker *c);

/* check_quantised.c; nothing where the backend cannot. */
void check_quantised_matrices(checker *c);
void check_quantised_products(checker *c);
void check_quantised_rows(checker *c);

/* Timings (check_bench.c). */
void bench_backend(checker *c);

#endif
