/* The import module `wasm_sandbox`: the network, for guests in C. The rules are in docs/network.md.
 *
 * Every function but the last gives 0, or an error number of <errno.h>; a refusal (EACCES) is one of
 * them, and the guest may go on. Whatever is left open is closed when the call ends.
 */
#ifndef WASM_SANDBOX_H
#define WASM_SANDBOX_H

#include <stdint.h>

#define WASM_SANDBOX_IMPORT(name) \
    __attribute__((import_module("wasm_sandbox"), import_name(#name)))

typedef uint32_t wasm_sandbox_handle;

/* Send a request and wait for the head of the response. The request is text:
 *
 *     POST https://api.example.org/items
 *     Content-Type: application/json
 *
 *     {"the": "body"}
 *
 * At most 4 MiB. Host, Content-Length and the like are set by the other side and cannot be chosen. */
WASM_SANDBOX_IMPORT(http_request)
int wasm_sandbox_http_request(const void *request, uint32_t size, wasm_sandbox_handle *handle);

/* The head of the response: "200 OK", then "name: value" lines, names in lower case. `*count` is its
 * size; ERANGE if there is no room for it. */
WASM_SANDBOX_IMPORT(http_read_head)
int wasm_sandbox_http_read_head(
    wasm_sandbox_handle handle, void *buffer, uint32_t size, uint32_t *count);

/* Some bytes of the body; `*count` is 0 at its end. */
WASM_SANDBOX_IMPORT(http_read)
int wasm_sandbox_http_read(
    wasm_sandbox_handle handle, void *buffer, uint32_t size, uint32_t *count);

/* Connect to a host name or an address. */
WASM_SANDBOX_IMPORT(tcp_connect)
int wasm_sandbox_tcp_connect(
    const char *host, uint32_t host_size, uint32_t port, wasm_sandbox_handle *handle);

/* Some bytes; `*count` is 0 when the other side has said its last. */
WASM_SANDBOX_IMPORT(tcp_read)
int wasm_sandbox_tcp_read(
    wasm_sandbox_handle handle, void *buffer, uint32_t size, uint32_t *count);

/* Send `*count` bytes: all, or the first 4 MiB. */
WASM_SANDBOX_IMPORT(tcp_write)
int wasm_sandbox_tcp_write(
    wasm_sandbox_handle handle, const void *data, uint32_t size, uint32_t *count);

/* Say that nothing more will be written. */
WASM_SANDBOX_IMPORT(tcp_shutdown)
int wasm_sandbox_tcp_shutdown(wasm_sandbox_handle handle);

WASM_SANDBOX_IMPORT(close)
int wasm_sandbox_close(wasm_sandbox_handle handle);

/* What the last error was, in words, without a NUL at the end: as much of it as there is room for.
 * Gives the size of all of it. */
WASM_SANDBOX_IMPORT(error_message)
uint32_t wasm_sandbox_error_message(char *buffer, uint32_t size);

#endif
