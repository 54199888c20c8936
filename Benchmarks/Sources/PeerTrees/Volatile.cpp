#include <absl/container/btree_map.h>

#include <map>

#include "TreeLoop.hpp"

namespace {
template <class Map>
struct MapTree {
  Map map;
  inline bool put(uint64_t k, uint64_t v) {
    map.insert_or_assign(k, v);
    return true;
  }
  inline bool get(uint64_t k, uint64_t &v) {
    auto it = map.find(k);
    if (it == map.end()) return false;
    v = it->second;
    return true;
  }
  inline bool erase(uint64_t k) { return map.erase(k) == 1; }
  template <class F>
  inline void scan(uint64_t k, size_t n, F &f) {
    auto it = map.lower_bound(k);
    for (; n > 0 && it != map.end(); ++it, --n) f(it->first, it->second);
  }
  template <class F>
  inline void scan_all(F &f) {
    for (auto &e : map) f(e.first, e.second);
  }
  bool settle() { return true; }
};
using Absl = MapTree<absl::btree_map<uint64_t, uint64_t>>;
using Std = MapTree<std::map<uint64_t, uint64_t>>;

template <class T>
void *open(const char *, size_t, size_t) { return new T; }
const bench_tree absl_tree = {"absl::btree_map", "volatile, glibc malloc", open<Absl>, peers::close<Absl>,
                              peers::run<Absl>, peers::scan_all<Absl>};
const bench_tree std_tree = {"std::map", "volatile, glibc malloc", open<Std>, peers::close<Std>,
                             peers::run<Std>, peers::scan_all<Std>};
}  // namespace

const bench_tree *bench_tree_absl(void) { return &absl_tree; }
const bench_tree *bench_tree_std(void) { return &std_tree; }
