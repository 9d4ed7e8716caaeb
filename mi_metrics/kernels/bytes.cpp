// Joint tables of samples of one byte. Reference: functional/tables/hard.py.
#include "tables.h"

namespace {

// An axis of samples of one byte: the cell of each of the 256, of every row or one for all (step
// 0), and which of them lie outside of the range, or null.
struct ByteAxis {
  const uint8_t* samples;
  const int32_t* cells;
  int64_t step;
  const uint8_t* outside;

  bool has_outside(int64_t value) const { return outside && outside[value]; }
};

// What of a cell's number x and y say, for each of their 256 values.
struct ByteCells {
  int32_t on_x[256], on_y[256];
  uint8_t none_x[256], none_y[256];  // whether no sample may have the value
  bool some = false;                 // whether there are such values

  ByteCells(const ByteAxis& x, const ByteAxis& y, const Table& table, int64_t row) {
    const int64_t cells_x = table.cells / table.cells_y;
    for (int v = 0; v < 256; v++) {
      const int64_t at = x.cells[row * x.step + v], other = y.cells[row * y.step + v];
      none_x[v] = at < 0 || at >= cells_x;
      none_y[v] = other < 0 || other >= table.cells_y;
      some |= none_x[v] || none_y[v];
      on_x[v] = none_x[v] ? 0 : int32_t(at * table.cells_y);
      on_y[v] = none_y[v] ? 0 : int32_t(other);
    }
  }
};

// Counts samples first … last of a row of bytes.
struct CountBytes {
  static MI_INLINE void run(const ByteAxis* ax, const ByteAxis* ay, const Table* table, int64_t row,
                            int64_t first, int64_t last, const Counts* into, Found* found) {
    const uint8_t* x = ax->samples + row * table->n;
    const uint8_t* y = ay->samples + row * table->n;
    const uint8_t* valid = table->valid ? table->valid + row * table->n : nullptr;
    const int64_t* labels = table->labels;
    const ByteCells known(*ax, *ay, *table, row);
    int32_t cells[BLOCK];
    for (int64_t start = first; start < last; start += BLOCK) {
      const int64_t size = std::min(BLOCK, last - start), end = start + size;
      const uint8_t *u = x + start, *v = y + start, *marks = valid ? valid + start : nullptr;
      if (ax->outside || ay->outside)
        for (int64_t i = 0; i < size; i++)
          found->outside +=
              (!marks || marks[i]) && (ax->has_outside(u[i]) || ay->has_outside(v[i]));
      for (int64_t i = 0; i < size; i++) cells[i] = known.on_x[u[i]] + known.on_y[v[i]];
      for (int64_t i = 0; known.some && i < size; i++)
        found->stray |= (!marks || marks[i]) && (known.none_x[u[i]] || known.none_y[v[i]]);
      if (labels) found->stray |= !label(labels + start, marks, size, *table, cells);
      add(cells, size, x + end, y + end, labels ? labels + end : nullptr, marks, *table, *into);
    }
  }
};

// All pairs of bytes there are.
constexpr int64_t PAIRS = 1 << 16;

// Counts all pairs of bytes, whatever cells they are in.
struct CountPairs {
  static MI_INLINE void run(const uint8_t* MI_RESTRICT x, const uint8_t* MI_RESTRICT y,
                            int64_t number, uint32_t* a, uint32_t* b) {
    uint16_t pairs[2 * BLOCK];
    for (int64_t start = 0; start < number; start += 2 * BLOCK) {
      const int64_t size = std::min(2 * BLOCK, number - start);
      for (int64_t i = 0; i < size; i++) pairs[i] = uint16_t(x[start + i] << 8 | y[start + i]);
      int64_t i = 0;
      for (; i + 3 < size; i += 4) {
        ++a[pairs[i]];
        ++b[pairs[i + 1]];
        ++a[pairs[i + 2]];
        ++b[pairs[i + 3]];
      }
      for (; i < size; i++) ++a[pairs[i]];
    }
  }
};

// Adds the counts of all pairs of bytes to the table of a row.
void add_pairs(const ByteAxis& ax, const ByteAxis& ay, const Table& table, int64_t row,
               const Counts& from, Found& found) {
  const ByteCells known(ax, ay, table, row);
  int64_t* const counts = table.counts + row * table.all_cells();
  constexpr int64_t AT_ONCE = 16;
  for (int64_t x = 0; x < 256; x++)
    for (int64_t y = 0; y < 256; y += AT_ONCE) {
      const uint32_t *a = from.copies[0] + 256 * x + y, *b = from.copies[1] + 256 * x + y;
      uint32_t some = 0;
      for (int64_t i = 0; i < AT_ONCE; i++) some |= a[i] | b[i];
      for (int64_t i = 0; some && i < AT_ONCE; i++) {
        const int64_t number = int64_t(a[i]) + b[i];
        counts[known.on_x[x] + known.on_y[y + i]] += number;
        found.stray |= number && (known.none_x[x] || known.none_y[y + i]);
        if (ax.has_outside(x) || ay.has_outside(y + i)) found.outside += number;
      }
    }
}

}  // namespace

// As mi_hard_counts, of samples of one byte. `cells_of_x` are the cells of all 256 of them, for
// each of `rows_x` rows or 1; one that is no cell says that there may be no such sample, else the
// result is -1. The 256 marks `outside_x` and `outside_y` say which lie outside of the range, or
// are null.
MI_EXPORT int64_t mi_byte_counts(const uint8_t* x, const int32_t* cells_of_x, int64_t rows_x,
                                 const uint8_t* outside_x, const uint8_t* y,
                                 const int32_t* cells_of_y, int64_t rows_y,
                                 const uint8_t* outside_y, const uint8_t* valid,
                                 const int64_t* labels, int64_t rows, int64_t n,
                                 int64_t conditions, int64_t cells_x, int64_t cells_y,
                                 int64_t* counts, int64_t* outside, int64_t threads) {
  const Table table{n, cells_y, cells_x * cells_y, conditions, valid, labels, counts};
  const ByteAxis ax{x, cells_of_x, rows_x > 1 ? 256 : 0, outside_x};
  const ByteAxis ay{y, cells_of_y, rows_y > 1 ? 256 : 0, outside_y};
  // Without more to look at, a sample is a pair of bytes, and what cell that is in is asked once.
  if (!labels && !valid && n >= 4 * PAIRS && n < (int64_t(1) << 31))
    return in_slabs(
        table, rows, PAIRS, 2, threads, outside,
        [&](int64_t row, int64_t first, int64_t last, const Counts* into, Found*) {
          mi::dispatch_wide<CountPairs>(x + row * n + first, y + row * n + first, last - first,
                                        into->copies[0], into->copies[1]);
        },
        [&](int64_t row, const Counts& from, Found& found) {
          add_pairs(ax, ay, table, row, from, found);
        });
  return in_copies(
      table, rows, threads, outside,
      [&](int64_t row, int64_t first, int64_t last, const Counts* into, Found* found) {
        mi::dispatch_wide<CountBytes>(&ax, &ay, &table, row, first, last, into, found);
      });
}
