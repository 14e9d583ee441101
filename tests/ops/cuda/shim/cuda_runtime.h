// A GPU on the CPU, for tests: the sources of the kernels and of their hosts' side compile against this
// header instead of CUDA's, unchanged, and run with one thread of the system per CUDA thread.
//
//   __syncthreads   a barrier of the block; threads that meet at different lines end the process
//   shared memory   as many bytes as a launch asks for, filled with NaN before every block
//   cp.async        copies are made when they are waited for, and not before
//   mma, shuffles   lanes hand their operands over between two barriers of the warp
//   devices         a table of fictitious ones; launches are recorded
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "arithmetic.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __syncthreads() ::emulated::meet(__LINE__ + 4096 * static_cast<int64_t>(sizeof(__FILE__)))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  explicit dim3(unsigned along_x) : x(along_x) {}
  dim3() = default;
};

namespace emulated {

class Barrier {
 public:
  void resize(unsigned n) { n_ = n; }

  void wait() {
    const unsigned now = generation_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
      generation_.notify_all();
      return;
    }
    while (generation_.load(std::memory_order_acquire) == now)
      generation_.wait(now, std::memory_order_acquire);
  }

 private:
  unsigned n_ = 0;
  std::atomic<unsigned> arrived_{0}, generation_{0};
};

struct Warp {
  Barrier barrier;
  float sums[32];
  uint32_t operands[32][6];
};

struct Copy {
  void* to;
  const void* from;
};

struct FreeArray {
  void operator()(void* at) const { std::free(at); }
};

// What the threads of the block that runs share.
struct Block {
  Barrier barrier;
  std::vector<Warp> warps;
  std::unique_ptr<uint32_t, FreeArray> shared;
  // Where the barriers are that were met last, with their number above the lower 20 bits. Two, because
  // nobody passes a barrier before all have compared the place of the one before it.
  std::atomic<int64_t> places[2]{0, 0};
};

inline thread_local Block* block = nullptr;
inline thread_local std::vector<std::vector<Copy>> copies;
inline thread_local int64_t n_met = 0;
// A barrier that is left out, so that a test can see that its absence is found.
inline const int64_t n_left_out = std::getenv("EMULATED_LEAVE_OUT") ? std::atoll(std::getenv("EMULATED_LEAVE_OUT")) : 0;
struct Index {
  unsigned x = 0;
};

}  // namespace emulated

inline thread_local emulated::Index threadIdx, blockIdx;
inline thread_local dim3 gridDim, blockDim;

namespace emulated {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulated GPU: thread %u: %s\n", threadIdx.x, what);
  std::abort();
}

// All threads have to meet at one place of the source.
inline void meet(int64_t place) {
  if (++n_met == n_left_out) return;
  std::atomic<int64_t>& last = block->places[n_met % 2];
  const int64_t mine = (n_met << 20) + place;
  int64_t found = last.load();
  while (found >> 20 < n_met && !last.compare_exchange_weak(found, mine)) {
  }
  if (last.load() != mine) fail("threads of a block wait at different barriers");
  block->barrier.wait();
}

inline Warp& warp() { return block->warps[threadIdx.x / 32]; }

inline uint32_t* dynamic_shared() { return block->shared.get(); }

inline void copy_later(uint32_t* to, const uint32_t* from) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0)
    fail("a copy of 16 bytes is not aligned");
  if (copies.empty()) copies.emplace_back();
  copies.back().push_back({to, from});
}

inline void end_of_copies() { copies.emplace_back(); }

template <int kLeft>
inline void wait_for_copies() {
  // The last entry is the group that is not ended.
  while (copies.size() > kLeft + 1) {
    for (const Copy& copy : copies.front()) std::memcpy(copy.to, copy.from, 16);
    copies.erase(copies.begin());
  }
}

template <int kLanes>
inline float sum_of(float value) {
  Warp& mine = warp();
  const unsigned lane = threadIdx.x % 32;
  mine.sums[lane] = value;
  mine.barrier.wait();
  float lanes[kLanes];
  for (unsigned j = 0; j < kLanes; ++j) lanes[j] = mine.sums[lane / kLanes * kLanes + j];
  mine.barrier.wait();
  for (unsigned step = kLanes / 2; step > 0; step /= 2) {
    float next[kLanes];
    for (unsigned j = 0; j < kLanes; ++j) next[j] = lanes[j] + lanes[j ^ step];
    std::memcpy(lanes, next, sizeof(lanes));
  }
  return lanes[lane % kLanes];
}

inline uint32_t count_up(uint32_t* counter) {
  const std::atomic_ref<uint32_t> shared(*counter);
  const uint32_t before = shared.fetch_add(1, std::memory_order_acq_rel);
  shared.notify_all();
  return before;
}

// Whether blocks wait for each other, so that a test can see that it is found when they do not.
inline const bool blocks_wait = std::getenv("EMULATED_NO_WAIT") == nullptr;

inline void wait_until(const uint32_t* counter, uint32_t number) {
  if (!blocks_wait) return;
  const std::atomic_ref<uint32_t> shared(*const_cast<uint32_t*>(counter));
  for (;;) {
    const uint32_t now = shared.load(std::memory_order_acquire);
    if (static_cast<int32_t>(now - number) >= 0) return;
    shared.wait(now, std::memory_order_acquire);
  }
}

inline uint32_t pair_of_bf16(float first, float second) {
  return static_cast<uint32_t>(genpolicy::to_bf16(first)) |
         static_cast<uint32_t>(genpolicy::to_bf16(second)) << 16;
}

inline float half_of(uint32_t word, unsigned which) {
  return genpolicy::from_bf16(static_cast<uint16_t>(word >> (16 * which)));
}

inline void multiply_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Warp& mine = warp();
  const unsigned lane = threadIdx.x % 32;
  for (int i = 0; i < 4; ++i) mine.operands[lane][i] = a[i];
  mine.operands[lane][4] = b0;
  mine.operands[lane][5] = b1;
  mine.barrier.wait();
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (unsigned k = 0; k < 16; ++k) {
      // Lane and word that hold the operands, from the tables of the PTX manual.
      const uint32_t of_a = mine.operands[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
      const uint32_t of_b = mine.operands[column * 4 + k % 8 / 2][4 + k / 8];
      c[i] = genpolicy::fused(half_of(of_a, k % 2), half_of(of_b, k % 2), c[i]);
    }
  }
  mine.barrier.wait();
}

struct Device {
  int n_multiprocessors, shared_bytes;
};
// Many multiprocessors and few; registers of a tile in shared memory, in part of it, and not at all.
inline constexpr Device kDevices[] = {{132, 232448}, {2, 232448}, {2, 76000}, {2, 50688}, {1, 232448}};
inline constexpr int kNumDevices = sizeof(kDevices) / sizeof(kDevices[0]);
inline std::atomic<int> n_attribute_calls{0};
inline thread_local int current_device = 0;
// device, blocks, threads, shared bytes and stream of the last launch
inline int64_t last_launch[5];
inline size_t allowed_shared = 48 * 1024;

// What a thread does in one block.
template <class Run>
void run_in_block(Block& here, unsigned which, size_t shared_bytes, Run run) {
  block = &here;
  blockIdx.x = which;
  if (threadIdx.x == 0 && shared_bytes > 0) std::memset(here.shared.get(), 0xFF, shared_bytes);
  meet(1);
  run();
  for (const auto& group : copies)
    if (!group.empty()) fail("a block ends with copies that nobody waited for");
  copies.clear();
  meet(2);
}

// Runs blocks one after the other, or, where they wait for each other, all together.
template <class Run>
void run_blocks(unsigned n_blocks, unsigned n_threads, size_t shared_bytes, bool together, Run run) {
  static std::mutex one_launch;
  const std::lock_guard<std::mutex> guard(one_launch);
  std::vector<std::unique_ptr<Block>> blocks;
  for (unsigned b = 0; b < (together ? n_blocks : 1); ++b) {
    blocks.push_back(std::make_unique<Block>());
    Block& here = *blocks.back();
    here.barrier.resize(n_threads);
    here.warps = std::vector<Warp>(n_threads / 32);
    for (Warp& warp : here.warps) warp.barrier.resize(32);
    here.shared.reset(static_cast<uint32_t*>(std::aligned_alloc(16, (shared_bytes + 15) / 16 * 16)));
  }
  std::vector<std::thread> threads;
  for (unsigned b = 0; b < blocks.size(); ++b)
    for (unsigned t = 0; t < n_threads; ++t)
      threads.emplace_back([&, b, t] {
        threadIdx.x = t;
        gridDim = dim3(n_blocks);
        blockDim = dim3(n_threads);
        if (together)
          run_in_block(*blocks[b], b, shared_bytes, run);
        else
          for (unsigned which = 0; which < n_blocks; ++which)
            run_in_block(*blocks[0], which, shared_bytes, run);
      });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace emulated

// ---- the part of the runtime's interface that is used ---------------------------------------------

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidDevice = 101 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemcpyKind { cudaMemcpyHostToDevice };
typedef void* cudaStream_t;

inline cudaError_t cudaGetDevice(int* device) {
  *device = emulated::current_device;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= emulated::kNumDevices) return cudaErrorInvalidDevice;
  emulated::current_device = device;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  ++emulated::n_attribute_calls;
  if (device < 0 || device >= emulated::kNumDevices) return cudaErrorInvalidDevice;
  const emulated::Device& found = emulated::kDevices[device];
  *value = attribute == cudaDevAttrMultiProcessorCount ? found.n_multiprocessors : found.shared_bytes;
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, n);
  return cudaSuccess;
}

template <class T>
cudaError_t cudaFuncSetAttribute(T*, cudaFuncAttribute, int bytes) {
  if (bytes > emulated::kDevices[emulated::current_device].shared_bytes) return cudaErrorInvalidValue;
  emulated::allowed_shared = static_cast<size_t>(bytes);
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t n, cudaStream_t) {
  std::memset(to, value, n);
  return cudaSuccess;
}

template <class T>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, T*, int, size_t shared) {
  *n = shared <= static_cast<size_t>(emulated::kDevices[emulated::current_device].shared_bytes);
  return cudaSuccess;
}

namespace emulated {

template <class T>
cudaError_t launch(void (*kernel)(T), dim3 grid, dim3 threads, void** list, size_t shared,
                   cudaStream_t stream, bool together) {
  if (grid.x == 0 || shared > allowed_shared) return cudaErrorInvalidValue;
  const int64_t record[] = {current_device, grid.x, threads.x, static_cast<int64_t>(shared),
                            static_cast<int64_t>(reinterpret_cast<uintptr_t>(stream))};
  std::memcpy(last_launch, record, sizeof(record));
  allowed_shared = 48 * 1024;
  const T arguments = *static_cast<const T*>(list[0]);
  run_blocks(grid.x, threads.x, shared, together, [&] { kernel(arguments); });
  return cudaSuccess;
}

}  // namespace emulated

template <class T>
cudaError_t cudaLaunchKernel(void (*kernel)(T), dim3 grid, dim3 threads, void** list, size_t shared,
                             cudaStream_t stream) {
  return emulated::launch(kernel, grid, threads, list, shared, stream, false);
}

template <class T>
cudaError_t cudaLaunchCooperativeKernel(void (*kernel)(T), dim3 grid, dim3 threads, void** list, size_t shared,
                                        cudaStream_t stream) {
  return emulated::launch(kernel, grid, threads, list, shared, stream, true);
}

inline const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess              ? "cudaSuccess"
         : error == cudaErrorInvalidValue  ? "cudaErrorInvalidValue"
         : error == cudaErrorInvalidDevice ? "cudaErrorInvalidDevice"
                                           : "cudaErrorUnknown";
}
inline const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
