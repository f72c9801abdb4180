// In structs of arguments, which shaders and the code that starts them share: C++ has defaults, for Metal the host
// always fills them.
#pragma once
#ifdef __METAL_VERSION__
#define MM_DEFAULT(value)
#else
#define MM_DEFAULT(value) = value
#endif
