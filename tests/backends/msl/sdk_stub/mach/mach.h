// Stands for a header of the macOS SDK: what metal-cpp needs of it to be compiled, not to run.
#pragma once

using kern_return_t = int;
using task_id_token_t = unsigned int;
