#include <errno.h>
#include <string.h>

#include "guard_internal.h"

// Windows: spans in which a granule stays writable, for a store of this thread or until the caller closes it.

static void open_window(struct guard *g, uint64_t granule, uint32_t weight) {
  if (g->mode == NVM_GUARD_DEFERRED) {
    atomic_fetch_add(&g->windows[granule], weight);
    return;
  }
  if (guard_is_forked(g)) return;
  pthread_mutex_lock(&g->lock);
  // A failed change is left to the handler, which tries again.
  if (atomic_fetch_add(&g->windows[granule], weight) == 0 && !atomic_load(&g->retired)) guard_grant(g, granule);
  pthread_mutex_unlock(&g->lock);
}

static void close_window(struct guard *g, uint64_t granule, uint32_t weight) {
  if (g->mode == NVM_GUARD_DEFERRED) {
    if (atomic_fetch_sub(&g->windows[granule], weight) == weight) guard_enqueue(g, granule);
    return;
  }
  if (guard_is_forked(g)) return;
  pthread_mutex_lock(&g->lock);
  if (atomic_fetch_sub(&g->windows[granule], weight) == weight && !atomic_load(&g->retired))
    guard_shut(g, granule, granule + 1);
  pthread_mutex_unlock(&g->lock);
}

// In the immediate way a window on one granule is kept until the thread's next fence; not what many threads share, and
// what would push all else out.
static bool is_kept(int32_t slot, uint64_t first, uint64_t last) { return slot != 0 && first == last; }

void nvm_guard_begin_slow(struct nvm_guard *guard, uint64_t first, uint64_t last) {
  struct guard *g = (struct guard *)guard;
  if (g->mode == NVM_GUARD_KEYS) {
    if (!guard_is_forked(g)) guard_key_open(g->key);
    return;
  }
  if (g->mode == NVM_GUARD_DEFERRED) {
    for (uint64_t i = first; i <= last; i++) guard_enqueue(g, i);
    return;
  }
  int32_t index = nvm_thread_slot();
  if (!is_kept(index, first, last)) {
    for (uint64_t i = first; i <= last; i++) open_window(g, i, 1);
    return;
  }
  struct nvm_guard_slot *s = &guard->slots[index];
  const uint32_t room = sizeof s->granule / sizeof s->granule[0];
  for (uint32_t i = 0; i < s->count; i++)
    if (s->granule[i] == first) return;
  if (s->count == room) {
    // The oldest gives way; its stores are done.
    close_window(g, s->granule[0], 1);
    memmove(s->granule, s->granule + 1, sizeof s->granule - sizeof s->granule[0]);
    s->count--;
  }
  open_window(g, first, 1);
  s->granule[s->count++] = (uint32_t)first;
}

void nvm_guard_end_slow(struct nvm_guard *guard) {
  struct guard *g = (struct guard *)guard;
  if (g->mode == NVM_GUARD_KEYS) {
    guard_key_close(g->key);
    return;
  }
  uint64_t first = (nvm_guard_storing.from - guard->base) >> NVM_GRANULE_SHIFT;
  uint64_t last = (nvm_guard_storing.to - 1 - guard->base) >> NVM_GRANULE_SHIFT;
  if (is_kept(nvm_thread_slot(), first, last)) return;
  for (uint64_t i = first; i <= last; i++) close_window(g, i, 1);
}

void nvm_guard_settle_slow(struct nvm_guard *guard, struct nvm_guard_slot *s) {
  for (uint32_t i = 0; i < s->count; i++) close_window((struct guard *)guard, s->granule[i], 1);
  s->count = 0;
}

int nvm_guard_open(struct nvm_guard *guard, uint64_t offset, uint64_t count) {
  struct guard *g = (struct guard *)guard;
  if (count == 0) return 0;
  if (g->mode == NVM_GUARD_KEYS) {
    if (!guard_is_forked(g)) guard_key_open(g->key);
    return 0;
  }
  uint64_t first = offset >> NVM_GRANULE_SHIFT, last = (offset + count - 1) >> NVM_GRANULE_SHIFT;
  for (uint64_t i = first; i <= last; i++) {
    if (atomic_load(&g->windows[i]) >= 0xF000u * EXPLICIT_WINDOW) {
      while (i-- > first) close_window(g, i, EXPLICIT_WINDOW);
      return -EOVERFLOW;
    }
    open_window(g, i, EXPLICIT_WINDOW);
    if (g->mode == NVM_GUARD_DEFERRED && !guard_is_open(g, i)) guard_note(g, g->opening, i / 64, 1ull << (i % 64));
  }
  return 0;
}

int nvm_guard_close(struct nvm_guard *guard, uint64_t offset, uint64_t count) {
  struct guard *g = (struct guard *)guard;
  if (count == 0) return 0;
  if (g->mode == NVM_GUARD_KEYS) {
    guard_key_close(g->key);
    return 0;
  }
  uint64_t first = offset >> NVM_GRANULE_SHIFT, last = (offset + count - 1) >> NVM_GRANULE_SHIFT;
  for (uint64_t i = first; i <= last; i++)
    if (atomic_load(&g->windows[i]) < EXPLICIT_WINDOW) return -EINVAL;
  for (uint64_t i = first; i <= last; i++) close_window(g, i, EXPLICIT_WINDOW);
  return 0;
}
