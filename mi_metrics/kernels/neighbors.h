// What searches for neighbours and counts within a distance share: distances of a place to eight
// others at a time, the least of them, and the questions that other files ask.
#pragma once

#include "native.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace mi {

constexpr int64_t W = 8;        // Points in a group, a lane for each.
constexpr int64_t SORTED = 24;  // So many distances are kept sorted, more of them as a heap.
constexpr int64_t PART = 256;   // Points that a thread asks about before it looks for more.
constexpr double FAR = std::numeric_limits<double>::infinity();

// Distances of a place to the eight points of a group.
MI_INLINE void to_points(const double* p, int64_t dim, const double* at, double* MI_RESTRICT gap) {
  for (int64_t j = 0; j < W; j++) gap[j] = 0;
  for (int64_t c = 0; c < dim; c++, p += W)
    for (int64_t j = 0; j < W; j++) {
      const double v = std::fabs(p[j] - at[c]);
      gap[j] = v > gap[j] ? v : gap[j];
    }
}

// Says as bits which lanes are below a bound: one branch instead of eight that can't be predicted.
MI_INLINE uint32_t below(const double* gap, double bound) {
  uint32_t lanes = 0;
  for (int64_t j = 0; j < W; j++) lanes |= uint32_t(gap[j] < bound) << j;
  return lanes;
}

// The k + 1 least distances of so many that they were not worth a constant.
struct Some {
  double* least;
  int64_t k;

  MI_INLINE double bound() const { return least[k < SORTED ? k : 0]; }
  MI_INLINE void clear() {
    for (int64_t i = 0; i <= k; i++) least[i] = FAR;
  }
  MI_INLINE void offer(double value) {
    if (!(value < bound())) return;
    int64_t i = k;
    if (k < SORTED) {
      for (; i > 0 && least[i - 1] > value; i--) least[i] = least[i - 1];
    } else {
      i = 0;
      for (int64_t child; (child = 2 * i + 1) <= k; i = child) {
        if (child < k && least[child + 1] > least[child]) child++;
        if (least[child] <= value) break;
        least[i] = least[child];
      }
    }
    least[i] = value;
  }
};

// The K least distances, sorted without a branch.
template <int64_t K>
struct Few {
  double least[K];

  MI_INLINE double bound() const { return least[K - 1]; }
  MI_INLINE void clear() {
    for (int64_t i = 0; i < K; i++) least[i] = FAR;
  }
  MI_INLINE void offer(double value) {
    for (int64_t i = K - 1; i > 0; i--) {
      const double larger = least[i - 1] > value ? least[i - 1] : value;
      least[i] = least[i] < larger ? least[i] : larger;
    }
    least[0] = least[0] < value ? least[0] : value;
  }
};

// Runs `Body` with a keeper of the k + 1 least distances, for which `memory` has room.
template <class Body, int64_t K = 2, class... Arguments>
void dispatch_least(int64_t k, double* memory, Arguments... arguments) {
  if (k == K - 1) return dispatch_wide<Body>(Few<K>{}, arguments...);
  if constexpr (K < 6) return dispatch_least<Body, K + 1>(k, memory, arguments...);
  dispatch_wide<Body>(Some{memory, k}, arguments...);
}

// Where the answer of each point goes, from the points that are asked about.
inline std::vector<int64_t> slots(const int64_t* queries, int64_t asked, int64_t n) {
  std::vector<int64_t> slot;
  if (queries) slot.assign(n, -1);
  for (int64_t i = 0; queries && i < asked; i++) slot[queries[i]] = i;
  return slot;
}

// Calls work(first, last, worker) for all places.
template <class Work>
void for_all(int64_t n, int64_t part, int64_t threads, const Work& work) {
  const int64_t parts = (n + part - 1) / part;
  std::atomic<int64_t> next{0};
  in_parts(std::min(threads, parts), threads, [&](int64_t worker) {
    for (int64_t i; (i = next.fetch_add(1)) < parts;)
      work(i * part, std::min(n, (i + 1) * part), worker);
  });
}

}  // namespace mi

// Answer 1 where memory is short.
extern "C" {
int64_t mi_metrics_nearest(const double* points, int64_t n, int64_t dim, int64_t k, int64_t x_dim,
                           const int64_t* queries, int64_t asked, int64_t threads, double* radius,
                           double* reach_x, double* reach_y);
int64_t mi_metrics_line_counts(const double* values, const int64_t* order, int64_t n,
                               const double* radius, const int64_t* queries, int64_t asked,
                               int64_t threads, int64_t* counts);
}
