/* calc: numbers in, number out; no WASI, no C library, no imports. */
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(name)))

EXPORT("add") int32_t add(int32_t left, int32_t right) {
    return (int32_t)((uint32_t)left + (uint32_t)right); /* wraps, as i32.add does */
}

EXPORT("mul") int64_t mul(int64_t left, int64_t right) {
    return (int64_t)((uint64_t)left * (uint64_t)right);
}

/* The n-th Fibonacci number the slow way: fib(30) makes 2.7 million calls. */
EXPORT("fib") int64_t fib(int32_t n) {
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

/* Truncates towards zero. Traps on division by zero, and on INT32_MIN / -1. */
EXPORT("divide") int32_t divide(int32_t dividend, int32_t divisor) {
    if (divisor == 0 || (dividend == INT32_MIN && divisor == -1))
        __builtin_trap();
    return dividend / divisor;
}

EXPORT("sum") double sum(double first, double second, double third) {
    return first + second + third;
}

EXPORT("half") float half(float value) {
    return value / 2;
}
