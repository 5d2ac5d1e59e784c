/* Names of the authors' own files (SAT) beside those of the diffusers layout, which the slot tables use. */
#ifndef ZOE_MODELS_COGVIDEOX_NAMES_H
#define ZOE_MODELS_COGVIDEOX_NAMES_H

#include "weights/weights.h"

extern const zoe_alias zoe_cogvideox_denoiser_aliases[];
extern const zoe_alias zoe_cogvideox_vae_aliases[];

#endif
