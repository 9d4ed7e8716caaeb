// The estimate of samples of two numbers, from their sorting to the counts of their neighbours: the
// twin of `tell_apart` in functional/neighbors/ties.py, of scaling.py and of the two estimators of
// Kraskov, Stögbauer and Grassberger in functional/knn.py.
//
// One order of the samples by each variable serves to tell them apart, to scale them, to arrange
// them in a tree and to count; the reference sorts for each anew. Operations on numbers are those
// of the reference, one by one.
#include "doubts.h"
#include "plane.h"

#include <new>

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
  Places by_y;         // The place of each y in the order of x, which is that of the samples.
  Integers row_first;  // Where the copies of each sample begin, in that order; empty if all differ.

  Pairs(Strided given_x, Strided given_y, int64_t number, int64_t neighbors)
      : n(number), k(neighbors) {
    Places rank_y;
    Sorter().sort(given_x, given_y, n, x.values, y.values, rank_y);
    x.find_distinct(), y.find_distinct();
    if (!x.distinct.empty()) find_copies(rank_y);
    invert(rank_y, by_y);
    if (!y.distinct.empty()) order_equal_y();
  }

  bool constant() const {
    return x.values.front() == x.values.back() || y.values.front() == y.values.back();
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

  // Returns which samples have more than k copies, nothing if none has; adds their terms to a tally
  // of all terms, and their number to `number`.
  std::vector<char> tally_copies(int64_t* tally, int64_t& number) const {
    std::vector<char> copied(row_first.empty() ? 0 : n);
    if (row_first.empty()) return copied;
    for (int64_t first = 0, end; first < n; first = end) {
      for (end = first + 1; end < n && row_first[end] == first; end++);
      if (end - first <= k) continue;
      std::fill(&copied[first], &copied[first] + (end - first), 1);
      tally[end - first] += end - first;
      number += end - first;
    }
    if (number == 0) return {};
    const auto subtract = [&](const Integers& distinct, const uint32_t* order) {
      const int64_t number = distinct.size();
      for (int64_t i = 0; i < number; i++) {
        const int64_t end = i + 1 < number ? distinct[i + 1] : n;
        for (int64_t j = distinct[i]; j < end; j++)
          tally[end - distinct[i]] -= copied[order ? order[j] : j];
      }
    };
    subtract(x.distinct, nullptr);
    subtract(y.distinct, by_y.data());
    return copied;
  }

 private:
  void find_copies(const Places& rank_y) {
    for_runs(x.values, [&](int64_t first, int64_t end) {
      int64_t row = first;
      for (int64_t i = first + 1; i < end; i++) {
        if (y.values[rank_y[i]] != y.values[rank_y[row]]) row = i;
        if (row == i) continue;
        if (row_first.empty()) {
          row_first.resize(n);
          for (int64_t j = 0; j < n; j++) row_first[j] = j;
        }
        row_first[i] = row;
      }
    });
  }

  // Equal y are in the order of x; copies of one row are numbered backwards.
  void order_equal_y() {
    for_runs(y.values, [&](int64_t first, int64_t end) {
      if (end - first == 1) return;
      std::sort(&by_y[first], &by_y[first] + (end - first));
      for (int64_t i = first, last; i < end && !row_first.empty(); i = last) {
        for (last = i + 1; last < end && row_first[by_y[last]] == row_first[by_y[i]]; last++);
        std::reverse(&by_y[i], &by_y[i] + (last - i));
      }
    });
  }
};

// Sorts what is nearly sorted: numbers that were moved by no more than half of `amount` each, and
// the places that go with them.
void settle(Reals& values, Places& order, double amount) {
  const int64_t n = values.size();
  std::vector<std::pair<double, uint32_t>> part;
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

bool is_sorted(const Reals& values) {
  bool sorted = true;
  for (size_t i = 1; i < values.size(); i++) sorted &= values[i - 1] <= values[i];
  return sorted;
}

// Radii of the samples in the order of x and in that of y, -1 for those that are not asked about.
struct Radii {
  Reals x, y;
};

// Searches from the places `first` to `last`, which begin and end with a group but for the end.
template <int64_t L>
struct Search {
  static MI_INLINE void run(const Plane* plane, int64_t k, double* memory, int64_t first,
                            int64_t last, double* radius) {
    if (k < 6) return radius_of_groups<L>(k, &plane->tree, first / W, (last + W - 1) / W, radius);
    Some least{memory, k};
    for (int64_t i = first; i < last; i++) {
      if (radius[i] < 0) continue;
      least.clear();
      find_nearest(plane->tree, i, least);
      radius[i] = least.bound();
    }
  }
};

template <template <int64_t> class Body, class... Arguments>
void dispatch_lanes(Arguments... arguments) {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  if (has_avx512()) return run_avx512<Body<8>>(arguments...);
#endif
  dispatch<Body<4>>(arguments...);
}

// Finds the distances in which each sample counts. `copied` says who is not asked about, if any is.
Radii search(const Plane& plane, const Places& sample, const std::vector<char>& copied, int64_t k,
             bool rectangles, int64_t threads) {
  const int64_t n = plane.tree.size;
  Reals radius(n, 0), reach_x, reach_y;
  for (int64_t i = 0; i < n && !copied.empty(); i++) {
    const uint32_t rank = plane.rank_x(i);
    if (copied[sample.empty() ? rank : sample[rank]]) radius[i] = -1;
  }
  if (rectangles) reach_x = reach_y = radius;
  Radii found{Reals(n), Reals(n)};
  threads = std::min(threads, (n + PART - 1) / PART);
  Reals least(k < 6 ? 0 : threads * (k + 1));
  for_all(n, PART, threads, [&](int64_t first, int64_t last, int64_t worker) {
    double* memory = k < 6 ? nullptr : &least[worker * (k + 1)];
    dispatch_lanes<Search>(&plane, k, memory, first, last, radius.data());
    if (rectangles)
      dispatch_lanes<ReachOfGroups>(&plane.tree, first / W, (last + W - 1) / W,
                                    (const double*)radius.data(), reach_x.data(), reach_y.data());
    for (int64_t i = first; i < last; i++) {
      const bool asked = radius[i] >= 0;
      // A distance below a number is one of at most the number before it.
      const double square = radius[i] > 0 ? std::nextafter(radius[i], 0.0) : radius[i];
      found.x[plane.rank_x(i)] = asked && rectangles ? reach_x[i] : square;
      found.y[plane.rank_y(i)] = asked && rectangles ? reach_y[i] : square;
    }
  });
  return found;
}

}  // namespace

// Adds up which counts occur in the estimate of n samples, fewer than 2^32: to tally[c], from 0 to
// n, the sum of the signs of ψ(c) over samples. The values of x and y are `stride` numbers apart.
// `scaling` is 0 for values as they are, 1 for a common factor, 2 for deviations of 1; `rectangles`
// asks for the second estimator. `apart` says how many samples were searched for, and `doubtful`
// whether something can be doubtful. Returns 1 where memory is short, 2 where x or y is constant.
MI_EXPORT int64_t mi_metrics_pairs(const double* x, const double* y, int64_t stride, int64_t n,
                                   int64_t k, int64_t scaling, int64_t rectangles, int64_t threads,
                                   int64_t* tally, int64_t* apart, int64_t* doubtful) {
  try {
    Pairs pairs({x, stride}, {y, stride}, n, k);
    if (pairs.constant()) return 2;
    const bool labels = may_be_labels(pairs.x, !scaling) || may_be_labels(pairs.y, !scaling);
    const bool hidden = pairs.scale(scaling > 0, scaling > 1);
    const bool copies = may_be_copies(pairs.row_first, pairs.x, pairs.y);
    const double amounts[] = {AMPLITUDE * pairs.x.spread(), AMPLITUDE * pairs.y.spread()};
    tell_apart(pairs.x), tell_apart(pairs.y);
    int64_t asked = 0;
    const std::vector<char> copied = pairs.tally_copies(tally, asked);
    asked = n - asked;
    tally[n] += n;
    tally[k] += asked;
    *apart = asked;
    *doubtful = n < std::max(ENOUGH, 3 * k) || copies ||
                ((labels || hidden) && asked >= (0.05 - MARGIN) * n);
    if (asked == 0) return 0;
    Places sample;  // Which sample has each rank in x, where they are not the same.
    if (!is_sorted(pairs.x.values)) {
      sample.resize(n);
      for (int64_t i = 0; i < n; i++) sample[i] = i;
      settle(pairs.x.values, sample, amounts[0]);
      Places rank(n);
      for (int64_t i = 0; i < n; i++) rank[sample[i]] = i;
      for (int64_t i = 0; i < n; i++) {
        mi::prefetch(&rank[pairs.by_y[std::min(i + AHEAD, n - 1)]]);
        pairs.by_y[i] = rank[pairs.by_y[i]];
      }
    }
    if (!is_sorted(pairs.y.values)) settle(pairs.y.values, pairs.by_y, amounts[1]);
    const Radii radii = search(Plane({pairs.x.values, pairs.y.values, pairs.by_y}), sample, copied,
                               k, rectangles, threads);
    Integers counts(n);
    for (const auto& [values, radius] : {std::make_pair(&pairs.x.values, &radii.x),
                                         std::make_pair(&pairs.y.values, &radii.y)}) {
      if (mi_metrics_line_counts(values->data(), nullptr, n, radius->data(), nullptr, n, threads,
                                 counts.data()))
        return 1;
      for (int64_t i = 0; i < n; i++)
        if ((*radius)[i] >= 0) tally[counts[i] - rectangles]--;
    }
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}
