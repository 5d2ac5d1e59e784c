/* Small things that every use of FFmpeg's libraries here needs. */
#ifndef ZOE_MEDIA_AV_H
#define ZOE_MEDIA_AV_H

#include <stdio.h>

#include "base/context.h"
#include "media/lazy.h"

/*
 * FFmpeg's libraries write to standard error unless told otherwise. This silences them, but leaves a program alone that
 * has set a level of its own.
 */
void zoe_av_quiet(void);

/* A frame rate as a fraction: 24 as 24/1, 23.976 as 24000/1001, 12.5 as 25/2. */
AVRational zoe_av_rate(double fps);

/* ---- reading ---- */

/* A file open for reading. It is told apart by its contents alone, and cannot make the library open any other file. */
typedef struct zoe_av_input {
    FILE *file;
    AVIOContext *io;
    AVFormatContext *format;
    AVStream *stream; /* the first that holds video or a picture */
} zoe_av_input;

/* `what` is what the file should be ("a picture"). */
int zoe_av_open(zoe_context *ctx, const char *path, const char *what, zoe_av_input *input);
void zoe_av_close(zoe_av_input *input);

/* A decoder for the stream, and the stream's next packet; both give a status of FFmpeg's. */
int zoe_av_open_decoder(const AVStream *stream, AVCodecContext **out);
int zoe_av_next_packet(zoe_av_input *input, AVPacket *packet);

/* Decodes the first frame; *more says whether another one follows. Freed by av_frame_free(). */
int zoe_av_first_frame(zoe_context *ctx, const char *path, zoe_av_input *input, AVFrame **frame, bool *more);

#endif
