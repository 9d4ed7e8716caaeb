// The estimate of samples of two numbers, from their sorting to the counts of their neighbours: the
// twin of `tell_apart` in functional/neighbors/ties.py, of scaling.py and of the two estimators of
// Kraskov, Stögbauer and Grassberger in functional/knn.py.
//
// One order of the samples by each variable serves to tell them apart, to scale them and to count;
// the reference sorts for each anew. Operations on numbers are those of the reference, one by one.
#include "neighbors.h"

#include <new>
#include <utility>

namespace {

using namespace mi;
using Reals = std::vector<double>;
using Integers = std::vector<int64_t>;

constexpr double AMPLITUDE = 1e-10;  // ties.py has the same number.
constexpr int64_t AHEAD = 32;        // Places whose memory is asked for early.

// One step of SplitMix64, see hashing.py.
uint64_t mix(uint64_t word) {
  word += 0x9E3779B97F4A7C15u;
  word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9u;
  word = (word ^ (word >> 27)) * 0x94D049BB133111EBu;
  return word ^ (word >> 31);
}

double centred_uniform(uint64_t word) {
  return (double(word >> 11) + 0.5) * 0x1p-53 - 0.5;
}

void gather(const double* values, const int64_t* order, int64_t n, double* found) {
  for (int64_t i = 0; i < n; i++) {
    __builtin_prefetch(&values[order[std::min(i + AHEAD, n - 1)]]);
    found[i] = values[order[i]];
  }
}

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
double sum(Reals& terms) {
  int64_t n = terms.size();
  for (; n > 1; n /= 2) {
    const int64_t half = n / 2;
    for (int64_t i = 0; i < half; i++) terms[i] += terms[half + i];
    if (n % 2) terms[0] += terms[n - 1];
  }
  return terms[0];
}

// A variable of all samples, sorted: `Column` of scaling.py.
struct Column {
  Reals values;
  Integers distinct;  // Where each distinct value comes first; empty where no value repeats.

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
    const double deviation = std::sqrt(sum(terms) / n);
    if (deviation > 0)
      for (double& value : values) value /= deviation;
  }

  // Moves each value by a tiny amount, a hash of its place.
  void tell_apart() {
    const double amount = AMPLITUDE * spread();
    if (spread() == 0) return;
    const uint64_t zero = mix(0);
    for (size_t i = 0; i < values.size(); i++)
      values[i] += amount * centred_uniform(mix(i + zero));
  }
};

struct Pairs {
  const int64_t n, k;
  Column x, y;         // Each sorted, and by the other among equal ones.
  Integers by_y;       // The place of each y in the order of x, which is that of the samples.
  Integers row_first;  // Where the copies of each sample begin, in that order; empty if all differ.

  // Sorts samples from an order by each variable that leaves equal values in any order.
  void sort(const double* given_x, const double* given_y, const int64_t* order_x,
            const int64_t* order_y) {
    Integers order(order_x, order_x + n), place(n);
    x.values.resize(n), y.values.resize(n), by_y.resize(n);
    gather(given_x, order_x, n, x.values.data());
    std::vector<std::pair<double, int64_t>> run;
    for_runs(x.values, [&](int64_t first, int64_t end) {
      if (end - first == 1) return;
      run.clear();
      for (int64_t i = first; i < end; i++) run.push_back({given_y[order[i]], order[i]});
      std::sort(run.begin(), run.end());
      int64_t row = first;
      for (int64_t i = first; i < end; i++) {
        order[i] = run[i - first].second;
        if (run[i - first].first != run[row - first].first) row = i;
        if (row == i) continue;
        if (row_first.empty()) {
          row_first.resize(n);
          for (int64_t j = 0; j < n; j++) row_first[j] = j;
        }
        row_first[i] = row;
      }
    });
    for (int64_t i = 0; i < n; i++) {
      __builtin_prefetch(&place[order[std::min(i + AHEAD, n - 1)]], 1);
      place[order[i]] = i;
    }
    gather(given_y, order_y, n, y.values.data());
    for (int64_t i = 0; i < n; i++) {
      __builtin_prefetch(&place[order_y[std::min(i + AHEAD, n - 1)]]);
      by_y[i] = place[order_y[i]];
    }
    for_runs(y.values, [&](int64_t first, int64_t end) {
      if (end - first == 1) return;
      std::sort(&by_y[first], &by_y[first] + (end - first));
      if (row_first.empty()) return;
      // Copies of one row are numbered backwards.
      for (int64_t i = first, next; i < end; i = next) {
        for (next = i + 1; next < end && row_first[by_y[next]] == row_first[by_y[i]]; next++);
        std::reverse(&by_y[i], &by_y[i] + (next - i));
      }
    });
    x.find_distinct(), y.find_distinct();
  }

  void scale(bool centred, bool standardized) {
    const double most = std::max(x.most(), y.most());
    for (Column* column : {&x, &y}) {
      if (!centred) continue;
      column->divide_by_power(standardized ? column->most() : most);
      column->centre();
      if (standardized) column->standardize();
    }
  }

  // Returns the places of the samples that have at most k copies.
  Integers apart() const {
    Integers found;
    for (int64_t first = 0, end; first < n; first = end) {
      for (end = first + 1; end < n && row_first[end] == first; end++);
      for (int64_t i = first; i < end && end - first <= k; i++) found.push_back(i);
    }
    return found;
  }

  // Adds the terms of the samples with more copies to a tally of all terms.
  void tally_copies(int64_t* tally) const {
    std::vector<char> copied(n);
    for (int64_t first = 0, end; first < n; first = end) {
      for (end = first + 1; end < n && row_first[end] == first; end++);
      if (end - first <= k) continue;
      std::fill(&copied[first], &copied[first] + (end - first), 1);
      tally[end - first] += end - first;
    }
    const auto subtract = [&](const Integers& distinct, const int64_t* order) {
      const int64_t number = distinct.size();
      for (int64_t i = 0; i < number; i++) {
        const int64_t end = i + 1 < number ? distinct[i + 1] : n;
        for (int64_t j = distinct[i]; j < end; j++)
          tally[end - distinct[i]] -= copied[order ? order[j] : j];
      }
    };
    subtract(x.distinct, nullptr);
    subtract(y.distinct, by_y.data());
  }

  Reals points() const {
    Reals found(2 * n);
    for (int64_t i = 0; i < n; i++) {
      __builtin_prefetch(&found[2 * by_y[std::min(i + AHEAD, n - 1)]], 1);
      found[2 * i] = x.values[i];
      found[2 * by_y[i] + 1] = y.values[i];
    }
    return found;
  }
};

// Sorts what is nearly sorted: numbers that were moved by no more than half of `amount` each, and
// the places that go with them.
void settle(Reals& values, Integers& order, double amount) {
  const int64_t n = values.size();
  std::vector<std::pair<double, int64_t>> part;
  for (int64_t first = 0, end; first < n; first = end) {
    bool sorted = true;
    double most = values[first];
    for (end = first + 1; end < n && !(values[end] - most > 2 * amount); end++) {
      sorted &= values[end] >= most;
      most = std::max(most, values[end]);
    }
    if (sorted) continue;
    part.clear();
    for (int64_t i = first; i < end; i++) part.push_back({values[i], order[i]});
    std::sort(part.begin(), part.end());
    for (int64_t i = first; i < end; i++) {
      values[i] = part[i - first].first;
      order[i] = part[i - first].second;
    }
  }
}

}  // namespace

// Adds up which counts occur in the estimate of n samples: to tally[c], from 0 to n, the sum of the
// signs of ψ(c) over samples. The given orders sort x and y. `scaling` is 0 for values as they are,
// 1 for a common factor, 2 for deviations of 1; `rectangles` asks for the second estimator, and
// `apart` says how many samples were searched for. Returns 1 where memory is short, 2 where x or y
// is constant.
MI_EXPORT int64_t mi_metrics_pairs(const double* x, const double* y, const int64_t* order_x,
                                   const int64_t* order_y, int64_t n, int64_t k, int64_t scaling,
                                   int64_t rectangles, int64_t threads, int64_t* tally,
                                   int64_t* apart) {
  try {
    if (x[order_x[0]] == x[order_x[n - 1]] || y[order_y[0]] == y[order_y[n - 1]]) return 2;
    Pairs pairs{n, k, {}, {}, {}, {}};
    pairs.sort(x, y, order_x, order_y);
    pairs.scale(scaling > 0, scaling > 1);
    const double amounts[] = {AMPLITUDE * pairs.x.spread(), AMPLITUDE * pairs.y.spread()};
    pairs.x.tell_apart(), pairs.y.tell_apart();
    Integers chosen;
    const bool copied = !pairs.row_first.empty();
    if (copied) {
      chosen = pairs.apart();
      pairs.tally_copies(tally);
    }
    const int64_t asked = copied ? chosen.size() : n;
    const int64_t* queries = asked < n ? chosen.data() : nullptr;
    tally[n] += n;
    tally[k] += asked;
    *apart = asked;
    if (asked == 0) return 0;
    Reals radius(asked), reach_x, reach_y;
    if (rectangles) reach_x.resize(asked), reach_y.resize(asked);
    {
      const Reals points = pairs.points();
      if (mi_metrics_nearest(points.data(), n, 2, k, 1, queries, asked, threads, radius.data(),
                             rectangles ? reach_x.data() : nullptr, reach_y.data()))
        return 1;
    }
    // A distance below a number is one of at most the number before it.
    if (!rectangles)
      for (double& value : radius) value = value > 0 ? std::nextafter(value, 0.0) : value;
    Integers order(n), counts(asked);
    for (int64_t i = 0; i < n; i++) order[i] = i;
    for (int64_t v = 0; v < 2; v++) {
      Reals& values = v ? pairs.y.values : pairs.x.values;
      Integers& places = v ? pairs.by_y : order;
      settle(values, places, amounts[v]);
      const Reals& reach = !rectangles ? radius : v ? reach_y : reach_x;
      if (mi_metrics_line_counts(values.data(), places.data(), n, reach.data(), queries, asked,
                                 threads, counts.data()))
        return 1;
      for (const int64_t count : counts) tally[count - rectangles]--;
    }
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}
