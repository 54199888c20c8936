#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "CNVMCut.h"
#include "shutdown.h"

// The same request in ext4, xfs and f2fs: _IOR('X', 125, uint32_t).
#define NVM_GOING_DOWN 0x8004587d
enum { NVM_FLUSHES_LOG = 1, NVM_DROPS_LOG = 2 };

int nvm_cut_is_root(int fd) {
  struct stat info, root;
  return fstat(fd, &info) != 0 || stat("/", &root) != 0 || info.st_dev == root.st_dev;
}

int nvm_cut_shutdown_fd(int fd, int flushes_log) {
  if (nvm_cut_is_root(fd)) return -EPERM;
  uint32_t how = flushes_log ? NVM_FLUSHES_LOG : NVM_DROPS_LOG;
  return ioctl(fd, NVM_GOING_DOWN, &how) == 0 ? 0 : -errno;
}

int nvm_cut_shutdown(const char *directory, int flushes_log) {
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return -errno;
  int result = nvm_cut_shutdown_fd(fd, flushes_log);
  close(fd);
  return result;
}

int nvm_cut_fork(unsigned seconds) {
  pid_t parent = getpid();
  pid_t pid = fork();
  if (pid < 0) return -errno;
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    // Whatever ends it ends it at once, without a backtrace: it may be one of many, and in the middle of a cut.
    static const int deadly[] = {SIGALRM, SIGABRT, SIGBUS, SIGSEGV, SIGILL, SIGTRAP, SIGFPE};
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) signal(deadly[i], SIG_DFL);
    alarm(seconds);
  }
  return pid;
}

int nvm_cut_run(const char *const *arguments) {
  pid_t pid = fork();
  if (pid < 0) return -errno;
  if (pid == 0) {
    int null = open("/dev/null", O_RDWR);
    if (null >= 0) {
      dup2(null, 0);
      dup2(null, 1);
      dup2(null, 2);
    }
    execvp(arguments[0], (char *const *)arguments);
    _exit(127);
  }
  int status;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return -errno;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int nvm_cut_own_mounts(void) {
  if (unshare(CLONE_NEWNS) != 0) return -errno;
  return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 ? 0 : -errno;
}

int nvm_cut_mount(const char *device, const char *directory, const char *type, const char *options) {
  return mount(device, directory, type, MS_NOATIME, options) == 0 ? 0 : -errno;
}

int nvm_cut_unmount(const char *directory) {
  // A killed process may hold it a moment longer.
  for (int i = 0;; i++) {
    if (umount(directory) == 0) return 0;
    if (errno != EBUSY || i == 2000) return -errno;
    usleep(1000);
  }
}

int nvm_cut_attach(const char *image, char *device) {
  int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
  if (control < 0) return -errno;
  int file = open(image, O_RDWR | O_CLOEXEC);
  if (file < 0) {
    int error = errno;
    close(control);
    return -error;
  }
  int result = -EBUSY;
  // Another process may be quicker than this one to take a free device.
  for (int i = 0; i < 64 && result == -EBUSY; i++) {
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0) {
      result = -errno;
      break;
    }
    snprintf(device, 32, "/dev/loop%d", number);
    int fd = open(device, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
      result = -errno;
      break;
    }
    struct loop_config config;
    memset(&config, 0, sizeof config);
    config.fd = (uint32_t)file;
    // Detached when the last user goes.
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    result = ioctl(fd, LOOP_CONFIGURE, &config) == 0 ? fd : -errno;
    if (result < 0) close(fd);
  }
  close(file);
  close(control);
  return result;
}

int nvm_cut_wait(int pid, int *status, int blocks) {
  for (;;) {
    pid_t result = waitpid(pid, status, blocks ? 0 : WNOHANG);
    if (result >= 0) return result == pid;
    if (errno != EINTR) return -errno;
  }
}

void nvm_cut_forget_pages(int fd) {
  posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}
