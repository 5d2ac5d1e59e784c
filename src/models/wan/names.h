/* Names of Wan-AI's own files beside those of the diffusers layout, which the slot tables use. */
#ifndef ZOE_MODELS_WAN_NAMES_H
#define ZOE_MODELS_WAN_NAMES_H

#include "weights/weights.h"

extern const zoe_alias zoe_wan_denoiser_aliases[];
extern const zoe_alias zoe_wan_text_aliases[];
extern const zoe_alias zoe_wan_clip_aliases[];
extern const zoe_alias zoe_wan_vae_21_aliases[];
extern const zoe_alias zoe_wan_vae_22_aliases[];

#endif
