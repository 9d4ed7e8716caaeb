// Lookups of a dyadic grid, the code of a single sample, and what is counted by them.
#pragma once

#include <algorithm>
#include <cmath>

#include "native.h"

namespace {

// All lookups of an axis for C rows, as native_grid.py packs them. Their tables follow each other:
// the entries of the lookup l of a row begin at offset[l].
struct Lookups {
  const double* enlarge;  // (count, C)
  const double* shrink;   // (count, C)
  const double* start;    // (count, C)
  const int64_t* far;     // (count,): 1 or 0
  const int64_t* offset;  // (count + 1,)
  const int32_t* code;    // (C, size); `missed` or more: no cell
  const double* lower;    // (C, size), or null: every entry is right
  const double* upper;
  int64_t count, twice;  // whether the steps of some are above 1
};

// The lookups of one row.
struct Line {
  const Lookups* all;
  int64_t row, rows;
  const int32_t* code;
  const double *lower, *upper;

  Line(const Lookups& lookups, int64_t r, int64_t number) : all(&lookups), row(r), rows(number) {
    const int64_t first = r * lookups.offset[lookups.count];
    code = lookups.code + first;
    lower = lookups.lower ? lookups.lower + first : nullptr;
    upper = lookups.upper ? lookups.upper + first : nullptr;
  }
};

// The lookup l of a row.
struct One {
  double enlarge, shrink, start, far, most;
  int32_t first, last;

  One(const Line& line, int64_t l) {
    const int64_t at = l * line.rows + line.row;
    enlarge = line.all->enlarge[at];
    shrink = line.all->shrink[at];
    start = line.all->start[at];
    far = double(line.all->far[l]);
    first = int32_t(line.all->offset[l]);
    last = int32_t(line.all->offset[l + 1] - 1);
    most = double(last - first);
  }
};

// The entry of x in the table of a lookup, the first or the last for what lies outside.
template <bool twice>
MI_INLINE int32_t entry(double x, double enlarge, double shrink, double start, double far,
                        double most) {
  double index = std::floor(x * enlarge);
  if (twice) index = std::floor(index * shrink);
  index = index - start + far;
  index = index > 0 ? index : 0.0;
  index = index < most ? index : most;
  return int32_t(index);
}

MI_INLINE int32_t checked(double x, int32_t at, const Line& line, int32_t missed) {
  if (line.lower && !(x >= line.lower[at] && x < line.upper[at])) return missed;
  return line.code[at];
}

// The code of a sample that the entry of `find` does not know: any of the lookups may.
MI_INLINE int32_t search(double x, const Line& line, int32_t missed) {
  for (int64_t l = 0; l < line.all->count; l++) {
    const One one(line, l);
    const int32_t at = entry<true>(x, one.enlarge, one.shrink, one.start, one.far, one.most);
    const int32_t code = checked(x, one.first + at, line, missed);
    if (code < missed) return code;
  }
  return missed;
}

// What is counted, and where.
struct Work {
  int64_t rows, n, missed;
  const uint8_t* valid;
  const int64_t* labels;
  int64_t conditions;
  int64_t* tables;  // of a row or a label every `stride`
  int64_t stride;
  int64_t* lost;       // row * n + column of samples that are not found
  int64_t number = 0;  // of these
  bool stray = false;  // a label that is none
  int64_t single = 0;  // samples that were looked for one by one
};

}  // namespace
