// Counts of what lies within a distance on a line: the twin of `_count_line` in
// functional/neighbors/within.py.
#include "neighbors.h"

#include <new>

namespace {

using namespace mi;

constexpr int64_t TOGETHER = 4;  // Bisections that wait for memory at the same time.

struct LineCounts {
  static MI_INLINE void run(const double* values, const int64_t* order, int64_t n,
                            const int64_t* slot, int64_t first, int64_t last, const double* radius,
                            int64_t* counts) {
    int64_t bound = 16, place[TOGETHER], answer[TOGETHER], held = 0;
    for (int64_t i = first; i < last; i++) {
      int64_t asked = i;
      if (order) {
        // Radii and counts are in another order, whose places are too far apart for the cache.
        const int64_t ahead = order[std::min(i + 16, last - 1)];
        __builtin_prefetch(slot ? (const void*)&slot[ahead] : (const void*)&radius[ahead]);
        __builtin_prefetch(slot ? (const void*)&slot[ahead] : (const void*)&counts[ahead]);
        asked = slot ? slot[order[i]] : order[i];
      }
      if (asked >= 0) place[held] = i, answer[held] = asked, held++;
      if (held < TOGETHER && (held == 0 || i < last - 1)) continue;
      for (; held < TOGETHER; held++) {
        place[held] = place[held - 1];
        answer[held] = answer[held - 1];
      }
      held = 0;
      double near[TOGETHER];
      for (int64_t j = 0; j < TOGETHER; j++) near[j] = radius[answer[j]];
      for (int64_t j = 0; j < TOGETHER; j++) widen(values, n, place[j], near[j], bound);
      int64_t left[TOGETHER], right[TOGETHER], most = 0;
      if (place[0] < bound || n - place[TOGETHER - 1] <= bound)
        for (int64_t j = 0; j < TOGETHER; j++) {
          left[j] = beyond<-1>(values + place[j], place[j], near[j], bound);
          right[j] = beyond<1>(values + place[j], n - 1 - place[j], near[j], bound);
        }
      else
        bisect(values, place, near, bound, left, right);
      for (int64_t j = 0; j < TOGETHER; j++) {
        counts[answer[j]] = left[j] + 1 + right[j];
        most = std::max({most, left[j], right[j]});
      }
      if (bound > 16 && 4 * most < bound) bound /= 2;
    }
  }

  // Raises the power of two than which fewer values to either side are within the radius.
  static MI_INLINE void widen(const double* values, int64_t n, int64_t place, double radius,
                              int64_t& bound) {
    const double* at = values + place;
    while ((bound <= place && std::fabs(*at - at[-bound]) <= radius) ||
           (bound < n - place && std::fabs(*at - at[bound]) <= radius))
      bound *= 2;
  }

  // Counts to both sides of ascending places, none of which is nearer to an end than `bound`:
  // bisections in steps that don't depend on the values.
  static MI_INLINE void bisect(const double* values, const int64_t* place, const double* radius,
                               int64_t bound, int64_t* left, int64_t* right) {
    const double *least[TOGETHER], *largest[TOGETHER];
    double at[TOGETHER], near[TOGETHER];
    for (int64_t j = 0; j < TOGETHER; j++) {
      least[j] = largest[j] = values + place[j];
      at[j] = values[place[j]], near[j] = radius[j];
    }
    for (int64_t step = bound / 2; step; step /= 2)
      for (int64_t j = 0; j < TOGETHER; j++) {
        const double *before = least[j] - step, *after = largest[j] + step;
        least[j] = std::fabs(at[j] - *before) <= near[j] ? before : least[j];
        largest[j] = std::fabs(at[j] - *after) <= near[j] ? after : largest[j];
      }
    for (int64_t j = 0; j < TOGETHER; j++) {
      left[j] = values + place[j] - least[j];
      right[j] = largest[j] - (values + place[j]);
    }
  }

  // The same near the end of one side, which has `room` values.
  template <int64_t SIDE>
  static MI_INLINE int64_t beyond(const double* at, int64_t room, double radius, int64_t bound) {
    int64_t found = 0;
    for (int64_t step = bound / 2; step; step /= 2) {
      const int64_t next = found + step, seen = next < room ? next : room;
      const bool inside = (next <= room) & (std::fabs(*at - at[SIDE * seen]) <= radius);
      found = inside ? next : found;
    }
    return found;
  }
};

}  // namespace

// How many points of one coordinate are at most `radius` from each of `queries`, or from all points
// if that is null: `values` sorted, `order` which point each of them is, null if they came sorted.
// Who has a negative radius counts 1. Returns 1 where memory is short.
MI_EXPORT int64_t mi_metrics_line_counts(const double* values, const int64_t* order, int64_t n,
                                         const double* radius, const int64_t* queries,
                                         int64_t asked, int64_t threads, int64_t* counts) {
  try {
    const std::vector<int64_t> slot = slots(queries, asked, n);
    for_all(n, 16 * PART, threads, [&](int64_t first, int64_t last, int64_t) {
      const int64_t* where = queries ? slot.data() : nullptr;
      dispatch<LineCounts>(values, order, n, where, first, last, radius, counts);
    });
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}
