#include "backend/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef ZOE_PLUGIN_INSTALL_DIR
#define ZOE_PLUGIN_INSTALL_DIR "/usr/local/lib/zoetrope"
#endif

/* The folder of the program or shared library that this code is part of; false if it cannot be told. */
static bool own_folder(char folder[PATH_MAX]) {
    Dl_info info;
    if (!dladdr((void *)(uintptr_t)zoe_plugin_load, &info) || !info.dli_fname) return false;
    if (!realpath(strchr(info.dli_fname, '/') ? info.dli_fname : "/proc/self/exe", folder)) return false;
    *strrchr(folder, '/') = 0;
    return true;
}

/* Tries one place; a file that is there and does not load is an error to tell. */
static int try_folder(zoe_context *ctx, const char *folder, const char *below, const char *name, void **library) {
    if (!folder || *library) return ZOE_OK;
    char *path = zoe_format(ctx, "%s%s/libzoetrope-%s.so", folder, below, name);
    if (!path) return zoe_out_of_memory(ctx, strlen(folder), "path");
    int status = ZOE_OK;
    if (access(path, R_OK) == 0 && !(*library = dlopen(path, RTLD_NOW | RTLD_LOCAL)))
        status = zoe_fail(ctx, ZOE_ERR_DEVICE, "%s does not load: %s", path, dlerror());
    zoe_free(ctx, path);
    return status;
}

static int find(zoe_context *ctx, const char *name, void **library) {
    char folder[PATH_MAX];
    const char *own = own_folder(folder) ? folder : NULL;
    int status = try_folder(ctx, getenv("ZOE_PLUGIN_DIR"), "", name, library);
    if (status == ZOE_OK) status = try_folder(ctx, own, "", name, library);
    if (status == ZOE_OK) status = try_folder(ctx, own, "/zoetrope", name, library);
    if (status == ZOE_OK) status = try_folder(ctx, own, "/../lib/zoetrope", name, library);
    if (status == ZOE_OK) status = try_folder(ctx, ZOE_PLUGIN_INSTALL_DIR, "", name, library);
    if (status < 0 || *library) return status;
    return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED,
                    "libzoetrope-%s.so was not found beside the program, in %s or in $ZOE_PLUGIN_DIR: this installation "
                    "computes on the CPU only; use --device cpu, or build with the %s preset",
                    name, ZOE_PLUGIN_INSTALL_DIR, name);
}

int zoe_plugin_load(zoe_context *ctx, const char *name, const zoe_plugin **out) {
    void *library = NULL;
    *out = NULL;
    ZOE_TRY(find(ctx, name, &library));
    zoe_plugin_entry entry;
    void *symbol = dlsym(library, "zoe_backend_plugin");
    memcpy(&entry, &symbol, sizeof entry);
    const zoe_plugin *plugin = symbol ? entry() : NULL;
    if (!plugin || plugin->layout != ZOE_PLUGIN_LAYOUT || plugin->backend_size != sizeof(zoe_backend) ||
        plugin->context_size != sizeof(zoe_context)) {
        dlclose(library);
        return zoe_fail(ctx, ZOE_ERR_DEVICE, "libzoetrope-%s.so belongs to another version than %s; install both again",
                        name, zoe_version());
    }
    *out = plugin;
    return ZOE_OK;
}
