/*
 * Manifests: the tensors of published networks (tests/data/manifests) and their comparison with what the engine asks for.
 */
#ifndef TESTS_MANIFEST_H
#define TESTS_MANIFEST_H

#include "formats/json.h"
#include "support.h"
#include "weights/weights.h"

#define TEXT 160

typedef struct row {
    char name[TEXT], shape[64], original[TEXT];
} row;

typedef struct list {
    row *rows;
    size_t count;
} list;

static const char manifests[] = TEST_DATA "/manifests";

static inline int by_name(const void *a, const void *b) {
    return strcmp(((const row *)a)->name, ((const row *)b)->name);
}

static inline void append(list *l, const row *r) {
    l->rows = realloc(l->rows, (l->count + 1) * sizeof *l->rows);
    assert_non_null(l->rows);
    l->rows[l->count++] = *r;
}

/* Copies `text` with `number` in place of "{a-b}", if it has that. */
static inline void put_number(char out[TEXT], const char *text, int number) {
    const char *open = strchr(text, '{'), *close = strchr(text, '}');
    int length = open ? snprintf(out, TEXT, "%.*s%d%s", (int)(open - text), text, number, close + 1)
                      : snprintf(out, TEXT, "%s", text);
    assert_true(length >= 0 && length < TEXT);
}

/* name, shape (nothing for a single number) and, where there is one, the original name */
static inline void split(const char *line, char name[TEXT], char shape[64], char original[TEXT]) {
    const char *second = strchr(line, '\t'), *third = second ? strchr(second + 1, '\t') : NULL;
    assert_non_null(second);
    size_t shape_length = third ? (size_t)(third - second - 1) : strlen(second + 1);
    assert_true(second - line < TEXT && shape_length < 64 && (!third || strlen(third + 1) < TEXT));
    snprintf(name, TEXT, "%.*s", (int)(second - line), line);
    snprintf(shape, 64, "%.*s", (int)shape_length, second + 1);
    snprintf(original, TEXT, "%s", third ? third + 1 : "");
}

/* The rows of a manifest, ranges written out, sorted by name. */
static inline list read_manifest(const char *network) {
    char path[512], *save = NULL;
    list l = {0};
    snprintf(path, sizeof path, "%s/%s/tensors.tsv", manifests, network);
    char *text = test_read(path, NULL);
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char name[TEXT], shape[64], original[TEXT];
        int first = 0, last = 0;
        split(line, name, shape, original);
        if (strchr(name, '{')) assert_int_equal(sscanf(strchr(name, '{'), "{%d-%d}", &first, &last), 2);
        for (int i = first; i <= last; i++) {
            row r;
            put_number(r.name, name, i);
            put_number(r.original, original, i);
            snprintf(r.shape, sizeof r.shape, "%s", shape);
            append(&l, &r);
        }
    }
    free(text);
    qsort(l.rows, l.count, sizeof *l.rows, by_name);
    return l;
}

/* What a network wants, sorted by name; `original` is left empty. */
static inline list wanted_by(const zoe_weights *weights) {
    list l = {0};
    const char *name;
    int rank;
    int64_t shape[ZOE_MAX_RANK];
    for (size_t i = 0; zoe_weights_describe(weights, i, &name, &rank, shape); i++) {
        row r = {0};
        assert_true((size_t)snprintf(r.name, TEXT, "%s", name) < TEXT);
        for (int j = 0, used = 0; j < rank; j++)
            used += snprintf(r.shape + used, sizeof r.shape - (size_t)used, j ? "x%lld" : "%lld", (long long)shape[j]);
        append(&l, &r);
    }
    qsort(l.rows, l.count, sizeof *l.rows, by_name);
    return l;
}

/* Both lists name the same tensors with the same shapes; every difference is printed. */
static inline void same_tensors(const list *published, const list *wanted) {
    size_t i = 0, j = 0;
    int differences = 0;
    while (i < published->count || j < wanted->count) {
        const row *a = i < published->count ? &published->rows[i] : NULL;
        const row *b = j < wanted->count ? &wanted->rows[j] : NULL;
        int order = !a ? 1 : !b ? -1 : strcmp(a->name, b->name);
        if (order < 0) print_message("%s %s is published, not wanted\n", a->name, a->shape);
        if (order > 0) print_message("%s %s is wanted, not published\n", b->name, b->shape);
        if (order == 0 && strcmp(a->shape, b->shape) != 0)
            print_message("%s is published as %s, wanted as %s\n", a->name, a->shape, b->shape);
        differences += order != 0 || strcmp(a->shape, b->shape) != 0;
        i += order <= 0;
        j += order >= 0;
    }
    assert_int_equal(differences, 0);
}

static inline void same_as_published(const char *network, const zoe_weights *weights) {
    list published = read_manifest(network), wanted = wanted_by(weights);
    assert_true(published.count > 100);
    same_tensors(&published, &wanted);
    free(published.rows);
    free(wanted.rows);
}

/* A context, a backend that computes nothing, and the network's configuration. */
typedef struct bench {
    test_memory memory;
    zoe_context *ctx;
    zoe_backend *be;
    zoe_config config;
} bench;

static inline void set_up(bench *b, const char *network) {
    char path[512];
    b->ctx = test_context(&b->memory);
    assert_ok(b->ctx, zoe_plan_backend_create(b->ctx, ZOE_BF16, false, &b->be));
    snprintf(path, sizeof path, "%s/%s/config.json", manifests, network);
    assert_ok(b->ctx, zoe_config_load(b->ctx, path, &b->config));
}

static inline void tear_down(bench *b) {
    zoe_config_free(&b->config);
    zoe_backend_close(b->be);
    test_context_free(&b->memory, b->ctx);
}

#endif
