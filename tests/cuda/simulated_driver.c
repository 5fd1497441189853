/* A CUDA driver for machines without one: libcuda.so.1 as far as edge-fer calls it, on host memory.

   It is as unkind as a driver may be. Streams are queues that nobody works on until somebody waits, so that a missing
   wait reads what was there before; new memory is poisoned; and every wrong handle, thread or order is a status or an
   abort with a sentence. Kernels are callbacks that the test registers by name; they run in the thread that waits. Any
   thread may call, one at a time is inside, and each has a context of its own that is current.

   Statuses and constants are those of cuda.h; the structures behind handles are our own. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, LAUNCH_FAILED = 719,
       CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
enum { CAPTURE_THREAD_LOCAL = 1, CAPTURE_RELAXED = 2, HOST_DEVICEMAP = 2, EVENT_NO_TIMING = 2, POISON = 0xFB };
enum { MAX_OPS = 4096, MAX_PARAMETERS = 16, PARAMETER_BYTES = 64, MAX_KERNELS = 64 };

typedef int (*Callback)(void **parameters, const unsigned *grid_and_block);

typedef struct Event { uint32_t magic; uint64_t recorded, reached; double at_ms; unsigned flags; } Event;
typedef struct Op {
  enum { COPY, LAUNCH, RECORD, WAIT } kind;
  void *to; const void *from; size_t bytes;
  Callback callback; unsigned geometry[6]; unsigned char parameters[MAX_PARAMETERS][PARAMETER_BYTES];
  Event *event; uint64_t number;
} Op;
typedef struct Stream { uint32_t magic; Op *ops; size_t count, done; int capturing, broken; pthread_t capturer; struct Stream *next; } Stream;
typedef struct Graph { uint32_t magic; Op *ops; size_t count; } Graph;
typedef struct Module { uint32_t magic; } Module;
typedef struct Memory { void *address; size_t bytes; int mapped, host; struct Memory *next; } Memory;
typedef struct Kernel { char name[64]; Callback callback; } Kernel;

enum { EVENT = 0xE1, STREAM = 0x51, GRAPH = 0x61, EXEC = 0x62, MODULE = 0x71 };

static Memory *memories;
static Stream *streams;
static Kernel kernels[MAX_KERNELS];
static size_t kernel_count, device_bytes_used, alive;
static int retained, failure_after = -1, devices = 1;
static uint64_t records;
static __thread void *current, *beneath[8];
static __thread size_t depth;
static __thread int capture_mode; /* of a thread: global, until it says otherwise */
static pthread_mutex_t door = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static char the_context;
static size_t total_bytes = (size_t)2 << 30;

static void die(const char *why) { fprintf(stderr, "simulated driver: %s\n", why); abort(); }
static double now_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return 1e3 * t.tv_sec + t.tv_nsec / 1e6; }

static int enter(void) { return pthread_mutex_lock(&door); }
static void leave(int *entered) { if (!*entered) pthread_mutex_unlock(&door); }

/* First in every call that touches something: one thread at a time, until the call returns. */
#define NEED_CONTEXT __attribute__((cleanup(leave))) int entered = enter(); if (current != &the_context || !retained) return INVALID_CONTEXT
#define NEED_HEALTH if (failure_after == 0) return LAUNCH_FAILED; if (failure_after > 0) failure_after--

/* What tests ask. */
size_t simulated_alive(void) { return alive; }
int simulated_contexts(void) { return retained; }
void simulated_devices(int count) { devices = count; }
void simulated_memory(size_t bytes) { total_bytes = bytes; }
void simulated_fail_after(int calls) { failure_after = calls; }
size_t simulated_pending(void) { size_t n = 0; for (Stream *s = streams; s; s = s->next) n += s->count - s->done; return n; }
void simulated_kernel(const char *name, Callback callback) {
  for (size_t i = 0; i < kernel_count; i++) if (!strcmp(kernels[i].name, name)) { kernels[i].callback = callback; return; }
  if (kernel_count == MAX_KERNELS) die("too many kernels");
  snprintf(kernels[kernel_count].name, sizeof kernels[0].name, "%s", name);
  kernels[kernel_count++].callback = callback;
}

/* Allocating and freeing are "potentially unsafe" in a capture: the thread that captures, unless it has said that it
   knows better, gets a status for it, and its capture is void. */
static int unsafe_in_capture(void) {
  int broken = 0;
  for (Stream *s = streams; s; s = s->next)
    if (s->capturing && pthread_equal(s->capturer, pthread_self()) && capture_mode != CAPTURE_RELAXED) s->broken = broken = 1;
  return broken ? CAPTURE_UNSUPPORTED : OK;
}
#define NEED_NO_CAPTURE { int unsafe = unsafe_in_capture(); if (unsafe) return unsafe; }

static Memory *holding(const void *address, size_t bytes) {
  for (Memory *m = memories; m; m = m->next) {
    const char *begin = m->address, *at = address;
    if (at >= begin && at + bytes <= begin + m->bytes) return m;
  }
  return NULL;
}

/* Streams. */
static int run_one(Stream *s);
static int run_until(Stream *s, size_t end) {
  while (s->done < end) { int status = run_one(s); if (status) return status; }
  if (s->done == s->count) s->done = s->count = 0;
  return OK;
}
static int reach(Event *e, uint64_t number) {
  /* Work on streams, whichever hold the mark, until it is set. */
  for (Stream *s = streams; s; s = s->next)
    for (size_t i = s->done; i < s->count; i++)
      if (s->ops[i].kind == RECORD && s->ops[i].event == e && s->ops[i].number <= number) {
        int status = run_until(s, i + 1);
        if (status) return status;
        if (e->reached >= number) return OK;
        i = s->done ? s->done - 1 : (size_t)-1;
        if (!s->count) break;
      }
  return OK;
}
static int perform(Op *op) {
  void *pointers[MAX_PARAMETERS];
  switch (op->kind) {
    case COPY:
      if (!holding(op->to, op->bytes) || !holding(op->from, op->bytes)) die("a copy of memory that was freed meanwhile");
      memcpy(op->to, op->from, op->bytes);
      return OK;
    case LAUNCH:
      for (int i = 0; i < MAX_PARAMETERS; i++) pointers[i] = op->parameters[i];
      return op->callback(pointers, op->geometry) ? LAUNCH_FAILED : OK;
    case RECORD:
      op->event->reached = op->number; op->event->at_ms = now_ms();
      return OK;
    case WAIT:
      return op->event->reached >= op->number ? OK : reach(op->event, op->number);
  }
  return INVALID_VALUE;
}
static int run_one(Stream *s) { Op op = s->ops[s->done++]; return perform(&op); }
static int put(Stream *s, const Op *op) {
  if (s->count == MAX_OPS) die("a queue of thousands of operations: does nobody wait?");
  s->ops[s->count++] = *op;
  return OK;
}

/* The driver's entry points. */
int cuInit(unsigned flags) { (void)flags; return devices ? OK : NO_DEVICE; }
int cuDriverGetVersion(int *version) { *version = 12080; return OK; }
int cuDeviceGetCount(int *count) { *count = devices; return OK; }
int cuDeviceGet(int *device, int index) { *device = index; return index < devices ? OK : INVALID_DEVICE; }
int cuDeviceGetName(char *name, int length, int device) { (void)device; snprintf(name, length, "Simulated MX250"); return OK; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = total_bytes; return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  switch (attribute) {
    case 75: *value = 6; break;   /* compute capability, major */
    case 76: *value = 1; break;
    case 18: *value = 0; break;   /* integrated */
    case 40: *value = 1; break;   /* asynchronous engines */
    case 19: *value = 1; break;   /* can map host memory */
    case 36: *value = 3003000; break; /* memory clock, kHz */
    case 37: *value = 64; break;  /* memory bus, bits */
    default: return INVALID_VALUE;
  }
  return OK;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; retained++; *context = &the_context; return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) {
  (void)device;
  if (retained == 1 && alive) die("the context is given back while something of it is alive");
  if (!retained--) die("the context is given back twice");
  return OK;
}
int cuCtxSetCurrent(void *context) { current = context; return OK; }
int cuCtxPushCurrent_v2(void *context) {
  if (depth == sizeof beneath / sizeof *beneath) die("contexts are pushed and never popped");
  beneath[depth++] = current; current = context;
  return OK;
}
int cuCtxPopCurrent_v2(void **context) {
  *context = current;
  if (!current) return INVALID_CONTEXT;
  current = depth ? beneath[--depth] : NULL;
  return OK;
}
int cuCtxSynchronize(void) {
  NEED_CONTEXT; NEED_HEALTH;
  for (Stream *s = streams; s; s = s->next) { int status = run_until(s, s->count); if (status) return status; }
  return OK;
}
int cuMemGetInfo_v2(size_t *available, size_t *total) { NEED_CONTEXT; *available = total_bytes - device_bytes_used; *total = total_bytes; return OK; }

static int allocate(void **address, size_t bytes, int host, int mapped) {
  Memory *m = malloc(sizeof *m);
  m->address = aligned_alloc(256, (bytes + 255) / 256 * 256);
  memset(m->address, POISON, bytes);
  m->bytes = bytes; m->host = host; m->mapped = mapped; m->next = memories;
  memories = m; alive++;
  if (!host) device_bytes_used += bytes;
  *address = m->address;
  return OK;
}
static int release(void *address, int host) {
  for (Memory **at = &memories; *at; at = &(*at)->next)
    if ((*at)->address == address && (*at)->host == host) {
      Memory *gone = *at;
      *at = gone->next; alive--;
      if (!host) device_bytes_used -= gone->bytes;
      memset(gone->address, POISON, gone->bytes);
      free(gone->address); free(gone);
      return OK;
    }
  die("memory is freed twice, or was never allocated");
  return INVALID_VALUE;
}
int cuMemHostAlloc(void **address, size_t bytes, unsigned flags) { NEED_CONTEXT; NEED_NO_CAPTURE; return allocate(address, bytes, 1, flags & HOST_DEVICEMAP); }
int cuMemFreeHost(void *address) { NEED_CONTEXT; NEED_NO_CAPTURE; return release(address, 1); }
int cuMemHostGetDevicePointer_v2(void **pointer, void *address, unsigned flags) {
  (void)flags; NEED_CONTEXT;
  Memory *m = holding(address, 1);
  if (!m || !m->mapped) return INVALID_VALUE;
  *pointer = address;
  return OK;
}
int cuMemAlloc_v2(void **address, size_t bytes) {
  NEED_CONTEXT; NEED_NO_CAPTURE;
  if (bytes > total_bytes - device_bytes_used) return OUT_OF_MEMORY;
  return allocate(address, bytes, 0, 0);
}
int cuMemFree_v2(void *address) {
  NEED_CONTEXT; NEED_NO_CAPTURE;
  for (Stream *s = streams; s; s = s->next) if (!s->capturing) run_until(s, s->count); /* it waits for the device, as the real one does */
  return release(address, 0);
}

static int copy(void *to, const void *from, size_t bytes, Stream *s, const void *host_side) {
  NEED_CONTEXT; NEED_HEALTH;
  Memory *m = holding(host_side, bytes);
  if (!holding(to, bytes) || !holding(from, bytes)) return INVALID_VALUE;
  if (!m->host) return INVALID_VALUE;
  if (s->magic != STREAM) return INVALID_HANDLE;
  Op op = {.kind = COPY, .to = to, .from = from, .bytes = bytes};
  return put(s, &op);
}
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, Stream *s) { return copy(to, from, bytes, s, from); }
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, Stream *s) { return copy(to, from, bytes, s, to); }

int cuStreamCreate(Stream **stream, unsigned flags) {
  NEED_CONTEXT; (void)flags;
  Stream *s = calloc(1, sizeof *s);
  s->magic = STREAM; s->ops = malloc(MAX_OPS * sizeof *s->ops); s->next = streams;
  streams = s; alive++;
  *stream = s;
  return OK;
}
int cuStreamDestroy_v2(Stream *s) {
  NEED_CONTEXT;
  if (s->magic != STREAM) die("a stream is destroyed twice");
  run_until(s, s->count);
  for (Stream **at = &streams; *at; at = &(*at)->next) if (*at == s) { *at = s->next; break; }
  s->magic = 0; alive--; free(s->ops); free(s);
  return OK;
}
int cuStreamSynchronize(Stream *s) {
  NEED_CONTEXT; NEED_HEALTH;
  if (s->magic != STREAM) return INVALID_HANDLE;
  return s->capturing ? CAPTURE_UNSUPPORTED : run_until(s, s->count);
}
int cuStreamWaitEvent(Stream *s, Event *e, unsigned flags) {
  NEED_CONTEXT; (void)flags;
  if (s->magic != STREAM || e->magic != EVENT) return INVALID_HANDLE;
  Op op = {.kind = WAIT, .event = e, .number = e->recorded};
  return put(s, &op);
}
int cuStreamBeginCapture_v2(Stream *s, int mode) {
  NEED_CONTEXT;
  if (s->capturing || mode != CAPTURE_THREAD_LOCAL) return INVALID_VALUE;
  int status = run_until(s, s->count);
  s->capturing = 1; s->broken = 0; s->capturer = pthread_self();
  return status;
}
int cuThreadExchangeStreamCaptureMode(int *mode) {
  int before = capture_mode;
  capture_mode = *mode; *mode = before;
  return OK;
}
int cuStreamEndCapture(Stream *s, Graph **graph) {
  NEED_CONTEXT;
  if (!s->capturing) return INVALID_VALUE;
  if (s->broken) { s->count = s->done = 0; s->capturing = 0; return CAPTURE_INVALIDATED; }
  Graph *g = calloc(1, sizeof *g);
  g->magic = GRAPH; g->count = s->count - s->done; g->ops = malloc((g->count + 1) * sizeof *g->ops);
  memcpy(g->ops, s->ops + s->done, g->count * sizeof *g->ops);
  s->count = s->done = 0; s->capturing = 0; alive++;
  *graph = g;
  return OK;
}
int cuGraphInstantiateWithFlags(Graph **exec, Graph *graph, unsigned long long flags) {
  NEED_CONTEXT; (void)flags;
  if (graph->magic != GRAPH) return INVALID_HANDLE;
  Graph *g = calloc(1, sizeof *g);
  g->magic = EXEC; g->count = graph->count; g->ops = malloc((g->count + 1) * sizeof *g->ops);
  memcpy(g->ops, graph->ops, g->count * sizeof *g->ops);
  alive++;
  *exec = g;
  return OK;
}
static int destroy_graph(Graph *g, uint32_t magic) {
  if (g->magic != magic) die("a graph is destroyed twice");
  g->magic = 0; alive--; free(g->ops); free(g);
  return OK;
}
int cuGraphDestroy(Graph *g) { NEED_CONTEXT; return destroy_graph(g, GRAPH); }
int cuGraphExecDestroy(Graph *g) { NEED_CONTEXT; return destroy_graph(g, EXEC); }
int cuGraphLaunch(Graph *g, Stream *s) {
  NEED_CONTEXT; NEED_HEALTH;
  if (g->magic != EXEC || s->magic != STREAM) return INVALID_HANDLE;
  for (size_t i = 0; i < g->count; i++) put(s, &g->ops[i]);
  return OK;
}

int cuEventCreate(Event **event, unsigned flags) {
  NEED_CONTEXT;
  Event *e = calloc(1, sizeof *e);
  e->magic = EVENT; e->flags = flags; alive++;
  *event = e;
  return OK;
}
int cuEventDestroy_v2(Event *e) {
  NEED_CONTEXT;
  if (e->magic != EVENT) die("an event is destroyed twice");
  reach(e, e->recorded);
  e->magic = 0; alive--; free(e);
  return OK;
}
int cuEventRecord(Event *e, Stream *s) {
  NEED_CONTEXT; NEED_HEALTH;
  if (e->magic != EVENT || s->magic != STREAM) return INVALID_HANDLE;
  if (!s->capturing) e->recorded = ++records;
  Op op = {.kind = RECORD, .event = e, .number = e->recorded};
  return put(s, &op);
}
int cuEventQuery(Event *e) {
  NEED_CONTEXT;
  return e->magic != EVENT ? INVALID_HANDLE : e->reached >= e->recorded ? OK : NOT_READY;
}
int cuEventSynchronize(Event *e) {
  NEED_CONTEXT; NEED_HEALTH;
  return e->magic != EVENT ? INVALID_HANDLE : reach(e, e->recorded);
}
int cuEventElapsedTime_v2(float *ms, Event *from, Event *to) {
  NEED_CONTEXT;
  if ((from->flags | to->flags) & EVENT_NO_TIMING) return INVALID_HANDLE;
  if (from->reached < from->recorded || to->reached < to->recorded) return NOT_READY;
  *ms = (float)(to->at_ms - from->at_ms);
  return OK;
}
int cuEventElapsedTime(float *ms, Event *from, Event *to) { return cuEventElapsedTime_v2(ms, from, to); }

int cuModuleLoadData(Module **module, const char *image) {
  NEED_CONTEXT;
  if (!strstr(image, ".target")) return INVALID_IMAGE;
  Module *m = calloc(1, sizeof *m);
  m->magic = MODULE; alive++;
  *module = m;
  return OK;
}
int cuModuleUnload(Module *m) {
  NEED_CONTEXT;
  if (m->magic != MODULE) die("a module is unloaded twice");
  m->magic = 0; alive--; free(m);
  return OK;
}
int cuModuleGetFunction(Kernel **kernel, Module *m, const char *name) {
  NEED_CONTEXT;
  if (m->magic != MODULE) return INVALID_HANDLE;
  for (size_t i = 0; i < kernel_count; i++) if (!strcmp(kernels[i].name, name)) { *kernel = &kernels[i]; return OK; }
  return NOT_FOUND;
}
int cuLaunchKernel(Kernel *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, Stream *s, void **parameters, void **extra) {
  NEED_CONTEXT; NEED_HEALTH; (void)shared; (void)extra;
  if (s->magic != STREAM) return INVALID_HANDLE;
  if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > 1024) return INVALID_VALUE;
  Op op = {.kind = LAUNCH, .callback = kernel->callback, .geometry = {gx, gy, gz, bx, by, bz}};
  /* How many there are, the driver knows from the module; here the array ends with a null pointer or at the most. */
  for (int i = 0; i < MAX_PARAMETERS && parameters[i]; i++) memcpy(op.parameters[i], parameters[i], 8);
  return put(s, &op);
}

static const struct { int status; const char *name, *text; } WORDS[] = {
  {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
  {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
  {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
  {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
  {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
};
int cuGetErrorString(int status, const char **text) {
  for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) if (WORDS[i].status == status) { *text = WORDS[i].text; return OK; }
  *text = NULL;
  return INVALID_VALUE;
}
int cuGetErrorName(int status, const char **name) {
  for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) if (WORDS[i].status == status) { *name = WORDS[i].name; return OK; }
  *name = NULL;
  return INVALID_VALUE;
}

/* The bindings look everything up through this; the newest variant of a name that exists here is the one. */
int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *result) {
  static const char *const SUFFIXES[] = {"_v3", "_v2", "WithFlags", ""};
  static void *self;
  char name[128];
  (void)version; (void)flags;
  if (!self) { Dl_info about; dladdr((void *)cuGetProcAddress_v2, &about); self = dlopen(about.dli_fname, RTLD_NOW | RTLD_NOLOAD); }
  *function = NULL;
  for (size_t i = 0; i < 4 && !*function; i++) {
    snprintf(name, sizeof name, "%s%s", symbol, SUFFIXES[i]);
    *function = dlsym(self, name);
  }
  if (result) *result = *function ? 0 : 1;
  return *function ? OK : NOT_FOUND;
}
int cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(symbol, function, version, flags, NULL);
}
