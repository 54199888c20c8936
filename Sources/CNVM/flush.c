#include "nvm_flush.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

int nvm_flush_kind_detected = NVM_FLUSH_CLFLUSH;

__attribute__((constructor)) static void nvm_detect_flush(void) {
#if defined(__x86_64__)
  unsigned a, b, c, d;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    if (b & (1u << 24)) nvm_flush_kind_detected = NVM_FLUSH_CLWB;
    else if (b & (1u << 23)) nvm_flush_kind_detected = NVM_FLUSH_CLFLUSHOPT;
  }
#elif defined(__aarch64__)
  nvm_flush_kind_detected = NVM_FLUSH_DC_CVAC;
#if defined(__linux__)
  if (getauxval(AT_HWCAP) & (1ul << 16)) nvm_flush_kind_detected = NVM_FLUSH_DC_CVAP;  // HWCAP_DCPOP
#endif
#endif
}
