// The kernel that runs a program on all blocks of a device together, and how it is started.
//
// One launch is a whole denoising loop. The launch is cooperative: as many blocks as the device holds at
// once, which wait for each other at barriers of their own.
#include "grid_sample.h"

#include <array>
#include <mutex>

#include "grid.cuh"
#include "host.h"

namespace genpolicy {
namespace cuda {

template <int kRows, bool kBf16>
__global__ void __launch_bounds__(kThreads, 2) grid_kernel(const GridArguments arguments) {
  uint32_t* const shared = dynamic_shared();
  uint32_t* const turn = shared + kGridStages * Grid<kRows, kBf16>::kStageWords;
  if (threadIdx.x == 0) *turn = 0;
  __syncthreads();
  const Arguments& rows = arguments.rows;
  const Grid<kRows, kBf16> grid{
      arguments,
      {rows, rows.program, GridTeam{arguments.n_rows, GridBarrier{arguments.arrived, turn}}, rows.registers,
       static_cast<int>(rows.program.head(kHeadRowFloats))},
      shared};
#pragma unroll 1
  for (int tile = 0; int64_t{tile} * arguments.n_rows < rows.n_rows; ++tile) grid.sample(tile);
}

namespace {

using GridKernel = void (*)(GridArguments);

constexpr int64_t kMostRowsAtOnce = 256;
constexpr int64_t kMostRegisters = int64_t{1} << 28;  // floats of all rows: a gigabyte

struct Shape {
  GridKernel kernel;
  int tile;
  int64_t shared_bytes;
  int64_t n_blocks;
  int n_rows;  // at a time
};

template <int kRows, bool kBf16>
Shape shape_as() {
  return Shape{grid_kernel<kRows, kBf16>, kRows, int64_t{4} * Grid<kRows, kBf16>::kSharedWords, 0, 0};
}

// Blocks of a kernel that a device holds at once; found once for each.
cudaError_t find_blocks(const Shape& shape, int which, int device, int64_t* n_blocks) {
  static std::mutex mutex;
  static std::array<std::array<int64_t, 64>, 4> known{};
  const bool has_place = device >= 0 && device < 64;
  const std::lock_guard<std::mutex> guard(mutex);
  if (has_place && known[which][device] > 0) {
    *n_blocks = known[which][device];
    return cudaSuccess;
  }
  const OnDevice on(device);
  GENPOLICY_TRY(on.error());
  int n = 0, of_one = 0;
  GENPOLICY_TRY(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device));
  GENPOLICY_TRY(cudaFuncSetAttribute(shape.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(shape.shared_bytes)));
  GENPOLICY_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_one, shape.kernel, kThreads,
                                                              static_cast<size_t>(shape.shared_bytes)));
  if (of_one < 1) return cudaErrorInvalidValue;
  *n_blocks = int64_t{n} * (of_one < 2 ? of_one : 2);
  if (has_place) known[which][device] = *n_blocks;
  return cudaSuccess;
}

// Tiles of 32 rows of matrices where 16 would make more items than blocks.
cudaError_t find_shape(const Call& call, int device, Shape* shape) {
  const bool is_bf16 = call.host.is_bf16();
  int64_t positions = 1;  // the most that a job sees as rows
  const int64_t n = call.host.head(kHeadPrologue) + call.host.head(kHeadBody);
  for (int64_t i = 0; i < n; ++i)
    if (call.host.instruction(i)[kFieldOp] == kOpConvolve)
      positions = std::max(positions, call.host.instruction(i)[kFieldLength]);
  const int64_t row_floats = std::max<int64_t>(1, call.host.head(kHeadRowFloats));
  const int64_t most = std::min(kMostRowsAtOnce, std::max<int64_t>(2, kMostRegisters / row_floats));
  const int64_t n_rows = std::max<int64_t>(1, std::min(call.n_rows, most));
  const bool is_large = n_rows * positions > 16;
  *shape = is_bf16 ? (is_large ? shape_as<32, true>() : shape_as<16, true>())
                   : (is_large ? shape_as<32, false>() : shape_as<16, false>());
  shape->n_rows = static_cast<int>(n_rows);
  return find_blocks(*shape, 2 * is_bf16 + is_large, device, &shape->n_blocks);
}

// Where the parts of a workspace begin, in units of 16 bytes.
struct Layout16 {
  int64_t code, plan, jobs, counters, n_counters, registers, partials, end;
};

Layout16 layout_of(const Call& call, const Shape& shape, const Schedule& schedule) {
  auto sixteens = [](int64_t bytes) { return (bytes + 15) / 16; };
  Layout16 at = {};
  at.plan = at.code + sixteens(call.n_code * 8);
  at.jobs = at.plan + sixteens(call.n_plan * 8);
  at.counters = at.jobs + sixteens(static_cast<int64_t>(schedule.jobs.size() * sizeof(Job)));
  at.n_counters = sixteens((schedule.n_counters + 4) * 4);  // the first 16 bytes are of the barrier
  at.registers = at.counters + at.n_counters;
  const int64_t n_rows = shape.n_rows + shape.n_rows % 2;
  at.partials = at.registers + sixteens(n_rows * call.host.head(kHeadRowFloats) * 4);
  at.end = at.partials + sixteens(schedule.n_partials * 4);
  return at;
}

}  // namespace

cudaError_t grid_workspace(const Call& call, int device, int64_t* bytes) {
  Shape shape;
  GENPOLICY_TRY(find_shape(call, device, &shape));
  *bytes = 16 * layout_of(call, shape, schedule(call.host, shape.n_rows, shape.tile, shape.n_blocks)).end;
  return cudaSuccess;
}

cudaError_t grid_sample(const Call& call, void* workspace, int64_t bytes, int device, cudaStream_t stream) {
  Shape shape;
  GENPOLICY_TRY(find_shape(call, device, &shape));
  const Schedule found = schedule(call.host, shape.n_rows, shape.tile, shape.n_blocks);
  const Layout16 at = layout_of(call, shape, found);
  if (bytes < 16 * at.end) return cudaErrorInvalidValue;
  auto* const there = static_cast<char*>(workspace);
  auto place = [&](int64_t sixteen) { return static_cast<void*>(there + 16 * sixteen); };
  auto send = [&](int64_t to, const void* from, size_t n) {
    return cudaMemcpyAsync(place(to), from, n, cudaMemcpyHostToDevice, stream);
  };
  GENPOLICY_TRY(send(at.code, call.host.code, call.n_code * 8));
  GENPOLICY_TRY(send(at.plan, call.host.plan, call.n_plan * 8));
  GENPOLICY_TRY(send(at.jobs, found.jobs.data(), found.jobs.size() * sizeof(Job)));
  GENPOLICY_TRY(cudaMemsetAsync(place(at.counters), 0, 16 * at.n_counters, stream));
  auto* const arrived = static_cast<uint32_t*>(place(at.counters));
  GridArguments arguments{
      Arguments{Program{static_cast<int64_t*>(place(at.code)), static_cast<double*>(place(at.plan)),
                        call.host.vectors, call.host.weights},
                call.inputs, call.seeds, call.out, call.n_rows, static_cast<float*>(place(at.registers))},
      static_cast<Job*>(place(at.jobs)),
      static_cast<int>(found.n_prologue),
      static_cast<int>(found.jobs.size()),
      shape.n_rows,
      arrived,
      arrived + 4,
      static_cast<float*>(place(at.partials))};
  void* list[] = {&arguments};
  GENPOLICY_TRY(cudaFuncSetAttribute(shape.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(shape.shared_bytes)));
  return cudaLaunchCooperativeKernel(shape.kernel, dim3(static_cast<unsigned>(shape.n_blocks)), dim3(kThreads),
                                     list, static_cast<size_t>(shape.shared_bytes), stream);
}

}  // namespace cuda
}  // namespace genpolicy
