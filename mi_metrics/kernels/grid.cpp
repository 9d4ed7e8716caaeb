// Samples counted in the cells of a dyadic grid, through its lookups. Reference: states/grid.py.

// GCC vectorises a floor only where nothing traps on an exception, which Clang takes for granted.
// As a flag for all files, it makes neighbours take half as long again.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math")
#endif

#include <algorithm>
#include <cmath>
#include <new>

#include "entries.h"

// Keeps a loop from being vectorised: gathers take longer than single lookups.
#if defined(__GNUC__) || defined(__clang__)
#define MI_SCALAR __asm__ volatile("")
#else
#define MI_SCALAR
#endif

namespace {

// Rows take turns after so many samples.
constexpr int64_t PART = 1 << 14;
// Tables of at most so many cells are counted apart in 32 bits, in two copies.
constexpr int64_t APART = 1 << 17, PAIR = 2;
// Tables of entries take as much memory as those of cells, or 4 MiB.
constexpr int64_t LEAST = 1 << 20;

// Finds the entries of a block: of the first lookup whose table reaches so far.
template <bool twice>
MI_INLINE void enter(const double* MI_RESTRICT x, int64_t size, const Line& line,
                     int32_t* MI_RESTRICT entries) {
  int32_t low = 0, high = 0, out = 1;
  for (int64_t l = 0; l < line.all->count && out; l++) {
    const One one(line, l);
    const double enlarge = one.enlarge, shrink = one.shrink, start = one.start, far = one.far,
                 most = one.most;
    const int32_t first = one.first, last = one.last;
    out = 0;
    if (l == 0) {
      for (int64_t i = 0; i < size; i++) {
        const int32_t at = entry<twice>(x[i], enlarge, shrink, start, far, most);
        out |= (at == 0) | (at == last);
        entries[i] = at;
      }
    } else {
      for (int64_t i = 0; i < size; i++) {
        const int32_t at = first + entry<twice>(x[i], enlarge, shrink, start, far, most);
        const int32_t was = entries[i];
        const int32_t now = (was == low) | (was == high) ? at : was;
        out |= (now == first) | (now == last);
        entries[i] = now;
      }
    }
    low = first, high = last;
  }
}

// Writes the codes of a block; those that are not found are `missed` or more.
MI_INLINE void find(const double* MI_RESTRICT x, int64_t size, const Line& line, int32_t missed,
                    int32_t* MI_RESTRICT codes) {
  int32_t entries[BLOCK];
  if (line.all->twice)
    enter<true>(x, size, line, entries);
  else
    enter<false>(x, size, line, entries);
  if (!line.lower) {
    for (int64_t i = 0; i < size; i++) {
      codes[i] = line.code[entries[i]];
      MI_SCALAR;
    }
  } else {
    const double *const lower = line.lower, *const upper = line.upper;
    const int32_t* const code = line.code;
    for (int64_t i = 0; i < size; i++) {
      const int32_t at = entries[i];
      if (x[i] >= lower[at] && x[i] < upper[at])
        codes[i] = code[at];
      else
        codes[i] = missed;
      MI_SCALAR;
    }
  }
}

// Counts samples first … last of a row, apart or in the tables.
template <class X, class Y>
struct Count {
  static MI_INLINE void run(const X* x, const Y* y, int64_t row, int64_t first, int64_t last,
                            const Lookups* on_x, const Lookups* on_y, uint32_t* apart, Work* work) {
    const Line line_x(*on_x, row, work->rows), line_y(*on_y, row, work->rows);
    const int32_t missed = int32_t(work->missed);
    const int64_t from = row * work->n;
    double u[BLOCK], v[BLOCK];
    int32_t a[BLOCK], b[BLOCK];
    for (int64_t start = first; start < last; start += BLOCK) {
      const int64_t size = std::min(BLOCK, last - start);
      for (int64_t i = 0; i < size; i++) u[i] = x[from + start + i];
      for (int64_t i = 0; i < size; i++) v[i] = y[from + start + i];
      find(u, size, line_x, missed, a);
      find(v, size, line_y, missed, b);
      int32_t lost = 0;
      for (int64_t i = 0; i < size; i++) {
        a[i] += b[i];
        lost |= a[i] >= missed;
      }
      if (work->labels) label(work->labels + start, size, *work, a);
      if (work->valid) {
        const uint8_t* valid = work->valid + from + start;
        for (int64_t i = 0; i < size; i++) a[i] = valid[i] ? a[i] : missed + 1;
      }
      if (lost) again(u, v, size, line_x, line_y, from + start, work, a);
      const int64_t end = from + start + size;
      add(a, size, x + end, y + end, missed, apart, work->tables + row * work->stride);
    }
  }

  // Adds a block of codes, and fetches the next block from memory meanwhile.
  static MI_INLINE void add(const int32_t* codes, int64_t size, const X* next_x, const Y* next_y,
                            int32_t missed, uint32_t* apart, int64_t* table) {
    if (!apart) {
      for (int64_t i = 0; i < size; i++)
        if (codes[i] < missed) ++table[codes[i]];
      return;
    }
    uint32_t* const other = apart + mi::distance(missed + 2);
    int64_t i = 0;
    for (; i + 7 < size; i += 8) {
      mi::prefetch(next_x + i);
      mi::prefetch(next_y + i);
      for (int64_t j = i; j < i + 8; j += 2) {
        ++apart[codes[j]];
        ++other[codes[j + 1]];
      }
    }
    for (; i < size; i++) ++apart[codes[i]];
  }

  static MI_INLINE void label(const int64_t* MI_RESTRICT labels, int64_t size, Work& work,
                              int32_t* MI_RESTRICT codes) {
    const int32_t step = int32_t(work.stride), missed = int32_t(work.missed);
    const int64_t conditions = work.conditions;
    int32_t strays = 0;
    for (int64_t i = 0; i < size; i++) {
      const bool stray = (labels[i] < 0) | (labels[i] >= conditions);
      strays |= stray;
      codes[i] += (stray | (codes[i] >= missed)) ? 0 : int32_t(labels[i]) * step;
    }
    work.stray |= strays != 0;
  }

  // Asks all lookups about the samples of a block that were not found, and notes which none knows.
  static MI_INLINE void again(const double* u, const double* v, int64_t size, const Line& line_x,
                              const Line& line_y, int64_t start, Work* work, int32_t* codes) {
    const int32_t missed = int32_t(work->missed);
    for (int64_t i = 0; i < size; i++) {
      if (codes[i] < missed || (work->valid && !work->valid[start + i])) continue;
      const int32_t found = search(u[i], line_x, missed), other = search(v[i], line_y, missed);
      const int64_t label = work->labels ? work->labels[start + i] : 0;
      const bool known = found < missed && other < missed && 0 <= label && label < work->conditions;
      codes[i] = known ? found + other + int32_t(label * work->stride) : missed;
      if (!known) work->lost[work->number++] = start + i;
    }
  }
};

// Counts columns from `first` on by entries until all are, or so many are lost that there may be no
// place for more, or many have to be looked for one by one; returns the column that is next.
template <class X, class Y>
int64_t count_entries(const void* x, const void* y, int64_t first, int64_t room,
                      const Lookups& on_x, const Lookups& on_y, Work& work) {
  const int64_t columns = work.n - first, conditions = work.conditions;
  if (4 * (on_x.offset[on_x.count] + on_y.offset[on_y.count]) > columns) return first;
  std::vector<Entries<X>> of_x(work.rows);
  std::vector<Entries<Y>> of_y(work.rows);
  int64_t most = 0;
  for (int64_t row = 0; row < work.rows; row++) {
    const Line line_x(on_x, row, work.rows), line_y(on_y, row, work.rows);
    if (!of_x[row].take(line_x, work.missed) || !of_y[row].take(line_y, work.missed)) return first;
    most = std::max(most, of_x[row].size() * of_y[row].size() * conditions);
  }
  const int64_t copies = COPIES * most <= CACHED ? COPIES : 2, step = mi::distance(most + 1);
  const int64_t state = 2 * work.rows * conditions * work.stride;
  if (most > SMALL || 4 * step > columns || work.n >= int64_t(1) << 31 ||
      work.rows * copies * step > std::max(LEAST, state))
    return first;
  std::vector<uint32_t> small(work.rows * copies * step);
  int64_t next = first;
  while (next < work.n && room - work.number >= work.rows) {
    const int64_t end = std::min(work.n, next + std::min((room - work.number) / work.rows, PART));
    for (int64_t row = 0; row < work.rows; row++) {
      Counts into{{}, nullptr};
      for (int64_t i = 0; i < COPIES; i++)
        into.copies[i] = small.data() + (row * copies + i % copies) * step;
      const Line line_x(on_x, row, work.rows), line_y(on_y, row, work.rows);
      mi::dispatch_wide<CountEntries<X, Y>>(static_cast<const X*>(x), static_cast<const Y*>(y), row,
                                            next, end, &of_x[row], &of_y[row], &line_x, &line_y,
                                            &into, &work);
    }
    next = end;
    if (16 * work.single > work.rows * (next - first)) break;
  }
  for (int64_t row = 0; row < work.rows; row++)
    for (int64_t label = 0; label < conditions; label++) {
      const auto& codes = of_y[row].code;
      const int64_t across = codes.size(), cells = of_x[row].size() * across;
      const uint32_t* const counts = small.data() + row * copies * step + label * cells;
      int64_t* const into = work.tables + (row + label) * work.stride;
      for (int64_t i = 0; i < of_x[row].size(); i++)
        for (int64_t j = 0; of_x[row].code[i] < work.missed && j < across; j++)
          for (int64_t copy = 0; codes[j] < work.missed && copy < copies; copy++)
            into[of_x[row].code[i] + codes[j]] += counts[copy * step + i * across + j];
    }
  return next;
}

// Counts columns from `first` on until all are, or so many are lost that there may be no place for
// more; returns the column that is next.
template <class X, class Y>
int64_t count(const void* x, const void* y, int64_t first, int64_t room, const Lookups& on_x,
              const Lookups& on_y, int64_t cells, Work& work) {
  int64_t next = count_entries<X, Y>(x, y, first, room, on_x, on_y, work);
  if (next == work.n) return next;
  const int64_t all = work.missed;
  const int64_t apart_by = mi::distance(all + 2), step = PAIR * apart_by;
  const bool apart = all <= APART && work.n - next >= std::max(4 * all, step) &&
                     work.n < (int64_t(1) << 31);
  std::vector<uint32_t> small(apart ? work.rows * step : 0);
  while (next < work.n && room - work.number >= work.rows) {
    const int64_t most = (room - work.number) / work.rows;
    const int64_t end = std::min(work.n, next + std::min(most, PART));
    for (int64_t row = 0; row < work.rows; row++)
      mi::dispatch_wide<Count<X, Y>>(static_cast<const X*>(x), static_cast<const Y*>(y), row, next,
                                     end, &on_x, &on_y,
                                     apart ? small.data() + row * step : nullptr, &work);
    next = end;
  }
  for (int64_t table = 0; apart && table < work.rows * work.conditions; table++) {
    const int64_t row = work.labels ? 0 : table, label = work.labels ? table : 0;
    int64_t* into = work.tables + table * work.stride;
    for (int64_t copy = 0; copy < PAIR; copy++) {
      const uint32_t* counts = small.data() + row * step + copy * apart_by + label * work.stride;
      for (int64_t i = 0; i < cells; i++) into[i] += counts[i];
    }
  }
  return next;
}

}  // namespace

// Adds samples (rows, n) from column `first` on, float64 or else float32, to tables of `cells`
// each, which begin every `stride`: one for each row, or with labels, of one row, for each of the
// `conditions`.
//
// `on_x` and `on_y` are lookups as native_grid.py packs them: their codes add up to a cell, or to
// conditions * stride or more. Samples that no lookup knows, NaN among them, are written to `lost`
// (room) as row * n + column, and `numbers` gets how many they are and the column that is next:
// counting ends early where there may be no room for more. Returns 0, or -1 without memory or with
// a label that is none; what is in the tables is useless then.
MI_EXPORT int64_t mi_grid_counts(const void* x, int64_t double_x, const void* y, int64_t double_y,
                                 const uint8_t* valid, const int64_t* labels, int64_t rows,
                                 int64_t n, int64_t first, const void* on_x, const void* on_y,
                                 int64_t cells, int64_t conditions, int64_t* tables,
                                 int64_t stride, int64_t* lost, int64_t room, int64_t* numbers) {
  Work work{rows, n, conditions * stride, valid, labels, conditions, tables, stride, lost};
  const auto call = double_x ? (double_y ? count<double, double> : count<double, float>)
                             : (double_y ? count<float, double> : count<float, float>);
  try {
    numbers[1] = call(x, y, first, room, *static_cast<const Lookups*>(on_x),
                      *static_cast<const Lookups*>(on_y), cells, work);
  } catch (const std::bad_alloc&) {
    return -1;
  }
  numbers[0] = work.number;
  return work.stray ? -1 : 0;
}
