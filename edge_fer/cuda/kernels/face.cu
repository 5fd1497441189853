// From a frame to scores: faces cut out, turned upright, resized, coloured and normalised straight into a network's
// input, in one launch for all faces of a frame; the softmax of its output; and the frame itself made small for a
// detector, which is the same work on one large rectangle.
//
// What changes from frame to frame lies in a Job, in host memory that the device reads through a mapped address; the
// kernels' own arguments are addresses only, so that a captured graph stays valid for ever.
//
// The arithmetic is that of edge_fer/runtime/preprocess.py, which is OpenCV's: a turn by warpAffine with INTER_LINEAR,
// colour in fixed point, INTER_AREA as an average over whole and partial pixels (here exact, in integers; OpenCV sums in
// float32), INTER_LINEAR with weights of 11 bits, and normalisation in two roundings. The 8-bit values before
// normalisation differ by 1 at most.
//
// The same file is compiled by NVRTC for compute_61 and by a C++ compiler for the tests (tests/kernels/host_shim.h).

enum Format { BGR = 0, NV12 = 1, YUYV = 2 };
enum Colour { GREY = 0, RGB = 1, BLUE_FIRST = 2 };

struct Face {  // the rectangle of the frame that becomes the network's input; may reach over the frame's edges
  int left, top, width, height;
  float cosine, sine;  // of the angle that the rectangle is turned by about its centre, clockwise; upright: 1 and 0
};

struct Job {
  unsigned long long pixels;  // BGR: rows of 3 bytes a pixel; NV12: the luma plane; YUYV: rows of 4 bytes for 2 pixels
  unsigned long long chroma;  // NV12: rows of U and V, half as many and half as dense
  int pitch, chroma_pitch;    // bytes from one row to the next
  int width, height, format;
  int count;                  // faces
  int out_width, out_height;  // what a rectangle is resized to
  int plane_width, plane_height;  // rows and columns of the input; what the picture leaves free is `fill`
  int colour;                 // in which it is resized
  int channels;               // of the input; 1 after BLUE_FIRST: mixed to grey when it has been resized
  int area;                   // shrink by averaging areas; enlarging is always linear
  float scale[3], offset[3];  // v * scale - offset, v in 0..255
  float fill;
};  // followed by `count` Faces

static __device__ int clamped(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

// Three values of 8 bits in one register, the first one lowest.
static __device__ unsigned packed(int first, int second, int third) { return first | second << 8 | third << 16; }
static __device__ int part(unsigned pixel, int c) { return pixel >> 8 * c & 255; }

// B, G, R of a pixel; outside the frame, of the nearest one inside.
static __device__ unsigned fetch(const Job &job, int x, int y) {
  x = clamped(x, 0, job.width - 1);
  y = clamped(y, 0, job.height - 1);
  const unsigned char *pixels = (const unsigned char *)job.pixels;
  if (job.format == BGR) {
    const unsigned char *at = pixels + (long long)y * job.pitch + 3 * x;
    return packed(at[0], at[1], at[2]);
  }
  int luma, u, v;
  if (job.format == NV12) {
    const unsigned char *at = (const unsigned char *)job.chroma + (long long)(y / 2) * job.chroma_pitch + (x & ~1);
    luma = pixels[(long long)y * job.pitch + x];
    u = at[0] - 128;
    v = at[1] - 128;
  } else {
    const unsigned char *at = pixels + (long long)y * job.pitch + 4 * (x / 2);
    luma = at[2 * (x & 1)];
    u = at[1] - 128;
    v = at[3] - 128;
  }
  // ITU-R BT.601, video range, in 20 bits, as OpenCV's cvtColor computes it.
  int base = (luma > 16 ? luma - 16 : 0) * 1220542 + (1 << 19);
  return packed(clamped((base + 2116026 * u) >> 20, 0, 255), clamped((base - 852492 * v - 409993 * u) >> 20, 0, 255),
                clamped((base + 1673527 * v) >> 20, 0, 255));
}

// The pixel (column, row) of a rectangle. Where it is turned, four of the frame's are blended at the frame's own scale;
// it is made smaller afterwards, so that nothing aliases.
template <bool TURNS>
static __device__ unsigned pixel(const Job &job, const Face &face, int column, int row) {
  if (!TURNS || (face.sine == 0.0f && face.cosine > 0.0f)) return fetch(job, face.left + column, face.top + row);
  // As OpenCV does it: places in 1/1024 of a pixel, one term for the row and one for the column, kept to 1/32.
  float cosine = 1024.0f * face.cosine, sine = 1024.0f * face.sine;
  float right = 0.5f * (face.width - 1), down = 0.5f * (face.height - 1);
  int x = 1024 * face.left + (int)rintf(1024.0f * right - cosine * right + sine * (down - row)) + 16;
  int y = 1024 * face.top + (int)rintf(1024.0f * down - sine * right + cosine * (row - down)) + 16;
  x = (x + (int)rintf(cosine * column)) >> 5;
  y = (y + (int)rintf(sine * column)) >> 5;
  int sums[3] = {0, 0, 0};
#pragma unroll 1
  for (int corner = 0; corner < 4; corner++) {
    int beside = corner & 1, below = corner >> 1;
    int weight = (beside ? x & 31 : 32 - (x & 31)) * (below ? y & 31 : 32 - (y & 31));
    unsigned bgr = fetch(job, (x >> 5) + beside, (y >> 5) + below);
    for (int c = 0; c < 3; c++) sums[c] += weight * part(bgr, c);
  }
  return packed((sums[0] + 512) >> 10, (sums[1] + 512) >> 10, (sums[2] + 512) >> 10);
}

static __device__ int grey(unsigned bgr) {
  return (3735 * part(bgr, 0) + 19235 * part(bgr, 1) + 9798 * part(bgr, 2) + (1 << 14)) >> 15;
}

// How many values a pixel has while it is resized.
static __device__ int depth(const Job &job) { return job.colour == GREY ? 1 : 3; }

// A rectangle's pixel in the colours that it is resized in: one grey, or three.
template <bool TURNS>
static __device__ unsigned coloured(const Job &job, const Face &face, int column, int row) {
  unsigned bgr = pixel<TURNS>(job, face, column, row);
  if (job.colour == GREY) return grey(bgr);
  return job.colour == RGB ? packed(part(bgr, 2), part(bgr, 1), part(bgr, 0)) : bgr;
}

// The average of the source area that an output pixel covers. Lengths are counted in parts of a source pixel so small
// that everything is a whole number: a source pixel is `out` parts wide, an output pixel `in` parts.
template <bool TURNS>
static __device__ unsigned averaged(const Job &job, const Face &face, int x, int y) {
  int left = x * face.width, right = left + face.width, top = y * face.height, bottom = top + face.height;
  unsigned long long sums[3] = {0, 0, 0};
#pragma unroll 1
  for (int row = top / job.out_height; row * job.out_height < bottom; row++) {
    int from = row * job.out_height, to = from + job.out_height;
    unsigned long long tall = (to < bottom ? to : bottom) - (from > top ? from : top);
    unsigned int line[3] = {0, 0, 0};
#pragma unroll 1
    for (int column = left / job.out_width; column * job.out_width < right; column++) {
      int begin = column * job.out_width, end = begin + job.out_width;
      unsigned int wide = (end < right ? end : right) - (begin > left ? begin : left);
      unsigned values = coloured<TURNS>(job, face, column, row);
      for (int c = 0; c < 3; c++) line[c] += wide * part(values, c);
    }
    for (int c = 0; c < 3; c++) sums[c] += tall * line[c];
  }
  unsigned long long whole = (unsigned long long)face.width * face.height;
  // OpenCV rounds a half to the even number, but upwards where exactly four pixels become one.
  bool upwards = face.width == 2 * job.out_width && face.height == 2 * job.out_height;
  int out[3] = {0, 0, 0};
  for (int c = 0; c < depth(job); c++) {
    unsigned long long doubled = 2 * sums[c] + whole;
    out[c] = (int)(doubled / (2 * whole));
    if (doubled % (2 * whole) == 0 && !upwards) out[c] &= ~1;
  }
  return packed(out[0], out[1], out[2]);
}

// Where an output pixel's centre falls between two source pixels, along one axis: the first of them, which may lie
// before or at the end of the rectangle, and the weight of the second in 1/2048.
static __device__ int between(int at, int in, int out, int *second_weight) {
  float place = (float)((at + 0.5) * ((double)in / out) - 0.5);
  int first = (int)floorf(place);
  *second_weight = (int)rintf((place - first) * 2048.0f);
  return first;
}

template <bool TURNS>
static __device__ unsigned interpolated(const Job &job, const Face &face, int x, int y) {
  int across, down, sums[3] = {0, 0, 0};
  int column = between(x, face.width, job.out_width, &across), row = between(y, face.height, job.out_height, &down);
  // At the ends OpenCV gives one column the whole weight, but shares it between two rows that are the same one.
  if (column < 0 || column >= face.width - 1) across = 0;
  column = clamped(column, 0, face.width - 1);
#pragma unroll 1
  for (int below = 0; below < 2; below++) {
    int line[3] = {0, 0, 0}, at = clamped(row + below, 0, face.height - 1);
#pragma unroll 1
    for (int beside = 0; beside < 2; beside++) {
      int weight = beside ? across : 2048 - across;
      unsigned values = coloured<TURNS>(job, face, column + (beside && across > 0), at);
      for (int c = 0; c < 3; c++) line[c] += weight * part(values, c);
    }
    // OpenCV drops bits before the last product, to stay within the 16 bits of its vector instructions.
    for (int c = 0; c < 3; c++) sums[c] += ((below ? down : 2048 - down) * (line[c] >> 4)) >> 16;
  }
  return packed((sums[0] + 2) >> 2, (sums[1] + 2) >> 2, (sums[2] + 2) >> 2);
}

#ifdef __CUDA_ARCH__
// Rounded to the nearest half precision number, ties to even; the bits of it. The host has a function of this name.
static __device__ unsigned short half_bits(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
#endif

static __device__ void store(float *at, float value) { *at = value; }
static __device__ void store(unsigned short *at, float value) { *at = half_bits(value); }

template <bool TURNS, typename Value>
static __device__ void cut(const Job *jobs, Value *out) {
  __shared__ Job job;
  __shared__ Face face;
  if (threadIdx.x == 0 && threadIdx.y == 0) {  // host memory: read once a block
    job = *jobs;
    if (blockIdx.z < job.count) face = ((const Face *)(jobs + 1))[blockIdx.z];
  }
  __syncthreads();
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (blockIdx.z >= job.count || x >= job.plane_width || y >= job.plane_height) return;
  int plane = job.plane_width * job.plane_height;
  Value *at = out + (long long)blockIdx.z * job.channels * plane + y * job.plane_width + x;
  if (x >= job.out_width || y >= job.out_height) {
    for (int c = 0; c < job.channels; c++) store(at + c * plane, job.fill);
    return;
  }
  unsigned values;
  // A rectangle of the output's own size comes through either of them unchanged.
  if (job.area && face.width >= job.out_width && face.height >= job.out_height)
    values = averaged<TURNS>(job, face, x, y);
  else
    values = interpolated<TURNS>(job, face, x, y);
  if (job.channels == 1 && job.colour == BLUE_FIRST) values = grey(values);
  // Two roundings as on the host: no fused multiply-add.
  for (int c = 0; c < job.channels; c++)
    store(at + c * plane, __fsub_rn(__fmul_rn((float)part(values, c), job.scale[c]), job.offset[c]));
}

// Grid: (plane_width / 32, plane_height / 8) rounded up, and as many faces as the Job counts; blocks of 32 x 8 threads.
// The name says whether faces may be turned, which costs registers that the others need not pay, and whether the input is
// of half precision.
extern "C" __global__ void cut_faces(const Job *jobs, float *out) { cut<false>(jobs, out); }
extern "C" __global__ void cut_faces_half(const Job *jobs, unsigned short *out) { cut<false>(jobs, out); }
extern "C" __global__ void cut_turned_faces(const Job *jobs, float *out) { cut<true>(jobs, out); }
extern "C" __global__ void cut_turned_faces_half(const Job *jobs, unsigned short *out) { cut<true>(jobs, out); }

// One thread a row.
extern "C" __global__ void softmax_rows(const float *logits, float *scores, int rows, int classes) {
  int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const float *in = logits + row * classes;
  float *out = scores + row * classes, largest = in[0], sum = 0.0f;
  for (int c = 1; c < classes; c++) largest = fmaxf(largest, in[c]);
  for (int c = 0; c < classes; c++) sum += expf(in[c] - largest);
  // The scores lie in host memory: each is written once and never read back over the bus.
  for (int c = 0; c < classes; c++) out[c] = expf(in[c] - largest) / sum;
}
