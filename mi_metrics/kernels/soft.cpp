// Sums over the samples of a soft table: the table, its values at samples, their derivatives.
// Reference: functional/tables/sums.py, with the B-splines of functional/tables/splines.py.
//
// Weights and slopes are the reference's to the bit. The sums of a table are taken in another
// order: in slabs of a row's samples, whose number depends on the shapes alone, and within one in
// four tables by the column where a sample begins.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "native.h"

namespace {

constexpr int64_t BLOCK = 256;
constexpr int64_t SHARE = 1 << 14;

enum Kernel : int64_t { LINEAR = 1, CUBIC = 2, INNER = 3 };
enum Type : int64_t { FLOAT = 0, DOUBLE = 1, BOOL = 2 };

constexpr int support(int64_t kernel) { return kernel == LINEAR ? 2 : 4; }

struct Values {
  const void* values;
  Type type;
};

// An axis has lo, width, bins and scale per row (step 4) or once for all (step 0); `cells` are
// those of a table with its margin.
struct Axis {
  Values samples;
  const double* parts;
  int64_t step;
  int64_t cells;
};

MI_INLINE void load(const Values& from, int64_t start, int64_t size, double* MI_RESTRICT into) {
  if (from.type == DOUBLE) {
    std::memcpy(into, static_cast<const double*>(from.values) + start, size * sizeof(double));
  } else if (from.type == FLOAT) {
    const float* values = static_cast<const float*>(from.values) + start;
    for (int64_t i = 0; i < size; i++) into[i] = values[i];
  } else {
    const uint8_t* values = static_cast<const uint8_t*>(from.values) + start;
    for (int64_t i = 0; i < size; i++) into[i] = values[i] != 0;
  }
}

// Where the samples of a block lie: the first cell that they reach, and what they give to that and
// the following ones, W at a sample.
template <int W>
struct Places {
  int32_t first[BLOCK];
  double weights[BLOCK * W];
  double slopes[BLOCK * W];
  double rate[BLOCK];  // cells per unit of the sample, 0 beyond the range
};

// The largest number of a type.
MI_INLINE double largest(Type type) {
  return type == DOUBLE ? 0x1.fffffffffffffp1023 : double(0x1.fffffep127f);
}

template <int64_t K, bool SLOPES, int W = support(K)>
MI_INLINE void find_places(const Axis& axis, int64_t row, int64_t start, int64_t size,
                           Places<W>& places) {
  const double* parts = axis.parts + row * axis.step;
  const double lo = parts[0], width = parts[1], bins = parts[2], scale = parts[3];
  double x[BLOCK];
  load(axis.samples, start, size, x);
  const double slope = std::min(bins / width * scale, largest(axis.samples.type) * 0x1p-10);
  const double many = bins > 1 ? 1 : 0;
  const double least = K == INNER ? 1.5 : 0, most = K == INNER ? bins - 1.5 - 0x1p-20 : bins;
  const int32_t reach = int32_t(axis.cells) - W;
  const double shift = K == INNER ? -1.5 : 0.5;
  // Of the sample at the upper end, the position may be rounded to more than the bins.
  const double end = bins * (1 + 0x1p-50);
  for (int64_t i = 0; i < size; i++) {
    const double position = (x[i] * scale - lo) * bins / width;
    // NaN stays, and so it comes to its own table.
    double u = position < least ? least : position;
    u = u > most ? most : u;
    u += shift;
    // Whatever the axis is, no cell beyond the table is reached.
    int32_t first = int32_t(u == u ? u : 0);
    first = first > 0 ? first : 0;
    first = first < reach ? first : reach;
    const double t = u - first, s = 1 - t;
    places.first[i] = first;
    double* w = places.weights + W * i;
    double* d = places.slopes + W * i;
    if constexpr (K == LINEAR) {
      w[0] = s;
      w[1] = t;
      if constexpr (SLOPES) {
        d[0] = -1;
        d[1] = 1;
      }
    } else {
      const double s2 = s * s, t2 = t * t, s3 = s2 * s, t3 = t2 * t;
      w[0] = s3 * (1.0 / 6);
      w[1] = t3 * 0.5 - t2 + 2.0 / 3;
      w[2] = s3 * 0.5 - s2 + 2.0 / 3;
      w[3] = t3 * (1.0 / 6);
      if constexpr (SLOPES) {
        d[0] = s2 * -0.5;
        d[1] = 1.5 * t2 - 2 * t;
        d[2] = -1.5 * s2 + 2 * s;
        d[3] = t2 * 0.5;
      }
    }
    if constexpr (SLOPES)
      places.rate[i] = slope * ((position >= 0) & (position <= end) ? many : 0);
  }
}

// The table of some samples, in W copies by the column where a sample begins, modulo W: what is
// written and read again soon is then the same memory, or another.
template <int64_t K>
struct Table {
  static MI_INLINE void run(const Axis* x, const Axis* y, const Values* weights, int64_t n,
                            int64_t row, int64_t first, int64_t last, double* MI_RESTRICT copies,
                            int64_t stride) {
    constexpr int W = support(K);
    Places<W> px;
    Places<W> py;
    double mass[BLOCK];
    for (int64_t start = first; start < last; start += BLOCK) {
      const int64_t size = std::min(BLOCK, last - start);
      find_places<K, false>(*x, row, row * n + start, size, px);
      find_places<K, false>(*y, row, row * n + start, size, py);
      if (weights->values) {
        load(*weights, row * n + start, size, mass);
        for (int64_t i = 0; i < size; i++)
          for (int k = 0; k < W; k++) px.weights[W * i + k] *= mass[i];
      }
      for (int64_t i = 0; i < size; i++) {
        const int64_t b = py.first[i], turn = b & (W - 1);
        double* cells = copies + (turn * x->cells + px.first[i]) * stride + (b - turn);
        const double *wx = px.weights + W * i, *wy = py.weights + W * i;
        for (int k = 0; k < W; k++, cells += stride)
          for (int l = 0; l < W; l++) cells[l] += wx[k] * wy[l];
      }
    }
  }
};

// Adds the copies to a table, column by column in the order of the cells.
void collect(const double* copies, int64_t rows, int64_t columns, int64_t stride, int count,
             double* table) {
  for (int turn = 0; turn < count; turn++)
    for (int64_t a = 0; a < rows; a++)
      for (int64_t b = turn; b < columns; b++)
        table[a * columns + b] += copies[(turn * rows + a) * stride + (b - turn)];
}

template <int64_t K>
int64_t add_up(const Axis& x, const Axis& y, const Values& weights, int64_t rows, int64_t n,
               double* table, int64_t threads) {
  constexpr int W = support(K);
  const int64_t cells = x.cells * y.cells, stride = (y.cells + 2 * W) / W * W;
  // Each slab has a table, whose cells take no more memory than a fraction of its samples.
  const int64_t slabs =
      std::max<int64_t>(1, std::min<int64_t>(16, n / std::max<int64_t>(1 << 16, 64 * cells)));
  std::atomic<int64_t> failed{0};
  try {
    std::vector<double> parts(slabs > 1 ? rows * slabs * cells : 0);
    mi::in_parts(rows * slabs, rows * n < SHARE ? 1 : threads, [&](int64_t part) {
      try {
        const int64_t row = part / slabs, slab = part % slabs;
        std::vector<double> copies(W * x.cells * stride);
        mi::dispatch<Table<K>>(&x, &y, &weights, n, row, n * slab / slabs,
                                    n * (slab + 1) / slabs, copies.data(), stride);
        collect(copies.data(), x.cells, y.cells, stride, W,
                slabs > 1 ? parts.data() + part * cells : table + row * cells);
      } catch (const std::bad_alloc&) {
        failed = 1;
      }
    });
    for (int64_t part = 0; slabs > 1 && part < rows * slabs; part++)
      for (int64_t i = 0; i < cells; i++)
        table[part / slabs * cells + i] += parts[part * cells + i];
  } catch (const std::bad_alloc&) {
    failed = 1;
  }
  return failed ? -1 : 0;
}

MI_INLINE double held(double value, double most) {
  value = value > most ? most : value;
  return value < -most ? -most : value;
}

// Writes gradients times weights.
MI_INLINE void store(void* into, Type type, int64_t start, int64_t size,
                     const double* MI_RESTRICT values, const double* MI_RESTRICT mass) {
  // The largest number rather than infinity, which would stop a training.
  const double most = largest(type);
  if (type == DOUBLE) {
    double* found = static_cast<double*>(into) + start;
    for (int64_t i = 0; i < size; i++) found[i] = held(values[i] * mass[i], most);
  } else {
    float* found = static_cast<float*>(into) + start;
    for (int64_t i = 0; i < size; i++) found[i] = float(held(values[i] * mass[i], most));
  }
}

// What is wanted of a table of coefficients: its values at the samples, or their gradients.
struct Wanted {
  double* values;
  void* to_x;
  void* to_y;
  Type type_x, type_y;  // of the gradients
};

// Returns the sum over the cells that a sample reaches: over those of x first, so that those of y
// are one vector.
template <int W>
MI_INLINE double sum(const double* MI_RESTRICT cells, int64_t across, const double* MI_RESTRICT wx,
                     const double* MI_RESTRICT wy) {
  double column[W];
  for (int l = 0; l < W; l++) column[l] = wx[0] * cells[l];
  for (int k = 1; k < W; k++)
    for (int l = 0; l < W; l++) column[l] += wx[k] * cells[k * across + l];
  double total = column[0] * wy[0];
  for (int l = 1; l < W; l++) total += column[l] * wy[l];
  return total;
}

template <int64_t K>
struct Read {
  static MI_INLINE void run(const Axis* x, const Axis* y, const Values* weights, int64_t n,
                            int64_t row, int64_t first, int64_t last,
                            const double* MI_RESTRICT table, const Wanted* wanted) {
    constexpr int W = support(K);
    const int64_t across = y->cells;
    Places<W> px;
    Places<W> py;
    double mass[BLOCK];
    for (int64_t start = first; start < last; start += BLOCK) {
      const int64_t size = std::min(BLOCK, last - start), place = row * n + start;
      wanted->to_x ? find_places<K, true>(*x, row, place, size, px)
                   : find_places<K, false>(*x, row, place, size, px);
      wanted->to_y ? find_places<K, true>(*y, row, place, size, py)
                   : find_places<K, false>(*y, row, place, size, py);
      if (weights->values)
        load(*weights, place, size, mass);
      else
        std::fill(mass, mass + size, 1.0);
      if (wanted->values)
        for (int64_t i = 0; i < size; i++)
          wanted->values[place + i] = sum<W>(table + px.first[i] * across + py.first[i],
                                                  across, px.weights + W * i, py.weights + W * i);
      if (wanted->to_x)
        for (int64_t i = 0; i < size; i++)
          px.rate[i] *= sum<W>(table + px.first[i] * across + py.first[i], across,
                                    px.slopes + W * i, py.weights + W * i);
      if (wanted->to_y)
        for (int64_t i = 0; i < size; i++)
          py.rate[i] *= sum<W>(table + px.first[i] * across + py.first[i], across,
                                    px.weights + W * i, py.slopes + W * i);
      if (wanted->to_x) store(wanted->to_x, wanted->type_x, place, size, px.rate, mass);
      if (wanted->to_y) store(wanted->to_y, wanted->type_y, place, size, py.rate, mass);
    }
  }
};

template <int64_t K>
int64_t read(const Axis& x, const Axis& y, const Values& weights, int64_t rows, int64_t n,
             const double* table, const Wanted& wanted, int64_t threads) {
  const int64_t slabs = (n + SHARE - 1) / SHARE, cells = x.cells * y.cells;
  mi::in_parts(rows * slabs, rows * n < 2 * SHARE ? 1 : threads, [&](int64_t part) {
    const int64_t row = part / slabs, first = part % slabs * SHARE;
    mi::dispatch<Read<K>>(&x, &y, &weights, n, row, first, std::min(n, first + SHARE),
                               table + row * cells, &wanted);
  });
  return 0;
}

// Calls `call` with both kernels as constants; an axis of a single bin is left to the reference.
template <class Call>
int64_t with_kernels(int64_t kernel_x, int64_t kernel_y, const Call& call) {
  if (kernel_x != kernel_y) return -1;
  if (kernel_x == LINEAR) return call(std::integral_constant<int64_t, LINEAR>{});
  if (kernel_x == CUBIC) return call(std::integral_constant<int64_t, CUBIC>{});
  if (kernel_x == INNER) return call(std::integral_constant<int64_t, INNER>{});
  return -1;
}

Axis axis(const void* samples, int64_t type, const double* parts, int64_t rows, int64_t cells) {
  return {{samples, Type(type)}, parts, rows > 1 ? 4 : 0, cells};
}

}  // namespace

// Adds the mass of samples (rows, n) to tables (rows, cells_x, cells_y), which have the margins
// of their kernels. Types: 0 float32, 1 float64, 2 bool; axes are lo, width, bins and scale, of
// each row or of all; weights may be null. Returns -1 without memory and for other kernels.
MI_EXPORT int64_t mi_soft_table(const void* x, int64_t type_x, const double* axis_x, int64_t rows_x,
                                int64_t kernel_x, int64_t cells_x, const void* y, int64_t type_y,
                                const double* axis_y, int64_t rows_y, int64_t kernel_y,
                                int64_t cells_y, const void* weights, int64_t type_weights,
                                int64_t rows, int64_t n, double* table, int64_t threads) {
  const Axis on_x = axis(x, type_x, axis_x, rows_x, cells_x);
  const Axis on_y = axis(y, type_y, axis_y, rows_y, cells_y);
  const Values mass{weights, Type(type_weights)};
  return with_kernels(kernel_x, kernel_y, [&](auto kernel) {
    return add_up<decltype(kernel)::value>(on_x, on_y, mass, rows, n, table,
                                                            threads);
  });
}

// Writes what such tables of coefficients are worth at the samples, and the gradients of the
// samples in types of their own; null for what is not wanted.
MI_EXPORT int64_t mi_soft_read(const void* x, int64_t type_x, const double* axis_x, int64_t rows_x,
                               int64_t kernel_x, int64_t cells_x, const void* y, int64_t type_y,
                               const double* axis_y, int64_t rows_y, int64_t kernel_y,
                               int64_t cells_y, const void* weights, int64_t type_weights,
                               int64_t rows, int64_t n, const double* table, double* values,
                               void* to_x, int64_t type_to_x, void* to_y, int64_t type_to_y,
                               int64_t threads) {
  const Axis on_x = axis(x, type_x, axis_x, rows_x, cells_x);
  const Axis on_y = axis(y, type_y, axis_y, rows_y, cells_y);
  const Values mass{weights, Type(type_weights)};
  const Wanted wanted{values, to_x, to_y, Type(type_to_x), Type(type_to_y)};
  return with_kernels(kernel_x, kernel_y, [&](auto kernel) {
    return read<decltype(kernel)::value>(on_x, on_y, mass, rows, n, table, wanted,
                                                          threads);
  });
}
