// Memory that nobody may touch, for the address sanitizer; nothing without it.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define MM_POISON(p, n) __asan_poison_memory_region(p, n)
#define MM_UNPOISON(p, n) __asan_unpoison_memory_region(p, n)
#else
#define MM_POISON(p, n) (void)0
#define MM_UNPOISON(p, n) (void)0
#endif
