#include <lmdb.h>
#include <stdio.h>
#include <sys/stat.h>

#include <string>

#include "TreeLoop.hpp"

// Durable as LMDB is by default (MDB_NOSYNC and friends not set), integer keys, a renewed read transaction for
// each look-up, `per_commit` changes per write transaction.

namespace {
struct Lmdb {
  MDB_env *env = nullptr;
  MDB_dbi dbi = 0;
  MDB_txn *reader = nullptr, *writer = nullptr;
  MDB_cursor *cursor = nullptr;
  size_t per_commit = 1, pending = 0;

  ~Lmdb() {
    if (writer) mdb_txn_abort(writer);
    if (cursor) mdb_cursor_close(cursor);
    if (reader) mdb_txn_abort(reader);
    if (env) mdb_env_close(env);
  }
  static MDB_val val(uint64_t &x) { return MDB_val{8, &x}; }
  static uint64_t word(const MDB_val &v) {
    uint64_t x;
    __builtin_memcpy(&x, v.mv_data, 8);
    return x;
  }
  bool begin() { return writer || mdb_txn_begin(env, nullptr, 0, &writer) == 0; }
  bool changed() { return ++pending < per_commit || commit(); }
  bool commit() {
    pending = 0;
    if (!writer) return true;
    int e = mdb_txn_commit(writer);
    writer = nullptr;
    return e == 0;
  }
  bool settle() { return commit(); }
  MDB_txn *read() {
    if (writer) return writer;
    return mdb_txn_renew(reader) == 0 ? reader : nullptr;
  }
  void done() {
    if (!writer) mdb_txn_reset(reader);
  }
  bool put(uint64_t k, uint64_t v) {
    if (!begin()) return false;
    MDB_val key = val(k), value = val(v);
    return mdb_put(writer, dbi, &key, &value, 0) == 0 && changed();
  }
  bool get(uint64_t k, uint64_t &v) {
    MDB_txn *t = read();
    MDB_val key = val(k), value;
    bool found = t && mdb_get(t, dbi, &key, &value) == 0;
    if (found) v = word(value);
    done();
    return found;
  }
  bool erase(uint64_t k) {
    if (!begin()) return false;
    MDB_val key = val(k);
    return mdb_del(writer, dbi, &key, nullptr) == 0 && changed();
  }
  template <class F>
  void walk(MDB_cursor_op first, uint64_t k, size_t n, F &f) {
    if (!settle()) return;
    if (mdb_txn_renew(reader) != 0) return;
    MDB_val key = val(k), value;
    int e = cursor ? mdb_cursor_renew(reader, cursor) : mdb_cursor_open(reader, dbi, &cursor);
    if (e == 0) e = mdb_cursor_get(cursor, &key, &value, first);
    while (e == 0) {
      f(word(key), word(value));
      if (--n == 0) break;
      e = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_txn_reset(reader);
  }
  template <class F>
  void scan(uint64_t k, size_t n, F &f) { walk(MDB_SET_RANGE, k, n, f); }
  template <class F>
  void scan_all(F &f) { walk(MDB_FIRST, 0, ~size_t(0), f); }
};

void *open_lmdb(const char *directory, size_t bytes, size_t per_commit) {
  auto *t = new Lmdb;
  t->per_commit = per_commit;
  std::string path = std::string(directory) + "/tree.lmdb";
  int e = mdb_env_create(&t->env);
  if (!e) e = mdb_env_set_mapsize(t->env, bytes);
  if (!e) e = mdb_env_open(t->env, path.c_str(), MDB_NOSUBDIR | MDB_NORDAHEAD, 0644);
  MDB_txn *txn = nullptr;
  if (!e) e = mdb_txn_begin(t->env, nullptr, 0, &txn);
  if (!e) e = mdb_dbi_open(txn, nullptr, MDB_INTEGERKEY, &t->dbi);
  if (!e) e = mdb_txn_commit(txn);
  if (!e) e = mdb_txn_begin(t->env, nullptr, MDB_RDONLY, &t->reader);
  if (!e) mdb_txn_reset(t->reader);
  if (e) {
    fprintf(stderr, "LMDB: %s\n", mdb_strerror(e));
    delete t;
    return nullptr;
  }
  return t;
}
const bench_tree lmdb_tree = {"LMDB", "synchronous, MDB_INTEGERKEY, MDB_NORDAHEAD", open_lmdb, peers::close<Lmdb>,
                              peers::run<Lmdb>, peers::scan_all<Lmdb>};
}  // namespace

const bench_tree *bench_tree_lmdb(void) { return &lmdb_tree; }
