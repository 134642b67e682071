// ALLoRAAdamW's step of pairs (A, B) of one shape, rows of B that fit in the cache at a time. With R of r columns or
// fewer, RR' = AA', lower triangular, from `autograd.py`; s the LoRA scaling, h the adaptor, l the rate, λ the decay:
//
//     d_i = h(s‖B_iR‖),   m ← m + (1 − β₁)(g − m),   v ← β₂v + (1 − β₂)g²,   u = m̂/(√v̂ + ε),
//     B ← (1 − lλ)B − l·diag(d) u_B,   then   A ← (1 − lλ)A − l·mean(d) u_A.
//
// All in float32, whatever the matrices are kept in. A pair is one thread's from beginning to end.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int64_t ROWS = 4, BLOCK = 1024, COLUMNS = 256;  // rows whose norms are computed together; entries that are stepped together
constexpr double EPS = 2.220446049250313e-16;
template <class Real>
using Vector __attribute__((vector_size(4 * LANES), aligned(sizeof(Real)), may_alias)) = Real;

struct BFloat16 {
  uint16_t bits;
};

static inline float widened(float x) { return x; }
static inline float widened(BFloat16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}
static inline void store(float& to, float x) { to = x; }
static inline void store(BFloat16& to, float x) {  // to the nearest, ties to even, as torch
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  to.bits = x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

extern "C" struct Rule {
  int64_t pairs, outputs, inputs, rank, adaptor, bfloat16, maximize, wide_counts, threads;
  double eta, lr, beta1, beta2, eps, decay;
};

// Of one matrix: itself, its gradient, the moments, and with amsgrad the largest second moment.
template <class T>
struct Matrix {
  T *values, *gradient, *average, *square, *largest;
  double count = 0;  // of steps, this one among them
  Matrix(void* const* of, int64_t pair, const Rule& rule) {
    T** fields[] = {&values, &gradient, &average, &square, &largest};
    for (T** field : fields) *field = static_cast<T*>(of[pair]), of += rule.pairs;
    if (of[pair]) count = rule.wide_counts ? ++*static_cast<double*>(of[pair]) : ++*static_cast<float*>(of[pair]);
  }
};

struct Adam {
  float rate, keep, sign, toward, beta1, beta2, rest2, eps, root;
  Adam(const Rule& rule, double count)
      : rate(rule.lr / (1 - std::pow(rule.beta1, count))),
        keep(1 - rule.lr * rule.decay),
        sign(rule.maximize ? -1 : 1),
        toward(1 - rule.beta1),
        beta1(rule.beta1),
        beta2(rule.beta2),
        rest2(1 - rule.beta2),
        eps(rule.eps),
        root(1 / std::sqrt(1 - std::pow(rule.beta2, count))) {}
};

template <bool AMSGRAD, class T>
static void move(T* __restrict w, const T* __restrict gradient, T* __restrict average, T* __restrict square,
                 T* __restrict largest, const float* __restrict factors, int64_t n, const Adam o) {
  for (int64_t k = 0; k < n; k++) {
    const float g = o.sign * widened(gradient[k]), old = widened(average[k]);
    // torch's lerp: exact at both ends
    const float m = o.toward < 0.5f ? old + o.toward * (g - old) : g - o.beta1 * (g - old);
    float v = o.beta2 * widened(square[k]) + o.rest2 * g * g;
    store(average[k], m), store(square[k], v);
    if (AMSGRAD) {
      v = widened(largest[k]) > v ? widened(largest[k]) : v;
      store(largest[k], v);
    }
    store(w[k], o.keep * widened(w[k]) - factors[k] * m / (__builtin_sqrtf(v) * o.root + o.eps));
  }
}

template <class T>
static void move(const Matrix<T>& of, int64_t at, const float* factors, int64_t n, const Adam& o) {
  T *w = of.values + at, *g = of.gradient + at, *m = of.average + at, *v = of.square + at;
  of.largest ? move<true>(w, g, m, v, of.largest + at, factors, n, o)
             : move<false>(w, g, m, v, static_cast<T*>(nullptr), factors, n, o);
}

template <class T>
static inline void prefetch(const T* from, int64_t n) {
  for (int64_t k = 0; k < n; k += 64 / sizeof(T)) __builtin_prefetch(from + k);
}
template <class Real>
static inline Vector<Real> vector_at(const Real* x) {
  return *reinterpret_cast<const Vector<Real>*>(x);
}
template <class Real>
static inline Real sum(Vector<Real> v) {
  typedef Real Part __attribute__((vector_size(16)));
  Part parts[LANES / 4];
  std::memcpy(parts, &v, sizeof v);
  for (int k = 1; k < LANES / 4; k++) parts[0] += parts[k];
  Real total = 0;
  for (size_t k = 0; k < 16 / sizeof(Real); k++) total += parts[0][k];
  return total;
}

// ‖b_iR‖² of ROWS rows; R's columns, `width` of them, filled up with zeros to whole vectors.
static inline void squared_norms(const float* b, const float* root, int64_t rank, int64_t width, float* squares) {
  Vector<float> total[ROWS] = {};
  for (int64_t k = 0; k < width; k += LANES) {
    Vector<float> product[ROWS] = {};
    for (int64_t j = k; j < rank; j++) {
      const Vector<float> row = vector_at(root + j * width + k);
      for (int i = 0; i < ROWS; i++) product[i] += b[i * rank + j] * row;
    }
    for (int i = 0; i < ROWS; i++) total[i] += product[i] * product[i];
  }
  for (int i = 0; i < ROWS; i++) squares[i] = sum<float>(total[i]);
}

static inline float adapted(float x, float eta, int64_t adaptor) {  // `adaptors.py`
  if (adaptor == 0) return eta / __builtin_sqrtf(1 + eta * x * eta);
  if (adaptor == 1) return eta / (1 + eta * x);
  return eta * std::exp(-0.5f * eta * x * eta);
}

// B's step, where it has a gradient; the mean of its rows' factors.
template <class T>
static float step_rows(const Matrix<T>& b, const float* root, float scaling, const Rule& rule,
                       std::vector<float>& wide, std::vector<float>& factors, std::vector<float>& d) {
  const int64_t r = rule.rank, width = (r + LANES - 1) / LANES * LANES, rows = d.size();
  const Adam o(rule, b.count);
  double total = 0;
  for (int64_t i = 0; i < rule.outputs; i += rows) {
    const int64_t here = rule.outputs - i < rows ? rule.outputs - i : rows;
    for (int64_t k = 0; k < here * r; k++) wide[k] = widened(b.values[i * r + k]);
    for (int64_t k = 0; k < here; k += ROWS) {
      const int64_t at = (i + k) * r;
      prefetch(b.values + at + rows * r, ROWS * r);
      prefetch(b.gradient + at, ROWS * r);
      prefetch(b.average + at, ROWS * r);
      prefetch(b.square + at, ROWS * r);
      squared_norms(&wide[k * r], root, r, width, &d[k]);
    }
    for (int64_t k = 0; k < here; k++) d[k] = adapted(scaling * __builtin_sqrtf(d[k]), rule.eta, rule.adaptor);
    for (int64_t k = 0; k < here; k++) total += d[k];
    if (!b.gradient) continue;
    for (int64_t k = 0; k < here; k++)
      for (int64_t j = 0; j < r; j++) factors[k * r + j] = o.rate * d[k];
    move(b, i * r, factors.data(), here * r, o);
  }
  return total / rule.outputs;
}

// AAᵀ in float64, its diagonal raised by what rounding may take, as `_safe_roots` has it: the lower half, a block of
// columns at a time, in tiles of ROWS rows by ROWS.
template <class T>
static void gram(const T* a, int64_t rank, int64_t inputs, std::vector<double>& wide, std::vector<double>& out) {
  const int64_t rows = (rank + ROWS - 1) / ROWS * ROWS;
  wide.assign(rows * COLUMNS, 0);
  out.assign(rows * rows, 0);
  for (int64_t at = 0; at < inputs; at += COLUMNS) {
    const int64_t here = inputs - at < COLUMNS ? inputs - at : COLUMNS, width = (here + LANES - 1) / LANES * LANES;
    for (int64_t i = 0; i < rank; i++) {
      for (int64_t k = 0; k < here; k++) wide[i * COLUMNS + k] = widened(a[i * inputs + at + k]);
      for (int64_t k = here; k < width; k++) wide[i * COLUMNS + k] = 0;
    }
    for (int64_t i = 0; i < rows; i += ROWS) {
      for (int x = 0; x < ROWS; x++) prefetch(a + (i + x) * inputs + at + COLUMNS, COLUMNS);
      for (int64_t j = 0; j <= i; j += ROWS) {
        Vector<double> sums[ROWS][ROWS] = {};
        for (int64_t k = 0; k < width; k += LANES / 2)
          for (int x = 0; x < ROWS; x++)
            for (int y = 0; y < ROWS; y++)
              sums[x][y] += vector_at(&wide[(i + x) * COLUMNS + k]) * vector_at(&wide[(j + y) * COLUMNS + k]);
        for (int x = 0; x < ROWS; x++)
          for (int y = 0; y < ROWS; y++) out[(i + x) * rows + j + y] += sum<double>(sums[x][y]);
      }
    }
  }
  double trace = 0;
  for (int64_t i = 0; i < rank; i++) trace += out[i * (rows + 1)];
  for (int64_t i = 0; i < rank; i++) out[i * (rows + 1)] += 4 * rank * EPS * trace;
}

// R, lower triangular, with RR' = `gram`, which is overwritten; R's rows are filled up with zeros to `width`.
static void cholesky(std::vector<double>& gram, int64_t rank, int64_t width, std::vector<float>& root) {
  const int64_t rows = (rank + ROWS - 1) / ROWS * ROWS;
  std::vector<double> column(rank);
  root.assign(rank * width, 0);
  for (int64_t j = 0; j < rank; j++) {
    const double pivot = gram[j * (rows + 1)], scale = pivot <= 0 ? 0 : 1 / std::sqrt(pivot);
    for (int64_t i = j; i < rank; i++) root[i * width + j] = column[i] = scale * gram[i * rows + j];
    for (int64_t i = j + 1; i < rank; i++)
      for (int64_t k = j + 1; k <= i; k++) gram[i * rows + k] -= column[i] * column[k];
  }
}

template <class T>
static void step_pairs(const Rule& rule, void* const* a, void* const* b, const double* scalings,
                       std::atomic<int64_t>& next) {
  const int64_t r = rule.rank, width = (r + LANES - 1) / LANES * LANES;
  const int64_t rows = r * ROWS < BLOCK ? BLOCK / r / ROWS * ROWS : ROWS, block = rows * r;
  std::vector<double> columns, squares;
  std::vector<float> root, wide(block), factors(block), d(rows);
  for (int64_t p; (p = next++) < rule.pairs;) {
    const Matrix<T> first(a, p, rule), second(b, p, rule);
    gram(first.values, r, rule.inputs, columns, squares);
    cholesky(squares, r, width, root);
    const float mean = step_rows(second, root.data(), scalings[p], rule, wide, factors, d);
    if (!first.gradient) continue;
    const Adam o(rule, first.count);
    for (float& factor : factors) factor = o.rate * mean;
    for (int64_t at = 0, n = r * rule.inputs; at < n; at += block)
      move(first, at, factors.data(), n - at < block ? n - at : block, o);
  }
}

// `a`, `b`: the six fields of `Matrix` by pair, null where there is none.
extern "C" void step(const Rule* rule, void* const* a, void* const* b, const double* scalings) {
  std::atomic<int64_t> next(0);
  auto work = [&] { (rule->bfloat16 ? step_pairs<BFloat16> : step_pairs<float>)(*rule, a, b, scalings, next); };
  std::vector<std::thread> others;
  try {
    while (static_cast<int64_t>(others.size()) + 1 < rule->threads) others.emplace_back(work);
  } catch (const std::exception&) {  // no more threads to be had
  }
  work();
  for (auto& other : others) other.join();
}
