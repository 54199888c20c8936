// The shim: syncs that count, and at a chosen one the power fails.
//
// At the cut: the promises made so far are frozen; a random part of the file's pages is written back (each
// page alone: the kernel itself writes them in ascending order, which hides a publish that comes before what
// it publishes); then the file system is shut down and the process killed. Other threads go on meanwhile, as
// they would.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "CNVMCut.h"
#include "shutdown.h"

static struct nvm_cut_plan plan;
static bool is_armed;
static int directory_fd = -1;
static dev_t device;
static int file_fd = -1;
static uint64_t syncs;
static uint64_t msyncs;
static uint64_t random_state;

static uint64_t next_random(void) {
  uint64_t z = __atomic_add_fetch(&random_state, 0x9E3779B97F4A7C15u, __ATOMIC_RELAXED);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// About `share` of 256 of the file's pages, in random order of runs of one.
static void write_back(unsigned share) {
  int fd = __atomic_load_n(&file_fd, __ATOMIC_RELAXED);
  struct stat info;
  if (fd < 0 || fstat(fd, &info) != 0) return;
  off_t pages = info.st_size >> 12;
  for (off_t page = 0; page < pages; page++) {
    if ((next_random() & 255) < share) sync_file_range(fd, page << 12, 4096, SYNC_FILE_RANGE_WRITE);
  }
  sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE);
}

static void cut(void) {
  for (size_t i = 0; i < plan.promised_count; i++) {
    uint64_t word = __atomic_load_n(plan.promised + i, __ATOMIC_ACQUIRE);
    __atomic_store_n(plan.frozen + i, word, __ATOMIC_RELEASE);
  }
  static const unsigned shares[8] = {0, 16, 64, 128, 128, 192, 240, 256};
  write_back(shares[next_random() & 7]);
  nvm_cut_shutdown_fd(directory_fd, (int)(next_random() & 1));
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

// Whether the sync is to be left out.
static bool on_sync(bool is_msync) {
  if (!__atomic_load_n(&is_armed, __ATOMIC_ACQUIRE)) return false;
  uint64_t n = __atomic_add_fetch(&syncs, 1, __ATOMIC_RELAXED);
  if (n == plan.cut_at) cut();
  if (plan.early_every && next_random() % plan.early_every == 0) write_back(next_random() & 127);
  if (!is_msync || !plan.swallow_every) return false;
  return __atomic_add_fetch(&msyncs, 1, __ATOMIC_RELAXED) % plan.swallow_every == 0;
}

int nvm_cut_arm(const struct nvm_cut_plan *p) {
  int fd = open(p->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return -errno;
  struct stat info;
  if (fstat(fd, &info) != 0 || nvm_cut_is_root(fd)) {
    close(fd);
    return -EPERM;
  }
  plan = *p;
  directory_fd = fd;
  device = info.st_dev;
  random_state = p->seed;
  __atomic_store_n(&is_armed, true, __ATOMIC_RELEASE);
  return 0;
}

uint64_t nvm_cut_syncs(void) { return __atomic_load_n(&syncs, __ATOMIC_RELAXED); }

// MARK: The calls that stand in for the C library's

int msync(void *address, size_t length, int flags) {
  if (on_sync(true)) return 0;
  return (int)syscall(SYS_msync, address, length, flags);
}

int fsync(int fd) {
  on_sync(false);
  return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
  on_sync(false);
  return (int)syscall(SYS_fdatasync, fd);
}

// A write that is a sync: its bytes are in the page cache when the power fails, synced or not.
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
  if (flags & RWF_DSYNC && __atomic_load_n(&is_armed, __ATOMIC_ACQUIRE)) {
    ssize_t n = syscall(SYS_pwritev2, fd, parts, count, offset, 0, flags & ~RWF_DSYNC);
    if (n < 0 || on_sync(true)) return n;
  }
  return syscall(SYS_pwritev2, fd, parts, count, offset, 0, flags);
}

#if !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer)
// Finds out which file is the region's, and has it mapped by single pages: a large folio would be written
// back whole.
void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
  void *result = (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
  if (fd < 0 || result == MAP_FAILED || !__atomic_load_n(&is_armed, __ATOMIC_ACQUIRE)) return result;
  struct stat info;
  if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_dev == device) {
    madvise(result, length, MADV_RANDOM);
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    __atomic_store_n(&file_fd, fd, __ATOMIC_RELAXED);
  }
  return result;
}
#endif
