#pragma once
#include "PeerStores.h"

// The loop around every store. A session has begin, commit, put, get, erase, scan, scan_all on bytes; `Bytes` makes
// keys and values of both kinds, the same way for all.

namespace peers {

struct Slice {
  const void *data;
  size_t size;
};

/// Keys and values as a store takes them. Integers are big-endian, so that bytes sort as they do; a store that knows
/// integers (`native`) gets them as they are.
struct Bytes {
  int kind;
  bool native;
  uint64_t key_word, value_word;
  unsigned char key_bytes[BENCH_LONG_KEY], value_bytes[BENCH_LONG_VALUE];

  Slice key(uint64_t k) {
    if (kind == BENCH_WORDS) {
      key_word = native ? k : __builtin_bswap64(k);
      return {&key_word, 8};
    }
    return {key_bytes, bench_long_key(k, key_bytes)};
  }
  Slice value(uint64_t k, uint64_t version) {
    if (kind == BENCH_WORDS) {
      value_word = bench_value(k, version);
      return {&value_word, 8};
    }
    bench_long_value(k, version, value_bytes);
    return {value_bytes, BENCH_LONG_VALUE};
  }
  uint64_t key_of(const void *p, size_t n, uint64_t *wrong) const {
    if (kind == BENCH_BYTES) return bench_key_of(static_cast<const unsigned char *>(p), n, wrong);
    uint64_t k;
    __builtin_memcpy(&k, p, 8);
    return native ? k : __builtin_bswap64(k);
  }
  uint64_t value_of(const void *p, size_t n, uint64_t *wrong) const {
    if (kind == BENCH_BYTES) return bench_value_of(static_cast<const unsigned char *>(p), n, wrong);
    uint64_t v;
    __builtin_memcpy(&v, p, 8);
    return v;
  }
};

/// Takes the entries of a scan.
struct Visit {
  Bytes &bytes;
  bench_outcome &o;
  uint64_t last = 0;
  bool any = false;
  void operator()(const void *k, size_t kn, const void *v, size_t vn) {
    uint64_t key = bytes.key_of(k, kn, &o.wrong), value = bytes.value_of(v, vn, &o.wrong);
    if ((any && key <= last) || !bench_is_value(key, value)) o.wrong++;
    any = true;
    last = key;
    o.entries++;
    o.checksum += value;
  }
};

template <class S, bool timed>
void loop(S &s, const bench_batch &b, bench_outcome &o) {
  size_t pending = 0;
  const size_t group = b.per_commit > 1 ? b.per_commit : 1;
  for (size_t i = 0; i < b.count; i++) {
    const uint64_t k = b.keys[i];
    const uint8_t op = b.ops ? b.ops[i] : b.op;
    uint64_t began = 0;
    if (timed) began = bench_ticks();
    bool changes = op == BENCH_UPDATE || op == BENCH_INSERT || op == BENCH_DELETE;
    if (changes && pending == 0 && !s.begin()) o.wrong++;
    switch (op) {
      case BENCH_LOOKUP:
      case BENCH_MISS: {
        uint64_t v = 0;
        bool found = s.get(s.bytes.key(k), [&](const void *p, size_t n) { v = s.bytes.value_of(p, n, &o.wrong); });
        if (found != (op == BENCH_LOOKUP) || (found && !bench_is_value(k, v))) o.wrong++;
        o.checksum += v;
        break;
      }
      case BENCH_UPDATE:
      case BENCH_INSERT:
        if (!s.put(s.bytes.key(k), s.bytes.value(k, b.version + i))) o.wrong++;
        break;
      case BENCH_DELETE:
        if (!s.erase(s.bytes.key(k))) o.wrong++;
        break;
      default: {
        Visit visit{s.bytes, o};
        s.scan(s.bytes.key(k), size_t(op - BENCH_SCAN), visit);
      }
    }
    if (changes && ++pending == group) {
      if (!s.commit()) o.wrong++;
      pending = 0;
    }
    if (timed) b.ticks[i] = uint32_t(bench_ticks() - began);
  }
  if (pending > 0 && !s.commit()) o.wrong++;
}

template <class S>
void run(void *p, const bench_batch *b, bench_outcome *o) {
  if (b->ticks)
    loop<S, true>(*static_cast<S *>(p), *b, *o);
  else
    loop<S, false>(*static_cast<S *>(p), *b, *o);
}
template <class S>
void scan_all(void *p, bench_outcome *o) {
  S &s = *static_cast<S *>(p);
  Visit visit{s.bytes, *o};
  s.scan(Slice{nullptr, 0}, ~size_t(0), visit);
}
template <class T>
void destroy(void *p) { delete static_cast<T *>(p); }

}  // namespace peers
