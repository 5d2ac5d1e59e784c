/* The CogVideoX family: 1.0 and 1.5, from text and from a picture, in the diffusers layout. */
#ifndef ZOE_MODELS_COGVIDEOX_COGVIDEOX_H
#define ZOE_MODELS_COGVIDEOX_COGVIDEOX_H

#include "models/family.h"

extern const zoe_family zoe_cogvideox_family;

#endif
