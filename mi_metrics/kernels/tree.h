// A tree of boxes around points, eight in each, and the least distances to what boxes can hold.
//
// Boxes only decide what needs looking at: a rounded subtraction is still monotone in both of its
// operands, so no point of a box is nearer than the same arithmetic says of the box. So the answers
// are those of comparing all pairs, to the bit, however the points are arranged.
#pragma once

#include "neighbors.h"

namespace mi {

constexpr int64_t MOST = 10;         // Coordinates; neighbors.py has the same number.
constexpr int64_t PENDING = 21 * W;  // What can wait: at most W of each level, of 8^21 points.

struct Level {
  int64_t nodes;
  // By group, coordinate and lane. Points have no `high`. What fills the last group is infinitely
  // far from everything.
  std::vector<double> low, high;
};

class Tree {
 public:
  const int64_t size, dim;
  std::vector<Level> levels;  // The points, the boxes around groups, the boxes around boxes …

  Tree(int64_t n, int64_t d) : size(n), dim(d) { levels.push_back({n, blank(n, FAR), {}}); }

  // Where a level keeps a coordinate of a node.
  MI_INLINE int64_t index(int64_t node, int64_t c) const {
    return (node / W * dim + c) * W + node % W;
  }

  MI_INLINE void coordinates(int64_t place, double* at) const {
    for (int64_t c = 0; c < dim; c++) at[c] = levels[0].low[index(place, c)];
  }

  // Encloses the points, once they are at their places.
  void enclose_all() {
    while (levels.back().nodes > W) enclose();
  }

 private:
  std::vector<double> blank(int64_t nodes, double value) const {
    return std::vector<double>((nodes + W - 1) / W * W * dim, value);
  }

  // Adds the boxes around the groups of the last level.
  void enclose() {
    const Level& last = levels.back();
    const std::vector<double>& upper = levels.size() == 1 ? last.low : last.high;
    const int64_t nodes = (last.nodes + W - 1) / W;
    Level next{nodes, blank(nodes, FAR), blank(nodes, -FAR)};
    for (int64_t i = 0; i < nodes; i++)
      for (int64_t c = 0; c < dim; c++) {
        const int64_t first = (i * dim + c) * W, held = std::min(W, last.nodes - i * W);
        next.low[index(i, c)] = *std::min_element(&last.low[first], &last.low[first] + held);
        next.high[index(i, c)] = *std::max_element(&upper[first], &upper[first] + held);
      }
    levels.push_back(std::move(next));
  }
};

// Least distances of a place to what eight boxes can hold.
MI_INLINE void to_boxes(const double* low, const double* high, int64_t dim, const double* at,
                        double* MI_RESTRICT gap) {
  for (int64_t j = 0; j < W; j++) gap[j] = 0;
  for (int64_t c = 0; c < dim; c++, low += W, high += W)
    for (int64_t j = 0; j < W; j++) {
      const double a = low[j] - at[c], b = at[c] - high[j], v = a > b ? a : b;
      gap[j] = v > gap[j] ? v : gap[j];
    }
}

struct Group {
  int64_t level, number;
};

// Finds the least distances of the point at a place to all points, itself included.
template <class Least>
MI_INLINE void find_nearest(const Tree& tree, int64_t place, Least& least) {
  Group pending[PENDING];
  double at[MOST], gap[W];
  tree.coordinates(place, at);
  // From the own group upwards, so that the near ones come first and few others have to.
  int64_t group = place, from = 0;
  for (int64_t level = 0; level < int64_t(tree.levels.size()); level++) {
    from = group % W, group /= W;
    Group now{level, group};
    for (int64_t waiting = 0, own = 1;; own = 0) {
      const Level& nodes = tree.levels[now.level];
      const int64_t begin = now.number * tree.dim * W;
      if (now.level == 0) {
        to_points(&nodes.low[begin], tree.dim, at, gap);
        if (below(gap, least.bound()))
          for (int64_t j = 0; j < W; j++) least.offer(gap[j]);
      } else {
        to_boxes(&nodes.low[begin], &nodes.high[begin], tree.dim, at, gap);
        if (own) gap[from] = FAR;
        for (uint32_t lanes = below(gap, least.bound()); lanes; lanes &= lanes - 1)
          pending[waiting++] = {now.level - 1, now.number * W + __builtin_ctz(lanes)};
      }
      if (!waiting) break;
      now = pending[--waiting];
    }
  }
}

}  // namespace mi
