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
  _Atomic uint64_t *ahead;      // opened along with others of their block since the last batch
  uint64_t *touched;            // what the last batch found in `closing`; under `lock`
  uint64_t *resting;            // what is to close at the next batch, if nobody stores to it; under `lock`
  _Atomic uint8_t *blocks;      // GUARD_BLOCK_… of each block
  // A bit for each word of `closing`, `opening` or `ahead` that is not 0; of `resting`.
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
  _Atomic uint64_t count_requests, count_batches, count_changes, count_faults, count_cancelled, count_widened,
      count_ahead;
};

static inline bool guard_is_forked(struct guard *g) { return g->fork_generation != nvm_fork_generation(); }
// Whether an explicit window is open, or, in the immediate way, any.
static inline bool guard_has_window(struct guard *g, uint64_t granule) {
  return atomic_load(&g->windows[granule]) != 0;
}

static inline bool guard_is_open(struct guard *g, uint64_t granule) {
  return granule < g->granules && (atomic_load(&g->open[granule / 64]) >> (granule % 64) & 1) != 0;
}

// guard.c: pages and the queue.
// Makes a granule writable, or its block, or, when the process has too many mappings, everything. 0 or -errno. Safe in
// a handler.
int guard_grant(struct guard *g, uint64_t granule);
void guard_enqueue(struct guard *g, uint64_t granule);
// Makes [first, end) writable, for the caller to put into the queue. 0 or -errno.
int guard_open_run(struct guard *g, uint64_t first, uint64_t end);
// The protection of granules [first, end), as far as they are mapped. 0 or -errno.
int guard_change(struct guard *g, uint64_t first, uint64_t end, int protection);
// Protects [first, end), none of which has a window. Returns whether it is done.
bool guard_shut(struct guard *g, uint64_t first, uint64_t end);
// Requests of one word of a bitmap.
void guard_note(struct guard *g, _Atomic uint64_t *bitmap, uint64_t word, uint64_t bits);
// A granule that the mapping has grown by is writable.
void guard_granule_is_new(struct guard *g, uint64_t granule);
// How many mappings the system grants; once.
void guard_learn_limit(void);
// No border may be added.
bool guard_has_many_stretches(void);
// All is writable again.
void guard_forget_stretches(struct guard *g);

// guard_batches.c: what the guard's thread runs.
void *guard_work(void *guard);

// guard_blocks.c
#define GUARD_BLOCK_DENSE 1   // opens as one
#define GUARD_BLOCK_PROVED 2  // was found dense since it was last closed as a whole
#define GUARD_BLOCK_LARGE 4   // large pages are wanted
#define GUARD_BLOCK_ASKED 8   // and have been asked for since it was last open in parts
// What a grant opens for `granule`: [first, end).
void guard_grant_range(struct guard *g, uint64_t granule, uint64_t *first, uint64_t *end);
// One word of the bitmaps, in a batch: `closing` was stored to since the batch before, `ahead` opened ahead, `idle` is to
// be closed. Returns what stays open of `idle`, or was opened now, and is to wait for the next batch.
uint64_t guard_review_blocks(struct guard *g, uint64_t word, uint64_t closing, uint64_t ahead, uint64_t idle,
                             bool all);
// A part of the blocks has changed.
void guard_blocks_changed(struct guard *g, uint64_t first, uint64_t end);

// guard_store.c: whether the instruction at `pc` is the store of a primitive.
bool guard_is_store(uintptr_t pc);

static inline uint64_t guard_mapped_granules(struct guard *g) {
  return (atomic_load(&g->mapped) + NVM_GRANULE - 1) >> NVM_GRANULE_SHIFT;
}

// guard_fault.c: the handler and what it knows.
int guard_install_handler(void);
// In the handler: whether the address lies where a mapping was being replaced; then that is over.
bool guard_waited_for_move(uintptr_t address);
// In a forked child, which has none of the threads that moved.
void guard_forget_moves(void);
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
