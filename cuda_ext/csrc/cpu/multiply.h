// Products of any number of rows and panels, put together from those of products.h.
#pragma once

#include "activation.h"
#include "matrix_unit.h"
#include "products_bf16.h"

namespace genpolicy {
namespace GP_ISA {

// Rows of a tile are a multiple of these; 12 are those of all kernels without a matrix unit.
constexpr int64_t kGroup = 12;
#if defined(GP_MATRIX_UNIT)
constexpr int64_t kGroupBf16 = kTileRows;
#else
constexpr int64_t kGroupBf16 = kGroup;
#endif

// All rows of a tile in groups of kRows at most, over n_panels panels, several at a time.
template <int kRows, int kPanels, bool kBf16>
inline void panels_of_rows(const Product& p, int64_t row, int64_t panel) {
  if constexpr (kBf16)
    product_bf16<kRows, kPanels>(p, row, panel);
  else
    product_f32<kRows, kPanels>(p, row, panel);
}

template <int kPanels, bool kBf16>
inline void rows_at(const Product& p, int64_t row, int64_t n_rows, int64_t panel) {
  switch (n_rows) {
#define GP_ROWS(n)                                                                        \
  case n:                                                                                 \
    if constexpr (n <= kMostRows && kPanels <= panels_for(n))                             \
      panels_of_rows<n, kPanels, kBf16>(p, row, panel);                                   \
    break;
    GP_ROWS(1) GP_ROWS(2) GP_ROWS(3) GP_ROWS(4) GP_ROWS(5) GP_ROWS(6)
    GP_ROWS(7) GP_ROWS(8) GP_ROWS(9) GP_ROWS(10) GP_ROWS(11) GP_ROWS(12)
#undef GP_ROWS
  }
}

// A panel alone.
inline void narrow_at(const Product& p, int64_t row, int64_t n_rows) {
  constexpr int kMost = GP_VECTOR_BYTES == 64 ? 6 : 1;
  for (int64_t done = 0; done < n_rows;) {
    const int64_t left = n_rows - done;
    switch (left < kMost ? left : kMost) {
#define GP_NARROW(n)                       \
  case n:                                  \
    if constexpr (n <= kMost) {            \
      if (kHasHalves && p.is_half)         \
        half_f32<n>(p, row + done);        \
      else                                 \
        narrow_f32<n>(p, row + done, 0);   \
    }                                      \
    done += n;                             \
    break;
      GP_NARROW(1) GP_NARROW(2) GP_NARROW(3) GP_NARROW(4) GP_NARROW(5) GP_NARROW(6)
#undef GP_NARROW
    }
  }
}

// Up to four panels from `panel` on, of a layer of n_panels, for rows in nearly equal groups.
template <bool kBf16>
inline void multiply_few(const Product& p, int64_t n_rows, int64_t n_panels, int64_t panel,
                         int64_t count) {
  const int64_t n_groups = (n_rows + kMostRows - 1) / kMostRows;
  const int64_t group = (n_rows + n_groups - 1) / n_groups;
  const int64_t most = panels_for(static_cast<int>(group)), end = panel + count;
  while (panel < end) {
    const int64_t left = end - panel;
    const int64_t width = left >= 4 && most >= 4 ? 4 : left >= 2 && most >= 2 ? 2 : 1;
    for (int64_t row = 0; row < n_rows; row += group) {
      const int64_t rows = n_rows - row < group ? n_rows - row : group;
      if (!kBf16 && n_panels == 1) {
        narrow_at(p, row, rows);
        continue;
      }
      switch (width) {
        case 4: rows_at<4, kBf16>(p, row, rows, panel); break;
        case 2: rows_at<2, kBf16>(p, row, rows, panel); break;
        default: rows_at<1, kBf16>(p, row, rows, panel);
      }
    }
    panel += width;
  }
}

// The panels [begin, end) of a layer of n_panels, with their activation; kPieces is 0 for float32.
template <int kPieces>
inline void multiply_panels(const Product& p, int64_t n_rows, int64_t n_panels, int64_t begin,
                            int64_t end) {
#if defined(GP_MATRIX_UNIT)
  LastBlocks<kPieces == 0 ? 1 : kPieces> rest;
  if (kPieces > 0 && (p.n_in + 1) / 2 % kBlock != 0) memset(&rest, 0, sizeof rest);
#endif
  for (int64_t panel = begin; panel < end; panel += 4) {
    const int64_t count = end - panel < 4 ? end - panel : 4;
#if defined(GP_MATRIX_UNIT)
    if constexpr (kPieces > 0) {
      multiply_in_tiles<kPieces>(p, n_rows, panel, count, rest);  // with their activation
      continue;
    }
#endif
    multiply_few<(kPieces > 0)>(p, n_rows, n_panels, panel, count);
    if (p.activation != kNone)
      activate(p.activation, p.out + panel * kPanel, p.ld_out, n_rows, count * kPanel);
  }
}

template <int kPieces>
inline void multiply(const Product& p, int64_t n_rows, int64_t n_out) {
  const int64_t n_panels = (n_out + kPanel - 1) / kPanel;
  multiply_panels<kPieces>(p, n_rows, n_panels, 0, n_panels);
}

}  // namespace GP_ISA
}  // namespace genpolicy
