// The C shims of swift-nvm: what Swift cannot say, or cannot say as fast. Everything hot is
// `static inline`; architecture-specific code stands under #if with a portable branch.
#ifndef CNVM_H
#define CNVM_H

#include "nvm_atomic.h"
#include "nvm_batch.h"
#include "nvm_callers.h"
#include "nvm_descend.h"
#include "nvm_flush.h"
#include "nvm_group.h"
#include "nvm_guard.h"
#include "nvm_hash.h"
#include "nvm_match.h"
#include "nvm_search.h"
#include "nvm_slots.h"
#include "nvm_system.h"
#include "nvm_thread.h"

#endif
