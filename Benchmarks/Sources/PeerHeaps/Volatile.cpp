#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "HeapLoop.hpp"

// jemalloc and mimalloc come by dlopen with RTLD_LOCAL and are called through pointers, as glibc is through the
// linkage table: so the process goes on with glibc's malloc, and all three are called alike.

namespace {
struct Functions {
  void *(*malloc)(size_t) = nullptr;
  void (*free)(void *) = nullptr;
};
struct VolatileHeap {
  Functions f;
  uint64_t alloc(unsigned, uint32_t, size_t size) { return reinterpret_cast<uint64_t>(f.malloc(size)); }
  bool free(unsigned, uint32_t, uint64_t h) {
    f.free(reinterpret_cast<void *>(h));
    return true;
  }
  void *pointer(uint64_t h) { return reinterpret_cast<void *>(h); }
  bool settle(unsigned) { return true; }
  bool load(const char *library, const char *allocate, const char *release, void **handle) {
    *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (*handle) {
      f.malloc = reinterpret_cast<void *(*)(size_t)>(dlsym(*handle, allocate));
      f.free = reinterpret_cast<void (*)(void *)>(dlsym(*handle, release));
    }
    if (f.malloc && f.free) return true;
    const char *why = dlerror();
    fprintf(stderr, "%s: %s\n", library, why ? why : "missing symbols");
    return false;
  }
};
struct Glibc : VolatileHeap {
  size_t before = 0;
  static size_t taken() {
    struct mallinfo2 m = mallinfo2();
    return m.arena + m.hblkhd;
  }
  bool open(const char *, size_t, size_t, size_t) {
    f.malloc = ::malloc;
    f.free = ::free;
    before = taken() - mallinfo2().fordblks;
    return true;
  }
  size_t footprint() { return taken() - before; }
};
struct Jemalloc : VolatileHeap {
  int (*ctl)(const char *, void *, size_t *, void *, size_t) = nullptr;
  bool open(const char *, size_t, size_t, size_t) {
    void *handle;
    if (!load("libjemalloc.so.2", "malloc", "free", &handle)) return false;
    ctl = reinterpret_cast<decltype(ctl)>(dlsym(handle, "mallctl"));
    return ctl != nullptr;
  }
  size_t footprint() {
    uint64_t epoch = 1;
    size_t n = sizeof epoch, resident = 0;
    ctl("epoch", &epoch, &n, &epoch, n);
    n = sizeof resident;
    ctl("stats.resident", &resident, &n, nullptr, 0);
    return resident;
  }
};
struct Mimalloc : VolatileHeap {
  void (*info)(size_t *, size_t *, size_t *, size_t *, size_t *, size_t *, size_t *, size_t *) = nullptr;
  bool open(const char *, size_t, size_t, size_t) {
    void *handle;
    if (!load("libmimalloc.so.2", "mi_malloc", "mi_free", &handle)) return false;
    info = reinterpret_cast<decltype(info)>(dlsym(handle, "mi_process_info"));
    return info != nullptr;
  }
  size_t footprint() {
    size_t unused, commit = 0;
    info(&unused, &unused, &unused, &unused, &unused, &commit, &unused, &unused);
    return commit;
  }
};
const bench_heap glibc_heap = peers::table<Glibc>("glibc");
const bench_heap jemalloc_heap = peers::table<Jemalloc>("jemalloc");
const bench_heap mimalloc_heap = peers::table<Mimalloc>("mimalloc");
}  // namespace

const bench_heap *bench_heap_glibc(void) { return &glibc_heap; }
const bench_heap *bench_heap_jemalloc(void) { return &jemalloc_heap; }
const bench_heap *bench_heap_mimalloc(void) { return &mimalloc_heap; }
