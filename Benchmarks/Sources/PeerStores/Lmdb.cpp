#include <lmdb.h>
#include <stdio.h>

#include <string>

#include "StoreLoop.hpp"

// Durable as LMDB is by default, MDB_NORDAHEAD, a renewed read transaction for each look-up.

namespace {
struct Store {
  MDB_env *env = nullptr;
  MDB_dbi dbi = 0;
  int kind = 0;
  ~Store() {
    if (env) mdb_env_close(env);
  }
};
struct Session {
  Store *store;
  peers::Bytes bytes;
  MDB_txn *reader = nullptr, *writer = nullptr;
  MDB_cursor *cursor = nullptr;
  ~Session() {
    if (writer) mdb_txn_abort(writer);
    if (cursor) mdb_cursor_close(cursor);
    if (reader) mdb_txn_abort(reader);
  }
  static MDB_val val(peers::Slice s) { return MDB_val{s.size, const_cast<void *>(s.data)}; }
  // The reader's slot belongs to the thread that made it.
  bool renew() {
    return (reader ? mdb_txn_renew(reader) : mdb_txn_begin(store->env, nullptr, MDB_RDONLY, &reader)) == 0;
  }
  bool begin() { return mdb_txn_begin(store->env, nullptr, 0, &writer) == 0; }
  bool commit() {
    int e = mdb_txn_commit(writer);
    writer = nullptr;
    return e == 0;
  }
  bool put(peers::Slice k, peers::Slice v) {
    MDB_val key = val(k), value = val(v);
    return mdb_put(writer, store->dbi, &key, &value, 0) == 0;
  }
  bool erase(peers::Slice k) {
    MDB_val key = val(k);
    return mdb_del(writer, store->dbi, &key, nullptr) == 0;
  }
  template <class F>
  bool get(peers::Slice k, F take) {
    if (!writer && !renew()) return false;
    MDB_val key = val(k), value;
    bool found = mdb_get(writer ? writer : reader, store->dbi, &key, &value) == 0;
    if (found) take(value.mv_data, value.mv_size);
    if (!writer) mdb_txn_reset(reader);
    return found;
  }
  template <class F>
  void scan(peers::Slice k, size_t n, F &f) {
    if (!renew()) return;
    MDB_val key = val(k), value;
    int e = cursor ? mdb_cursor_renew(reader, cursor) : mdb_cursor_open(reader, store->dbi, &cursor);
    if (e == 0) e = mdb_cursor_get(cursor, &key, &value, k.size ? MDB_SET_RANGE : MDB_FIRST);
    while (e == 0) {
      f(key.mv_data, key.mv_size, value.mv_data, value.mv_size);
      if (--n == 0) break;
      e = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_txn_reset(reader);
  }
};

void *open_store(const char *directory, int kind) {
  auto *s = new Store;
  s->kind = kind;
  std::string path = std::string(directory) + "/store.lmdb";
  MDB_txn *txn = nullptr;
  int e = mdb_env_create(&s->env);
  if (!e) e = mdb_env_set_mapsize(s->env, size_t(32) << 30);
  if (!e) e = mdb_env_open(s->env, path.c_str(), MDB_NOSUBDIR | MDB_NORDAHEAD, 0644);
  if (!e) e = mdb_txn_begin(s->env, nullptr, 0, &txn);
  if (!e) e = mdb_dbi_open(txn, nullptr, kind == BENCH_WORDS ? MDB_INTEGERKEY : 0, &s->dbi);
  if (!e) e = mdb_txn_commit(txn);
  if (!e) return s;
  fprintf(stderr, "LMDB: %s\n", mdb_strerror(e));
  delete s;
  return nullptr;
}
void *session(void *p) {
  auto *s = new Session;
  s->store = static_cast<Store *>(p);
  s->bytes.kind = s->store->kind;
  s->bytes.native = true;
  return s;
}
const bench_store lmdb_store = {"LMDB", open_store, peers::destroy<Store>, session, peers::destroy<Session>,
                                peers::run<Session>, peers::scan_all<Session>};
}  // namespace

const bench_store *bench_store_lmdb(void) { return &lmdb_store; }
