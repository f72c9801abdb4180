// Stands for a header of the macOS SDK: what metal-cpp needs of it to be compiled, not to run.
#pragma once

using IOSurfaceRef = struct __IOSurface*;
