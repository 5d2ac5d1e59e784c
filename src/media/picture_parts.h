/* What the steps of loading a picture share. */
#ifndef ZOE_MEDIA_PICTURE_PARTS_H
#define ZOE_MEDIA_PICTURE_PARTS_H

#include <libavutil/frame.h>

#include "media/media.h"

/* Converts a decoded frame to RGB as Pillow's convert("RGB") does: alpha dropped, grey repeated, colours of a palette. */
int zoe_picture_from_frame(zoe_context *ctx, const char *path, const AVFrame *frame, zoe_picture *out);

/* The EXIF orientation in a JPEG, PNG, WebP or TIFF file: 1 to 8, and 1 where there is none. */
int zoe_exif_orientation(const char *path);

/* Replaces the picture by its upright version. */
int zoe_picture_turn(zoe_context *ctx, int orientation, zoe_picture *picture);

#endif
