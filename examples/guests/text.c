/* text: a library (WASI reactor) that speaks the buffer convention.
 *
 * The host writes each argument into memory that it got from alloc(size), passes it as (pointer, length),
 * reads each result from the returned (pointer << 32) | length, and gives both back by free(pointer, size).
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT(name) __attribute__((export_name(name)))

typedef uint64_t buffer;

EXPORT("alloc") void *text_alloc(size_t size) {
    return malloc(size ? size : 1); /* never null for an empty buffer: null means "no memory" */
}

EXPORT("free") void text_free(void *pointer, size_t size) {
    (void)size;
    free(pointer);
}

static buffer result(const void *pointer, size_t length) {
    return (buffer)(uintptr_t)pointer << 32 | length;
}

static char *must_allocate(size_t size) {
    char *pointer = text_alloc(size);
    if (!pointer)
        __builtin_trap();
    return pointer;
}

/* "Hello, NAME!" for a UTF-8 name. */
EXPORT("greet") buffer greet(const char *name, size_t length) {
    static const char before[] = "Hello, ";
    size_t start = sizeof before - 1;
    char *text = must_allocate(start + length + 1);
    memcpy(text, before, start);
    memcpy(text + start, name, length);
    text[start + length] = '!';
    return result(text, start + length + 1);
}

/* The same bytes with ASCII letters in upper case. */
EXPORT("upper") buffer upper(const unsigned char *text, size_t length) {
    char *copy = must_allocate(length);
    for (size_t i = 0; i < length; i++)
        copy[i] = text[i] >= 'a' && text[i] <= 'z' ? text[i] - ('a' - 'A') : text[i];
    return result(copy, length);
}

/* The 64-bit FNV-1a hash of the bytes. */
EXPORT("fnv1a") uint64_t fnv1a(const unsigned char *bytes, size_t length) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

static const char *skip_space(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
        at++;
    return at;
}

static bool is_digit(const char *at, const char *end) {
    return at < end && *at >= '0' && *at <= '9';
}

/* One JSON integer that fits int64_t; null where there is none. */
static const char *read_integer(const char *at, const char *end, int64_t *value) {
    bool negative = at < end && *at == '-';
    at += negative;
    if (!is_digit(at, end) || (*at == '0' && is_digit(at + 1, end)))
        return NULL;
    *value = 0;
    for (; is_digit(at, end); at++) {
        int digit = *at - '0';
        if (__builtin_mul_overflow(*value, (int64_t)10, value) ||
            __builtin_add_overflow(*value, (int64_t)(negative ? -digit : digit), value))
            return NULL;
    }
    return at;
}

static bool sum_list(const char *at, const char *end, int64_t *sum, int64_t *count) {
    *sum = *count = 0;
    at = skip_space(at, end);
    if (at == end || *at++ != '[')
        return false;
    at = skip_space(at, end);
    bool more = !(at < end && *at == ']');
    while (more) {
        int64_t value;
        at = read_integer(skip_space(at, end), end, &value);
        if (!at || __builtin_add_overflow(*sum, value, sum))
            return false;
        ++*count;
        at = skip_space(at, end);
        more = at < end && *at == ',';
        at += more;
    }
    return at < end && *at == ']' && skip_space(at + 1, end) == end;
}

static char *write_text(char *at, const char *text) {
    size_t length = strlen(text);
    memcpy(at, text, length);
    return at + length;
}

static char *write_integer(char *at, int64_t value) {
    char digits[20], *digit = digits + sizeof digits;
    uint64_t rest = value < 0 ? -(uint64_t)value : (uint64_t)value;
    do
        *--digit = '0' + rest % 10;
    while (rest /= 10);
    if (value < 0)
        *at++ = '-';
    size_t length = (size_t)(digits + sizeof digits - digit);
    memcpy(at, digit, length);
    return at + length;
}

/* JSON list of integers -> {"count": n, "sum": s}; anything else -> {"error": "..."}. */
EXPORT("json_sum") buffer json_sum(const char *json, size_t length) {
    int64_t sum, count;
    char *text = must_allocate(80), *end = text;
    if (sum_list(json, json + length, &sum, &count)) {
        end = write_integer(write_text(end, "{\"count\": "), count);
        end = write_integer(write_text(end, ", \"sum\": "), sum);
        end = write_text(end, "}");
    } else {
        end = write_text(end, "{\"error\": \"not a list of 64-bit integers\"}");
    }
    return result(text, (size_t)(end - text));
}
