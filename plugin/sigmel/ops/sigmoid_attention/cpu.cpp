// Sigmoid attention on a CPU, forward and backward, without the matrix of weights.
//
// A task is some hundred queries of one head. A task goes through the keys in blocks, and a block through its queries
// in strips, so that the operands of products lie in the nearest cache. Scores are kept transposed, a row a key, a column a
// query: vectors lie along the queries, so masks and biases need no horizontal operation, the second product reads
// the values as they are, and only queries and outputs are transposed. As the weights are not normalised, blocks
// simply add up.
//
// Compiled for the machine it runs on (see sigmel.ops.native); called with the structure `Problem`.

#include "tile.h"

namespace {

constexpr int QUERIES = 4 * STRIP;  // queries of a task: each block of keys is read once for all of them
constexpr int KEYS = 96;            // keys of a block

// --- The arguments of a call, as sigmel/ops/sigmoid_attention/cpu.py lays them out.

struct Strides {
  int64_t row, head, time;  // in numbers; those of a head's features are 1
};

struct Sequence {
  int64_t row, query, queries, key, keys, position;  // row; first query and number of queries; first key and number
};                                                   // of keys; position of the first query among the keys

struct Problem {
  int64_t sequences, heads, key_heads, size;  // size: features of a head, a multiple of LANES
  int64_t chunk, left, right;                 // see reference.Context
  int64_t threads;
  double scale;
  const Sequence* sequence;
  const float *bias, *slopes;  // (sequences, heads); (heads) or null
  const float *q, *k, *v;
  Strides q_strides, k_strides, v_strides;
  const int64_t* page_table;   // (sequences, pages): rows of k and v, `page_size` keys each; or null
  int64_t pages, page_size;
  float* output;
  Strides output_strides;
  // Backward only.
  const float* grad;
  Strides grad_strides;
  float *grad_q, *grad_k, *grad_v;  // zeros
  Strides grad_q_strides, grad_k_strides, grad_v_strides;
  float* grad_bias;  // (sequences, heads)
};

struct Task {
  int64_t sequence, head, query;
};

template <class Number>
Number* at(Number* base, const Strides& strides, int64_t row, int64_t head, int64_t time) {
  return base + row * strides.row + head * strides.head + time * strides.time;
}

// --- Weights

// The queries of a strip: where they stand and which keys they see.
struct Strip {
  int64_t query, count, vectors;     // first of the task's queries, how many, and the vectors that hold them
  int32_t first[STRIP], end[STRIP];  // the keys each one sees
  float position[STRIP];
  int64_t any_first, any_end;      // keys that some query sees
  int64_t every_first, every_end;  // keys that every query sees

  Strip(const Problem& problem, const Sequence& sequence, int64_t task_query, int64_t query, int64_t count)
      : query(query), count(count), vectors((count + LANES - 1) / LANES), any_first(sequence.keys), any_end(0),
        every_first(0), every_end(sequence.keys) {
    for (int64_t i = 0; i < STRIP; i++) {
      const int64_t at = sequence.position + task_query + query + i, chunk = at / problem.chunk * problem.chunk;
      const int64_t from = problem.left < 0 ? 0 : chunk - problem.left;
      const int64_t to = problem.right < 0 ? sequence.keys : chunk + problem.chunk + problem.right;
      position[i] = float(at);
      first[i] = int32_t(std::clamp<int64_t>(from, 0, sequence.keys));
      end[i] = int32_t(std::clamp<int64_t>(to, 0, sequence.keys));
      if (i >= count) continue;
      any_first = std::min<int64_t>(any_first, first[i]), any_end = std::max<int64_t>(any_end, end[i]);
      every_first = std::max<int64_t>(every_first, first[i]), every_end = std::min<int64_t>(every_end, end[i]);
    }
  }

  bool sees(int64_t key, int64_t keys) const { return any_first < key + keys && key < any_end; }
  bool sees_all(int64_t key, int64_t keys) const { return every_first <= key && key + keys <= every_end; }
};

// How the scores of a head become weights.
struct Weighing {
  float scale, offset, slope;

  Weighing(const Problem& problem, const Task& task)
      : scale(-LOG2E * float(problem.scale)), offset(-LOG2E * problem.bias[task.sequence * problem.heads + task.head]),
        slope(problem.slopes ? LOG2E * problem.slopes[task.head] : 0.0f) {}

  Vector operator()(Vector score) const { return logistic2(score * scale + offset); }

  // Of a query `away` from its key, where it sees it.
  Vector operator()(Vector score, Vector away, Integers seen) const {
    const Vector distance = away < 0.0f ? -away : away;
    return (Vector)((Integers)logistic2(score * scale + (distance * slope + offset)) & seen);
  }
};

// Scores (keys x STRIP) become weights.
__attribute__((noinline)) void weigh(const Weighing& weighing, const Strip& strip, int64_t key, int64_t keys,
                                     float* scores) {
  const int64_t columns = strip.vectors * LANES;
  const bool whole = weighing.slope == 0.0f && strip.sees_all(key, keys);
  for (int64_t i = 0; i < keys; i++)
    for (int64_t j = 0; j < columns; j += LANES) {
      float* at = scores + i * STRIP + j;
      if (whole) {
        store(at, weighing(load(at)));
        continue;
      }
      Integers first, end;
      std::memcpy(&first, strip.first + j, sizeof first);
      std::memcpy(&end, strip.end + j, sizeof end);
      const int32_t number = int32_t(key + i);
      store(at, weighing(load(at), load(strip.position + j) - float(number), (first <= number) & (end > number)));
    }
}

// --- The work of a thread

// `count` rows of a head from `time` on, one right after the other; copied into `memory` if they are not.
const float* gather(const float* base, const Strides& strides, int64_t row, int64_t head, int64_t time, int64_t count,
                    int64_t size, float* memory) {
  const float* from = at(base, strides, row, head, time);
  if (strides.time == size) return from;
  for (int64_t i = 0; i < count; i++) std::memcpy(memory + i * size, from + i * strides.time, sizeof(float) * size);
  return memory;
}

// Where a key, or a value, of a task lies.
const float* place(const Problem& problem, const Task& task, const float* base, const Strides& strides, int64_t key) {
  const Sequence& sequence = problem.sequence[task.sequence];
  const int64_t head = task.head / (problem.heads / problem.key_heads);
  if (problem.page_table == nullptr) return at(base, strides, sequence.row, head, sequence.key + key);
  const int64_t page = problem.page_table[task.sequence * problem.pages + key / problem.page_size];
  return at(base, strides, page, head, key % problem.page_size);
}

// `gather` for keys, or values, of a task, which may lie in pages.
const float* gather_keys(const Problem& problem, const Task& task, const float* base, const Strides& strides,
                         int64_t key, int64_t count, float* memory) {
  const int64_t size = problem.size;
  for (int64_t done = 0, now; done < count; done += now) {
    now = count - done;
    if (problem.page_table) now = std::min(now, problem.page_size - (key + done) % problem.page_size);
    const float* from = place(problem, task, base, strides, key + done);
    if (now == count && strides.time == size) return from;
    for (int64_t i = 0; i < now; i++)
      std::memcpy(memory + (done + i) * size, from + i * strides.time, sizeof(float) * size);
  }
  return memory;
}

std::vector<Strip> strips_of(const Problem& problem, const Sequence& sequence, int64_t query, int64_t count) {
  std::vector<Strip> strips;
  cut(count, [&](int64_t first, int64_t queries) { strips.emplace_back(problem, sequence, query, first, queries); });
  return strips;
}

// Queries as columns: for each strip (size x STRIP).
void to_columns(const float* from, int64_t time, const std::vector<Strip>& strips, int64_t size, float* to) {
  for (size_t n = 0; n < strips.size(); n++)
    to_columns(from + strips[n].query * time, time, strips[n].count, size, to + n * STRIP * size);
}

struct ForwardMemory {
  float *q, *k, *v, *scores;
  static int64_t numbers(int64_t size) { return (QUERIES + 2 * KEYS) * size + KEYS * STRIP; }
  ForwardMemory(Buffer& buffer, int64_t size)
      : q(buffer.take(QUERIES * size)), k(buffer.take(KEYS * size)),
        v(buffer.take(KEYS * size)), scores(buffer.take(KEYS * STRIP)) {}
};

// The outputs of a few queries: vectors lie along the features, then along the keys.
void run_few(const Problem& problem, const Task& task, const Weighing& weighing, int64_t count, const float* q,
             float* output, const ForwardMemory& memory) {
  const Sequence& sequence = problem.sequence[task.sequence];
  const int64_t size = problem.size, q_time = problem.q_strides.time, time = problem.output_strides.time;
  const Strip strip(problem, sequence, task.query, 0, count);
  for (int64_t key = strip.any_first, keys; key < strip.any_end; key += keys) {
    keys = std::min<int64_t>(KEYS, strip.any_end - key);
    if (problem.page_table) keys = std::min(keys, problem.page_size - key % problem.page_size);  // no copies
    const float* k = gather_keys(problem, task, problem.k, problem.k_strides, key, keys, memory.k);
    const float* v = gather_keys(problem, task, problem.v, problem.v_strides, key, keys, memory.v);
    // One query waits for memory, not for arithmetic: the next keys are fetched meanwhile, as the values are.
    const int64_t after = key + keys, k_time = problem.k_strides.time;
    const float* next = after < strip.any_end ? place(problem, task, problem.k, problem.k_strides, after) : nullptr;
    for (int64_t n = 0; n < count; n++) {
      for (int64_t first = 0; first < keys; first += LANES) {
        for (int64_t i = 0; i < LANES && next && n == 0; i++)
          for (int64_t j = 0; j < size; j += LANES) __builtin_prefetch(next + (first + i) * k_time + j);
        Vector score;
        Integers number;
        dots<1>(k + first * size, size, keys - first, size, q + n * q_time, 0, v + first * size, &score);
        for (int i = 0; i < LANES; i++) number[i] = int32_t(key + first + i);
        const Vector away = strip.position[n] - __builtin_convertvector(number, Vector);
        store(memory.scores + first, weighing(score, away, (number >= strip.first[n]) & (number < strip.end[n])));
      }
      product(1, size / LANES, keys, memory.scores, KEYS, 1, v, size, output + n * time, time, true);
    }
  }
}

void run_forward(const Problem& problem, const Task& task, const ForwardMemory& memory) {
  const Sequence& sequence = problem.sequence[task.sequence];
  const int64_t size = problem.size, count = std::min<int64_t>(QUERIES, sequence.queries - task.query);
  const int64_t query = sequence.query + task.query, time = problem.output_strides.time;
  const Weighing weighing(problem, task);
  const float* q = at(problem.q, problem.q_strides, sequence.row, task.head, query);
  float* output = at(problem.output, problem.output_strides, sequence.row, task.head, query);
  for (int64_t i = 0; i < count; i++) std::memset(output + i * time, 0, sizeof(float) * size);
  if (count < FEW) return run_few(problem, task, weighing, count, q, output, memory);
  const std::vector<Strip> strips = strips_of(problem, sequence, task.query, count);
  to_columns(q, problem.q_strides.time, strips, size, memory.q);
  for (int64_t key = 0; key < sequence.keys; key += KEYS) {
    const int64_t keys = std::min<int64_t>(KEYS, sequence.keys - key);
    if (std::none_of(strips.begin(), strips.end(), [&](const Strip& strip) { return strip.sees(key, keys); })) continue;
    const float* k = gather_keys(problem, task, problem.k, problem.k_strides, key, keys, memory.k);
    const float* v = gather_keys(problem, task, problem.v, problem.v_strides, key, keys, memory.v);
    for (size_t n = 0; n < strips.size(); n++) {
      const Strip& strip = strips[n];
      if (!strip.sees(key, keys)) continue;
      product(keys, strip.vectors, size, k, size, 1, memory.q + n * STRIP * size, STRIP, memory.scores, STRIP,
              false);
      weigh(weighing, strip, key, keys, memory.scores);
      product(strip.count, size / LANES, keys, memory.scores, 1, STRIP, v, size, output + strip.query * time, time,
              true);
    }
  }
}

struct BackwardMemory {
  float *q, *q_columns, *grad, *grad_columns, *k, *v, *scores, *weights;
  static int64_t numbers(int64_t size) { return (4 * QUERIES + 2 * KEYS) * size + 2 * KEYS * STRIP; }
  BackwardMemory(Buffer& buffer, int64_t size)
      : q(buffer.take(QUERIES * size)), q_columns(buffer.take(QUERIES * size)), grad(buffer.take(QUERIES * size)),
        grad_columns(buffer.take(QUERIES * size)), k(buffer.take(KEYS * size)),
        v(buffer.take(KEYS * size)), scores(buffer.take(KEYS * STRIP)), weights(buffer.take(KEYS * STRIP)) {}
};

// Gradients of the weights (keys x STRIP) become those of the scores, times the scale; returns their unscaled sum.
__attribute__((noinline)) double unweigh(const Strip& strip, int64_t keys, float scale, const float* weights,
                                         float* grads) {
  Vector sum{};
  for (int64_t i = 0; i < keys; i++)
    for (int64_t j = 0; j < strip.vectors * LANES; j += LANES) {
      const Vector weight = load(weights + i * STRIP + j);
      const Vector grad = load(grads + i * STRIP + j) * (weight - weight * weight);
      sum += grad;
      store(grads + i * STRIP + j, grad * scale);
    }
  double total = 0.0;
  for (int j = 0; j < LANES; j++) total += sum[j];
  return total;
}

// All queries of one head, and what they add to the gradients of its keys and values.
void run_backward(const Problem& problem, const Task& task, const BackwardMemory& memory) {
  const Sequence& sequence = problem.sequence[task.sequence];
  const int64_t size = problem.size, key_head = task.head / (problem.heads / problem.key_heads);
  const int64_t time = problem.grad_q_strides.time;
  const Weighing weighing(problem, task);
  double grad_bias = 0.0;
  for (int64_t first = 0; first < sequence.queries; first += QUERIES) {
    const int64_t count = std::min<int64_t>(QUERIES, sequence.queries - first), query = sequence.query + first;
    const std::vector<Strip> strips = strips_of(problem, sequence, first, count);
    const float* q = gather(problem.q, problem.q_strides, sequence.row, task.head, query, count, size, memory.q);
    const float* grad =
        gather(problem.grad, problem.grad_strides, sequence.row, task.head, query, count, size, memory.grad);
    to_columns(q, size, strips, size, memory.q_columns);
    to_columns(grad, size, strips, size, memory.grad_columns);
    float* grad_q = at(problem.grad_q, problem.grad_q_strides, sequence.row, task.head, query);
    for (int64_t key = 0; key < sequence.keys; key += KEYS) {
      const int64_t keys = std::min<int64_t>(KEYS, sequence.keys - key);
      if (std::none_of(strips.begin(), strips.end(), [&](const Strip& strip) { return strip.sees(key, keys); }))
        continue;
      const float* k = gather_keys(problem, task, problem.k, problem.k_strides, key, keys, memory.k);
      const float* v = gather_keys(problem, task, problem.v, problem.v_strides, key, keys, memory.v);
      float* grad_k = at(problem.grad_k, problem.grad_k_strides, sequence.row, key_head, sequence.key + key);
      float* grad_v = at(problem.grad_v, problem.grad_v_strides, sequence.row, key_head, sequence.key + key);
      for (size_t n = 0; n < strips.size(); n++) {
        const Strip& strip = strips[n];
        if (!strip.sees(key, keys)) continue;
        const int64_t offset = n * STRIP * size;
        product(keys, strip.vectors, size, k, size, 1, memory.q_columns + offset, STRIP, memory.weights, STRIP,
                false);
        weigh(weighing, strip, key, keys, memory.weights);
        product(keys, strip.vectors, size, v, size, 1, memory.grad_columns + offset, STRIP, memory.scores,
                STRIP, false);
        grad_bias += unweigh(strip, keys, float(problem.scale), memory.weights, memory.scores);
        product(strip.count, size / LANES, keys, memory.scores, 1, STRIP, k, size, grad_q + strip.query * time, time,
                true);
        product(keys, size / LANES, strip.count, memory.weights, STRIP, 1, grad + strip.query * size, size, grad_v,
                problem.grad_v_strides.time, true);
        product(keys, size / LANES, strip.count, memory.scores, STRIP, 1, q + strip.query * size, size, grad_k,
                problem.grad_k_strides.time, true);
      }
    }
  }
  problem.grad_bias[task.sequence * problem.heads + task.head] = float(grad_bias);
}

}  // namespace

extern "C" void forward(const Problem* problem) {
  std::vector<Task> tasks;
  for (int64_t n = 0; n < problem->sequences; n++)
    for (int64_t head = 0; head < problem->heads; head++)
      for (int64_t query = 0; query < problem->sequence[n].queries; query += QUERIES)
        tasks.push_back({n, head, query});
#pragma omp parallel num_threads(problem->threads)
  {
    static thread_local std::vector<float> kept;
    Buffer buffer(kept, ForwardMemory::numbers(problem->size));
    const ForwardMemory memory(buffer, problem->size);
#pragma omp for schedule(dynamic)
    for (size_t n = 0; n < tasks.size(); n++) run_forward(*problem, tasks[n], memory);
  }
}

// Heads that share keys are one task, in order: no two threads add to the same gradient, so it is the same each time.
extern "C" void backward(const Problem* problem) {
  const int64_t group = problem->heads / problem->key_heads, tasks = problem->sequences * problem->key_heads;
#pragma omp parallel num_threads(problem->threads)
  {
    static thread_local std::vector<float> kept;
    Buffer buffer(kept, BackwardMemory::numbers(problem->size));
    const BackwardMemory memory(buffer, problem->size);
#pragma omp for schedule(dynamic)
    for (int64_t n = 0; n < tasks; n++)
      for (int64_t head = 0; head < group; head++)
        run_backward(*problem, {n / problem->key_heads, n % problem->key_heads * group + head, 0}, memory);
  }
}
