/* libsentencepiece, which has no C interface, behind four calls. No exception leaves them. */
#ifndef ZOE_FORMATS_SPM_H
#define ZOE_FORMATS_SPM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zoe_spm zoe_spm;

/* A model from its serialised bytes. NULL on failure, with the reason in `error`. */
zoe_spm *zoe_spm_open(const void *data, size_t size, char *error, size_t error_size);
void zoe_spm_close(zoe_spm *spm);

int zoe_spm_size(const zoe_spm *spm); /* pieces */
int zoe_spm_eos(const zoe_spm *spm);  /* id of the end of a sentence, -1 if the model has none */

/*
 * Encodes `text` and hands the ids, in order, to `ids`, of which at most `room` are stored. Returns how many there are;
 * -1 on failure, with the reason in `error`.
 */
int zoe_spm_encode(const zoe_spm *spm, const char *text, size_t length, int32_t *ids, int room, char *error,
                   size_t error_size);

#ifdef __cplusplus
}
#endif

#endif
