// Random numbers of rows, for one instruction set; see genpolicy/sampling/noise.py.
#pragma once

#include "../arithmetic.h"

namespace genpolicy {
namespace GP_ISA {

// Blocks of four floats that are worked on at a time.
constexpr int64_t kJobs = GP_VECTOR_BYTES == 64 ? 16 : 8;

// Standard normals of n_draws draws, from `index` on: n floats for each of n_rows rows, one draw behind
// the other. A row's floats are blocks of four, worked on without regard to row and draw.
void fill_draws(const int64_t* seeds, int64_t n_rows, int64_t n, uint32_t index, int64_t n_draws,
                uint32_t stream, float* out, int64_t ld) {
  const int64_t n_blocks = (n + 3) / 4;
  int64_t row = 0, block = 0, left = n_draws * n_rows * n_blocks;
  uint32_t draw = index;
  uint32_t blocks[kJobs] = {}, draws[kJobs] = {}, low[kJobs] = {}, high[kJobs] = {};
  for (; left > 0; left -= kJobs) {
    const int64_t count = left < kJobs ? left : kJobs;
    float* place[kJobs];
    int64_t fits[kJobs];
    for (int64_t l = 0; l < count; ++l) {
      const uint64_t seed = static_cast<uint64_t>(seeds[row]);
      blocks[l] = static_cast<uint32_t>(block);
      draws[l] = draw;
      low[l] = static_cast<uint32_t>(seed);
      high[l] = static_cast<uint32_t>(seed >> 32);
      place[l] = out + row * ld + 4 * block;
      fits[l] = n - 4 * block;
      if (++block < n_blocks) continue;
      block = 0;
      if (++row < n_rows) continue;
      row = 0;
      ++draw;
      out += n_rows * ld;
    }
    float normals[4][kJobs];
#pragma omp simd
    for (int64_t l = 0; l < kJobs; ++l) {
      const Words words = philox(blocks[l], draws[l], stream, 0u, low[l], high[l]);
      two_normals(words.w[0], words.w[1], &normals[0][l], &normals[1][l]);
      two_normals(words.w[2], words.w[3], &normals[2][l], &normals[3][l]);
    }
    for (int64_t l = 0; l < count; ++l)
      for (int64_t j = 0; j < 4; ++j)
        if (j < fits[l]) place[l][j] = normals[j][l];
  }
}

// Standard normals of one draw.
void fill_noise(const int64_t* seeds, int64_t n_rows, int64_t n, uint32_t index, uint32_t stream,
                float* out, int64_t ld) {
  fill_draws(seeds, n_rows, n, index, 1, stream, out, ld);
}

// The draws of a loop one after the other, made several at a time where one does not have kJobs blocks.
class Draws {
 public:
  // `space` holds (n_rows, ld) floats, those behind the first n of each row zero.
  Draws(const int64_t* seeds, int64_t n_rows, int64_t n, float* space, int64_t ld)
      : seeds_(seeds), n_rows_(n_rows), n_(n), ld_(ld) {
    const int64_t n_ahead = kJobs / (n_rows * ((n + 3) / 4));
    n_draws_ = n_ahead > 1 ? n_ahead : 1;
    floats_ = n_ahead > 1 ? ahead_ : space;
  }

  // (n_rows, ld) floats of the draw `index`, until the next call.
  const float* at(uint32_t index) {
    if (!is_filled_ || index < first_ || index - first_ >= n_draws_) {
      fill_draws(seeds_, n_rows_, n_, index, n_draws_, 0u, floats_, ld_);
      first_ = index;
      is_filled_ = true;
    }
    return floats_ + (index - first_) * n_rows_ * ld_;
  }

 private:
  const int64_t* seeds_;
  int64_t n_rows_, n_, ld_, n_draws_;
  float* floats_;
  uint32_t first_ = 0;
  bool is_filled_ = false;
  alignas(64) float ahead_[16 * kJobs] = {};  // a block alone has a row of 16 floats
};

}  // namespace GP_ISA
}  // namespace genpolicy
