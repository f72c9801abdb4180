// The factor of an inverse that GPTQ works with.
#pragma once

#include <cstdint>

namespace metal_marlin {

class ThreadPool;

// Of a symmetric matrix [n][n], of which the upper half is read, the upper half becomes U with U^T U = the
// inverse; the lower half is left as it happens to be. False: the matrix is not positive definite. Takes a
// quarter of the matrix' memory again. The result does not depend on the number of threads.
template <typename T>
bool inverse_factor(std::int64_t n, T* matrix, ThreadPool& pool);

}  // namespace metal_marlin
