#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "guard_internal.h"

#ifndef SEGV_PKUERR
#define SEGV_PKUERR 4
#endif

// MARK: Registry

// Nodes are never freed: the handler walks the list without a lock. A node without a guard is used again.
struct node {
  _Atomic(struct guard *) guard;
  struct node *next;
};
static _Atomic(struct node *) nodes;
static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
// Threads that are in the handler and may hold on to a guard.
static _Atomic int in_handler;

int guard_register(struct guard *g) {
  pthread_mutex_lock(&registry);
  struct node *n = atomic_load(&nodes);
  while (n && atomic_load(&n->guard)) n = n->next;
  if (n) {
    atomic_store(&n->guard, g);
  } else if ((n = calloc(1, sizeof *n))) {
    atomic_store(&n->guard, g);
    n->next = atomic_load(&nodes);
    atomic_store(&nodes, n);
  }
  pthread_mutex_unlock(&registry);
  return n ? 0 : -ENOMEM;
}

void guard_unregister(struct guard *g) {
  // A node is this guard's alone: no lock needed, which a forked child might wait for in vain.
  for (struct node *n = atomic_load(&nodes); n; n = n->next)
    if (atomic_load(&n->guard) == g) atomic_store(&n->guard, 0);
  if (!guard_is_forked(g)) guard_wait_for_handlers();
}

void guard_wait_for_handlers(void) {
  while (atomic_load(&in_handler) != 0) sched_yield();
}

static struct guard *find(uintptr_t address) {
  for (struct node *n = atomic_load(&nodes); n; n = n->next) {
    struct guard *g = atomic_load(&n->guard);
    if (g && address - g->seen.base < g->granules << NVM_GRANULE_SHIFT) return g;
  }
  return 0;
}

static void before_fork(void) { pthread_mutex_lock(&registry); }
static void after_fork(void) { pthread_mutex_unlock(&registry); }
static void in_child(void) {
  pthread_mutex_unlock(&registry);
  // Their threads are not here.
  atomic_store(&in_handler, 0);
  guard_forget_moves();
  guard_keys_forked();
}

// MARK: The report

struct text {
  char bytes[1536];
  size_t count;
};
static void put(struct text *t, const char *s) {
  while (*s && t->count < sizeof t->bytes) t->bytes[t->count++] = *s++;
}
static void put_number(struct text *t, uint64_t value) {
  char digits[24];
  int n = 0;
  do digits[n++] = (char)('0' + value % 10);
  while (value /= 10);
  while (n && t->count < sizeof t->bytes) t->bytes[t->count++] = digits[--n];
}
static void put_hex(struct text *t, uint64_t value) {
  put(t, "0x");
  int shift = 60;
  while (shift > 0 && !(value >> shift)) shift -= 4;
  for (; shift >= 0; shift -= 4) {
    char s[2] = {"0123456789abcdef"[value >> shift & 15], 0};
    put(t, s);
  }
}
static void write_out(const struct text *t) {
  size_t done = 0;
  while (done < t->count) {
    ssize_t n = write(STDERR_FILENO, t->bytes + done, t->count - done);
    if (n <= 0 && errno != EINTR) return;
    if (n > 0) done += (size_t)n;
  }
}

static void put_owner(struct text *t, const struct nvm_guard_owner *o) {
  put(t, "  owner     ");
  if (!o->what) {
    put(t, "not known\n");
    return;
  }
  put(t, o->what);
  if (o->size) {
    put(t, " at offset ");
    put_number(t, o->offset);
    put(t, ", ");
    put_number(t, o->size);
    put(t, " bytes");
  }
  if (o->has_tag) {
    put(t, ", tag ");
    put_number(t, o->tag);
    put(t, ", owner ");
    put_number(t, o->owner);
  }
  put(t, "\n");
  if (o->part) {
    put(t, "            in it ");
    put(t, o->part);
    put(t, " at offset ");
    put_number(t, o->part_offset);
    put(t, ", ");
    put_number(t, o->part_size);
    put(t, " bytes\n");
  }
}

static uint64_t pending_requests(struct guard *g) {
  uint64_t sum = 0, words = (atomic_load(&g->mapped) >> NVM_GRANULE_SHIFT) / 64 + 1;
  for (uint64_t w = 0; w < words; w++)
    sum += (uint64_t)__builtin_popcountll(atomic_load(&g->closing[w]) | atomic_load(&g->ahead[w])) +
           (uint64_t)__builtin_popcountll(atomic_load(&g->opening[w]));
  return sum;
}

// One report at a time; the text is not on the stack, which may be a small one.
static _Atomic int reporting;
static struct text report;
static struct nvm_guard_owner owner;
// The thread that calls a describer, and the fault it is about: should the describer fault itself.
static _Thread_local struct {
  struct guard *guard;
  siginfo_t *info;
  void *context;
} describing;

static void finish_report(struct guard *g) {
  put_owner(&report, &owner);
  put(&report, "  windows   none in this granule; ");
  put_number(&report, pending_requests(g));
  put(&report, " requests pending\n");
  put(&report, "The write has not happened: the file holds what it held.\n");
  write_out(&report);
  atomic_store(&reporting, 0);
}

static void start_report(struct guard *g, uintptr_t address, bool is_forked) {
  static const char *const modes[] = {"none", "immediate", "deferred", "keys"};
  while (atomic_exchange(&reporting, 1)) sched_yield();
  report.count = 0;
  memset(&owner, 0, sizeof owner);
  uint64_t offset = address - g->seen.base, granule = offset >> NVM_GRANULE_SHIFT;
  put(&report, "\nswift-nvm: stray write into ");
  put(&report, g->path);
  put(&report, is_forked ? ", by a forked child: the open file belongs to the parent process\n" : "\n");
  put(&report, "  offset    ");
  put_number(&report, offset);
  put(&report, " (");
  put_hex(&report, offset);
  put(&report, "), address ");
  put_hex(&report, address);
  put(&report, "\n  page      ");
  put_number(&report, offset / 4096);
  put(&report, ", in the granule ");
  put_number(&report, granule << NVM_GRANULE_SHIFT);
  put(&report, " ..< ");
  put_number(&report, (granule + 1) << NVM_GRANULE_SHIFT);
  put(&report, ", protection ");
  put(&report, modes[g->mode]);
  put(&report, "\n");
}

// MARK: The handler

static struct sigaction previous;
// A stray write after which the handler before this one has returned: met again, it is left to the system. (What is no
// business of ours that handler may mend, at one address any number of times.)
static _Thread_local uintptr_t returned_from;

static void chain(int number, siginfo_t *info, void *context, bool is_stray) {
  atomic_fetch_sub(&in_handler, 1);
  bool is_sent = info->si_code <= 0;  // by a process: no instruction has failed
  bool is_ignored = !(previous.sa_flags & SA_SIGINFO) && previous.sa_handler == SIG_IGN;
  bool is_default = !(previous.sa_flags & SA_SIGINFO) && previous.sa_handler == SIG_DFL;
  if (is_sent && is_ignored) return;
  bool is_repeated = is_stray && returned_from == (uintptr_t)info->si_addr + 1;
  if (is_repeated || is_default || is_ignored) {
    // The instruction is tried again, or the signal sent again, and the system does what it does by default.
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigaction(number, &standard, 0);
    if (is_sent) raise(number);
    return;
  }
  if (previous.sa_flags & SA_SIGINFO) {
    previous.sa_sigaction(number, info, context);
  } else {
    previous.sa_handler(number);
  }
  if (is_stray) returned_from = (uintptr_t)info->si_addr + 1;
}

static bool is_write(void *context) {
#if defined(__x86_64__)
  return (((ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 2) != 0;
#else
  (void)context;
  return true;
#endif
}

static uintptr_t program_counter(void *context) {
#if defined(__x86_64__)
  return (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
  return (uintptr_t)((ucontext_t *)context)->uc_mcontext.pc;
#else
  (void)context;
  return 0;
#endif
}

// Whether this thread is in a store there, or anybody has a window on the granule.
static bool is_asked(struct guard *g, uintptr_t address, void *context) {
  if (guard_is_store(program_counter(context))) return true;
  uintptr_t to = nvm_guard_storing.to;
  if (to != 0 && address >= nvm_guard_storing.from && address < to) return true;
  return guard_has_window(g, (address - g->seen.base) >> NVM_GRANULE_SHIFT);
}

static void on_fault(int number, siginfo_t *info, void *context) {
  int error = errno;
  if ((info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR) &&
      guard_waited_for_move((uintptr_t)info->si_addr)) {
    errno = error;
    return;
  }
  atomic_fetch_add(&in_handler, 1);
  if (describing.guard) {
    // The describer has met something unreadable.
    struct guard *g = describing.guard;
    describing.guard = 0;
    memset(&owner, 0, sizeof owner);
    finish_report(g);
    atomic_fetch_sub(&in_handler, 1);
    chain(number, describing.info, describing.context, true);
    errno = error;
    return;
  }
  uintptr_t address = (uintptr_t)info->si_addr;
  bool is_stray = false;
  struct guard *g = info->si_code == SEGV_ACCERR || info->si_code == SEGV_PKUERR ? find(address) : 0;
  if (g && address - g->seen.base < atomic_load(&g->mapped)) {
    bool is_forked = guard_is_forked(g);
    bool writes = is_write(context);
    uint64_t granule = (address - g->seen.base) >> NVM_GRANULE_SHIFT;
    bool is_granted;
    if (g->mode == NVM_GUARD_KEYS) {
      guard_key_enter_handler();
      is_granted = info->si_code == SEGV_PKUERR && guard_key_fault(g->key, writes, context);
    } else {
      // A retired guard has opened its pages before it is unregistered.
      is_granted = writes && !is_forked &&
                   (atomic_load(&g->retired) || (is_asked(g, address, context) && guard_grant(g, granule) == 0));
    }
    if (is_granted) {
      atomic_fetch_add_explicit(&g->count_faults, 1, memory_order_relaxed);
      atomic_fetch_sub(&in_handler, 1);
      errno = error;
      return;
    }
    is_stray = true;
    if (writes) {
      start_report(g, address, is_forked);
      nvm_guard_describer describer = atomic_load(&g->describer);
      if (describer) {
        describing.guard = g;
        describing.info = info;
        describing.context = context;
        describer(atomic_load(&g->describer_context), address - g->seen.base, &owner);
        describing.guard = 0;
      }
      finish_report(g);
    }
  }
  chain(number, info, context, is_stray);
  errno = error;
}

static int install_error;
static void install(void) {
  pthread_atfork(before_fork, after_fork, in_child);
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  sigemptyset(&action.sa_mask);
  install_error = sigaction(SIGSEGV, &action, &previous) == 0 ? 0 : -errno;
}
int guard_install_handler(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, install);
  return install_error;
}
