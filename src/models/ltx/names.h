/* Names of Lightricks' own files beside those of the diffusers layout, which the slot tables use. */
#ifndef ZOE_MODELS_LTX_NAMES_H
#define ZOE_MODELS_LTX_NAMES_H

#include "models/ltx/vae.h"

extern const zoe_alias zoe_ltx_denoiser_aliases[];

/* The original numbers the parts of both directions one after the other; which part is where differs by version. */
extern const zoe_alias zoe_ltx_vae_090_aliases[];
extern const zoe_alias zoe_ltx_vae_091_aliases[];
extern const zoe_alias zoe_ltx_vae_095_aliases[];

/* Those of the version that the configuration describes. */
const zoe_alias *zoe_ltx_vae_aliases(const zoe_ltx_vae_config *config);

#endif
