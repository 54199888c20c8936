#include <sqlite3.h>
#include <stdio.h>

#include <string>

#include "StoreLoop.hpp"

// WITHOUT ROWID, WAL, synchronous=FULL, prepared statements, 256 MiB of cache and 1 GiB of mapping; a connection for
// each thread, writers by BEGIN IMMEDIATE.

namespace {
struct Store {
  std::string path;
  int kind = 0;
  sqlite3 *keeper = nullptr;  // keeps the log from being checkpointed away between sessions
  ~Store() { sqlite3_close(keeper); }
};
bool execute(sqlite3 *db, const char *sql) {
  char *message = nullptr;
  if (sqlite3_exec(db, sql, nullptr, nullptr, &message) == SQLITE_OK) return true;
  fprintf(stderr, "SQLite: %s: %s\n", sql, message ? message : "?");
  sqlite3_free(message);
  return false;
}
sqlite3 *connect(const std::string &path) {
  sqlite3 *db = nullptr;
  if (sqlite3_open_v2(path.c_str(), &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr) ==
          SQLITE_OK &&
      sqlite3_busy_timeout(db, 120000) == SQLITE_OK && execute(db, "PRAGMA journal_mode=WAL") &&
      execute(db, "PRAGMA synchronous=FULL") && execute(db, "PRAGMA cache_size=-262144") &&
      execute(db, "PRAGMA mmap_size=1073741824"))
    return db;
  sqlite3_close(db);
  return nullptr;
}
struct Session {
  peers::Bytes bytes;
  sqlite3 *db = nullptr;
  sqlite3_stmt *begin_ = nullptr, *commit_ = nullptr, *put_ = nullptr, *get_ = nullptr, *erase_ = nullptr,
               *scan_ = nullptr;
  ~Session() {
    for (auto *s : {begin_, commit_, put_, get_, erase_, scan_}) sqlite3_finalize(s);
    sqlite3_close(db);
  }
  bool prepare(const char *sql, sqlite3_stmt **s) {
    return sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, s, nullptr) == SQLITE_OK;
  }
  bool open(Store *store) {
    bytes.kind = store->kind;
    bytes.native = true;
    db = connect(store->path);
    return db && prepare("BEGIN IMMEDIATE", &begin_) && prepare("COMMIT", &commit_) &&
           prepare("INSERT INTO t VALUES (?1, ?2) ON CONFLICT (k) DO UPDATE SET v = excluded.v", &put_) &&
           prepare("SELECT v FROM t WHERE k = ?1", &get_) && prepare("DELETE FROM t WHERE k = ?1", &erase_) &&
           prepare("SELECT k, v FROM t WHERE k >= ?1 ORDER BY k LIMIT ?2", &scan_);
  }
  void bind(sqlite3_stmt *s, int i, peers::Slice x) {
    if (bytes.kind == BENCH_WORDS) {
      sqlite3_int64 v = 0;
      if (x.size) __builtin_memcpy(&v, x.data, 8);
      sqlite3_bind_int64(s, i, v);
    } else {
      sqlite3_bind_blob(s, i, x.size ? x.data : "", int(x.size), SQLITE_STATIC);
    }
  }
  static bool step(sqlite3_stmt *s) {
    int e = sqlite3_step(s);
    sqlite3_reset(s);
    return e == SQLITE_DONE;
  }
  bool begin() { return step(begin_); }
  bool commit() { return step(commit_); }
  bool put(peers::Slice k, peers::Slice v) {
    bind(put_, 1, k);
    bind(put_, 2, v);
    return step(put_);
  }
  bool erase(peers::Slice k) {
    bind(erase_, 1, k);
    return step(erase_) && sqlite3_changes(db) == 1;
  }
  template <class F>
  void column(sqlite3_stmt *s, int i, F take) {
    if (bytes.kind == BENCH_WORDS) {
      sqlite3_int64 v = sqlite3_column_int64(s, i);
      take(&v, 8);
    } else {
      const void *p = sqlite3_column_blob(s, i);
      take(p, size_t(sqlite3_column_bytes(s, i)));
    }
  }
  template <class F>
  bool get(peers::Slice k, F take) {
    bind(get_, 1, k);
    bool found = sqlite3_step(get_) == SQLITE_ROW;
    if (found) column(get_, 0, take);
    sqlite3_reset(get_);
    return found;
  }
  template <class F>
  void scan(peers::Slice k, size_t n, F &f) {
    bind(scan_, 1, k);
    sqlite3_bind_int64(scan_, 2, n > size_t(1) << 40 ? -1 : sqlite3_int64(n));
    while (sqlite3_step(scan_) == SQLITE_ROW) {
      column(scan_, 0, [&](const void *kp, size_t kn) {
        column(scan_, 1, [&](const void *vp, size_t vn) { f(kp, kn, vp, vn); });
      });
    }
    sqlite3_reset(scan_);
  }
};

void *open_store(const char *directory, int kind) {
  auto *s = new Store;
  s->path = std::string(directory) + "/store.sqlite";
  s->kind = kind;
  s->keeper = connect(s->path);
  if (s->keeper &&
      execute(s->keeper, kind == BENCH_WORDS
                             ? "CREATE TABLE IF NOT EXISTS t (k INTEGER PRIMARY KEY, v INTEGER) WITHOUT ROWID"
                             : "CREATE TABLE IF NOT EXISTS t (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID"))
    return s;
  delete s;
  return nullptr;
}
void *session(void *p) {
  auto *s = new Session;
  if (s->open(static_cast<Store *>(p))) return s;
  fprintf(stderr, "SQLite: %s\n", s->db ? sqlite3_errmsg(s->db) : "cannot connect");
  delete s;
  return nullptr;
}
const bench_store sqlite_store = {"SQLite", open_store, peers::destroy<Store>, session, peers::destroy<Session>,
                                  peers::run<Session>, peers::scan_all<Session>};
}  // namespace

const bench_store *bench_store_sqlite(void) { return &sqlite_store; }
