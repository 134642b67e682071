// ALLoRAAdamW's step of pairs (A, B) of one shape. With s the LoRA scaling, h the adaptor, l the rate, λ the decay:
//
//     RR' = AA',   d_i = h(s‖B_iR‖),   m ← m + (1 − β₁)(g − m),   v ← β₂v + (1 − β₂)g²,   u = m̂/(√v̂ + ε),
//     B ← (1 − lλ)B − l·diag(d) u_B,   then   A ← (1 − lλ)A − l·mean(d) u_A.
//
// R, lower triangular, as autograd.py finds it; all in float32 but where that says float64, whatever the matrices are
// kept in. While the norms of some rows of B are computed, what their step reads is fetched. A pair is one thread's from
// beginning to end: the result knows no number of threads.

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
constexpr int64_t ROWS = 4, COLUMNS = 256, BLOCK = 512;  // of a tile; of A at a time; entries stepped at a time
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
  double eta, lr, beta1, beta2, eps, decay, largest_condition, smallest_trace;
};

// One matrix: itself, its gradient, the moments, with amsgrad the largest second moment, the number of steps; null is
// what it does not have. A matrix without a gradient stays.
template <class T>
struct Matrix {
  T *values, *gradient, *average, *square, *largest;
  double count = 0;
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

// ‖b_iR‖² of ROWS rows; R has `width` columns, the last of them zeros, so that they are whole vectors.
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

struct Scratch {
  std::vector<float> narrow, root, values, factors, d;
  std::vector<double> wide, gram, column;
};

// AA', summed in Real, a block of columns at a time: the lower half, in tiles of ROWS rows by ROWS.
template <class Real, class T>
static void gram(const T* a, const Rule& rule, std::vector<Real>& block, std::vector<double>& out) {
  const int64_t rank = rule.rank, rows = (rank + ROWS - 1) / ROWS * ROWS, lanes = 4 * LANES / sizeof(Real);
  block.assign(rows * COLUMNS, 0);
  out.assign(rows * rows, 0);
  for (int64_t at = 0; at < rule.inputs; at += COLUMNS) {
    const int64_t here = rule.inputs - at < COLUMNS ? rule.inputs - at : COLUMNS;
    const int64_t width = (here + LANES - 1) / LANES * LANES;
    for (int64_t i = 0; i < rank; i++) {
      for (int64_t k = 0; k < here; k++) block[i * COLUMNS + k] = widened(a[i * rule.inputs + at + k]);
      for (int64_t k = here; k < width; k++) block[i * COLUMNS + k] = 0;
    }
    for (int64_t i = 0; i < rows; i += ROWS) {
      for (int x = 0; x < ROWS; x++) prefetch(a + (i + x) * rule.inputs + at + COLUMNS, COLUMNS);
      for (int64_t j = 0; j <= i; j += ROWS) {
        Vector<Real> sums[ROWS][ROWS] = {};
        for (int64_t k = 0; k < width; k += lanes)
          for (int x = 0; x < ROWS; x++)
            for (int y = 0; y < ROWS; y++)
              sums[x][y] += vector_at(&block[(i + x) * COLUMNS + k]) * vector_at(&block[(j + y) * COLUMNS + k]);
        for (int x = 0; x < ROWS; x++)
          for (int y = 0; y < ROWS; y++) out[(i + x) * rows + j + y] += sum<Real>(sums[x][y]);
      }
    }
  }
}

// R, lower triangular, with RR' = AA', which is overwritten; a column that depends on those before it is 0. Returns
// the bound on A's condition that `_roots` of autograd.py explains.
static double cholesky(Scratch& at, int64_t rank, int64_t width, double trace) {
  const int64_t rows = (rank + ROWS - 1) / ROWS * ROWS;
  at.root.assign(rank * width, 0);
  at.column.resize(rank);
  double* const column = at.column.data();
  double condition = 2;
  for (int64_t j = 0; j < rank; j++) {
    const double pivot = at.gram[j * (rows + 1)], scale = pivot <= 0 ? 0 : 1 / std::sqrt(pivot);
    condition *= pivot <= 0 ? INFINITY : scale * std::sqrt(trace / rank);
    for (int64_t i = j; i < rank; i++) at.root[i * width + j] = column[i] = scale * at.gram[i * rows + j];
    for (int64_t i = j + 1; i < rank; i++)
      for (int64_t k = j + 1; k <= i; k++) at.gram[i * rows + k] -= column[i] * column[k];
  }
  return condition;
}

// As `_roots` of autograd.py: from AA' in float32 where that is as good, else in float64, its diagonal raised by what
// rounding may take.
template <class T>
static void find_root(const T* a, const Rule& rule, int64_t width, Scratch& at) {
  const int64_t r = rule.rank, next = (r + ROWS - 1) / ROWS * ROWS + 1;
  auto trace = [&] {
    double total = 0;
    for (int64_t i = 0; i < r; i++) total += at.gram[i * next];
    return total;
  };
  gram(a, rule, at.narrow, at.gram);
  const double size = trace();
  if (cholesky(at, r, width, size) <= rule.largest_condition && size > rule.smallest_trace) return;
  gram(a, rule, at.wide, at.gram);
  const double raise = 4 * r * EPS * trace();
  for (int64_t i = 0; i < r; i++) at.gram[i * next] += raise;
  cholesky(at, r, width, trace());
}

// B's step; the mean of its rows' factors.
template <class T>
static float step_rows(const Matrix<T>& b, Scratch& at, int64_t width, float scaling, const Rule& rule) {
  const int64_t r = rule.rank, rows = at.d.size();
  const Adam o(rule, b.count);
  float *const d = at.d.data(), *const values = at.values.data(), *const factors = at.factors.data();
  double total = 0;
  for (int64_t i = 0; i < rule.outputs; i += rows) {
    const int64_t here = rule.outputs - i < rows ? rule.outputs - i : rows;
    for (int64_t k = 0; k < here * r; k++) values[k] = widened(b.values[i * r + k]);
    for (int64_t k = 0; k < here; k += ROWS) {
      prefetch(b.values + (i + k + rows) * r, ROWS * r);
      if (b.gradient)
        for (const T* of : {b.gradient, b.average, b.square}) prefetch(of + (i + k) * r, ROWS * r);
      squared_norms(values + k * r, at.root.data(), r, width, d + k);
    }
    for (int64_t k = 0; k < here; k++) d[k] = adapted(scaling * __builtin_sqrtf(d[k]), rule.eta, rule.adaptor);
    for (int64_t k = 0; k < here; k++) total += d[k];
    if (!b.gradient) continue;
    for (int64_t k = 0; k < here; k++)
      for (int64_t j = 0; j < r; j++) factors[k * r + j] = o.rate * d[k];
    move(b, i * r, factors, here * r, o);
  }
  return total / rule.outputs;
}

template <class T>
static void step_pairs(const Rule& rule, void* const* a, void* const* b, const double* scalings,
                       std::atomic<int64_t>& next) {
  const int64_t r = rule.rank, width = (r + LANES - 1) / LANES * LANES;
  const int64_t rows = r * ROWS < BLOCK ? BLOCK / r / ROWS * ROWS : ROWS, block = rows * r;
  Scratch at;
  at.values.resize(block), at.factors.resize(block), at.d.resize(rows);
  for (int64_t p; (p = next++) < rule.pairs;) {
    const Matrix<T> first(a, p, rule), second(b, p, rule);
    find_root(first.values, rule, width, at);
    const float mean = step_rows(second, at, width, scalings[p], rule);
    if (!first.gradient) continue;
    const Adam o(rule, first.count);
    for (float& factor : at.factors) factor = o.rate * mean;
    for (int64_t k = 0, n = r * rule.inputs; k < n; k += block)
      move(first, k, at.factors.data(), n - k < block ? n - k : block, o);
  }
}

// `a`, `b`: the six fields of `Matrix`, each of all pairs.
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
