#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>

#include "CBench.h"

// A store that may be stopped by protection, whose handler then hands on to this one.
static _Thread_local sigjmp_buf back;
static _Thread_local volatile int is_armed;

static void on_stopped(int number) {
  if (is_armed) siglongjmp(back, 1);
  signal(number, SIG_DFL);
}

void bench_prepare_strays(void) {
  struct sigaction action = {.sa_handler = on_stopped, .sa_flags = SA_NODEFER};
  sigaction(SIGSEGV, &action, 0);
}

int bench_stray(void *p) {
  is_armed = 1;
  if (sigsetjmp(back, 0)) {
    is_armed = 0;
    return 1;
  }
  // A store for the page tables that changes nothing.
#if defined(__x86_64__)
  __asm__ volatile("lock; orb $0, %0" : "+m"(*(volatile unsigned char *)p)::"memory");
#else
  __atomic_fetch_or((volatile unsigned char *)p, 0, __ATOMIC_SEQ_CST);
#endif
  is_armed = 0;
  return 0;
}
