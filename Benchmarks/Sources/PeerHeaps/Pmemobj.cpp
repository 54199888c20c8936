#include <libpmemobj.h>
#include <stdio.h>
#include <unistd.h>

#include <string>

#include "HeapLoop.hpp"

// libpmemobj with its default settings, PMEM_IS_PMEM_FORCE=1. Its statistics are on, for the footprint; they cost two
// additions a call.

namespace {
struct Pool {
  PMEMobjpool *pop = nullptr;
  uint64_t uuid = 0;
  std::string path;

  ~Pool() {
    if (!pop) return;
    pmemobj_close(pop);
    unlink(path.c_str());
  }
  bool create(const char *directory, size_t bytes, const char *name) {
    path = std::string(directory) + "/heap." + name;
    unlink(path.c_str());
    pop = pmemobj_create(path.c_str(), "nvm-bench", bytes, 0600);
    if (!pop) {
      fprintf(stderr, "libpmemobj: %s\n", pmemobj_errormsg());
      return false;
    }
    enum pobj_stats_enabled both = POBJ_STATS_ENABLED_BOTH;
    pmemobj_ctl_set(pop, "stats.enabled", &both);
    PMEMoid root = pmemobj_root(pop, 64);
    uuid = root.pool_uuid_lo;
    return uuid != 0;
  }
  void *pointer(uint64_t h) { return reinterpret_cast<char *>(pop) + h; }
  size_t footprint() {
    // Runs of small objects as they are, and large objects.
    uint64_t allocated = 0, small = 0, runs = 0;
    pmemobj_ctl_get(pop, "stats.heap.curr_allocated", &allocated);
    pmemobj_ctl_get(pop, "stats.heap.run_allocated", &small);
    pmemobj_ctl_get(pop, "stats.heap.run_active", &runs);
    return size_t(runs + allocated - small);
  }
  bool settle(unsigned) { return true; }
};
struct Atomic : Pool {
  bool open(const char *d, size_t bytes, size_t, size_t) { return create(d, bytes, "atomic"); }
  uint64_t alloc(unsigned, uint32_t, size_t size) {
    PMEMoid oid;
    return pmemobj_alloc(pop, &oid, size, 1, nullptr, nullptr) == 0 ? oid.off : 0;
  }
  bool free(unsigned, uint32_t, uint64_t h) {
    PMEMoid oid = {uuid, h};
    pmemobj_free(&oid);
    return true;
  }
};
struct Place : Pool {
  PMEMoid *links = nullptr;
  bool open(const char *d, size_t bytes, size_t slots, size_t) {
    if (!create(d, bytes, "place")) return false;
    PMEMoid oid;
    if (pmemobj_zalloc(pop, &oid, slots * sizeof(PMEMoid), 2) != 0) return false;
    links = static_cast<PMEMoid *>(pmemobj_direct(oid));
    return true;
  }
  uint64_t alloc(unsigned, uint32_t slot, size_t size) {
    return pmemobj_alloc(pop, &links[slot], size, 1, nullptr, nullptr) == 0 ? links[slot].off : 0;
  }
  bool free(unsigned, uint32_t slot, uint64_t) {
    pmemobj_free(&links[slot]);
    return true;
  }
};
struct Publish : Pool {
  struct alignas(64) Pending {
    std::vector<pobj_action> actions;
    bool allocates = false;
  };
  Pending pending[8];
  size_t batch = 1;
  bool open(const char *d, size_t bytes, size_t, size_t n) {
    batch = n;
    for (auto &p : pending) p.actions.reserve(n);
    return create(d, bytes, n > 1 ? "publish16" : "publish");
  }
  bool settle(unsigned thread) {
    auto &p = pending[thread];
    if (p.actions.empty()) return true;
    int e = pmemobj_publish(pop, p.actions.data(), p.actions.size());
    p.actions.clear();
    return e == 0;
  }
  uint64_t alloc(unsigned thread, uint32_t, size_t size) {
    auto &p = pending[thread];
    pobj_action action;
    PMEMoid oid = pmemobj_reserve(pop, &action, size, 1);
    if (OID_IS_NULL(oid)) return 0;
    p.actions.push_back(action);
    p.allocates = true;
    if (p.actions.size() >= batch && !settle(thread)) return 0;
    return oid.off;
  }
  bool free(unsigned thread, uint32_t, uint64_t h) {
    auto &p = pending[thread];
    // It may be one that only is reserved so far.
    if (p.allocates && !settle(thread)) return false;
    p.allocates = false;
    pobj_action action;
    pmemobj_defer_free(pop, PMEMoid{uuid, h}, &action);
    p.actions.push_back(action);
    return p.actions.size() < batch || settle(thread);
  }
};
const bench_heap atomic_heap = peers::table<Atomic>("libpmemobj atomic");
const bench_heap place_heap = peers::table<Place>("libpmemobj atomic, linked");
const bench_heap publish_heap = peers::table<Publish>("libpmemobj publish");
}  // namespace

const bench_heap *bench_heap_pmemobj_atomic(void) { return &atomic_heap; }
const bench_heap *bench_heap_pmemobj_place(void) { return &place_heap; }
const bench_heap *bench_heap_pmemobj_publish(void) { return &publish_heap; }

int bench_pmemobj_fill(const char *path, size_t n, int closes) {
  PMEMobjpool *pop = pmemobj_create(path, "nvm-bench", (size_t(64) << 20) + n * 192, 0600);
  if (!pop) return 0;
  auto *root = static_cast<PMEMoid *>(pmemobj_direct(pmemobj_root(pop, sizeof(PMEMoid))));
  for (size_t i = 0; i < n; i++) {
    PMEMoid oid;
    if (pmemobj_alloc(pop, i == n / 2 ? root : &oid, 64, 1, nullptr, nullptr) != 0) return 0;
  }
  if (closes) pmemobj_close(pop);
  return 1;
}
int bench_pmemobj_open(const char *path) {
  PMEMobjpool *pop = pmemobj_open(path, "nvm-bench");
  if (!pop) return 0;
  PMEMoid oid;
  if (pmemobj_alloc(pop, &oid, 64, 1, nullptr, nullptr) != 0) return 0;
  auto *root = static_cast<PMEMoid *>(pmemobj_direct(pmemobj_root(pop, sizeof(PMEMoid))));
  // The process ends right after it: the time of closing is not asked for.
  return root->off != oid.off && pmemobj_alloc_usable_size(*root) >= 64;
}
