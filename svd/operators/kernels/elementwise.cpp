// Activations, and moving axes.
#include "common.h"

// x -> x Phi(x), of any shape
KERNEL(Gelu) {
  parallel_ranges(a.size(0), [&](int64_t, int64_t begin, int64_t end) {
    const float *x = a[0];
    float *y = a[1];
#pragma omp simd
    for (int64_t i = begin; i < end; i++) y[i] = x[i] * normal(x[i]).cdf;
  });
}

// dy, x -> dx
KERNEL(GeluGrad) {
  parallel_ranges(a.size(0), [&](int64_t, int64_t begin, int64_t end) {
    const float *dy = a[0], *x = a[1];
    float *dx = a[2];
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
      const Normal n = normal(x[i]);
      dx[i] = dy[i] * (n.cdf + x[i] * n.density);
    }
  });
}

// x [m 2h], bias [2h] -> [m h]: with x + bias = (value, gate), value * GELU(gate)
KERNEL(Geglu) {
  const int64_t m = a.dim(0, 0), h = a.dim(2, 1);
  const float *bias = a[1];
  parallel_ranges(m, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const float *x = a[0] + row * 2 * h;
      float *y = a[2] + row * h;
#pragma omp simd
      for (int64_t i = 0; i < h; i++) {
        const float gate = x[h + i] + bias[h + i];
        y[i] = (x[i] + bias[i]) * gate * normal(gate).cdf;
      }
    }
  });
}

// dy [m h], x [m 2h], bias [2h] -> dx [m 2h], dbias [2h]
KERNEL(GegluGrad) {
  const int64_t m = a.dim(0, 0), h = a.dim(0, 1), tasks = tasks_of(m);
  const float *bias = a[2];
  Buffer dbiases = buffer(tasks * 2 * h);
  parallel_ranges(m, [&](int64_t task, int64_t begin, int64_t end) {
    float *dbias = dbiases.get() + task * 2 * h;
    std::fill(dbias, dbias + 2 * h, 0.0f);
    for (int64_t row = begin; row < end; row++) {
      const float *dy = a[0] + row * h, *x = a[1] + row * 2 * h;
      float *dx = a[3] + row * 2 * h;
#pragma omp simd
      for (int64_t i = 0; i < h; i++) {
        const float gate = x[h + i] + bias[h + i], value = x[i] + bias[i];
        const Normal n = normal(gate);
        const float of_value = dy[i] * gate * n.cdf, of_gate = dy[i] * value * (n.cdf + gate * n.density);
        dx[i] = of_value;
        dx[h + i] = of_gate;
        dbias[i] += of_value;
        dbias[h + i] += of_gate;
      }
    }
  });
  add_rows(dbiases.get(), tasks, 2 * h, a[4]);
}

// x [b m n e] -> [b n m e]
KERNEL(SwapAxes) {
  const int64_t b = a.dim(0, 0), m = a.dim(0, 1), n = a.dim(0, 2), e = a.dim(0, 3);
  const float *x = a[0];
  float *y = a[1];
  if (e > 1) {
    parallel_ranges(b * n, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++)
        for (int64_t i = 0; i < m; i++)
          std::copy_n(x + ((row / n * m + i) * n + row % n) * e, e, y + (row * m + i) * e);
    });
    return;
  }
  constexpr int64_t SIDE = 16;  // squares that stay in the cache
  const int64_t strips = (n + SIDE - 1) / SIDE;
  parallel_ranges(b * strips, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t strip = begin; strip < end; strip++) {
      const float *in = x + strip / strips * m * n;
      float *out = y + strip / strips * m * n;
      const int64_t first = strip % strips * SIDE, last = std::min(n, first + SIDE);
      for (int64_t i0 = 0; i0 < m; i0 += SIDE) {
        const int64_t i1 = std::min(m, i0 + SIDE);
        if (i1 - i0 == SIDE && last - first == SIDE) {
          for (int64_t j = first; j < first + SIDE; j++)
            for (int64_t i = i0; i < i0 + SIDE; i++) out[j * m + i] = in[i * n + j];
        } else {
          for (int64_t j = first; j < last; j++)
            for (int64_t i = i0; i < i1; i++) out[j * m + i] = in[i * n + j];
        }
      }
    }
  });
}

// x [b m c], h [b m c], shift [b 1 c] or [1 1 c] -> x + h + shift
KERNEL(AddTokens) {
  const int64_t m = a.dim(0, 1), c = a.dim(0, 2), shifts = a.dim(2, 0);
  parallel_ranges(a.dim(0, 0) * m, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const float *x = a[0] + row * c, *h = a[1] + row * c, *shift = a[2] + (shifts > 1 ? row / m * c : 0);
      float *y = a[3] + row * c;
#pragma omp simd
      for (int64_t i = 0; i < c; i++) y[i] = x[i] + h[i] + shift[i];
    }
  });
}

// x [b m c], and what has the shape of the result -> sums over m, [b 1 c], or over b and m, [1 1 c]
KERNEL(SumTokens) {
  const int64_t b = a.dim(0, 0), m = a.dim(0, 1), c = a.dim(0, 2), tasks = tasks_of(m);
  Buffer sums = buffer(b * tasks * c);
  parallel(b * tasks, [&](int64_t task) {
    float *total = sums.get() + task * c;
    std::fill(total, total + c, 0.0f);
    const int64_t part = task % tasks, first = task / tasks * m;
    for (int64_t row = first + m * part / tasks; row < first + m * (part + 1) / tasks; row++) {
      const float *x = a[0] + row * c;
#pragma omp simd
      for (int64_t i = 0; i < c; i++) total[i] += x[i];
    }
  });
  const int64_t n = a.dim(2, 0);
  for (int64_t i = 0; i < n; i++) add_rows(sums.get() + i * tasks * c, b * tasks / n, c, a[2] + i * c);
}

// x [n c e], h [n c e], bias [c] -> x + h + bias
KERNEL(AddToChannels) {
  const int64_t c = a.dim(0, 1), e = a.dim(0, 2);
  parallel_ranges(a.dim(0, 0) * c, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const float *x = a[0] + row * e, *h = a[1] + row * e, bias = a[2][row % c];
      float *y = a[3] + row * e;
#pragma omp simd
      for (int64_t i = 0; i < e; i++) y[i] = x[i] + h[i] + bias;
    }
  });
}

// x [n c e] -> sums over n and e, [c]
KERNEL(SumChannels) {
  const int64_t n = a.dim(0, 0), c = a.dim(0, 1), e = a.dim(0, 2);
  parallel_ranges(c, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      double total = 0;
      for (int64_t row = i; row < n * c; row += c) {
        const float *x = a[0] + row * e;
        total += sum(e, [&](int64_t j) { return x[j]; });
      }
      a[1][i] = total;
    }
  });
}

// x [m], y [m], alpha [1] -> alpha x + (1 - alpha) y, of any shape
KERNEL(Blend) {
  const float *x = a[0], *y = a[1], alpha = a[2][0];
  float *z = a[3];
  parallel_ranges(a.size(0), [&](int64_t, int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) z[i] = alpha * x[i] + (1 - alpha) * y[i];
  });
}

// dz, x, y, alpha -> dx, dy, dalpha [1]
KERNEL(BlendGrad) {
  const float *dz = a[0], *x = a[1], *y = a[2], alpha = a[3][0];
  float *dx = a[4], *dy = a[5];
  double sums[MAX_TASKS] = {};
  parallel_ranges(a.size(0), [&](int64_t task, int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
      dx[i] = alpha * dz[i];
      dy[i] = (1 - alpha) * dz[i];
    }
    sums[task] = sum(end - begin, [&](int64_t i) { return dz[begin + i] * (x[begin + i] - y[begin + i]); });
  });
  double total = 0;
  for (double part : sums) total += part;
  a[6][0] = total;
}
