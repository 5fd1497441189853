/* CUDA C as far as the kernels use it, for a C++ compiler: threads of a block run one after the other.

   Thread (0, 0) comes first, so what it puts into shared memory is there for the others; a kernel that needs a second
   barrier would need another shim. */

#include <math.h>
#include <string.h>

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __shared__ static
static void __syncthreads() {}
/* The compiler is told not to contract a product and a sum. */
static float __fmul_rn(float a, float b) { return a * b; }
static float __fsub_rn(float a, float b) { return a - b; }

/* The bits of the nearest half precision number, ties to even: what the device has an instruction for. */
static unsigned short half_bits(float value) {
  unsigned bits, sign, rest, shift = 13;
  memcpy(&bits, &value, 4);
  sign = bits >> 16 & 0x8000;
  int exponent = (int)(bits >> 23 & 255) - 112;
  bits &= 0x7fffff;
  if (exponent == 143) return sign | 0x7c00 | (bits ? 0x200 : 0);
  if (exponent < -10) return sign;
  if (exponent <= 0) {
    bits |= 0x800000;
    shift = 14 - exponent;
    exponent = 0;
  }
  unsigned half = (unsigned)exponent << 10 | bits >> shift;
  rest = bits & ((1u << shift) - 1);
  half += rest > 1u << (shift - 1) || (rest == 1u << (shift - 1) && (half & 1));
  return sign | (half < 0x7c00 ? half : 0x7c00);
}

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
