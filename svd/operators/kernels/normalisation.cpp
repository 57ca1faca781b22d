// Group and layer normalisation, forth and back.
#include "common.h"

// Group normalisation of x + shift, then SiLU if wanted.
// x [b c e], weight [c], bias [c], eps [g], and perhaps shift [b s c], one number for each s-th part of a row
// -> y [b c e], mean [b g], inverse deviation [b g].

struct Shape {
  int64_t b, c, e, g, parts;
  int64_t size() const { return c / g; }         // channels of a group
  int64_t part() const { return e / parts; }     // elements that share a shift
};

static float shift_of(const float *shift, const Shape &n, int64_t b, int64_t s, int64_t c) {
  return shift ? shift[(b * n.parts + s) * n.c + c] : 0.0f;
}

template <bool silu>
static void group_norm(const Arguments &a) {
  const bool shifted = a.count == 8;
  const int out = shifted ? 5 : 4;
  const Shape n{a.dim(0, 0), a.dim(0, 1), a.dim(0, 2), a.dim(3, 0), shifted ? a.dim(4, 1) : 1};
  const float *weight = a[1], *bias = a[2], eps = a[3][0], *shift = shifted ? a[4] : nullptr;
  const int64_t count = n.size() * n.e, p = n.part();
  parallel(n.b * n.g, [&](int64_t task) {
    const int64_t b = task / n.g, first = task % n.g * n.size();
    const float *x = a[0] + task * count;
    float *y = a[out] + task * count;
    double total = 0, squares = 0;
    for (int64_t row = 0; row < n.size() * n.parts; row++)
      total += sum(p, [&](int64_t i) { return x[row * p + i]; }) +
               (double)p * shift_of(shift, n, b, row % n.parts, first + row / n.parts);
    const double mean = total / count;
    for (int64_t row = 0; row < n.size() * n.parts; row++) {
      const float centre = shift_of(shift, n, b, row % n.parts, first + row / n.parts) - mean;
      squares += sum(p, [&](int64_t i) { const float d = x[row * p + i] + centre; return d * d; });
    }
    const double inverse = 1 / std::sqrt(squares / count + eps);
    a[out + 1][task] = mean;
    a[out + 2][task] = inverse;
    for (int64_t row = 0; row < n.size() * n.parts; row++) {
      const int64_t c = first + row / n.parts;
      const float scale = weight[c] * inverse;
      const float offset = bias[c] + (shift_of(shift, n, b, row % n.parts, c) - mean) * scale;
#pragma omp simd
      for (int64_t i = 0; i < p; i++) {
        const float u = x[row * p + i] * scale + offset;
        y[row * p + i] = silu ? u * sigmoid(u) : u;
      }
    }
  });
}

KERNEL(GroupNorm) { group_norm<false>(a); }
KERNEL(GroupNormSilu) { group_norm<true>(a); }

// dy [b c e], x, weight, bias, mean, inverse deviation, and perhaps shift
// -> dx [b c e], dweight [c], dbias [c], and perhaps dshift [b s c].
// dx = r (w du - mean(w du) - z mean(z w du)), z = r (x + shift - m), u = w z + bias, means over groups.
template <bool silu>
static void group_norm_grad(const Arguments &a) {
  const bool shifted = a.count == 11;
  const int out = shifted ? 7 : 6;
  const Shape n{a.dim(0, 0), a.dim(0, 1), a.dim(0, 2), a.dim(4, 1), shifted ? a.dim(6, 1) : 1};
  const float *weight = a[2], *bias = a[3], *shift = shifted ? a[6] : nullptr;
  float *dshift = shifted ? a[out + 3] : nullptr;
  const int64_t count = n.size() * n.e, p = n.part();
  Buffer dweights = buffer(n.b * n.c), dbiases = buffer(n.b * n.c);
  parallel(n.b * n.g, [&](int64_t task) {
    const int64_t b = task / n.g, first = task % n.g * n.size();
    const float *dy = a[0] + task * count, *x = a[1] + task * count;
    const float m = a[4][task], r = a[5][task];
    float *dx = a[out] + task * count;
    double of_sums = 0, of_products = 0;
    for (int64_t k = 0; k < n.size(); k++) {
      const int64_t c = first + k;
      double sums = 0, products = 0;
      for (int64_t s = 0; s < n.parts; s++) {
        const int64_t start = k * n.e + s * p;
        const float centre = shift_of(shift, n, b, s, c) - m;
        if (silu) {
#pragma omp simd
          for (int64_t i = start; i < start + p; i++) {
            const float u = (x[i] + centre) * r * weight[c] + bias[c], gate = sigmoid(u);
            dx[i] = dy[i] * gate * (1 + u * (1 - gate));
          }
        }
        const float *du = silu ? dx : dy;
        sums += sum(p, [&](int64_t i) { return du[start + i]; });
        products += sum(p, [&](int64_t i) { return du[start + i] * (x[start + i] + centre); });
      }
      products *= r;
      dweights[b * n.c + c] = products;
      dbiases[b * n.c + c] = sums;
      of_sums += weight[c] * sums;
      of_products += weight[c] * products;
    }
    const float mean = of_sums / count * r, slope = of_products / count * r * r;
    for (int64_t k = 0; k < n.size(); k++) {
      const float factor = weight[first + k] * r;
      for (int64_t s = 0; s < n.parts; s++) {
        const int64_t start = k * n.e + s * p;
        const float offset = -mean - slope * (shift_of(shift, n, b, s, first + k) - m);
        const float *du = silu ? dx : dy;
#pragma omp simd
        for (int64_t i = start; i < start + p; i++) dx[i] = factor * du[i] - slope * x[i] + offset;
        if (dshift)
          dshift[(b * n.parts + s) * n.c + first + k] = sum(p, [&](int64_t i) { return dx[start + i]; });
      }
    }
  });
  add_rows(dweights.get(), n.b, n.c, a[out + 1]);
  add_rows(dbiases.get(), n.b, n.c, a[out + 2]);
}

KERNEL(GroupNormGrad) { group_norm_grad<false>(a); }
KERNEL(GroupNormSiluGrad) { group_norm_grad<true>(a); }

// x [m c], weight [c], bias [c], eps [1] -> y [m c], mean [m], inverse deviation [m]
KERNEL(LayerNorm) {
  const int64_t m = a.dim(0, 0), c = a.dim(0, 1);
  const float *weight = a[1], *bias = a[2], eps = a[3][0];
  parallel_ranges(m, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const float *x = a[0] + row * c;
      float *y = a[4] + row * c;
      const float mean = sum(c, [&](int64_t i) { return x[i]; }) / c;
      const double squares = sum(c, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
      const float inverse = 1 / std::sqrt(squares / c + eps);
      a[5][row] = mean;
      a[6][row] = inverse;
#pragma omp simd
      for (int64_t i = 0; i < c; i++) y[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
    }
  });
}

// dy [m c], x, weight, mean, inverse deviation -> dx [m c], dweight [c], dbias [c]
KERNEL(LayerNormGrad) {
  const int64_t m = a.dim(0, 0), c = a.dim(0, 1), tasks = tasks_of(m);
  const float *weight = a[2];
  Buffer dweights = buffer(tasks * c), dbiases = buffer(tasks * c);
  parallel_ranges(m, [&](int64_t task, int64_t begin, int64_t end) {
    float *dweight = dweights.get() + task * c, *dbias = dbiases.get() + task * c;
    std::fill(dweight, dweight + c, 0.0f);
    std::fill(dbias, dbias + c, 0.0f);
    for (int64_t row = begin; row < end; row++) {
      const float *dy = a[0] + row * c, *x = a[1] + row * c, mean = a[3][row], r = a[4][row];
      float *dx = a[5] + row * c;
      float total = 0, product = 0;
#pragma omp simd reduction(+ : total, product)
      for (int64_t i = 0; i < c; i++) {
        const float z = (x[i] - mean) * r, scaled = dy[i] * weight[i];
        total += scaled;
        product += scaled * z;
        dweight[i] += dy[i] * z;
        dbias[i] += dy[i];
      }
      const float first = total / c, second = product / c;
#pragma omp simd
      for (int64_t i = 0; i < c; i++) dx[i] = r * (dy[i] * weight[i] - first - (x[i] - mean) * r * second);
    }
  });
  add_rows(dweights.get(), tasks, c, a[6]);
  add_rows(dbiases.get(), tasks, c, a[7]);
}
