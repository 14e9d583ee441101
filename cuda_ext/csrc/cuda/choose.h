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
constexpr int64_t kWorkspaceRows = 32;

// Few rows are spread over many multiprocessors in small tiles; many rows go in tiles as large as
// shared memory allows, because a tile reads all weights once. What does not fit with the smallest
// tile has its registers in global memory, in the largest tiles.
inline Choice choose(int64_t row_floats, bool is_bf16, int64_t n_rows, const Device& device) {
  const int64_t row_bytes = ld_of(row_floats) * int64_t{sizeof(float)};
  const int64_t stream = kStreamWords * int64_t{sizeof(uint32_t)};
  const int64_t smallest = is_bf16 ? 16 : 8;
  auto tiles = [&](int64_t rows) { return (n_rows + rows - 1) / rows; };
  int64_t rows = 32;
  while (rows > smallest && (n_rows <= rows / 2 * device.n_multiprocessors ||
                             stream + rows * row_bytes > device.most_shared_bytes))
    rows /= 2;
  Choice choice;
  choice.is_shared = stream + rows * row_bytes <= device.most_shared_bytes;
  if (!choice.is_shared) rows = kWorkspaceRows;
  choice.rows = static_cast<int>(rows);
  choice.blocks = std::min(tiles(rows), kBlocksOfMultiprocessor * device.n_multiprocessors);
  choice.shared_bytes = stream + (choice.is_shared ? rows * row_bytes : 0);
  choice.workspace_bytes = choice.is_shared ? 0 : choice.blocks * rows * row_bytes;
  return choice;
}

}  // namespace cuda
}  // namespace genpolicy
