#ifndef NVM_CUT_SHUTDOWN_H
#define NVM_CUT_SHUTDOWN_H

// Whether a descriptor is on the root file system, which nothing here may cut.
int nvm_cut_is_root(int fd);
int nvm_cut_shutdown_fd(int fd, int flushes_log);

#endif
