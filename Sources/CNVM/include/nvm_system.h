// System calls that Swift's Glibc overlay does not import (variadic functions, feature macros).
#ifndef NVM_SYSTEM_H
#define NVM_SYSTEM_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

// Each returns 0 (or a descriptor) on success and -errno on failure; EINTR is retried where it is safe.
int nvm_open(const char *path, int flags, unsigned mode);
int nvm_open_unnamed(const char *directory, unsigned mode);              // O_TMPFILE
int nvm_link_unnamed(int fd, const char *path);                          // gives it its name; -EEXIST
int nvm_lock_file(int fd, int exclusive);                                // open-file-description lock
int nvm_allocate(int fd, uint64_t offset, uint64_t length);              // posix_fallocate
// Gives the holes of a file's first bytes room on the disk; what is there stays. -EOPNOTSUPP where there is no such call.
int nvm_fill_holes(int fd, uint64_t length);
int nvm_map_fixed_sync(void *at, size_t length, int fd, uint64_t off);   // MAP_SHARED_VALIDATE|MAP_SYNC
int nvm_is_dax(int fd);                                                  // whether MAP_SYNC is granted
// Writes all of it. The second makes these bytes durable, and no others of the file: a checkpoint's pages in the
// cache are none of its business. Where the kernel cannot, it syncs the file's data.
int nvm_write(int fd, const void *bytes, size_t length, uint64_t offset);
int nvm_write_durably(int fd, const void *bytes, size_t length, uint64_t offset);
// Starts the write-back of a range and waits for nothing.
void nvm_start_writing(int fd, uint64_t offset, uint64_t length);
// After it every other thread of the process sees what this one stored before, and this one sees what they stored
// before. -errno where the kernel cannot.
int nvm_barrier_of_all_threads(void);
// Puts a mapping in the place of another, by one step for threads that read there meanwhile: see moving.c. 0, or
// -errno: nothing was done. The first is to be called once before. `failures`, for tests: how many attempts fail as
// they do for want of memory in the kernel, with nothing mapped there any more.
int nvm_prepare_moving(void);
int nvm_move_mapping(void *from, size_t length, void *to, int failures);
// One large page of anonymous memory, of the size of large pages, in memory already; NULL where the kernel gives none.
void *nvm_map_large_page(size_t size);
// Whether a range was allocated and none of it has reached the disk since. 0 also where that is not known.
int nvm_is_unwritten(int fd, uint64_t offset, uint64_t length);
void nvm_drop_cached(int fd, uint64_t offset, uint64_t length);
// Drops the cached pages of a range and turns read-ahead off, so that the mapping is served by small pages.
void nvm_advise_small_pages(int fd, uint64_t offset, uint64_t length);

// Locks made without a call that could fail.
static inline void nvm_make_mutex(pthread_mutex_t *m) { *m = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER; }
// One whose waiters try for a while before they sleep: for sections of a microsecond or two.
void nvm_make_short_mutex(pthread_mutex_t *m);
static inline void nvm_make_condition(pthread_cond_t *c) { *c = (pthread_cond_t)PTHREAD_COND_INITIALIZER; }
// Sleeps while the low half of the word at `word` is `seen`, until woken, or until a time of CLOCK_MONOTONIC in
// nanoseconds (UINT64_MAX: none). May return early. The second wakes at most `count` threads.
void nvm_sleep_on(void *word, uint32_t seen, uint64_t nanoseconds);
void nvm_wake_sleepers(void *word, int count);

#endif
