// A program as jobs for all blocks of a device: what is done together, and where blocks wait.
//
// A job is an instruction on rows, or products: layers or convolutions into the same sums, with the
// group norm, activation and residual sum behind them. Products are divided into items of a tile of
// rows, a block of columns and, for few rows, a chunk of the inputs; whoever finishes the last item of a
// unit adds its chunks up and does what is behind. Blocks wait for each other only before jobs that need
// what was written, or overwrite what was read, since they waited last.
//
// An output is the sum over chunks of the sums of their inputs, in order, however the items are divided:
// chunks depend on the layer alone. So a row is the same bit for bit in every batch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "../program.h"

namespace genpolicy {
namespace cuda {

constexpr int kMostColumns = 128;  // of an item
constexpr int kMostChunks = 32;
constexpr int kFewestPieces = 4;   // of a chunk

struct Job {
  int32_t waits;         // for all blocks, before it
  int32_t first;         // instruction
  int32_t n_sums;        // layers or convolutions; 0 for an instruction on rows
  int32_t has_norm;      // the instruction behind them
  int32_t unit;          // columns that are finished together
  int32_t n_units;
  int32_t columns;       // of an item
  int32_t n_blocks;      // items beside each other in a unit
  int32_t chunk;         // pieces of a chunk
  int32_t n_chunks;
  int32_t is_split;      // an item is one chunk, else all of them
  int32_t length;        // positions of a row
  int32_t offset;        // which block begins
  int32_t counters;      // first of its counters
  int64_t partials;      // first of its sums of chunks
};

// How rows lie in the tiles of a job: whole rows together, or several tiles for a row.
struct RowTiles {
  int32_t rows;    // of a group
  int32_t tiles;   // of a group
  int32_t groups;
};

GP_HD RowTiles row_tiles(int length, int n_rows, int tile) {
  RowTiles t;
  t.rows = length <= tile ? tile / length : 1;
  t.tiles = length <= tile ? 1 : (length + tile - 1) / tile;
  t.groups = (n_rows + t.rows - 1) / t.rows;
  return t;
}

// Words of an output that a layer or one tap of a convolution has, and floats of its inputs.
GP_HD int inputs_of_tap(const int64_t* i) {
  return static_cast<int>(i[kFieldOp] == kOpLinear ? i[kFieldIn] : padded(i[kFieldIn]));
}
GP_HD int words_of_tap(const int64_t* i, bool is_bf16) {
  const int n = inputs_of_tap(i);
  return is_bf16 ? (n + 1) / 2 : n;
}
GP_HD int taps_of(const int64_t* i) {
  return i[kFieldOp] == kOpLinear ? 1 : static_cast<int>(i[kFieldTaps]);
}
GP_HD int pieces_of(const int64_t* i, bool is_bf16) {
  return taps_of(i) * ((words_of_tap(i, is_bf16) + 15) / 16);
}

// ---- Host only -------------------------------------------------------------------------------------

struct Schedule {
  std::vector<Job> jobs;  // those of the prologue, then those of an evaluation
  int64_t n_prologue = 0;
  int64_t n_counters = 0;
  int64_t n_partials = 0;
};

// Which registers a job reads and writes.
class Touched {
 public:
  explicit Touched(int64_t n_registers) : reads_(n_registers), writes_(n_registers) {}

  void read(int64_t reg) {
    if (reg >= 0) reads_[reg] = true;
  }
  void write(int64_t reg) {
    if (reg >= 0) writes_[reg] = true;
  }
  void add(const int64_t* i) {
    for (const int64_t field : {kFieldSrc, kFieldSrc2, kFieldSrc3}) read(i[field]);
    write(i[kFieldDst]);
    switch (i[kFieldOp]) {
      case kOpPresent: write(i[kFieldSrc]); break;
      case kOpInput: read(kRegState), read(kRegStage); break;
      case kOpCombine: write(kRegDenoised); break;
      default: break;
    }
  }
  void add(const Touched& other) {
    for (size_t r = 0; r < reads_.size(); ++r) {
      reads_[r] = reads_[r] || other.reads_[r];
      writes_[r] = writes_[r] || other.writes_[r];
    }
  }
  // Whether the order of the two matters.
  bool meets(const Touched& other) const {
    for (size_t r = 0; r < reads_.size(); ++r)
      if ((writes_[r] && (other.reads_[r] || other.writes_[r])) || (reads_[r] && other.writes_[r])) return true;
    return false;
  }
  bool reads(int64_t reg) const { return reads_[reg]; }

 private:
  std::vector<char> reads_, writes_;
};

inline bool is_product(const int64_t* i) { return i[kFieldOp] == kOpLinear || i[kFieldOp] == kOpConvolve; }

// How many of the instructions from `first` on make one job.
inline Job gathered(const Program& p, int64_t first, int64_t end) {
  Job job = {};
  job.first = static_cast<int32_t>(first);
  const int64_t* head = p.instruction(first);
  job.length = 1;
  if (!is_product(head)) return job;
  job.n_sums = 1;
  if (head[kFieldOp] == kOpLinear) return job;
  job.length = static_cast<int32_t>(head[kFieldLength]);
  int64_t next = first + 1;
  auto reads = [&](int64_t reg) {
    for (int64_t k = first; k < first + job.n_sums; ++k)
      if (p.instruction(k)[kFieldSrc] == reg) return true;
    return false;
  };
  for (; next < end; ++next, ++job.n_sums) {
    const int64_t* i = p.instruction(next);
    bool fits = i[kFieldOp] == kOpConvolve && i[kFieldAccumulate] != 0 && i[kFieldSrc] != head[kFieldDst];
    for (const int64_t field : {kFieldDst, kFieldOut, kFieldLength, kFieldEvery, kFieldPlace})
      fits = fits && i[field] == head[field];
    if (!fits) break;
  }
  if (next < end) {
    const int64_t* i = p.instruction(next);
    // Its result goes where blocks may still read inputs: then it is a job of its own.
    job.has_norm = i[kFieldOp] == kOpGroupNorm && i[kFieldSrc] == head[kFieldDst] &&
                   i[kFieldOut] == head[kFieldOut] && i[kFieldLength] == head[kFieldLength] &&
                   head[kFieldEvery] == 1 && head[kFieldPlace] == 0 && !reads(i[kFieldDst]) &&
                   i[kFieldSrc2] != head[kFieldDst] && i[kFieldSrc3] != head[kFieldDst];
  }
  return job;
}

// How a job's products are divided between n_blocks blocks.
inline void divide(const Program& p, Job* job, int n_rows, int tile, int64_t n_blocks) {
  const bool is_bf16 = p.is_bf16();
  const int64_t* head = p.instruction(job->first);
  const auto out = static_cast<int32_t>(padded(head[kFieldOut]));
  int64_t n_pieces = 0;
  for (int k = 0; k < job->n_sums; ++k) n_pieces += pieces_of(p.instruction(job->first + k), is_bf16);
  job->chunk = static_cast<int32_t>(
      std::max<int64_t>(kFewestPieces, (n_pieces + kMostChunks - 1) / kMostChunks));
  job->n_chunks = static_cast<int32_t>((n_pieces + job->chunk - 1) / job->chunk);
  int32_t least = kPanel;  // columns with whole panels and whole groups
  if (job->has_norm) {
    const int64_t* norm = p.instruction(job->first + job->n_sums);
    const auto group = static_cast<int32_t>(norm[kFieldOut] / norm[kFieldIn]);
    least = std::min(out, std::lcm(int32_t{kPanel}, group));
  }
  const RowTiles tiles = row_tiles(job->length, n_rows, tile);
  auto items = [&](int32_t columns) {
    job->columns = columns;
    job->unit = least >= columns ? least : columns / least * least;
    job->n_units = (out + job->unit - 1) / job->unit;
    job->n_blocks = (job->unit + columns - 1) / columns;
    return int64_t{tiles.groups} * tiles.tiles * job->n_units * job->n_blocks;
  };
  job->is_split = job->n_chunks > 1 && 2 * items(kMostColumns) < n_blocks;
  for (int32_t columns = kMostColumns; columns > 32 && items(columns) * (job->is_split ? job->n_chunks : 1) < n_blocks;)
    items(columns /= 2);
}

// The jobs of a program for up to n_rows rows at a time, in tiles of `tile`.
inline Schedule schedule(const Program& p, int n_rows, int tile, int64_t n_blocks) {
  Schedule found;
  const int64_t n_prologue = p.head(kHeadPrologue), end = n_prologue + p.head(kHeadBody);
  Touched since(p.head(kHeadRegisters));
  int64_t counters = 0, partials = 0, items = 0;  // since blocks waited last
  for (int64_t first = 0; first < end;) {
    const bool in_body = first >= n_prologue;
    Job job = gathered(p, first, in_body ? end : n_prologue);
    Touched here(p.head(kHeadRegisters));
    const int64_t n = std::max(1, job.n_sums) + job.has_norm;
    for (int64_t k = 0; k < n; ++k) here.add(p.instruction(first + k));
    job.waits = since.meets(here);
    if (first == n_prologue) {  // the loop begins with everything settled
      job.waits = false;
      found.n_prologue = static_cast<int64_t>(found.jobs.size());
    }
    if (job.waits || first == n_prologue) {
      since = Touched(p.head(kHeadRegisters));
      counters = partials = items = 0;
    }
    since.add(here);
    if (job.n_sums > 0) {
      divide(p, &job, n_rows, tile, n_blocks);
      const RowTiles tiles = row_tiles(job.length, n_rows, tile);
      const int64_t n_tiles = int64_t{tiles.groups} * tiles.tiles;
      job.offset = static_cast<int32_t>(items % n_blocks);
      job.counters = static_cast<int32_t>(counters);
      job.partials = partials;
      items += n_tiles * job.n_units * job.n_blocks * (job.is_split ? job.n_chunks : 1);
      counters += int64_t{tiles.groups} * job.n_units;
      if (job.is_split)
        partials += n_tiles * tile * padded(p.instruction(first)[kFieldOut]) * job.n_chunks;
      found.n_counters = std::max(found.n_counters, counters);
      found.n_partials = std::max(found.n_partials, partials);
    }
    found.jobs.push_back(job);
    first += n;
  }
  if (n_prologue == end) found.n_prologue = static_cast<int64_t>(found.jobs.size());
  return found;
}

}  // namespace cuda
}  // namespace genpolicy
