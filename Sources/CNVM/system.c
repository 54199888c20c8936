#define _GNU_SOURCE
#include "nvm_system.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 0x03
#endif
#ifndef MAP_SYNC
#define MAP_SYNC 0x80000
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // Linux 6.1
#endif

int nvm_open(const char *path, int flags, unsigned mode) {
  for (;;) {
    int fd = open(path, flags | O_CLOEXEC, mode);
    if (fd >= 0) return fd;
    if (errno != EINTR) return -errno;
  }
}

int nvm_open_unnamed(const char *directory, unsigned mode) {
  return nvm_open(directory, O_TMPFILE | O_RDWR, mode);
}

int nvm_link_unnamed(int fd, const char *path) {
  char self[64];
  snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
  if (linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0) return 0;
  int error = errno;
  // Where /proc is not mounted; needs a newer kernel or a privilege.
  if (error == ENOENT && linkat(fd, "", AT_FDCWD, path, AT_EMPTY_PATH) == 0) return 0;
  return -error;
}

int nvm_lock_file(int fd, int exclusive) {
  struct flock lock = {.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
  return fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : -errno;
}

static int allocate(int fd, uint64_t offset, uint64_t length) {
  for (;;) {
    int error = posix_fallocate(fd, (off_t)offset, (off_t)length);
    if (error != EINTR) return -error;
  }
}

// Of a file in memory (tmpfs) whole large pages, as far as the system gives them; what is missing is for the caller.
// They must be made while the file is empty there: later the kernel would allocate and copy all that is small already.
static void allocate_large_pages(int fd, uint64_t offset, uint64_t length) {
  const uint64_t page = 2 << 20;
  const uint64_t first = (offset + page - 1) & ~(page - 1), end = (offset + length) & ~(page - 1);
  struct statfs info;
  if (first >= end || fstatfs(fd, &info) != 0 || info.f_type != TMPFS_MAGIC) return;
  size_t size = (size_t)(end - first);
  char *room = mmap(NULL, size + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return;
  char *at = (char *)(((uintptr_t)room + page - 1) & ~(uintptr_t)(page - 1));
  if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)first) != MAP_FAILED) {
    for (uint64_t i = 0; i < size; i += page) {
      // One small page, without which the kernel takes the place for a part that was cut off; then the large one.
      if (allocate(fd, first + i, 4096) != 0 || madvise(at + i, page, MADV_COLLAPSE) != 0) break;
    }
  }
  munmap(room, size + page);
}

int nvm_allocate(int fd, uint64_t offset, uint64_t length) {
  allocate_large_pages(fd, offset, length);
  return allocate(fd, offset, length);
}

int nvm_fill_holes(int fd, uint64_t length) {
  // (posix_fallocate would write block by block where the file system knows no other way.)
  for (;;) {
    if (fallocate(fd, 0, 0, (off_t)length) == 0) return 0;
    if (errno != EINTR) return -errno;
  }
}

int nvm_map_fixed_sync(void *at, size_t length, int fd, uint64_t off) {
  void *p = mmap(at, length, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC | MAP_FIXED, fd, (off_t)off);
  return p == MAP_FAILED ? -errno : 0;
}

void *nvm_map_large_page(size_t size) {
  char *p = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return NULL;
  char *page = (char *)(((uintptr_t)p + size - 1) & ~(uintptr_t)(size - 1));
  if (page > p) munmap(p, (size_t)(page - p));
  munmap(page + size, (size_t)(p + size - page));
  unsigned char resident = 0;
  // A first store brings all of it, or one small page.
  if (madvise(page, size, MADV_HUGEPAGE) == 0) *(volatile char *)page = 0;
  if (mincore(page + size - 4096, 4096, &resident) == 0 && (resident & 1) != 0) return page;
  munmap(page, size);
  return NULL;
}

void nvm_advise_small_pages(int fd, uint64_t offset, uint64_t length) {
  posix_fadvise(fd, (off_t)offset, (off_t)length, POSIX_FADV_DONTNEED);
  posix_fadvise(fd, (off_t)offset, (off_t)length, POSIX_FADV_RANDOM);
}

int nvm_is_unwritten(int fd, uint64_t offset, uint64_t length) {
  // (SEEK_DATA takes for data what was only read into the page cache.)
  enum { MOST = 16 };
  union {
    struct fiemap map;
    char room[sizeof(struct fiemap) + MOST * sizeof(struct fiemap_extent)];
  } request;
  memset(&request, 0, sizeof request);
  request.map.fm_start = offset;
  request.map.fm_length = length;
  request.map.fm_extent_count = MOST;
  if (ioctl(fd, FS_IOC_FIEMAP, &request.map) != 0) return 0;
  uint64_t end = offset;
  for (uint32_t i = 0; i < request.map.fm_mapped_extents && end < offset + length; i++) {
    struct fiemap_extent *extent = &request.map.fm_extents[i];
    if (extent->fe_logical > end || (extent->fe_flags & FIEMAP_EXTENT_UNWRITTEN) == 0) return 0;
    end = extent->fe_logical + extent->fe_length;
  }
  return end >= offset + length;
}

void nvm_drop_cached(int fd, uint64_t offset, uint64_t length) {
  posix_fadvise(fd, (off_t)offset, (off_t)length, POSIX_FADV_DONTNEED);
}

int nvm_is_dax(int fd) {
  void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
  if (p == MAP_FAILED) return 0;
  munmap(p, 4096);
  return 1;
}

int nvm_write(int fd, const void *bytes, size_t length, uint64_t offset) {
  const char *p = bytes;
  while (length > 0) {
    ssize_t n = pwrite(fd, p, length, (off_t)offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? -errno : -EIO;
    p += n;
    offset += (uint64_t)n;
    length -= (size_t)n;
  }
  return 0;
}

int nvm_write_durably(int fd, const void *bytes, size_t length, uint64_t offset) {
  const char *p = bytes;
  while (length > 0) {
    struct iovec part = {.iov_base = (void *)p, .iov_len = length};
    ssize_t n = pwritev2(fd, &part, 1, (off_t)offset, RWF_DSYNC);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) {
      int error = nvm_write(fd, p, length, offset);
      if (error) return error;
      return fdatasync(fd) == 0 ? 0 : -errno;
    }
    if (n <= 0) return n < 0 ? -errno : -EIO;
    p += n;
    offset += (uint64_t)n;
    length -= (size_t)n;
  }
  return 0;
}

void nvm_start_writing(int fd, uint64_t offset, uint64_t length) {
  sync_file_range(fd, (off_t)offset, (off_t)length, SYNC_FILE_RANGE_WRITE);
}

int nvm_barrier_of_all_threads(void) {
  static int is_registered;
  if (!__atomic_load_n(&is_registered, __ATOMIC_ACQUIRE)) {
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) != 0) return -errno;
    __atomic_store_n(&is_registered, 1, __ATOMIC_RELEASE);
  }
  return syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0 ? 0 : -errno;
}

void nvm_make_short_mutex(pthread_mutex_t *m) {
  *m = (pthread_mutex_t)PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;
}

static uint32_t *low_half(void *word) {
  return (uint32_t *)word + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 1 : 0);
}

void nvm_sleep_on(void *word, uint32_t seen, uint64_t nanoseconds) {
  struct timespec time = {.tv_sec = (time_t)(nanoseconds / 1000000000u), .tv_nsec = (long)(nanoseconds % 1000000000u)};
  syscall(SYS_futex, low_half(word), FUTEX_WAIT_BITSET_PRIVATE, seen, nanoseconds == UINT64_MAX ? NULL : &time, NULL,
          FUTEX_BITSET_MATCH_ANY);
}

void nvm_wake_sleepers(void *word, int count) {
  syscall(SYS_futex, low_half(word), FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}
