// A small number for each living thread, given back when the thread ends: the index of its counters,
// lane, cache and epoch.
#ifndef NVM_THREAD_H
#define NVM_THREAD_H

#include <stdint.h>

// Slots 1 ..< NVM_THREAD_SLOTS are each owned by one living thread. Slot 0 is shared by the threads
// that found all others taken: what is kept there must be updated atomically.
#define NVM_THREAD_SLOTS 512

extern _Thread_local int32_t nvm_thread_slot_value;
int32_t nvm_thread_slot_acquire(void);

static inline int32_t nvm_thread_slot(void) {
  int32_t s = nvm_thread_slot_value;
  return __builtin_expect(s >= 0, 1) ? s : nvm_thread_slot_acquire();
}

// The area of the persist group under which this thread changes a tree at the moment; null for none.
extern _Thread_local void *nvm_group_span_value;
static inline void *nvm_group_span(void) { return nvm_group_span_value; }
static inline void nvm_set_group_span(void *span) { nvm_group_span_value = span; }

// Counts fork()s in the child: a handle remembers the value at open and refuses work when it changed.
extern uint32_t nvm_fork_generation_value;
static inline uint32_t nvm_fork_generation(void) {
  return __atomic_load_n(&nvm_fork_generation_value, __ATOMIC_RELAXED);
}

#endif
