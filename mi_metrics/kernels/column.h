// A variable of all samples, sorted: the twin of `_Column` in functional/neighbors/scaling.py.
#pragma once

#include "radix.h"

namespace mi {

// Calls work(first, end) for each run of equal values.
template <class Work>
void for_runs(const Reals& values, const Work& work) {
  const int64_t n = values.size();
  for (int64_t first = 0, end; first < n; first = end) {
    for (end = first + 1; end < n && values[end] == values[first]; end++);
    work(first, end);
  }
}

// Adds in halves, halves of halves and so on, as scaling.py does. Uses up the terms.
inline double sum(Reals& terms) {
  int64_t n = terms.size();
  for (; n > 1; n /= 2) {
    const int64_t half = n / 2;
    for (int64_t i = 0; i < half; i++) terms[i] += terms[half + i];
    if (n % 2) terms[0] += terms[n - 1];
  }
  return terms[0];
}

struct Column {
  Reals values;
  Integers distinct;     // Where each distinct value comes first; empty where no value repeats.
  double deviation = 0;  // That before values were divided by it.

  void find_distinct() {
    const int64_t n = values.size();
    int64_t number = 1;
    for (int64_t i = 1; i < n; i++) number += values[i] != values[i - 1];
    if (number == n) return;
    distinct.reserve(number);
    for_runs(values, [&](int64_t first, int64_t) { distinct.push_back(first); });
  }

  double most() const { return std::max({-values.front(), values.back(), 0.0}); }

  int64_t number() const { return distinct.empty() ? values.size() : distinct.size(); }

  double at_distinct(int64_t place) const {
    return values[distinct.empty() ? place : distinct[place]];
  }

  double spread() const {
    const int64_t last = number() - 1;
    return at_distinct((3 * last + 3) / 4) - at_distinct(last / 4);
  }

  void divide_by_power(double most) {
    int exponent;
    std::frexp(most, &exponent);
    const int half = (-exponent - (exponent & 1)) / 2;  // Rounded down.
    for (const double power : {std::ldexp(1.0, half), std::ldexp(1.0, -exponent - half)})
      if (power != 1)
        for (double& value : values) value *= power;
  }

  void centre() {
    const double middle = at_distinct(number() / 2);
    for (double& value : values) value -= middle;
  }

  void standardize() {
    const double n = values.size();
    Reals terms = values;
    const double mean = sum(terms) / n;
    for (size_t i = 0; i < terms.size(); i++) {
      const double gap = values[i] - mean;
      terms[i] = gap * gap;
    }
    deviation = std::sqrt(sum(terms) / n);
    if (deviation > 0)
      for (double& value : values) value /= deviation;
  }
};

}  // namespace mi
