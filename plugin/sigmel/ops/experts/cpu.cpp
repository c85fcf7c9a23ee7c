// The feed-forward of routed experts on a CPU, forward and backward.
//
// Choices are sorted by expert, and an expert's frames cut into strips, which are kept transposed: a row a feature, a
// column a frame. So vectors lie along the frames and the weights are read as they are, row by row. A task is some
// rows of an expert's weights, for all of its frames: each weight is read once from memory, and there are tasks enough
// for all threads even where one expert has all frames, or there is one frame only.
//
// Compiled for the machine it runs on (see sigmel.ops.native); called with the structure `Problem`.

#include "tile.h"

#include <cmath>

namespace {

constexpr int ROWS = 64;  // rows of weights of a task

enum Activation : int64_t { RELU, GELU, SILU };

// The arguments of a call, as sigmel/ops/experts/cpu.py lays them out. N frames with K choices, D features, E experts with F
// hidden features each; D and F are multiples of LANES. If gated, 2 F features go into the activation: its value is the
// activation of the first F, times the others.
struct Problem {
  int64_t frames, choices, size, hidden, experts, activation, gated, threads;
  const float* x;         // (N, D)
  const int64_t* chosen;  // (N, K), -1 for no expert
  const float* gates;     // (N, K)
  const float *w1, *b1, *w2, *b2;
  float* output;  // (N, D)
  float* before;  // kept for the backward pass: the inputs of the activation, by strips; or null
  // Backward only.
  const float* grad;  // (N, D)
  float *grad_x, *grad_gates, *grad_w1, *grad_b1, *grad_w2, *grad_b2;  // shaped as theirs
};

// --- Which frames go where

struct Strip {
  int64_t first, count, vectors;  // first of the sorted choices, how many, and the vectors that hold them
};

struct Group {
  int64_t expert, first, end;  // its strips
};

struct Plan {
  std::vector<int64_t> order;  // choices (frame * K + k) by expert; those of no expert are left out
  std::vector<Strip> strips;
  std::vector<Group> groups;  // of experts that some frame chose

  explicit Plan(const Problem& problem) {
    const int64_t choices = problem.frames * problem.choices;
    std::vector<int64_t> next(problem.experts + 1, 0);
    for (int64_t i = 0; i < choices; i++)
      if (problem.chosen[i] >= 0) next[problem.chosen[i] + 1]++;
    for (int64_t e = 0; e < problem.experts; e++) {
      const int64_t count = next[e + 1], first = next[e];
      next[e + 1] += first;
      if (count == 0) continue;
      const int64_t begin = int64_t(strips.size());
      cut(count, [&](int64_t done, int64_t width) {
        strips.push_back({first + done, width, (width + LANES - 1) / LANES});
      });
      groups.push_back({e, begin, int64_t(strips.size())});
    }
    order.resize(next[problem.experts]);
    for (int64_t i = 0; i < choices; i++)
      if (problem.chosen[i] >= 0) order[next[problem.chosen[i]]++] = i;
  }
};

// Rows of an expert's weights: what a thread works on.
struct Task {
  int64_t expert, first, rows;
};

// For weights of `rows` rows, calls `work` with each task and, one after the other, with each strip that it goes
// through, its number, and whether there was one before. The threads share the tasks.
template <class Work>
void each(const Plan& plan, int64_t rows, Work work) {
  const int64_t blocks = (rows + ROWS - 1) / ROWS, tasks = int64_t(plan.groups.size()) * blocks;
#pragma omp for schedule(dynamic)
  for (int64_t t = 0; t < tasks; t++) {
    const Group& group = plan.groups[t / blocks];
    const int64_t first = t % blocks * ROWS;
    const Task task{group.expert, first, std::min<int64_t>(ROWS, rows - first)};
    for (int64_t n = group.first; n < group.end; n++) work(task, plan.strips[n], n, n > group.first);
  }
}

// Rows of the frames of a strip, (count, D), one after the other.
void gather(const Problem& problem, const Plan& plan, const Strip& strip, const float* from, float* rows) {
  for (int64_t i = 0; i < strip.count; i++)
    std::memcpy(rows + i * problem.size, from + plan.order[strip.first + i] / problem.choices * problem.size,
                sizeof(float) * problem.size);
}

// The gates of a strip's frames, zeros where there is no frame.
struct Gates {
  float gates[STRIP];
  Gates(const Problem& problem, const Plan& plan, const Strip& strip) {
    for (int64_t i = 0; i < STRIP; i++) gates[i] = i < strip.count ? problem.gates[plan.order[strip.first + i]] : 0.0f;
  }
  operator const float*() const { return gates; }
};

// --- Activations

// The error function, to 1.5e-7 (Abramowitz and Stegun, 7.1.26), given e^(-x^2).
inline Vector error_function(Vector x, Vector power) {
  const Vector size = x < 0.0f ? -x : x, t = reciprocal(size * 0.3275911f + 1.0f);
  const Vector sum = ((((t * 1.061405429f - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  const Vector value = 1.0f - sum * power;
  return x < 0.0f ? -value : value;
}

struct Activated {
  Vector value, slope;
};

template <Activation ACTIVATION>
inline Activated activate(Vector x) {
  if constexpr (ACTIVATION == RELU) {
    // Of a NaN both comparisons are false: it stays.
    return {x <= 0.0f ? Vector{} : x, x <= 0.0f ? Vector{} : all(1.0f)};
  } else if constexpr (ACTIVATION == SILU) {
    const Vector gate = logistic2(x * -LOG2E);
    return {x * gate, gate + x * gate * (1.0f - gate)};
  } else {
    const Vector power = power2(x * x * (-0.5f * LOG2E));  // e^(-x^2 / 2)
    const Vector below = error_function(x * 0.70710678f, power) * 0.5f + 0.5f;
    return {x * below, below + x * power * 0.39894228f};
  }
}

// Adds the biases to `rows` rows (rows, STRIP) of products, and to those `other` further on if gated; writes the
// results of the activation to `value`.
template <Activation ACTIVATION, bool GATED>
void activate_rows(const Strip& strip, int64_t rows, const float* bias, int64_t hidden, float* before, int64_t other,
                   float* value) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < strip.vectors * LANES; j += LANES) {
      float* at = before + i * STRIP + j;
      const Vector x = load(at) + bias[i];
      store(at, x);
      Vector y = activate<ACTIVATION>(x).value;
      if constexpr (GATED) {
        const Vector linear = load(at + other) + bias[i + hidden];
        store(at + other, linear);
        y *= linear;
      }
      store(value + i * STRIP + j, y);
    }
}

// Turns the gradients of the values (rows, STRIP) into those of the inputs of the activation, here and, if gated, `other`
// further on; writes the values, times the gates; and adds the share of each value in the gradient of its gate to
// `gate_sums`.
template <Activation ACTIVATION, bool GATED>
void deactivate_rows(const Strip& strip, int64_t rows, const float* before, int64_t other, const float* gates,
                     float* grads, float* values, float* gate_sums) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < strip.vectors * LANES; j += LANES) {
      const int64_t at = i * STRIP + j;
      Activated activated = activate<ACTIVATION>(load(before + at));
      const Vector grad = load(grads + at), gate = load(gates + j);
      if constexpr (GATED) {
        const Vector linear = load(before + at + other);
        store(grads + at + other, grad * activated.value * gate);
        activated.value *= linear, activated.slope *= linear;
      }
      store(gate_sums + j, load(gate_sums + j) + grad * activated.value);
      store(values + at, activated.value * gate);
      store(grads + at, grad * activated.slope * gate);
    }
}

// A few frames of a strip, as rows (count, depth), through rows of weights: hands the products to `take`, a vector of
// features at a time.
template <class Take>
void run_few(const Strip& strip, const float* frames, int64_t depth, const float* weights, int64_t rows,
             const float* bias, Take take) {
  static_assert(FEW <= 4);
  const auto kernel = strip.count == 3 ? dots<3> : strip.count == 2 ? dots<2> : dots<1>;
  for (int64_t i = 0; i < rows; i += LANES) {
    Vector products[FEW];
    kernel(weights + i * depth, depth, LANES, depth, frames, depth, nullptr, products);
    for (int64_t n = 0; n < strip.count; n++) take(n, i, products[n] + load(bias + i));
  }
}

// The sums of rows (rows, STRIP), of each column times its gate if there are any; added to what is there if `add`.
void sum_rows(const Strip& strip, int64_t rows, const float* grads, const float* gates, float* totals, bool add) {
  for (int64_t i = 0; i < rows; i++) {
    float sum = 0.0f;
    for (int64_t j = 0; j < strip.count; j++) sum += grads[i * STRIP + j] * (gates ? gates[j] : 1.0f);
    totals[i] = add ? totals[i] + sum : sum;
  }
}

// --- Sums over the choices of a frame

// Where a choice's output goes: to its frame's row, or, where a frame has several choices, to a row of its own.
float* row_of(const Problem& problem, float* result, float* rows, int64_t choice) {
  return (problem.choices == 1 ? result : rows) + choice * problem.size;
}

// Frames without a choice are zero; the others are the sums of the rows of their choices, in their order.
void combine(const Problem& problem, const float* rows, float* result, int64_t frame) {
  float* row = result + frame * problem.size;
  bool empty = true;
  for (int64_t k = 0; k < problem.choices; k++) {
    const int64_t choice = frame * problem.choices + k;
    if (problem.chosen[choice] < 0) continue;
    if (problem.choices > 1)
      for (int64_t j = 0; j < problem.size; j += LANES) {
        const Vector more = load(rows + choice * problem.size + j);
        store(row + j, empty ? more : load(row + j) + more);
      }
    empty = false;
  }
  if (empty) std::memset(row, 0, sizeof(float) * problem.size);
}

// A block (rows, STRIP) of columns, plus a bias, times the gates, written into the rows of their frames.
void scatter(const Problem& problem, const Plan& plan, const Strip& strip, const Task& task, const float* block,
             const float* bias, const float* gates, float* result, float* rows) {
  float frames[STRIP * ROWS];
  transpose(block, STRIP, task.rows, strip.count, frames, ROWS);
  for (int64_t i = 0; i < strip.count; i++) {
    float* row = row_of(problem, result, rows, plan.order[strip.first + i]) + task.first;
    for (int64_t j = 0; j < task.rows; j += LANES) {
      const Vector value = load(frames + i * ROWS + j);
      store(row + j, bias ? (value + load(bias + j)) * gates[i] : value);
    }
  }
}

int64_t pieces(const Plan& plan) { return int64_t(plan.strips.size()) * STRIP; }

template <Activation ACTIVATION, bool GATED>
void run_forward(const Problem& problem) {
  const Plan plan(problem);
  const int64_t size = problem.size, hidden = problem.hidden, inner = GATED ? 2 * hidden : hidden;
  static thread_local std::vector<float> kept;
  const int64_t spread = problem.choices == 1 ? 0 : problem.frames * problem.choices * size;
  Buffer shared(kept, pieces(plan) * (size + hidden) + spread);
  float *columns = shared.take(pieces(plan) * size), *values = shared.take(pieces(plan) * hidden);
  float* rows = shared.take(spread);
  const auto few = [&](const Strip& strip) { return !problem.before && strip.count < FEW; };  // rows, not columns
#pragma omp parallel num_threads(problem.threads)
  {
    std::vector<float> memory(STRIP * std::max<int64_t>(size, 2 * ROWS));
#pragma omp for schedule(dynamic)
    for (size_t n = 0; n < plan.strips.size(); n++) {
      const Strip& strip = plan.strips[n];
      gather(problem, plan, strip, problem.x, few(strip) ? columns + n * STRIP * size : memory.data());
      if (!few(strip)) to_columns(memory.data(), size, strip.count, size, columns + n * STRIP * size);
    }
    each(plan, hidden, [&](const Task& task, const Strip& strip, int64_t n, bool) {
      const float* w1 = problem.w1 + (task.expert * inner + task.first) * size;
      const float* b1 = problem.b1 + task.expert * inner + task.first;
      const float* frames = columns + n * STRIP * size;
      float* value = values + n * STRIP * hidden;
      if (few(strip)) {
        run_few(strip, frames, size, w1, task.rows, b1, [&](int64_t frame, int64_t row, Vector x) {
          store(value + frame * hidden + task.first + row, activate<ACTIVATION>(x).value);
        });
        if constexpr (GATED)
          run_few(strip, frames, size, w1 + hidden * size, task.rows, b1 + hidden,
                  [&](int64_t frame, int64_t row, Vector x) {
                    float* at = value + frame * hidden + task.first + row;
                    store(at, load(at) * x);
                  });
        return;
      }
      float* before = problem.before ? problem.before + (n * inner + task.first) * STRIP : memory.data();
      const int64_t other = (problem.before ? hidden : ROWS) * STRIP;
      product(task.rows, strip.vectors, size, w1, size, 1, frames, STRIP, before, STRIP, false);
      if constexpr (GATED)
        product(task.rows, strip.vectors, size, w1 + hidden * size, size, 1, frames, STRIP, before + other, STRIP,
                false);
      activate_rows<ACTIVATION, GATED>(strip, task.rows, b1, hidden, before, other, value + task.first * STRIP);
    });
    each(plan, size, [&](const Task& task, const Strip& strip, int64_t n, bool) {
      const float* w2 = problem.w2 + (task.expert * size + task.first) * hidden;
      const float* b2 = problem.b2 + task.expert * size + task.first;
      const float* value = values + n * STRIP * hidden;
      const Gates gates(problem, plan, strip);
      if (few(strip)) {
        run_few(strip, value, hidden, w2, task.rows, b2, [&](int64_t frame, int64_t row, Vector x) {
          float* to = row_of(problem, problem.output, rows, plan.order[strip.first + frame]);
          store(to + task.first + row, x * gates[frame]);
        });
        return;
      }
      product(task.rows, strip.vectors, hidden, w2, hidden, 1, value, STRIP, memory.data(), STRIP, false);
      scatter(problem, plan, strip, task, memory.data(), b2, gates, problem.output, rows);
    });
#pragma omp for
    for (int64_t n = 0; n < problem.frames; n++) combine(problem, rows, problem.output, n);
  }
}

template <Activation ACTIVATION, bool GATED>
void run_backward(const Problem& problem) {
  const Plan plan(problem);
  const int64_t size = problem.size, hidden = problem.hidden, inner = GATED ? 2 * hidden : hidden;
  const int64_t spread = problem.choices == 1 ? 0 : problem.frames * problem.choices * size;
  const int64_t blocks = (hidden + ROWS - 1) / ROWS;
  static thread_local std::vector<float> kept;
  Buffer shared(kept, pieces(plan) * (2 * size + hidden + inner + blocks) + spread);
  // By strips: the frames as rows, the gradients as columns, the values as rows (times their gates), the gradients of
  // the inputs of the activation as columns, and for each block of hidden features its share in those of the gates.
  float *x = shared.take(pieces(plan) * size), *grads = shared.take(pieces(plan) * size);
  float *values = shared.take(pieces(plan) * hidden), *grads_before = shared.take(pieces(plan) * inner);
  float *gate_sums = shared.take(pieces(plan) * blocks), *rows = shared.take(spread);
  std::vector<bool> idle(problem.experts, true);
  for (const Group& group : plan.groups) idle[group.expert] = false;
#pragma omp parallel num_threads(problem.threads)
  {
    std::vector<float> memory(STRIP * std::max<int64_t>(size, 2 * ROWS));
#pragma omp for schedule(dynamic)
    for (size_t n = 0; n < plan.strips.size(); n++) {
      gather(problem, plan, plan.strips[n], problem.x, x + n * STRIP * size);
      gather(problem, plan, plan.strips[n], problem.grad, memory.data());
      to_columns(memory.data(), size, plan.strips[n].count, size, grads + n * STRIP * size);
    }
    // Of the hidden features: their gradients, and those of the first weights.
    each(plan, hidden, [&](const Task& task, const Strip& strip, int64_t n, bool add) {
      float* grad = grads_before + (n * inner + task.first) * STRIP;
      float* sums = gate_sums + (n * blocks + task.first / ROWS) * STRIP;
      const Gates gates(problem, plan, strip);
      std::memset(sums, 0, sizeof(float) * STRIP);
      product(task.rows, strip.vectors, size, problem.w2 + task.expert * size * hidden + task.first, 1, hidden,
              grads + n * STRIP * size, STRIP, grad, STRIP, false);
      deactivate_rows<ACTIVATION, GATED>(strip, task.rows, problem.before + (n * inner + task.first) * STRIP,
                                         hidden * STRIP, gates, grad, memory.data(), sums);
      transpose(memory.data(), STRIP, task.rows, strip.count, values + n * STRIP * hidden + task.first, hidden);
      for (int64_t row = task.first; row < inner; row += hidden, grad += hidden * STRIP) {
        product(task.rows, size / LANES, strip.count, grad, STRIP, 1, x + n * STRIP * size, size,
                problem.grad_w1 + (task.expert * inner + row) * size, size, add);
        sum_rows(strip, task.rows, grad, nullptr, problem.grad_b1 + task.expert * inner + row, add);
      }
    });
    // Of the features: their gradients, and those of the second weights.
    each(plan, size, [&](const Task& task, const Strip& strip, int64_t n, bool add) {
      const float* grad = grads + (n * size + task.first) * STRIP;
      const Gates gates(problem, plan, strip);
      product(task.rows, hidden / LANES, strip.count, grad, STRIP, 1, values + n * STRIP * hidden, hidden,
              problem.grad_w2 + (task.expert * size + task.first) * hidden, hidden, add);
      sum_rows(strip, task.rows, grad, gates, problem.grad_b2 + task.expert * size + task.first, add);
      product(task.rows, strip.vectors, inner, problem.w1 + task.expert * inner * size + task.first, 1, size,
              grads_before + n * STRIP * inner, STRIP, memory.data(), STRIP, false);
      scatter(problem, plan, strip, task, memory.data(), nullptr, gates, problem.grad_x, rows);
    });
#pragma omp for
    for (size_t g = 0; g < plan.groups.size(); g++)
      for (int64_t n = plan.groups[g].first; n < plan.groups[g].end; n++)
        for (int64_t i = 0; i < plan.strips[n].count; i++) {
          const int64_t choice = plan.order[plan.strips[n].first + i];
          const float* grad = problem.grad + choice / problem.choices * size;
          const float* b2 = problem.b2 + plan.groups[g].expert * size;
          float sum = 0.0f;
          for (int64_t j = 0; j < blocks; j++) sum += gate_sums[(n * blocks + j) * STRIP + i];
          for (int64_t j = 0; j < size; j++) sum += grad[j] * b2[j];
          problem.grad_gates[choice] = sum;
        }
#pragma omp for
    for (int64_t n = 0; n < problem.frames; n++) {
      combine(problem, rows, problem.grad_x, n);
      for (int64_t i = n * problem.choices; i < (n + 1) * problem.choices; i++)
        if (problem.chosen[i] < 0) problem.grad_gates[i] = 0.0f;
    }
#pragma omp for schedule(dynamic)
    for (int64_t e = 0; e < problem.experts; e++) {
      if (!idle[e]) continue;
      std::memset(problem.grad_w1 + e * inner * size, 0, sizeof(float) * inner * size);
      std::memset(problem.grad_w2 + e * hidden * size, 0, sizeof(float) * hidden * size);
      std::memset(problem.grad_b1 + e * inner, 0, sizeof(float) * inner);
      std::memset(problem.grad_b2 + e * size, 0, sizeof(float) * size);
    }
  }
}

using Run = void (*)(const Problem&);  // by activation, and whether it is gated

constexpr Run FORWARD[][2] = {{run_forward<RELU, false>, run_forward<RELU, true>},
                              {run_forward<GELU, false>, run_forward<GELU, true>},
                              {run_forward<SILU, false>, run_forward<SILU, true>}};
constexpr Run BACKWARD[][2] = {{run_backward<RELU, false>, run_backward<RELU, true>},
                               {run_backward<GELU, false>, run_backward<GELU, true>},
                               {run_backward<SILU, false>, run_backward<SILU, true>}};

}  // namespace

extern "C" void forward(const Problem* problem) { FORWARD[problem->activation][problem->gated](*problem); }
extern "C" void backward(const Problem* problem) { BACKWARD[problem->activation][problem->gated](*problem); }
