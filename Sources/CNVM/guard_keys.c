#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "guard_internal.h"

// Protection keys (x86): a page has one of 16 keys, and a register of each thread says which keys it may not read
// (bit 2k) or not write (bit 2k + 1). A thread that was there before a key was made may not even read: its first
// access faults and is granted.

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>

static uint32_t read_rights(void) {
  uint32_t a, d;
  __asm__ volatile(".byte 0x0f, 0x01, 0xee" : "=a"(a), "=d"(d) : "c"(0));  // rdpkru
  return a;
}
static void write_rights(uint32_t rights) {
  __asm__ volatile(".byte 0x0f, 0x01, 0xef" ::"a"(rights), "c"(0), "d"(0) : "memory");  // wrpkru
}
static uint32_t reading(uint32_t rights, int key) { return (rights & ~(3u << (2 * key))) | 2u << (2 * key); }
static uint32_t writing(uint32_t rights, int key) { return rights & ~(3u << (2 * key)); }

// How often a key was made: windows that a thread has left open when their region was closed are none of the next
// region that gets the key.
static _Atomic uint32_t lives[16];
// Windows of the calling thread, and the life of the key that they belong to.
static _Thread_local uint32_t depth[16], life[16];

static uint32_t *windows(int key) {
  uint32_t now = atomic_load_explicit(&lives[key], memory_order_relaxed);
  if (life[key] != now) {
    life[key] = now;
    depth[key] = 0;
  }
  return &depth[key];
}

// Whether processor and kernel have keys at all.
static bool has_keys(void) {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c >> 4 & 1) != 0;  // OSPKE
}

int guard_key_make(void) {
  if (!has_keys()) return -ENOSYS;
  long key = syscall(SYS_pkey_alloc, 0, 2 /* PKEY_DISABLE_WRITE */);
  if (key < 0) return errno == EINVAL ? -ENOSYS : -errno;  // ENOSPC: all are taken
  atomic_fetch_add(&lives[key], 1);
  return (int)key;
}
void guard_key_drop(int key) { syscall(SYS_pkey_free, key); }
int guard_key_apply(int key, void *at, uint64_t count) {
  if (count == 0) return 0;
  return syscall(SYS_pkey_mprotect, at, count, PROT_READ | PROT_WRITE, key) == 0 ? 0 : -errno;
}
void guard_key_open(int key) {
  if ((*windows(key))++ == 0) write_rights(writing(read_rights(), key));
}
void guard_key_close(int key) {
  uint32_t *open = windows(key);
  if (*open > 0 && --*open == 0) write_rights(reading(read_rights(), key));
}
// The child of a fork has the rights of the thread that made it.
void guard_keys_forked(void) {
  for (int key = 1; key < 16; key++)
    if (depth[key] > 0) {
      depth[key] = 0;
      write_rights(reading(read_rights(), key));
    }
}
void guard_key_enter_handler(void) { write_rights(0); }

// The register comes back from the frame when the handler returns: that copy is changed.
bool guard_key_fault(int key, bool is_write, void *context) {
  if (is_write && *windows(key) == 0) return false;
  unsigned size, offset, c, d;
  if (!__get_cpuid_count(0xD, 9, &size, &offset, &c, &d) || size < 4) return false;
  char *area = (char *)((ucontext_t *)context)->uc_mcontext.fpregs;
  uint32_t magic, total;
  if (!area) return false;
  memcpy(&magic, area + 464, 4);  // the software-reserved part of the frame: FP_XSTATE_MAGIC1, …
  memcpy(&total, area + 480, 4);  // … xstate_size
  if (magic != 0x46505853u || total < offset + 4) return false;
  uint64_t present;
  uint32_t rights = 0;
  memcpy(&present, area + 512, 8);
  if (present >> 9 & 1) memcpy(&rights, area + offset, 4);
  rights = depth[key] > 0 ? writing(rights, key) : reading(rights, key);
  present |= 1u << 9;
  memcpy(area + 512, &present, 8);
  memcpy(area + offset, &rights, 4);
  return true;
}
#else
static bool has_keys(void) { return false; }
int guard_key_make(void) { return -ENOSYS; }
void guard_keys_forked(void) {}
void guard_key_drop(int key) { (void)key; }
int guard_key_apply(int key, void *at, uint64_t count) {
  (void)key, (void)at, (void)count;
  return -ENOSYS;
}
void guard_key_open(int key) { (void)key; }
void guard_key_close(int key) { (void)key; }
void guard_key_enter_handler(void) {}
bool guard_key_fault(int key, bool is_write, void *context) {
  (void)key, (void)is_write, (void)context;
  return false;
}
#endif

int nvm_guard_has_keys(void) {
  if (!has_keys()) return 0;
  int key = guard_key_make();
  if (key == -ENOSYS) return 0;
  if (key > 0) guard_key_drop(key);
  return 1;
}
