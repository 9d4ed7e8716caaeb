// Neighbours in the plane of points that are sorted by x and by y: the tree needs no comparing of
// numbers, since every part of it is sorted by both, and halves are halves of the sorted part.
#pragma once

#include "lanes.h"
#include "radix.h"

namespace mi {

// What lies in the plane: values of x and y, sorted, and the rank in x of each rank in y.
struct PlanePoints {
  const Reals &x, &y;
  const Places& rank_x;
};

class Plane {
 public:
  Tree tree;

  explicit Plane(const PlanePoints& points)
      : tree(points.x.size(), 2), by_x(tree.size), by_y(tree.size), spare(tree.size) {
    const int64_t n = tree.size;
    Places rank_y;
    invert(points.rank_x, rank_y);
    for (uint32_t i = 0; i < n; i++) by_x[i] = {i, rank_y[i]}, by_y[i] = {points.rank_x[i], i};
    arrange(points, by_x.data(), by_y.data(), n);
    for (int64_t i = 0; i < n; i++) {
      tree.levels[0].low[tree.index(i, 0)] = points.x[by_x[i].x];
      tree.levels[0].low[tree.index(i, 1)] = points.y[by_x[i].y];
    }
    std::vector<Ranks>().swap(by_y), std::vector<Ranks>().swap(spare);
    tree.enclose_all();
  }

  uint32_t rank_x(int64_t place) const { return by_x[place].x; }
  uint32_t rank_y(int64_t place) const { return by_x[place].y; }

 private:
  struct Ranks {
    uint32_t x, y;
  };

  std::vector<Ranks> by_x, by_y, spare;

  // Orders both lists such that those of a group are close, those of a box of groups and so on:
  // halves of halves, each cut across its longest side.
  void arrange(const PlanePoints& points, Ranks* sorted_x, Ranks* sorted_y, int64_t n) {
    while (n > W) {
      const double width = points.x[sorted_x[n - 1].x] - points.x[sorted_x[0].x];
      const double height = points.y[sorted_y[n - 1].y] - points.y[sorted_y[0].y];
      int64_t half = W;
      while (2 * half < n) half *= 2;
      if (width >= height) {
        const uint32_t cut = sorted_x[half].x;
        divide(sorted_y, n, [cut](const Ranks& ranks) { return ranks.x < cut; });
      } else {
        const uint32_t cut = sorted_y[half].y;
        divide(sorted_x, n, [cut](const Ranks& ranks) { return ranks.y < cut; });
      }
      arrange(points, sorted_x, sorted_y, half);
      sorted_x += half, sorted_y += half, n -= half;
    }
  }

  // Puts first what is before a cut; either part stays in its order.
  template <class Before>
  void divide(Ranks* ranks, int64_t n, const Before& before) {
    Ranks* const others = spare.data();
    int64_t left = 0, right = 0;
    for (int64_t i = 0; i < n; i++) {
      const Ranks each = ranks[i];
      const bool first = before(each);
      ranks[left] = others[right] = each;
      left += first, right += !first;
    }
    std::copy_n(others, right, ranks + left);
  }
};

// Per variable, the largest distance among the points that are within the radius of each point of a
// group.
template <int64_t L>
struct ReachOfGroups {
  static MI_INLINE void run(const Tree* tree, int64_t first, int64_t last, const double* radius,
                            double* reach_x, double* reach_y) {
    for (int64_t group = first; group < last; group++)
      find(*tree, group, radius + group * W, reach_x + group * W, reach_y + group * W);
  }

  static MI_INLINE void find(const Tree& tree, int64_t own, const double* radius, double* reach_x,
                             double* reach_y) {
    double bound[W], gap[W];
    const int64_t held = std::min(W, tree.size - own * W);
    for (int64_t j = 0; j < W; j++) bound[j] = j < held ? radius[j] : -1;
    const Asked<2, L> asked(tree, own, bound);
    const Lanes<L> within = Lanes<L>::load(bound);
    const double most = within.highest();
    if (most < 0) return;
    Lanes<L> x = Lanes<L>::all(0), y = x;
    Waiting pending[PENDING] = {{int64_t(tree.levels.size()) - 1, 0, 0}};
    for (int64_t waiting = 1; waiting;) {
      const Waiting now = pending[--waiting];
      const Level& nodes = tree.levels[now.level];
      const int64_t begin = now.number * 2 * W;
      if (now.level == 0) {
        look(&nodes.low[begin], asked, within, x, y);
        continue;
      }
      asked.to_boxes(&nodes.low[begin], &nodes.high[begin], gap);
      for (int64_t j = 0; j < W; j++)
        if (gap[j] <= most) pending[waiting++] = {now.level - 1, now.number * W + j, gap[j]};
    }
    double found_x[W], found_y[W];
    x.store(found_x), y.store(found_y);
    std::copy_n(found_x, held, reach_x), std::copy_n(found_y, held, reach_y);
  }

  static MI_INLINE void look(const double* points, const Asked<2, L>& asked,
                             const Lanes<L>& within, Lanes<L>& x, Lanes<L>& y) {
    for (int64_t i = 0; i < W; i++) {
      const Lanes<L> to_x = asked.to_point(points + i, 0, 1);
      const Lanes<L> to_y = asked.to_point(points + i, 1, 2);
      for (int64_t p = 0; p < W / L; p++) {
        const auto inside = (to_x.part[p] <= within.part[p]) & (to_y.part[p] <= within.part[p]);
        x.part[p] = (to_x.part[p] > x.part[p]) & inside ? to_x.part[p] : x.part[p];
        y.part[p] = (to_y.part[p] > y.part[p]) & inside ? to_y.part[p] : y.part[p];
      }
    }
  }
};

// Distances of points to their k-th neighbours, k = 1 … 5, by place; who has -1 is not asked about.
template <int64_t L, int64_t K = 2>
MI_INLINE void radius_of_groups(int64_t k, const Tree* tree, int64_t first, int64_t last,
                                double* radius) {
  if constexpr (K < 6)
    if (k > K - 1) return radius_of_groups<L, K + 1>(k, tree, first, last, radius);
  RadiusOfGroups<K, 2, L>::run(tree, first, last, radius);
}

}  // namespace mi
