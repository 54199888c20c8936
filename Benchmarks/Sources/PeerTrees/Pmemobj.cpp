#include <libpmemobj.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <string>

#include "TreeLoop.hpp"

// A B+-tree as a user of libpmemobj would write it: nodes are objects, each change is one transaction that
// snapshots the slice of the node it moves; an update in place is an aligned word persisted alone. Leaves of
// 256 bytes keep the moved slices small, inner nodes of 512 the tree shallow. Empty leaves stay.

namespace {
struct Leaf {
  uint64_t count, next;
  uint64_t keys[15], values[15];
};
struct Inner {
  uint64_t count, unused;
  uint64_t keys[31], children[31];  // keys[i]: the least key below children[i]; keys[0] counts as zero
};
static_assert(sizeof(Leaf) == 256 && sizeof(Inner) == 512, "");
struct Root {
  uint64_t top, height;
};

template <class N>
constexpr size_t capacity = sizeof(N::keys) / 8;

struct Tree {
  PMEMobjpool *pop = nullptr;
  uint64_t pool = 0;
  Root *root = nullptr;

  ~Tree() {
    if (pop) pmemobj_close(pop);
  }
  template <class N>
  N *at(uint64_t offset) { return reinterpret_cast<N *>(reinterpret_cast<char *>(pop) + offset); }
  static size_t child(const Inner *n, uint64_t k) {
    size_t lo = 0, hi = n->count;
    while (hi - lo > 1) {
      size_t mid = (lo + hi) / 2;
      if (n->keys[mid] <= k) lo = mid; else hi = mid;
    }
    return lo;
  }
  static size_t slot(const Leaf *n, uint64_t k) {
    size_t lo = 0, hi = n->count;
    while (lo < hi) {
      size_t mid = (lo + hi) / 2;
      if (n->keys[mid] < k) lo = mid + 1; else hi = mid;
    }
    return lo;
  }
  Leaf *leaf(uint64_t k) {
    uint64_t o = root->top;
    for (uint64_t h = root->height; h > 0; h--) {
      auto *n = at<Inner>(o);
      o = n->children[child(n, k)];
    }
    return at<Leaf>(o);
  }
  bool get(uint64_t k, uint64_t &v) {
    Leaf *n = leaf(k);
    size_t i = slot(n, k);
    if (i == n->count || n->keys[i] != k) return false;
    v = n->values[i];
    return true;
  }
  static bool note(void *p, size_t n) { return pmemobj_tx_add_range_direct(p, n) == 0; }

  template <class N>
  bool insert_at(N *n, size_t i, uint64_t k, uint64_t *payload, uint64_t v) {
    size_t moved = n->count - i;
    // The slot behind the last is not read after a crash, but is flushed with the rest by the commit.
    if (!note(&n->count, 8) || !note(&n->keys[i], (moved + 1) * 8) || !note(&payload[i], (moved + 1) * 8))
      return false;
    memmove(&n->keys[i + 1], &n->keys[i], moved * 8);
    memmove(&payload[i + 1], &payload[i], moved * 8);
    n->keys[i] = k;
    payload[i] = v;
    n->count++;
    return true;
  }
  template <class N>
  N *fresh(uint64_t *offset) {
    PMEMoid oid = pmemobj_tx_alloc(sizeof(N), sizeof(N));
    if (OID_IS_NULL(oid)) return nullptr;
    *offset = oid.off;
    return at<N>(oid.off);
  }
  // Moves the upper half of a full node to a fresh one, which it returns.
  template <class N>
  N *halve(N *n, uint64_t *low_payload, uint64_t *(*payload)(N *), uint64_t *offset) {
    N *right = fresh<N>(offset);
    if (!right || !note(n, 16)) return nullptr;
    size_t keep = n->count / 2, moved = n->count - keep;
    memcpy(right->keys, &n->keys[keep], moved * 8);
    memcpy(payload(right), &low_payload[keep], moved * 8);
    right->count = moved;
    n->count = keep;
    return right;
  }
  static uint64_t *values(Leaf *n) { return n->values; }
  static uint64_t *children(Inner *n) { return n->children; }

  bool insert(uint64_t k, uint64_t v) {
    Inner *path[16];
    size_t index[16];
    size_t depth = 0;
    uint64_t o = root->top;
    for (uint64_t h = root->height; h > 0; h--) {
      path[depth] = at<Inner>(o);
      index[depth] = child(path[depth], k);
      o = path[depth]->children[index[depth]];
      depth++;
    }
    Leaf *n = at<Leaf>(o);
    uint64_t separator, fresh_node;
    if (n->count < capacity<Leaf>) return insert_at(n, slot(n, k), k, n->values, v);
    Leaf *right = halve<Leaf>(n, n->values, values, &fresh_node);
    if (!right) return false;
    right->next = n->next;
    n->next = fresh_node;
    separator = right->keys[0];
    Leaf *into = k >= separator ? right : n;
    if (!insert_at(into, slot(into, k), k, into->values, v)) return false;
    while (depth > 0) {
      depth--;
      Inner *parent = path[depth];
      if (parent->count < capacity<Inner>)
        return insert_at(parent, index[depth] + 1, separator, parent->children, fresh_node);
      uint64_t offset;
      Inner *upper = halve<Inner>(parent, parent->children, children, &offset);
      if (!upper) return false;
      size_t at_index = index[depth] + 1;
      Inner *target = parent;
      uint64_t up = upper->keys[0];
      if (at_index > parent->count) {
        at_index -= parent->count;
        target = upper;
      }
      if (!insert_at(target, at_index, separator, target->children, fresh_node)) return false;
      separator = up;
      fresh_node = offset;
    }
    uint64_t offset;
    Inner *top = fresh<Inner>(&offset);
    if (!top || !note(root, sizeof *root)) return false;
    top->count = 2;
    top->unused = 0;
    top->keys[0] = 0;
    top->children[0] = root->top;
    top->keys[1] = separator;
    top->children[1] = fresh_node;
    root->top = offset;
    root->height++;
    return true;
  }
  bool put(uint64_t k, uint64_t v) {
    Leaf *n = leaf(k);
    size_t i = slot(n, k);
    if (i < n->count && n->keys[i] == k) {
      n->values[i] = v;
      pmemobj_persist(pop, &n->values[i], 8);
      return true;
    }
    if (pmemobj_tx_begin(pop, nullptr, TX_PARAM_NONE) != 0) return false;
    bool ok = insert(k, v);
    if (ok) pmemobj_tx_commit();
    return pmemobj_tx_end() == 0 && ok;
  }
  bool erase(uint64_t k) {
    Leaf *n = leaf(k);
    size_t i = slot(n, k);
    if (i == n->count || n->keys[i] != k) return false;
    if (pmemobj_tx_begin(pop, nullptr, TX_PARAM_NONE) != 0) return false;
    size_t moved = n->count - i - 1;
    bool ok = note(&n->count, 8) &&
              (moved == 0 || (note(&n->keys[i], moved * 8) && note(&n->values[i], moved * 8)));
    if (ok) {
      memmove(&n->keys[i], &n->keys[i + 1], moved * 8);
      memmove(&n->values[i], &n->values[i + 1], moved * 8);
      n->count--;
      pmemobj_tx_commit();
    }
    return pmemobj_tx_end() == 0 && ok;
  }
  template <class F>
  void scan(uint64_t k, size_t n, F &f) {
    Leaf *l = leaf(k);
    size_t i = slot(l, k);
    while (true) {
      for (; i < l->count && n > 0; i++, n--) f(l->keys[i], l->values[i]);
      if (n == 0 || l->next == 0) return;
      l = at<Leaf>(l->next);
      i = 0;
    }
  }
  template <class F>
  void scan_all(F &f) { scan(0, ~size_t(0), f); }
  bool settle() { return true; }
};

void *open_tree(const char *directory, size_t bytes, size_t) {
  auto *t = new Tree;
  std::string path = std::string(directory) + "/tree.pmemobj";
  unlink(path.c_str());
  t->pop = pmemobj_create(path.c_str(), "nvm-bench", bytes, 0644);
  if (t->pop) {
    PMEMoid oid = pmemobj_root(t->pop, sizeof(Root));
    t->root = static_cast<Root *>(pmemobj_direct(oid));
    PMEMoid first;
    if (t->root && pmemobj_zalloc(t->pop, &first, sizeof(Leaf), 1) == 0) {
      t->root->top = first.off;
      t->root->height = 0;
      pmemobj_persist(t->pop, t->root, sizeof(Root));
      return t;
    }
  }
  fprintf(stderr, "libpmemobj: %s\n", pmemobj_errormsg());
  delete t;
  return nullptr;
}
const bench_tree pmemobj_tree = {"libpmemobj", "a B+-tree in transactions; PMEM_IS_PMEM_FORCE=1 on tmpfs", open_tree,
                                 peers::close<Tree>, peers::run<Tree>, peers::scan_all<Tree>};
}  // namespace

const bench_tree *bench_tree_pmemobj(void) { return &pmemobj_tree; }
