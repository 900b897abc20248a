/* Stalls of a plain epoll loop, each with the truth about it: `stalls CASE FOLDER`. The protocol is that of stalls.py. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HOLD_MS 1500
#define TICK_MS 20

static const char *folder;

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void sleep_ms(int ms) {
    struct timespec span = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&span, &span) != 0 && errno == EINTR) {
    }
}

static void must(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "stalls: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

/* Prints a whole line at once. */
static void say(const char *text) { must(write(1, text, strlen(text)) == (ssize_t)strlen(text), "stdout"); }

static int64_t cpu_thread, cpu_process;

/* `truth` is more members of the object, each with a comma before it. */
static void begin(const char *function, const char *truth) {
    char line[1024];
    cpu_thread = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    cpu_process = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    snprintf(line, sizeof line, "{\"began\":%lld,\"native\":\"%s\"%s}\n", (long long)clock_ns(CLOCK_MONOTONIC), function, truth);
    say(line);
}

static void end(void) {
    char line[256];
    int64_t now = clock_ns(CLOCK_MONOTONIC);
    snprintf(line, sizeof line, "{\"ended\":%lld,\"thread_cpu_ms\":%.3f,\"process_cpu_ms\":%.3f}\n", (long long)now,
             (clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_thread) / 1e6, (clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_process) / 1e6);
    say(line);
}

static volatile unsigned sink;

static void burn(int64_t until) {
    while (clock_ns(CLOCK_MONOTONIC) < until) {
        for (unsigned i = 0; i < 10000; i++) {
            sink = sink * 31 + i;
        }
    }
}

static void cpu_c(void) {
    begin("cpu_c", "");
    burn(clock_ns(CLOCK_MONOTONIC) + HOLD_MS * 1000000LL);
}

static void sleep_c(void) {
    begin("sleep_c", "");
    sleep_ms(HOLD_MS);
}

/* --- locks */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t barrier;

static void *hold_mutex(void *unused) {
    pthread_mutex_lock(&mutex);
    pthread_barrier_wait(&barrier);
    sleep_ms(HOLD_MS);
    pthread_mutex_unlock(&mutex);
    return unused;
}

static void *work(void *unused) {
    burn(clock_ns(CLOCK_MONOTONIC) + HOLD_MS * 1000000LL);
    return unused;
}

static void lock_held_mutex(const char *name) {
    pthread_t holder;
    pthread_barrier_init(&barrier, NULL, 2);
    must(pthread_create(&holder, NULL, hold_mutex, NULL) == 0, "thread");
    pthread_barrier_wait(&barrier);
    begin(name, "");
    pthread_mutex_lock(&mutex);
}

static void lock_mutex(void) { lock_held_mutex("lock_held_mutex"); }

/* No interpreter here: a thread that computes beside it has nothing to do with the lock. */
static void lock_mutex_busy(void) {
    pthread_t worker;
    must(pthread_create(&worker, NULL, work, NULL) == 0, "thread");
    lock_held_mutex("lock_held_mutex");
}

/* --- the network */

static struct sockaddr_in listener_of(int *listener, int backlog) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    *listener = socket(AF_INET, SOCK_STREAM, 0);
    must(bind(*listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(*listener, backlog) == 0, "listen");
    must(getsockname(*listener, (struct sockaddr *)&address, &length) == 0, "getsockname");
    return address;
}

static void begin_with_peer(const char *name, struct sockaddr_in address) {
    char truth[64];
    snprintf(truth, sizeof truth, ",\"peer\":\"127.0.0.1:%d\"", ntohs(address.sin_port));
    begin(name, truth);
}

static int limited_socket(int option) {
    struct timeval limit = {HOLD_MS / 1000, HOLD_MS % 1000 * 1000};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    must(setsockopt(s, SOL_SOCKET, option, &limit, sizeof limit) == 0, "setsockopt");
    return s;
}

/* The server never reads: buffers fill up. */
static void net_send(void) {
    static char data[1 << 16];
    int listener, s = limited_socket(SO_SNDTIMEO);
    struct sockaddr_in address = listener_of(&listener, 1);
    must(connect(s, (struct sockaddr *)&address, sizeof address) == 0, "connect");
    while (send(s, data, sizeof data, MSG_DONTWAIT) > 0) {
    }
    sleep_ms(30);
    while (send(s, data, sizeof data, MSG_DONTWAIT) > 0) {
    }
    begin_with_peer("net_send", address);
    send(s, data, sizeof data, 0);
}

/* The server's queue is full, so the greeting gets no answer. */
static void net_connect_c(void) {
    int listener, s = limited_socket(SO_SNDTIMEO);
    struct sockaddr_in address = listener_of(&listener, 0);
    for (int i = 0; i < 4; i++) {
        int filler = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(filler, (struct sockaddr *)&address, sizeof address);
    }
    begin_with_peer("net_connect_c", address);
    connect(s, (struct sockaddr *)&address, sizeof address);
}

static void net_poll(void) {
    int listener, s = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = listener_of(&listener, 1);
    must(connect(s, (struct sockaddr *)&address, sizeof address) == 0, "connect");
    struct pollfd wanted = {s, POLLIN, 0};
    begin_with_peer("net_poll", address);
    poll(&wanted, 1, HOLD_MS);
}

/* --- children, pipes, file locks */

static void begin_with_process(const char *name, const char *what, int pid, const char *path) {
    char truth[600];
    int length = snprintf(truth, sizeof truth, ",\"%s\":%d", what, pid);
    if (path) {
        snprintf(truth + length, sizeof truth - length, ",\"file\":\"%s\"", path);
    }
    begin(name, truth);
}

static void child_wait4(void) {
    int pid = fork();
    if (pid == 0) {
        sleep_ms(HOLD_MS);
        _exit(0);
    }
    begin_with_process("child_wait4", "child", pid, NULL);
    waitpid(pid, NULL, 0);
}

static void pipe_read(void) {
    int ends[2];
    char byte;
    must(pipe(ends) == 0, "pipe");
    int pid = fork();
    if (pid == 0) {
        sleep_ms(HOLD_MS);
        _exit(0);
    }
    close(ends[1]);
    begin_with_process("pipe_read", "holder", pid, NULL);
    must(read(ends[0], &byte, 1) == 0, "read");
}

/* A lock of the open file: /proc/locks names no process for it. */
static void file_ofd(void) {
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int ready[2];
    char path[512], byte, truth[600];
    snprintf(path, sizeof path, "%s/ofd.lock", folder);
    must(pipe(ready) == 0, "pipe");
    int file = open(path, O_RDWR | O_CREAT, 0600);
    if (fork() == 0) {
        int own = open(path, O_RDWR);
        must(fcntl(own, F_OFD_SETLK, &whole) == 0, "lock");
        must(write(ready[1], "x", 1) == 1, "write");
        sleep_ms(HOLD_MS);
        _exit(0);
    }
    must(read(ready[0], &byte, 1) == 1, "read");
    snprintf(truth, sizeof truth, ",\"file\":\"%s\"", path);
    begin("file_ofd", truth);
    fcntl(file, F_OFD_SETLKW, &whole);
}

/* --- memory */

static int fault_fd;

static void *serve_fault(void *page) {
    struct uffd_msg message;
    must(read(fault_fd, &message, sizeof message) == sizeof message, "fault");
    sleep_ms(HOLD_MS);
    struct uffdio_zeropage zero = {.range = {(uintptr_t)page, 4096}};
    must(ioctl(fault_fd, UFFDIO_ZEROPAGE, &zero) == 0, "zeropage");
    return NULL;
}

/* A page that somebody else has to bring, as after a live migration. */
static void memory_fault(void) {
    pthread_t server;
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uintptr_t)page, 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    fault_fd = syscall(SYS_userfaultfd, O_CLOEXEC);
    must(fault_fd >= 0 && ioctl(fault_fd, UFFDIO_API, &api) == 0 && ioctl(fault_fd, UFFDIO_REGISTER, &range) == 0, "userfaultfd");
    must(pthread_create(&server, NULL, serve_fault, page) == 0, "thread");
    begin("memory_fault", "");
    sink = *(volatile char *)page;
}

/* --- what has no name */

static void wake_later(int fd) {
    if (fork() == 0) {
        uint64_t one = 1;
        sleep_ms(HOLD_MS);
        must(write(fd, &one, sizeof one) == sizeof one, "write");
        _exit(0);
    }
}

static void unknown_nested(void) {
    struct epoll_event event = {.events = EPOLLIN};
    int inner = epoll_create1(0), counter = eventfd(0, 0);
    must(epoll_ctl(inner, EPOLL_CTL_ADD, counter, &event) == 0, "epoll_ctl");
    wake_later(counter);
    begin("unknown_nested", "");
    epoll_wait(inner, &event, 1, -1);
}

static void unknown_eventfd_read(void) {
    uint64_t count;
    int counter = eventfd(0, 0);
    wake_later(counter);
    begin("unknown_eventfd_read", "");
    must(read(counter, &count, sizeof count) == sizeof count, "read");
}

static void unknown_msgrcv(void) {
    struct {
        long type;
        char text[1];
    } message = {1, {0}};
    int queue = msgget(IPC_PRIVATE, 0600);
    must(queue >= 0, "msgget");
    if (fork() == 0) {
        sleep_ms(HOLD_MS);
        msgsnd(queue, &message, 1, 0);
        _exit(0);
    }
    begin("unknown_msgrcv", "");
    must(msgrcv(queue, &message, 1, 0, 0) >= 0, "msgrcv");
    msgctl(queue, IPC_RMID, NULL);
}

/* --- the loop */

static const struct {
    const char *name;
    void (*play)(void);
} cases[] = {
    {"cpu_c", cpu_c},
    {"sleep_c", sleep_c},
    {"lock_mutex", lock_mutex},
    {"lock_mutex_busy", lock_mutex_busy},
    {"net_send", net_send},
    {"net_connect_c", net_connect_c},
    {"net_poll", net_poll},
    {"child_wait4", child_wait4},
    {"pipe_read", pipe_read},
    {"file_ofd", file_ofd},
    {"memory_fault", memory_fault},
    {"unknown_nested", unknown_nested},
    {"unknown_eventfd_read", unknown_eventfd_read},
    {"unknown_msgrcv", unknown_msgrcv},
};

static void run(void (*play)(void)) {
    struct epoll_event event = {.events = EPOLLIN};
    int poller = epoll_create1(0);
    char ready[64];
    must(epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event) == 0, "epoll_ctl");
    snprintf(ready, sizeof ready, "{\"ready\":true,\"pid\":%d}\n", getpid());
    say(ready);
    for (;;) {
        char order[64];
        if (epoll_wait(poller, &event, 1, TICK_MS) <= 0) {
            continue;
        }
        if (read(0, order, sizeof order) <= 0) {
            return;
        }
        play();
        end();
    }
}

int main(int count, char **words) {
    if (count == 3) {
        folder = words[2];
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            if (strcmp(cases[i].name, words[1]) == 0) {
                run(cases[i].play);
                return 0;
            }
        }
    }
    fprintf(stderr, "usage: stalls CASE FOLDER\n");
    return 2;
}
