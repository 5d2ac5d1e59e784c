/*
 * Which way up a picture is: one number in the EXIF block, which each file format keeps in a place of its own. Whatever is
 * malformed counts as upright, as the pixels are fine without it.
 */
#include <stdio.h>
#include <string.h>

#include "media/picture_parts.h"

#define UPRIGHT 1

static unsigned number(const uint8_t *p, int bytes, bool big_endian) {
    unsigned value = 0;
    for (int i = 0; i < bytes; i++) value = value << 8 | p[big_endian ? i : bytes - 1 - i];
    return value;
}

/* Looks for tag 0x112 in the first directory of the TIFF structure that starts at the file's current place. */
static int orientation_of_tiff(FILE *file) {
    uint8_t head[12];
    long start = ftell(file);
    if (fread(head, 1, 8, file) != 8) return UPRIGHT;
    bool big_endian = head[0] == 'M';
    if (memcmp(head, big_endian ? "MM\0*" : "II*\0", 4) != 0) return UPRIGHT;
    if (fseek(file, start + (long)number(head + 4, 4, big_endian), SEEK_SET) != 0 || fread(head, 1, 2, file) != 2)
        return UPRIGHT;
    for (unsigned count = number(head, 2, big_endian); count > 0 && fread(head, 1, 12, file) == 12; count--) {
        if (number(head, 2, big_endian) != 0x112) continue;
        unsigned type = number(head + 2, 2, big_endian), value = number(head + 8, 2, big_endian);
        return type == 3 && value >= 1 && value <= 8 ? (int)value : UPRIGHT;
    }
    return UPRIGHT;
}

/* The same behind "Exif", which JPEG demands and some writers of WebP add. */
static int orientation_of_block(FILE *file) {
    uint8_t prefix[6];
    long start = ftell(file);
    bool prefixed = fread(prefix, 1, 6, file) == 6 && memcmp(prefix, "Exif\0", 6) == 0;
    if (!prefixed && fseek(file, start, SEEK_SET) != 0) return UPRIGHT;
    return orientation_of_tiff(file);
}

/* Segments: 0xff, marker, length with itself. APP1 that starts with "Exif" is the one; the pixels end the search. */
static int orientation_of_jpeg(FILE *file) {
    uint8_t head[10];
    if (fseek(file, 2, SEEK_SET) != 0) return UPRIGHT;
    while (fread(head, 1, 4, file) == 4 && head[0] == 0xff && head[1] != 0xda) {
        long length = (long)number(head + 2, 2, true) - 2;
        if (length < 0) return UPRIGHT;
        if (head[1] == 0xe1 && length > 6) {
            if (fread(head + 4, 1, 6, file) != 6) return UPRIGHT;
            if (memcmp(head + 4, "Exif\0", 6) == 0) return orientation_of_tiff(file);
            length -= 6;
        }
        if (fseek(file, length, SEEK_CUR) != 0) return UPRIGHT;
    }
    return UPRIGHT;
}

/* Chunks of PNG (length, type, data, checksum) or RIFF (type, length, data, padding to even). */
static int orientation_of_chunks(FILE *file, bool png) {
    uint8_t head[8];
    if (fseek(file, png ? 8 : 12, SEEK_SET) != 0) return UPRIGHT;
    while (fread(head, 1, 8, file) == 8) {
        unsigned length = png ? number(head, 4, true) : number(head + 4, 4, false);
        if (memcmp(png ? head + 4 : head, png ? "eXIf" : "EXIF", 4) == 0) return orientation_of_block(file);
        if (fseek(file, (long)length + (png ? 4 : (long)(length & 1)), SEEK_CUR) != 0) return UPRIGHT;
    }
    return UPRIGHT;
}

int zoe_exif_orientation(const char *path) {
    uint8_t magic[12];
    int orientation = UPRIGHT;
    FILE *file = fopen(path, "rbe");
    if (!file) return UPRIGHT;
    if (fread(magic, 1, sizeof magic, file) == sizeof magic) {
        if (memcmp(magic, "\xff\xd8\xff", 3) == 0)
            orientation = orientation_of_jpeg(file);
        else if (memcmp(magic, "\x89PNG", 4) == 0)
            orientation = orientation_of_chunks(file, true);
        else if (memcmp(magic, "RIFF", 4) == 0 && memcmp(magic + 8, "WEBP", 4) == 0)
            orientation = orientation_of_chunks(file, false);
        else if (fseek(file, 0, SEEK_SET) == 0)
            orientation = orientation_of_tiff(file);
    }
    fclose(file);
    return orientation;
}
