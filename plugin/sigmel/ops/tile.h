// What the C++ of the ops has in common: products of float32 matrices in tiles that fill the registers, strips of
// columns, transposition, functions, and the memory of a thread.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr bool FEW_REGISTERS = LANES == 8;  // 16, elsewhere 32
constexpr int VECTORS = 3;
constexpr int STRIP = VECTORS * LANES;  // columns that are worked on at once
constexpr int FEW = LANES / 4;          // fewer columns leave most of a vector of columns empty
constexpr int ALIGNMENT = 64;

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vector x) { *reinterpret_cast<Unaligned*>(p) = x; }
inline Vector all(float x) { return x - Vector{}; }

// --- Products of matrices

// C (M x 16 N) = A (M x depth) B (depth x 16 N), added to what is there if `add`.
template <int M, int N>
inline void tile(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t ldb, int64_t depth, float* c,
                 int64_t ldc, bool add) {
  Vector sum[M][N];
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) sum[i][j] = add ? load(c + i * ldc + j * LANES) : Vector{};
  for (int64_t p = 0; p < depth; p++) {
    Vector row[N];
    for (int j = 0; j < N; j++) row[j] = load(b + p * ldb + j * LANES);
    for (int i = 0; i < M; i++) {
      const Vector x = all(a[i * a_row + p * a_step]);
      for (int j = 0; j < N; j++) sum[i][j] += x * row[j];
    }
  }
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) store(c + i * ldc + j * LANES, sum[i][j]);
}

// Rows of a tile of N vectors, so that it fills the registers.
template <int N>
constexpr int rows_of() { return N == 4 ? 6 : FEW_REGISTERS ? 4 : 8; }

// Not inlined: what surrounds it would take registers from the tile.
template <int N>
__attribute__((noinline)) void panel(int64_t rows, const float* a, int64_t a_row, int64_t a_step, const float* b,
                                     int64_t ldb, int64_t depth, float* c, int64_t ldc, bool add) {
  constexpr int M = rows_of<N>();
  int64_t i = 0;
  for (; i + M <= rows; i += M) tile<M, N>(a + i * a_row, a_row, a_step, b, ldb, depth, c + i * ldc, ldc, add);
  for (; i + 2 <= rows; i += 2) tile<2, N>(a + i * a_row, a_row, a_step, b, ldb, depth, c + i * ldc, ldc, add);
  for (; i < rows; i++) tile<1, N>(a + i * a_row, a_row, a_step, b, ldb, depth, c + i * ldc, ldc, add);
}

void product(int64_t rows, int64_t vectors, int64_t depth, const float* a, int64_t a_row, int64_t a_step,
             const float* b, int64_t ldb, float* c, int64_t ldc, bool add) {
  while (vectors > 0) {
    // One vector alone would keep the processor waiting: four are taken at once, or as two and two.
    const int64_t now = vectors == 4 ? (FEW_REGISTERS ? 2 : 4) : std::min<int64_t>(vectors, VECTORS);
    const auto kernel = now == 4 ? panel<4> : now == 3 ? panel<3> : now == 2 ? panel<2> : panel<1>;
    kernel(rows, a, a_row, a_step, b, ldb, depth, c, ldc, add);
    vectors -= now, b += now * LANES, c += now * LANES;
  }
}

// --- Transposition

// LANES rows become LANES columns: rows i and i + LANES / 2 are interleaved, log2(LANES) times.
inline void transpose_square(const float* from, int64_t ld, float* to, int64_t ldt) {
#if defined(__GNUC__) && !defined(__clang__)
  Integers low, high;
  for (int i = 0; i < LANES; i++) low[i] = i / 2 + i % 2 * LANES, high[i] = low[i] + LANES / 2;
  Vector rows[LANES], next[LANES];
  for (int i = 0; i < LANES; i++) rows[i] = load(from + i * ld);
  for (int round = 1; round < LANES; round *= 2) {
    for (int i = 0; i < LANES / 2; i++) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + LANES / 2], low);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + LANES / 2], high);
    }
    for (int i = 0; i < LANES; i++) rows[i] = next[i];
  }
  for (int i = 0; i < LANES; i++) store(to + i * ldt, rows[i]);
#else
  for (int i = 0; i < LANES; i++)
    for (int j = 0; j < LANES; j++) to[j * ldt + i] = from[i * ld + j];
#endif
}

void transpose(const float* from, int64_t ld, int64_t rows, int64_t columns, float* to, int64_t ldt) {
  for (int64_t i = 0; i < rows; i += LANES)
    for (int64_t j = 0; j < columns; j += LANES) {
      const int64_t m = std::min<int64_t>(LANES, rows - i), n = std::min<int64_t>(LANES, columns - j);
      if (m == LANES && n == LANES) {
        transpose_square(from + i * ld + j, ld, to + j * ldt + i, ldt);
        continue;
      }
      for (int64_t r = 0; r < m; r++)
        for (int64_t s = 0; s < n; s++) to[(j + s) * ldt + i + r] = from[(i + r) * ld + j + s];
    }
}

// (count, size) rows as columns (size, STRIP), zeros where there is no row.
inline void to_columns(const float* rows, int64_t ld, int64_t count, int64_t size, float* columns) {
  if (count < STRIP) std::memset(columns, 0, sizeof(float) * STRIP * size);
  transpose(rows, ld, count, size, columns, STRIP);
}

// Cuts columns into strips of about one width, as a strip of one vector would keep the processor waiting; calls `take`
// with the first column of each strip and how many it has.
template <class Take>
void cut(int64_t columns, Take take) {
  const int64_t vectors = (columns + LANES - 1) / LANES, number = (vectors + VECTORS - 1) / VECTORS;
  for (int64_t n = 0, first = 0; n < number; n++) {
    const int64_t width = (vectors / number + (n < vectors % number)) * LANES;
    take(first, std::min(width, columns - first));
    first += width;
  }
}

// The products of N vectors x with LANES rows, or with `count` rows and zeros for the rest: for so few x that vectors
// along them would be all but empty. Other rows, of the same shape, may be fetched `ahead`.
template <int N>
inline void dots(const float* rows, int64_t ld, int64_t count, int64_t depth, const float* x, int64_t ldx,
                 const float* ahead, Vector* products) {
  float parts[N][LANES * LANES], columns[LANES * LANES];
  for (int64_t i = 0; i < LANES; i++) {
    Vector sum[N] = {};
    for (int64_t j = 0; j < depth && i < count; j += LANES) {
      const Vector row = load(rows + i * ld + j);
      for (int n = 0; n < N; n++) sum[n] += row * load(x + n * ldx + j);
      if (ahead) __builtin_prefetch(ahead + i * ld + j);
    }
    for (int n = 0; n < N; n++) store(parts[n] + i * LANES, sum[n]);
  }
  for (int n = 0; n < N; n++) {
    transpose_square(parts[n], LANES, columns, LANES);
    products[n] = Vector{};
    for (int i = 0; i < LANES; i++) products[n] += load(columns + i * LANES);
  }
}

// --- Functions

constexpr float LOG2E = 1.44269504089f;

// 2^x, to some 1e-7, cut off at the range of floats: 2^round(x) times a polynomial of what is left.
inline Vector power2(Vector x) {
  // Least squares of the relative error on [-1/2, 1/2]; its largest is 8e-8.
  constexpr float C[] = {1.0000000710f,   6.9314694916e-1f, 2.4022121754e-1f,
                         5.5507426160e-2f, 9.6754597455e-3f, 1.3266970386e-3f};
#if defined(__AVX512F__)
  // Of two NaNs or a NaN and a number, this minimum is the second.
  const __m512 bounded = _mm512_min_ps(_mm512_set1_ps(126.0f), (__m512)x);
  const __m512 whole = _mm512_roundscale_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Vector rest = (Vector)_mm512_sub_ps(bounded, whole);
#else
  Vector bounded = x > 126.0f ? all(126.0f) : x;
  bounded = bounded < -126.0f ? all(-126.0f) : bounded;
  constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it leaves no bits for a fraction
  const Vector shifted = bounded + ROUND;
  const Vector rest = bounded - (shifted - ROUND);
#endif
  Vector power = all(C[5]);
  for (int i = 4; i >= 0; i--) power = power * rest + C[i];
#if defined(__AVX512F__)
  return (Vector)_mm512_scalef_ps((__m512)power, whole);
#else
  return (Vector)((Integers)power + ((Integers)shifted << 23));
#endif
}

// 1 / x, to some 1e-7.
inline Vector reciprocal(Vector x) {
#if defined(__AVX512F__)
  const __m512 guess = _mm512_rcp14_ps((__m512)x);  // a division would take as long as a dozen other operations
  return (Vector)_mm512_mul_ps(guess, _mm512_fnmadd_ps((__m512)x, guess, _mm512_set1_ps(2.0f)));
#else
  return 1.0f / x;
#endif
}

// 1 / (1 + 2^x): the logistic function of -x ln 2.
inline Vector logistic2(Vector x) { return reciprocal(power2(x) + 1.0f); }

// --- Memory

// Memory cut into pieces that begin at cache lines. The memory is kept from call to call: fresh memory costs more time
// than a small call.
class Buffer {
 public:
  Buffer(std::vector<float>& memory, int64_t numbers) {
    if (int64_t(memory.size()) < numbers + ALIGNMENT) memory.resize(numbers + ALIGNMENT);
    next = memory.data();
    next += -reinterpret_cast<intptr_t>(next) / 4 % (ALIGNMENT / 4) + ALIGNMENT / 4;
  }
  float* take(int64_t numbers) {
    float* piece = next;
    next += numbers;
    return piece;
  }

 private:
  float* next;
};

}  // namespace
