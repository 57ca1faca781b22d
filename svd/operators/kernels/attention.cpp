// Attention in blocks of queries and keys, forth and back, without the matrix of all scores (arXiv 2205.14135).
#include "common.h"

#include <limits>
#include <vector>

// Matrices are padded to whole vectors of columns. Products are made of tiles of up to ROWS rows and two vectors, which
// fit into the registers.
#ifdef __AVX512F__
constexpr int64_t LANES = 16;
constexpr int ROWS = 8;
#else
constexpr int64_t LANES = 8;
constexpr int ROWS = 6;
#endif
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));
inline int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }
// Rows an odd number of cache lines apart do not all fall into the same places of the cache.
inline int64_t spread(int64_t n) { return ((n + 15) / 16 | 1) * 16; }

template <int N, int COLUMNS>
static inline void tile(int64_t k, const float *x, int64_t x_row, int64_t x_column, const float *y, int64_t y_row, float *z,
                        int64_t z_row, bool add) {
  Vector total[N][COLUMNS] = {};
  for (int64_t i = 0; i < k; i++) {
    Vector right[COLUMNS];
    for (int column = 0; column < COLUMNS; column++)
      right[column] = *reinterpret_cast<const Vector *>(y + i * y_row + column * LANES);
    for (int row = 0; row < N; row++)
      for (int column = 0; column < COLUMNS; column++) total[row][column] += right[column] * x[row * x_row + i * x_column];
  }
  for (int row = 0; row < N; row++)
    for (int column = 0; column < COLUMNS; column++) {
      Vector *target = reinterpret_cast<Vector *>(z + row * z_row + column * LANES);
      *target = add ? *target + total[row][column] : total[row][column];
    }
}

template <int COLUMNS>
static inline void columns_of(int64_t m, int64_t k, const float *x, int64_t x_row, int64_t x_column, const float *y,
                              int64_t y_row, float *z, int64_t z_row, bool add) {
  for (; m >= ROWS; m -= ROWS, x += ROWS * x_row, z += ROWS * z_row)
    tile<ROWS, COLUMNS>(k, x, x_row, x_column, y, y_row, z, z_row, add);
  for (; m >= 2; m -= 2, x += 2 * x_row, z += 2 * z_row)
    tile<2, COLUMNS>(k, x, x_row, x_column, y, y_row, z, z_row, add);
  if (m) tile<1, COLUMNS>(k, x, x_row, x_column, y, y_row, z, z_row, add);
}

// z [m n] = x [m k] y [k n], added to z if wanted; n is padded. x is read with any strides, so also transposed.
static void multiply(int64_t m, int64_t n, int64_t k, const float *x, int64_t x_row, int64_t x_column, const float *y,
                     int64_t y_row, float *z, int64_t z_row, bool add) {
  int64_t column = 0;
  for (; column + 2 * LANES <= n; column += 2 * LANES)
    columns_of<2>(m, k, x, x_row, x_column, y + column, y_row, z + column, z_row, add);
  if (column < n) columns_of<1>(m, k, x, x_row, x_column, y + column, y_row, z + column, z_row, add);
}

// Of [b l c]: the matrix [l d] of a clip and a head lies at `head` and has rows `c` apart.
struct Heads {
  int64_t b, l, n, c, heads, d;
  int64_t count() const { return b * heads; }
  int64_t head(int64_t task, int64_t rows) const { return task / heads * rows * c + task % heads * d; }
};

static void copy_padded(const float *x, int64_t rows, int64_t c, int64_t d, float *y) {
  for (int64_t row = 0; row < rows; row++, x += c, y += padded(d)) {
    std::copy_n(x, d, y);
    std::fill(y + d, y + padded(d), 0.0f);
  }
}

static void copy_transposed(const float *x, int64_t rows, int64_t c, int64_t d, float *y) {
  const int64_t stride = spread(rows);
  for (int64_t i = 0; i < d; i++) {
    for (int64_t row = 0; row < rows; row++) y[i * stride + row] = x[row * c + i];
    std::fill(y + i * stride + rows, y + (i + 1) * stride, 0.0f);
  }
}

constexpr int64_t QUERIES = 48, KEYS = 128;  // of a block: its scores are 16 kB

// q [b l c], k [b n c], v [b n c], anything [h] -> y [b l c], logarithm of the softmax's denominator [b h l]
KERNEL(Attention) {
  const int64_t heads = a.dim(3, 0), c = a.dim(0, 2);
  const Heads s{a.dim(0, 0), a.dim(0, 1), a.dim(1, 1), c, heads, c / heads};
  const int64_t columns = spread(s.n), width = padded(s.d), blocks = (s.l + QUERIES - 1) / QUERIES;
  const float scale = 1 / std::sqrt((float)s.d);
  // Where there are many heads, each packs its keys and values by itself, else all tasks share what was packed.
  const bool by_head = s.count() >= MAX_TASKS || blocks == 1;
  const int64_t packed = by_head ? 0 : s.count();
  Buffer all_k = buffer(packed * s.d * columns), all_v = buffer(packed * s.n * width);
  auto pack = [&](int64_t head, float *k, float *v) {
    copy_transposed(a[1] + s.head(head, s.n), s.n, c, s.d, k);
    copy_padded(a[2] + s.head(head, s.n), s.n, c, s.d, v);
  };
  auto block = [&](int64_t head, int64_t first, const float *k, const float *v, float *scores, float *y) {
    const int64_t rows = std::min(QUERIES, s.l - first);
    const float *q = a[0] + s.head(head, s.l) + first * c;
    float largest[QUERIES], total[QUERIES];
    std::fill(largest, largest + rows, -std::numeric_limits<float>::infinity());
    std::fill(total, total + rows, 0.0f);
    for (int64_t key = 0; key < s.n; key += KEYS) {
      const int64_t keys = std::min(KEYS, s.n - key);
      multiply(rows, padded(keys), s.d, q, c, 1, k + key, columns, scores, KEYS, false);
      for (int64_t row = 0; row < rows; row++) {
        float *p = scores + row * KEYS, before = largest[row], highest = before, part = 0;
        std::fill(p + keys, p + padded(keys), -std::numeric_limits<float>::infinity());  // so that vectors are whole
#pragma omp simd reduction(max : highest)
        for (int64_t i = 0; i < padded(keys); i++) highest = std::max(highest, p[i] * scale);
#pragma omp simd reduction(+ : part)
        for (int64_t i = 0; i < padded(keys); i++) part += p[i] = exponential(p[i] * scale - highest);
        const float kept = key ? exponential(before - highest) : 0.0f;
        largest[row] = highest;
        total[row] = total[row] * kept + part;
        if (key && kept != 1)
          for (int64_t i = 0; i < width; i++) y[row * width + i] *= kept;
      }
      multiply(rows, width, keys, scores, KEYS, 1, v + key * width, width, y, width, key > 0);
    }
    for (int64_t row = 0; row < rows; row++) {
      float *target = a[4] + s.head(head, s.l) + (first + row) * c;
      const float factor = 1 / total[row];
      for (int64_t i = 0; i < s.d; i++) target[i] = y[row * width + i] * factor;
      a[5][head * s.l + first + row] = largest[row] + std::log(total[row]);
    }
  };
  if (by_head) {
    parallel_ranges(s.count(), [&](int64_t, int64_t begin, int64_t end) {
      Buffer k = buffer(s.d * columns), v = buffer(s.n * width), scores = buffer(QUERIES * KEYS), y = buffer(QUERIES * width);
      for (int64_t head = begin; head < end; head++) {
        pack(head, k.get(), v.get());
        for (int64_t i = 0; i < blocks; i++) block(head, i * QUERIES, k.get(), v.get(), scores.get(), y.get());
      }
    });
    return;
  }
  parallel(s.count(), [&](int64_t head) { pack(head, &all_k[head * s.d * columns], &all_v[head * s.n * width]); });
  parallel(s.count() * blocks, [&](int64_t task) {
    Buffer scores = buffer(QUERIES * KEYS), y = buffer(QUERIES * width);
    const int64_t head = task / blocks;
    block(head, task % blocks * QUERIES, &all_k[head * s.d * columns], &all_v[head * s.n * width], scores.get(), y.get());
  });
}

// dy [b l c], q, k, v, y, logarithm of the denominator [b h l] -> dq [b l c], dk [b n c], dv [b n c]
// With P = exp(scale q k^T - log), D = rows of dy * y: dS = P (dy v^T - D), dq = scale dS k, dk = scale dS^T q, dv = P^T dy.
KERNEL(AttentionGrad) {
  const int64_t heads = a.dim(5, 1), c = a.dim(0, 2);
  const Heads s{a.dim(0, 0), a.dim(0, 1), a.dim(2, 1), c, heads, c / heads};
  const int64_t columns = spread(s.n), width = padded(s.d);
  const float scale = 1 / std::sqrt((float)s.d);
  parallel_ranges(s.count(), [&](int64_t, int64_t begin, int64_t end) {
    Buffer kt = buffer(s.d * columns), vt = buffer(s.d * columns), k = buffer(s.n * width), q = buffer(QUERIES * width),
           dy = buffer(QUERIES * width), p = buffer(QUERIES * KEYS), dp = buffer(QUERIES * KEYS), dq = buffer(QUERIES * width),
           dk = buffer(s.n * width), dv = buffer(s.n * width);
    for (int64_t head = begin; head < end; head++) {
      const int64_t of_queries = s.head(head, s.l), of_keys = s.head(head, s.n);
      copy_transposed(a[2] + of_keys, s.n, c, s.d, kt.get());
      copy_transposed(a[3] + of_keys, s.n, c, s.d, vt.get());
      copy_padded(a[2] + of_keys, s.n, c, s.d, k.get());
      for (int64_t first = 0; first < s.l; first += QUERIES) {
        const int64_t rows = std::min(QUERIES, s.l - first), start = of_queries + first * c;
        copy_padded(a[1] + start, rows, c, s.d, q.get());
        copy_padded(a[0] + start, rows, c, s.d, dy.get());
        for (int64_t key = 0; key < s.n; key += KEYS) {
          const int64_t keys = std::min(KEYS, s.n - key);
          multiply(rows, padded(keys), s.d, q.get(), width, 1, &kt[key], columns, p.get(), KEYS, false);
          multiply(rows, padded(keys), s.d, dy.get(), width, 1, &vt[key], columns, dp.get(), KEYS, false);
          for (int64_t row = 0; row < rows; row++) {
            const float *y = a[4] + start + row * c, log = a[5][head * s.l + first + row];
            float *p_row = &p[row * KEYS], *dp_row = &dp[row * KEYS], product = 0;
#pragma omp simd reduction(+ : product)
            for (int64_t i = 0; i < s.d; i++) product += dy[row * width + i] * y[i];
#pragma omp simd
            for (int64_t i = 0; i < padded(keys); i++) {  // of the last ones, which stand for no keys, nothing is read
              p_row[i] = exponential(p_row[i] * scale - log);
              dp_row[i] = p_row[i] * (dp_row[i] - product) * scale;
            }
          }
          multiply(rows, width, keys, dp.get(), KEYS, 1, &k[key * width], width, dq.get(), width, key > 0);
          multiply(keys, width, rows, dp.get(), 1, KEYS, q.get(), width, &dk[key * width], width, first > 0);
          multiply(keys, width, rows, p.get(), 1, KEYS, dy.get(), width, &dv[key * width], width, first > 0);
        }
        for (int64_t row = 0; row < rows; row++) std::copy_n(&dq[row * width], s.d, a[6] + start + row * c);
      }
      for (int64_t row = 0; row < s.n; row++) {
        std::copy_n(&dk[row * width], s.d, a[7] + of_keys + row * c);
        std::copy_n(&dv[row * width], s.d, a[8] + of_keys + row * c);
      }
    }
  });
}
