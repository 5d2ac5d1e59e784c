#include "pipeline/kinds.h"

static const char *const names[ZOE_KIND_COUNT] = {
    [ZOE_KIND_PRODUCT] = "products",       [ZOE_KIND_NARROW_PRODUCT] = "products of 8 bits",
    [ZOE_KIND_ATTENTION] = "attention",    [ZOE_KIND_CROSS_ATTENTION] = "cross-attention",
    [ZOE_KIND_CONV] = "convolutions",      [ZOE_KIND_NORM] = "norms",
    [ZOE_KIND_QK] = "query and key norms", [ZOE_KIND_REST] = "rest"};

static double ceiling_of(zoe_kind kind, const zoe_ceilings *c) {
    if (kind == ZOE_KIND_NARROW_PRODUCT) return c->narrow_gflops;
    return kind < ZOE_KIND_NORM ? c->gflops : c->gbytes;
}

static int fill(zoe_context *ctx, json_t *row, zoe_kind kind, const zoe_profile_times *times, const zoe_ceilings *c) {
    const zoe_kind_times *k = &times->kinds[kind];
    bool computes = kind < ZOE_KIND_NORM;
    double rate = 1e-9 * (computes ? k->flops : k->bytes) / k->seconds, ceiling = ceiling_of(kind, c);
    ZOE_TRY(zoe_report_set(ctx, row, "name", json_string(names[kind])));
    ZOE_TRY(zoe_report_set(ctx, row, "calls", json_integer(k->calls)));
    ZOE_TRY(zoe_report_set(ctx, row, "seconds", json_real(k->seconds)));
    ZOE_TRY(zoe_report_set(ctx, row, "share", json_real(k->seconds / times->seconds)));
    ZOE_TRY(zoe_report_set(ctx, row, computes ? "gflops" : "gbytes", json_real(rate)));
    ZOE_TRY(zoe_report_set(ctx, row, "ceiling", json_real(ceiling)));
    return zoe_report_set(ctx, row, "ratio", json_real(rate / ceiling));
}

int zoe_report_kinds(zoe_context *ctx, json_t *report, const zoe_profile_times *times, const zoe_ceilings *ceilings) {
    json_t *kinds = json_array();
    ZOE_TRY(zoe_report_set(ctx, report, "kinds", kinds));
    for (int i = 0; i < ZOE_KIND_COUNT; i++) {
        if (!times->kinds[i].calls || times->kinds[i].seconds <= 0) continue;
        json_t *row = json_object();
        ZOE_TRY(zoe_report_append(ctx, kinds, row));
        ZOE_TRY(fill(ctx, row, (zoe_kind)i, times, ceilings));
    }
    ZOE_TRY(zoe_report_set(ctx, report, "profiled_seconds", json_real(times->seconds)));
    return zoe_report_set(ctx, report, "gap_seconds", json_real(times->gaps));
}
