/* Operands of checkkernels: host tensors between guard bytes, their copies on a backend, and the verdict on a result. */
#ifndef CHECK_OPERAND_H
#define CHECK_OPERAND_H

#include "backend/backend.h"

typedef enum fill { FILL_SMALL, FILL_WIDE, FILL_HUGE, FILL_TINY, FILL_COUNT } fill; /* see check_operand.c */
typedef enum layout { DENSE, STRIDED, LAYOUT_COUNT } layout;                        /* gaps between the rows, or none */

typedef struct operand {
    zoe_tensor t;  /* on the host */
    zoe_tensor on; /* the same on the backend */
    char *memory;  /* all bytes of it with the guards and gaps */
    void *device;
    size_t bytes;
    double *values; /* dense float64 copy of an input */
} operand;

/* A run of checkkernels over one backend. */
typedef struct checker {
    zoe_backend *be;
    const char *level, *op, *filter;
    uint64_t seed;
    int threads, cases, failures, op_cases;
    double worst; /* largest error of the present operation, as a part of its bound */
    operand *used[16];
    int used_count;
} checker;

double check_random(checker *c); /* -1 .. 1 */

/* A weight type that the backend has: `dtype`, or that of its activations. */
zoe_dtype check_weight(const checker *c, zoe_dtype dtype);

/* Makes operands that check_done() frees. An input is filled and uploaded, an output poisoned. Failures end the program. */
operand *check_input(checker *c, zoe_dtype dtype, layout l, fill f, int rank, const int64_t *shape);
operand *check_output(checker *c, zoe_dtype dtype, layout l, int rank, const int64_t *shape);
operand *check_ids(checker *c, int64_t count, int64_t limit); /* i32 in 0 .. limit - 1 */
#define INPUT(c, dtype, l, f, ...) check_input(c, dtype, l, f, SHAPE(__VA_ARGS__))
#define OUTPUT(c, dtype, l, ...)   check_output(c, dtype, l, SHAPE(__VA_ARGS__))
#define SHAPE(...)                                                                                                         \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) {                                         \
        __VA_ARGS__                                                                                                        \
    }

/* Copies an operand's host bytes to the backend again, after a test changed them. */
void check_upload(checker *c, operand *o);

/* Adds to every element between -1 and 1 times `size`, by its place on the last axis, and uploads the operand. */
void check_shift(checker *c, operand *o, double size);

/* The elements of a tensor as dense float64. */
double *check_values(const zoe_tensor *t);

/* Fetches y and compares: |y - expected| <= bound * size + what storing y's type may round; NaN only where expected. On
 * narrow activations, what is kept between the parts of an operation may be rounded to their type as well. */
void check_result(checker *c, operand *y, const double *expected, const double *size, double bound, const char *what);

/* Fetches y and compares as a whole: |y - expected| / |expected| <= most. */
void check_near(checker *c, operand *y, const double *expected, double most, const char *what);

/* Fetches both and compares bits. */
void check_same(checker *c, operand *a, operand *b, const char *what);

void check_status(checker *c, int status, const char *what);
void check_fail(checker *c, const char *what, const char *format, ...) __attribute__((format(printf, 3, 4)));
void check_done(checker *c);

#endif
