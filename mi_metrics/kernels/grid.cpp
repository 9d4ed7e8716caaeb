// Samples counted in the cells of a dyadic grid, through its lookups. Reference: states/grid.py.
#include <algorithm>
#include <cmath>

#include "native.h"

namespace {

constexpr int64_t BLOCK = 512;

// One lookup of C rows, as native_grid.py packs it: addresses, a flag, and the entries of a row.
struct Lookup {
  const double* enlarge;
  const double* shrink;  // or null: 1
  const double* start;
  int64_t far;
  const int64_t* code;
  const double* lower;  // or null: what the table says holds
  const double* upper;  // or null: a cell is a point
  int64_t size;
};

// The entries of a row of a lookup.
struct Line {
  double enlarge, shrink, start, far;
  bool twice;
  const int64_t* code;
  const double *lower, *upper;
  int64_t size;

  Line(const Lookup& all, int64_t row)
      : enlarge(all.enlarge[row]),
        shrink(all.shrink ? all.shrink[row] : 1),
        start(all.start[row]),
        far(all.far ? 1 : 0),
        twice(all.shrink),
        code(all.code + row * all.size),
        lower(all.lower ? all.lower + row * all.size : nullptr),
        upper(all.upper ? all.upper + row * all.size : nullptr),
        size(all.size) {}
};

MI_INLINE double step(double x, const Line& line) {
  double index = std::floor(x * line.enlarge);
  if (line.twice) index = std::floor(index * line.shrink);
  index = index - line.start + line.far;
  index = index > 0 ? index : 0;
  return std::min(index, double(line.size - 1));
}

// The code of x by the entry of a lookup, or `missed`.
MI_INLINE int64_t look(double x, int64_t entry, const Line& line, int64_t missed) {
  if (line.upper) {
    if (!(x >= line.lower[entry] && x < line.upper[entry])) return missed;
  } else if (line.lower && x != line.lower[entry]) {
    return missed;
  }
  return std::min(line.code[entry], missed);
}

template <class X>
MI_INLINE void find(const X* MI_RESTRICT x, int64_t size, const Lookup* lookups, int64_t count,
                    int64_t row, int64_t missed, int64_t* MI_RESTRICT codes) {
  int32_t entries[BLOCK];
  const Line first(lookups[0], row);
  for (int64_t i = 0; i < size; i++) entries[i] = int32_t(step(x[i], first));
  int64_t lost = 0;
  for (int64_t i = 0; i < size; i++) {
    codes[i] = look(x[i], entries[i], first, missed);
    lost += codes[i] == missed;
  }
  for (int64_t other = 1; other < count && lost; other++) {
    const Line line(lookups[other], row);
    lost = 0;
    for (int64_t i = 0; i < size; i++) {
      if (codes[i] < missed) continue;
      codes[i] = look(x[i], int64_t(step(x[i], line)), line, missed);
      lost += codes[i] == missed;
    }
  }
}

template <class X, class Y>
struct Count {
  static MI_INLINE void run(const X* x, const Y* y, const uint8_t* valid,
                            const int64_t* labels, int64_t n, int64_t row, const Lookup* on_x,
                            int64_t count_x, const Lookup* on_y, int64_t count_y, int64_t cells,
                            int64_t missed, int64_t* codes, int64_t* counts) {
    int64_t other[BLOCK];
    for (int64_t start = 0; start < n; start += BLOCK) {
      const int64_t size = std::min(BLOCK, n - start);
      int64_t* found = codes + start;
      find(x + start, size, on_x, count_x, row, missed, found);
      find(y + start, size, on_y, count_y, row, missed, other);
      for (int64_t i = 0; i < size; i++) {
        int64_t code = found[i] + other[i];
        if (labels) code += labels[start + i] * cells;
        code = code < missed && code >= 0 ? code : missed;
        if (valid && !valid[start + i]) code = missed + 1;
        found[i] = code;
        counts[code]++;
      }
    }
  }
};

template <class X, class Y>
void count(const void* x, const void* y, const uint8_t* valid, const int64_t* labels, int64_t rows,
           int64_t n, const Lookup* on_x, int64_t count_x, const Lookup* on_y, int64_t count_y,
           int64_t cells, int64_t missed, int64_t* codes, int64_t* counts) {
  for (int64_t row = 0; row < rows; row++)
    mi::dispatch<Count<X, Y>>(static_cast<const X*>(x) + row * n,
                              static_cast<const Y*>(y) + row * n,
                              valid ? valid + row * n : nullptr, labels, n, row, on_x, count_x,
                              on_y, count_y, cells, missed, codes + row * n,
                              counts + row * (missed + 2));
}

}  // namespace

// Counts samples (rows, n), float64 or else float32, in `counts` (rows, missed + 2) and writes
// their codes (rows, n): the cell of the joint table, `missed` for those that no lookup finds, one
// more for invalid ones. With labels there is one row, and a table of so many cells for each of
// them. Returns how many samples no lookup has found until now.
MI_EXPORT int64_t mi_grid_counts(const void* x, int64_t double_x, const void* y, int64_t double_y,
                                 const uint8_t* valid, const int64_t* labels, int64_t rows,
                                 int64_t n, const void* on_x, int64_t count_x, const void* on_y,
                                 int64_t count_y, int64_t cells, int64_t missed, int64_t* codes,
                                 int64_t* counts) {
  const auto call = double_x ? (double_y ? count<double, double> : count<double, float>)
                             : (double_y ? count<float, double> : count<float, float>);
  call(x, y, valid, labels, rows, n, static_cast<const Lookup*>(on_x), count_x,
       static_cast<const Lookup*>(on_y), count_y, cells, missed, codes, counts);
  int64_t lost = 0;
  for (int64_t row = 0; row < rows; row++) lost += counts[row * (missed + 2) + missed];
  return lost;
}
