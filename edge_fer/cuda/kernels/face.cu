// From a frame to scores: faces cut out, resized, coloured and normalised straight into a network's input, and the
// softmax of its output. One launch each for all faces of a frame.
//
// What changes from frame to frame lies in a Job, in host memory that the device reads through a mapped address; the
// kernels' own arguments are addresses only, so that a captured graph stays valid for ever.
//
// The arithmetic is that of edge_fer/runtime/preprocess.py, which is OpenCV's: colour in fixed point, INTER_AREA as an
// average over whole and partial pixels (here exact, in integers; OpenCV sums in float32), INTER_LINEAR with weights of
// 11 bits, and normalisation in two roundings. The 8-bit values before normalisation differ by 1 at most.
//
// The same file is compiled by NVRTC for compute_61 and by a C++ compiler for the tests (tests/kernels/host_shim.h).

enum Format { BGR = 0, NV12 = 1, YUYV = 2 };

struct Face {  // the rectangle of the frame that becomes the network's input; may reach over the frame's edges
  int left, top, width, height;
};

struct Job {
  unsigned long long pixels;  // BGR: rows of 3 bytes a pixel; NV12: the luma plane; YUYV: rows of 4 bytes for 2 pixels
  unsigned long long chroma;  // NV12: rows of U and V, half as many and half as dense
  int pitch, chroma_pitch;    // bytes from one row to the next
  int width, height, format;
  int count;                  // faces
  int out_width, out_height, channels;  // 1: grey, 3: RGB
  int area;                   // shrink by averaging areas; enlarging is always linear
  float scale[3], offset[3];  // v * scale - offset, v in 0..255
};  // followed by `count` Faces

static __device__ int clamped(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

// 8-bit B, G, R of a pixel; outside the frame, of the nearest one inside.
static __device__ void fetch(const Job &job, int x, int y, int bgr[3]) {
  x = clamped(x, 0, job.width - 1);
  y = clamped(y, 0, job.height - 1);
  const unsigned char *pixels = (const unsigned char *)job.pixels;
  if (job.format == BGR) {
    const unsigned char *at = pixels + (long long)y * job.pitch + 3 * x;
    bgr[0] = at[0];
    bgr[1] = at[1];
    bgr[2] = at[2];
    return;
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
  bgr[0] = clamped((base + 2116026 * u) >> 20, 0, 255);
  bgr[1] = clamped((base - 852492 * v - 409993 * u) >> 20, 0, 255);
  bgr[2] = clamped((base + 1673527 * v) >> 20, 0, 255);
}

// The 8-bit values of a pixel in the network's colours: one grey, or R, G, B.
static __device__ void coloured(const Job &job, int x, int y, int out[3]) {
  int bgr[3];
  fetch(job, x, y, bgr);
  if (job.channels == 1) {
    out[0] = (3735 * bgr[0] + 19235 * bgr[1] + 9798 * bgr[2] + (1 << 14)) >> 15;
    return;
  }
  out[0] = bgr[2];
  out[1] = bgr[1];
  out[2] = bgr[0];
}

// The average of the source area that an output pixel covers. Lengths are counted in parts of a source pixel so small
// that everything is a whole number: a source pixel is `out` parts wide, an output pixel `in` parts.
static __device__ void averaged(const Job &job, const Face &face, int x, int y, int out[3]) {
  int left = x * face.width, right = left + face.width, top = y * face.height, bottom = top + face.height;
  unsigned long long sums[3] = {0, 0, 0};
  for (int row = top / job.out_height; row * job.out_height < bottom; row++) {
    int from = row * job.out_height, to = from + job.out_height;
    unsigned long long tall = (to < bottom ? to : bottom) - (from > top ? from : top);
    unsigned int line[3] = {0, 0, 0};
    for (int column = left / job.out_width; column * job.out_width < right; column++) {
      int begin = column * job.out_width, end = begin + job.out_width, values[3];
      unsigned int wide = (end < right ? end : right) - (begin > left ? begin : left);
      coloured(job, face.left + column, face.top + row, values);
      for (int c = 0; c < job.channels; c++) line[c] += wide * values[c];
    }
    for (int c = 0; c < job.channels; c++) sums[c] += tall * line[c];
  }
  unsigned long long whole = (unsigned long long)face.width * face.height;
  for (int c = 0; c < job.channels; c++) {
    unsigned long long doubled = 2 * sums[c] + whole;
    out[c] = (int)(doubled / (2 * whole));
    if (doubled % (2 * whole) == 0) out[c] &= ~1;  // a half goes to the even one, as in OpenCV
  }
}

// Where an output pixel's centre falls between two source pixels, along one axis: the first of them, which may lie
// before or at the end of the rectangle, and the weight of the second in 1/2048.
static __device__ int between(int at, int in, int out, int *second_weight) {
  float place = (float)((at + 0.5) * ((double)in / out) - 0.5);
  int first = (int)floorf(place);
  *second_weight = (int)rintf((place - first) * 2048.0f);
  return first;
}

static __device__ void interpolated(const Job &job, const Face &face, int x, int y, int out[3]) {
  int across, down, upper_left[3], upper_right[3], lower_left[3], lower_right[3];
  int column = between(x, face.width, job.out_width, &across), row = between(y, face.height, job.out_height, &down);
  // At the ends OpenCV gives one column the whole weight, but shares it between two rows that are the same one.
  if (column < 0 || column >= face.width - 1) across = 0;
  column = clamped(column, 0, face.width - 1);
  int next_column = column + (across > 0);
  int next_row = clamped(row + 1, 0, face.height - 1);
  row = clamped(row, 0, face.height - 1);
  coloured(job, face.left + column, face.top + row, upper_left);
  coloured(job, face.left + next_column, face.top + row, upper_right);
  coloured(job, face.left + column, face.top + next_row, lower_left);
  coloured(job, face.left + next_column, face.top + next_row, lower_right);
  for (int c = 0; c < job.channels; c++) {
    int upper = upper_left[c] * (2048 - across) + upper_right[c] * across;
    int lower = lower_left[c] * (2048 - across) + lower_right[c] * across;
    // OpenCV drops bits before the last product, to stay within the 16 bits of its vector instructions.
    out[c] = ((((2048 - down) * (upper >> 4)) >> 16) + ((down * (lower >> 4)) >> 16) + 2) >> 2;
  }
}

// Grid: (out_width / 32, out_height / 8) rounded up, and as many faces as the Job counts; blocks of 32 x 8 threads.
extern "C" __global__ void cut_faces(const Job *jobs, float *out) {
  __shared__ Job job;
  __shared__ Face face;
  if (threadIdx.x == 0 && threadIdx.y == 0) {  // host memory: read once a block
    job = *jobs;
    if (blockIdx.z < job.count) face = ((const Face *)(jobs + 1))[blockIdx.z];
  }
  __syncthreads();
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (blockIdx.z >= job.count || x >= job.out_width || y >= job.out_height) return;
  int values[3];
  if (face.width == job.out_width && face.height == job.out_height)
    coloured(job, face.left + x, face.top + y, values);
  else if (job.area && face.width >= job.out_width && face.height >= job.out_height)
    averaged(job, face, x, y, values);
  else
    interpolated(job, face, x, y, values);
  int plane = job.out_width * job.out_height;
  float *at = out + (long long)blockIdx.z * job.channels * plane + y * job.out_width + x;
  // Two roundings as on the host: no fused multiply-add.
  for (int c = 0; c < job.channels; c++) at[c * plane] = __fsub_rn(__fmul_rn((float)values[c], job.scale[c]), job.offset[c]);
}

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
