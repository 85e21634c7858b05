// The ABI of core modules: the runtime writes the tool's name and its arguments (JSON) into memory from `interlock_alloc`, and
// `interlock_call` returns address and length of a reply: a byte, 0 for a result (JSON) or 1 for an error (text), then the rest.
// There is no C library, which keeps the module small; `#include <stdlib.h>` links one.
#include <stddef.h>
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(name)))
#define HOST(interface, name) __attribute__((import_module("interlock:capsule/" interface "@0.1.0"), import_name(name)))

HOST("log", "write") uint64_t host_log(int64_t level, const char *text, size_t length);

extern unsigned char __heap_base;

// Each call has its own memory, so nothing is ever freed.
EXPORT("interlock_alloc") void *interlock_alloc(size_t length) {
    static size_t top;
    if (!top) top = (size_t)&__heap_base;
    size_t at = (top + 15) & ~(size_t)15, have = __builtin_wasm_memory_size(0) << 16;
    size_t more = at + length > have ? (at + length - have + 65535) >> 16 : 0;
    if (more && __builtin_wasm_memory_grow(0, more) == (size_t)-1) __builtin_trap();
    top = at + length;
    return (void *)at;
}

// There is only one tool, so its name is ignored. The arguments are returned as {"hello": ARGUMENTS}.
EXPORT("interlock_call")
uint64_t interlock_call(const char *name, size_t name_length, const char *arguments, size_t length) {
    (void)name, (void)name_length;
    host_log(1, "somebody is greeted", 19);
    char *reply = interlock_alloc(length + 11);
    reply[0] = 0;
    __builtin_memcpy(reply + 1, "{\"hello\":", 9);
    __builtin_memcpy(reply + 10, arguments, length);
    reply[length + 10] = '}';
    return (uint64_t)(uintptr_t)reply << 32 | (length + 11);
}
