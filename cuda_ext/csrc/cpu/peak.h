// What one core of this machine can do at most: the yardstick of the benchmarks.
#pragma once

#include <chrono>

#include "products.h"

namespace genpolicy {
namespace GP_ISA {

// Independent fused multiply-adds on registers, n_turns of each; returns the multiplications and additions.
int64_t multiply_adds(int64_t n_turns) {
  constexpr int kChains = GP_VECTOR_BYTES == 64 ? 24 : 12;
  Vector sums[kChains];
  for (int j = 0; j < kChains; ++j) sums[j] = Vector{} + 1.0f;
  const Vector factor = Vector{} + 0.999f, added = Vector{} + 1e-3f;
  for (int64_t i = 0; i < n_turns; ++i)
#pragma GCC unroll 24
    for (int j = 0; j < kChains; ++j) sums[j] = sums[j] * factor + added;
  Vector total = sums[0];
  for (int j = 1; j < kChains; ++j) total += sums[j];
  GP_IN_REGISTER(total);  // somebody may want to know
  return 2 * kLanes * kChains * n_turns;
}

// Multiplications and additions per second, in 1e9: of the fastest of many short attempts, some of which run
// without another process between.
double peak_gflops() {
  double best = 0.0;
  for (int attempt = 0; attempt < 400; ++attempt) {
    const auto start = std::chrono::steady_clock::now();
    const int64_t count = multiply_adds(20'000);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const double rate = static_cast<double>(count) / took.count() / 1e9;
    best = rate > best ? rate : best;
  }
  return best;
}

// Bytes per second, in 1e9, read from n_bytes of memory that lies in whatever cache it fits.
double read_gbytes(const float* data, int64_t n_bytes) {
  const int64_t n = n_bytes / 4 / (8 * kLanes) * (8 * kLanes);
  double best = 0.0;
  for (int attempt = 0; attempt < 200; ++attempt) {
    const auto start = std::chrono::steady_clock::now();
    Vector sums[8] = {};
    for (int64_t i = 0; i < n; i += 8 * kLanes)
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) sums[j] += load(data + i + j * kLanes);
    Vector total = sums[0];
    for (int j = 1; j < 8; ++j) total += sums[j];
    GP_IN_REGISTER(total);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const double rate = 4.0 * static_cast<double>(n) / took.count() / 1e9;
    best = rate > best ? rate : best;
  }
  return best;
}

}  // namespace GP_ISA
}  // namespace genpolicy
