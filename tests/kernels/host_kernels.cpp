/* The project's kernels on the host, and where the fields of their structures lie. */

#include <stddef.h>

#include "host_shim.h"
#include "../../edge_fer/cuda/kernels/face.cu"

extern "C" void host_cut_faces(const unsigned *geometry, const void *job, float *out) {
  launch(geometry, cut_faces, (const Job *)job, out);
}
extern "C" void host_cut_faces_half(const unsigned *geometry, const void *job, unsigned short *out) {
  launch(geometry, cut_faces_half, (const Job *)job, out);
}
extern "C" void host_cut_turned_faces(const unsigned *geometry, const void *job, float *out) {
  launch(geometry, cut_turned_faces, (const Job *)job, out);
}
extern "C" void host_cut_turned_faces_half(const unsigned *geometry, const void *job, unsigned short *out) {
  launch(geometry, cut_turned_faces_half, (const Job *)job, out);
}
extern "C" unsigned short host_half_bits(float value) { return half_bits(value); }
extern "C" void host_softmax_rows(const unsigned *geometry, const float *logits, float *scores, int rows, int classes) {
  launch(geometry, softmax_rows, logits, scores, rows, classes);
}

#define AT(field) offsetof(Job, field)
extern "C" const unsigned host_job_layout[] = {
    sizeof(Job), sizeof(Face), AT(pixels), AT(chroma), AT(pitch), AT(chroma_pitch), AT(width), AT(height), AT(format),
    AT(count), AT(out_width), AT(out_height), AT(plane_width), AT(plane_height), AT(colour), AT(channels), AT(area),
    AT(scale), AT(offset), AT(fill)};
