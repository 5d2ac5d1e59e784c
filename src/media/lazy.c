#include "media/lazy.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#define LIBRARY(name, major) "lib" #name ".so." AV_STRINGIFY(major)

zoe_av_functions zoe_av;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char failure[256]; /* empty: all went well */

static void *open_library(const char *name) {
    void *library = *failure ? NULL : dlopen(name, RTLD_LAZY | RTLD_LOCAL);
    if (!library && !*failure) snprintf(failure, sizeof failure, "%s", dlerror());
    return library;
}

static void *find(void *library, const char *name) {
    void *function = *failure ? NULL : dlsym(library, name);
    if (!function && !*failure) snprintf(failure, sizeof failure, "%s", dlerror());
    return function;
}

static void load(void) {
    void *avcodec = open_library(LIBRARY(avcodec, LIBAVCODEC_VERSION_MAJOR));
    void *avfilter = open_library(LIBRARY(avfilter, LIBAVFILTER_VERSION_MAJOR));
    void *avformat = open_library(LIBRARY(avformat, LIBAVFORMAT_VERSION_MAJOR));
#define FIND(library, name) *(void **)&name = find(library, #name);
    ZOE_AV_FUNCTIONS(FIND)
}

int zoe_av_load(zoe_context *ctx) {
    pthread_once(&once, load);
    if (!*failure) return ZOE_OK;
    return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED,
                    "pictures and videos need FFmpeg's libraries of the version that this build knows: %s", failure);
}
