// Samples counted by the entries of lookups, whose cells are asked for once, at the end.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "lookups.h"
#include "points.h"
#include "tables.h"

namespace {

// The entries of all lookups of an axis that samples are counted by. Those of a part begin and end
// with one that knows no cell. The arithmetic is that of the samples.
template <class X>
struct Entries {
  struct Part {
    X enlarge, shrink, start, most;  // of the first part, the index before the start
    int32_t first, last;
    bool checked;  // whether some entries hold less than their step
  };
  static constexpr X INF = std::numeric_limits<X>::infinity();
  static constexpr X NONE = std::numeric_limits<X>::quiet_NaN();

  std::vector<Part> parts;
  std::vector<int32_t> code;    // `missed` or more: no cell
  std::vector<X> lower, upper;  // what an entry holds; NaN where it knows no cell
  bool points = true;           // whether no entry holds more than one value

  int64_t size() const { return code.size(); }

  MI_INLINE bool holds(int32_t at, X x) const { return (x >= lower[at]) & (x < upper[at]); }

  // Takes the lookups of a row, but those whose arithmetic would round; returns false where none is
  // left, or where their entries are too many.
  bool take(const Line& line, int32_t missed) {
    for (int64_t l = 0; l < line.all->count && size() <= SMALL; l++) {
      const One one(line, l);
      bool checked = false;
      for (int32_t at = one.first; line.lower && at <= one.last; at++)
        checked |= line.code[at] < missed &&
                   (std::isfinite(line.lower[at]) || std::isfinite(line.upper[at]));
      int32_t from = one.first + 1, end = one.last;
      // Samples beyond the longest run are looked for one by one: a check of all takes longer.
      if (!checked) longest(line, missed, from, end);
      X enlarge = X(one.enlarge), shrink = X(one.shrink);
      // The index of the first entry that is kept.
      const double past = from - one.first - 1, begin = one.start + (1 - one.far);
      const double start = begin + past;
      // All numbers lie in steps -1 and 0, but for tiny ones, which the check finds in the wrong.
      if (checked && one.shrink <= 1 / BEYOND) enlarge = shrink = X(1 / HALF);
      if (!(enlarge <= WIDEST) || !(shrink >= 1 / WIDEST)) continue;
      if (start - begin != past || X(start) != start) continue;
      // What lies before the first of all has an index, too.
      if (parts.empty() && !(std::fabs(start) < EXACT)) continue;
      const int32_t first = int32_t(size());
      hold(missed, NONE, NONE);
      for (int32_t at = from; at < end; at++) {
        if (line.code[at] >= missed)
          hold(missed, NONE, NONE);
        else if (line.lower)
          hold(line.code[at], least(line.lower[at]), least(line.upper[at]));
        else
          hold(line.code[at], -INF, INF);
      }
      hold(missed, NONE, NONE);
      const int32_t last = int32_t(size()) - 1;
      const X before = parts.empty() ? X(start - 1) : X(start);
      parts.push_back({enlarge, shrink, before, X(last - first), first, last, checked});
    }
    return !parts.empty() && size() <= SMALL;
  }

 private:
  static constexpr bool SINGLE = sizeof(X) == 4;
  // Whole numbers below the first and steps up to the second, and their inverses, do not round; no
  // number reaches the third, which is the square of the fourth.
  static constexpr double EXACT = SINGLE ? 0x1p24 : 0x1p53, WIDEST = SINGLE ? 0x1p126 : 0x1p1000;
  static constexpr double BEYOND = SINGLE ? 0x1p128 : INFINITY, HALF = SINGLE ? 0x1p64 : 1;

  static void longest(const Line& line, int32_t missed, int32_t& from, int32_t& end) {
    const int32_t first = from, last = end;
    from = end = first;
    for (int32_t at = first, begin = first; at < last; at++) {
      if (line.code[at] >= missed) begin = at + 1;
      if (at + 1 - begin > end - from) from = begin, end = at + 1;
    }
  }

  // The least X that is not below the value.
  static X least(double value) {
    const X near = X(value);
    return double(near) < value ? std::nextafter(near, INF) : near;
  }

  void hold(int32_t what, X low, X high) {
    if (!(low < high)) low = high = NONE;
    code.push_back(what);
    lower.push_back(low);
    upper.push_back(high);
    points &= !(std::nextafter(low, INF) < high);
  }
};

// Numbers at once: more than a register holds, or a compiler sees no loop in them.
constexpr int64_t LANES = 32;

// A difference that rounds lies beyond the table.
template <bool twice, bool later, class X, class Part>
MI_INLINE int32_t place(X x, const Part& part) {
  X index = std::floor(x * part.enlarge);
  if (twice) index = std::floor(index * part.shrink);
  index = index - part.start;
  if (later) index = index + 1;
  index = index > 0 ? index : X(0);
  index = index < part.most ? index : part.most;
  return int32_t(index);
}

// Finds the entries of a block in the first part, while those of the block before are counted;
// returns whether some samples lie outside of it.
template <bool twice, class X>
MI_INLINE bool enter_first(const X* MI_RESTRICT x, int64_t size, const Entries<X>& on,
                           const Waiting& waiting, int32_t* MI_RESTRICT found) {
  const auto first = on.parts[0];
  int32_t out[LANES] = {};
  if (size == BLOCK) {
    for (int64_t i = 0; i < BLOCK; i += LANES) {
      for (int64_t j = 0; j < LANES; j++) {
        const int32_t at = place<twice, false>(x[i + j], first);
        out[j] |= (at == 0) | (at == first.last);
        found[i + j] = at;
      }
      for (int64_t j = 0; j < LANES; j += 64 / sizeof(X)) mi::prefetch(x + BLOCK + i + j);
      waiting.count(i / 2, LANES / 2);
    }
  } else {
    for (int64_t i = 0; i < size; i++) {
      const int32_t at = place<twice, false>(x[i], first);
      out[0] |= (at == 0) | (at == first.last);
      found[i] = at;
    }
    waiting.count(0, BLOCK / 2);
  }
  int32_t some = 0;
  for (int64_t j = 0; j < LANES; j++) some |= out[j];
  return some != 0;
}

// Finds the entries of a block; returns whether some do not hold their samples.
template <class X>
MI_INLINE bool enter(const X* MI_RESTRICT x, int64_t size, const Entries<X>& on,
                     const Waiting& waiting, int32_t* MI_RESTRICT found) {
  bool some = on.parts[0].shrink < 1 ? enter_first<true>(x, size, on, waiting, found)
                                     : enter_first<false>(x, size, on, waiting, found);
  bool checked = on.parts[0].checked;
  for (size_t l = 1; l < on.parts.size() && some; l++) {
    const auto next = on.parts[l], before = on.parts[l - 1];
    int32_t out = 0;
    for (int64_t i = 0; i < size; i++) {
      const int32_t at = next.first + place<true, true>(x[i], next), was = found[i];
      const int32_t now = (was == before.first) | (was == before.last) ? at : was;
      out |= (now == next.first) | (now == next.last);
      found[i] = now;
    }
    some = out != 0;
    checked |= next.checked;
  }
  if (!checked || some) return some;
  if (on.points) return differ(x, size, on.lower.data(), found);
  int32_t wrong = 0;
  for (int64_t i = 0; i < size; i++) wrong |= !on.holds(found[i], x[i]);
  return wrong != 0;
}

// Counts samples first … last of a row.
template <class X, class Y>
struct CountEntries {
  static MI_INLINE void run(const X* x, const Y* y, int64_t row, int64_t first, int64_t last,
                            const Entries<X>* on_x, const Entries<Y>* on_y, const Line* line_x,
                            const Line* line_y, const Counts* into, Work* work) {
    const int32_t across = int32_t(on_y->size()), cells = int32_t(on_x->size()) * across;
    const int32_t aside = cells * int32_t(work->conditions);
    x += row * work->n;
    y += row * work->n;
    int32_t a[BLOCK], b[BLOCK], both[2][BLOCK], *now = both[0], *before = both[1];
    const Counts* waits = nullptr;
    for (int64_t start = first; start < last; start += BLOCK) {
      const int64_t size = std::min(BLOCK, last - start);
      const bool some_x = enter(x + start, size, *on_x, Waiting{before, waits}, a);
      const bool some_y = enter(y + start, size, *on_y, Waiting{before + BLOCK / 2, waits}, b);
      if (some_x || some_y)
        one_by_one(x + start, y + start, size, *on_x, *on_y, *line_x, *line_y, row, start, work, a,
                   b);
      for (int64_t i = 0; i < size; i++) now[i] = a[i] * across + b[i];
      if (work->labels) {
        const int64_t* labels = work->labels + start;
        int32_t strays = 0;
        for (int64_t i = 0; i < size; i++) {
          const bool stray = (labels[i] < 0) | (labels[i] >= work->conditions);
          strays |= stray;
          now[i] += stray ? 0 : int32_t(labels[i]) * cells;
        }
        work->stray |= strays != 0;
      }
      if (work->valid) {
        const uint8_t* valid = work->valid + row * work->n + start;
        for (int64_t i = 0; i < size; i++) now[i] = valid[i] ? now[i] : aside;
      }
      waits = size == BLOCK ? into : nullptr;
      if (!waits)
        for (int64_t i = 0; i < size; i++) ++into->copies[0][now[i]];
      std::swap(now, before);
    }
    for (int64_t half = 0; half < BLOCK; half += BLOCK / 2)
      Waiting{before, waits}.count(half, BLOCK / 2);
  }

  // Asks all lookups about the samples of a block whose entries do not hold them, and moves those
  // to an entry that knows no cell.
  static MI_INLINE void one_by_one(const X* x, const Y* y, int64_t size, const Entries<X>& on_x,
                                   const Entries<Y>& on_y, const Line& line_x, const Line& line_y,
                                   int64_t row, int64_t start, Work* work, int32_t* a, int32_t* b) {
    const int32_t missed = int32_t(work->missed);
    const int64_t from = row * work->n + start;
    // Bytes are asked for eight at once: they are few.
    uint8_t doubts[BLOCK] = {};
    for (int64_t i = 0; i < size; i++)
      doubts[i] = !(on_x.holds(a[i], x[i]) & on_y.holds(b[i], y[i]));
    if (work->valid)
      for (int64_t i = 0; i < size; i++) doubts[i] &= work->valid[from + i] != 0;
    for (int64_t i = 0; i < size; i += 8) {
      uint64_t eight;
      std::memcpy(&eight, doubts + i, 8);
      for (int64_t j = i; eight && j < i + 8; j++)
        if (doubts[j]) {
          a[j] = b[j] = 0;
          const int32_t found = search(x[j], line_x, missed), other = search(y[j], line_y, missed);
          const int64_t label = work->labels ? work->labels[start + j] : 0;
          work->single++;
          if (found < missed && other < missed && 0 <= label && label < work->conditions)
            ++work->tables[(row + label) * work->stride + found + other];
          else
            work->lost[work->number++] = from + j;
        }
    }
  }
};

}  // namespace
