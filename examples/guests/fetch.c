/* fetch: get things from the network, as far as the sandbox lets it. A WASI command.
 *
 *     fetch [-X METHOD] [-H "NAME: VALUE"]... [-d BODY] [-L] URL...    print the bodies
 *     fetch -t HOST PORT                                               standard input there, back here
 *
 * -L follows redirects, ten at most. The status of each response goes to standard error.
 * Exit codes: 0, or the error number of what failed (2 is EACCES: refused), or 100 for usage.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "wasm_sandbox.h"

#define USAGE 100
#define HEAD_SIZE 65536
#define REDIRECTS 10

static char request[1 << 20];
static char head[HEAD_SIZE + 1];
static char piece[1 << 16];

static int failed(const char *what, int number)
{
    char message[400];
    uint32_t size = wasm_sandbox_error_message(message, sizeof message);
    if (size > sizeof message)
        size = sizeof message;
    fprintf(stderr, "fetch: %s: %s: %.*s\n", what, strerror(number), (int)size, message);
    return number;
}

static int put(const char *data, size_t size)
{
    return fwrite(data, 1, size, stdout) == size ? 0 : EIO;
}

/* The value of a header, up to the end of its line, or NULL. The name is in lower case. */
static char *header(char *text, const char *name)
{
    size_t size = strlen(name);
    for (char *line = strchr(text, '\n'); line != NULL; line = strchr(line, '\n')) {
        line += 1;
        if (strncmp(line, name, size) == 0 && strncmp(line + size, ": ", 2) == 0) {
            char *value = strdup(line + size + 2);
            if (value != NULL)
                value[strcspn(value, "\n")] = 0;
            return value;
        }
    }
    return NULL;
}

struct ask {
    const char *method, *headers, *body;
    int follow;
};

static int fetch(const struct ask *ask, const char *url, int redirects)
{
    wasm_sandbox_handle handle;
    uint32_t count;
    int size = snprintf(request, sizeof request, "%s %s\n%s\n%s",
        ask->method, url, ask->headers, ask->body);
    if (size < 0 || (size_t)size >= sizeof request)
        return USAGE;
    int error = wasm_sandbox_http_request(request, (uint32_t)size, &handle);
    if (error)
        return failed(url, error);
    error = wasm_sandbox_http_read_head(handle, head, HEAD_SIZE, &count);
    if (error)
        return failed(url, error);
    head[count] = 0;
    fprintf(stderr, "%.*s\n", (int)strcspn(head, "\n"), head);
    if (ask->follow && head[0] == '3' && redirects < REDIRECTS) {
        char *next = header(head, "location");
        if (next != NULL) {
            wasm_sandbox_close(handle);
            error = fetch(ask, next, redirects + 1);
            free(next);
            return error;
        }
    }
    do {
        error = wasm_sandbox_http_read(handle, piece, sizeof piece, &count);
        if (error)
            return failed(url, error);
        error = put(piece, count);
    } while (count && !error);
    wasm_sandbox_close(handle);
    return error;
}

static int talk(const char *host, unsigned port)
{
    wasm_sandbox_handle handle;
    uint32_t count;
    ssize_t size;
    int error = wasm_sandbox_tcp_connect(host, (uint32_t)strlen(host), port, &handle);
    if (error)
        return failed(host, error);
    while ((size = read(0, piece, sizeof piece)) > 0) {
        for (ssize_t done = 0; done < size; done += count) {
            error = wasm_sandbox_tcp_write(handle, piece + done, (uint32_t)(size - done), &count);
            if (error)
                return failed(host, error);
        }
    }
    error = wasm_sandbox_tcp_shutdown(handle);
    if (error)
        return failed(host, error);
    do {
        error = wasm_sandbox_tcp_read(handle, piece, sizeof piece, &count);
        if (error)
            return failed(host, error);
        error = put(piece, count);
    } while (count && !error);
    return error;
}

int main(int argc, char **argv)
{
    static char headers[65536];
    struct ask ask = {"GET", headers, "", 0};
    int option;
    while ((option = getopt(argc, argv, "X:H:d:Lt:")) != -1) {
        size_t used = strlen(headers);
        switch (option) {
        case 'X':
            ask.method = optarg;
            break;
        case 'H':
            if (strlen(optarg) + 2 > sizeof headers - used)
                return USAGE;
            snprintf(headers + used, sizeof headers - used, "%s\n", optarg);
            break;
        case 'd':
            ask.body = optarg;
            if (strcmp(ask.method, "GET") == 0)
                ask.method = "POST";
            break;
        case 'L':
            ask.follow = 1;
            break;
        case 't':
            return optind < argc ? talk(optarg, (unsigned)strtoul(argv[optind], NULL, 10)) : USAGE;
        default:
            return USAGE;
        }
    }
    if (optind == argc)
        return USAGE;
    int error = 0;
    for (int place = optind; place < argc && !error; place++)
        error = fetch(&ask, argv[place], 0);
    return error;
}
