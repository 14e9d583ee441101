// Products in bfloat16 on the processor's matrix unit (AMX), where GP_MATRIX_UNIT is defined.
//
// A tile register has 16 rows of 64 bytes: 16 rows of 32 inputs, 16 pairs of inputs of a panel (as they
// lie in a program), or 16 rows of a panel's sums. A product adds to each sum those of the 16 even and
// of the 16 odd inputs of its block, in order, so that a row's result does not depend on the others.
// Numbers in pieces have six such products: those whose pieces are large enough together to be seen in a float32.
// Groups have as many rows as the thread's setup says, for one row costs nearly as much as sixteen: what
// lies behind the last row is read, and its sums are dropped.
#pragma once

#include "products_bf16.h"

namespace genpolicy {
namespace GP_ISA {

constexpr int64_t kTileRows = 16;
constexpr int64_t kBlock = 16;  // pairs of inputs of a block

#if defined(GP_MATRIX_UNIT)
constexpr bool kHasMatrixUnit = true;

// The thread's tile registers, for as long as the outermost of these lives: setting them up takes as long
// as a small product. n_rows is 16, or the most rows that are worked on meanwhile. Intrinsics are
// avoided: gcc 12 does not know what memory they read.
class MatrixUnit {
 public:
  MatrixUnit(bool is_used, int64_t n_rows, int64_t n_pieces) : is_used_(is_used) {
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
      const bool is_weights = tile == 6 || (tile == 7 && n_pieces == 1);
      setup.rows[tile] = static_cast<uint8_t>(is_weights ? kBlock : rows);
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

// Stores the sums of a panel, a register for each of n_rows rows, with what the product starts from, after
// their activation, and as words of the layer that follows.
template <int64_t kKind>
inline void finish_rows_as(const Product& p, int64_t row, int64_t n_rows, int64_t column,
                           const float* sums) {
  float* out = p.out + row * p.ld_out + column;
  const float* extra = p.extra ? p.extra + row * p.ld_extra + column : nullptr;
  uint32_t* next = p.next ? p.next + row * p.ld_next + column / 2 : nullptr;
  for (int64_t r = 0; r < n_rows; ++r) {
    const Vector sum = finished(p, load(sums + r * kPanel), column, out, extra);
    const Vector value = activated<kKind>(sum);
    store(out, value);
    if (next) split<1>(value, next, 0);
    out += p.ld_out;
    extra = extra ? extra + p.ld_extra : nullptr;
    next = next ? next + p.ld_next : nullptr;
  }
}

inline void finish_rows(const Product& p, int64_t row, int64_t n_rows, int64_t column, const float* sums) {
  switch (p.activation) {
    case kMish: finish_rows_as<kMish>(p, row, n_rows, column, sums); break;
    case kSilu: finish_rows_as<kSilu>(p, row, n_rows, column, sums); break;
    case kRelu: finish_rows_as<kRelu>(p, row, n_rows, column, sums); break;
    case kGelu: finish_rows_as<kGelu>(p, row, n_rows, column, sums); break;
    default: finish_rows_as<kNone>(p, row, n_rows, column, sums);
  }
}

template <int kSums, int kInputs, int kWeights>
inline void add_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kInputs), "i"(kWeights));
}

template <int kTiles, int kTile = 0>
inline void clear_tiles() {
  if constexpr (kTile < kTiles) {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
    clear_tiles<kTiles, kTile + 1>();
  }
}

// Products between two stores of sums. Beyond some 140 a store of any sum takes a thousand cycles more on Sapphire
// Rapids (measured; why is not known), so that a store that nobody reads saves a quarter of the time.
constexpr int64_t kMostBetweenStores = 96;

template <int kTiles, int kTile = 0>
inline void store_tiles(float* to) {
  if constexpr (kTile < kTiles) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)"
                 : : "i"(kTile), "r"(to + kTile * kTileRows * kPanel), "r"(int64_t{64}) : "memory");
    store_tiles<kTiles, kTile + 1>(to);
  }
}

// Tiles 0 to 3 are the sums of kGroups times kPanels, 4 and 5 inputs, 6 and 7 weights; 7 has inputs where one
// group is multiplied in pieces.

// Distances in words; not read from a Product, which after every instruction for tiles may have changed.
struct Strides {
  int64_t row, inputs_of_piece, panel, weights_of_piece;
};

// A block of two groups' inputs at `a` times its weights at `w`, in pieces.
template <int kPieces, int kPanels>
inline void multiply_two_groups(const Strides d, const uint32_t* a, const uint32_t* w) {
#pragma GCC unroll 3
  for (int j = 0; j < kPieces; ++j, w += d.weights_of_piece) {
    load_tile<6>(w, 64);
    if constexpr (kPanels == 2) load_tile<7>(w + d.panel, 64);
#pragma GCC unroll 3
    for (int i = 0; i < kPieces - j; ++i) {
      load_tile<4>(a + i * d.inputs_of_piece, d.row * 4);
      add_product<0, 4, 6>();
      if constexpr (kPanels == 2) add_product<1, 4, 7>();
      load_tile<5>(a + i * d.inputs_of_piece + kTileRows * d.row, d.row * 4);
      add_product<kPanels, 5, 6>();
      if constexpr (kPanels == 2) add_product<kPanels + 1, 5, 7>();
    }
  }
}

// One group, whose inputs are in tiles 4, 5 and 7, with each panel's weights, in the same order.
template <int kPanels, int kFrom = 0>
inline void multiply_panels_in_pieces(const Strides d, const uint32_t* w) {
  if constexpr (kFrom < kPanels) {
    load_tile<6>(w, 64);
    add_product<kFrom, 4, 6>();
    add_product<kFrom, 5, 6>();
    add_product<kFrom, 7, 6>();
    load_tile<6>(w + d.weights_of_piece, 64);
    add_product<kFrom, 4, 6>();
    add_product<kFrom, 5, 6>();
    load_tile<6>(w + 2 * d.weights_of_piece, 64);
    add_product<kFrom, 4, 6>();
    multiply_panels_in_pieces<kPanels, kFrom + 1>(d, w + d.panel);
  }
}

template <int kPanels, int kFrom = 0>
inline void multiply_panels_whole(const Strides d, const uint32_t* w) {
  if constexpr (kFrom < kPanels) {
    constexpr int kWeights = 6 + kFrom % 2;
    load_tile<kWeights>(w, 64);
    add_product<kFrom, 4, kWeights>();
    multiply_panels_whole<kPanels, kFrom + 1>(d, w + d.panel);
  }
}

template <int kPieces, int kGroups, int kPanels>
inline void multiply_block(const Strides d, const uint32_t* a, const uint32_t* w) {
  if constexpr (kGroups == 2) {
    multiply_two_groups<kPieces, kPanels>(d, a, w);
    return;
  }
  load_tile<4>(a, d.row * 4);
  if constexpr (kPieces == 1) {
    multiply_panels_whole<kPanels>(d, w);
  } else {
    load_tile<5>(a + d.inputs_of_piece, d.row * 4);
    load_tile<7>(a + 2 * d.inputs_of_piece, d.row * 4);
    multiply_panels_in_pieces<kPanels>(d, w);
  }
}

// The last block of each of four panels, where it is not whole: zeros behind it; of all pieces.
template <int kPieces>
struct LastBlocks {
  alignas(64) uint32_t words[kPieces][4][kBlock * kPanel];
};

// The sums of n_rows of kGroups * 16 rows.
template <int kPieces, int kGroups, int kPanels>
void tiled_product(const Product& p, int64_t row, int64_t n_rows, int64_t panel,
                   const LastBlocks<kPieces>& rest, int64_t place) {
  const int64_t n_pairs = (p.n_in + 1) / 2, whole = n_pairs / kBlock;
  const Strides d = {p.ld_words, p.words_of_piece, n_pairs * kPanel, p.weights_of_piece};
  const uint32_t* w = static_cast<const uint32_t*>(p.weights) + panel * d.panel;
  const uint32_t* a = p.words + row * p.ld_words;
  alignas(64) float sums[kGroups * kPanels * kTileRows * kPanel];
  constexpr int64_t kBetween = kMostBetweenStores / (kGroups * kPanels * kPieces * (kPieces + 1) / 2);
  clear_tiles<kGroups * kPanels>();
  for (int64_t k = 0; k < whole; ++k, a += kBlock, w += kBlock * kPanel) {
    if (k > 0 && k % kBetween == 0) store_tiles<1>(sums);
    multiply_block<kPieces, kGroups, kPanels>(d, a, w);
  }
  if (n_pairs % kBlock != 0) {
    const Strides last = {d.row, d.inputs_of_piece, kBlock * kPanel, 4 * kBlock * kPanel};
    multiply_block<kPieces, kGroups, kPanels>(last, a, rest.words[0][place]);
  }
  store_tiles<kGroups * kPanels>(sums);
  for (int group = 0; group < kGroups; ++group) {
    const int64_t rows = n_rows - group * kTileRows;
#pragma GCC unroll 4
    for (int j = 0; j < kPanels; ++j)
      finish_rows(p, row + group * kTileRows, rows < kTileRows ? rows : kTileRows,
                  (panel + j) * kPanel, sums + (group * kPanels + j) * kTileRows * kPanel);
  }
}

// Up to four panels from `panel` on: two by two where there are rows for two groups.
template <int kPieces>
inline void multiply_in_tiles(const Product& p, int64_t n_rows, int64_t panel, int64_t width,
                              LastBlocks<kPieces>& rest) {
  const int64_t n_pairs = (p.n_in + 1) / 2, n_left = n_pairs % kBlock;
  const uint32_t* w = static_cast<const uint32_t*>(p.weights) + panel * n_pairs * kPanel;
  for (int i = 0; n_left != 0 && i < kPieces; ++i, w += p.weights_of_piece)
    for (int64_t j = 0; j < width; ++j)
      memcpy(rest.words[i][j], w + ((j + 1) * n_pairs - n_left) * kPanel,
             sizeof(uint32_t) * n_left * kPanel);
  for (int64_t row = 0; row < n_rows; row += 2 * kTileRows) {
    const int64_t rows = n_rows - row < 2 * kTileRows ? n_rows - row : 2 * kTileRows;
    if (rows <= kTileRows) {
      switch (width) {
        case 4: tiled_product<kPieces, 1, 4>(p, row, rows, panel, rest, 0); break;
        case 3: tiled_product<kPieces, 1, 3>(p, row, rows, panel, rest, 0); break;
        case 2: tiled_product<kPieces, 1, 2>(p, row, rows, panel, rest, 0); break;
        default: tiled_product<kPieces, 1, 1>(p, row, rows, panel, rest, 0);
      }
      continue;
    }
    for (int64_t j = 0; j < width; j += 2) {
      if (width - j >= 2)
        tiled_product<kPieces, 2, 2>(p, row, rows, panel + j, rest, j);
      else
        tiled_product<kPieces, 2, 1>(p, row, rows, panel + j, rest, j);
    }
  }
}

#else
constexpr bool kHasMatrixUnit = false;

struct MatrixUnit {
  MatrixUnit(bool, int64_t, int64_t) {}
};

#endif

}  // namespace GP_ISA
}  // namespace genpolicy
