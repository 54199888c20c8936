#include "guard_internal.h"

// The word stores of the primitives stand in a section of their own: the handler takes a fault there for
// asked for. To note in thread-local memory what is about to be stored would cost more than the store.
#if defined(__x86_64__) || defined(__aarch64__)
#define IN_SECTION __attribute__((section("nvm_guarded"), noinline))
extern const char section_start[] __asm__("__start_nvm_guarded") __attribute__((visibility("hidden")));
extern const char section_end[] __asm__("__stop_nvm_guarded") __attribute__((visibility("hidden")));
bool guard_is_store(uintptr_t pc) { return pc >= (uintptr_t)section_start && pc < (uintptr_t)section_end; }
#else
// Always announced.
#define IN_SECTION __attribute__((noinline))
#define ANNOUNCES 1
bool guard_is_store(uintptr_t pc) {
  (void)pc;
  return false;
}
#endif

// Immediate, keys, and the first store to a granule since the last batch.
IN_SECTION static void store_announced(struct nvm_guard *guard, void *p, uint64_t word) {
  nvm_guard_begin(guard, p, 8);
  __atomic_store_n((uint64_t *)p, word, __ATOMIC_RELEASE);
  nvm_guard_end(guard);
}

IN_SECTION void nvm_guard_store(struct nvm_guard *guard, void *p, uint64_t word) {
#ifndef ANNOUNCES
  const uint64_t *closing = guard->closing;
  uint64_t granule = ((uintptr_t)p - guard->base) >> NVM_GRANULE_SHIFT;
  if (__builtin_expect(
          closing && __atomic_load_n(&closing[granule / 64], __ATOMIC_RELAXED) >> (granule % 64) & 1, 1)) {
    __atomic_store_n((uint64_t *)p, word, __ATOMIC_RELEASE);
    return;
  }
#endif
  store_announced(guard, p, word);
}
