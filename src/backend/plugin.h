/*
 * Backends that live in a shared library of their own, loaded when their device is asked for: one build of the engine
 * serves machines with and without the device, and needs none of its libraries.
 *
 * A plug-in exports one function, zoe_backend_plugin(). It carries its own copy of the few base functions it calls.
 */
#ifndef ZOE_BACKEND_PLUGIN_H
#define ZOE_BACKEND_PLUGIN_H

#include "backend/backend.h"

/* Goes up with every change of the structs that both sides share. */
#define ZOE_PLUGIN_LAYOUT 5

typedef struct zoe_plugin_settings {
    int device;        /* number of the device */
    zoe_dtype dtype;   /* of activations: ZOE_F32 or ZOE_BF16 */
    int64_t budget;    /* bytes of device memory that may be used; 0: what is free, less a margin */
    int largest_level; /* as major * 10 + minor, such as 80: newer paths stay unused; 0: all may be used */
} zoe_plugin_settings;

typedef struct zoe_plugin_device {
    char name[256];
    int level; /* compute capability as major * 10 + minor */
    int processors;
    int64_t memory_total, memory_free;
} zoe_plugin_device;

typedef struct zoe_plugin {
    int layout; /* ZOE_PLUGIN_LAYOUT */
    size_t backend_size, context_size;
    int (*count)(zoe_context *ctx, int *count);
    int (*describe)(zoe_context *ctx, int device, zoe_plugin_device *out);
    int (*create)(zoe_context *ctx, const zoe_plugin_settings *settings, zoe_backend **out);
} zoe_plugin;

typedef const zoe_plugin *(*zoe_plugin_entry)(void);

/*
 * Loads libzoetrope-<name>.so from $ZOE_PLUGIN_DIR, from the folder of the running program or library, from
 * ../lib/zoetrope beside it, or from where it was installed. It stays loaded until the process ends. ZOE_ERR_UNSUPPORTED:
 * there is none; ZOE_ERR_DEVICE: there is one that cannot be used.
 */
int zoe_plugin_load(zoe_context *ctx, const char *name, const zoe_plugin **out);

#endif
