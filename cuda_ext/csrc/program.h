// What genpolicy/native/program.py writes and the kernels run: a policy's whole denoising loop.
//
// Four tensors make a program (their layout is defined here and mirrored in program.py):
//   code     int64    header, registers, instructions
//   plan     float64  the factors of every evaluation
//   vectors  float32  biases, tables over evaluations, norms, units
//   weights  float32 or bfloat16, in panels of 16 outputs
//
// A row of the batch is worked on alone. Its registers are rows of floats, each padded to a multiple
// of 16 with zeros: every instruction keeps the padding zero. Convolutions see a register as a *grid*:
// positions one after the other, each with strided(n) floats for n channels. In memory a grid lies
// position by position and row by row, so that one tap of a convolution is one matrix product of all
// rows; only the instructions on grids may touch them. The state machine of a row:
//
//   x = c_init * noise(0)
//   prologue (features of the observations, layers that see nothing else)
//   for each evaluation e:
//     s = stage of e ? x_stage : x                         (the state that is evaluated)
//     D = on_x * s + shift(e);  body: D += on_raw(m) * network_m(in_scale(m) * s)
//     D = limited(D, lo, hi)
//     y = c_x * x + c_denoised * D + c_previous * D_before + c_noise * noise(index)
//     e goes to a stage ? x_stage = y : x = y
//   out = center + span * limited(x, lo_end, hi_end)
#pragma once

#include <initializer_list>

#include "arithmetic.h"

namespace genpolicy {

constexpr int64_t kVersion = 3;
constexpr int64_t kPanel = 16;
constexpr int64_t kMostPieces = 3;

// ---- code: header --------------------------------------------------------------------------
enum Header : int64_t {
  kHeadVersion,
  kHeadInputs,        // floats per row of the inputs
  kHeadChunk,         // horizon * action
  kHeadRegisters,     // number of registers
  kHeadPrologue,      // number of instructions before the loop
  kHeadBody,          // number of instructions of one evaluation
  kHeadEvaluations,   // rows of the plan
  kHeadMembers,       // networks
  kHeadPrecision,     // one of Precision
  kHeadCenter,        // offset in vectors of the actions' centers, chunk floats
  kHeadSpan,          // offset in vectors of the actions' spans
  kHeadShift,         // offset in vectors of the shifts of D, one row of chunk floats per
                      // evaluation; -1 for none
  kHeadRowFloats,     // floats of all registers
  kHeaderSize
};

// Of products. With kBf16 weights are bfloat16, and inputs are rounded to it. With kBf16x3 a float32 is the
// sum of three bfloat16, the largest first: a layer's weights lie there three times, and the products of
// pieces that together are above 2^-24 of the largest are summed. Only CPUs with a matrix unit run that.
enum Precision : int64_t { kFp32, kBf16, kBf16x3, kNumPrecisions };

// The first registers are the state machine's own; all have chunk floats but the features.
enum Register : int64_t {
  kRegState, kRegStage, kRegDenoised, kRegBefore, kRegNoise, kRegInputs, kNumFixedRegisters
};

// ---- code: instructions --------------------------------------------------------------------
enum Field : int64_t {
  kFieldOp, kFieldDst, kFieldSrc, kFieldSrc2, kFieldIn, kFieldOut, kFieldWeights, kFieldVector,
  kFieldStride, kFieldActivation, kFieldAccumulate, kFieldExtra, kFieldSrc3, kFieldLength,
  kFieldTaps, kFieldHop, kFieldBefore, kFieldEvery, kFieldPlace, kInstructionSize
};

enum Op : int64_t {
  // dst[out] = act(src[in] W + vector[e * stride] + src2), src2 = -1 for none; with accumulate,
  // dst += src W + vector + src2 instead.
  kOpLinear,
  // dst = (src - mean) / sqrt(variance + eps) * vector[0:out] + vector[P:P+out], P = out padded to
  // panels; eps is the bits of a double in extra.
  kOpNorm,
  // dst = src * (1 + src2[extra : extra + out]) + src2[extra + P : extra + P + out].
  kOpModulate,
  // dst = act(src + vector[e * stride]).
  kOpActivate,
  // dst = (src - vector[0:out]) * vector[P:P+out]; exactly 0 where the factor is 0, even for NaN.
  kOpNormalize,
  // Where src[in : in + out] holds a NaN: zeros there, and src[extra] = 0; otherwise src[extra] = 1.
  kOpPresent,
  // dst[0:out] = sin(2^extra pi src), dst[P: P+out] = cos of the same.
  kOpWaves,
  // dst[out] = in_scale(member extra) * state.
  kOpInput,
  // D += on_raw(member extra) * src[out].
  kOpCombine,
  // From a row to a grid: dst(p)[0:out] = src[p * out : (p + 1) * out] for p < length; and back.
  kOpSpread,
  kOpGather,
  // On grids, for p < length: dst(p * every + place)[out] = sum over k < taps of
  // src(p * hop - before + k)[in] W_k + vector, with zeros outside of src; with accumulate, this is
  // added to dst. Tap `before` has to lie inside of src for every p.
  kOpConvolve,
  // On grids of length positions: dst = act(group norm of src) * src3[place:] + src3[place + P:]
  // + src2, P = out padded to panels; in groups of out / in channels, gains and offsets as of
  // kOpNorm, eps the bits of a double in extra. src3 (a row) and src2 (a grid) may be -1.
  kOpGroupNorm,
  kNumOps
};

// ---- plan ----------------------------------------------------------------------------------
enum PlanHeader : int64_t { kPlanInit, kPlanLow, kPlanHigh, kPlanLowEnd, kPlanHighEnd, kPlanHeaderSize };

enum PlanField : int64_t {
  kPlanFromStage, kPlanToStage, kPlanX, kPlanDenoised, kPlanPrevious, kPlanNoise, kPlanNoiseIndex,
  kPlanOnX, kPlanMembers  // then in_scale and on_raw of every member
};

GP_HD int64_t padded(int64_t n) { return (n + kPanel - 1) / kPanel * kPanel; }

// Floats of one position of a grid. The panel that is left free keeps positions of 1024 channels from
// falling into the same set of the first cache.
GP_HD int64_t strided(int64_t n) { return padded(n) + kPanel; }

// Pointers to a program's parts, cheap to pass to a kernel.
struct Program {
  const int64_t* code;
  const double* plan;
  const float* vectors;
  const void* weights;

  GP_HD int64_t head(int64_t field) const { return code[field]; }
  // Register: offset in the floats of a row, and width.
  GP_HD int64_t offset(int64_t reg) const { return code[kHeaderSize + 2 * reg]; }
  GP_HD int64_t width(int64_t reg) const { return code[kHeaderSize + 2 * reg + 1]; }
  GP_HD const int64_t* instruction(int64_t i) const {
    return code + kHeaderSize + 2 * head(kHeadRegisters) + i * kInstructionSize;
  }
  // Whether there are convolutions: their weights are more than a multiprocessor or a core should read
  // alone, so rows are not spread over them as those of other programs are.
  GP_HD bool has_convolutions() const {
    const int64_t n = head(kHeadPrologue) + head(kHeadBody);
    for (int64_t i = 0; i < n; ++i)
      if (instruction(i)[kFieldOp] == kOpConvolve) return true;
    return false;
  }
  GP_HD bool is_bf16() const { return head(kHeadPrecision) != kFp32; }
  GP_HD int64_t pieces() const { return head(kHeadPrecision) == kBf16x3 ? kMostPieces : 1; }
  GP_HD int64_t plan_width() const { return kPlanMembers + 2 * head(kHeadMembers); }
  // Positions of the grid of n channels that a register holds.
  GP_HD int64_t positions(int64_t reg, int64_t n) const { return width(reg) / strided(n); }
  GP_HD const double* evaluation(int64_t e) const {
    return plan + kPlanHeaderSize + e * plan_width();
  }
};

// What is wrong with a program, or null. Every offset is checked against the sizes of the tensors,
// so that a damaged program cannot read or write elsewhere.
inline const char* fault_of(const Program& p, int64_t n_code, int64_t n_plan, int64_t n_vectors,
                            int64_t n_weights) {
  if (n_code < kHeaderSize) return "code is too short for its header";
  if (p.head(kHeadVersion) != kVersion) return "the program is of another version";
  for (int64_t f = kHeadInputs; f <= kHeadPrecision; ++f)
    if (p.head(f) < 0 || p.head(f) > (int64_t{1} << 24)) return "a size in the header is out of range";
  const int64_t n_regs = p.head(kHeadRegisters), chunk = p.head(kHeadChunk);
  const int64_t n_instructions = p.head(kHeadPrologue) + p.head(kHeadBody);
  const int64_t n_evals = p.head(kHeadEvaluations), row_floats = p.head(kHeadRowFloats);
  if (n_regs < kNumFixedRegisters || chunk < 1 || n_evals < 1 || p.head(kHeadMembers) < 1 ||
      p.head(kHeadPrecision) >= kNumPrecisions)
    return "the header is inconsistent";
  if (row_floats < 0 || row_floats > (int64_t{1} << 24)) return "a row is too large";
  if (row_floats % kPanel != 0) return "a row has no whole panels";
  if (n_code != kHeaderSize + 2 * n_regs + n_instructions * kInstructionSize)
    return "code has another length than its header says";
  if (n_plan != kPlanHeaderSize + n_evals * p.plan_width())
    return "plan has another length than the header says";
  for (int64_t r = 0; r < n_regs; ++r) {
    const int64_t at = p.offset(r), width = p.width(r);
    if (at < 0 || at % kPanel != 0 || width < 1 || width > row_floats ||
        at > row_floats - padded(width))
      return "a register lies outside of its row";
    if (r < kRegInputs && width != chunk) return "a register of the state is not of the chunk's size";
  }
  if (p.width(kRegInputs) != p.head(kHeadInputs)) return "the inputs' register is of another size";
  auto in_vectors = [&](int64_t at, int64_t size) {
    return at >= 0 && size >= 0 && at <= n_vectors - size;
  };
  if (!in_vectors(p.head(kHeadCenter), chunk) || !in_vectors(p.head(kHeadSpan), chunk))
    return "the actions' units lie outside of vectors";
  if (p.head(kHeadShift) >= 0 && !in_vectors(p.head(kHeadShift), n_evals * chunk))
    return "the shifts lie outside of vectors";
  for (int64_t i = 0; i < n_instructions; ++i) {
    const int64_t* at = p.instruction(i);
    const int64_t op = at[kFieldOp], in = at[kFieldIn], out = at[kFieldOut], extra = at[kFieldExtra];
    const bool in_body = i >= p.head(kHeadPrologue);
    auto reg = [&](int64_t r) { return r >= 0 && r < n_regs; };
    auto holds = [&](int64_t r, int64_t size) { return reg(r) && size >= 1 && size <= p.width(r); };
    if (op < 0 || op >= kNumOps) return "an instruction is unknown";
    if (at[kFieldActivation] < 0 || at[kFieldActivation] >= kNumActivations)
      return "an activation is unknown";
    if (out < 1 || out > row_floats) return "an instruction writes no or too many floats";
    for (int64_t field : {kFieldDst, kFieldSrc, kFieldSrc2, kFieldSrc3})
      if (at[field] < -1 || at[field] >= n_regs) return "an instruction names an unknown register";
    const bool has_table = at[kFieldStride] != 0;
    if (at[kFieldStride] < 0 || at[kFieldStride] > n_vectors || (has_table && !in_body))
      return "a table outside of the loop";
    if (at[kFieldVector] < 0 || at[kFieldVector] > n_vectors)
      return "a vector outside of the vectors";
    for (int64_t field = kFieldLength; field <= kFieldPlace; ++field)
      if (at[field] < 0 || at[field] > row_floats) return "a size of an instruction is out of range";
    const int64_t length = at[kFieldLength], place = at[kFieldPlace];
    const int64_t from = padded(in < 0 ? 0 : in), to = padded(out);
    // Whether a register holds a grid of so many positions of n channels.
    auto is_grid = [&](int64_t r, int64_t positions, int64_t n) {
      return positions >= 1 && n >= 1 && n <= row_floats && holds(r, positions * strided(n));
    };
    const int64_t last = has_table ? (n_evals - 1) * at[kFieldStride] : 0;
    bool good = true;
    switch (op) {
      case kOpLinear:
        good = holds(at[kFieldDst], out) && holds(at[kFieldSrc], in) &&
               at[kFieldDst] != at[kFieldSrc] &&
               (at[kFieldSrc2] < 0 || holds(at[kFieldSrc2], out)) &&
               in_vectors(at[kFieldVector], last + padded(out)) && at[kFieldWeights] >= 0 &&
               at[kFieldWeights] <=
                   n_weights - p.pieces() * padded(out) * (p.is_bf16() ? in + in % 2 : in);
        break;
      case kOpNorm:
      case kOpNormalize:
        good = holds(at[kFieldDst], out) && holds(at[kFieldSrc], out) &&
               in_vectors(at[kFieldVector], 2 * padded(out));
        break;
      case kOpModulate:
        good = holds(at[kFieldDst], out) && holds(at[kFieldSrc], out) && extra >= 0 &&
               extra % kPanel == 0 && holds(at[kFieldSrc2], extra + padded(out) + out);
        break;
      case kOpActivate:
        good = holds(at[kFieldDst], out) && holds(at[kFieldSrc], out) &&
               in_vectors(at[kFieldVector], last + padded(out));
        break;
      case kOpPresent:
        good = in >= 0 && holds(at[kFieldSrc], in + out) && extra >= 0 &&
               holds(at[kFieldSrc], extra + 1);
        break;
      case kOpWaves:
        good = holds(at[kFieldSrc], out) && extra >= 0 && extra < 64 &&
               holds(at[kFieldDst], padded(out) + out);
        break;
      case kOpInput:
      case kOpCombine:
        good = in_body && out == chunk && extra >= 0 && extra < p.head(kHeadMembers) &&
               holds(op == kOpInput ? at[kFieldDst] : at[kFieldSrc], out);
        break;
      case kOpSpread:
      case kOpGather: {
        const bool spreads = op == kOpSpread;
        good = in_body && is_grid(at[spreads ? kFieldDst : kFieldSrc], length, out) &&
               holds(at[spreads ? kFieldSrc : kFieldDst], length * out) &&
               at[kFieldDst] != at[kFieldSrc];
        break;
      }
      case kOpConvolve:
        good = in_body && !has_table && is_grid(at[kFieldSrc], 1, in) && length >= 1 &&
               at[kFieldEvery] >= 1 && at[kFieldHop] >= 1 && at[kFieldBefore] < at[kFieldTaps] &&
               is_grid(at[kFieldSrc], (length - 1) * at[kFieldHop] + 1, in) &&
               is_grid(at[kFieldDst], (length - 1) * at[kFieldEvery] + place + 1, out) &&
               at[kFieldDst] != at[kFieldSrc] && in_vectors(at[kFieldVector], to) &&
               at[kFieldWeights] >= 0 && at[kFieldWeights] <= n_weights &&
               at[kFieldTaps] <= (n_weights - at[kFieldWeights]) / (p.pieces() * to * from);
        break;
      case kOpGroupNorm:
        good = in_body && !has_table && in >= 1 && out % in == 0 &&
               is_grid(at[kFieldSrc], length, out) && is_grid(at[kFieldDst], length, out) &&
               (at[kFieldSrc2] < 0 || is_grid(at[kFieldSrc2], length, out)) &&
               (at[kFieldSrc3] < 0 || holds(at[kFieldSrc3], place + to + out)) &&
               in_vectors(at[kFieldVector], 2 * to);
        break;
      default:
        good = false;
    }
    if (!good) return "an instruction reaches outside of its registers, vectors or weights";
  }
  return nullptr;
}

}  // namespace genpolicy
