/* What the files of this folder share: bound items, their units, and where a unit's bytes are. */
#ifndef ZOE_WEIGHTS_PARTS_H
#define ZOE_WEIGHTS_PARTS_H

#include "weights/slots.h"
#include "weights/weights.h"

typedef struct zoe_item {
    char *name;
    zoe_tensor *target;
    zoe_slot_kind kind;
    int rank;
    int64_t shape[ZOE_MAX_RANK]; /* as in the checkpoint */
    const zoe_entry *entry;      /* NULL for random weights */
    int64_t skip;                /* elements of the entry before this part of it */
    int64_t gap;                 /* and, of a part in two halves, between these */
    const zoe_entry *scales;     /* of a matrix that is quantised in the file; the next items are its scales */
    zoe_tensor form;             /* once loaded; without data */
    bool mapped;                 /* used where the file is mapped */
    size_t offset;               /* in its unit's blob, unless mapped */
} zoe_item;

/* A unit is one piece of memory, its blob, on the host and on a device alike; one copy moves it. */
typedef enum zoe_tier {
    ZOE_TIER_RESIDENT, /* in the backend's memory until unloaded */
    ZOE_TIER_HOST,     /* in host memory, as it will be used; comes to the device for each use */
    ZOE_TIER_FILE,     /* read for each use */
} zoe_tier;

typedef struct zoe_unit {
    size_t first, count; /* items */
    size_t blob;         /* bytes */
    int64_t in_file;     /* bytes that are read for it */
    int64_t bytes;   /* of the backend's memory: of the blob and of what is used where it is mapped; tables do not count */
    bool block;      /* one of a sequence */
    bool maps;       /* some of it is used where the file is mapped */
    bool past_cache; /* read past the page cache, which has no room for it until it is wanted again */
    int users;       /* acquisitions not yet released */
    zoe_tier tier;
    void *memory; /* of the backend, while the blob is there */
    bool loaded;  /* its tensors are valid */
    bool met;     /* in a plan: read before, so that the page cache may have it */
    void *host;   /* ZOE_TIER_HOST on a device: its slab */
    bool filled;  /* the slab */
    int job;      /* of the loader that fills the slab or a stage with it; -1: none */
    int stage;    /* that holds or will hold it; -1: none */
    int place;    /* of the ring that holds it or to which it is under way; -1: none */
} zoe_unit;

typedef struct zoe_loader zoe_loader;

#define ZOE_STAGES   2
#define ZOE_RING_MAX 8

/* Host memory through which a unit passes on its way from the file to the device. */
typedef struct zoe_stage {
    void *memory;
    int unit;  /* -1: none */
    int place; /* of the copy that leaves it; -1: none is under way */
} zoe_stage;

/* Device memory through which streaming units pass. */
typedef struct zoe_place {
    void *memory;
    int unit; /* -1: none */
} zoe_place;

struct zoe_weights {
    zoe_backend *be;
    const zoe_checkpoint *ckpt;
    const char *part;
    const zoe_alias *aliases;
    zoe_weight_form form;
    zoe_item *items;
    size_t count, capacity;
    zoe_unit *units;
    int unit_count;
    bool placed;  /* the units' tiers are chosen */
    int64_t held; /* bytes of the backend's memory */
    /* on a device: */
    zoe_place ring[ZOE_RING_MAX];
    int ring_count, ring_next;
    size_t ring_bytes; /* of each */
    zoe_stage stages[ZOE_STAGES];
    int stage_count;
    size_t stage_bytes; /* of each */
    zoe_loader *loader;
    int late; /* status of what was begun ahead of need */
};

/* ---- forms ---- */

int64_t zoe_item_count(const zoe_item *it);

/* As zoe_weights_find(), with the part of the tensor that an alias names. */
const zoe_entry *zoe_item_find(const zoe_checkpoint *ckpt, const zoe_alias *aliases, const char *name, zoe_part *part);

/*
 * Finds out how a matrix that scales follow is quantised in the file. Writes what is
 * wrong, or nothing, into `problem`.
 */
void zoe_item_given(zoe_weights *weights, zoe_item *it, zoe_part part, char *problem, size_t size);

/* What is quantised in the file must be what was asked for, if anything was. */
int zoe_items_agree(const zoe_weights *weights);

/* Bytes that the item takes in its blob, and bytes before an element of its file's tensor. */
int64_t zoe_item_bytes(const zoe_item *it);
size_t zoe_item_span(const zoe_item *it, int64_t elements);

/* The first byte of the item in the mapped file. */
const char *zoe_item_mapping(const zoe_item *it);

/* The type and shape in which the backend gets an item. */
zoe_tensor zoe_item_form(const zoe_weights *weights, const zoe_item *it);

/* A form is filled by rows, which take zoe_item_width() numbers of the file each. */
int64_t zoe_item_rows(const zoe_item *it);
int64_t zoe_item_width(const zoe_item *it);

/* The rows of the file are those of the form, byte by byte. */
bool zoe_item_verbatim(const zoe_item *it);

/* The type of the numbers that a form is filled from: the file's, or that in which random weights are drawn. */
zoe_dtype zoe_item_source(const zoe_item *it);

/* Draws rows of random weights. */
void zoe_item_draw(const zoe_item *it, void *to, int64_t row, int64_t rows);

/* The form over memory of zoe_form_bytes(). */
zoe_tensor zoe_item_over(const zoe_item *it, void *memory);

/*
 * Fills rows of the form over `to` from the same rows of `source`, drawn or as the file has them. Runs on any thread and
 * leaves no text: returns the element that is NaN or infinite in weights that are small enough to be looked through, or -1.
 * Of a matrix that is quantised it writes what zoe_quantise_rows() returns.
 */
int64_t zoe_item_fill(const zoe_item *it, void *to, const void *source, int64_t row, int64_t rows, uint32_t *largest);

int zoe_item_not_finite(const zoe_weights *weights, const zoe_item *it, int64_t element);

/* ---- the loader: threads that read and fill blobs ---- */

int zoe_loader_create(const zoe_weights *weights, zoe_loader **out);
void zoe_loader_free(zoe_loader *loader); /* NULL is fine; what is under way is given up */

/* Begins to fill a unit's blob at `to`; returns the job's number or a status. At most ZOE_LOADER_JOBS at a time. */
#define ZOE_LOADER_JOBS 4
int zoe_loader_begin(zoe_loader *loader, const zoe_unit *u, void *to);
bool zoe_loader_done(zoe_loader *loader, int job);
/* Waits; the job's number is free afterwards. */
int zoe_loader_end(zoe_loader *loader, int job);

/* ---- units used where their files are mapped: on the processor ---- */

int zoe_mapped_acquire(zoe_weights *weights, int unit);
void zoe_mapped_release(zoe_weights *weights, int unit);
void zoe_mapped_unload(zoe_weights *weights);

/* ---- units copied to a device ---- */

int zoe_store_acquire(zoe_weights *weights, int unit);
void zoe_store_release(zoe_weights *weights, int unit);
void zoe_store_unload(zoe_weights *weights);

/* ---- what both share ---- */

/* Chooses a tier for every unit under the backend's budgets. */
void zoe_units_place(zoe_weights *weights);

/* Notes the smallest budgets under which this unit could be acquired beside what is loaded. */
void zoe_units_note_least(zoe_weights *weights, int unit);

/* The block that is used `steps` after block `unit`, going round; -1 when there are no blocks. */
int zoe_units_after(const zoe_weights *weights, int unit, int steps);

/* Bytes of the backend's memory that a blob takes. */
size_t zoe_unit_pages(const zoe_weights *weights, size_t blob);

/* Counts bytes of the backend's memory as held, or no longer (negative). */
void zoe_units_hold(zoe_weights *weights, int64_t bytes);

/* The tensors of a unit whose blob is at `memory`; NULL: none are valid any more. */
void zoe_unit_bind(zoe_weights *weights, const zoe_unit *u, void *memory);

#endif
