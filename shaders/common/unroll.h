// Loops over a thread's own arrays are written out, so that the arrays lie in registers: left to itself a
// compiler unrolls what it thinks short, and an array that a variable indexes stays in memory.
#pragma once

#ifndef MM_UNROLL  // empty for the host's processor, whose memory is near
#define MM_UNROLL _Pragma("clang loop unroll(full)")
#endif
