// How a batch is spread over a device: rows of a tile, where its registers are, blocks. Host only.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tile.cuh"

namespace genpolicy {
namespace cuda {

// What the choice needs to know of a device.
struct Device {
  int64_t n_multiprocessors;
  int64_t most_shared_bytes;  // of a block
};

struct Choice {
  int rows;          // of a tile
  bool is_shared;    // registers in shared memory, else in a workspace
  int64_t blocks;
  int64_t shared_bytes;
  int64_t workspace_bytes;  // of registers
};

constexpr int64_t kBlocksOfMultiprocessor = 2;  // of the kernels' __launch_bounds__
constexpr int64_t kMostRows = 32;

// Rows of the smallest tile: what 8 warps share without idling, or the tensor cores' 16.
constexpr int64_t smallest_tile(bool is_bf16) { return is_bf16 ? 16 : 8; }

// A tile reads all weights once per evaluation, whatever its rows. Few rows are spread over many
// multiprocessors in small tiles. Many rows go in tiles of 32, or of 16 where that keeps registers in
// shared memory; smaller ones would read weights faster than the second cache gives them, and global
// memory for the registers is the lesser evil.
inline Choice choose(int64_t row_floats, bool is_bf16, int64_t n_rows, const Device& device) {
  const int64_t row_bytes = ld_of(row_floats) * int64_t{sizeof(float)};
  const int64_t stream = kStreamWords * int64_t{sizeof(uint32_t)};
  const int64_t smallest = smallest_tile(is_bf16);
  auto tiles = [&](int64_t rows) { return (n_rows + rows - 1) / rows; };
  auto fits = [&](int64_t rows) { return stream + rows * row_bytes <= device.most_shared_bytes; };
  int64_t rows = kMostRows;
  while (rows > smallest && n_rows <= rows / 2 * device.n_multiprocessors) rows /= 2;
  if (rows == kMostRows && !fits(rows) && fits(rows / 2)) rows /= 2;
  if (rows < kMostRows && !fits(rows)) rows = smallest;
  Choice choice;
  choice.is_shared = fits(rows);
  choice.rows = static_cast<int>(rows);
  choice.blocks = std::min(tiles(rows), kBlocksOfMultiprocessor * device.n_multiprocessors);
  choice.shared_bytes = stream + (choice.is_shared ? rows * row_bytes : 0);
  choice.workspace_bytes = choice.is_shared ? 0 : choice.blocks * rows * row_bytes;
  return choice;
}

}  // namespace cuda
}  // namespace genpolicy
