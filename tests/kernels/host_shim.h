/* CUDA C as far as the kernels use it, for a C++ compiler: threads of a block run one after the other.

   Thread (0, 0) comes first, so what it puts into shared memory is there for the others; a kernel that needs a second
   barrier would need another shim. */

#include <math.h>

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __shared__ static
static void __syncthreads() {}
/* The compiler is told not to contract a product and a sum. */
static float __fmul_rn(float a, float b) { return a * b; }
static float __fsub_rn(float a, float b) { return a - b; }

template <typename Kernel, typename... Arguments>
static void launch(const unsigned *geometry, Kernel kernel, Arguments... arguments) {
  gridDim = {geometry[0], geometry[1], geometry[2]};
  blockDim = {geometry[3], geometry[4], geometry[5]};
  for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
        for (threadIdx.z = 0; threadIdx.z < blockDim.z; threadIdx.z++)
          for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++)
            for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) kernel(arguments...);
}
