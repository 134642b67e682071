// The closed forms behind the explorables: numbers in, numbers out, nothing drawn. tests/test_site_formulas.py holds
// each against the Python function named above it, at 200 random points. Symbols are the paper's; logarithms natural.

const sum = (values) => values.reduce((total, value) => total + value, 0);
const dot = (a, b) => sum(a.map((value, i) => value * b[i]));

// --- §3.1: dropout beside ridge -------------------------------------------------------------------------------------

/** Singular values from 1 down to 1/condition, evenly on a logarithmic scale. */
export const spectrum = (count, condition) =>
  Array.from({ length: count }, (_, i) => condition ** (count === 1 ? 0 : -i / (count - 1)));

/** What ridge keeps of a singular direction: s²/(s² + λ). */
export const ridgeFactor = (s, penalty) => (penalty === Infinity ? 0 : (s * s) / (s * s + penalty));

/** allora_analysis.tikhonov.nearest_ridge, output masks, targets even over X's left singular vectors. */
export function nearestRidge(singular, keepProb) {
  const gap = (penalty) => Math.sqrt(sum(singular.map((s) => (keepProb - ridgeFactor(s, penalty)) ** 2)));
  const slope = (logPenalty) => sum(singular.map((s) => {
    const h = 1 / (1 + Math.exp(logPenalty - 2 * Math.log(s)));
    return (keepProb - h) * h * (1 - h);
  }));
  const turns = singular.map((s) => 2 * Math.log(s) + Math.log1p(-keepProb) - Math.log(keepProb));
  const found = [0, Infinity], step = 0.05, end = Math.max(...turns) + step;
  for (let left = Math.min(...turns) - step; left < end; left += step) {
    if (slope(left) < 0 && slope(left + step) >= 0) found.push(Math.exp(root(slope, left, left + step)));
  }
  const penalty = found.reduce((best, one) => (gap(one) < gap(best) ? one : best));
  return { penalty, distance: gap(penalty) / (keepProb * Math.sqrt(singular.length)) };
}

function root(rising, left, right) {
  for (let i = 0; i < 60; i++) {
    const middle = (left + right) / 2;
    if (rising(middle) >= 0) right = middle; else left = middle;
  }
  return (left + right) / 2;
}

// --- §3.1: one weight, one step, and the race ----------------------------------------------------------------------

/** allora_analysis.tikhonov.expected_loss of one weight, output mask: (y − xw)² + k(xw)², k = (1 − p)/p. */
export const expectedLoss = (x, y, w, keepProb) => (y - x * w) ** 2 + ((1 - keepProb) / keepProb) * (x * w) ** 2;

/** The same with one mask: v is 0 or 1/p. */
export const maskedLoss = (x, y, w, v) => (y - x * w * v) ** 2;

/** X (rows × count) with these singular values: cosines for the left singular vectors, coordinates for the right. */
export const design = (rows, singular) => Array.from({ length: rows }, (_, n) =>
  singular.map((s, d) => s * Math.sqrt(2 / rows) * Math.cos((Math.PI * (n + 0.5) * (d + 1)) / rows)));

/** One step W ← W + 2l (masked X)ᵀ(y − masked XW) with the mask v (0 or 1/p) on each output. */
export function maskedStep(x, y, w, rate, v) {
  const pull = x.map((row, n) => v[n] * (y[n] - v[n] * dot(row, w)));
  return w.map((value, d) => value + 2 * rate * sum(pull.map((p, n) => p * x[n][d])));
}

/** Its mean over masks: a step of descent on ‖y − Xw‖² + k‖Xw‖². */
export const meanStep = (x, y, w, rate, keepProb) => {
  const pull = x.map((row, n) => y[n] - dot(row, w) / keepProb);
  return w.map((value, d) => value + 2 * rate * sum(pull.map((p, n) => p * x[n][d])));
};

/** Uniform numbers in [0, 1) from a seed (mulberry32): the same dots at every visit. */
export function draws(seed, count) {
  let state = seed >>> 0;
  return Array.from({ length: count }, () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  });
}

/** allora_analysis.dropout_sgd.trajectory, output masks, summed over the noise in y (variance σ² a row): risks by step.
 * Returns E‖W_t − w‖² with dropout, of its mean alone, and of descent without dropout, for t = 0 … steps. */
export function race(x, w, noise, keepProb, rate, steps) {
  const rows = x.length, size = w.length, k = (1 - keepProb) / keepProb;
  const gram = w.map((_, i) => w.map((__, j) => sum(x.map((row) => row[i] * row[j]))));
  const forward = gram.map((row, i) => row.map((g, j) => (i === j) - ((2 * rate) / keepProb) * g));
  const columns = [x.map((row) => dot(row, w)), ...x.map((_, n) => x.map((__, m) => (n === m ? noise : 0)))];
  const truth = columns.map((_, c) => w.map((value) => (c ? 0 : value)));
  const zero = () => columns.map(() => w.map(() => 0));
  const miss = (points) => sum(points.map((point, c) => sum(point.map((value, d) => (value - truth[c][d]) ** 2))));
  let mean = zero(), plain = zero(), spread = w.map(() => w.map(() => 0));
  const found = { dropout: [miss(mean)], mean: [miss(mean)], plain: [miss(plain)] };
  for (let t = 0; t < steps; t++) {
    const error = x.map((row, n) => sum(columns.map((y, c) => (y[n] - dot(row, mean[c]) / keepProb) ** 2))
      + dot(row, spread.map((line) => dot(line, row))) / keepProb ** 2);
    const carried = product(product(forward, spread), forward);
    spread = carried.map((line, i) => line.map((value, j) =>
      value + 4 * rate ** 2 * k * sum(x.map((row, n) => row[i] * error[n] * row[j]))));
    mean = mean.map((point, c) => meanStep(x, columns[c], point, rate, keepProb));
    plain = plain.map((point, c) => meanStep(x, columns[c], point, rate, 1));
    const trace = sum(spread.map((line, i) => line[i]));
    found.dropout.push(miss(mean) + trace);
    found.mean.push(miss(mean));
    found.plain.push(miss(plain));
  }
  return found;
}

const product = (a, b) => a.map((row) => b[0].map((_, j) => sum(row.map((value, i) => value * b[i][j]))));

/** allora_analysis.claims.s3_1_few_steps.pays_in_the_limit for X = design(rows, singular): the σ² above which dropout's
 * limit has the lower risk, (1 − p)‖w‖²/((1 + p) tr S⁻¹ − lΣ h_n(1 − h_n)), to first order in l. */
export function paysAbove(x, singular, w, keepProb, rate) {
  const inverse = sum(singular.map((s) => s ** -2));
  const leverage = x.map((row) => sum(row.map((value, d) => (value / singular[d]) ** 2)));
  const noisy = rate * sum(leverage.map((h) => h * (1 - h)));
  return ((1 - keepProb) * dot(w, w)) / ((1 + keepProb) * inverse - noisy);
}

// --- §3.2: LoRA's Hessian at B = 0 ----------------------------------------------------------------------------------

/** allora_analysis.hessian.factor_spectrum: all r(n₁ + n₂) eigenvalues, ascending, from q (r of them) and σ (rank G). */
export function factorSpectrum(q, sigma, n1, n2) {
  const found = [];
  for (const curvature of q) {
    for (const slope of sigma) {
      const top = curvature + Math.hypot(curvature, slope);
      found.push(top, -slope * (slope / top));
    }
    for (let i = sigma.length; i < n1; i++) found.push(2 * curvature);
    for (let i = sigma.length; i < n2; i++) found.push(0);
  }
  return found.sort((a, b) => a - b);
}

// --- §4.2: leaving zero ----------------------------------------------------------------------------------------------

/** allora_analysis.escape.trajectory, the paper's adaptor: (3s/2 + η⁻³)^(2/3) − η⁻² at s = g·t. */
export const alloraNorm = (impulse, eta) => Math.expm1((2 / 3) * Math.log1p(1.5 * eta ** 3 * impulse)) / eta ** 2;

/** allora_analysis.escape.lora_trajectory: ρ·g·t. */
export const loraNorm = (impulse, rate) => rate * impulse;

/** A row's norm after t steps of each method. Adam divides a factor on the gradient out; ALLoRAAdamW multiplies its
 * update. g is the row's ‖∇‖ through A under SGD, and the norm of its entries' signs through A under Adam. */
export function leaving(optimizer, eta, rate, gradient, steps) {
  const impulse = rate * gradient * steps;
  const adaptive = optimizer === "adamw" ? loraNorm(impulse, 1) : alloraNorm(impulse, eta);
  return { lora: loraNorm(impulse, 1), loraEta: loraNorm(impulse, eta), allora: adaptive };
}

/** allora_analysis.escape.tradeoff(m, …).advantage: how much sooner than the fixed rate that is as measured at m. */
export function advantage(level, eta) {
  const u = eta * eta * level;
  return ((1.5 * u) / (1 + u)) / -Math.expm1(-1.5 * Math.log1p(u));
}

// --- §3.3: the ripple effect ----------------------------------------------------------------------------------------

/** allora_analysis.ripple.worst_case of L layers of ‖W‖ = 1, ‖BA‖ = m̄: L log(1 + ηm̄). */
export const worstGrowth = (depth, eta, ratio) => depth * Math.log1p(eta * ratio);

/** allora_analysis.ripple.adapter_norm_limit: ‖BA‖ of Gaussian B (n×r), A (r×n), wide. */
export function adapterNorm(width, rank) {
  const y = rank / width, z = (Math.sqrt(y * y + 8 * y) - y) / (4 * y);
  return width * Math.sqrt((1 + z) / z) * (1 + y * z);
}

/** allora_analysis.ripple.growth_exponent at fair scales, ‖BA‖ = m̄‖W‖: mean and variance of a layer's log growth, and
 * what the adapter adds to the mean, ½E log(1 + ρχ²_r), by the trapezoidal rule in t = log(χ²_r/r). */
export function typicalGrowth(width, rank, eta, ratio) {
  const base = { mean: digammaLessLog(width / 2) / 2, variance: trigamma(width / 2) / 4 };
  if (eta * ratio === 0) return { gain: 0, ...base };
  const half = rank / 2, low = -1 - 80 / half, high = Math.sqrt(160 / half), step = Math.min(0.125, 0.5 / Math.sqrt(half));
  const rho = ((2 * eta * ratio * Math.sqrt(width)) / adapterNorm(width, rank)) ** 2;
  const nodes = Array.from({ length: Math.ceil((high - low) / step) + 1 }, (_, i) => low + step * i);
  const weights = nodes.map((t) => Math.exp(half * (t - Math.expm1(t)))), total = sum(weights);
  const values = nodes.map((t) => Math.log1p(rho * rank * Math.exp(t)));
  const mean = dot(weights, values) / total;
  const variance = sum(values.map((value, i) => weights[i] * (value - mean) ** 2)) / total;
  return { gain: mean / 2, mean: mean / 2 + base.mean, variance: variance / 4 + base.variance };
}

/** ψ(x) − log x, x > 0, with no cancellation: recurrence up to 10, then the asymptotic series. */
export function digammaLessLog(x) {
  let value = 0, y = x;
  for (; y < 10; y++) value -= 1 / y;
  const f = 1 / (y * y);
  return value + Math.log(y / x) - 0.5 / y
    - f * (1 / 12 - f * (1 / 120 - f * (1 / 252 - f * (1 / 240 - f * (1 / 132 - f * (691 / 32760 - f / 12))))));
}

/** ψ₁(x), x > 0. */
export function trigamma(x) {
  let value = 0;
  for (; x < 10; x++) value += 1 / (x * x);
  const f = 1 / (x * x);
  return value + 1 / x + f / 2
    + (f / x) * (1 / 6 - f * (1 / 30 - f * (1 / 42 - f * (1 / 30 - f * (5 / 66 - f * (691 / 2730 - (f * 7) / 6))))));
}
