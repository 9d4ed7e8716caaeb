// Joint tables of the hard kernel, and how many samples lie outside of a range. References:
// functional/tables/hard.py, functional/tables/outside.py.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "tables.h"

namespace {

// R rows of n samples. An axis has values per row (step 1) or one for all (step 0). Outside are the
// samples beyond lowest … highest, the ends of the axis or of all numbers.
template <class X>
struct Axis {
  const X* samples;
  const X* lo;
  const X* bins;
  const X* width;
  int64_t step;
  int64_t cells;
  X lowest, highest;
};

// The axis of one row.
template <class X>
struct Line {
  X lo, bins, width, lowest, highest;
  X inverse;    // of the width
  X limit;      // a place in the last cell, below the end by more than arithmetic rounds
  bool divide;  // whether a product with the inverse may be another number than the quotient
  bool near;    // whether it is near the quotient: the inverse neither overflows nor loses digits

  Line(const Axis<X>& axis, int64_t row)
      : lo(axis.lo[row * axis.step]),
        bins(axis.bins[row * axis.step]),
        width(axis.width[row * axis.step]),
        lowest(axis.lowest),
        highest(axis.highest),
        inverse(1 / width),
        near(std::isnormal(inverse)) {
    const X cells = std::min(bins, X(axis.cells));
    const X rounds = (1 + 2 * (std::fabs(lo) / width)) * 16 * std::numeric_limits<X>::epsilon();
    limit = std::max(cells - 1, cells * (1 - rounds));
    int exponent;
    // A power of two has an exact inverse, if that is a normal number.
    divide = std::frexp(width, &exponent) != X(0.5) || std::abs(exponent) > 100;
  }
};

// An integer of the same size: comparisons give a whole vector of them.
template <class X>
using Bits = std::conditional_t<sizeof(X) == 4, int32_t, int64_t>;

// Writes the cell of a place on the axis; that of NaN is 0, which has no meaning. Marks places that
// are not within 0 … limit: all samples outside have such, a negative zero too.
template <class X>
MI_INLINE int32_t cell(X place, X limit, Bits<X>& beyond) {
  X held = place > 0 ? place : X(0);
  held = held < limit ? held : limit;
  Bits<X> before, after;
  __builtin_memcpy(&before, &place, sizeof(X));
  __builtin_memcpy(&after, &held, sizeof(X));
  beyond |= before ^ after;
  return int32_t(held);
}

// Places on an axis, and whether some may have another integer part than the quotient has.
template <class X>
struct Quotient {
  X lo, bins, width;
  MI_INLINE X operator()(X x, Bits<X>&) const { return (x - lo) * bins / width; }
};

template <class X>
struct Product {
  X lo, bins, inverse;
  MI_INLINE X operator()(X x, Bits<X>&) const { return (x - lo) * bins * inverse; }
};

// A product that is nearly the quotient: close to a whole number is what is within both roundings.
struct NearProduct {
  double lo, bins, inverse, near;
  MI_INLINE double operator()(double x, int64_t& close) const {
    const double whole = 0x1.8p52;  // Adding it rounds what is less than 2^51 to a whole number.
    const double place = (x - lo) * bins * inverse;
    close |= std::fabs(place - ((place + whole) - whole)) < near;
    return place;
  }
};

// Numbers at once: more than a register holds, or a compiler sees no loop in them.
constexpr int64_t STEP = 32;

struct Seen {
  bool beyond, close;
};

// Writes the cells of a block times `across`, or adds them to those of the other axis.
template <class X, class Place>
MI_INLINE Seen reckon(const X* MI_RESTRICT x, int64_t size, X limit, const Place& place,
                      const int32_t* MI_RESTRICT other, int32_t across, const Waiting& waiting,
                      int32_t* MI_RESTRICT cells) {
  Bits<X> beyond[STEP] = {}, close[STEP] = {};
  if (size == BLOCK) {
    for (int64_t i = 0; i < BLOCK; i += STEP) {
      for (int64_t j = 0; j < STEP; j++) {
        const int32_t found = cell(place(x[i + j], close[j]), limit, beyond[j]);
        cells[i + j] = other ? other[i + j] + found : found * across;
      }
      for (int64_t j = 0; j < STEP; j += 64 / sizeof(X)) mi::prefetch(x + BLOCK + i + j);
      waiting.count(i / 2, STEP / 2);
    }
  } else {
    for (int64_t i = 0; i < size; i++) {
      const int32_t found = cell(place(x[i], close[0]), limit, beyond[0]);
      cells[i] = other ? other[i] + found : found * across;
    }
    waiting.count(0, BLOCK / 2);
  }
  Bits<X> far = 0, near = 0;
  for (int64_t j = 0; j < STEP; j++) far |= beyond[j], near |= close[j];
  return {far != 0, near != 0};
}

// Finds the cells of a block; returns false only if all values lie within the range.
template <class X>
MI_INLINE bool find_cells(const X* MI_RESTRICT x, int64_t size, const Line<X>& line,
                          const int32_t* MI_RESTRICT other, int32_t across, Waiting waiting,
                          int32_t* MI_RESTRICT cells) {
  const X lo = line.lo, bins = line.bins, limit = line.limit;
  if (!line.divide) {
    const Product<X> place{lo, bins, line.inverse};
    return reckon(x, size, limit, place, other, across, waiting, cells).beyond;
  }
  // A division of float64 takes three times as long as a product.
  if constexpr (sizeof(X) == 8) {
    if (line.near) {
      const NearProduct place{lo, bins, line.inverse, (bins + 1) * 0x1p-50};
      const Seen seen = reckon(x, size, limit, place, other, across, waiting, cells);
      if (!seen.close) return seen.beyond;
      waiting.into = nullptr;
    }
  }
  const Quotient<X> place{lo, bins, line.width};
  return reckon(x, size, limit, place, other, across, waiting, cells).beyond;
}

template <class X, class Y>
MI_INLINE void look(const X* MI_RESTRICT x, const Y* MI_RESTRICT y,
                    const uint8_t* MI_RESTRICT valid, int64_t size, const Line<X>& on_x,
                    const Line<Y>& on_y, Found& found) {
  int32_t strange = 0, out = 0;
  for (int64_t i = 0; i < size; i++) {
    const bool here = !valid || valid[i];
    strange += here * (!(x[i] - x[i] == 0) + !(y[i] - y[i] == 0));
    out += here & ((x[i] < on_x.lowest) | (x[i] > on_x.highest) | (y[i] < on_y.lowest) |
                   (y[i] > on_y.highest));
  }
  found.not_finite += strange;
  found.outside += out;
}

// Counts samples first … last of a row of floating-point numbers.
template <class X, class Y>
struct Count {
  static MI_INLINE void run(const Axis<X>* ax, const Axis<Y>* ay, const Table* table, int64_t row,
                            int64_t first, int64_t last, const Counts* into, Found* found) {
    const X* x = ax->samples + row * table->n;
    const Y* y = ay->samples + row * table->n;
    const Line<X> on_x(*ax, row);
    const Line<Y> on_y(*ay, row);
    const uint8_t* valid = table->valid ? table->valid + row * table->n : nullptr;
    const int64_t* labels = table->labels;
    const int32_t across = int32_t(table->cells_y);
    int32_t of_x[BLOCK], both[2][BLOCK], *cells = both[0], *before = both[1];
    const Counts* waits = nullptr;
    for (int64_t start = first; start < last; start += BLOCK) {
      const int64_t size = std::min(BLOCK, last - start), end = start + size;
      const uint8_t* marks = valid ? valid + start : nullptr;
      const Waiting head{before, waits}, tail{before + BLOCK / 2, waits};
      const bool beyond_x = find_cells(x + start, size, on_x, nullptr, across, head, of_x);
      const bool beyond_y = find_cells(y + start, size, on_y, of_x, across, tail, cells);
      if (beyond_x || beyond_y) look(x + start, y + start, marks, size, on_x, on_y, *found);
      if (labels) found->stray |= !label(labels + start, marks, size, *table, cells);
      waits = into->table || size < BLOCK ? nullptr : into;
      if (waits) {
        if (marks) set_aside(cells, size, marks, *table);
        std::swap(cells, before);
      } else {
        add(cells, size, x + end, y + end, labels ? labels + end : nullptr, marks, *table, *into);
      }
    }
    for (int64_t half = 0; half < BLOCK; half += BLOCK / 2)
      Waiting{before, waits}.count(half, BLOCK / 2);
  }
};

template <class X, class Y>
int64_t count(const Axis<X>& x, const Axis<Y>& y, const Table& table, int64_t rows,
              int64_t threads, int64_t* outside) {
  return in_copies(
      table, rows, threads, outside,
      [&](int64_t row, int64_t first, int64_t last, const Counts* into, Found* found) {
        mi::dispatch_wide<Count<X, Y>>(&x, &y, &table, row, first, last, into, found);
      });
}

template <class X>
Axis<X> axis(const void* samples, const void* lo, const void* bins, const void* width,
             int64_t rows, int64_t cells, double lowest, double highest) {
  return {static_cast<const X*>(samples), static_cast<const X*>(lo), static_cast<const X*>(bins),
          static_cast<const X*>(width), rows > 1 ? 1 : 0, cells, X(lowest), X(highest)};
}

struct Range {
  double lo, hi;
};

template <class X, class Y>
struct Outside {
  static MI_INLINE void run(const X* MI_RESTRICT x, const Y* MI_RESTRICT y,
                            const uint8_t* MI_RESTRICT valid, int64_t n, X x_lo, X x_hi, Y y_lo,
                            Y y_hi, int64_t* found) {
    int64_t total = 0;
    for (int64_t start = 0; start < n; start += BLOCK) {
      const int64_t end = std::min(n, start + BLOCK);
      int32_t some = 0;
      if (valid)
        for (int64_t i = start; i < end; i++)
          some += ((x[i] < x_lo) | (x[i] > x_hi) | (y[i] < y_lo) | (y[i] > y_hi)) & (valid[i] != 0);
      else
        for (int64_t i = start; i < end; i++)
          some += (x[i] < x_lo) | (x[i] > x_hi) | (y[i] < y_lo) | (y[i] > y_hi);
      total += some;
    }
    *found = total;
  }
};

template <class X, class Y>
int64_t outside(const void* x, const void* y, const uint8_t* valid, int64_t rows, int64_t n,
                Range range_x, Range range_y, int64_t* found) {
  for (int64_t row = 0; row < rows; row++)
    mi::dispatch<Outside<X, Y>>(static_cast<const X*>(x) + row * n,
                                static_cast<const Y*>(y) + row * n,
                                valid ? valid + row * n : nullptr, n, X(range_x.lo), X(range_x.hi),
                                Y(range_y.lo), Y(range_y.hi), found + row);
  return 0;
}

}  // namespace

// Adds samples (rows, n) to tables (rows * conditions, cells_x, cells_y).
//
// `double_x` says whether x and its axis are float64, else float32. The axis is lo, bins and width,
// each of `rows_x` values: rows or 1. With labels there is one row. `outside` (rows) gets how many
// samples lie outside of x_lo … x_hi or y_lo … y_hi; all numbers where nothing is given.
// Returns how many values are NaN or infinite, or -1 without memory.
MI_EXPORT int64_t mi_hard_counts(const void* x, int64_t double_x, const void* lo_x,
                                 const void* bins_x, const void* width_x, int64_t rows_x,
                                 const void* y, int64_t double_y, const void* lo_y,
                                 const void* bins_y, const void* width_y, int64_t rows_y,
                                 const uint8_t* valid, const int64_t* labels, int64_t rows,
                                 int64_t n, int64_t conditions, int64_t cells_x, int64_t cells_y,
                                 double x_lo, double x_hi, double y_lo, double y_hi,
                                 int64_t* counts, int64_t* outside, int64_t threads) {
  const Table table{n, cells_y, cells_x * cells_y, conditions, valid, labels, counts};
  const auto with_y = [&](const auto& ax, const auto& ay) {
    return count(ax, ay, table, rows, threads, outside);
  };
  const auto with_x = [&](const auto& ax) {
    if (double_y)
      return with_y(ax, axis<double>(y, lo_y, bins_y, width_y, rows_y, cells_y, y_lo, y_hi));
    return with_y(ax, axis<float>(y, lo_y, bins_y, width_y, rows_y, cells_y, y_lo, y_hi));
  };
  return double_x ? with_x(axis<double>(x, lo_x, bins_x, width_x, rows_x, cells_x, x_lo, x_hi))
                  : with_x(axis<float>(x, lo_x, bins_x, width_x, rows_x, cells_x, x_lo, x_hi));
}

// Counts how many samples of each row lie outside of x_lo … x_hi or y_lo … y_hi.
MI_EXPORT int64_t mi_outside(const void* x, int64_t double_x, const void* y, int64_t double_y,
                             const uint8_t* valid, int64_t rows, int64_t n, double x_lo,
                             double x_hi, double y_lo, double y_hi, int64_t* found) {
  const Range rx{x_lo, x_hi}, ry{y_lo, y_hi};
  if (double_x && double_y) return outside<double, double>(x, y, valid, rows, n, rx, ry, found);
  if (double_x) return outside<double, float>(x, y, valid, rows, n, rx, ry, found);
  if (double_y) return outside<float, double>(x, y, valid, rows, n, rx, ry, found);
  return outside<float, float>(x, y, valid, rows, n, rx, ry, found);
}
