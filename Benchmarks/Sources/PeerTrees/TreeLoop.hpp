#pragma once
#include "PeerTrees.h"

// The loop around every peer. An adapter has put, get, erase, scan, scan_all and settle; they are inlined here.

namespace peers {

struct Checked {
  bench_outcome *o;
  uint64_t last = 0;
  bool any = false;
  inline void operator()(uint64_t key, uint64_t value) {
    if ((any && key <= last) || !bench_is_value(key, value)) o->wrong++;
    any = true;
    last = key;
    o->entries++;
    o->checksum += value;
  }
};

template <class A, bool timed>
void loop(A &a, const bench_batch &b, bench_outcome &o) {
  bench_outcome local = o;
  for (size_t i = 0; i < b.count; i++) {
    const uint64_t key = b.keys[i];
    const uint8_t op = b.ops ? b.ops[i] : b.op;
    uint64_t began = 0;
    if (timed) began = bench_ticks();
    uint64_t v = 0;
    switch (op) {
      case BENCH_LOOKUP:
        if (!a.get(key, v) || !bench_is_value(key, v)) local.wrong++;
        local.checksum += v;
        break;
      case BENCH_UPDATE:
      case BENCH_INSERT:
        if (!a.put(key, bench_value(key, b.version))) local.wrong++;
        break;
      case BENCH_DELETE:
        if (!a.erase(key)) local.wrong++;
        break;
      case BENCH_MISS:
        if (a.get(key, v)) local.wrong++;
        break;
      case BENCH_RMW:
        if (!a.get(key, v) || !bench_is_value(key, v)) local.wrong++;
        local.checksum += v;
        if (!a.put(key, bench_value(key, b.version))) local.wrong++;
        break;
      default: {
        Checked check{&local};
        a.scan(key, size_t(op - BENCH_SCAN), check);
        if (!check.any) local.wrong++;
      }
    }
    if (timed) b.ticks[i] = uint32_t(bench_ticks() - began);
  }
  if (!a.settle()) local.wrong++;
  o = local;
}

template <class A>
void run(void *p, const bench_batch *b, bench_outcome *o) {
  if (b->ticks)
    loop<A, true>(*static_cast<A *>(p), *b, *o);
  else
    loop<A, false>(*static_cast<A *>(p), *b, *o);
}
template <class A>
void scan_all(void *p, bench_outcome *o) {
  bench_outcome local = *o;
  Checked check{&local};
  static_cast<A *>(p)->scan_all(check);
  *o = local;
}
template <class A>
void close(void *p) { delete static_cast<A *>(p); }

}  // namespace peers
