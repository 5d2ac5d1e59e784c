#ifndef ZOE_MODELS_WAN_WAN_H
#define ZOE_MODELS_WAN_WAN_H

#include "models/family.h"

extern const zoe_family zoe_wan_family;

#endif
