// What the kernels share: how MindSpore calls them, threads, sums and the functions that the C library has only slow.
//
// A kernel is a function `int Name(int, void **, int *, int64_t **, const char **, void *, void *)` that MindSpore
// calls with its inputs and then its outputs, all of them float32 and contiguous (ops.Custom, func_type "aot").
// Results do not depend on the number of threads: what is summed up over tasks is summed in the order of the tasks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>

#define KERNEL(name)                                                                                          \
  static void name##_(const Arguments &a);                                                                    \
  extern "C" int name(int count, void **data, int *dims, int64_t **shapes, const char **, void *, void *) {   \
    name##_(Arguments{count, data, dims, shapes});                                                            \
    return 0;                                                                                                 \
  }                                                                                                           \
  static void name##_(const Arguments &a)

struct Arguments {
  int count;
  void **data;
  int *dims;
  int64_t **shapes;

  float *operator[](int i) const { return static_cast<float *>(data[i]); }
  int64_t dim(int i, int axis) const { return shapes[i][axis < 0 ? axis + dims[i] : axis]; }
  int64_t size(int i) const {
    int64_t n = 1;
    for (int axis = 0; axis < dims[i]; axis++) n *= shapes[i][axis];
    return n;
  }
};

// Runs task(0), ..., task(tasks - 1), on several threads.
void parallel(int64_t tasks, const std::function<void(int64_t)> &task);

// Splits n items into at most 64 tasks of [begin, end), whatever the number of threads.
constexpr int64_t MAX_TASKS = 64;
inline int64_t tasks_of(int64_t n) { return std::min(n, MAX_TASKS); }

template <class Task>
void parallel_ranges(int64_t n, Task task) {
  const int64_t tasks = tasks_of(n);
  parallel(tasks, [&](int64_t i) { task(i, n * i / tasks, n * (i + 1) / tasks); });
}

struct Free {
  void operator()(float *data) const { std::free(data); }
};
using Buffer = std::unique_ptr<float[], Free>;
inline Buffer buffer(int64_t n) {  // not initialised; begins at a cache line
  return Buffer(static_cast<float *>(std::aligned_alloc(64, (std::max<int64_t>(n, 1) * 4 + 63) / 64 * 64)));
}

// Adds the rows of partial [rows, n] up into total [n].
inline void add_rows(const float *partial, int64_t rows, int64_t n, float *total) {
  std::fill(total, total + n, 0.0f);
  for (int64_t row = 0; row < rows; row++, partial += n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) total[i] += partial[i];
  }
}

// The sum of f(i) over i < n: in float32 within a thousand terms, in float64 beyond.
template <class Term>
inline double sum(int64_t n, Term f) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += 1024) {
    const int64_t end = std::min(n, begin + 1024);
    float part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t i = begin; i < end; i++) part += f(i);
    total += part;
  }
  return total;
}

// exp(x) to 2e-7 of itself, without branches, so that loops over it become vector instructions. NaN stays NaN.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum is rounded to an integer
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  float p = 1.98412698e-4f;  // Taylor's series; |r| < 0.35
  p = p * r + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  int32_t bits;
  __builtin_memcpy(&bits, &shifted, 4);
  const int32_t power = (bits + 127 - 0x4B400000) << 23;
  float scale;
  __builtin_memcpy(&scale, &power, 4);
  return p * scale;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// The density of the unit normal distribution, and from it the distribution function to 1e-7: for x > 0,
// Phi(-x) = exp(-x^2 / 2) t P(t) with t = 1 / (1 + 0.32 x), P fitted by weighted least squares.
struct Normal {
  float density, cdf;
};

inline Normal normal(float x) {
  const float gauss = exponential(-0.5f * x * x), t = 1.0f / (1.0f + 0.32f * std::fabs(x));
  float p = 0.0464215126f;
  p = p * t - 0.243994268f;
  p = p * t + 0.414730231f;
  p = p * t - 0.1730586f;
  p = p * t + 0.222444956f;
  p = p * t + 0.103502157f;
  p = p * t + 0.129954013f;
  const float tail = gauss * p * t;
  return {gauss * 0.398942280f, x > 0 ? 1.0f - tail : tail};
}
