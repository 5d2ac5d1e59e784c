/* A profile in a report: each kind of operation beside what the machine reaches. */
#ifndef ZOE_PIPELINE_KINDS_H
#define ZOE_PIPELINE_KINDS_H

#include "backend/profile.h"
#include "pipeline/report.h"

/* Rates measured in the same run: of products, of products with int8 or fp8, of copies. */
typedef struct zoe_ceilings {
    double gflops, narrow_gflops, gbytes;
} zoe_ceilings;

/*
 * Adds "kinds" to the report: for each kind of operation that was used its name, calls, seconds, share of the time and
 * either gflops or gbytes (a second) with the ceiling of that and their ratio; and the time between operations as "gaps".
 */
int zoe_report_kinds(zoe_context *ctx, json_t *report, const zoe_profile_times *times, const zoe_ceilings *ceilings);

#endif
