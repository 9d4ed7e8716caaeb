// Whether something can be doubtful about the estimate of samples of two numbers: a glance that
// spares the questions of functional/neighbors/doubts.py, whose answers count. Where these would
// find a doubt the glance has one, too: it allows for what is rounded otherwise there. Thresholds
// are those of doubts.py.
#pragma once

#include "column.h"

namespace mi {

constexpr double MARGIN = 1e-6;       // What is rounded otherwise, of the value itself …
constexpr double GRAIN = 0x1p-48;     // … and of values of at most 1.
constexpr int64_t ENOUGH = 8;         // Samples that say something.
constexpr int64_t LEAST_SPREAD = 30;  // Samples that show far ones.

// Returns the width of the narrowest interval that holds half of sorted values.
inline double shortest_half(const Reals& values) {
  const int64_t n = values.size(), half = n / 2;
  if (half == 0) return 0;
  double least[8];
  std::fill(least, least + 8, values[half] - values[0]);
  int64_t i = 0;
  for (; i + 8 <= n - half; i += 8)
    for (int64_t j = 0; j < 8; j++) {
      const double width = values[half + i + j] - values[i + j];
      least[j] = width < least[j] ? width : least[j];
    }
  for (; i < n - half; i++) least[0] = std::min(least[0], values[half + i] - values[i]);
  return *std::min_element(least, least + 8);
}

// The widths of the shortest half of all values and, where those are needed, of the values that
// occur less often than the most frequent ones.
struct Halves {
  double all = 0, others = 0;

  // Measures values of at most 1.
  void measure(const Column& column) {
    const int64_t n = column.values.size();
    all = shortest_half(column.values);
    const double range = column.values.back() - column.values.front();
    if (!may_be_too_short(all, range, n)) return;
    // Of values that differ, a power of two that they are divided by may make one.
    int64_t longest = 0;
    for_runs(column.values,
             [&](int64_t first, int64_t end) { longest = std::max(longest, end - first); });
    Reals rest;
    for_runs(column.values, [&](int64_t first, int64_t end) {
      if (end - first < longest)
        rest.insert(rest.end(), column.values.begin() + first, column.values.begin() + end);
    });
    others = shortest_half(rest);
  }

  // Says whether far samples can hide the rest in a column of some deviation.
  bool may_hide(double deviation, int64_t n) const {
    const double widest = std::max(all, others);
    return n >= LEAST_SPREAD && may_be_too_short(all, deviation, n) && widest > 0 &&
           may_be_too_short(widest, deviation, n);
  }

 private:
  static bool may_be_too_short(double width, double deviation, int64_t n) {
    return (width - GRAIN) * std::sqrt(double(n)) <= (1 + MARGIN) * deviation + GRAIN;
  }
};

// Says whether values can be labels: few whole numbers, each of them often; whether they are whole
// is not asked of scores.
inline bool may_be_labels(const Column& column, bool scores) {
  const int64_t n = column.values.size(), number = column.number();
  if (number > std::min<int64_t>(50, n / 10)) return false;
  for (int64_t i = 0; !scores && i < number; i++)
    if (column.at_distinct(i) != std::nearbyint(column.at_distinct(i))) return false;
  return true;
}

// Says whether samples can be copies of others: rows that nearly all occur a multiple of times, or
// repeat as a whole. `row_first` says where the copies of each begin; empty if there are none.
inline bool may_be_copies(const Integers& row_first, const Column& x, const Column& y) {
  const int64_t n = row_first.size();
  if (n == 0) return false;
  constexpr int64_t FACTORS[] = {7, 5, 3, 2};
  int64_t rows = 0, multiples[4] = {};
  for (int64_t first = 0, end; first < n; first = end, rows++) {
    for (end = first + 1; end < n && row_first[end] == first; end++);
    for (int64_t f = 0; f < 4; f++) multiples[f] += (end - first) % FACTORS[f] == 0;
  }
  const int64_t most = *std::max_element(multiples, multiples + 4);
  if (rows >= 20 && n <= 19 * rows && most >= (0.95 - MARGIN) * rows) return true;
  return 1 - double(rows) / n > 0.1 - MARGIN && rows >= 50 && n <= (3 + MARGIN) * rows &&
         x.number() == rows && y.number() == rows;
}

}  // namespace mi
