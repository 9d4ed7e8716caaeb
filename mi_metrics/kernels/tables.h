// Joint tables that samples are counted in: copies apart, threads, what is found out on the way.
#pragma once

#include <algorithm>
#include <mutex>
#include <new>

#include "native.h"

namespace {

// Samples whose cells are found at once, by vector instructions.
constexpr int64_t BLOCK = 256;
// Fewer samples are not worth a thread.
constexpr int64_t SHARE = 1 << 16;
// Tables of at most so many cells are counted apart in 32 bits, in as many copies as stay in a
// core's cache: a cell that is hit twice in a row has to wait for itself.
constexpr int64_t SMALL = 1 << 18, CACHED = 1 << 16;
constexpr int64_t COPIES = 4;

struct Table {
  int64_t n, cells_y, cells, conditions;
  const uint8_t* valid;   // or null: all are
  const int64_t* labels;  // or null: which of several tables a sample counts in
  int64_t* counts;

  int64_t all_cells() const { return cells * conditions; }
};

// What is found out about samples on the way.
struct Found {
  int64_t not_finite = 0;  // values
  int64_t outside = 0;     // samples
  bool stray = false;      // a label that has no table, or a byte that has no cell
};

// Where samples are counted: copies of a table apart, each with a cell for invalid ones at its end,
// or the table itself.
struct Counts {
  uint32_t* copies[COPIES];  // some may be one
  int64_t* table;            // null: apart
};

// Moves cells to the tables of their labels; returns false if one that counts is no label.
MI_INLINE bool label(const int64_t* MI_RESTRICT labels, const uint8_t* MI_RESTRICT valid,
                     int64_t size, const Table& table, int32_t* MI_RESTRICT cells) {
  const int64_t conditions = table.conditions;
  const int32_t step = int32_t(table.cells);
  int32_t strays = 0;
  for (int64_t i = 0; i < size; i++) {
    const bool stray = (labels[i] < 0) | (labels[i] >= conditions);
    cells[i] += stray ? 0 : int32_t(labels[i]) * step;
    strays |= stray & (!valid || valid[i]);
  }
  return !strays;
}

// Moves cells of samples that are not valid to the one at the end of a table apart.
MI_INLINE void set_aside(int32_t* MI_RESTRICT cells, int64_t size,
                         const uint8_t* MI_RESTRICT valid, const Table& table) {
  const int32_t apart = int32_t(table.all_cells());
  for (int64_t i = 0; i < size; i++) cells[i] = valid[i] ? cells[i] : apart;
}

// Adds a block of cells, and fetches the next block from memory meanwhile.
template <class X, class Y>
MI_INLINE void add(int32_t* MI_RESTRICT cells, int64_t size, const X* next_x, const Y* next_y,
                   const int64_t* next_labels, const uint8_t* MI_RESTRICT valid,
                   const Table& table, const Counts& into) {
  if (into.table) {
    for (int64_t i = 0; i < size; i++)
      if (!valid || valid[i]) ++into.table[cells[i]];
    return;
  }
  if (valid) set_aside(cells, size, valid, table);
  uint32_t *const a = into.copies[0], *const b = into.copies[1], *const c = into.copies[2],
                  *const d = into.copies[3];
  int64_t i = 0;
  for (; i + 7 < size; i += 8) {
    mi::prefetch(next_x + i);
    mi::prefetch(next_y + i);
    if (next_labels) mi::prefetch(next_labels + i);
    ++a[cells[i]];
    ++b[cells[i + 1]];
    ++c[cells[i + 2]];
    ++d[cells[i + 3]];
    ++a[cells[i + 4]];
    ++b[cells[i + 5]];
    ++c[cells[i + 6]];
    ++d[cells[i + 7]];
  }
  for (; i < size; i++) ++a[cells[i]];
}

// Cells that wait until those of the next block are reckoned, which goes on beside the counting:
// the one takes arithmetic, the other writes memory.
struct Waiting {
  const int32_t* cells;
  const Counts* into;  // null: there are none

  MI_INLINE void count(int64_t first, int64_t number) const {
    if (!into) return;
    for (int64_t i = first; i < first + number; i += COPIES)
      for (int64_t copy = 0; copy < COPIES; copy++) ++into->copies[copy][cells[i + copy]];
  }
};

// Calls count(row, first, last, counts, found) for parts of all rows, and add(row, copies, found)
// of what was counted apart, in tables of `cells` cells: none where there are 0 copies. Adds up
// what they find. Returns how many values are not finite, or -1 without memory or with samples that
// others have to look at.
template <class Part, class Sum>
int64_t in_slabs(const Table& table, int64_t rows, int64_t cells, int64_t copies, int64_t threads,
                 int64_t* outside, const Part& count, const Sum& add) {
  const int64_t most = rows < threads && copies ? threads / rows : 1;
  const int64_t slabs = std::max<int64_t>(1, std::min(most, table.n / SHARE));
  std::atomic<int64_t> not_finite{0}, failed{0};
  std::mutex adding;
  mi::in_parts(rows * slabs, rows * table.n < SHARE ? 1 : threads, [&](int64_t part) {
    const int64_t row = part / slabs, slab = part % slabs;
    const int64_t first = table.n * slab / slabs, last = table.n * (slab + 1) / slabs;
    Found found;
    try {
      const int64_t step = mi::distance(cells + 1);
      std::vector<uint32_t> small(copies * step);
      Counts into{{}, copies ? nullptr : table.counts + row * table.all_cells()};
      for (int64_t i = 0; copies && i < COPIES; i++)
        into.copies[i] = small.data() + i % copies * step;
      count(row, first, last, &into, &found);
      const std::lock_guard<std::mutex> lock(adding);
      if (copies) add(row, into, found);
      outside[row] += found.outside;
    } catch (const std::bad_alloc&) {
      failed = 1;
    }
    not_finite += found.not_finite;
    if (found.stray) failed = 1;
  });
  return failed ? -1 : not_finite.load();
}

// Calls in_slabs for counts that are those of the table's cells.
template <class Part>
int64_t in_copies(const Table& table, int64_t rows, int64_t threads, int64_t* outside,
                  const Part& count) {
  const int64_t cells = table.all_cells();
  const bool apart = cells <= SMALL && table.n >= 4 * cells && table.n < (int64_t(1) << 31);
  const int64_t most = COPIES * cells <= CACHED ? COPIES : 2 * cells <= CACHED ? 2 : 1;
  const int64_t copies = apart ? most : 0;
  return in_slabs(table, rows, cells, copies, threads, outside, count,
                  [&](int64_t row, const Counts& from, Found&) {
                    int64_t* const counts = table.counts + row * cells;
                    for (int64_t copy = 0; copy < copies; copy++)
                      for (int64_t i = 0; i < cells; i++) counts[i] += from.copies[copy][i];
                  });
}

}  // namespace
