// What threads have changed under persist groups: the layout of their records, and the path that nearly every change of
// a word takes. The protocol is explained in NVMRegion/PersistGroups/GroupRecords.swift, which does all the rest.
//
// A change that misses the cache holds up the queue of the processor's stores, and all that is stored after it waits in
// that queue, what a function saves on the stack too. So this path stores two words, and is inlined.
#ifndef NVM_GROUP_H
#define NVM_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "nvm_atomic.h"
#include "nvm_thread.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

// Offsets in a region's records: the highest slot with an area, pointers to the areas of all slots, pointers to tables.
#define NVM_GROUPS_HIGHEST 0
#define NVM_GROUPS_AREAS 64
enum { NVM_GROUPS_TABLES = NVM_GROUPS_AREAS + NVM_THREAD_SLOTS * 8 };
// A table has a row for each hash of a line, with 16 bits for each of eight threads: a counter's number plus one.
#define NVM_GROUP_THREADS 8
#define NVM_GROUP_ROW 16
#define NVM_GROUP_ROWS 2048

// Offsets in a thread's area. The first line is written by its thread alone, the second by others.
#define NVM_GROUP_PENDING 8
#define NVM_GROUP_FENCES 16
#define NVM_GROUP_SETTLED 24
#define NVM_GROUP_ACTIVE 32
#define NVM_GROUP_END 40
#define NVM_GROUP_CURRENT 56
#define NVM_GROUP_CLEARED 128
#define NVM_GROUP_OWNER 136
// Two words for each counter: the tick of its last change by this thread, and what others have settled of it.
#define NVM_GROUP_MARKS 192
#define NVM_GROUP_COUNTERS 4097
// The ring of entries: 13 bits of the counter, 38 of the first line, 13 of the number of lines.
enum { NVM_GROUP_LOG = (NVM_GROUP_MARKS + NVM_GROUP_COUNTERS * 16 + 63) / 64 * 64 };
#define NVM_GROUP_ENTRIES 32768
#define NVM_GROUP_MOST_CHANGES 16384
#define NVM_GROUP_LINE_BITS 38
#define NVM_GROUP_COUNT_BITS 13

static inline char *nvm_group_row(void *table, uint64_t line) {
  return (char *)table + (line * 0x9E3779B97F4A7C15u >> 53) * NVM_GROUP_ROW;
}

// Whether each thread's word of a row is 0 or `mine`. Other threads may be storing to theirs: each is as it was at some
// moment.
__attribute__((no_sanitize("thread"))) static inline bool nvm_group_row_is(const void *row, uint16_t mine) {
#if defined(__x86_64__)
  __m128i words = _mm_load_si128((const __m128i *)row);
  __m128i same = _mm_cmpeq_epi16(words, _mm_set1_epi16((short)mine));
  __m128i none = _mm_cmpeq_epi16(words, _mm_setzero_si128());
  return _mm_movemask_epi8(_mm_or_si128(same, none)) == 0xFFFF;
#else
  uint16_t other = 0;
  for (int i = 0; i < NVM_GROUP_THREADS; i++) {
    uint16_t w = __atomic_load_n((const uint16_t *)row + i, __ATOMIC_RELAXED);
    other |= w == mine ? 0 : w;
  }
  return other == 0;
#endif
}

static inline uint64_t nvm_group_entry(uint64_t counter, uint64_t line, uint64_t count) {
  return counter << (NVM_GROUP_LINE_BITS + NVM_GROUP_COUNT_BITS) | line << NVM_GROUP_COUNT_BITS | count;
}

// Notes that the calling thread, in `slot`, changes one line under a counter, before it starts the line's write-back.
// `completed`: the fences that it has completed. False, and nothing is noted, for whatever is out of the ordinary: no
// area yet, another counter than last time, others at the line or new to it, more than eight threads, something put off
// or too much outstanding.
static inline bool nvm_group_note(void *records, int32_t slot, uint64_t line, uint64_t counter,
                                  uint64_t completed) {
  char *base = (char *)records;
  char *area = *(char **)(base + NVM_GROUPS_AREAS + 8 * slot);
  if (!area || nvm_load_relaxed(base + NVM_GROUPS_HIGHEST) >= NVM_GROUP_THREADS) return false;
  if (nvm_load_relaxed(area + NVM_GROUP_ACTIVE) != counter) return false;
  if (nvm_load_relaxed(area + NVM_GROUP_PENDING) != 0) return false;
  char *row = nvm_group_row(*(char **)(base + NVM_GROUPS_TABLES), line);
  uint16_t mine = (uint16_t)(counter + 1);
  if (nvm_load16_relaxed((uint16_t *)row + slot) != mine || !nvm_group_row_is(row, mine)) return false;
  uint64_t end = nvm_load_relaxed(area + NVM_GROUP_END);
  if (completed != nvm_load_relaxed(area + NVM_GROUP_FENCES)) {
    // What came before is durable.
    nvm_store_release(area + NVM_GROUP_SETTLED, end);
    nvm_store_release(area + NVM_GROUP_FENCES, completed);
  } else if (end - nvm_load_relaxed(area + NVM_GROUP_SETTLED) >= NVM_GROUP_MOST_CHANGES) {
    return false;
  }
  char *entry = area + NVM_GROUP_LOG + (end & (NVM_GROUP_ENTRIES - 1)) * 8;
  nvm_store_release(entry, nvm_group_entry(counter, line, 1));
  nvm_store_release(area + NVM_GROUP_END, end + 1);
  return true;
}

#endif
