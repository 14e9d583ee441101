// Products in bfloat16 on the processor's matrix unit (AMX), where GP_MATRIX_UNIT is defined.
//
// A tile register has 16 rows of 64 bytes: 16 rows of 32 inputs, 16 pairs of inputs of a panel (as they
// lie in a program), or 16 rows of a panel's sums. A product adds to each sum those of the 16 even and
// of the 16 odd inputs of its block, in order, so that a row's result does not depend on the others.
// Groups have as many rows as the thread's setup says, for one row costs nearly as much as sixteen: what
// lies behind the last row is read, and its sums are dropped.
#pragma once

#include "products_bf16.h"

namespace genpolicy {
namespace GP_ISA {

constexpr int64_t kTileRows = 16;
constexpr int64_t kBlock = 16;  // pairs of inputs of a block

#if defined(GP_MATRIX_UNIT)

// The thread's tile registers, for as long as the outermost of these lives: setting them up takes as long
// as a small product. n_rows is 16, or the most rows that are worked on meanwhile. Intrinsics are
// avoided: gcc 12 does not know what memory they read.
class MatrixUnit {
 public:
  MatrixUnit(bool is_used, int64_t n_rows) : is_used_(is_used) {
    if (!is_used_ || depth()++ > 0) return;
    struct alignas(64) Setup {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } setup;
    static_assert(sizeof(Setup) == 64, "the layout of the instruction's operand");
    const int64_t rows = n_rows < kTileRows ? n_rows : kTileRows;
    for (int tile = 0; tile < 8; ++tile) {
      setup.row_bytes[tile] = 64;
      setup.rows[tile] = static_cast<uint8_t>(tile < 6 ? rows : kBlock);
    }
    asm volatile("ldtilecfg %0" : : "m"(setup));
  }
  ~MatrixUnit() {
    if (is_used_ && --depth() == 0) asm volatile("tilerelease" : : : "memory");
  }
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;

 private:
  static int& depth() {
    static thread_local int depth = 0;
    return depth;
  }
  const bool is_used_;
};

template <int kTile>
inline void load_tile(const void* from, int64_t row_bytes) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTile), "r"(from), "r"(row_bytes) : "memory");
}

template <int kSums, int kInputs, int kWeights>
inline void add_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kInputs), "i"(kWeights));
}

// Tiles 0 to 3 are the sums of kGroups times kPanels, 4 and 5 inputs, 6 and 7 weights.
template <int kGroups, int kPanels, int kFrom = 0>
inline void multiply_block(const uint32_t* weights, int64_t stride) {
  if constexpr (kFrom < kPanels) {
    constexpr int kWeights = 6 + kFrom % 2;
    load_tile<kWeights>(weights + kFrom * stride, 64);
    add_product<kFrom, 4, kWeights>();
    if constexpr (kGroups == 2) add_product<kPanels + kFrom, 5, kWeights>();
    multiply_block<kGroups, kPanels, kFrom + 1>(weights, stride);
  }
}

template <int kTiles, int kTile = 0>
inline void clear_tiles() {
  if constexpr (kTile < kTiles) {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
    clear_tiles<kTiles, kTile + 1>();
  }
}

template <int kTiles, int kTile = 0>
inline void store_tiles(float* to) {
  if constexpr (kTile < kTiles) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)"
                 : : "i"(kTile), "r"(to + kTile * kTileRows * kPanel), "r"(int64_t{64}) : "memory");
    store_tiles<kTiles, kTile + 1>(to);
  }
}

// The sums of n_rows of kGroups * 16 rows; `rest` has the last block of each panel, where it is not whole.
template <int kGroups, int kPanels>
void tiled_product(const Product& p, int64_t row, int64_t n_rows, int64_t panel, const uint32_t* rest) {
  const int64_t n_pairs = (p.n_in + 1) / 2, stride = n_pairs * kPanel, whole = n_pairs / kBlock;
  const uint32_t* w = static_cast<const uint32_t*>(p.weights) + panel * stride;
  const uint32_t* a = p.words + row * p.ld_words;
  const int64_t row_bytes = p.ld_words * 4, next_group = kTileRows * p.ld_words;
  clear_tiles<kGroups * kPanels>();
  for (int64_t k = 0; k < whole; ++k, a += kBlock, w += kBlock * kPanel) {
    load_tile<4>(a, row_bytes);
    if constexpr (kGroups == 2) load_tile<5>(a + next_group, row_bytes);
    multiply_block<kGroups, kPanels>(w, stride);
  }
  if (n_pairs % kBlock != 0) {
    load_tile<4>(a, row_bytes);
    if constexpr (kGroups == 2) load_tile<5>(a + next_group, row_bytes);
    multiply_block<kGroups, kPanels>(rest, kBlock * kPanel);
  }
  alignas(64) float sums[kGroups * kPanels * kTileRows * kPanel];
  store_tiles<kGroups * kPanels>(sums);
  for (int64_t r = 0; r < n_rows; ++r) {
    const float* from = sums + r / kTileRows * kPanels * kTileRows * kPanel + r % kTileRows * kPanel;
#pragma GCC unroll 4
    for (int j = 0; j < kPanels; ++j)
      store_finished(p, row + r, (panel + j) * kPanel, load(from + j * kTileRows * kPanel));
  }
}

// Weights of the last block of each of four panels, zeros behind them.
typedef uint32_t LastBlocks[4][kBlock * kPanel];

// Up to four panels from `panel` on: two by two where there are rows for two groups.
inline void multiply_in_tiles(const Product& p, int64_t n_rows, int64_t panel, int64_t width,
                              LastBlocks& rest) {
  const int64_t n_pairs = (p.n_in + 1) / 2, n_left = n_pairs % kBlock;
  const uint32_t* w = static_cast<const uint32_t*>(p.weights) + panel * n_pairs * kPanel;
  for (int64_t j = 0; n_left != 0 && j < width; ++j)
    memcpy(rest[j], w + ((j + 1) * n_pairs - n_left) * kPanel, sizeof(uint32_t) * n_left * kPanel);
  for (int64_t row = 0; row < n_rows; row += 2 * kTileRows) {
    const int64_t rows = n_rows - row < 2 * kTileRows ? n_rows - row : 2 * kTileRows;
    if (rows <= kTileRows) {
      switch (width) {
        case 4: tiled_product<1, 4>(p, row, rows, panel, rest[0]); break;
        case 3: tiled_product<1, 3>(p, row, rows, panel, rest[0]); break;
        case 2: tiled_product<1, 2>(p, row, rows, panel, rest[0]); break;
        default: tiled_product<1, 1>(p, row, rows, panel, rest[0]);
      }
      continue;
    }
    for (int64_t j = 0; j < width; j += 2) {
      if (width - j >= 2)
        tiled_product<2, 2>(p, row, rows, panel + j, rest[j]);
      else
        tiled_product<2, 1>(p, row, rows, panel + j, rest[j]);
    }
  }
}

#else

struct MatrixUnit {
  MatrixUnit(bool, int64_t) {}
};

#endif

}  // namespace GP_ISA
}  // namespace genpolicy
