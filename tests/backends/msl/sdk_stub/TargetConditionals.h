// Stands for a header of the macOS SDK: what metal-cpp needs of it to be compiled, not to run.
#pragma once

#define TARGET_OS_OSX 1
#define TARGET_OS_IPHONE 0
