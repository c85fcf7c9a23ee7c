// dMel on a CPU: ids of log-mel values and of spectra, sums of embeddings and their gradients.
//
// Compiled for the machine it runs on (see sigmel.ops.native).

#include "tile.h"

#include <cmath>

namespace {

constexpr float POWER_FLOOR = 1e-10f;  // as in reference.py
constexpr int64_t SLICE = 64;          // features of embeddings that are kept in registers
constexpr int64_t CHANNELS = 8;        // whose gradients a thread sums at once: those of a slice fit its first cache
constexpr int64_t SMALL = 4096;        // numbers that are not worth waking a thread for

int threads_for(int64_t numbers, int64_t threads) { return numbers < SMALL ? 1 : int(threads); }

// How many of the edges (count, one vector each) each number reaches. A NaN reaches none.
inline Integers reached(Vector x, const Vector* edges, int64_t count) {
  Integers ids = {};
  for (int64_t i = 0; i < count; i++) ids -= x >= edges[i];
  return ids;
}

// The bins that a filter has weights for.
struct Band {
  int64_t first, end;
};

Band band_of(const float* filter, int64_t bins) {
  int64_t first = 0, end = bins;
  while (first < end && filter[first] == 0.0f) first++;
  while (end > first && filter[end - 1] == 0.0f) end--;
  return {first, end};
}

// For one frame, the sum over channels of N vectors of their rows.
template <int N>
void sum_rows(const uint8_t* ids, const float* tables, int64_t channels, int64_t entries, int64_t size, int64_t,
              float* output) {
  Vector sum[N] = {};
  for (int64_t c = 0; c < channels; c++)
    for (int i = 0; i < N; i++) sum[i] += load(tables + (c * entries + ids[c]) * size + i * LANES);
  for (int i = 0; i < N; i++) store(output + i * LANES, sum[i]);
}

// For one frame, the sum over channels of `width` numbers of their rows.
void sum_numbers(const uint8_t* ids, const float* tables, int64_t channels, int64_t entries, int64_t size,
                 int64_t width, float* output) {
  for (int64_t i = 0; i < width; i++) {
    float sum = 0.0f;
    for (int64_t c = 0; c < channels; c++) sum += tables[(c * entries + ids[c]) * size + i];
    output[i] = sum;
  }
}

}  // namespace

extern "C" {

// log_mel (frames, channels), edges (channels, count) to ids (frames, channels).
void encode(const float* log_mel, const float* edges, uint8_t* ids, int64_t frames, int64_t channels, int64_t count,
            int64_t threads) {
  const int64_t vectors = (channels + LANES - 1) / LANES;
  std::vector<Vector> columns(vectors * count, all(0.0f));  // of a vector of channels, one edge after the other
  for (int64_t c = 0; c < channels; c++)
    for (int64_t i = 0; i < count; i++) columns[c / LANES * count + i][c % LANES] = edges[c * count + i];
#pragma omp parallel for num_threads(threads_for(frames * channels, threads))
  for (int64_t n = 0; n < frames; n++)
    for (int64_t v = 0; v < vectors; v++) {
      const int64_t at = n * channels + v * LANES, width = std::min<int64_t>(LANES, channels - v * LANES);
      float row[LANES] = {};
      std::memcpy(row, log_mel + at, sizeof(float) * width);
      const Integers found = reached(load(row), columns.data() + v * count, count);
      uint8_t bytes[LANES];
      for (int i = 0; i < LANES; i++) bytes[i] = uint8_t(found[i]);
      std::memcpy(ids + at, bytes, width);
    }
}

// spectrum (frames, bins, 2), filters (channels, bins), edges (channels, count) of mel magnitudes to ids
// (frames, channels). Vectors lie along the frames, so that a filter is a few products, however narrow it is.
void encode_spectrum(const float* spectrum, const float* filters, const float* edges, uint8_t* ids, int64_t frames,
                     int64_t bins, int64_t channels, int64_t count, int64_t threads) {
  std::vector<Band> bands;
  for (int64_t c = 0; c < channels; c++) bands.push_back(band_of(filters + c * bins, bins));
  const int64_t blocks = (frames + LANES - 1) / LANES, padded = (bins + LANES - 1) / LANES * LANES;
#pragma omp parallel for num_threads(threads_for(frames * bins, threads))
  for (int64_t block = 0; block < blocks; block++) {
    static thread_local std::vector<float> memory;
    Buffer buffer(memory, 2 * LANES * padded + LANES * count);
    float *rows = buffer.take(LANES * padded), *columns = buffer.take(LANES * padded);
    const int64_t first = block * LANES, here = std::min<int64_t>(LANES, frames - first);
    for (int64_t n = 0; n < here; n++) {
      const float* bin = spectrum + (first + n) * bins * 2;
      float* row = rows + n * padded;
      for (int64_t i = 0; i < bins; i++) {
        const float power = bin[2 * i] * bin[2 * i] + bin[2 * i + 1] * bin[2 * i + 1];
        row[i] = std::sqrt(power < POWER_FLOOR ? POWER_FLOOR : power);  // a NaN stays
      }
    }
    transpose(rows, padded, here, bins, columns, LANES);
    for (int64_t c = 0; c < channels; c++) {
      Vector mel = {};
      for (int64_t i = bands[c].first; i < bands[c].end; i++)
        mel += load(columns + i * LANES) * filters[c * bins + i];
      Integers found = {};
      for (int64_t i = 0; i < count; i++) found -= mel >= all(edges[c * count + i]);
      for (int64_t n = 0; n < here; n++) ids[(first + n) * channels + c] = uint8_t(found[n]);
    }
  }
}

// ids (frames, channels), tables (channels, entries, size) to output (frames, size).
void embed(const uint8_t* ids, const float* tables, float* output, int64_t frames, int64_t channels, int64_t entries,
           int64_t size, int64_t threads) {
#pragma omp parallel num_threads(threads_for(frames * channels * size, threads))
  for (int64_t first = 0, width; first < size; first += width) {  // a slice of all tables, which stays in the cache
    const int64_t left = size - first;
    width = left >= SLICE ? SLICE : left >= LANES ? LANES : left;
    const auto sum = width == SLICE ? sum_rows<SLICE / LANES> : width == LANES ? sum_rows<1> : sum_numbers;
#pragma omp for nowait
    for (int64_t n = 0; n < frames; n++)
      sum(ids + n * channels, tables + first, channels, entries, size, width, output + n * size + first);
  }
}

// grad (frames, size), ids (frames, channels) to tables (channels, entries, size). One thread sums a row, in the order
// of the frames: the result does not depend on how many threads there are.
void embed_backward(const float* grad, const uint8_t* ids, float* tables, int64_t frames, int64_t channels,
                    int64_t entries, int64_t size, int64_t threads) {
  const int64_t groups = (channels + CHANNELS - 1) / CHANNELS, slices = (size + SLICE - 1) / SLICE;
#pragma omp parallel for num_threads(threads_for(frames * channels * size, threads))
  for (int64_t task = 0; task < groups * slices; task++) {
    const int64_t low = task / slices * CHANNELS, high = std::min(low + CHANNELS, channels);
    const int64_t first = task % slices * SLICE;
    const int64_t width = std::min(SLICE, size - first);
    static thread_local std::vector<float> memory;
    Buffer buffer(memory, (CHANNELS * entries + 1) * SLICE);
    float *sums = buffer.take(CHANNELS * entries * SLICE), *row = buffer.take(SLICE);
    std::memset(sums, 0, sizeof(float) * (CHANNELS * entries + 1) * SLICE);
    for (int64_t n = 0; n < frames; n++) {
      std::memcpy(row, grad + n * size + first, sizeof(float) * width);
      for (int64_t c = low; c < high; c++) {
        float* sum = sums + ((c - low) * entries + ids[n * channels + c]) * SLICE;
        for (int64_t i = 0; i < SLICE; i++) sum[i] += row[i];
      }
    }
    for (int64_t c = low; c < high; c++)
      for (int64_t v = 0; v < entries; v++)
        std::memcpy(tables + (c * entries + v) * size + first, sums + ((c - low) * entries + v) * SLICE,
                    sizeof(float) * width);
  }
}

}  // extern "C"
