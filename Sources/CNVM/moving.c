// A mapping takes the place of another while readers are in it.
//
// The kernel takes away what stands in the place before it moves. If it then lacks the memory for a note of its
// own (ENOMEM from the middle of mremap; every other refusal comes before), nothing is mapped there any more. So
// nobody may see the hole, and nobody else may get the address:
//
//     move ──failed──▶ hole ──cover (no access)──▶ pause ──▶ move again …         until it succeeds
//                       └──────── readers fault, and wait in the handler ─────────┘
//
// The handler is the one of the guard (guard_fault.c): threads that fault in a place where a move is being mended
// wait, and try again. What they do not survive: SIGSEGV blocked, or a handler installed later that does not hand on.
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "guard_internal.h"
#include "nvm_system.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

enum { PLACES = 32, ATTEMPTS = 1000 };

// Where moves are under way; one that had to be mended stays known: who faulted may come to the handler late.
enum state { FREE, CLAIMED, MOVING, MENDED };
static struct place {
  _Atomic int state;
  _Atomic uintptr_t from, to;
} places[PLACES];
static _Atomic unsigned next_mended;

static bool covers(struct place *p, uintptr_t address) {
  return address >= atomic_load(&p->from) && address < atomic_load(&p->to);
}

static struct place *claim(uintptr_t from, uintptr_t to) {
  for (;; sched_yield()) {
    for (int wanted = FREE; wanted <= MENDED; wanted += MENDED - FREE) {
      // Of the mended ones the next in turn, so that each stays known for long.
      unsigned first = wanted == MENDED ? atomic_fetch_add(&next_mended, 1) : 0;
      for (unsigned i = 0; i < PLACES; i++) {
        struct place *p = &places[(first + i) % PLACES];
        int state = wanted;
        if (!atomic_compare_exchange_strong(&p->state, &state, CLAIMED)) continue;
        atomic_store(&p->from, from);
        atomic_store(&p->to, to);
        atomic_store(&p->state, MOVING);
        return p;
      }
    }
  }
}

// Async-signal-safe: neither allocates nor locks.
static void pause_for(long nanoseconds) {
  struct timespec time = {.tv_nsec = nanoseconds};
  nanosleep(&time, 0);
}

bool guard_waited_for_move(uintptr_t address) {
  for (unsigned i = 0; i < PLACES; i++) {
    struct place *p = &places[i];
    bool has_waited = false;
    for (; atomic_load(&p->state) == MOVING && covers(p, address); has_waited = true) pause_for(100000);
    if (has_waited) return true;
  }
  // It was mended before this thread came here; or the place was unmapped later on, and trying again has an end.
  static _Thread_local uintptr_t last;
  static _Thread_local int attempts;
  for (unsigned i = 0; i < PLACES; i++) {
    if (atomic_load(&places[i].state) != MENDED || !covers(&places[i], address)) continue;
    if (last != address) attempts = 0;
    last = address;
    return ++attempts <= ATTEMPTS;
  }
  return false;
}

void guard_forget_moves(void) {
  for (unsigned i = 0; i < PLACES; i++) atomic_store(&places[i].state, FREE);
}

int nvm_prepare_moving(void) { return guard_install_handler(); }

// (Not by the library's functions, behind which a sanitizer would forget what it knows of the place.)
// 0 where nobody else stands in the hole.
static int cover(void *to, size_t length) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  return syscall(SYS_mmap, to, length, PROT_NONE, flags, -1, 0) != -1 ? 0 : errno;
}

int nvm_move_mapping(void *from, size_t length, void *to, int failures) {
  struct place *place = claim((uintptr_t)to, (uintptr_t)to + length);
  int result = 0;
  bool had_hole = false, is_covered = false;
  while (failures > 0 || mremap(from, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED) {
    int error = failures > 0 ? ENOMEM : errno;
    if (failures > 0) {
      failures--;
      syscall(SYS_munmap, to, length);
      is_covered = false;
      pause_for(2000000);
    }
    // (Writes nothing, needs no memory, and notices a hole.)
    bool has_hole = msync(to, length, MS_ASYNC) != 0 && errno == ENOMEM;
    if (!has_hole && !had_hole) {
      result = -error;
      break;
    }
    had_hole = true;
    if (has_hole) is_covered = false;
    if (!is_covered) {
      int refusal = cover(to, length);
      if (refusal == EEXIST) {
        // Another thread was given the address in between, and readers would take its bytes for the store's.
        static const char message[] =
            "\nswift-nvm: a part of an open store's memory was given to somebody else\n";
        (void)!write(STDERR_FILENO, message, sizeof message - 1);
        abort();
      }
      is_covered = refusal == 0;
    }
    pause_for(1000000);
  }
  atomic_store(&place->state, had_hole ? MENDED : FREE);
  return result;
}
