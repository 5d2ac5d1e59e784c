/*
 * Videos out: the calling thread copies frames into a short queue, and a thread of the writer's own encodes them, so that
 * decoding the next frame and encoding the last one overlap. The file appears under its name when it is complete.
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/file.h"
#include "media/encoder.h"
#include "media/lazy.h"
#include "media/media.h"

#define QUEUE 4

typedef enum goal { GOAL_ENCODE, GOAL_COMPLETE, GOAL_ABANDON } goal;

struct zoe_video_writer {
    zoe_context *ctx;
    const zoe_encoder_kind *kind;
    char *path, *temporary, *metadata; /* temporary: NULL for standard output and numbered files */
    zoe_encoder_settings settings;     /* of the encoder: sizes are those after padding */
    int width, height;                 /* of the frames that come in */
    size_t frame_bytes;
    uint8_t *slots; /* [QUEUE, height, width, 3], padded */
    int64_t frames;

    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool locks, started; /* which of them exist */
    /* Under the mutex: */
    int first, filled; /* slots waiting or being encoded */
    bool opened;
    goal goal;
    zoe_encoder_error error;
};

/* ---- the encoding thread ---- */

/* Waits for a frame or the end. Returns the slot to encode, NULL at the end. */
static const uint8_t *next_slot(zoe_video_writer *writer) {
    pthread_mutex_lock(&writer->mutex);
    while (!writer->filled && writer->goal == GOAL_ENCODE) pthread_cond_wait(&writer->changed, &writer->mutex);
    bool more = writer->filled && writer->goal != GOAL_ABANDON;
    const uint8_t *slot = more ? writer->slots + (size_t)writer->first * writer->frame_bytes : NULL;
    pthread_mutex_unlock(&writer->mutex);
    return slot;
}

/* Publishes the state after opening (slot_done false) or after a frame. */
static void report(zoe_video_writer *writer, const zoe_encoder_error *error, bool slot_done) {
    pthread_mutex_lock(&writer->mutex);
    if (error->status < 0 && writer->error.status >= 0) writer->error = *error;
    writer->opened = true;
    if (slot_done) {
        writer->first = (writer->first + 1) % QUEUE;
        writer->filled--;
    }
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->mutex);
}

static void *encode_all(void *user) {
    zoe_video_writer *writer = user;
    zoe_encoder *encoder = NULL;
    zoe_encoder_error error = {0};
    /* A reader that goes away makes writing fail here, instead of ending the process. */
    sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, NULL);
    int status = zoe_encoder_open(writer->kind, &writer->settings, &encoder, &error);
    report(writer, &error, false);
    for (const uint8_t *slot; status >= 0 && (slot = next_slot(writer));) {
        status = zoe_encoder_frame(encoder, slot, &error);
        report(writer, &error, true);
    }
    zoe_encoder_close(encoder, status >= 0 && writer->goal == GOAL_COMPLETE, &error);
    report(writer, &error, false);
    return NULL;
}

/* ---- the calling thread ---- */

static int check_settings(zoe_context *ctx, const char *path, const zoe_video_settings *settings,
                          const zoe_encoder_kind *kind) {
    if (!kind)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT,
                        "cannot tell from its name what kind of video \"%s\" should be: use one of %s", path,
                        zoe_encoder_endings());
    if (zoe_encoder_is_numbered(kind) && !zoe_encoder_pattern_ok(path))
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT,
                        "\"%s\" has no place for the number of a picture: use a name such as frame-%%05d.png", path);
    if (settings->width < 1 || settings->height < 1 || settings->width > 16384 || settings->height > 16384)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "a video of %dx%d pixels cannot be written: sides go from 1 to 16384",
                        settings->width, settings->height);
    if (!(settings->fps >= 0.01 && settings->fps <= 1000))
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "%g frames a second cannot be written: the rate goes from 0.01 to 1000",
                        settings->fps);
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return zoe_fail(ctx, ZOE_ERR_IO, "cannot write %s: it is a folder", path);
    return ZOE_OK;
}

/* Numbered files have no temporary one: an empty file made and removed tells whether the folder can be written. */
static int claim_place(zoe_video_writer *writer) {
    zoe_context *ctx = writer->ctx;
    if (strcmp(writer->path, "-") == 0) return ZOE_OK;
    ZOE_TRY(zoe_file_beside(ctx, writer->path, &writer->temporary, NULL));
    if (zoe_encoder_is_numbered(writer->kind)) {
        unlink(writer->temporary);
        zoe_free(ctx, writer->temporary);
        writer->temporary = NULL;
    }
    return ZOE_OK;
}

static int prepare(zoe_video_writer *writer, const char *path, const zoe_video_settings *settings) {
    zoe_context *ctx = writer->ctx;
    bool even = zoe_encoder_wants_even(writer->kind);
    int width = settings->width + (even ? settings->width % 2 : 0),
        height = settings->height + (even ? settings->height % 2 : 0);
    writer->width = settings->width;
    writer->height = settings->height;
    writer->frame_bytes = (size_t)width * (size_t)height * 3;
    writer->path = zoe_strdup(ctx, path);
    if (!writer->path) return zoe_out_of_memory(ctx, strlen(path) + 1, "path");
    if (settings->metadata && !(writer->metadata = zoe_strdup(ctx, settings->metadata)))
        return zoe_out_of_memory(ctx, strlen(settings->metadata) + 1, "metadata");
    writer->slots = zoe_alloc(ctx, QUEUE * writer->frame_bytes);
    if (!writer->slots) return zoe_out_of_memory(ctx, QUEUE * writer->frame_bytes, "video frames");
    ZOE_TRY(claim_place(writer));
    writer->settings = (zoe_encoder_settings){.ctx = ctx,
                                              .path = writer->temporary ? writer->temporary : writer->path,
                                              .shown = strcmp(path, "-") ? writer->path : "to standard output",
                                              .metadata = writer->metadata,
                                              .width = width,
                                              .height = height,
                                              .fps = settings->fps};
    if (width != settings->width || height != settings->height)
        zoe_log(ctx, ZOE_LOG_INFO,
                "%s: %dx%d is padded to %dx%d by repeating the last row or column, as H.264 needs even sizes", path,
                settings->width, settings->height, width, height);
    return ZOE_OK;
}

static int start(zoe_video_writer *writer) {
    if (pthread_mutex_init(&writer->mutex, NULL) != 0)
        return zoe_fail(writer->ctx, ZOE_ERR_NOMEM, "out of memory: cannot create a lock");
    if (pthread_cond_init(&writer->changed, NULL) != 0) {
        pthread_mutex_destroy(&writer->mutex);
        return zoe_fail(writer->ctx, ZOE_ERR_NOMEM, "out of memory: cannot create a lock");
    }
    writer->locks = true;
    if (pthread_create(&writer->thread, NULL, encode_all, writer) != 0)
        return zoe_fail(writer->ctx, ZOE_ERR_NOMEM, "out of memory: cannot start a thread");
    writer->started = true;
    pthread_mutex_lock(&writer->mutex);
    while (!writer->opened) pthread_cond_wait(&writer->changed, &writer->mutex);
    zoe_encoder_error error = writer->error;
    pthread_mutex_unlock(&writer->mutex);
    return error.status < 0 ? zoe_fail(writer->ctx, error.status, "%s", error.text) : ZOE_OK;
}

int64_t zoe_video_memory(const char *path, int width, int height, int frames) {
    const zoe_encoder_kind *kind = zoe_encoder_find(path);
    return kind ? zoe_encoder_memory(kind, width, height, frames) : 0;
}

int zoe_video_create(zoe_context *ctx, const char *path, const zoe_video_settings *settings, zoe_video_writer **out) {
    *out = NULL;
    const zoe_encoder_kind *kind = zoe_encoder_find(path);
    ZOE_TRY(check_settings(ctx, path, settings, kind));
    ZOE_TRY(zoe_av_load(ctx));
    zoe_video_writer *writer;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, writer, 1));
    writer->ctx = ctx;
    writer->kind = kind;
    int status = prepare(writer, path, settings);
    if (status >= 0) status = start(writer);
    if (status < 0)
        zoe_video_abort(writer);
    else
        *out = writer;
    return status;
}

/* Copies a frame into its slot; a last row or column is repeated where padding asks for one more. */
static void copy_frame(const zoe_video_writer *writer, const uint8_t *rgb, uint8_t *slot) {
    size_t row = (size_t)writer->width * 3, padded_row = (size_t)writer->settings.width * 3;
    for (int y = 0; y < writer->settings.height; y++) {
        int source = y < writer->height ? y : writer->height - 1;
        memcpy(slot, rgb + (size_t)source * row, row);
        if (padded_row > row) memcpy(slot + row, slot + row - 3, 3);
        slot += padded_row;
    }
}

int zoe_video_write(zoe_video_writer *writer, const uint8_t *rgb) {
    pthread_mutex_lock(&writer->mutex);
    while (writer->filled == QUEUE && writer->error.status >= 0) pthread_cond_wait(&writer->changed, &writer->mutex);
    zoe_encoder_error error = writer->error;
    int slot = (writer->first + writer->filled) % QUEUE;
    pthread_mutex_unlock(&writer->mutex);
    if (error.status < 0) return zoe_fail(writer->ctx, error.status, "%s", error.text);
    copy_frame(writer, rgb, writer->slots + (size_t)slot * writer->frame_bytes); /* the thread does not look at it yet */
    pthread_mutex_lock(&writer->mutex);
    writer->filled++;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->mutex);
    writer->frames++;
    return ZOE_OK;
}

/* Lets the thread come to its end. Returns the first failure. */
static int stop(zoe_video_writer *writer, goal how) {
    if (!writer->started) return ZOE_OK;
    pthread_mutex_lock(&writer->mutex);
    writer->goal = how;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->mutex);
    pthread_join(writer->thread, NULL);
    writer->started = false;
    return writer->error.status < 0 ? zoe_fail(writer->ctx, writer->error.status, "%s", writer->error.text) : ZOE_OK;
}

static void release(zoe_video_writer *writer) {
    zoe_context *ctx = writer->ctx;
    if (writer->locks) {
        pthread_cond_destroy(&writer->changed);
        pthread_mutex_destroy(&writer->mutex);
    }
    if (writer->temporary) unlink(writer->temporary);
    zoe_free(ctx, writer->temporary);
    zoe_free(ctx, writer->path);
    zoe_free(ctx, writer->metadata);
    zoe_free(ctx, writer->slots);
    zoe_free(ctx, writer);
}

int zoe_video_finish(zoe_video_writer *writer) {
    int status = stop(writer, writer->frames ? GOAL_COMPLETE : GOAL_ABANDON);
    if (status >= 0 && writer->temporary && writer->frames && rename(writer->temporary, writer->path) != 0)
        status = zoe_fail(writer->ctx, ZOE_ERR_IO, "cannot write %s: %m", writer->path);
    release(writer);
    return status;
}

void zoe_video_abort(zoe_video_writer *writer) {
    if (!writer) return;
    char kept[ZOE_ERROR_TEXT]; /* what made the caller give up is not to be replaced by what the encoder says to it */
    memcpy(kept, writer->ctx->error, sizeof kept);
    stop(writer, GOAL_ABANDON);
    memcpy(writer->ctx->error, kept, sizeof kept);
    release(writer);
}
