// The estimate of Frenzel and Pompe of few samples, of which x trades places many times: the twin
// of `frenzel_pompe` in functional/knn_conditional.py where no sample is coincident.
//
// Samples lie in the order of a coordinate of z, in blocks. Whoever is nearer than some distance is
// so in that coordinate, so blocks are looked at from the own one outwards until they are too far
// in it. y, z and their order are the same for all permutations.
#include "neighbors.h"

#include <new>

namespace {

using namespace mi;

constexpr int64_t BLOCK = 32;  // Samples at a time: loops that are long enough for vectors.
constexpr int64_t MOST = 64;   // Coordinates of each variable; neighbors.py has the same number.

// The coordinates of a variable, one column after the other, filled up to whole blocks with what is
// infinitely far away.
struct Variable {
  const int64_t dim, size;
  std::vector<double> values;

  // `place` says which sample is where.
  Variable(const double* given, const int64_t* place, int64_t n, int64_t d)
      : dim(d), size((n + BLOCK - 1) / BLOCK * BLOCK), values(size * d, FAR) {
    for (int64_t i = 0; i < n; i++)
      for (int64_t c = 0; c < d; c++) values[c * size + i] = given[place[i] * d + c];
  }

  void permute(const double* given, const int64_t* place, const int64_t* order, int64_t n) {
    for (int64_t i = 0; i < n; i++)
      for (int64_t c = 0; c < dim; c++) values[c * size + i] = given[order[place[i]] * dim + c];
  }

  MI_INLINE void coordinates(int64_t i, double* at) const {
    for (int64_t c = 0; c < dim; c++) at[c] = values[c * size + i];
  }

  // Raises the distances of a place from the samples of a block to those in this variable.
  MI_INLINE void raise(int64_t first, const double* at, double* MI_RESTRICT gap) const {
    for (int64_t c = 0; c < dim; c++) {
      const double* column = &values[c * size + first];
      const double here = at[c];
      for (int64_t i = 0; i < BLOCK; i++) {
        const double v = std::fabs(column[i] - here);
        gap[i] = v > gap[i] ? v : gap[i];
      }
    }
  }
};

struct Samples {
  const int64_t n, k;
  const double* line;  // The coordinate of z that is sorted, filled up as variables are.
  const Variable *x, *y, *z;
};

struct Place {
  double x[MOST], y[MOST], z[MOST];
};

// Adds to a tally the counts of all samples of one permutation.
struct Estimate {
  template <class Least>
  static MI_INLINE void run(Least least, const Samples* samples, int64_t* tally) {
    const int64_t n = samples->n, size = samples->x->size;
    const double* line = samples->line;
    for (int64_t i = 0; i < n; i++) {
      Place at;
      samples->x->coordinates(i, at.x);
      samples->y->coordinates(i, at.y);
      samples->z->coordinates(i, at.z);
      least.clear();
      // Towards both ends in turns: the near ones first.
      int64_t before = i / BLOCK * BLOCK, after = before + BLOCK;
      for (bool down = true, up = true; down | up;) {
        down = before >= 0 && line[i] - line[before + BLOCK - 1] < least.bound();
        if (down) offer(*samples, before, at, least), before -= BLOCK;
        up = after < size && line[after] - line[i] < least.bound();
        if (up) offer(*samples, after, at, least), after += BLOCK;
      }
      // A distance below a number is one of at most the number before it.
      const double radius = least.bound() > 0 ? std::nextafter(least.bound(), 0.0) : 0;
      int64_t first = i / BLOCK * BLOCK, last = first + BLOCK;
      while (first > 0 && line[i] - line[first - 1] <= radius) first -= BLOCK;
      while (last < size && line[last] - line[i] <= radius) last += BLOCK;
      count(*samples, first, last, at, radius, tally);
    }
    tally[samples->k] += n;
  }

  template <class Least>
  static MI_INLINE void offer(const Samples& samples, int64_t first, const Place& at,
                              Least& least) {
    double gap[BLOCK] = {};
    samples.z->raise(first, at.z, gap);
    samples.y->raise(first, at.y, gap);
    samples.x->raise(first, at.x, gap);
    for (int64_t part = 0; part < BLOCK; part += W)
      if (below(gap + part, least.bound()))
        for (int64_t j = part; j < part + W; j++)
          if (gap[j] < least.bound()) least.offer(gap[j]);
  }

  static MI_INLINE void count(const Samples& samples, int64_t first, int64_t last, const Place& at,
                              double radius, int64_t* tally) {
    int64_t near_xz = 0, near_yz = 0, near_z = 0;
    for (; first < last; first += BLOCK) {
      double z[BLOCK] = {}, xz[BLOCK], yz[BLOCK];
      samples.z->raise(first, at.z, z);
      for (int64_t i = 0; i < BLOCK; i++) xz[i] = yz[i] = z[i];
      samples.x->raise(first, at.x, xz);
      samples.y->raise(first, at.y, yz);
      for (int64_t i = 0; i < BLOCK; i++) {
        near_z += z[i] <= radius;
        near_xz += xz[i] <= radius;
        near_yz += yz[i] <= radius;
      }
    }
    tally[near_xz]--, tally[near_yz]--, tally[near_z]++;
  }
};

}  // namespace

// Adds up which counts occur in the estimates of n samples with x in `number` other orders: to
// tallies[p][c], from 0 to n, the sum of the signs of ψ(c) over samples. `place` sorts the samples
// by one coordinate of z, whose sorted values `line` holds. Returns 1 where memory is short.
MI_EXPORT int64_t mi_metrics_permuted(const double* x, const double* y, const double* z,
                                      const double* line, const int64_t* place, int64_t n,
                                      int64_t x_dim, int64_t y_dim, int64_t z_dim, int64_t k,
                                      const int64_t* orders, int64_t number, int64_t threads,
                                      int64_t* tallies) {
  try {
    const Variable fixed_y(y, place, n, y_dim), fixed_z(z, place, n, z_dim);
    std::vector<double> sorted(fixed_z.size, FAR);
    std::copy_n(line, n, sorted.data());
    threads = std::max<int64_t>(1, std::min(threads, number));
    std::vector<Variable> moved(threads, Variable(x, place, n, x_dim));
    std::vector<double> least(threads * (k + 1));
    for_all(number, 1, threads, [&](int64_t part, int64_t, int64_t worker) {
      moved[worker].permute(x, place, orders + part * n, n);
      const Samples samples{n, k, sorted.data(), &moved[worker], &fixed_y, &fixed_z};
      dispatch_least<Estimate>(k, &least[worker * (k + 1)], &samples, tallies + part * (n + 1));
    });
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}
