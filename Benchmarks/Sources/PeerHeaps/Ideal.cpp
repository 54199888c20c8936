#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <deque>
#include <map>
#include <string>

#include "HeapLoop.hpp"

// The floor: free blocks of one size wait in a queue of the thread's own, in memory. A call takes one, reads its
// header and makes the changed header durable, nothing else. A real allocator has more to do. Queues are first in,
// first out and start with a number of blocks, so that a line is not flushed again right after it was.

namespace {
void persist_clwb(void *line, uint64_t word) { bench_persist_clwb(line, word); }
void persist_nt(void *line, uint64_t word) { bench_persist_nt(line, word); }

constexpr size_t classes = 64 + 8 * 32;

template <void (*persist)(void *, uint64_t)>
struct Ideal {
  char *base = nullptr;
  size_t bytes = 0, used = 64;
  int fd = -1;
  std::string path;
  struct alignas(64) Thread {
    std::deque<uint64_t> free[classes];
  };
  Thread threads[8];

  ~Ideal() {
    if (base) munmap(base, bytes);
    if (fd >= 0) {
      ::close(fd);
      unlink(path.c_str());
    }
  }
  bool open(const char *directory, size_t size, size_t, size_t) {
    bytes = size;
    path = std::string(directory) + "/ideal." + std::to_string(reinterpret_cast<uintptr_t>(this));
    fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, off_t(bytes)) != 0) return false;
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return false;
    base = static_cast<char *>(p);
    return true;
  }
  // Sizes by 64 up to 4 KiB, then eight to each doubling.
  static size_t index(size_t size, size_t *rounded) {
    size_t lines = (size + 16 + 63) / 64;
    if (lines <= 64) {
      *rounded = lines * 64;
      return lines - 1;
    }
    unsigned top = 63 - unsigned(__builtin_clzl(lines - 1));
    unsigned shift = top - 3;
    size_t steps = ((lines - 1) >> shift) + 1;
    *rounded = (steps << shift) * 64;
    return 64 + (top - 6) * 8 + (steps - 9);
  }
  uint64_t alloc(unsigned thread, uint32_t, size_t size) {
    size_t rounded, i = index(size, &rounded);
    auto &queue = threads[thread].free[i];
    if (queue.empty()) {
      size_t count = rounded <= 4096 ? 64 : 2;
      size_t at = __atomic_fetch_add(&used, count * rounded, __ATOMIC_RELAXED);
      if (at + count * rounded > bytes) return 0;
      for (size_t b = 0; b < count; b++) {
        *reinterpret_cast<uint64_t *>(base + at + b * rounded) = i << 8;
        queue.push_back(at + b * rounded);
      }
    }
    uint64_t block = queue.front();
    queue.pop_front();
    uint64_t header = *reinterpret_cast<uint64_t *>(base + block);
    if (header & 1) return 0;
    persist(base + block, header | 1);
    return block + 16;
  }
  bool free(unsigned thread, uint32_t, uint64_t h) {
    char *block = base + h - 16;
    uint64_t header = *reinterpret_cast<uint64_t *>(block);
    if (!(header & 1)) return false;
    persist(block, header & ~uint64_t(1));
    threads[thread].free[header >> 8].push_back(h - 16);
    return true;
  }
  void *pointer(uint64_t h) { return base + h; }
  bool settle(unsigned) { return true; }
  size_t footprint() { return used; }
};
const bench_heap clwb_heap = peers::table<Ideal<persist_clwb>>("ideal clwb");
const bench_heap nt_heap = peers::table<Ideal<persist_nt>>("ideal nt");
}  // namespace

const bench_heap *bench_heap_ideal_clwb(void) { return &clwb_heap; }
const bench_heap *bench_heap_ideal_nt(void) { return &nt_heap; }
