// Sorting in linear time: numbers are written as whole numbers of 32 bits in the same order, which
// are put into buckets by their lowest digit, then by the next one, and stay in order otherwise.
#pragma once

#include "native.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace mi {

using Reals = std::vector<double>;
using Integers = std::vector<int64_t>;
using Places = std::vector<uint32_t>;

// A column of a table; -0.0 is 0.
struct Strided {
  const double* values;
  int64_t stride;

  MI_INLINE double operator[](int64_t i) const { return values[i * stride] + 0.0; }
  MI_INLINE void prefetch(int64_t i) const { mi::prefetch(values + i * stride); }
};

// Places of all places: found[order[i]] is i. Parts that fit in the cache are filled one by one.
inline void invert(const Places& order, Places& found) {
  const int64_t n = order.size();
  found.resize(n);
  int shift = 0;
  while (n >> shift > 1024) shift++;
  if (n <= 1 << 17) {
    for (int64_t i = 0; i < n; i++) found[order[i]] = i;
    return;
  }
  Places next((n >> shift) + 2);
  for (int64_t i = 0; i < n; i++) next[(order[i] >> shift) + 1]++;
  for (size_t b = 1; b < next.size(); b++) next[b] += next[b - 1];
  std::vector<std::pair<uint32_t, uint32_t>> parts(n);
  for (int64_t i = 0; i < n; i++) parts[next[order[i] >> shift]++] = {order[i], uint32_t(i)};
  for (const auto& [place, i] : parts) found[place] = i;
}

class Sorter {
 public:
  // Sorts n samples, fewer than 2^32, by y and then by x, neither of which has a NaN: the values of
  // each, and the rank in y of each in the order of x. Equal x are in the order of y.
  void sort(Strided given_x, Strided given_y, int64_t n, Reals& x, Reals& y, Places& rank_y) {
    if (all_single(given_x, n) && all_single(given_y, n)) {
      items.resize(n), others.resize(n);
      for (int64_t i = 0; i < n; i++) items[i] = {single_key(given_y[i]), single_key(given_x[i])};
      by_digits(items.data(), others.data(), n);
      y.resize(n), x.resize(n), rank_y.resize(n);
      for (int64_t i = 0; i < n; i++) {
        y[i] = single(items[i].key);
        items[i] = {items[i].place, uint32_t(i)};
      }
      by_digits(items.data(), others.data(), n);
      for (int64_t i = 0; i < n; i++) x[i] = single(items[i].key), rank_y[i] = items[i].place;
      return;
    }
    Places order;
    sort(given_y, n, y, order);
    Reals left_x(n);
    for (int64_t i = 0; i < n; i++) {
      given_x.prefetch(order[std::min(i + AHEAD, n - 1)]);
      left_x[i] = given_x[order[i]];
    }
    sort({left_x.data(), 1}, n, x, rank_y);
  }

 private:
  struct Item {
    uint32_t key, place;
  };

  static constexpr int DIGIT = 11, BUCKETS = 1 << DIGIT, DIGITS = 3;
  static constexpr int64_t AHEAD = 32;  // Places whose memory is asked for early.
  static constexpr int64_t SHORT = 16, MIDDLE = 512;  // Runs that are sorted by comparing.

  std::vector<Item> items, others;

  // Sorts numbers, and the places that they were at; equal ones stay in their order.
  void sort(Strided given, int64_t n, Reals& values, Places& order) {
    items.resize(n), others.resize(n);
    if (all_single(given, n)) {
      for (int64_t i = 0; i < n; i++) items[i] = {single_key(given[i]), uint32_t(i)};
      by_digits(items.data(), others.data(), n);
      write(n, values, order, [&](int64_t i) { return single(items[i].key); });
      return;
    }
    uint64_t least = ~uint64_t(0), largest = 0;
    for (int64_t i = 0; i < n; i++) {
      const uint64_t key = double_key(given[i]);
      least = std::min(least, key), largest = std::max(largest, key);
    }
    // The leading 32 bits of those that differ; what they leave in doubt is sorted by the others.
    int shift = 0;
    while ((largest - least) >> shift >> 32) shift++;
    for (int64_t i = 0; i < n; i++)
      items[i] = {uint32_t((double_key(given[i]) - least) >> shift), uint32_t(i)};
    by_digits(items.data(), others.data(), n);
    write(n, values, order, [&](int64_t i) {
      given.prefetch(items[std::min(i + AHEAD, n - 1)].place);
      return given[items[i].place];
    });
    if (shift) settle_runs(least, n, values, order);
  }

  template <class To, class From>
  static MI_INLINE To bits(From value) {
    To found;
    std::memcpy(&found, &value, sizeof found);
    return found;
  }

  // A whole number that is larger for a larger number: negative ones have all bits turned.
  static MI_INLINE uint64_t double_key(double value) {
    const uint64_t word = bits<uint64_t>(value);
    return word ^ (uint64_t(int64_t(word) >> 63) | uint64_t(1) << 63);
  }

  static MI_INLINE uint32_t single_key(double value) {
    const uint32_t word = bits<uint32_t>(float(value));
    return word ^ (uint32_t(int32_t(word) >> 31) | uint32_t(1) << 31);
  }

  static MI_INLINE double single(uint32_t key) {
    return bits<float>(key ^ (uint32_t(int32_t(~key) >> 31) | uint32_t(1) << 31));
  }

  // Says whether all numbers are of float32.
  static bool all_single(Strided given, int64_t n) {
    for (int64_t first = 0; first < n; first += 1024) {
      bool same = true;
      for (int64_t i = first; i < std::min(n, first + 1024); i++) {
        const double value = given[i];
        same &= std::fabs(value) <= 0x1.fffffep127 && double(float(value)) == value;
      }
      if (!same) return false;
    }
    return true;
  }

  // Sorts items by their keys; `spare` holds anything afterwards.
  static void by_digits(Item* from, Item* spare, int64_t n) {
    uint32_t counts[DIGITS][BUCKETS] = {};
    for (int64_t i = 0; i < n; i++)
      for (int d = 0; d < DIGITS; d++) counts[d][from[i].key >> DIGIT * d & (BUCKETS - 1)]++;
    Item* const start = from;
    for (int d = 0; d < DIGITS; d++) {
      uint32_t* next = counts[d];
      if (next[from[0].key >> DIGIT * d & (BUCKETS - 1)] == n) continue;
      uint32_t total = 0;
      for (int b = 0; b < BUCKETS; b++) {
        const uint32_t count = next[b];
        next[b] = total, total += count;
      }
      for (int64_t i = 0; i < n; i++)
        spare[next[from[i].key >> DIGIT * d & (BUCKETS - 1)]++] = from[i];
      std::swap(from, spare);
    }
    if (from != start) std::copy_n(from, n, start);
  }

  static void insert(double* values, uint32_t* order, int64_t n) {
    for (int64_t i = 1; i < n; i++) {
      const double value = values[i];
      const uint32_t place = order[i];
      int64_t j = i;
      for (; j > 0 && values[j - 1] > value; j--)
        values[j] = values[j - 1], order[j] = order[j - 1];
      values[j] = value, order[j] = place;
    }
  }

  template <class Value>
  void write(int64_t n, Reals& values, Places& order, const Value& value) const {
    values.resize(n), order.resize(n);
    for (int64_t i = 0; i < n; i++) order[i] = items[i].place;
    for (int64_t i = 0; i < n; i++) values[i] = value(i);
  }

  // Sorts the runs of one key by the bits that it lacks.
  void settle_runs(uint64_t least, int64_t n, Reals& values, Places& order) {
    std::vector<std::pair<double, uint32_t>> run;
    for (int64_t first = 0, end; first < n; first = end) {
      bool sorted = true;
      for (end = first + 1; end < n && items[end].key == items[first].key; end++)
        sorted &= values[end - 1] <= values[end];
      if (sorted) continue;
      const int64_t size = end - first;
      if (size <= SHORT) {
        insert(&values[first], &order[first], size);
        continue;
      }
      if (size <= MIDDLE) {
        run.clear();
        for (int64_t i = first; i < end; i++) run.push_back({values[i], order[i]});
        std::sort(run.begin(), run.end());
        for (int64_t i = 0; i < size; i++)
          values[first + i] = run[i].first, order[first + i] = run[i].second;
        continue;
      }
      Reals kept(values.begin() + first, values.begin() + end);
      Places places(order.begin() + first, order.begin() + end);
      Item* low = others.data();
      std::vector<Item> spare(size);
      for (int64_t i = 0; i < size; i++)
        low[i] = {uint32_t(double_key(kept[i]) - least), uint32_t(i)};
      by_digits(low, spare.data(), size);
      for (int64_t i = 0; i < size; i++) {
        values[first + i] = kept[low[i].place];
        order[first + i] = places[low[i].place];
      }
    }
  }
};

}  // namespace mi
