// Runs one dumped program on one device, for the sanitizers, which need a process of their own.
//
//   sanitized FILE DEVICE    FILE: int64 counts of rows, code, plan, vectors, weights, bytes of a weight
//                            and inputs of a row, then inputs, seeds, code, plan, vectors, weights;
//                            the results are written to FILE.out
#include "emulated.cpp"

#include <fstream>
#include <string>

namespace {

template <class T>
std::vector<T> read(std::ifstream& file, int64_t n) {
  std::vector<T> found(static_cast<size_t>(n));
  file.read(reinterpret_cast<char*>(found.data()), n * static_cast<int64_t>(sizeof(T)));
  return found;
}

// Memory of exactly this size at a multiple of 16 bytes, so that one step beyond it is found.
std::unique_ptr<char, emulated::FreeArray> exactly(const void* from, size_t n) {
  void* at = nullptr;
  if (posix_memalign(&at, 16, n > 0 ? n : 1) != 0) std::abort();
  if (from) std::memcpy(at, from, n);
  return std::unique_ptr<char, emulated::FreeArray>(static_cast<char*>(at));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  std::ifstream file(argv[1], std::ios::binary);
  const int device = std::atoi(argv[2]);
  const auto counts = read<int64_t>(file, 7);
  const int64_t n_rows = counts[0], n_vectors = counts[3], n_weights = counts[4];
  const auto inputs = read<float>(file, n_rows * counts[6]);
  const auto seeds = read<int64_t>(file, n_rows);
  const auto code = read<int64_t>(file, counts[1]);
  const auto plan = read<double>(file, counts[2]);
  const auto vectors = read<float>(file, n_vectors);
  const auto bytes = read<char>(file, n_weights * counts[5]);
  const auto weights = exactly(bytes.data(), bytes.size());
  std::vector<float> out(static_cast<size_t>(n_rows * code[2]));

  int64_t n_workspace = 0;
  int error = genpolicy_cuda_mlp_sample_workspace(code.data(), counts[1], plan.data(), counts[2],
                                                  n_vectors, n_weights, n_rows, device, &n_workspace);
  if (error) return 3;
  const auto workspace = exactly(nullptr, static_cast<size_t>(n_workspace));
  error = genpolicy_cuda_mlp_sample(inputs.data(), seeds.data(), code.data(), counts[1], plan.data(),
                                    counts[2], vectors.data(), n_vectors, weights.get(), n_weights,
                                    out.data(), n_rows, workspace.get(), n_workspace, device, nullptr);
  if (error) return 4;
  std::vector<float> noise(static_cast<size_t>(n_rows * 5));
  error = genpolicy_cuda_row_noise(seeds.data(), n_rows, 5, 1, 2, noise.data(), device, nullptr);
  if (error) return 5;
  const auto state = exactly(noise.data(), noise.size() * sizeof(float));
  const auto denoised = exactly(nullptr, noise.size() * sizeof(float));
  genpolicy::StepArguments<float> step{};
  step.n_rows = n_rows;
  step.n = 5;
  step.n_outputs = 1;
  step.out = reinterpret_cast<float*>(state.get());
  step.x = step.at = step.out;
  step.outputs[0] = noise.data();
  step.seeds = seeds.data();
  step.denoised = reinterpret_cast<float*>(denoised.get());
  error = genpolicy_cuda_step(&step, sizeof(float), device, nullptr);
  if (error) return 6;
  std::ofstream to(std::string(argv[1]) + ".out", std::ios::binary);
  to.write(reinterpret_cast<const char*>(out.data()), static_cast<int64_t>(out.size() * sizeof(float)));
  return 0;
}
