#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>

#include <string>

#include "StoreLoop.hpp"

// sync=true, 64 MiB memtables (the default), 1 GiB of block cache, bloom filters of 10 bits, no compression (the keys
// are random), background work on as many threads as the default plus IncreaseParallelism asks for.

namespace {
struct Store {
  rocksdb_t *db = nullptr;
  rocksdb_options_t *options = rocksdb_options_create();
  rocksdb_writeoptions_t *write = rocksdb_writeoptions_create();
  rocksdb_readoptions_t *read = rocksdb_readoptions_create();
  rocksdb_cache_t *cache = rocksdb_cache_create_lru(size_t(1) << 30);
  int kind = 0;
  ~Store() {
    if (db) rocksdb_close(db);
    rocksdb_readoptions_destroy(read);
    rocksdb_writeoptions_destroy(write);
    rocksdb_options_destroy(options);
    rocksdb_cache_destroy(cache);
  }
};
struct Session {
  Store *store;
  peers::Bytes bytes;
  rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
  ~Session() { rocksdb_writebatch_destroy(batch); }
  static bool fine(char *error) {
    if (!error) return true;
    fprintf(stderr, "RocksDB: %s\n", error);
    free(error);
    return false;
  }
  bool begin() {
    rocksdb_writebatch_clear(batch);
    return true;
  }
  bool commit() {
    char *error = nullptr;
    rocksdb_write(store->db, store->write, batch, &error);
    return fine(error);
  }
  static const char *p(peers::Slice s) { return static_cast<const char *>(s.data); }
  bool put(peers::Slice k, peers::Slice v) {
    rocksdb_writebatch_put(batch, p(k), k.size, p(v), v.size);
    return true;
  }
  bool erase(peers::Slice k) {
    rocksdb_writebatch_delete(batch, p(k), k.size);
    return true;
  }
  template <class F>
  bool get(peers::Slice k, F take) {
    char *error = nullptr;
    rocksdb_pinnableslice_t *found = rocksdb_get_pinned(store->db, store->read, p(k), k.size, &error);
    if (!fine(error) || !found) return false;
    size_t n;
    const char *v = rocksdb_pinnableslice_value(found, &n);
    take(v, n);
    rocksdb_pinnableslice_destroy(found);
    return true;
  }
  template <class F>
  void scan(peers::Slice k, size_t n, F &f) {
    rocksdb_iterator_t *i = rocksdb_create_iterator(store->db, store->read);
    if (k.size)
      rocksdb_iter_seek(i, p(k), k.size);
    else
      rocksdb_iter_seek_to_first(i);
    for (; n > 0 && rocksdb_iter_valid(i); n--, rocksdb_iter_next(i)) {
      size_t kn, vn;
      const char *kp = rocksdb_iter_key(i, &kn);
      const char *vp = rocksdb_iter_value(i, &vn);
      f(kp, kn, vp, vn);
    }
    rocksdb_iter_destroy(i);
  }
};

void *open_store(const char *directory, int kind) {
  auto *s = new Store;
  s->kind = kind;
  rocksdb_options_set_create_if_missing(s->options, 1);
  rocksdb_options_increase_parallelism(s->options, 2);
  rocksdb_options_set_compression(s->options, rocksdb_no_compression);
  auto *table = rocksdb_block_based_options_create();
  rocksdb_block_based_options_set_filter_policy(table, rocksdb_filterpolicy_create_bloom_full(10));
  rocksdb_block_based_options_set_block_cache(table, s->cache);
  rocksdb_options_set_block_based_table_factory(s->options, table);
  rocksdb_block_based_options_destroy(table);
  rocksdb_writeoptions_set_sync(s->write, 1);
  std::string path = std::string(directory) + "/store.rocksdb";
  char *error = nullptr;
  s->db = rocksdb_open(s->options, path.c_str(), &error);
  if (Session::fine(error)) return s;
  delete s;
  return nullptr;
}
void *session(void *p) {
  auto *s = new Session;
  s->store = static_cast<Store *>(p);
  s->bytes.kind = s->store->kind;
  s->bytes.native = false;
  return s;
}
const bench_store rocksdb_store = {"RocksDB", open_store, peers::destroy<Store>, session, peers::destroy<Session>,
                                   peers::run<Session>, peers::scan_all<Session>};
}  // namespace

const bench_store *bench_store_rocksdb(void) { return &rocksdb_store; }
