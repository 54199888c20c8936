// The C shims, run natively and on arm64: all that they work out must come out alike, since it stands in files. What
// differs (which instruction, how faults look) is only tried. Prints a digest of each; ends with "ok".
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "CNVM.h"

static uint64_t state = 42;
static uint64_t next(void) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}
static uint64_t digest;
static void add(uint64_t value) { digest = nvm_mix2(digest, value, 1); }
static void end(const char *name) {
  printf("%-12s %016llx\n", name, (unsigned long long)digest);
  digest = 0;
}
static void expect(int holds, const char *what) {
  if (holds) return;
  printf("FAILED: %s\n", what);
  exit(1);
}

static void checksums(void) {
  unsigned char bytes[300];
  expect(nvm_crc32c(0, "123456789", 9) == 0xE3069283, "CRC-32C of the catalogue's check value");
  for (int i = 0; i < 300; i++) bytes[i] = (unsigned char)next();
  for (size_t n = 0; n < 290; n++) {
    add(nvm_crc32c((uint32_t)n, bytes + n % 9, n));
    add(nvm_hash_bytes(n, bytes + n % 9, n));
    add(nvm_fold32(next()) ^ (uint64_t)nvm_fingerprint(next()) << 40);
  }
  end("checksums");
}

static void searching(void) {
  uint64_t words[NVM_SEARCH_WORDS], pairs[2 * NVM_SLOTS_MAX];
  _Alignas(64) uint64_t slots[2 * NVM_SLOTS_MAX];
  uint8_t order[NVM_SLOTS_MAX], bytes[64];
  for (int round = 0; round < 2000; round++) {
    uint64_t at = 0;
    for (int i = 0; i < NVM_SEARCH_WORDS; i++) words[i] = at += next() >> 57 << (round % 50);
    uint64_t key = words[next() % NVM_SEARCH_WORDS] + next() % 3 - 1;
    uint32_t count = 0, first = 0;
    for (int i = 0; i < NVM_SEARCH_WORDS; i++) count += words[i] <= key;
    for (int i = 0; i < 16; i++) first += words[i] <= key;
    expect(nvm_count_le(words, key) == count, "nvm_count_le");
    expect(nvm_count_le16(words, key) == first, "nvm_count_le16");
    for (int i = 0; i < 2 * NVM_SLOTS_MAX; i++) slots[i] = next() % (round % 2 ? 20 : UINT64_MAX);
    unsigned window = NVM_WINDOW_TOP;
    uint32_t set = (uint32_t)next() & ((1u << NVM_LEAF_SLOTS) - 1);
    int n = nvm_slot_order(slots, set, order), m = nvm_sort_slots(slots, set, pairs, slots, &window);
    expect(n == __builtin_popcount(set) && m == n, "as many slots as there are");
    for (int i = 0; i < n; i++) {
      expect(pairs[2 * i] == slots[2 * order[i]], "both orders are one");
      expect(i == 0 || pairs[2 * i - 2] <= pairs[2 * i], "ascending");
      add(order[i]);
      add(pairs[2 * i + 1]);
    }
    for (int i = 0; i < 64; i++) bytes[i] = (uint8_t)(next() % 5);
    uint32_t mask = 0;
    for (int i = 0; i < 32; i++) mask |= (uint32_t)(bytes[i + round % 32] == 3) << i;
    expect(nvm_match32(bytes + round % 32, 3) == mask, "nvm_match32");
  }
  end("searching");
}

static void flushing(void) {
  char *p = aligned_alloc(64, 4096);
  for (int i = 0; i < 512; i++) nvm_store_nontemporal(p + 8 * i, (uint64_t)i);
  nvm_flush_range(p + 3, 4000);
  nvm_store_fence();
  for (int i = 0; i < 512; i++) add(nvm_load_acquire(p + 8 * i));
  free(p);
  end("flushing");
}

// MARK: Faults

enum { SIZE = 4 << 20 };
static char *reserve(void) {
  char *p = mmap(NULL, 2 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  p = (char *)(((uintptr_t)p + SIZE - 1) & ~(uintptr_t)(SIZE - 1));
  mmap(p, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  return p;
}

// Announced stores pass, a stray one ends a child, in each way of protecting.
static void protecting(int mode) {
  char *p = reserve();
  struct nvm_guard *guard;
  expect(nvm_guard_create(&guard, p, SIZE, SIZE, mode, 1000000, "checks") == 0, "a guard");
  for (int i = 0; i < 4000; i++) {
    char *at = p + next() % (SIZE / 8) * 8;
    nvm_guard_store(guard, at, (uint64_t)i);
    add(nvm_load_relaxed(at));
    if (i % 50 == 0) {
      nvm_guard_settle(guard);
      nvm_guard_apply(guard, 1);
    }
  }
  nvm_guard_settle(guard);
  nvm_guard_apply(guard, 1);
  nvm_guard_apply(guard, 1);
  pid_t child = fork();
  if (child == 0) {
    freopen("/dev/null", "w", stderr);
    *(volatile char *)(p + 777) = 1;
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "a stray write ends the process");
  nvm_guard_retire(guard);
  nvm_guard_free(guard);
  munmap(p, SIZE);
  end(mode == NVM_GUARD_IMMEDIATE ? "immediate" : "deferred");
}

static char *place;
static _Atomic int is_over;
static void *read_all(void *unused) {
  while (!is_over) {
    for (int i = 0; i < SIZE; i += 4096) expect(*(volatile char *)(place + i) == 7, "a byte in the place");
  }
  return unused;
}
// Readers in a place where other mappings are put, also where that fails half-way.
static void moving(void) {
  place = reserve();
  memset(place, 7, SIZE);
  expect(nvm_prepare_moving() == 0, "a handler");
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, read_all, NULL);
  for (int i = 0; i < 20; i++) {
    char *from = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(from, 7, SIZE);
    expect(nvm_move_mapping(from, SIZE, place, i % 3) == 0, "a move");
  }
  is_over = 1;
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  end("moving");
}

int main(int count, char **arguments) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  checksums();
  searching();
  flushing();
  protecting(NVM_GUARD_IMMEDIATE);
  protecting(NVM_GUARD_DEFERRED);
  moving();
  if (count > 1) printf("%s flush %d\n", arguments[1], nvm_flush_instruction());
  puts("ok");
  return 0;
}
