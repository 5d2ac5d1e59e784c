/* A name for a video whose maker gave none. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

enum { STEM_BYTES = 48 };

/* Letters and digits of the prompt in lower case, everything else as single dashes; not cut within a letter. */
static void make_stem(const char *prompt, char stem[STEM_BYTES + 1]) {
    size_t used = 0;
    for (const unsigned char *at = (const unsigned char *)prompt; *at && used < STEM_BYTES; at++) {
        if (*at >= 0x80)
            stem[used++] = (char)*at;
        else if (isalnum(*at))
            stem[used++] = (char)tolower(*at);
        else if (used && stem[used - 1] != '-')
            stem[used++] = '-';
    }
    if (used == STEM_BYTES) {
        size_t cut = used; /* back to the end of a word, or at least of a character */
        while (cut > STEM_BYTES / 2 && stem[cut - 1] != '-') cut--;
        if (cut > STEM_BYTES / 2)
            used = cut;
        else
            while (used && ((unsigned char)stem[used - 1] & 0xc0) == 0x80) used--;
        if (used && (unsigned char)stem[used - 1] >= 0xc0) used--;
    }
    while (used && stem[used - 1] == '-') used--;
    stem[used] = 0;
}

bool cli_name_output(const char *prompt, char *name, size_t size) {
    char stem[STEM_BYTES + 1];
    make_stem(prompt, stem);
    if (!*stem) strcpy(stem, "video");
    for (int number = 1; number < 10000; number++) {
        if (number == 1)
            snprintf(name, size, "%s.mp4", stem);
        else
            snprintf(name, size, "%s-%d.mp4", stem, number);
        if (access(name, F_OK) != 0) return true;
    }
    cli_complain("no free name for the video like \"%s\"; name it with -o FILE", name);
    return false;
}
