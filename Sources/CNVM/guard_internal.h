// What the files of the guard share.
#ifndef NVM_GUARD_INTERNAL_H
#define NVM_GUARD_INTERNAL_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "nvm_guard.h"

// Windows of a granule: in the immediate way those of threads that store, in the low half; explicit ones in the high
// half.
#define EXPLICIT_WINDOW ((uint32_t)1 << 16)

struct guard {
  struct nvm_guard seen;  // first: the public pointer leads here
  int mode;
  int key;
  const char *path;
  uint64_t interval_ns;
  uint64_t granules;  // of the capacity
  void *memory;
  uint64_t memory_size;
  _Atomic uint64_t mapped;
  _Atomic bool retired;
  uint32_t fork_generation;

  _Atomic uint32_t *windows;
  // A bit a granule each.
  _Atomic uint64_t *closing;    // stored to, or its last window closed, since the last batch
  _Atomic uint64_t *opening;    // opened explicitly since the last batch
  _Atomic uint64_t *open;       // writable; a hint for counting stretches
  uint64_t *resting;            // what the last batch found in `closing`; under `lock`
  // A bit for each word of `closing` or `opening` that is not 0; of `resting`.
  _Atomic uint64_t *pending;
  uint64_t *pending_rest;
  _Atomic int64_t stretches;    // maximal runs of writable granules, about

  pthread_mutex_t lock;         // batches; immediate changes; retirement
  sem_t wake;
  pthread_t thread;
  bool has_thread;
  _Atomic bool stop;
  _Atomic uint32_t asleep;      // 1: the thread waits for a request

  _Atomic(nvm_guard_describer) describer;
  _Atomic(void *) describer_context;
  _Atomic uint64_t count_requests, count_batches, count_changes, count_faults, count_cancelled, count_widened;
};

static inline bool guard_is_forked(struct guard *g) { return g->fork_generation != nvm_fork_generation(); }
// Whether an explicit window is open, or, in the immediate way, any.
static inline bool guard_has_window(struct guard *g, uint64_t granule) {
  return atomic_load(&g->windows[granule]) != 0;
}

// Makes a granule writable, or, when the process has too many mappings, everything. 0 or -errno. Safe in a handler.
int guard_grant(struct guard *g, uint64_t granule);
void guard_enqueue(struct guard *g, uint64_t granule);

// guard_fault.c: the handler and what it knows.
int guard_install_handler(void);
int guard_register(struct guard *g);
void guard_unregister(struct guard *g);
// Returns when no thread that was in the handler is still there.
void guard_wait_for_handlers(void);

// guard_keys.c
int guard_key_make(void);
void guard_key_drop(int key);
int guard_key_apply(int key, void *at, uint64_t count);
void guard_key_open(int key);  // nested
void guard_key_close(int key);
// In the child of a fork: no window is open.
void guard_keys_forked(void);
// A fault by a protection key: whether the access may be tried again.
bool guard_key_fault(int key, bool is_write, void *context);
// The handler itself may read.
void guard_key_enter_handler(void);

#endif
