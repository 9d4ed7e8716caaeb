// Nearest neighbours of the eight points of a group at a time, a lane for each: they look at nearly
// the same boxes, and every number that is read serves all of them.
#pragma once

#include "tree.h"

namespace mi {

// Eight numbers in registers that hold L of them.
template <int64_t L>
struct Lanes {
  typedef double Part __attribute__((vector_size(8 * L)));
  Part part[W / L];

  static MI_INLINE Lanes load(const double* from) {
    Lanes found;
    __builtin_memcpy(&found, from, sizeof found);
    return found;
  }
  static MI_INLINE Lanes all(double value) {
    Lanes found;
    for (auto& each : found.part) each = value - Part{};
    return found;
  }
  MI_INLINE void store(double* to) const { __builtin_memcpy(to, this, sizeof *this); }

  MI_INLINE Lanes largest(const Lanes& other) const {
    Lanes found;
    for (int64_t i = 0; i < W / L; i++)
      found.part[i] = part[i] > other.part[i] ? part[i] : other.part[i];
    return found;
  }
  MI_INLINE Lanes least(const Lanes& other) const {
    Lanes found;
    for (int64_t i = 0; i < W / L; i++)
      found.part[i] = part[i] < other.part[i] ? part[i] : other.part[i];
    return found;
  }
  MI_INLINE Lanes minus(const Lanes& other) const {
    Lanes found;
    for (int64_t i = 0; i < W / L; i++) found.part[i] = part[i] - other.part[i];
    return found;
  }
  MI_INLINE double highest() const {
    double value[W];
    store(value);
    for (int64_t half = W / 2; half; half /= 2)
      for (int64_t j = 0; j < half; j++)
        value[j] = value[j] > value[half + j] ? value[j] : value[half + j];
    return value[0];
  }
};

// The points of a group: where they are, and the box around those that are asked about.
template <int64_t D, int64_t L>
struct Asked {
  Lanes<L> at[D];
  double low[D], high[D];

  MI_INLINE Asked(const Tree& tree, int64_t group, const double* bound) {
    for (int64_t c = 0; c < D; c++) {
      const double* values = &tree.levels[0].low[(group * D + c) * W];
      at[c] = Lanes<L>::load(values);
      low[c] = FAR, high[c] = -FAR;
      for (int64_t j = 0; j < W; j++) {
        low[c] = bound[j] >= 0 && values[j] < low[c] ? values[j] : low[c];
        high[c] = bound[j] >= 0 && values[j] > high[c] ? values[j] : high[c];
      }
    }
  }

  // Distances of the points to one in a variable.
  MI_INLINE Lanes<L> to_point(const double* point, int64_t first, int64_t last) const {
    Lanes<L> gap;
    for (int64_t c = first; c < last; c++) {
      const Lanes<L> here = Lanes<L>::all(point[c * W]), ahead = here.minus(at[c]);
      const Lanes<L> v = ahead.largest(at[c].minus(here));
      gap = c == first ? v : gap.largest(v);
    }
    return gap;
  }

  // Least distances of the points to what a box can hold, which may be negative.
  MI_INLINE Lanes<L> to_box(const double* box_low, const double* box_high) const {
    Lanes<L> gap;
    for (int64_t c = 0; c < D; c++) {
      const Lanes<L> v = Lanes<L>::all(box_low[c * W]).minus(at[c]).largest(
          at[c].minus(Lanes<L>::all(box_high[c * W])));
      gap = c == 0 ? v : gap.largest(v);
    }
    return gap;
  }

  // Least distances of the box around the points to what eight boxes can hold.
  MI_INLINE void to_boxes(const double* box_low, const double* box_high, double* gap) const {
    for (int64_t j = 0; j < W; j++) gap[j] = 0;
    for (int64_t c = 0; c < D; c++, box_low += W, box_high += W)
      for (int64_t j = 0; j < W; j++) {
        const double a = box_low[j] - high[c], b = low[c] - box_high[j], v = a > b ? a : b;
        gap[j] = v > gap[j] ? v : gap[j];
      }
  }
};

struct Waiting {
  int64_t level, number;
  double gap;
};

// Says whether some lane is below its bound.
template <int64_t L>
MI_INLINE bool any_below(const Lanes<L>& gap, const Lanes<L>& bound) {
  return bound.minus(gap).highest() > 0;
}

// Distances to the k-th neighbours, k = K - 1, by place, of the groups from `first` on. On entry
// `radius` says by -1 who is not asked about.
template <int64_t K, int64_t D, int64_t L>
struct RadiusOfGroups {
  static MI_INLINE void run(const Tree* tree, int64_t first, int64_t last, double* radius) {
    for (int64_t group = first; group < last; group++) find(*tree, group, radius + group * W);
  }

  static MI_INLINE void find(const Tree& tree, int64_t own, double* radius) {
    const int64_t levels = tree.levels.size();
    double bound[W], gap[W];
    bool any = false;
    for (int64_t j = 0; j < W; j++) {
      const bool asked = own * W + j < tree.size && radius[j] >= 0;
      bound[j] = asked ? FAR : -1, any |= asked;
    }
    if (!any) return;
    const Asked<D, L> asked(tree, own, bound);
    Lanes<L> least[K];
    for (auto& each : least) each = Lanes<L>::load(bound);
    offer(tree, own, asked, least);
    double most = least[K - 1].highest();
    Waiting pending[PENDING];
    int64_t from = own, node = own;
    for (int64_t level = 1; level < levels; level++) {
      from = node % W, node /= W;
      Waiting now{level, node, 0};
      for (int64_t waiting = 0, inside = 1;; inside = 0) {
        const Level& boxes = tree.levels[now.level];
        const int64_t begin = now.number * D * W;
        asked.to_boxes(&boxes.low[begin], &boxes.high[begin], gap);
        if (inside) gap[from] = FAR;
        for (uint32_t lanes = below(gap, most); lanes; lanes &= lanes - 1) {
          const int64_t lane = __builtin_ctz(lanes);
          if (now.level > 1) {
            pending[waiting++] = {now.level - 1, now.number * W + lane, gap[lane]};
            continue;
          }
          const int64_t box = begin + lane;
          if (!any_below(asked.to_box(&boxes.low[box], &boxes.high[box]), least[K - 1])) continue;
          offer(tree, now.number * W + lane, asked, least);
          most = least[K - 1].highest();
        }
        while (waiting && pending[waiting - 1].gap >= most) waiting--;
        if (!waiting) break;
        now = pending[--waiting];
      }
    }
    least[K - 1].store(bound);
    for (int64_t j = 0; j < W && own * W + j < tree.size; j++) radius[j] = bound[j];
  }

  static MI_INLINE void offer(const Tree& tree, int64_t group, const Asked<D, L>& asked,
                              Lanes<L>* least) {
    const double* points = &tree.levels[0].low[group * D * W];
    for (int64_t i = 0; i < W; i++) {
      const Lanes<L> gap = asked.to_point(points + i, 0, D);
      for (int64_t r = K - 1; r > 0; r--) least[r] = least[r - 1].largest(gap).least(least[r]);
      least[0] = gap.least(least[0]);
    }
  }
};

}  // namespace mi
