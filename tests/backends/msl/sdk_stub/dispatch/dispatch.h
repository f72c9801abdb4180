// Stands for a header of the macOS SDK: what metal-cpp needs of it to be compiled, not to run.
#pragma once

using dispatch_queue_t = struct dispatch_queue_s*;
using dispatch_data_t = struct dispatch_data_s*;
