/* The LTX-Video family: 0.9.0 to 0.9.8, from text, a first and a last picture, in the diffusers layout. */
#ifndef ZOE_MODELS_LTX_LTX_H
#define ZOE_MODELS_LTX_LTX_H

#include "models/family.h"

extern const zoe_family zoe_ltx_family;

#endif
