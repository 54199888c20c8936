// What the campaigns need from the system and Swift cannot call: fork, loop devices, mounts, the shutdown of
// a file system; and the shim that cuts the power at an exact sync.
//
// The shim: a program that links this target gets its msync, fsync, fdatasync, pwritev2 and mmap from here, and so do
// the libraries it uses (as with LD_PRELOAD, without a library to preload). They only pass on until a plan is
// armed.
#ifndef NVM_CUT_H
#define NVM_CUT_H

#include <stddef.h>
#include <stdint.h>

// What the shim does to this process. All zero but `directory`: counts only, and maps files by small pages.
struct nvm_cut_plan {
  // A directory of the file system to be cut. Never that of the root file system: refused.
  const char *directory;
  // Cut instead of the n-th sync (1 is the first), 0: never.
  uint64_t cut_at;
  // Every k-th msync or synced write succeeds and syncs nothing: the control. 0: none.
  uint64_t swallow_every;
  // Writes some pages back beside every k-th sync or so, as a kernel's flusher would. 0: never.
  uint64_t early_every;
  uint64_t seed;
  // At the cut, before all else, these words are copied: what was promised until then.
  const uint64_t *promised;
  uint64_t *frozen;
  size_t promised_count;
};
// 0 or -errno.
int nvm_cut_arm(const struct nvm_cut_plan *plan);
// Syncs so far, the swallowed ones too.
uint64_t nvm_cut_syncs(void);

// Drops what the file system of a directory has not synced; it is unusable until mounted anew. `flushes_log`
// commits its own journal first. Refused for the root file system. 0 or -errno.
int nvm_cut_shutdown(const char *directory, int flushes_log);

// A child that is killed when its parent ends and by SIGALRM after `seconds`. Its number, 0 in the child,
// -errno.
int nvm_cut_fork(unsigned seconds);
// Runs a program, its output discarded. Its exit status, 128 + signal, or -errno.
int nvm_cut_run(const char *const *arguments);

// Gives this process a view of the mounts of its own: what it mounts nobody else sees, and it vanishes with
// it.
int nvm_cut_own_mounts(void);
int nvm_cut_mount(const char *device, const char *directory, const char *type, const char *options);
int nvm_cut_unmount(const char *directory);
// Makes a loop device of an image; `device` (32 bytes) is its path. A descriptor that keeps it, or -errno.
int nvm_cut_attach(const char *image, char *device);

// Waits for a child. `status` is as waitpid has it. 1 when it has ended, 0 when not (without `blocks`),
// -errno.
int nvm_cut_wait(int pid, int *status, int blocks);
// Turns read-ahead off and forgets the cached pages of a file.
void nvm_cut_forget_pages(int fd);

#endif
