// The order of a leaf's entries, which stand in unsorted slots: what scans and splits need.
#ifndef NVM_SLOTS_H
#define NVM_SLOTS_H

#include <stdint.h>

#define NVM_SLOTS_MAX 32
// Of a leaf. As many may be read, whatever `set` says.
#define NVM_LEAF_SLOTS 28

// A slot is two words: the head of a key, by which it is sorted, and another. `set` has a bit for each of the slots to
// be looked at, at most NVM_SLOTS_MAX. Equal heads keep the order of their slots. No branch depends on a head: about
// n * n / 8 vector compares with AVX-512, n * n / 4 with AVX2. Slots may change meanwhile; what comes out is then
// arbitrary, but no more than that many entries or slots.

// order[k] := the slot with the k-th smallest head. Room for NVM_SLOTS_MAX. Returns how many.
int nvm_slot_order(const void *slots, uint32_t set, uint8_t *order);

// Copies the slots in the order of their heads: pairs of head and word. Room for NVM_SLOTS_MAX pairs. Returns how many.
// Meanwhile brings NVM_SLOTS_AHEAD bytes on their way to the cache, a line now and then: as many requests in a row would
// keep the processor waiting for the first of them.
//
// The heads of a leaf mostly differ within a few bytes, which are quicker to compare than all eight. `window` says from which
// byte on, 0 ... 4, to look at four of them (byte 7 is the highest), NVM_WINDOW_TOP at first; where those do not decide, all
// are looked at, and the window is moved, or given up for some leaves. It changes how long this takes and nothing else, so
// what was learned of one leaf may be handed on to others of the tree.
#define NVM_SLOTS_AHEAD 512
#define NVM_WINDOW_TOP 4
#define NVM_WINDOW_NONE 36
int nvm_sort_slots(const void *slots, uint32_t set, uint64_t *pairs, const void *ahead, unsigned *window);

#endif
