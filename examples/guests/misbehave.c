/* misbehave: a WASI command that does what a sandbox must survive; one sub-command per crime.
 *
 * Where the host can refuse (memory, output, files), the guest goes on until it is refused, says on standard
 * error how far it got, and exits 0: being refused is the expected end. The other crimes have no end.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wasi/api.h>

extern char **environ;

#define PAGE 65536u

static char block[PAGE];

static int loop(const char *unused) {
    (void)unused;
    for (volatile unsigned spin = 0;; spin++)
        ;
}

static int sleep_for(const char *seconds) {
    struct timespec pause = {.tv_sec = strtol(seconds, NULL, 10)};
    nanosleep(&pause, NULL);
    puts("awake");
    return 0;
}

/* A loop whose time is spent in the host. */
static int storm(const char *unused) {
    (void)unused;
    struct timespec now;
    for (;;)
        clock_gettime(CLOCK_MONOTONIC, &now);
}

/* Grows page by page and writes to each page. */
static int memory(const char *unused) {
    (void)unused;
    size_t pages = 0, page;
    while ((page = __builtin_wasm_memory_grow(0, 1)) != SIZE_MAX) {
        memset((char *)(page * PAGE), 0xa5, PAGE);
        pages++;
    }
    fprintf(stderr, "refused after %zu pages\n", pages);
    return 0;
}

static int flood(const char *descriptor) {
    int fd = (int)strtol(descriptor, NULL, 10);
    uint64_t written = 0;
    ssize_t length;
    memset(block, 'x', sizeof block);
    while ((length = write(fd, block, sizeof block)) > 0)
        written += (uint64_t)length;
    fprintf(stderr, "refused after %" PRIu64 " bytes: %s\n", written, strerror(errno));
    return 0;
}

/* Reads standard input to its end: for ever, where the other side stays silent. */
static int read_stdin(const char *unused) {
    (void)unused;
    uint64_t total = 0;
    ssize_t length;
    while ((length = read(STDIN_FILENO, block, sizeof block)) > 0)
        total += (uint64_t)length;
    printf("%" PRIu64 "\n", total);
    return 0;
}

/* Any 32-bit exit code, not only the 8 bits of exit(3). */
static int exit_with(const char *code) {
    __wasi_proc_exit((uint32_t)strtoul(code, NULL, 10));
}

static int crash(const char *unused) {
    (void)unused;
    __builtin_trap();
}

static __attribute__((noinline)) unsigned descend(volatile unsigned depth) {
    return depth == UINT32_MAX ? 0 : descend(depth + 1) + depth;
}

static int recurse(const char *unused) {
    (void)unused;
    return (int)(descend(1) & 1);
}

/* Fills one file until refused. */
static int disk(const char *directory) {
    char path[1024];
    snprintf(path, sizeof path, "%s/big", directory);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0) {
        fprintf(stderr, "refused to create: %s\n", strerror(errno));
        return 0;
    }
    memset(block, 'x', sizeof block);
    uint64_t written = 0;
    ssize_t length;
    while ((length = write(fd, block, sizeof block)) > 0)
        written += (uint64_t)length;
    fprintf(stderr, "refused after %" PRIu64 " bytes: %s\n", written, strerror(errno));
    return 0;
}

/* Makes small files until refused. */
static int files(const char *directory) {
    char path[1024];
    for (unsigned made = 0;; made++) {
        snprintf(path, sizeof path, "%s/file-%u", directory, made);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
        if (fd < 0 || write(fd, "x", 1) != 1) {
            fprintf(stderr, "refused after %u files: %s\n", made, strerror(errno));
            return 0;
        }
        close(fd);
    }
}

/* Opens one directory or file again and again and closes nothing. */
static int open_many(const char *path) {
    for (unsigned opened = 0;; opened++)
        if (open(path, O_RDONLY) < 0) {
            fprintf(stderr, "refused after %u descriptors: %s\n", opened, strerror(errno));
            return 0;
        }
}

static int print_environment(const char *unused) {
    (void)unused;
    for (char **entry = environ; entry && *entry; entry++)
        puts(*entry);
    return 0;
}

static const struct crime {
    const char *name;
    int (*commit)(const char *argument);
    const char *fallback; /* the argument where none is given */
} crimes[] = {
    {"loop", loop, ""},           {"sleep", sleep_for, "3600"},     {"storm", storm, ""},
    {"memory", memory, ""},       {"flood", flood, "1"},            {"stdin", read_stdin, ""},
    {"exit", exit_with, "1"},     {"crash", crash, ""},             {"recurse", recurse, ""},
    {"disk", disk, "."},          {"files", files, "."},            {"open", open_many, "."},
    {"env", print_environment, ""},
};

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "args") == 0) {
        for (int i = 0; i < argc; i++)
            puts(argv[i]);
        return 0;
    }
    for (size_t i = 0; argc > 1 && i < sizeof crimes / sizeof *crimes; i++)
        if (strcmp(argv[1], crimes[i].name) == 0)
            return crimes[i].commit(argc > 2 ? argv[2] : crimes[i].fallback);
    fputs("usage: misbehave args|env|loop|storm|memory|crash|recurse|stdin\n"
          "       misbehave sleep SECONDS|exit CODE|flood FD|disk DIR|files DIR|open PATH\n",
          stderr);
    return 2;
}
