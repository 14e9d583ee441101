// Matrix products of a tile of rows with packed weights, which stream through shared memory.
//
// Weights are words of 4 bytes in panels of 16 outputs: a word is one float32, or two bfloat16 of
// successive inputs. Either way a panel is (depth, 16) words, so one stream serves both. A pass makes
// up to 256 outputs of all rows of the tile; the stream brings kDepth words of each output at a time,
// two pieces ahead of their use.
//
// Every output is summed over its inputs in their order, in one sum: a row's result depends neither on
// the batch, nor on the rows of a tile, nor on which block works on it.
#pragma once

#include "machine.cuh"

namespace genpolicy {
namespace cuda {

constexpr int kDepth = 16;    // words of an output in a piece of the stream
constexpr int kStages = 3;    // pieces in shared memory: in use, arrived, under way
constexpr int kColumns = 256;  // outputs of a pass
constexpr int kPanels = kColumns / kPanel;
// 8 more than the columns: the four rows of weights that a warp of the tensor cores reads at once then
// lie in different banks.
constexpr int kPieceLd = kColumns + 8;
constexpr int kPieceWords = kDepth * kPieceLd;
constexpr int kStreamWords = kStages * kPieceWords;

// A layer for all rows of a tile.
struct Product {
  const float* inputs;      // first row
  const uint32_t* weights;  // the layer's first panel
  int n_in;
  int depth;                // words of an output
  const float* vector;      // added to every row
  const float* extra;       // added to each row, or null
  float* out;
  bool accumulates;
  int ld;                   // from row to row, the same for all registers
  uint32_t* stream;         // kStreamWords words of shared memory
};

// A sum of products and what the product starts from: added first, a large one would round every term.
__device__ __forceinline__ float finished(const Product& p, int row, int column, float sum) {
  const int at = row * p.ld + column;
  sum += p.vector[column];
  if (p.extra) sum += p.extra[at];
  if (p.accumulates) sum += p.out[at];
  return sum;
}

// Asks for words `first` to `first + kDepth` of n_panels panels of `depth` words an output; those behind
// the last one become zero.
template <int kLd>
__device__ __forceinline__ void request_panels(uint32_t* stage, const uint32_t* weights, int depth,
                                               int first, int n_panels) {
  constexpr int kFours = kDepth * kPanel / 4;  // of a panel
#pragma unroll 1
  for (int i = threadIdx.x; i < n_panels * kFours; i += kThreads) {
    const int which = i / kFours, word = i % kFours / 4, four = i % 4;
    uint32_t* to = stage + word * kLd + which * kPanel + 4 * four;
    if (first + word < depth) {
      copy_later(to, weights + (int64_t{which} * depth + first + word) * kPanel + 4 * four);
    } else {
      *reinterpret_cast<Four<uint32_t>*>(to) = Four<uint32_t>{};
    }
  }
}

__device__ __forceinline__ void request(const Product& p, int piece, int panel, int n_panels) {
  request_panels<kPieceLd>(p.stream + piece % kStages * kPieceWords,
                           p.weights + int64_t{panel} * p.depth * kPanel, p.depth, piece * kDepth, n_panels);
}

// Calls use(piece, words) for every piece of n_panels panels, with the piece in shared memory.
template <class Use>
__device__ __forceinline__ void stream_pieces(const Product& p, int panel, int n_panels, Use use) {
  const int n_pieces = (p.depth + kDepth - 1) / kDepth;
  // Groups of copies may be empty, so that waiting for all but one always means the same piece.
#pragma unroll
  for (int piece = 0; piece < kStages - 1; ++piece) {
    if (piece < n_pieces) request(p, piece, panel, n_panels);
    end_of_copies();
  }
#pragma unroll 1
  for (int piece = 0; piece < n_pieces; ++piece) {
    wait_for_copies<kStages - 2>();
    // Every thread's copies have arrived, and every thread is done with the piece before this one,
    // whose place the next request takes.
    __syncthreads();
    if (piece + kStages - 1 < n_pieces) request(p, piece + kStages - 1, panel, n_panels);
    end_of_copies();
    use(piece, p.stream + piece % kStages * kPieceWords);
  }
  __syncthreads();  // before the next pass writes to the first places
}

// ---- float32: a thread sums kOwn rows by 4 columns in each of kGroups groups of columns ----------

template <int kRows, int kBeside = kRows == 32 ? 2 : 1>
struct Layout {
  static constexpr int kRowWarps = kBeside;               // warps beside each other in rows
  static constexpr int kSpan = kRows / kRowWarps;         // rows of a warp
  static constexpr int kOwn = kSpan / 4;                  // rows of a thread, 4 apart
  static constexpr int kWide = 32 * kWarps / kRowWarps;   // columns of a group
  static constexpr int kMostGroups = kColumns / kWide;
};

// Adds the products of n inputs with a piece of the weights. x is the first input of this thread's first
// row, w the thread's first column.
template <class L, int kGroups, int kLd>
__device__ __forceinline__ void add_piece_f32(const float* x, int ld, int n, const float* w,
                                              float (&sums)[kGroups][L::kOwn][4]) {
  auto one = [&](int k, int i, float value) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const auto b = *reinterpret_cast<const Four<float>*>(w + k * kLd + g * L::kWide);
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[g][i][j] = fused(value, b.at[j], sums[g][i][j]);
    }
  };
  int k = 0;
  // Four inputs of four rows are enough independent work; of two rows they are not.
#pragma unroll(L::kOwn <= 2 ? 2 : 1)
  for (; k + 4 <= n; k += 4) {
    Four<float> a[L::kOwn];
#pragma unroll
    for (int i = 0; i < L::kOwn; ++i) a[i] = *reinterpret_cast<const Four<float>*>(x + (4 * i * ld + k));
#pragma unroll
    for (int q = 0; q < 4; ++q)
#pragma unroll
      for (int i = 0; i < L::kOwn; ++i) one(k + q, i, a[i].at[q]);
  }
#pragma unroll 1
  for (; k < n; ++k)
#pragma unroll
    for (int i = 0; i < L::kOwn; ++i) one(k, i, x[4 * i * ld + k]);
}

template <int kRows, int kGroups>
__device__ __forceinline__ void pass_f32(const Product& p, int panel, int n_panels) {
  using L = Layout<kRows>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp % L::kRowWarps * L::kSpan + lane / 8;      // then every fourth
  const int column = warp / L::kRowWarps * 32 + lane % 8 * 4;     // of a group; 4 beside each other
  float sums[kGroups][L::kOwn][4] = {};
  bool is_there[kGroups];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) is_there[g] = g * L::kWide + column < n_panels * kPanel;
  const bool is_busy = is_there[0];
  stream_pieces(p, panel, n_panels, [&](int piece, const uint32_t* words) {
    if (!is_busy) return;
    const float* x = p.inputs + row * p.ld + piece * kDepth;
    const float* w = reinterpret_cast<const float*>(words) + column;
    const int left = p.n_in - piece * kDepth;
    const int n = left < kDepth ? left : kDepth;
    add_piece_f32<L, kGroups, kPieceLd>(x, p.ld, n, w, sums);
  });
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    if (!is_there[g]) continue;
    const int at = panel * int{kPanel} + g * L::kWide + column;
#pragma unroll
    for (int i = 0; i < L::kOwn; ++i) {
      Four<float> result;
#pragma unroll
      for (int j = 0; j < 4; ++j) result.at[j] = finished(p, row + 4 * i, at + j, sums[g][i][j]);
      *reinterpret_cast<Four<float>*>(p.out + (row + 4 * i) * p.ld + at) = result;
    }
  }
}

// ---- bfloat16: a warp sums all rows by 16 columns in each of kGroups groups of 128 ---------------

struct alignas(8) Two {
  float first, second;
};

// Two successive inputs of a row as bfloat16; what lies behind the layer's inputs may hold anything.
template <bool kWhole>
__device__ __forceinline__ uint32_t inputs_of(const float* x, int row, int k, int n_in) {
  if constexpr (kWhole) {
    const auto both = *reinterpret_cast<const Two*>(x + (row + k));
    return pair_of_bf16(both.first, both.second);
  }
  return pair_of_bf16(k < n_in ? x[row + k] : 0.0f, k + 1 < n_in ? x[row + k + 1] : 0.0f);
}

// Adds the products of the inputs [first, first + 2 kDepth) of n with a piece of the weights. x is the
// first row.
template <int kRows, int kGroups, int kLd, bool kWhole>
__device__ __forceinline__ void add_piece_bf16(const float* x, int ld, int first, int n,
                                               const uint32_t* words, int n_panels,
                                               float (&sums)[kGroups][2][kRows / 16][4]) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  // Unrolled, the largest kernels would have more addresses than registers.
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {  // 16 inputs, 8 words, each
    uint32_t a[kRows / 16][4];
    const int k = first + 2 * (half * 8 + q);
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[m][i] = inputs_of<kWhole>(x, (16 * m + g + i % 2 * 8) * ld, k + i / 2 * 8, n);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const int which = warp + group * kWarps;
      if (which >= n_panels) continue;  // for the whole warp
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const uint32_t* b = words + (half * 8 + q) * kLd + which * kPanel + part * 8 + g;
#pragma unroll
        for (int m = 0; m < kRows / 16; ++m)
          multiply_16x8x16(sums[group][part][m], a[m], b[0], b[4 * kLd]);
      }
    }
  }
}

template <int kRows, int kGroups>
__device__ __forceinline__ void pass_bf16(const Product& p, int panel, int n_panels) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  float sums[kGroups][2][kRows / 16][4] = {};
  auto each = [&](auto use) {  // use(sum, row, column) for all sums of this thread
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      if (warp + group * kWarps >= n_panels) continue;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int m = 0; m < kRows / 16; ++m)
#pragma unroll
          for (int i = 0; i < 4; ++i)
            use(sums[group][n][m][i], 16 * m + g + i / 2 * 8,
                (panel + warp + group * kWarps) * int{kPanel} + n * 8 + 2 * q + i % 2);
    }
  };
  stream_pieces(p, panel, n_panels, [&](int piece, const uint32_t* words) {
    if (warp >= n_panels) return;
    const int first = piece * 2 * kDepth;
    if (first + 2 * kDepth <= p.n_in)
      add_piece_bf16<kRows, kGroups, kPieceLd, true>(p.inputs, p.ld, first, p.n_in, words, n_panels, sums);
    else
      add_piece_bf16<kRows, kGroups, kPieceLd, false>(p.inputs, p.ld, first, p.n_in, words, n_panels, sums);
  });
  each([&](float sum, int row, int column) { p.out[row * p.ld + column] = finished(p, row, column, sum); });
}

// All outputs of a layer; ends with all threads together.
template <int kRows, bool kBf16>
__device__ __forceinline__ void multiply(const Product& p, int n_out) {
  constexpr int kMost = kBf16 ? kPanels / kWarps : Layout<kRows>::kMostGroups;
  const int all = (n_out + int{kPanel} - 1) / int{kPanel};
#pragma unroll 1
  for (int panel = 0; panel < all; panel += kPanels) {
    const int n_panels = all - panel < kPanels ? all - panel : kPanels;
    const bool is_narrow = n_panels <= kPanels / kMost;
    if constexpr (kBf16) {
      if (is_narrow)
        pass_bf16<kRows, 1>(p, panel, n_panels);
      else
        pass_bf16<kRows, kMost>(p, panel, n_panels);
    } else {
      if (is_narrow)
        pass_f32<kRows, 1>(p, panel, n_panels);
      else
        pass_f32<kRows, kMost>(p, panel, n_panels);
    }
  }
  __syncthreads();
}

}  // namespace cuda
}  // namespace genpolicy
