/*
 * Weights: what a network needs, by name and shape, bound to where a checkpoint (or a random draw) has it.
 *
 * A network lists its tensors once, as tables of slots. Checking, loading, aliases, planning and streaming all walk these
 * tables. Slots are bound in units (a transformer block, a whole small network); between zoe_weights_acquire() and
 * zoe_weights_release() a unit's tensors are valid. Where the bytes are in between is nobody's business above.
 */
#ifndef ZOE_WEIGHTS_WEIGHTS_H
#define ZOE_WEIGHTS_WEIGHTS_H

#include "backend/backend.h"
#include "formats/checkpoint.h"

typedef enum zoe_slot_kind {
    ZOE_SLOT_LINEAR,  /* [out, ...] seen as [out, in], in the form asked for; in the file's own used from the mapping */
    ZOE_SLOT_KEPT,    /* as linear, but never quantised: the first and last layers, embeddings, modulation */
    ZOE_SLOT_PRECISE, /* as linear, but float32 on every backend */
    ZOE_SLOT_SCALES,  /* of a matrix that is quantised in the file, and follow it: no table has such slots */
    ZOE_SLOT_VECTOR,  /* float32, whatever the file has */
    ZOE_SLOT_TABLE,   /* [rows, width] looked up by row on the host: stays in the mapping, whatever the backend */
    ZOE_SLOT_CONV, /* [out, in, kt, kh, kw] or [out, in, kh, kw] rearranged to [out, kt, kh, kw, in], float32 on the CPU */
} zoe_slot_kind;

/*
 * One row of a slot table; a row without a name ends it. `shape` is a list of axes separated by blanks, each a product of
 * a number and letters that stand for the network's dimensions: "6D D" is [6 * dims['D' - 'A'], dims['D' - 'A']], and ""
 * a single number. A row whose `when` letter has dimension 0 is not part of this variant; `when` 0: always.
 */
typedef struct zoe_slot {
    const char *name; /* in the checkpoint, after the prefix given at binding */
    size_t member;    /* offset of the zoe_tensor in the bound struct */
    zoe_slot_kind kind;
    const char *shape;
    char when;
} zoe_slot;

typedef int64_t zoe_dims[26]; /* by letter: dims[letter - 'A'] */

/*
 * Another name for tensors: every '*' in `name` matches digits, which replace the '*'s of `other` in order. Names match
 * whole or up to a dot ("attn.to_q" covers "attn.to_q.weight"). `other` may end in "@i/n": the i-th of n equal parts of
 * its first axis; or in "@i+j/n": the i-th and a later one. A row without a name ends the table.
 */
typedef struct zoe_alias {
    const char *name, *other;
} zoe_alias;

/*
 * The form that linear weights take while loading: a float type that they are converted to, or one of the quantised forms
 * of backend/quantised.h. Matrices that a quantised form does not fit stay as the file has them.
 */
typedef struct zoe_weight_form {
    zoe_dtype dtype; /* ZOE_DTYPE_COUNT: as in the file (a device may still need its own type) */
    int group;       /* as zoe_quantised_group() takes it */
} zoe_weight_form;

#define ZOE_FORM_NATIVE ((zoe_weight_form){.dtype = ZOE_DTYPE_COUNT})

typedef struct zoe_weights zoe_weights;

/*
 * Weights of one network for one backend. ckpt NULL: random numbers, the same for the same names, bf16 for linear unless
 * `form` is another type. `part` names the network in messages. The checkpoint must outlive the weights.
 */
int zoe_weights_create(zoe_backend *be, const zoe_checkpoint *ckpt, const char *part, const zoe_alias *aliases,
                       zoe_weight_form form, zoe_weights **out);
void zoe_weights_free(zoe_weights *weights); /* NULL is fine */

/* The entry under this name or one of its other names; NULL if there is none. */
const zoe_entry *zoe_weights_find(const zoe_checkpoint *ckpt, const zoe_alias *aliases, const char *name);

/*
 * Starts a unit; returns its number (counted from 0) or a status. Blocks are units that are used one after the other,
 * again and again, in the order of their numbers: those that do not fit come and go. Other units stay once they are used.
 */
int zoe_weights_unit(zoe_weights *weights);
int zoe_weights_block(zoe_weights *weights);

/* Binds the slots of a struct to the current unit, under names that begin with the printed prefix. */
int zoe_weights_bind(zoe_weights *weights, const zoe_slot *slots, const zoe_dims dims, void *target, const char *prefix,
                     ...) __attribute__((format(printf, 5, 6)));

/* A block for each of `count` structs of `size` bytes, number i under names that begin with "<prefix>i.". */
int zoe_weights_bind_blocks(zoe_weights *weights, const zoe_slot *slots, const zoe_dims dims, void *targets, size_t size,
                            int64_t count, const char *prefix);

/* Looks every bound slot up; one error names all that are missing or have another shape or dtype. */
int zoe_weights_check(zoe_weights *weights);

/*
 * Makes a unit's tensors valid for the operations asked for until it is released; pairs nest. Under the backend's budgets
 * as many blocks as fit stay; the others come for each use, the next ones being under way while one is at work.
 */
int zoe_weights_acquire(zoe_weights *weights, int unit);
/*
 * Ends a use that came to `status`, which is returned, or, if that is ZOE_OK, what was found wrong with the weights
 * meanwhile: what was computed with them is then worth nothing.
 */
int zoe_weights_release(zoe_weights *weights, int unit, int status);

/* Gives back all memory that loading took, mapped pages included, unless everything is to stay. No unit may be acquired. */
void zoe_weights_unload(zoe_weights *weights);

typedef enum zoe_presence {
    ZOE_WEIGHTS_AWAY,
    ZOE_WEIGHTS_COMING,  /* some of it has yet to be read, or is read for each use */
    ZOE_WEIGHTS_SETTLED, /* nothing more is read until it is unloaded */
} zoe_presence;

zoe_presence zoe_weights_presence(const zoe_weights *weights);

int64_t zoe_weights_bytes(const zoe_weights *weights); /* as loaded, and of tables what the file has */

/* Row `row` of a table slot's tensor as float32; of random weights the same numbers each time. */
void zoe_weights_table_row(const zoe_tensor *table, int64_t row, float *out);

/* The first tensor with a NaN or infinity in the file, or NULL. Reads everything. */
const char *zoe_weights_find_nonfinite(const zoe_weights *weights);

/*
 * Where slot number `index` is in the file (NULL for random weights) and what form it takes, scales that are in the file
 * apart; false past the end.
 */
bool zoe_weights_source(const zoe_weights *weights, size_t index, const zoe_entry **entry, zoe_tensor *form);
const zoe_checkpoint *zoe_weights_checkpoint(const zoe_weights *weights);

/* Name and shape of bound slot number `index`, for descriptions; false past the end. */
bool zoe_weights_describe(const zoe_weights *weights, size_t index, const char **name, int *rank, int64_t *shape);

#endif
