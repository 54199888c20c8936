#pragma once
#include <string.h>

#include <vector>

#include "PeerHeaps.h"

// The loops around every peer. An adapter has alloc(thread, slot, size) -> handle, 0 on failure; free(thread, slot,
// handle); pointer(handle); settle(thread); footprint(). They are inlined here.

namespace peers {

template <class A>
struct Heap {
  A a;
  std::vector<uint64_t> slots;
};

template <class A>
inline bool release(A &a, unsigned thread, uint32_t slot, uint64_t h) {
  void *p = a.pointer(h);
  bool ok = p && *static_cast<uint64_t *>(p) == bench_tag(h);
  return a.free(thread, slot, h) && ok;
}
template <class A>
inline uint64_t acquire(A &a, unsigned thread, uint32_t slot, size_t size) {
  uint64_t h = a.alloc(thread, slot, size);
  if (h) *static_cast<uint64_t *>(a.pointer(h)) = bench_tag(h);
  return h;
}

template <class A, bool timed>
void loop(Heap<A> &heap, unsigned thread, const bench_step *steps, size_t count, uint32_t *ticks, bench_outcome &o) {
  uint64_t wrong = 0;
  for (size_t i = 0; i < count; i++) {
    const bench_step s = steps[i];
    uint64_t began = 0;
    if (timed) began = bench_ticks();
    uint64_t &slot = heap.slots[s.slot];
    if (s.size == 0) {
      if (!release(heap.a, thread, s.slot, slot)) wrong++;
      slot = 0;
    } else {
      slot = acquire(heap.a, thread, s.slot, s.size);
      if (!slot) wrong++;
    }
    if (timed) ticks[i] = uint32_t(bench_ticks() - began);
  }
  if (!heap.a.settle(thread)) wrong++;
  o.wrong += wrong;
}
template <class A>
void run(void *p, unsigned thread, const bench_step *steps, size_t count, uint32_t *ticks, bench_outcome *o) {
  if (ticks)
    loop<A, true>(*static_cast<Heap<A> *>(p), thread, steps, count, ticks, *o);
  else
    loop<A, false>(*static_cast<Heap<A> *>(p), thread, steps, count, ticks, *o);
}
template <class A>
void produce(void *p, unsigned thread, bench_ring *ring, size_t size, size_t count, bench_outcome *o) {
  A &a = static_cast<Heap<A> *>(p)->a;
  for (size_t i = 0; i < count; i++) {
    uint64_t h = acquire(a, thread, uint32_t(i & 2047), size);
    if (!h) o->wrong++;
    // Published before it is handed over.
    if (!a.settle(thread)) o->wrong++;
    bench_ring_push(ring, h);
  }
}
template <class A>
void consume(void *p, unsigned thread, bench_ring *ring, size_t count, bench_outcome *o) {
  A &a = static_cast<Heap<A> *>(p)->a;
  for (size_t i = 0; i < count; i++) {
    uint64_t h = bench_ring_pop(ring);
    if (!h || !release(a, thread, uint32_t(i & 2047), h)) o->wrong++;
  }
  if (!a.settle(thread)) o->wrong++;
}
template <class A>
size_t footprint(void *p) { return static_cast<Heap<A> *>(p)->a.footprint(); }
template <class A>
uint64_t address(void *p, uint32_t slot) {
  auto *heap = static_cast<Heap<A> *>(p);
  return reinterpret_cast<uint64_t>(heap->a.pointer(heap->slots[slot]));
}
template <class A>
void *open(const char *directory, size_t bytes, size_t slots, size_t batch) {
  auto *heap = new Heap<A>;
  heap->slots.resize(slots);
  if (heap->a.open(directory, bytes, slots, batch)) return heap;
  delete heap;
  return nullptr;
}
template <class A>
void close(void *p) { delete static_cast<Heap<A> *>(p); }

template <class A>
constexpr bench_heap table(const char *name) {
  return {name, open<A>, close<A>, run<A>, produce<A>, consume<A>, footprint<A>, address<A>};
}

}  // namespace peers
