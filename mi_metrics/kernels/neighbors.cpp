// Nearest neighbours, and counts of what lies within a distance, in the max norm: the twins of
// functional/neighbors/search.py and within.py.
//
// Points are kept in groups of eight, groups in boxes, eight boxes in a larger one and so on, and a
// loop over eight lanes looks at a group or at the boxes in a box.
#include "tree.h"

#include <new>

namespace {

using namespace mi;

// A point that carries its coordinates, so that arranging reads memory in order.
template <int64_t D>
struct Record {
  double at[D];
  int64_t point;
};

// Puts the k records first that are least in a coordinate.
template <int64_t D>
void put_least_first(Record<D>* records, int64_t n, int64_t k, int64_t c) {
  while (n > 32) {
    // A pivot near the place that is looked for, and a partition without branches to mispredict.
    double sample[33];
    const int64_t size = n < 512 ? 5 : 33;
    for (int64_t i = 0; i < size; i++) sample[i] = records[i * n / size].at[c];
    std::sort(sample, sample + size);
    const double pivot = sample[std::min(std::max<int64_t>(k * size / n, 1), size - 2)];
    int64_t left = 0;
    for (int64_t i = 0; i < n; i++) {
      const Record<D> record = records[i];
      records[i] = records[left];
      records[left] = record;
      left += record.at[c] < pivot;
    }
    if (left == k) return;
    if (left == 0 || left == n) break;  // Many are equal.
    if (k < left)
      n = left;
    else
      records += left, n -= left, k -= left;
  }
  const auto less = [c](const Record<D>& a, const Record<D>& b) { return a.at[c] < b.at[c]; };
  std::nth_element(records, records + k, records + n, less);
}

// Returns the coordinate of the longest side of the box around records, -1 if all are equal.
template <int64_t D>
int64_t longest(const Record<D>* records, int64_t n) {
  for (int64_t step = (n + 31) / 32;; step = 1) {
    int64_t best = -1;
    double most = 0;
    for (int64_t c = 0; c < D; c++) {
      double least = FAR, largest = -FAR;
      for (int64_t i = 0; i < n; i += step) {
        least = std::min(least, records[i].at[c]);
        largest = std::max(largest, records[i].at[c]);
      }
      if (largest - least > most) most = largest - least, best = c;
    }
    if (best >= 0 || step == 1) return best;  // Where a sample is constant, all are looked at.
  }
}

// Orders records such that those of a group are close, those of a box of groups and so on: halves
// of halves, each cut across its longest side.
template <int64_t D>
void arrange(Record<D>* records, int64_t n) {
  while (n > W) {
    const int64_t c = longest(records, n);
    if (c < 0) return;
    int64_t half = W;
    while (2 * half < n) half *= 2;
    put_least_first(records, n, half, c);
    arrange(records, half);
    records += half, n -= half;
  }
}

// Points at their places in a tree, and which point is at each.
struct Arranged {
  Tree tree;
  std::vector<int64_t> point;

  Arranged(const double* values, int64_t n, int64_t d) : tree(n, d), point(n) {
    place_points<2>(values);
    tree.enclose_all();
  }

 private:
  template <int64_t D>
  void place_points(const double* values) {
    if constexpr (D < MOST)
      if (tree.dim > D) return place_points<D + 1>(values);
    std::vector<Record<D>> records(tree.size);
    for (int64_t i = 0; i < tree.size; i++) {
      std::copy_n(values + i * D, D, records[i].at);
      records[i].point = i;
    }
    arrange(records.data(), tree.size);
    for (int64_t i = 0; i < tree.size; i++) {
      point[i] = records[i].point;
      for (int64_t c = 0; c < D; c++) tree.levels[0].low[tree.index(i, c)] = records[i].at[c];
    }
  }
};

// Largest distances of a place to what eight boxes can hold.
MI_INLINE void across_boxes(const double* low, const double* high, int64_t dim, const double* at,
                            double* MI_RESTRICT gap) {
  for (int64_t j = 0; j < W; j++) gap[j] = 0;
  for (int64_t c = 0; c < dim; c++, low += W, high += W)
    for (int64_t j = 0; j < W; j++) {
      const double a = at[c] - low[j], b = high[j] - at[c], v = a > b ? a : b;
      gap[j] = v > gap[j] ? v : gap[j];
    }
}

// Places that are asked about. `slot` says where the answer of a point goes, -1 for nowhere; null
// for all points in their order.
struct Question {
  const Tree* tree;
  const int64_t *point, *slot;
  int64_t first, last;

  MI_INLINE int64_t answer(int64_t place) const {
    return slot ? slot[point[place]] : point[place];
  }
};

struct Radius {
  template <class Least>
  static MI_INLINE void run(Least least, Question asked, double* radius) {
    for (int64_t i = asked.first; i < asked.last; i++) {
      const int64_t answer = asked.answer(i);
      if (answer < 0) continue;
      least.clear();
      find_nearest(*asked.tree, i, least);
      radius[answer] = least.bound();
    }
  }
};

// Per variable, the largest distance among the points that are within the radius.
struct Reach {
  static MI_INLINE void run(Question asked, int64_t x_dim, const double* radius, double* reach_x,
                            double* reach_y) {
    for (int64_t i = asked.first; i < asked.last; i++) {
      const int64_t answer = asked.answer(i);
      if (answer < 0) continue;
      find(*asked.tree, i, x_dim, radius[answer], reach_x[answer], reach_y[answer]);
    }
  }

  static MI_INLINE void find(const Tree& tree, int64_t place, int64_t x_dim, double radius,
                             double& x, double& y) {
    Group pending[PENDING] = {{int64_t(tree.levels.size()) - 1, 0}};
    double at[MOST], gap[W], other[W];
    tree.coordinates(place, at);
    x = y = 0;
    for (int64_t waiting = 1; waiting;) {
      const Group now = pending[--waiting];
      const Level& nodes = tree.levels[now.level];
      const int64_t begin = now.number * tree.dim * W;
      const int64_t held = std::min(W, nodes.nodes - now.number * W);
      if (now.level == 0) {
        to_points(&nodes.low[begin], x_dim, at, gap);
        to_points(&nodes.low[begin] + x_dim * W, tree.dim - x_dim, at + x_dim, other);
        for (int64_t j = 0; j < held; j++)
          if (gap[j] <= radius && other[j] <= radius) {
            x = std::max(x, gap[j]);
            y = std::max(y, other[j]);
          }
      } else {
        to_boxes(&nodes.low[begin], &nodes.high[begin], tree.dim, at, gap);
        for (int64_t j = 0; j < held; j++)
          if (gap[j] <= radius) pending[waiting++] = {now.level - 1, now.number * W + j};
      }
    }
  }
};

struct Counts {
  static MI_INLINE void run(Question asked, const double* radius, int64_t* counts) {
    for (int64_t i = asked.first; i < asked.last; i++) {
      const int64_t answer = asked.answer(i);
      if (answer >= 0) counts[answer] = find(*asked.tree, i, radius[answer]);
    }
  }

  static MI_INLINE int64_t find(const Tree& tree, int64_t place, double radius) {
    if (radius == FAR) return tree.size;  // Else what fills the last groups were counted, too.
    Group pending[PENDING] = {{int64_t(tree.levels.size()) - 1, 0}};
    double at[MOST], near[W], far[W];
    int64_t total = 0, inside[W] = {};
    tree.coordinates(place, at);
    for (int64_t waiting = 1; waiting;) {
      const Group now = pending[--waiting];
      const Level& nodes = tree.levels[now.level];
      const int64_t begin = now.number * tree.dim * W;
      if (now.level == 0) {
        to_points(&nodes.low[begin], tree.dim, at, near);
        for (int64_t j = 0; j < W; j++) inside[j] += near[j] <= radius;
        continue;
      }
      to_boxes(&nodes.low[begin], &nodes.high[begin], tree.dim, at, near);
      across_boxes(&nodes.low[begin], &nodes.high[begin], tree.dim, at, far);
      const int64_t width = int64_t(1) << 3 * now.level;
      for (int64_t j = 0; j < W; j++) {
        const int64_t child = now.number * W + j;
        if (!(near[j] <= radius)) continue;
        if (far[j] <= radius)
          total += std::min(width, tree.size - child * width);
        else
          pending[waiting++] = {now.level - 1, child};
      }
    }
    for (int64_t j = 0; j < W; j++) total += inside[j];
    return total;
  }
};

}  // namespace

// Distances to the k-th neighbours, `radius`, of `queries`, or of all points if that is null; and
// the reach of these in x, the first `x_dim` coordinates, and y, if `reach_x` is not null. Returns
// 1 where memory is short.
MI_EXPORT int64_t mi_metrics_nearest(const double* points, int64_t n, int64_t dim, int64_t k,
                                     int64_t x_dim, const int64_t* queries, int64_t asked,
                                     int64_t threads, double* radius, double* reach_x,
                                     double* reach_y) {
  try {
    const Arranged arranged(points, n, dim);
    const std::vector<int64_t> slot = slots(queries, asked, n);
    threads = std::min(threads, (n + PART - 1) / PART);
    std::vector<double> least(threads * (k + 1));
    for_all(n, PART, threads, [&](int64_t first, int64_t last, int64_t worker) {
      const Question part{&arranged.tree, arranged.point.data(), queries ? slot.data() : nullptr,
                          first, last};
      dispatch_least<Radius>(k, &least[worker * (k + 1)], part, radius);
      if (reach_x) mi::dispatch<Reach>(part, x_dim, (const double*)radius, reach_x, reach_y);
    });
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}

// How many points are at most `radius` from each of `queries`, or from all points if that is null.
MI_EXPORT int64_t mi_metrics_counts(const double* points, int64_t n, int64_t dim,
                                    const double* radius, const int64_t* queries, int64_t asked,
                                    int64_t threads, int64_t* counts) {
  try {
    const Arranged arranged(points, n, dim);
    const std::vector<int64_t> slot = slots(queries, asked, n);
    for_all(n, PART, threads, [&](int64_t first, int64_t last, int64_t) {
      const Question part{&arranged.tree, arranged.point.data(), queries ? slot.data() : nullptr,
                          first, last};
      mi::dispatch<Counts>(part, radius, counts);
    });
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}
