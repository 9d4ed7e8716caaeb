// The estimate of samples of two numbers, from their sorting to the counts of their neighbours: the
// twin of `tell_apart` in functional/neighbors/ties.py, of scaling.py and of the two estimators of
// Kraskov, Stögbauer and Grassberger in functional/knn.py.
//
// One order of the samples by each variable serves to tell them apart, to scale them and to count;
// the reference sorts for each anew. Operations on numbers are those of the reference, one by one.
#include "doubts.h"
#include "neighbors.h"

#include <new>
#include <utility>

namespace {

using namespace mi;
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

// Moves each value by a tiny amount, a hash of its place.
void tell_apart(Column& column) {
  const double amount = AMPLITUDE * column.spread();
  if (column.spread() == 0) return;
  const uint64_t zero = mix(0);
  for (size_t i = 0; i < column.values.size(); i++)
    column.values[i] += amount * centred_uniform(mix(i + zero));
}

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

  // Returns whether far samples can hide the rest of x or y, where they are standardized.
  bool scale(bool centred, bool standardized) {
    const double most = std::max(x.most(), y.most());
    bool hidden = false;
    for (Column* column : {&x, &y}) {
      if (!centred) continue;
      column->divide_by_power(standardized ? column->most() : most);
      Halves halves;
      if (standardized) halves.measure(*column);
      column->centre();
      if (standardized) column->standardize();
      hidden |= standardized && halves.may_hide(column->deviation, n);
    }
    return hidden;
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
// 1 for a common factor, 2 for deviations of 1; `rectangles` asks for the second estimator. `apart`
// says how many samples were searched for, `doubtful` whether something can be doubtful. Returns 1
// where memory is short, 2 where x or y is constant.
MI_EXPORT int64_t mi_metrics_pairs(const double* x, const double* y, const int64_t* order_x,
                                   const int64_t* order_y, int64_t n, int64_t k, int64_t scaling,
                                   int64_t rectangles, int64_t threads, int64_t* tally,
                                   int64_t* apart, int64_t* doubtful) {
  try {
    if (x[order_x[0]] == x[order_x[n - 1]] || y[order_y[0]] == y[order_y[n - 1]]) return 2;
    Pairs pairs{n, k, {}, {}, {}, {}};
    pairs.sort(x, y, order_x, order_y);
    const bool labels = may_be_labels(pairs.x, !scaling) || may_be_labels(pairs.y, !scaling);
    const bool hidden = pairs.scale(scaling > 0, scaling > 1);
    const double amounts[] = {AMPLITUDE * pairs.x.spread(), AMPLITUDE * pairs.y.spread()};
    tell_apart(pairs.x), tell_apart(pairs.y);
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
    *doubtful = n < std::max(ENOUGH, 3 * k) ||
                (copied && may_be_copies(pairs.row_first, pairs.x, pairs.y)) ||
                ((labels || hidden) && asked >= (0.05 - MARGIN) * n);
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
