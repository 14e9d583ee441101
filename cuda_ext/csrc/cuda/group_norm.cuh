// Group norms of grids, a warp for each group of a row.
#pragma once

#include "grid_team.cuh"

namespace genpolicy {
namespace cuda {

template <int64_t kKind>
__device__ __forceinline__ void normalize_as(const Machine<GridTeam>& machine, const int64_t* i,
                                             const RowTiles& tiles, int group_of_rows, int first,
                                             int width, int n_rows) {
  const Program& program = machine.program;
  const auto out = static_cast<int>(i[kFieldOut]), wide = static_cast<int>(padded(out));
  const int n = out / static_cast<int>(i[kFieldIn]), ld = static_cast<int>(strided(out));
  const auto length = static_cast<int>(i[kFieldLength]);
  const int last = first + width < out ? first + width : out, n_groups = (last - first) / n;
  const float count = static_cast<float>(n * length), eps = static_cast<float>(bits_of<double>(i[kFieldExtra]));
  const float* const gain = program.vectors + i[kFieldVector];
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int pair = threadIdx.x / 32; pair < tiles.rows * n_groups; pair += kWarps) {
    const int row = group_of_rows * tiles.rows + pair / n_groups, channel = first + pair % n_groups * n;
    if (row >= n_rows) continue;
    const float* src = machine.at(i[kFieldSrc]) + row * machine.ld + channel;
    float total = 0.0f, squares = 0.0f;
#pragma unroll 4
    for (int k = lane; k < n * length; k += 32) total += src[k / n * ld + k % n];
    const float mean = sum_of<32>(total) / count;
#pragma unroll 4
    for (int k = lane; k < n * length; k += 32) {
      const float d = src[k / n * ld + k % n] - mean;
      squares = squares + d * d;
    }
    const float scale = 1.0f / root(sum_of<32>(squares) / count + eps);
    float* const dst = machine.at(i[kFieldDst]) + row * machine.ld + channel;
    const float* const film =
        i[kFieldSrc3] < 0 ? nullptr
                          : machine.at(i[kFieldSrc3]) + row * machine.ld + i[kFieldPlace] + channel;
    const float* const added =
        i[kFieldSrc2] < 0 ? nullptr : machine.at(i[kFieldSrc2]) + row * machine.ld + channel;
#pragma unroll 1
    for (int k = lane; k < n * length; k += 32) {
      const int c = k % n, at = k / n * ld + c;
      float value = activated<kKind>((src[at] - mean) * scale * gain[channel + c] + gain[wide + channel + c]);
      if (film) value = value * film[c] + film[wide + c];
      if (added) value += added[at];
      dst[at] = value;
    }
  }
}

// Group norm, activation, factors and shifts, residual sum of some channels of a group of rows.
__device__ __forceinline__ void normalize(const Machine<GridTeam>& machine, const int64_t* i,
                                          const RowTiles& tiles, int group, int first, int width,
                                          int n_rows) {
  switch (i[kFieldActivation]) {
    case kMish: normalize_as<kMish>(machine, i, tiles, group, first, width, n_rows); break;
    case kSilu: normalize_as<kSilu>(machine, i, tiles, group, first, width, n_rows); break;
    case kRelu: normalize_as<kRelu>(machine, i, tiles, group, first, width, n_rows); break;
    case kGelu: normalize_as<kGelu>(machine, i, tiles, group, first, width, n_rows); break;
    default: normalize_as<kNone>(machine, i, tiles, group, first, width, n_rows);
  }
}

}  // namespace cuda
}  // namespace genpolicy
