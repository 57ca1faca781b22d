// Convolutions of 3 x 3 and of 3 x 1 taps, with stride 1 and one row and column of zeros around, by Winograd's F(2, 3) along
// each axis that has three taps (arXiv 1509.09308): a tile of 4 x 4 pixels gives 2 x 2 of the output by 16 products in place of
// 36, and 4 pixels below each other give 2 by 4 in place of 6.
//
// With B, G and A of that paper, products are elementwise over the tile's points and sums over channels:
//   forward        y = A' ((G w G') (B' x B)) A
//   gradient to x  a convolution of dy by the weights turned around, with inputs and outputs exchanged
//   gradient to w  dw = G' ((A dy A') (B' x B)) G, summed over tiles
// Points of tiles have their channels last, so that all of it is done in whole vectors of channels.
#include "common.h"

#ifdef __AVX512F__
constexpr int64_t LANES = 16;
constexpr int ROWS = 12;  // of a product that fits into the registers, by two vectors
#else
constexpr int64_t LANES = 8;
constexpr int ROWS = 6;
#endif
constexpr int64_t PANEL = 2 * LANES;
constexpr int OUTPUTS = ROWS / 3 * 2;    // of a panel, whose gradients are one task
constexpr int64_t CHUNK = 256;           // tiles of a task, whose products stay in the cache
constexpr int64_t BLOCK = 128;           // channels whose transformed weights stay in the cache
constexpr int64_t POINTS = int64_t{1} << 21;  // of transformed tiles at a time: 8 MB
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));
static inline Vector load(const float *x) { return *reinterpret_cast<const Vector *>(x); }
static inline void store(float *x, Vector value) { *reinterpret_cast<Vector *>(x) = value; }
static inline int64_t padded(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// The product of x [N k] and y [k PANEL], to which z [N PANEL] is added if wanted.
template <int N>
static inline void tile(int64_t k, const float *x, int64_t x_row, int64_t x_column, const float *y, int64_t y_row, float *z,
                        bool add) {
  Vector total[N][2] = {};
  for (int64_t i = 0; i < k; i++) {
    const Vector left = load(y + i * y_row), right = load(y + i * y_row + LANES);
    for (int row = 0; row < N; row++) {
      total[row][0] += left * x[row * x_row + i * x_column];
      total[row][1] += right * x[row * x_row + i * x_column];
    }
  }
  for (int row = 0; row < N; row++) {
    float *target = z + row * PANEL;
    store(target, add ? load(target) + total[row][0] : total[row][0]);
    store(target + LANES, add ? load(target + LANES) + total[row][1] : total[row][1]);
  }
}

// z [m PANEL] = x [m k] y [k PANEL], added to z if wanted.
static void multiply(int64_t m, int64_t k, const float *x, int64_t x_row, const float *y, float *z, bool add) {
  for (; m >= ROWS; m -= ROWS, x += ROWS * x_row, z += ROWS * PANEL) tile<ROWS>(k, x, x_row, 1, y, PANEL, z, add);
  for (; m >= 4; m -= 4, x += 4 * x_row, z += 4 * PANEL) tile<4>(k, x, x_row, 1, y, PANEL, z, add);
  for (; m >= 1; m -= 1, x += x_row, z += PANEL) tile<1>(k, x, x_row, 1, y, PANEL, z, add);
}

// Of x [n c h w] -> y [n o h w]; SQUARE: 3 x 3 taps, else 3 x 1.
template <bool SQUARE>
struct Shape {
  static constexpr int64_t columns = SQUARE ? 4 : 1;  // of a tile's points
  static constexpr int64_t points = 4 * columns;
  static constexpr int64_t given = SQUARE ? 2 : 1;    // columns of a tile's pixels
  static constexpr int64_t taps = SQUARE ? 9 : 3;
  static constexpr int64_t border = SQUARE ? 1 : 0;   // columns of zeros on each side
  int64_t n, c, h, w, o;

  int64_t down() const { return (h + 1) / 2; }
  int64_t across() const { return (w + given - 1) / given; }
  int64_t tiles() const { return n * down() * across(); }
  // Rows and columns with zeros around, for whole tiles.
  int64_t height() const { return 2 * down() + 2; }
  int64_t width() const { return given * across() + 2 * border; }
  struct Place {
    int64_t image, row, column;
  };
  Place place(int64_t tile) const {
    return {tile / across() / down(), tile / across() % down() * 2, tile % across() * given};
  }
};

// x [n c h w] -> y [n height width pad], channels last and with zeros around.
template <bool SQUARE>
static Buffer channels_last(const Shape<SQUARE> &s, int64_t c, const float *x) {
  const int64_t pad = padded(c, PANEL), height = s.height(), width = s.width();
  Buffer y = buffer(s.n * height * width * pad);
  parallel_ranges(s.n * height, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      float *target = &y[r * width * pad];
      std::fill_n(target, width * pad, 0.0f);
      const int64_t row = r % height - 1;
      if (row < 0 || row >= s.h) continue;
      target += s.border * pad;
      const float *source = x + (r / height * c * s.h + row) * s.w;
      for (int64_t first = 0; first < c; first += LANES)  // in squares, so that lines of the cache are read and written whole
        for (int64_t left = 0; left < s.w; left += LANES)
          for (int64_t j = first; j < std::min(c, first + LANES); j++)
            for (int64_t i = left; i < std::min(s.w, left + LANES); i++) target[i * pad + j] = source[j * s.h * s.w + i];
    }
  });
  return y;
}

static inline void input_points(const Vector p[4], Vector q[4]) {
  q[0] = p[0] - p[2];
  q[1] = p[1] + p[2];
  q[2] = p[2] - p[1];
  q[3] = p[1] - p[3];
}

// Where the points of tiles are: rows of all channels, or panels of them one after the other.
struct Points {
  int64_t point, tile, panel;
  static Points in_rows(int64_t count, int64_t pad) { return {count * pad, pad, PANEL}; }
  static Points in_panels(int64_t count, int64_t points) { return {count * PANEL, PANEL, points * count * PANEL}; }
  int64_t at(int64_t k, int64_t t, int64_t channel) const {
    return k * point + t * tile + channel / PANEL * panel + channel % PANEL;
  }
};

// B' x B of `count` tiles from `start` on, from channels_last.
template <bool SQUARE>
static void transform_inputs(const Shape<SQUARE> &s, int64_t pad, const float *x, int64_t start, int64_t count, const Points &to,
                             float *v) {
  const int64_t row = s.width() * pad;
  parallel_ranges(count, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const auto place = s.place(start + t);
      const float *corner = x + ((place.image * s.height() + place.row) * s.width() + place.column) * pad;
      for (int64_t i = 0; i < pad; i += LANES) {
        Vector columns[4][4];
        for (int64_t c = 0; c < s.columns; c++) {
          const float *p = corner + c * pad + i;
          const Vector pixels[4] = {load(p), load(p + row), load(p + 2 * row), load(p + 3 * row)};
          input_points(pixels, columns[c]);
        }
        for (int64_t r = 0; r < 4; r++) {
          Vector points[4] = {columns[0][r]};
          if (SQUARE) {
            const Vector line[4] = {columns[0][r], columns[1][r], columns[2][r], columns[3][r]};
            input_points(line, points);
          }
          for (int64_t c = 0; c < s.columns; c++) store(v + to.at(r * s.columns + c, t, i), points[c]);
        }
      }
    }
  });
}

static inline void output_gradient_points(const Vector p[2], Vector q[4]) {
  q[0] = p[0];
  q[1] = p[0] + p[1];
  q[2] = p[0] - p[1];
  q[3] = -p[1];
}

// A dy A' of `count` tiles from `start` on, from channels_last.
template <bool SQUARE>
static void transform_output_gradients(const Shape<SQUARE> &s, int64_t pad, const float *dy, int64_t start, int64_t count,
                                       const Points &to, float *v) {
  const int64_t row = s.width() * pad;
  parallel_ranges(count, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const auto place = s.place(start + t);
      const float *corner = dy + ((place.image * s.height() + place.row + 1) * s.width() + place.column + s.border) * pad;
      for (int64_t i = 0; i < pad; i += LANES) {
        Vector columns[2][4];
        for (int64_t c = 0; c < s.given; c++) {
          const Vector pixels[2] = {load(corner + c * pad + i), load(corner + row + c * pad + i)};
          output_gradient_points(pixels, columns[c]);
        }
        for (int64_t r = 0; r < 4; r++) {
          Vector points[4] = {columns[0][r]};
          if (SQUARE) {
            const Vector line[2] = {columns[0][r], columns[1][r]};
            output_gradient_points(line, points);
          }
          for (int64_t c = 0; c < s.columns; c++) store(v + to.at(r * s.columns + c, t, i), points[c]);
        }
      }
    }
  });
}

static inline void weight_points(const Vector g[3], Vector u[4]) {
  const Vector sum = (g[0] + g[2]) * 0.5f, middle = g[1] * 0.5f;
  u[0] = g[0];
  u[1] = sum + middle;
  u[2] = sum - middle;
  u[3] = g[2];
}

// G w G' of a panel of outputs and `count` <= BLOCK inputs from `first` on: [points BLOCK PANEL]. The weights are
// [o c taps], or, turned around, those of the gradient to x: [c o taps].
template <bool SQUARE, bool TURNED>
static void transform_weights(const Shape<SQUARE> &s, const float *weight, int64_t panel, int64_t first, int64_t count,
                              float *u) {
  constexpr int64_t STEP = 16, TAPS = Shape<SQUARE>::taps;
  alignas(64) float block[STEP * TAPS * PANEL];
  const int64_t lanes = std::min(PANEL, s.o - panel);
  if (lanes < PANEL) std::fill_n(block, STEP * TAPS * PANEL, 0.0f);
  for (int64_t at = 0; at < count; at += STEP) {
    const int64_t inputs = std::min(STEP, count - at);
    if (TURNED) {
      for (int64_t i = 0; i < inputs; i++) {
        const float *source = weight + ((first + at + i) * s.o + panel) * TAPS;
        for (int64_t lane = 0; lane < lanes; lane++)
          for (int64_t tap = 0; tap < TAPS; tap++) block[(i * TAPS + tap) * PANEL + lane] = source[lane * TAPS + TAPS - 1 - tap];
      }
    } else {
      for (int64_t lane = 0; lane < lanes; lane++) {
        const float *source = weight + ((panel + lane) * s.c + first + at) * TAPS;
        for (int64_t j = 0; j < inputs * TAPS; j++) block[j * PANEL + lane] = source[j];
      }
    }
    for (int64_t i = 0; i < inputs; i++)
      for (int64_t half = 0; half < PANEL; half += LANES) {
        const float *g = block + i * TAPS * PANEL + half;
        constexpr int64_t WIDTH = TAPS / 3;
        Vector columns[3][4];
        for (int64_t c = 0; c < WIDTH; c++) {
          const Vector column[3] = {load(g + c * PANEL), load(g + (WIDTH + c) * PANEL), load(g + (2 * WIDTH + c) * PANEL)};
          weight_points(column, columns[c]);
        }
        for (int64_t r = 0; r < 4; r++) {
          Vector points[4] = {columns[0][r]};
          if (SQUARE) {
            const Vector line[3] = {columns[0][r], columns[1][r], columns[2][r]};
            weight_points(line, points);
          }
          for (int64_t c = 0; c < s.columns; c++) store(u + ((r * s.columns + c) * BLOCK + at + i) * PANEL + half, points[c]);
        }
      }
  }
}

static inline void output_pixels(const Vector m[4], Vector p[2]) {
  p[0] = m[0] + m[1] + m[2];
  p[1] = m[1] - m[2] - m[3];
}

// A' m A of `count` tiles from `start` on, m [points count PANEL], into a panel of y.
template <bool SQUARE>
static void transform_outputs(const Shape<SQUARE> &s, const float *m, int64_t start, int64_t count, int64_t panel, float *y) {
  constexpr int64_t MOST = 8;  // tiles of a row, whose pixels are then written channel by channel
  alignas(64) float pixels[2][MOST * Shape<SQUARE>::given][PANEL];
  const int64_t area = s.h * s.w, lanes = std::min(PANEL, s.o - panel);
  for (int64_t t = 0, run; t < count; t += run) {
    const auto place = s.place(start + t);
    run = std::min({MOST, count - t, s.across() - place.column / s.given});
    for (int64_t j = 0; j < run; j++)
      for (int64_t i = 0; i < PANEL; i += LANES) {
        Vector columns[4][2];
        for (int64_t c = 0; c < s.columns; c++) {
          Vector points[4];
          for (int64_t r = 0; r < 4; r++) points[r] = load(m + ((r * s.columns + c) * count + t + j) * PANEL + i);
          output_pixels(points, columns[c]);
        }
        for (int64_t r = 0; r < 2; r++) {
          Vector line[2] = {columns[0][r]};
          if (SQUARE) {
            const Vector points[4] = {columns[0][r], columns[1][r], columns[2][r], columns[3][r]};
            output_pixels(points, line);
          }
          for (int64_t c = 0; c < s.given; c++) store(&pixels[r][j * s.given + c][i], line[c]);
        }
      }
    const int64_t width = std::min(run * s.given, s.w - place.column);
    for (int64_t r = 0; r < std::min<int64_t>(2, s.h - place.row); r++) {
      float *target = y + (place.image * s.o + panel) * area + (place.row + r) * s.w + place.column;
      for (int64_t i = 0; i < lanes; i++, target += area)
        for (int64_t c = 0; c < width; c++) target[c] = pixels[r][c][i];
    }
  }
}

// Calls task(shape of these images, number of the first) for groups of images with about `most` tiles: what is kept beside
// the input and output of a convolution does not grow with their number.
template <bool SQUARE, class Task>
static void by_images(const Shape<SQUARE> &s, int64_t most, Task task) {
  const int64_t group = std::max<int64_t>(1, most / (s.down() * s.across()));
  for (int64_t first = 0; first < s.n; first += group) {
    Shape<SQUARE> images = s;
    images.n = std::min(group, s.n - first);
    task(images, first);
  }
}

template <bool SQUARE, bool TURNED>
static void convolve(const Shape<SQUARE> &all, const float *x, const float *weight, float *y) {
  const int64_t pad = padded(all.c, PANEL), panels = padded(all.o, PANEL) / PANEL, area = all.h * all.w;
  const int64_t most = std::min(all.tiles(), padded(std::max(CHUNK, POINTS / (all.points * pad)), CHUNK));
  Buffer v = buffer(all.points * most * pad);
  by_images(all, most, [&](const Shape<SQUARE> &s, int64_t image) {
    const Buffer pixels = channels_last(s, s.c, x + image * s.c * area);
    for (int64_t start = 0; start < s.tiles(); start += most) {
      const int64_t count = std::min(most, s.tiles() - start), chunks = (count + CHUNK - 1) / CHUNK;
      transform_inputs(s, pad, pixels.get(), start, count, Points::in_rows(count, pad), v.get());
      parallel(chunks * panels, [&](int64_t task) {
        const int64_t chunk = task / panels, panel = task % panels * PANEL;
        const int64_t begin = count * chunk / chunks, size = count * (chunk + 1) / chunks - begin;
        Buffer m = buffer(s.points * size * PANEL), u = buffer(s.points * BLOCK * PANEL);
        for (int64_t first = 0; first < s.c; first += BLOCK) {
          const int64_t inputs = std::min(BLOCK, s.c - first);
          transform_weights<SQUARE, TURNED>(s, weight, panel, first, inputs, u.get());
          for (int64_t k = 0; k < s.points; k++)
            multiply(size, inputs, &v[(k * count + begin) * pad + first], pad, &u[k * BLOCK * PANEL], &m[k * size * PANEL],
                     first > 0);
        }
        transform_outputs(s, m.get(), start + begin, size, panel, y + image * s.o * area);
      });
    }
  });
}

static inline void weight_taps(const Vector u[4], Vector g[3]) {
  g[0] = u[0] + (u[1] + u[2]) * 0.5f;
  g[1] = (u[1] - u[2]) * 0.5f;
  g[2] = u[3] + (u[1] + u[2]) * 0.5f;
}

// Adds G' du G of OUTPUTS outputs from `o` on by a panel of inputs, du [points OUTPUTS PANEL], up into dw [o c taps].
template <bool SQUARE>
static void add_weight_gradients(const Shape<SQUARE> &s, const float *du, int64_t o, int64_t panel, float *dw) {
  constexpr int64_t TAPS = Shape<SQUARE>::taps, WIDTH = TAPS / 3;
  const int64_t lanes = std::min(PANEL, s.c - panel);
  for (int64_t row = 0; row < std::min<int64_t>(OUTPUTS, s.o - o); row++) {
    alignas(64) float taps[TAPS][PANEL];
    for (int64_t i = 0; i < PANEL; i += LANES) {
      Vector columns[4][3];
      for (int64_t c = 0; c < s.columns; c++) {
        Vector points[4];
        for (int64_t r = 0; r < 4; r++) points[r] = load(du + ((r * s.columns + c) * OUTPUTS + row) * PANEL + i);
        weight_taps(points, columns[c]);
      }
      for (int64_t r = 0; r < 3; r++) {
        Vector line[3] = {columns[0][r]};
        if (SQUARE) {
          const Vector points[4] = {columns[0][r], columns[1][r], columns[2][r], columns[3][r]};
          weight_taps(points, line);
        }
        for (int64_t c = 0; c < WIDTH; c++) store(&taps[r * WIDTH + c][i], line[c]);
      }
    }
    float *target = dw + ((o + row) * s.c + panel) * TAPS;
    for (int64_t i = 0; i < lanes; i++)
      for (int64_t tap = 0; tap < TAPS; tap++) target[i * TAPS + tap] += taps[tap][i];
  }
}

template <bool SQUARE>
static void differentiate_weights(const Shape<SQUARE> &all, const float *dy, const float *x, float *dw) {
  const int64_t pad = padded(all.c, PANEL), out = padded(all.o, PANEL), panels = pad / PANEL, area = all.h * all.w;
  const int64_t rows = (all.o + OUTPUTS - 1) / OUTPUTS;
  const int64_t most = std::min(all.tiles(), std::max(CHUNK, POINTS / (all.points * pad)));
  Buffer v = buffer(all.points * most * pad), d = buffer(all.points * most * out);
  std::fill_n(dw, all.o * all.c * all.taps, 0.0f);
  by_images(all, most, [&](const Shape<SQUARE> &s, int64_t image) {
    const Buffer pixels = channels_last(s, s.c, x + image * s.c * area);
    const Buffer gradients = channels_last(s, s.o, dy + image * s.o * area);
    for (int64_t start = 0; start < s.tiles(); start += most) {
      const int64_t count = std::min(most, s.tiles() - start);
      const Points places = Points::in_panels(count, s.points);
      transform_inputs(s, pad, pixels.get(), start, count, places, v.get());
      transform_output_gradients(s, out, gradients.get(), start, count, places, d.get());
      parallel(panels * rows, [&](int64_t task) {
        const int64_t panel = task / rows * PANEL, o = task % rows * OUTPUTS;
        alignas(64) float du[Shape<SQUARE>::points * OUTPUTS * PANEL];
        for (int64_t k = 0; k < s.points; k++)
          tile<OUTPUTS>(count, &d[places.at(k, 0, o)], 1, PANEL, &v[places.at(k, 0, panel)], PANEL, du + k * OUTPUTS * PANEL,
                        false);
        add_weight_gradients(s, du, o, panel, dw);
      });
    }
  });
}

// x [n c h w], weight [o c 3 3] -> y [n o h w]
KERNEL(Convolution) {
  const Shape<true> s{a.dim(0, 0), a.dim(0, 1), a.dim(0, 2), a.dim(0, 3), a.dim(1, 0)};
  convolve<true, false>(s, a[0], a[1], a[2]);
}

// dy [n o h w], weight [o c 3 3] -> dx [n c h w]
KERNEL(ConvolutionGradInput) {
  const Shape<true> s{a.dim(0, 0), a.dim(0, 1), a.dim(0, 2), a.dim(0, 3), a.dim(1, 1)};
  convolve<true, true>(s, a[0], a[1], a[2]);
}

// dy [n o h w], x [n c h w], anything [o c 3 3] -> dw [o c 3 3]
KERNEL(ConvolutionGradWeight) {
  const Shape<true> s{a.dim(1, 0), a.dim(1, 1), a.dim(1, 2), a.dim(1, 3), a.dim(0, 1)};
  differentiate_weights(s, a[0], a[1], a[3]);
}

// The same with weights [o c 3 1].
KERNEL(TemporalConvolution) {
  const Shape<false> s{a.dim(0, 0), a.dim(0, 1), a.dim(0, 2), a.dim(0, 3), a.dim(1, 0)};
  convolve<false, false>(s, a[0], a[1], a[2]);
}

KERNEL(TemporalConvolutionGradInput) {
  const Shape<false> s{a.dim(0, 0), a.dim(0, 1), a.dim(0, 2), a.dim(0, 3), a.dim(1, 1)};
  convolve<false, true>(s, a[0], a[1], a[2]);
}

KERNEL(TemporalConvolutionGradWeight) {
  const Shape<false> s{a.dim(1, 0), a.dim(1, 1), a.dim(1, 2), a.dim(1, 3), a.dim(0, 1)};
  differentiate_weights(s, a[0], a[1], a[3]);
}
