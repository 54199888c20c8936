#include "nvm_thread.h"

#include <pthread.h>

_Thread_local int32_t nvm_thread_slot_value = -1;
_Thread_local void *nvm_group_span_value;

static uint64_t slots_taken[NVM_THREAD_SLOTS / 64] = {1};  // slot 0 is never handed out
static pthread_key_t slot_key;
static int have_key;
static pthread_once_t slot_once = PTHREAD_ONCE_INIT;
uint32_t nvm_fork_generation_value;

static void slot_release(void *value) {
  intptr_t slot = (intptr_t)value;
  nvm_thread_slot_value = 0;  // destructors that run later share slot 0
  __atomic_fetch_and(&slots_taken[slot / 64], ~(1ull << (slot % 64)), __ATOMIC_ACQ_REL);
}
static void slot_prepare(void) { have_key = pthread_key_create(&slot_key, slot_release) == 0; }

int32_t nvm_thread_slot_acquire(void) {
  pthread_once(&slot_once, slot_prepare);
  // Without a key no slot would ever be given back: all threads share slot 0.
  if (!have_key) return nvm_thread_slot_value = 0;
  for (int w = 0; w < NVM_THREAD_SLOTS / 64; w++) {
    uint64_t taken = __atomic_load_n(&slots_taken[w], __ATOMIC_RELAXED);
    while (~taken) {
      int bit = __builtin_ctzll(~taken);
      if (__atomic_compare_exchange_n(&slots_taken[w], &taken, taken | (1ull << bit), 0, __ATOMIC_ACQ_REL,
                                      __ATOMIC_RELAXED)) {
        intptr_t slot = w * 64 + bit;
        if (pthread_setspecific(slot_key, (void *)slot) != 0) {
          __atomic_fetch_and(&slots_taken[w], ~(1ull << bit), __ATOMIC_ACQ_REL);
          return nvm_thread_slot_value = 0;
        }
        return nvm_thread_slot_value = (int32_t)slot;
      }
    }
  }
  return nvm_thread_slot_value = 0;
}

static void forked(void) { __atomic_fetch_add(&nvm_fork_generation_value, 1, __ATOMIC_RELAXED); }
__attribute__((constructor)) static void nvm_watch_fork(void) { pthread_atfork(0, 0, forked); }
