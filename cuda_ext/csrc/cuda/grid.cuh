// Running a program for a few rows on all blocks of a device together: networks whose weights are more
// than one multiprocessor reads in time. The jobs are those of jobs.h.
#pragma once

#include "grid_sums.cuh"
#include "group_norm.cuh"

namespace genpolicy {
namespace cuda {

constexpr int kGridStages = 4;

template <int kRows, bool kBf16>
struct Grid {
  using S = Sums<kRows, kBf16>;
  static constexpr int kStageWords = kDepth * kGridLd + kRows * S::kInputLd;
  static constexpr int kSharedWords = kGridStages * kStageWords + 4;  // and two counters

  const GridArguments& arguments;
  const Machine<GridTeam> machine;
  uint32_t* const shared;

  // Where an item is: the tile's first row and place in it, the columns, the chunks.
  struct Item {
    int group, tile, unit, column, n_panels, piece, end;
  };

  __device__ __forceinline__ RowTiles tiles_of(const Job& job, int n_rows) const {
    return row_tiles(job.length, n_rows, kRows);
  }

  // The row and position of a place in a tile; row -1 behind the last.
  struct Place {
    int row, position;
  };
  __device__ __forceinline__ Place place_of(const Job& job, const RowTiles& tiles, const Item& item, int m,
                                            int n_rows) const {
    const int at = item.tile * kRows + m, row = item.group * tiles.rows + at / job.length;
    const bool is_there = at < tiles.rows * job.length && row < n_rows;
    return Place{is_there ? row : -1, at % job.length};
  }

  // A piece of the inputs and weights of a job: `tap` and `word` of one of its sums.
  struct Piece {
    int sum, tap, word;

    __device__ __forceinline__ void advance(const Program& p, const Job& job) {
      const int64_t* i = p.instruction(job.first + sum);
      word += kDepth;
      if (word < words_of_tap(i, kBf16)) return;
      word = 0;
      if (++tap < taps_of(i)) return;
      tap = 0;
      ++sum;
    }
  };

  __device__ __forceinline__ Piece piece_at(const Job& job, int number) const {
    Piece piece{0, 0, 0};
    for (;; ++piece.sum) {
      const int64_t* i = machine.program.instruction(job.first + piece.sum);
      const int n = pieces_of(i, kBf16);
      if (number < n) {
        const int of_tap = (words_of_tap(i, kBf16) + kDepth - 1) / kDepth;
        piece.tap = number / of_tap;
        piece.word = number % of_tap * kDepth;
        return piece;
      }
      number -= n;
    }
  }

  __device__ __forceinline__ void request_piece(uint32_t* stage, const Job& job, const RowTiles& tiles,
                                                const Item& item, const Piece& piece, int n_rows) const {
    const Program& program = machine.program;
    const int64_t* i = program.instruction(job.first + piece.sum);
    const bool is_layer = i[kFieldOp] == kOpLinear;
    const int n_in = inputs_of_tap(i), depth = words_of_tap(i, kBf16);
    const int64_t n_out = padded(i[kFieldOut]);
    const uint32_t* weights = static_cast<const uint32_t*>(program.weights) +
                              i[kFieldWeights] / (kBf16 ? 2 : 1) + piece.tap * n_out * depth;
    request_panels<kGridLd>(stage, weights + int64_t{item.column} * depth, depth, piece.word, item.n_panels);
    float* const inputs = reinterpret_cast<float*>(stage + kDepth * kGridLd);
    const float* const src = machine.at(i[kFieldSrc]);
    const int step = is_layer ? 0 : static_cast<int>(strided(i[kFieldIn]));
    const int positions = is_layer ? 1 : static_cast<int>(program.positions(i[kFieldSrc], i[kFieldIn]));
    const int hop = is_layer ? 0 : static_cast<int>(i[kFieldHop]);
    const int shift = is_layer ? 0 : piece.tap - static_cast<int>(i[kFieldBefore]);
    const int first = piece.word * (kBf16 ? 2 : 1);
    constexpr int kFours = S::kInputs / 4;
#pragma unroll 1
    for (int n = threadIdx.x; n < kRows * kFours; n += kThreads) {
      const int m = n / kFours, k = first + n % kFours * 4;
      const Place place = place_of(job, tiles, item, m, n_rows);
      const int seen = place.position * hop + shift;
      const bool is_inside = place.row >= 0 && seen >= 0 && seen < positions;
      const float* from = src + (place.row * machine.ld + seen * step + k);
      float* to = inputs + m * S::kInputLd + n % kFours * 4;
      if (is_inside && k + 4 <= n_in) {
        copy_later(reinterpret_cast<uint32_t*>(to), reinterpret_cast<const uint32_t*>(from));
      } else {
#pragma unroll 1
        for (int j = 0; j < 4; ++j) to[j] = is_inside && k + j < n_in ? from[j] : 0.0f;
      }
    }
  }

  // The sums of an item's chunks, each summed by itself.
  __device__ __forceinline__ void sum_up(const Job& job, const RowTiles& tiles, const Item& item, int n_rows,
                                         S& totals) const {
    S sums = {};
    Piece next = piece_at(job, item.piece);
    auto stage_of = [&](int piece) { return shared + (piece - item.piece) % kGridStages * kStageWords; };
    auto request_next = [&](int piece) {
      if (piece < item.end) {
        request_piece(stage_of(piece), job, tiles, item, next, n_rows);
        next.advance(machine.program, job);
      }
      end_of_copies();
    };
#pragma unroll 1
    for (int piece = item.piece; piece < item.piece + kGridStages - 1; ++piece) request_next(piece);
#pragma unroll 1
    for (int piece = item.piece; piece < item.end; ++piece) {
      wait_for_copies<kGridStages - 2>();
      __syncthreads();  // see stream_pieces
      request_next(piece + kGridStages - 1);
      const uint32_t* const stage = stage_of(piece);
      sums.add(reinterpret_cast<const float*>(stage + kDepth * kGridLd), stage, item.n_panels);
      if ((piece + 1) % job.chunk == 0 || piece + 1 == item.end) totals.take(sums);
    }
    __syncthreads();  // before another item requests its first pieces
  }

  // Where a result goes, and the result of a sum of products.
  __device__ __forceinline__ float* result_at(const int64_t* i, const Place& place, int column) const {
    const int at = i[kFieldOp] == kOpLinear
                       ? 0
                       : (place.position * static_cast<int>(i[kFieldEvery]) + static_cast<int>(i[kFieldPlace])) *
                             static_cast<int>(strided(i[kFieldOut]));
    return machine.at(i[kFieldDst]) + (place.row * machine.ld + at + column);
  }
  __device__ __forceinline__ void finish(const Job& job, int e, const Place& place, int column,
                                         float total) const {
    const Program& program = machine.program;
    const int64_t* head = program.instruction(job.first);
    float* to = result_at(head, place, column);
    float value = total;
#pragma unroll 1
    for (int k = 0; k < job.n_sums; ++k) {
      const int64_t* i = program.instruction(job.first + k);
      value += program.vectors[i[kFieldVector] + e * i[kFieldStride] + column];
    }
    if (head[kFieldOp] == kOpLinear && head[kFieldSrc2] >= 0)
      value += machine.at(head[kFieldSrc2])[place.row * machine.ld + column];
    if (head[kFieldAccumulate] != 0) value += *to;
    *to = value;
  }

  // Whether this block has done the last item of a unit; if so, it sees what the others wrote.
  __device__ __forceinline__ bool is_last(uint32_t* counter, int n_items) const {
    uint32_t* const told = shared + kGridStages * kStageWords + 1;
    __syncthreads();
    if (threadIdx.x == 0) {
      *told = count_up(counter) + 1 == static_cast<uint32_t>(n_items);
      if (*told) *counter = 0;  // for a later job; blocks wait for each other before it
    }
    __syncthreads();
    const bool found = *told != 0;
    __syncthreads();
    return found;
  }

  __device__ __forceinline__ float* partials_of(const Job& job, const RowTiles& tiles, int chunk, int tile) const {
    const int64_t n_out = padded(machine.program.instruction(job.first)[kFieldOut]);
    const int64_t n_tiles = int64_t{tiles.groups} * tiles.tiles;
    return arguments.partials + job.partials + (chunk * n_tiles + tile) * kRows * n_out;
  }

  // Adds up the chunks of a unit.
  __device__ __forceinline__ void reduce(const Job& job, const RowTiles& tiles, Item item, int e, int first,
                                         int width, int n_rows) const {
    const auto n_out = static_cast<int>(padded(machine.program.instruction(job.first)[kFieldOut]));
    const int fours = width / 4;
#pragma unroll 1
    for (int n = threadIdx.x; n < tiles.tiles * kRows * fours; n += kThreads) {
      const int m = n / fours % kRows, column = first + n % fours * 4;
      item.tile = n / fours / kRows;
      const Place place = place_of(job, tiles, item, m, n_rows);
      if (place.row < 0) continue;
      const int tile = item.group * tiles.tiles + item.tile;
      float totals[4] = {};
#pragma unroll 4
      for (int chunk = 0; chunk < job.n_chunks; ++chunk) {
        const float* from = partials_of(job, tiles, chunk, tile) + m * n_out + column;
        const auto four = *reinterpret_cast<const Four<float>*>(from);
#pragma unroll
        for (int j = 0; j < 4; ++j) totals[j] += four.at[j];
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) finish(job, e, place, column + j, totals[j]);
    }
    __syncthreads();
  }

  template <int64_t kKind>
  __device__ __forceinline__ void activate_as(const Job& job, int group, int first, int width) const {
    float* const row = machine.at(machine.program.instruction(job.first)[kFieldDst]) + first;
#pragma unroll 1
    for (int n = threadIdx.x; n < kRows * width; n += kThreads) {
      const int r = group * kRows + n / width;
      if (r >= machine.team.rows()) break;
      float* const at = row + (r * machine.ld + n % width);
      *at = activated<kKind>(*at);
    }
  }

  __device__ __forceinline__ void activate(int64_t kind, const Job& job, int group, int first, int width) const {
    switch (kind) {
      case kMish: activate_as<kMish>(job, group, first, width); break;
      case kSilu: activate_as<kSilu>(job, group, first, width); break;
      case kRelu: activate_as<kRelu>(job, group, first, width); break;
      case kGelu: activate_as<kGelu>(job, group, first, width); break;
    }
  }

  __device__ __forceinline__ void multiply(const Job& job, int e, int n_rows) const {
    const Program& program = machine.program;
    const int64_t* head = program.instruction(job.first);
    const auto n_out = static_cast<int>(padded(head[kFieldOut]));
    const RowTiles tiles = tiles_of(job, n_rows);
    const int n_tiles = tiles.groups * tiles.tiles, n_pieces = pieces_of_job(job);
    const int n_chunks = job.is_split ? job.n_chunks : 1;
    const int n_items = n_tiles * n_chunks * job.n_blocks * job.n_units;
    const bool is_layer = head[kFieldOp] == kOpLinear;
    const bool is_finished = !job.has_norm && !job.is_split && !(is_layer && head[kFieldActivation] != kNone);
    const int begin = static_cast<int>(blockIdx.x) - job.offset;
#pragma unroll 1
    for (int n = begin < 0 ? begin + static_cast<int>(gridDim.x) : begin; n < n_items;
         n += static_cast<int>(gridDim.x)) {
      // Blocks beside each other work on other rows with the same weights.
      const int tile = n % n_tiles, chunk = n / n_tiles % n_chunks, block = n / n_tiles / n_chunks;
      Item item;
      item.group = tile / tiles.tiles;
      item.tile = tile % tiles.tiles;
      item.unit = block / job.n_blocks;
      const int first = item.unit * job.unit, left = n_out - first;
      const int width = left < job.unit ? left : job.unit;
      item.column = first + block % job.n_blocks * job.columns;
      const int behind = first + width - item.column;
      if (behind <= 0) continue;  // the last unit has fewer blocks
      item.n_panels = (behind < job.columns ? behind : job.columns) / int{kPanel};
      item.piece = job.is_split ? chunk * job.chunk : 0;
      item.end = job.is_split && (chunk + 1) * job.chunk < n_pieces ? (chunk + 1) * job.chunk : n_pieces;
      S totals = {};
      sum_up(job, tiles, item, n_rows, totals);
      if (job.is_split) {
        float* const to = partials_of(job, tiles, chunk, tile) + item.column;
        totals.each(item.n_panels, [&](const float* run, int row, int column) {
#pragma unroll
          for (int j = 0; j < S::kRun; ++j) to[row * n_out + column + j] = run[j];
        });
      } else {
        totals.each(item.n_panels, [&](const float* run, int row, int column) {
          const Place place = place_of(job, tiles, item, row, n_rows);
          if (place.row < 0) return;
#pragma unroll
          for (int j = 0; j < S::kRun; ++j) finish(job, e, place, item.column + column + j, run[j]);
        });
      }
      if (is_finished) continue;
      const int n_beside = (width + job.columns - 1) / job.columns;
      uint32_t* const counter = arguments.counters + job.counters + item.group * job.n_units + item.unit;
      if (!is_last(counter, tiles.tiles * n_beside * n_chunks)) continue;
      if (job.is_split) reduce(job, tiles, item, e, first, width, n_rows);
      if (job.has_norm)
        normalize(machine, program.instruction(job.first + job.n_sums), tiles, item.group, first, width, n_rows);
      else if (is_layer)
        activate(head[kFieldActivation], job, item.group, first, width);
    }
  }

  __device__ __forceinline__ int pieces_of_job(const Job& job) const {
    int n = 0;
#pragma unroll 1
    for (int k = 0; k < job.n_sums; ++k) n += pieces_of(machine.program.instruction(job.first + k), kBf16);
    return n;
  }

  // A group norm that is not behind products: blocks take rows.
  __device__ __forceinline__ void normalize_rows(const int64_t* i, int n_rows) const {
    const RowTiles one{1, 1, n_rows};
#pragma unroll 1
    for (int row = blockIdx.x; row < n_rows; row += gridDim.x)
      normalize(machine, i, one, row, 0, static_cast<int>(i[kFieldOut]), n_rows);
  }

  // Between rows of positions and grids.
  __device__ __forceinline__ void copy_grid(const int64_t* i, int n_rows) const {
    const bool spreads = i[kFieldOp] == kOpSpread;
    const auto n = static_cast<int>(i[kFieldOut]), all = n * static_cast<int>(i[kFieldLength]);
    const auto step = static_cast<int>(strided(n));
    float* const grid = machine.at(i[spreads ? kFieldDst : kFieldSrc]);
    float* const flat = machine.at(i[spreads ? kFieldSrc : kFieldDst]);
    machine.team.on_each(n_rows * all, [&](int place) {
      const int row = place / all * machine.ld, k = place % all;
      float* const there = grid + (row + k / n * step + k % n);
      float* const here = flat + (row + k);
      if (spreads)
        *there = *here;
      else
        *here = *there;
    });
  }

  __device__ __forceinline__ void sample(int tile) const {
    machine.sample(tile, [&](int e) {
      const int n_rows = machine.rows_of(tile);
      const int end = e < 0 ? arguments.n_prologue : arguments.n_jobs;
#pragma unroll 1
      for (int number = e < 0 ? 0 : arguments.n_prologue; number < end; ++number) {
        const Job& job = arguments.jobs[number];
        if (job.waits) machine.team.settle();
        const int64_t* i = machine.program.instruction(job.first);
        if (job.n_sums > 0)
          multiply(job, e < 0 ? 0 : e, n_rows);
        else if (i[kFieldOp] == kOpGroupNorm)
          normalize_rows(i, n_rows);
        else if (i[kFieldOp] == kOpSpread || i[kFieldOp] == kOpGather)
          copy_grid(i, n_rows);
        else
          machine.run(i, e < 0 ? 0 : e);
      }
    });
  }
};

}  // namespace cuda
}  // namespace genpolicy
