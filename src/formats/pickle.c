/*
 * A stack machine for pickles of protocol 2, as torch.save() writes them. Values are numbered; containers are chains of
 * pairs of such numbers. Every operation takes at least a byte of input and makes at most one value, so that memory stays
 * proportional to the pickle.
 */
#include "formats/pickle.h"

#include <string.h>

typedef enum value_kind {
    KIND_NONE,
    KIND_BOOL,
    KIND_INT,
    KIND_FLOAT,
    KIND_TEXT,
    KIND_TUPLE,
    KIND_LIST,
    KIND_DICT,
    KIND_CALLABLE,
    KIND_STORAGE,
    KIND_TENSOR,
} value_kind;

typedef enum callable { CALL_TENSOR, CALL_PARAMETER, CALL_DICT, CALL_STORAGE, CALL_PLAIN } callable;

/* What may be named. Storages differ by the type of their elements. */
static const struct {
    const char *module, *name;
    callable call;
    zoe_dtype dtype;
} callables[] = {
    {"torch._utils", "_rebuild_tensor_v2", CALL_TENSOR, ZOE_F32},
    {"torch._utils", "_rebuild_parameter", CALL_PARAMETER, ZOE_F32},
    {"collections", "OrderedDict", CALL_DICT, ZOE_F32},
    {"torch", "Size", CALL_PLAIN, ZOE_F32}, /* collections that describe no tensor */
    {"__builtin__", "set", CALL_PLAIN, ZOE_F32},
    {"torch", "FloatStorage", CALL_STORAGE, ZOE_F32},
    {"torch", "BFloat16Storage", CALL_STORAGE, ZOE_BF16},
    {"torch", "HalfStorage", CALL_STORAGE, ZOE_F16},
    {"torch", "DoubleStorage", CALL_STORAGE, ZOE_F64},
    {"torch", "CharStorage", CALL_STORAGE, ZOE_I8},
    {"torch", "ShortStorage", CALL_STORAGE, ZOE_I16},
    {"torch", "IntStorage", CALL_STORAGE, ZOE_I32},
    {"torch", "LongStorage", CALL_STORAGE, ZOE_I64},
    {"torch", "ByteStorage", CALL_STORAGE, ZOE_U8},
    {"torch", "BoolStorage", CALL_STORAGE, ZOE_BOOL},
};

#define NOTHING UINT32_MAX

typedef struct value {
    value_kind kind;
    union {
        int64_t number; /* KIND_BOOL, KIND_INT; index of callables[] for KIND_CALLABLE */
        zoe_pickle_text text;
        struct {
            uint32_t first, last, count; /* of links[], NOTHING while empty */
        } chain;                         /* KIND_TUPLE, KIND_LIST, KIND_DICT */
        struct {
            zoe_pickle_text key;
            int64_t count;
            zoe_dtype dtype;
        } storage;
        struct {
            uint32_t storage, shape, stride; /* values */
            int64_t offset;
        } tensor;
    };
} value;

typedef struct link {
    uint32_t key, item, next; /* key: NOTHING but in a dictionary */
} link;

typedef struct array {
    void *data;
    size_t count, capacity;
} array;

typedef struct machine {
    zoe_context *ctx;
    const char *path;
    const uint8_t *start, *p, *end;
    array values, links, stack, marks, memo; /* value, link, uint32_t, uint32_t, uint32_t */
} machine;

#define VALUE(m, index) (&((value *)(m)->values.data)[index])
#define LINK(m, index)  (&((link *)(m)->links.data)[index])

static int bad(machine *m, const char *what) {
    return zoe_fail(m->ctx, ZOE_ERR_FORMAT, "%s: malformed pickle: %s near byte %td", m->path, what, m->p - m->start);
}

/* ---- growing arrays ---- */

static int grow(machine *m, array *a, size_t element) {
    if (a->count < a->capacity) return ZOE_OK;
    size_t capacity = a->capacity ? 2 * a->capacity : 64;
    void *data = zoe_realloc(m->ctx, a->data, capacity * element);
    if (!data) return zoe_out_of_memory(m->ctx, capacity * element, "description of tensors");
    a->data = data;
    a->capacity = capacity;
    return ZOE_OK;
}

static int push_index(machine *m, array *a, uint32_t index) {
    ZOE_TRY(grow(m, a, sizeof index));
    ((uint32_t *)a->data)[a->count++] = index;
    return ZOE_OK;
}

static int push(machine *m, value fresh) {
    ZOE_TRY(grow(m, &m->values, sizeof fresh));
    *VALUE(m, m->values.count) = fresh;
    return push_index(m, &m->stack, (uint32_t)m->values.count++);
}

static int push_chain(machine *m, value_kind kind) {
    return push(m, (value){.kind = kind, .chain = {NOTHING, NOTHING, 0}});
}

static int append(machine *m, uint32_t container, uint32_t key, uint32_t item) {
    ZOE_TRY(grow(m, &m->links, sizeof(link)));
    uint32_t at = (uint32_t)m->links.count++;
    *LINK(m, at) = (link){key, item, NOTHING};
    value *target = VALUE(m, container);
    if (target->chain.count++)
        LINK(m, target->chain.last)->next = at;
    else
        target->chain.first = at;
    target->chain.last = at;
    return ZOE_OK;
}

/* ---- the stack ---- */

/* Values above the last mark cannot be taken by single operations. */
static size_t stack_floor(const machine *m) {
    return m->marks.count ? ((const uint32_t *)m->marks.data)[m->marks.count - 1] : 0;
}

static int pop(machine *m, uint32_t *index) {
    if (m->stack.count <= stack_floor(m)) return bad(m, "a value is missing");
    *index = ((uint32_t *)m->stack.data)[--m->stack.count];
    return ZOE_OK;
}

static int top(machine *m, uint32_t *index) {
    if (m->stack.count <= stack_floor(m)) return bad(m, "a value is missing");
    *index = ((uint32_t *)m->stack.data)[m->stack.count - 1];
    return ZOE_OK;
}

/* Takes the last mark away; *first is where its values start on the stack. */
static int pop_mark(machine *m, size_t *first) {
    if (!m->marks.count) return bad(m, "a mark is missing");
    *first = ((uint32_t *)m->marks.data)[--m->marks.count];
    return ZOE_OK;
}

/* The last `count` values become a tuple. */
static int make_tuple(machine *m, size_t first) {
    size_t count = m->stack.count - first;
    ZOE_TRY(grow(m, &m->values, sizeof(value)));
    uint32_t tuple = (uint32_t)m->values.count++;
    *VALUE(m, tuple) = (value){.kind = KIND_TUPLE, .chain = {NOTHING, NOTHING, 0}};
    for (size_t i = 0; i < count; i++) ZOE_TRY(append(m, tuple, NOTHING, ((uint32_t *)m->stack.data)[first + i]));
    m->stack.count = first;
    return push_index(m, &m->stack, tuple);
}

/* The values from `first` on go into the list or dictionary below them, which stays. */
static int fill(machine *m, size_t first, value_kind kind) {
    size_t count = m->stack.count - first;
    uint32_t *items = m->stack.data, container;
    if (first <= stack_floor(m)) return bad(m, "a container is missing");
    container = items[first - 1];
    if (VALUE(m, container)->kind != kind) return bad(m, "items for something that holds none");
    if (kind == KIND_DICT && count % 2) return bad(m, "a key without a value");
    for (size_t i = 0; i < count; i += kind == KIND_DICT ? 2 : 1)
        ZOE_TRY(kind == KIND_DICT ? append(m, container, items[first + i], items[first + i + 1])
                                  : append(m, container, NOTHING, items[first + i]));
    m->stack.count = first;
    return ZOE_OK;
}

/* ---- arguments in the byte stream ---- */

static int take(machine *m, size_t count, const uint8_t **out) {
    if ((size_t)(m->end - m->p) < count) return bad(m, "it ends too early");
    *out = m->p;
    m->p += count;
    return ZOE_OK;
}

static int take_number(machine *m, int bytes, uint64_t *out) {
    const uint8_t *data;
    ZOE_TRY(take(m, (size_t)bytes, &data));
    *out = 0;
    for (int i = bytes - 1; i >= 0; i--) *out = *out << 8 | data[i];
    return ZOE_OK;
}

static int take_text(machine *m, int length_bytes) {
    uint64_t length;
    const uint8_t *data;
    ZOE_TRY(take_number(m, length_bytes, &length));
    ZOE_TRY(take(m, (size_t)length, &data));
    return push(m, (value){.kind = KIND_TEXT, .text = {(const char *)data, (size_t)length}});
}

/* A whole number of up to eight bytes in two's complement, the last one with the sign. */
static int take_long(machine *m) {
    uint64_t length, bits = 0;
    const uint8_t *data;
    ZOE_TRY(take_number(m, 1, &length));
    if (length > 8) return bad(m, "a number beyond 64 bits");
    ZOE_TRY(take(m, (size_t)length, &data));
    for (size_t i = 0; i < length; i++) bits |= (uint64_t)data[i] << 8 * i;
    if (length > 0 && length < 8 && data[length - 1] & 0x80) bits |= UINT64_MAX << 8 * length;
    return push(m, (value){.kind = KIND_INT, .number = (int64_t)bits});
}

static int take_line(machine *m, zoe_pickle_text *out) {
    const uint8_t *feed = memchr(m->p, '\n', (size_t)(m->end - m->p));
    if (!feed) return bad(m, "it ends too early");
    *out = (zoe_pickle_text){(const char *)m->p, (size_t)(feed - m->p)};
    m->p = feed + 1;
    return ZOE_OK;
}

static bool same(zoe_pickle_text text, const char *expected) {
    return text.length == strlen(expected) && memcmp(text.data, expected, text.length) == 0;
}

/* A name from a file for an error text: unprintable bytes as '?', and not too much of it. */
static const char *shown(zoe_pickle_text text, char out[80]) {
    size_t length = text.length < 79 ? text.length : 79;
    for (size_t i = 0; i < length; i++) out[i] = text.data[i] >= 32 && text.data[i] < 127 ? text.data[i] : '?';
    out[length] = 0;
    return out;
}

static int take_callable(machine *m) {
    zoe_pickle_text module, name;
    char a[80], b[80];
    ZOE_TRY(take_line(m, &module));
    ZOE_TRY(take_line(m, &name));
    for (size_t i = 0; i < sizeof callables / sizeof *callables; i++)
        if (same(module, callables[i].module) && same(name, callables[i].name))
            return push(m, (value){.kind = KIND_CALLABLE, .number = (int64_t)i});
    return zoe_fail(m->ctx, ZOE_ERR_UNSUPPORTED,
                    "%s asks for %s.%s, which is refused: only plain tensors and parameters are read; save the state "
                    "dictionary again as safetensors",
                    m->path, shown(module, a), shown(name, b));
}

/* ---- what callables stand for ---- */

/* Item number `at` of a tuple or list, which has to be of this kind. */
static int item(machine *m, uint32_t container, uint32_t at, value_kind kind, uint32_t *out) {
    const value *from = VALUE(m, container);
    uint32_t index = from->chain.first;
    if (at >= from->chain.count) return bad(m, "an argument is missing");
    for (; at > 0; at--) index = LINK(m, index)->next;
    *out = LINK(m, index)->item;
    return VALUE(m, *out)->kind == kind ? ZOE_OK : bad(m, "an argument of the wrong kind");
}

/* ("storage", torch.FloatStorage, key, device, count) */
static int make_storage(machine *m) {
    uint32_t tuple, word, type, key, count;
    ZOE_TRY(pop(m, &tuple));
    if (VALUE(m, tuple)->kind != KIND_TUPLE) return bad(m, "a reference that is no storage");
    ZOE_TRY(item(m, tuple, 0, KIND_TEXT, &word));
    ZOE_TRY(item(m, tuple, 1, KIND_CALLABLE, &type));
    ZOE_TRY(item(m, tuple, 2, KIND_TEXT, &key));
    ZOE_TRY(item(m, tuple, 4, KIND_INT, &count));
    int64_t which = VALUE(m, type)->number;
    if (!same(VALUE(m, word)->text, "storage") || callables[which].call != CALL_STORAGE || VALUE(m, count)->number < 0)
        return bad(m, "a reference that is no storage");
    return push(m, (value){.kind = KIND_STORAGE,
                           .storage = {VALUE(m, key)->text, VALUE(m, count)->number, callables[which].dtype}});
}

/* (storage, offset, shape, stride, ...) */
static int make_tensor(machine *m, uint32_t arguments) {
    uint32_t storage, offset, shape, stride;
    ZOE_TRY(item(m, arguments, 0, KIND_STORAGE, &storage));
    ZOE_TRY(item(m, arguments, 1, KIND_INT, &offset));
    ZOE_TRY(item(m, arguments, 2, KIND_TUPLE, &shape));
    ZOE_TRY(item(m, arguments, 3, KIND_TUPLE, &stride));
    return push(m, (value){.kind = KIND_TENSOR, .tensor = {storage, shape, stride, VALUE(m, offset)->number}});
}

static int reduce(machine *m) {
    uint32_t arguments, function, tensor;
    ZOE_TRY(pop(m, &arguments));
    ZOE_TRY(pop(m, &function));
    if (VALUE(m, function)->kind != KIND_CALLABLE || VALUE(m, arguments)->kind != KIND_TUPLE)
        return bad(m, "a call of something that cannot be called");
    switch (callables[VALUE(m, function)->number].call) {
    case CALL_TENSOR:
        return make_tensor(m, arguments);
    case CALL_PARAMETER: /* (tensor, ...) */
        ZOE_TRY(item(m, arguments, 0, KIND_TENSOR, &tensor));
        return push_index(m, &m->stack, tensor);
    case CALL_DICT:
        if (VALUE(m, arguments)->chain.count) return bad(m, "an ordered dictionary made from something else");
        return push_chain(m, KIND_DICT);
    case CALL_PLAIN: /* ((...),) or ([...],) */
        return push_chain(m, KIND_TUPLE);
    default:
        return bad(m, "a storage that is called");
    }
}

/* Attributes of a dictionary, such as the versions of its modules, say nothing about tensors. */
static int build(machine *m) {
    uint32_t state, object;
    ZOE_TRY(pop(m, &state));
    ZOE_TRY(top(m, &object));
    return VALUE(m, object)->kind == KIND_DICT ? ZOE_OK : bad(m, "attributes for something that has none");
}

/* ---- memo ---- */

static int remember(machine *m, uint64_t slot) {
    uint32_t index;
    ZOE_TRY(top(m, &index));
    if (slot > (uint64_t)(m->end - m->start)) return bad(m, "a memo number without reason");
    while (m->memo.count <= slot) ZOE_TRY(push_index(m, &m->memo, NOTHING));
    ((uint32_t *)m->memo.data)[slot] = index;
    return ZOE_OK;
}

static int recall(machine *m, uint64_t slot) {
    uint32_t index = slot < m->memo.count ? ((uint32_t *)m->memo.data)[slot] : NOTHING;
    return index == NOTHING ? bad(m, "a memo that was never made") : push_index(m, &m->stack, index);
}

/* ---- the operations ---- */

static int take_and(machine *m, int bytes, int (*then)(machine *, uint64_t)) {
    uint64_t number;
    ZOE_TRY(take_number(m, bytes, &number));
    return then(m, number);
}

static int push_number(machine *m, uint64_t number) {
    return push(m, (value){.kind = KIND_INT, .number = (int64_t)number});
}

static int push_signed(machine *m, uint64_t number) {
    return push(m, (value){.kind = KIND_INT, .number = (int32_t)(uint32_t)number});
}

static int ignore_real(machine *m, uint64_t bits) {
    (void)bits; /* no tensor is described by one */
    return push(m, (value){.kind = KIND_FLOAT});
}

static int check_protocol(machine *m, uint64_t version) {
    return version == 2 ? ZOE_OK
                        : zoe_fail(m->ctx, ZOE_ERR_UNSUPPORTED, "%s: pickle protocol %llu; torch.save() writes 2", m->path,
                                   (unsigned long long)version);
}

static int last_as_tuple(machine *m, size_t count) {
    if (m->stack.count - stack_floor(m) < count) return bad(m, "a value is missing");
    return make_tuple(m, m->stack.count - count);
}

static int since_mark(machine *m, int (*then)(machine *, size_t, value_kind), value_kind kind) {
    size_t first;
    ZOE_TRY(pop_mark(m, &first));
    return then ? then(m, first, kind) : make_tuple(m, first);
}

static int set_last(machine *m, size_t count, value_kind kind) {
    if (m->stack.count - stack_floor(m) < count) return bad(m, "a value is missing");
    return fill(m, m->stack.count - count, kind);
}

static int step(machine *m, uint8_t operation) {
    switch (operation) {
    case 0x80:
        return take_and(m, 1, check_protocol);
    case '(':
        return push_index(m, &m->marks, (uint32_t)m->stack.count);
    case ')':
        return push_chain(m, KIND_TUPLE);
    case ']':
        return push_chain(m, KIND_LIST);
    case '}':
        return push_chain(m, KIND_DICT);
    case 't':
        return since_mark(m, NULL, KIND_TUPLE);
    case 'e':
        return since_mark(m, fill, KIND_LIST);
    case 'u':
        return since_mark(m, fill, KIND_DICT);
    case 'a':
        return set_last(m, 1, KIND_LIST);
    case 's':
        return set_last(m, 2, KIND_DICT);
    case 0x85:
        return last_as_tuple(m, 1);
    case 0x86:
        return last_as_tuple(m, 2);
    case 0x87:
        return last_as_tuple(m, 3);
    case 'X':
        return take_text(m, 4);
    case 'K':
        return take_and(m, 1, push_number);
    case 'M':
        return take_and(m, 2, push_number);
    case 'J':
        return take_and(m, 4, push_signed);
    case 'G':
        return take_and(m, 8, ignore_real);
    case 0x8a:
        return take_long(m);
    case 0x88:
        return push(m, (value){.kind = KIND_BOOL, .number = 1});
    case 0x89:
        return push(m, (value){.kind = KIND_BOOL, .number = 0});
    case 'N':
        return push(m, (value){.kind = KIND_NONE});
    case 'q':
        return take_and(m, 1, remember);
    case 'r':
        return take_and(m, 4, remember);
    case 'h':
        return take_and(m, 1, recall);
    case 'j':
        return take_and(m, 4, recall);
    case 'c':
        return take_callable(m);
    case 'Q':
        return make_storage(m);
    case 'R':
        return reduce(m);
    case 'b':
        return build(m);
    default:
        return zoe_fail(m->ctx, ZOE_ERR_UNSUPPORTED,
                        "%s: pickle operation 0x%02x at byte %td is refused: only plain "
                        "dictionaries of tensors are read",
                        m->path, operation, m->p - 1 - m->start);
    }
}

static int run(machine *m, uint32_t *result) {
    for (;;) {
        const uint8_t *operation;
        ZOE_TRY(take(m, 1, &operation));
        if (*operation == '.') return pop(m, result);
        ZOE_TRY(step(m, *operation));
    }
}

/* ---- the result ---- */

/* Whole numbers of at least 0 from a tuple of `rank`. */
static int numbers(machine *m, uint32_t tuple, int rank, int64_t *out) {
    uint32_t index = VALUE(m, tuple)->chain.first;
    for (int i = 0; i < rank; i++, index = LINK(m, index)->next) {
        const value *number = VALUE(m, LINK(m, index)->item);
        if (number->kind != KIND_INT || number->number < 0) return bad(m, "a shape or stride that is no whole number");
        out[i] = number->number;
    }
    return ZOE_OK;
}

static int describe(machine *m, zoe_pickle_text name, const value *from, zoe_pickle_tensor *out) {
    const value *storage = VALUE(m, from->tensor.storage);
    uint32_t rank = VALUE(m, from->tensor.shape)->chain.count;
    char text[80];
    if (rank > ZOE_MAX_RANK)
        return zoe_fail(m->ctx, ZOE_ERR_UNSUPPORTED, "%s: tensor \"%s\" has %u axes; at most %d are supported", m->path,
                        shown(name, text), (unsigned)rank, ZOE_MAX_RANK);
    if (VALUE(m, from->tensor.stride)->chain.count != rank || from->tensor.offset < 0)
        return bad(m, "a shape and strides of different lengths, or a negative offset");
    *out = (zoe_pickle_tensor){.name = name,
                               .storage = storage->storage.key,
                               .dtype = storage->storage.dtype,
                               .rank = (int)rank,
                               .offset = from->tensor.offset,
                               .storage_count = storage->storage.count};
    ZOE_TRY(numbers(m, from->tensor.shape, (int)rank, out->shape));
    return numbers(m, from->tensor.stride, (int)rank, out->stride);
}

/* Training programs put the tensors into a dictionary of their own, beside the state of the training. */
static uint32_t inner_dictionary(const machine *m, uint32_t root) {
    static const char *const names[] = {"module", "state_dict", "model"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (uint32_t at = VALUE(m, root)->chain.first; at != NOTHING; at = LINK(m, at)->next) {
            const value *key = VALUE(m, LINK(m, at)->key), *entry = VALUE(m, LINK(m, at)->item);
            if (key->kind == KIND_TEXT && same(key->text, names[i]) && entry->kind == KIND_DICT) return LINK(m, at)->item;
        }
    return root;
}

static int visit_all(machine *m, uint32_t root, int (*visit)(void *, const zoe_pickle_tensor *), void *user) {
    if (VALUE(m, root)->kind == KIND_DICT) root = inner_dictionary(m, root);
    if (VALUE(m, root)->kind != KIND_DICT)
        return zoe_fail(m->ctx, ZOE_ERR_UNSUPPORTED, "%s holds no dictionary of tensors", m->path);
    for (uint32_t at = VALUE(m, root)->chain.first; at != NOTHING; at = LINK(m, at)->next) {
        const value *key = VALUE(m, LINK(m, at)->key), *entry = VALUE(m, LINK(m, at)->item);
        zoe_pickle_tensor tensor;
        if (key->kind != KIND_TEXT || entry->kind != KIND_TENSOR) continue;
        ZOE_TRY(describe(m, key->text, entry, &tensor));
        ZOE_TRY(visit(user, &tensor));
    }
    return ZOE_OK;
}

int zoe_pickle_read(zoe_context *ctx, const char *path, const void *data, size_t size,
                    int (*visit)(void *user, const zoe_pickle_tensor *tensor), void *user) {
    machine m = {.ctx = ctx, .path = path, .start = data, .p = data, .end = (const uint8_t *)data + size};
    uint32_t root;
    int status = run(&m, &root);
    if (status >= 0) status = visit_all(&m, root, visit, user);
    zoe_free(ctx, m.values.data);
    zoe_free(ctx, m.links.data);
    zoe_free(ctx, m.stack.data);
    zoe_free(ctx, m.marks.data);
    zoe_free(ctx, m.memo.data);
    return status;
}
