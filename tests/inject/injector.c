/* A library to be preloaded: one call of a process fails, once, or is delayed, or meets a signal.

   All threads share the counters. They begin at the first pthread_sigmask of the process whose
   control file INJECT_CONTROL names: the first line of echod's own. Its child processes are left
   alone. struct control is described in injector.py. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum kind {
  ANY, ACCEPT, RECV_TCP, RECV_UNIX, SEND_TCP, SEND_UNIX, SENDMSG, EPOLL_CREATE, EPOLL_ADD, EPOLL_MOD,
  EPOLL_DEL, EPOLL_WAIT, CLOSE_SOCKET, CLOSE_FILE, SHUTDOWN, SETSOCKOPT, GETSOCKOPT, GETSOCKNAME,
  SOCKET, BIND, LISTEN, SOCKETPAIR, IOCTL_NONBLOCK, IOCTL_READABLE, IOCTL_OTHER, OPEN, READ, WRITE_UNIX,
  WRITE_OTHER,  FCNTL, PRLIMIT, POLL, SELECT, MMAP, CLONE, CONNECT, GETADDRINFO, DLOPEN, WAIT, KILL, RENAME, MKDIR,
  UNLINK, DUP, GETPEERNAME, FORK, PIPE, SLEEP, READ_TCP,
  WRITE_TCP, KINDS
};

enum action { NOTHING, FAIL, SIGNAL, DELAY };

struct control {
  unsigned owner;   /* process whose calls count, 0 before the first line */
  unsigned kind, number, action, value, times; /* what to do, and at how many calls from that on */
  unsigned done;    /* how often it was done */
  unsigned thread, done_kind;
  unsigned every, seed; /* delays: at one call of so many, by chance */
  unsigned counts[64];
};

static struct control *control;
static char said[128]; /* in the place of dlerror */

#define REAL(result, name, parameters) \
  static result(*real) parameters; \
  if (!real) real = (result(*) parameters)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void map_control(void) {
  const char *path = getenv("INJECT_CONTROL");
  int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *page = (void *)syscall(SYS_mmap, 0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  syscall(SYS_close, fd);
  if (page != MAP_FAILED) control = page;
}

static int mine(void) { return control && control->owner == (unsigned)syscall(SYS_getpid); }

static unsigned chance(unsigned number) {
  unsigned x = number * 2654435761u ^ control->seed * 40503u;
  x ^= x >> 15; x *= 2246822519u; x ^= x >> 13;
  return x;
}

static void act(enum kind kind, unsigned number) {
  char text[64];
  int size = snprintf(text, sizeof text, "inject: %u at %u, %u", kind, number, control->value);
  syscall(SYS_write, -1, text, size); /* for strace to show */
  control->thread = (unsigned)syscall(SYS_gettid);
  control->done_kind = kind;
  __atomic_add_fetch(&control->done, 1, __ATOMIC_SEQ_CST);
  if (control->action == SIGNAL) syscall(SYS_kill, syscall(SYS_getpid), control->value);
  if (control->action == DELAY) {
    struct timespec time = {control->value / 1000, control->value % 1000 * 1000000};
    syscall(SYS_nanosleep, &time, NULL);
  }
}

/* Counts a call; gives the error that it has to fail with, 0 if none. */
static int due(enum kind kind) {
  if (!mine()) return 0;
  int saved = errno;
  unsigned own = __atomic_add_fetch(&control->counts[kind], 1, __ATOMIC_SEQ_CST);
  unsigned all = __atomic_add_fetch(&control->counts[ANY], 1, __ATOMIC_SEQ_CST);
  int fails = 0;
  if (control->action && (control->kind == ANY || control->kind == kind)) {
    unsigned number = control->kind == ANY ? all : own;
    int now = control->every ? chance(number) % control->every == 0
                             : number - control->number < control->times;
    if (now) {
      act(kind, number);
      fails = control->action == FAIL ? (int)control->value : 0;
    }
  }
  errno = saved;
  return fails;
}

static int domain(int fd) {
  int value = 0;
  socklen_t size = sizeof value;
  int saved = errno;
  if (syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_DOMAIN, &value, &size)) value = -1;
  errno = saved;
  return value;
}

static int is_tcp(int fd) {
  int family = domain(fd);
  return family == AF_INET || family == AF_INET6;
}

static int fail(int error) { errno = error; return -1; }

#define FAIL_IF_DUE(kind) do { int error_ = due(kind); if (error_) return fail(error_); } while (0)

int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
  REAL(int, pthread_sigmask, (int, const sigset_t *, sigset_t *));
  if (control && !control->owner) control->owner = (unsigned)syscall(SYS_getpid);
  return real(how, set, old);
}

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags) {
  REAL(int, accept4, (int, struct sockaddr *, socklen_t *, int));
  FAIL_IF_DUE(ACCEPT);
  return real(fd, address, size, flags);
}

ssize_t recv(int fd, void *data, size_t size, int flags) {
  REAL(ssize_t, recv, (int, void *, size_t, int));
  if (mine()) FAIL_IF_DUE(domain(fd) == AF_UNIX ? RECV_UNIX : RECV_TCP);
  return real(fd, data, size, flags);
}

ssize_t __recv_chk(int fd, void *data, size_t size, size_t room, int flags) {
  (void)room;
  return recv(fd, data, size, flags);
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
  REAL(ssize_t, send, (int, const void *, size_t, int));
  if (mine()) FAIL_IF_DUE(domain(fd) == AF_UNIX ? SEND_UNIX : SEND_TCP);
  return real(fd, data, size, flags);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
  REAL(ssize_t, sendto, (int, const void *, size_t, int, const struct sockaddr *, socklen_t));
  if (mine()) FAIL_IF_DUE(domain(fd) == AF_UNIX ? SEND_UNIX : SEND_TCP);
  return real(fd, data, size, flags, to, length);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  REAL(ssize_t, sendmsg, (int, const struct msghdr *, int));
  FAIL_IF_DUE(SENDMSG);
  return real(fd, message, flags);
}

int epoll_create1(int flags) {
  REAL(int, epoll_create1, (int));
  FAIL_IF_DUE(EPOLL_CREATE);
  return real(flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
  REAL(int, epoll_ctl, (int, int, int, struct epoll_event *));
  FAIL_IF_DUE(operation == EPOLL_CTL_ADD ? EPOLL_ADD : operation == EPOLL_CTL_MOD ? EPOLL_MOD : EPOLL_DEL);
  return real(epoll, operation, fd, event);
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
  REAL(int, epoll_wait, (int, struct epoll_event *, int, int));
  FAIL_IF_DUE(EPOLL_WAIT);
  return real(epoll, events, most, timeout);
}

int close(int fd) {
  REAL(int, close, (int));
  int error = mine() ? due(domain(fd) < 0 ? CLOSE_FILE : CLOSE_SOCKET) : 0;
  int result = real(fd); /* it is closed, whatever it says */
  return error ? fail(error) : result;
}

int shutdown(int fd, int how) {
  REAL(int, shutdown, (int, int));
  FAIL_IF_DUE(SHUTDOWN);
  return real(fd, how);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t size) {
  REAL(int, setsockopt, (int, int, int, const void *, socklen_t));
  FAIL_IF_DUE(SETSOCKOPT);
  return real(fd, level, name, value, size);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *size) {
  REAL(int, getsockopt, (int, int, int, void *, socklen_t *));
  FAIL_IF_DUE(GETSOCKOPT);
  return real(fd, level, name, value, size);
}

int getsockname(int fd, struct sockaddr *address, socklen_t *size) {
  REAL(int, getsockname, (int, struct sockaddr *, socklen_t *));
  FAIL_IF_DUE(GETSOCKNAME);
  return real(fd, address, size);
}

int socket(int family, int type, int protocol) {
  REAL(int, socket, (int, int, int));
  FAIL_IF_DUE(SOCKET);
  return real(family, type, protocol);
}

int bind(int fd, const struct sockaddr *address, socklen_t size) {
  REAL(int, bind, (int, const struct sockaddr *, socklen_t));
  FAIL_IF_DUE(BIND);
  return real(fd, address, size);
}

int listen(int fd, int backlog) {
  REAL(int, listen, (int, int));
  FAIL_IF_DUE(LISTEN);
  return real(fd, backlog);
}

int socketpair(int family, int type, int protocol, int pair[2]) {
  REAL(int, socketpair, (int, int, int, int[2]));
  FAIL_IF_DUE(SOCKETPAIR);
  return real(family, type, protocol, pair);
}

int getpeername(int fd, struct sockaddr *address, socklen_t *size) {
  REAL(int, getpeername, (int, struct sockaddr *, socklen_t *));
  FAIL_IF_DUE(GETPEERNAME);
  return real(fd, address, size);
}

int connect(int fd, const struct sockaddr *address, socklen_t size) {
  REAL(int, connect, (int, const struct sockaddr *, socklen_t));
  int error = due(CONNECT);
  int result = error && error != EINTR ? -1 : real(fd, address, size); /* EINTR: it goes on */
  return error ? fail(error) : result;
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  REAL(int, getaddrinfo, (const char *, const char *, const struct addrinfo *, struct addrinfo **));
  int error = due(GETADDRINFO);
  return error ? -error : real(host, service, hints, found);
}

int ioctl(int fd, unsigned long request, ...) {
  REAL(int, ioctl, (int, unsigned long, ...));
  va_list more;
  va_start(more, request);
  void *argument = va_arg(more, void *);
  va_end(more);
  FAIL_IF_DUE(request == FIONBIO ? IOCTL_NONBLOCK : request == FIONREAD ? IOCTL_READABLE : IOCTL_OTHER);
  return real(fd, request, argument);
}

#define OPEN_LIKE(name) \
  int name(const char *path, int flags, ...) { \
    REAL(int, name, (const char *, int, ...)); \
    va_list more; \
    va_start(more, flags); \
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0; \
    va_end(more); \
    FAIL_IF_DUE(OPEN); \
    return real(path, flags, mode); \
  }
OPEN_LIKE(open)
OPEN_LIKE(open64)

FILE *fopen64(const char *path, const char *mode) {
  REAL(FILE *, fopen64, (const char *, const char *));
  int error = due(OPEN);
  return error ? (errno = error, NULL) : real(path, mode);
}

DIR *opendir(const char *path) {
  REAL(DIR *, opendir, (const char *));
  int error = due(OPEN);
  return error ? (errno = error, NULL) : real(path);
}

void *dlopen(const char *path, int flags) {
  REAL(void *, dlopen, (const char *, int));
  int error = due(DLOPEN);
  if (!error) return real(path, flags);
  snprintf(said, sizeof said, "%.80s: %s", path ? path : "program", strerror(error));
  return NULL;
}

char *dlerror(void) {
  static char text[sizeof said];
  REAL(char *, dlerror, (void));
  if (!said[0]) return real();
  memcpy(text, said, sizeof said);
  said[0] = 0;
  return text;
}

ssize_t read(int fd, void *data, size_t size) {
  REAL(ssize_t, read, (int, void *, size_t));
  if (mine()) FAIL_IF_DUE(is_tcp(fd) ? READ_TCP : READ);
  return real(fd, data, size);
}

ssize_t __read_chk(int fd, void *data, size_t size, size_t room) {
  (void)room;
  return read(fd, data, size);
}

ssize_t write(int fd, const void *data, size_t size) {
  REAL(ssize_t, write, (int, const void *, size_t));
  if (mine()) FAIL_IF_DUE(domain(fd) == AF_UNIX ? WRITE_UNIX : is_tcp(fd) ? WRITE_TCP : WRITE_OTHER);
  return real(fd, data, size);
}

#define FCNTL_LIKE(name) \
  int name(int fd, int command, ...) { \
    REAL(int, name, (int, int, ...)); \
    va_list more; \
    va_start(more, command); \
    void *argument = va_arg(more, void *); \
    va_end(more); \
    FAIL_IF_DUE(FCNTL); \
    return real(fd, command, argument); \
  }
FCNTL_LIKE(fcntl)
FCNTL_LIKE(fcntl64)

#define LIMIT_LIKE(name, type) \
  int name(__rlimit_resource_t which, type *limits) { \
    REAL(int, name, (__rlimit_resource_t, type *)); \
    FAIL_IF_DUE(PRLIMIT); \
    return real(which, limits); \
  }
LIMIT_LIKE(getrlimit, struct rlimit)
LIMIT_LIKE(getrlimit64, struct rlimit64)
LIMIT_LIKE(setrlimit, const struct rlimit)
LIMIT_LIKE(setrlimit64, const struct rlimit64)

int poll(struct pollfd *sockets, nfds_t count, int timeout) {
  REAL(int, poll, (struct pollfd *, nfds_t, int));
  FAIL_IF_DUE(POLL);
  return real(sockets, count, timeout);
}

int __poll_chk(struct pollfd *sockets, nfds_t count, int timeout, size_t room) {
  (void)room;
  return poll(sockets, count, timeout);
}

int select(int count, fd_set *readable, fd_set *writable, fd_set *special, struct timeval *timeout) {
  REAL(int, select, (int, fd_set *, fd_set *, fd_set *, struct timeval *));
  FAIL_IF_DUE(SELECT);
  return real(count, readable, writable, special, timeout);
}

#define MMAP_LIKE(name) \
  void *name(void *at, size_t size, int access, int flags, int fd, off_t offset) { \
    REAL(void *, name, (void *, size_t, int, int, int, off_t)); \
    int error = due(MMAP); \
    if (error) { errno = error; return MAP_FAILED; } \
    return real(at, size, access, flags, fd, offset); \
  }
MMAP_LIKE(mmap)
MMAP_LIKE(mmap64)

int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*main)(void *), void *argument) {
  REAL(int, pthread_create, (pthread_t *, const pthread_attr_t *, void *(*)(void *), void *));
  int error = due(CLONE);
  return error ? error : real(thread, how, main, argument);
}

pid_t waitpid(pid_t process, int *status, int options) {
  REAL(pid_t, waitpid, (pid_t, int *, int));
  FAIL_IF_DUE(WAIT);
  return real(process, status, options);
}

int kill(pid_t process, int number) {
  REAL(int, kill, (pid_t, int));
  FAIL_IF_DUE(KILL);
  return real(process, number);
}

int rename(const char *from, const char *to) {
  REAL(int, rename, (const char *, const char *));
  FAIL_IF_DUE(RENAME);
  return real(from, to);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *left) {
  REAL(int, clock_nanosleep, (clockid_t, int, const struct timespec *, struct timespec *));
  int error = due(SLEEP);
  return error ? error : real(clock, flags, time, left);
}

pid_t fork(void) {
  REAL(pid_t, fork, (void));
  FAIL_IF_DUE(FORK);
  return real();
}

/* As fork, which may take its place: a function around vfork cannot return twice. */
pid_t vfork(void) { return fork(); }

int pipe2(int ends[2], int flags) {
  REAL(int, pipe2, (int[2], int));
  FAIL_IF_DUE(PIPE);
  return real(ends, flags);
}

int mkdir(const char *path, mode_t mode) {
  REAL(int, mkdir, (const char *, mode_t));
  FAIL_IF_DUE(MKDIR);
  return real(path, mode);
}

int unlink(const char *path) {
  REAL(int, unlink, (const char *));
  FAIL_IF_DUE(UNLINK);
  return real(path);
}

int unlinkat(int directory, const char *path, int flags) {
  REAL(int, unlinkat, (int, const char *, int));
  FAIL_IF_DUE(UNLINK);
  return real(directory, path, flags);
}

int rmdir(const char *path) {
  REAL(int, rmdir, (const char *));
  FAIL_IF_DUE(UNLINK);
  return real(path);
}

int dup(int fd) {
  REAL(int, dup, (int));
  FAIL_IF_DUE(DUP);
  return real(fd);
}
