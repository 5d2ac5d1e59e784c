/*
 * PyTorch's files (.pth, .pt, .bin): a zip archive with "<name>/data.pkl", which describes the tensors, and one stored
 * entry "<name>/data/<key>" for each storage, which is used where it lies. Source of the layout: PyTorch's
 * caffe2/serialize/inline_container.cc and the zip specification (APPNOTE.TXT).
 */
#include <stdlib.h>
#include <string.h>

#include "formats/checkpoint_parts.h"
#include "formats/pickle.h"
#include "formats/tokenizer.h"

#define NAME_LIMIT   4096
#define PICKLE_LIMIT ((uint64_t)256 << 20)

typedef struct zip_entry {
    const char *name; /* in the mapping, not NUL-terminated */
    size_t name_length;
    uint64_t offset, size; /* of the data in the file */
} zip_entry;

typedef struct archive {
    zoe_context *ctx;
    zoe_checkpoint *ckpt;
    int number; /* of the file in the checkpoint */
    const char *path;
    const uint8_t *data;
    uint64_t size;
    zip_entry *entries; /* sorted by name */
    size_t count;
    size_t prefix; /* length of "<name>/" in the entries' names */
    const char *prefix_text;
} archive;

static uint64_t number(const uint8_t *p, int bytes) {
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--) value = value << 8 | p[i];
    return value;
}

static int bad(const archive *a, const char *what) {
    return zoe_fail(a->ctx, ZOE_ERR_FORMAT, "%s: damaged zip archive: %s; fetch the file again", a->path, what);
}

/* ---- the directory at the archive's end ---- */

typedef struct directory {
    uint64_t offset, size, count;
} directory;

/* The larger numbers of an archive beyond 4 GiB stand in a record of their own, found through a locator. */
static int read_zip64_end(const archive *a, uint64_t end, directory *out) {
    if (end < 20 || number(a->data + end - 20, 4) != 0x07064b50) return bad(a, "its ZIP64 locator is missing");
    uint64_t at = number(a->data + end - 20 + 8, 8);
    if (a->size < 56 || at > a->size - 56 || number(a->data + at, 4) != 0x06064b50)
        return bad(a, "its ZIP64 end record is missing");
    *out = (directory){number(a->data + at + 48, 8), number(a->data + at + 40, 8), number(a->data + at + 32, 8)};
    return ZOE_OK;
}

static int find_directory(const archive *a, directory *out) {
    uint64_t lowest = a->size > 65557 ? a->size - 65557 : 0; /* the end record with its longest comment */
    if (a->size < 22) return bad(a, "it is cut short");
    for (uint64_t at = a->size - 22;; at--) {
        const uint8_t *p = a->data + at;
        if (number(p, 4) == 0x06054b50) {
            *out = (directory){number(p + 16, 4), number(p + 12, 4), number(p + 10, 2)};
            if (out->offset == UINT32_MAX || out->size == UINT32_MAX || out->count == UINT16_MAX)
                ZOE_TRY(read_zip64_end(a, at, out));
            break;
        }
        if (at == lowest) return bad(a, "its directory is missing: the file is cut short");
    }
    if (out->offset > a->size || out->size > a->size - out->offset) return bad(a, "its directory lies outside the file");
    if (out->count > out->size / 46) return bad(a, "its directory is too small for its entries");
    return ZOE_OK;
}

/* Replaces the numbers that did not fit into 32 bits by those of the ZIP64 extra field, in the order that it demands. */
static int read_zip64_extra(const archive *a, const uint8_t *extra, size_t length, uint64_t *numbers[3]) {
    for (size_t at = 0; at + 4 <= length;) {
        size_t size = (size_t)number(extra + at + 2, 2), used = 0;
        if (size > length - at - 4) break;
        for (int i = 0; number(extra + at, 2) == 1 && i < 3; i++) {
            if (*numbers[i] != UINT32_MAX) continue;
            if (used + 8 > size) return bad(a, "a ZIP64 field is too short");
            *numbers[i] = number(extra + at + 4 + used, 8);
            used += 8;
        }
        at += 4 + size;
    }
    return ZOE_OK;
}

/* The data follow the entry's local header, whose own extra field need not be as long as the directory's. */
static int locate_data(const archive *a, uint64_t header, zip_entry *entry) {
    if (header > a->size || a->size - header < 30 || number(a->data + header, 4) != 0x04034b50)
        return bad(a, "an entry lies outside the file");
    entry->offset = header + 30 + number(a->data + header + 26, 2) + number(a->data + header + 28, 2);
    if (entry->offset > a->size || entry->size > a->size - entry->offset) return bad(a, "an entry lies outside the file");
    return ZOE_OK;
}

/* One entry of the directory at *at; moves *at behind it. */
static int read_entry(const archive *a, uint64_t *at, uint64_t end, zip_entry *entry) {
    const uint8_t *p = a->data + *at;
    if (end - *at < 46 || number(p, 4) != 0x02014b50) return bad(a, "its directory is malformed");
    uint64_t packed = number(p + 20, 4), header = number(p + 42, 4);
    size_t name = (size_t)number(p + 28, 2), extra = (size_t)number(p + 30, 2), comment = (size_t)number(p + 32, 2);
    if (end - *at < 46 + name + extra + comment) return bad(a, "its directory is malformed");
    entry->size = number(p + 24, 4);
    entry->name = (const char *)p + 46;
    entry->name_length = name;
    ZOE_TRY(read_zip64_extra(a, p + 46 + name, extra, (uint64_t *[]){&entry->size, &packed, &header}));
    if (number(p + 8, 2) & 1 || number(p + 10, 2) != 0 || packed != entry->size)
        return zoe_fail(a->ctx, ZOE_ERR_UNSUPPORTED,
                        "%s: entry \"%.*s\" is compressed or encrypted, which torch.save() does not do; save it again",
                        a->path, (int)name, entry->name);
    *at += 46 + name + extra + comment;
    return locate_data(a, header, entry);
}

static int compare_names(const char *a, size_t a_length, const char *b, size_t b_length) {
    int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
    if (order) return order;
    return a_length < b_length ? -1 : a_length > b_length;
}

static int compare_entries(const void *a, const void *b) {
    const zip_entry *x = a, *y = b;
    return compare_names(x->name, x->name_length, y->name, y->name_length);
}

static int read_directory(archive *a) {
    directory dir;
    ZOE_TRY(find_directory(a, &dir));
    ZOE_TRY(ZOE_NEW_ARRAY(a->ctx, a->entries, dir.count ? dir.count : 1));
    uint64_t at = dir.offset, end = dir.offset + dir.size;
    for (; a->count < dir.count; a->count++) ZOE_TRY(read_entry(a, &at, end, &a->entries[a->count]));
    if (a->count) qsort(a->entries, a->count, sizeof *a->entries, compare_entries);
    return ZOE_OK;
}

/* ---- what PyTorch puts into it ---- */

/* The entry "<name>/<folder><key>", or NULL. */
static const zip_entry *find_entry(const archive *a, const char *folder, zoe_pickle_text key) {
    size_t low = 0, high = a->count, inner = strlen(folder);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const zip_entry *entry = &a->entries[middle];
        const char *rest = entry->name + a->prefix;
        size_t left = entry->name_length;
        int order = compare_names(a->prefix_text, a->prefix, entry->name, left < a->prefix ? left : a->prefix);
        if (left >= a->prefix) left -= a->prefix;
        if (!order) order = compare_names(folder, inner, rest, left < inner ? left : inner);
        if (!order) order = compare_names(key.data, key.length, rest + inner, left - inner);
        if (!order) return entry;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static const zip_entry *find_named(const archive *a, const char *name) {
    return find_entry(a, "", (zoe_pickle_text){name, strlen(name)});
}

/* The archive's own name stands in front of each entry's; the description tells what it is. */
static const zip_entry *find_pickle(archive *a) {
    static const char name[] = "data.pkl";
    const size_t length = sizeof name - 1;
    for (size_t i = 0; i < a->count; i++) {
        const zip_entry *entry = &a->entries[i];
        size_t prefix = entry->name_length < length ? 0 : entry->name_length - length;
        const char *slash = prefix ? memchr(entry->name, '/', prefix) : NULL;
        if (!slash || slash != entry->name + prefix - 1 || memcmp(slash + 1, name, length) != 0) continue;
        a->prefix = prefix;
        a->prefix_text = entry->name;
        return entry;
    }
    return NULL;
}

static bool is_dense(const zoe_pickle_tensor *tensor) {
    int64_t expected = 1;
    for (int i = tensor->rank - 1; i >= 0; i--) {
        if (tensor->shape[i] != 1 && tensor->stride[i] != expected) return false;
        expected *= tensor->shape[i]; /* cannot overflow: the product was checked */
    }
    return true;
}

/* Checks a tensor's description against the file and appends its entry. */
static int append_tensor(archive *a, const char *name, const zoe_pickle_tensor *tensor) {
    uint64_t bytes, element = zoe_dtype_size(tensor->dtype);
    const zip_entry *entry = find_entry(a, "data/", tensor->storage);
    if (!entry) return zoe_fail(a->ctx, ZOE_ERR_FORMAT, "%s: the data of tensor \"%s\" are missing", a->path, name);
    if (!zoe_checkpoint_bytes(tensor->dtype, tensor->rank, tensor->shape, &bytes))
        return zoe_fail(a->ctx, ZOE_ERR_FORMAT, "%s: tensor \"%s\" is too large for any file", a->path, name);
    if ((uint64_t)tensor->offset > entry->size / element || bytes > entry->size - (uint64_t)tensor->offset * element)
        return zoe_fail(a->ctx, ZOE_ERR_FORMAT, "%s: tensor \"%s\" reaches beyond its data of %llu bytes", a->path, name,
                        (unsigned long long)entry->size);
    if (bytes && !is_dense(tensor))
        return zoe_fail(a->ctx, ZOE_ERR_UNSUPPORTED,
                        "%s: tensor \"%s\" is not stored row by row; save it again after .contiguous()", a->path, name);
    return zoe_checkpoint_append(a->ckpt, a->number, name, tensor->dtype, tensor->rank, tensor->shape,
                                 entry->offset + (uint64_t)tensor->offset * element, bytes);
}

static int keep_tensor(void *user, const zoe_pickle_tensor *tensor) {
    archive *a = user;
    if (tensor->name.length > NAME_LIMIT)
        return zoe_fail(a->ctx, ZOE_ERR_FORMAT, "%s: a tensor's name has %zu bytes", a->path, tensor->name.length);
    char *name = zoe_format(a->ctx, "%.*s", (int)tensor->name.length, tensor->name.data);
    if (!name) return zoe_out_of_memory(a->ctx, tensor->name.length, "tensor name");
    int status = zoe_text_check_utf8(a->ctx, name, "a tensor's name");
    status = status < 0 ? zoe_fail_in(a->ctx, ZOE_ERR_FORMAT, "%s", a->path) : append_tensor(a, name, tensor);
    zoe_free(a->ctx, name);
    return status;
}

/* Checkpoints of models that were wrapped for several devices have "module." in front of every name. */
static void strip_wrapper(zoe_checkpoint *ckpt, size_t first) {
    static const char wrapper[] = "module.";
    const size_t length = sizeof wrapper - 1;
    for (size_t i = first; i < ckpt->count; i++)
        if (strncmp(ckpt->entries[i].name, wrapper, length) != 0) return;
    for (size_t i = first; i < ckpt->count; i++)
        memmove(ckpt->entries[i].name, ckpt->entries[i].name + length, strlen(ckpt->entries[i].name) - length + 1);
}

static int read_archive(archive *a) {
    size_t first = a->ckpt->count;
    ZOE_TRY(read_directory(a));
    const zip_entry *pickle = find_pickle(a);
    if (!pickle)
        return zoe_fail(a->ctx, ZOE_ERR_FORMAT, "%s is a zip archive, but not one of torch.save(): it has no data.pkl",
                        a->path);
    const zip_entry *order = find_named(a, "byteorder");
    if (order && (order->size != 6 || memcmp(a->data + order->offset, "little", 6) != 0))
        return zoe_fail(a->ctx, ZOE_ERR_UNSUPPORTED, "%s was saved on a big-endian machine", a->path);
    if (pickle->size > PICKLE_LIMIT)
        return zoe_fail(a->ctx, ZOE_ERR_FORMAT, "%s: a description of %llu bytes; at most %llu are read", a->path,
                        (unsigned long long)pickle->size, (unsigned long long)PICKLE_LIMIT);
    ZOE_TRY(zoe_pickle_read(a->ctx, a->path, a->data + pickle->offset, (size_t)pickle->size, keep_tensor, a));
    if (a->ckpt->count == first)
        return zoe_fail(a->ctx, ZOE_ERR_UNSUPPORTED, "%s: its dictionary holds no tensors", a->path);
    strip_wrapper(a->ckpt, first);
    return ZOE_OK;
}

int zoe_pth_read(zoe_checkpoint *ckpt, int file) {
    const zoe_mapped_file *mapped = &ckpt->files[file];
    archive a =
        {.ctx = ckpt->ctx, .ckpt = ckpt, .number = file, .path = mapped->path, .data = mapped->data, .size = mapped->size};
    if (mapped->size < 4 || memcmp(mapped->data, "PK\3\4", 4) != 0)
        return zoe_fail(
            ckpt->ctx, ZOE_ERR_UNSUPPORTED,
            "%s is not a zip archive as PyTorch 1.6 and later write it: load it with torch.load() and save it again",
            mapped->path);
    int status = read_archive(&a);
    zoe_free(ckpt->ctx, a.entries);
    return status;
}
