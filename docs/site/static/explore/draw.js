// Draws the explorables: a figure's sliders, its answer in a sentence, its chart (uPlot). The mathematics is formulas.js.
import * as f from "./formulas.js";

const short = (value, digits = 3) => {
  if (value === 0) return "0";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const plain = Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5;
  const text = plain ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 1).replace("e", " · 10^");
  return text.replace("-", "−").replace("^+", "^").replace("^-", "^−");
};
const percent = (share) => `${short(100 * share, 2)} %`;
const range = (count, from = 0) => Array.from({ length: count }, (_, i) => i + from);
const least = (values) => values.reduce((best, value, i) => (value < values[best] ? i : best), 0);

// A slider: `log` moves the exponent, `whole` rounds. A choice: a select. A toggle: a checkbox.
const slider = (label, min, max, value, more = {}) => ({ label, min, max, value, ...more });
const KEEP = slider("keep probability p", 0.3, 0.99, 0.7, { step: 0.01 });

const EXPLORABLES = {
  ridge: {
    controls: { condition: slider("condition number of X", 1, 100, 10, { log: true }), keepProb: KEEP },
    show({ condition, keepProb }) {
      const singular = f.spectrum(8, condition), { penalty, distance } = f.nearestRidge(singular, keepProb);
      const told = distance < 1e-9
        ? `Dropout is a ridge here, exactly: all singular values of X are equal, λ = ${short(penalty)}.`
        : `No ridge does what dropout does here: the nearest, λ = ${short(penalty)}, is ${percent(distance)} of the fit's norm away.`;
      return {
        told, x: range(8, 1), xLabel: "direction of X, strongest first", yLabel: "share of the target kept", yRange: [0, 1],
        series: [
          { label: "dropout: p in every direction", y: singular.map(() => keepProb), colour: "dropout", points: true },
          { label: "the nearest ridge: s²/(s² + λ)", y: singular.map((s) => f.ridgeFactor(s, penalty)), colour: "predicted", points: true },
        ],
      };
    },
  },
  pays: {
    controls: {
      noise: slider("label noise over signal", 0.05, 5, 1, { log: true }), keepProb: KEEP,
      condition: slider("condition number of X", 1, 20, 4, { log: true }),
      stopped: { label: "stop each at its best step", toggle: true },
    },
    show({ noise, keepProb, condition, stopped }) {
      const steps = 300, singular = f.spectrum(4, condition), x = f.design(8, singular), w = singular.map(() => 0.5);
      const signal = Math.sqrt(singular.reduce((total, s) => total + (s / 2) ** 2, 0) / 8);
      const rate = 0.1 * keepProb, risk = f.race(x, w, noise * signal, keepProb, rate, steps);
      const limit = Math.sqrt(f.paysAbove(x, singular, w, keepProb, rate)) / signal;
      const ends = { dropout: stopped ? least(risk.dropout) : steps, plain: stopped ? least(risk.plain) : steps };
      const gain = 1 - risk.dropout[ends.dropout] / risk.plain[ends.plain];
      const when = stopped ? `Stopped at their best steps (${ends.dropout} and ${ends.plain})` : `After ${steps} steps`;
      const told = `${when} dropout's risk is ${short(risk.dropout[ends.dropout])}, without dropout ${short(risk.plain[ends.plain])}: `
        + `dropout is ${percent(Math.abs(gain))} ${gain > 0 ? "ahead" : "behind"}. `
        + `In the long run it pays above a noise of ${short(limit)} of the signal.`;
      const series = [
        { label: "with dropout", y: risk.dropout, colour: "dropout" },
        { label: "its mean alone: regularized descent", y: risk.mean, colour: "dropout", dash: [3, 4] },
        { label: "without dropout", y: risk.plain, colour: "plain", dash: [8, 3] },
      ];
      if (stopped) {
        series.push({ label: "the best steps", xs: [ends.dropout, ends.plain].sort((a, b) => a - b), dots: true, colour: "measured",
          y: ends.dropout <= ends.plain ? [risk.dropout[ends.dropout], risk.plain[ends.plain]] : [risk.plain[ends.plain], risk.dropout[ends.dropout]] });
      }
      return { told, x: range(steps + 1), xLabel: "step", yLabel: "risk E‖W − W*‖²", series };
    },
  },
  hessian: {
    controls: {
      q: slider("highest curvature q of the B block", 0.01, 10, 1, { log: true }),
      sigma: slider("largest singular value σ of the gradient", 0.01, 10, 1, { log: true }),
      rank: slider("rank r of the adapter", 1, 8, 4, { step: 1 }), gradientRank: slider("rank of the gradient G", 1, 8, 4, { step: 1 }),
    },
    show({ q, sigma, rank, gradientRank }) {
      const size = 12, over = (value, count) => range(count, 1).map((i) => value / i);
      const values = f.factorSpectrum(over(q, rank), over(sigma, gradientRank), size, size), count = rank * gradientRank;
      const told = `${count} of ${values.length} directions go down (r · rank G = ${rank} · ${gradientRank}): the deepest has curvature `
        + `${short(values[0])}, ${percent(-values[0] / values.at(-1))} of the highest. None is a saddle point: the loss has a slope there.`;
      return {
        told, xLabel: "eigenvalue, in order", yLabel: "curvature",
        series: [
          { label: "up", xs: range(values.length, 1).slice(count), y: values.slice(count), colour: "predicted", dots: true },
          { label: "down", xs: range(count, 1), y: values.slice(0, count), colour: "bound", dots: true },
        ],
      };
    },
  },
  leaving: {
    controls: {
      square: slider("η²", 0.25, 16, 4, { log: true }), rate: slider("learning rate l", 1e-4, 1e-1, 1e-2, { log: true }),
      optimizer: { label: "optimizer", choices: { sgd: "SGD, no clipping", adamw: "AdamW", allora_adamw: "ALLoRAAdamW: the factor after Adam" } },
    },
    show({ square, rate, optimizer }) {
      const eta = Math.sqrt(square), steps = range(401), at = steps.map((t) => f.leaving(optimizer, eta, rate, 1, t));
      const first = at[1].allora / at[1].lora, last = at.at(-1).allora / at.at(-1).lora;
      const told = optimizer === "adamw"
        ? "Under AdamW ALLoRA leaves zero as LoRA does at l: Adam divides the factor out again."
        : `ALLoRA's first step is ${short(first)} times LoRA's at l, as LoRA's at η·l; after 400 steps its row is ${short(last)} times as long.`;
      const pick = (name) => at.map((one) => one[name]);
      return {
        told, x: steps, xLabel: "step (gradient 1, A fixed)", yLabel: "norm of a row of BA",
        series: [
          { label: "LoRA at l", y: pick("lora"), colour: "lora", width: 4 },
          { label: "LoRA at η·l", y: pick("loraEta"), colour: "lora-eta", dash: [3, 4] },
          { label: optimizer === "allora_adamw" ? "ALLoRAAdamW" : "ALLoRA", y: pick("allora"), colour: optimizer === "allora_adamw" ? "allora-adamw" : "allora", dash: [8, 3] },
        ],
      };
    },
  },
  ripple: {
    controls: {
      depth: slider("layers L", 1, 100, 32, { step: 1 }), eta: slider("scaling factor η", 0.05, 8, 2, { log: true }),
      ratio: slider("m̄, the norm of BA over that of W", 0.01, 4, 1, { log: true }),
    },
    show({ depth, eta, ratio }) {
      const layers = range(depth + 1), layer = f.typicalGrowth(1024, 8, eta, ratio), worst = layers.map((L) => f.worstGrowth(L, eta, ratio));
      const at = (sign) => layers.map((L) => L * layer.mean + sign * 2 * Math.sqrt(L * layer.variance));
      const factor = (nats) => `10^${short(nats / Math.LN10, 2)}`;
      const told = `After ${depth} layers the output is ${factor(depth * layer.mean)} times as long at random and ${factor(worst.at(-1))} times in the worst case: `
        + `the adapter adds ${short(layer.gain)} against ${short(Math.log1p(eta * ratio))} nats a layer.`;
      return {
        told, x: layers, xLabel: "layers", yLabel: "log growth of the norm",
        series: [
          { label: "worst case: L log(1 + ηm̄)", y: worst, colour: "bound" },
          { label: "at random, mean (width 1024, r = 8)", y: at(0), colour: "predicted" },
          { label: "± 2 standard deviations", y: at(1), colour: "predicted", dash: [2, 4], width: 1 },
          { y: at(-1), colour: "predicted", dash: [2, 4], width: 1 },
        ],
      };
    },
  },
  weight: {
    controls: { keepProb: KEEP },
    show({ keepProb }) {
      const w = range(121).map((i) => i / 80), over = (loss) => w.map(loss);
      return {
        told: `On average over the mask the loss is least at w = ${short(keepProb)}, p times the weight that fits: dropout shrinks.`,
        x: w, xLabel: "weight w", yLabel: "loss (x = y = 1)", yRange: [0, 1.5],
        series: [
          { label: "mean over the mask", y: over((v) => f.expectedLoss(1, 1, v, keepProb)), colour: "dropout", width: 4 },
          { label: "kept: the output over p", y: over((v) => f.maskedLoss(1, 1, v, 1 / keepProb)), colour: "other", dash: [8, 3] },
          { label: "dropped: no output", y: over((v) => f.maskedLoss(1, 1, v, 0)), colour: "bound", dash: [8, 3] },
          { label: "no dropout", y: over((v) => f.expectedLoss(1, 1, v, 1)), colour: "plain", dash: [3, 4] },
          { label: "the least mean", xs: [keepProb], y: [f.expectedLoss(1, 1, keepProb, keepProb)], colour: "measured", dots: true },
        ],
      };
    },
  },
  step: {
    controls: { keepProb: KEEP, seed: slider("another 200 masks", 1, 20, 1, { step: 1 }) },
    show({ keepProb, seed }) {
      const rows = 16, count = 200, rate = 0.2 * keepProb, x = f.design(rows, [1, 0.6]), at = [1, 1], y = x.map((row) => row[0] + row[1]);
      const drawn = f.draws(seed, rows * count);
      const dots = range(count).map((i) => f.maskedStep(x, y, at, rate, range(rows).map((n) => (drawn[i * rows + n] < keepProb ? 1 / keepProb : 0))));
      const sorted = [...dots].sort((a, b) => a[0] - b[0]), mean = [0, 1].map((d) => dots.reduce((total, one) => total + one[d], 0) / count);
      const descent = f.meanStep(x, y, at, rate, keepProb);
      const point = (label, [a, b], colour, radius) => ({ label, xs: [a], y: [b], colour, dots: true, size: radius });
      return {
        told: `The 200 dots' mean is (${short(mean[0])}, ${short(mean[1])}); one step of regularized descent ends at (${short(descent[0])}, ${short(descent[1])}). `
          + "Without dropout the weights, which fit, would stay at (1, 1).",
        xLabel: "first weight", yLabel: "second weight", xRange: [0.4, 1.1], yRange: [0.75, 1.1],
        series: [
          { label: "200 masks: where one step leads", xs: sorted.map((one) => one[0]), y: sorted.map((one) => one[1]), colour: "other", dots: true, size: 5 },
          point("before the step", at, "plain", 12), point("a step of regularized descent", descent, "bound", 16), point("the dots' mean", mean, "measured", 8),
        ],
      };
    },
  },
};

const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};

// A control's input, and how its value is read and told.
function control(name, of, id) {
  if (of.choices) {
    const options = Object.entries(of.choices).map(([value, label]) => make("option", { value }, label));
    return { input: make("select", { id, name }, ...options), read: (input) => input.value, tell: () => "" };
  }
  if (of.toggle) return { input: make("input", { id, name, type: "checkbox" }), read: (input) => input.checked, tell: () => "" };
  const [low, high, at] = of.log ? [of.min, of.max, of.value].map(Math.log) : [of.min, of.max, of.value];
  const input = make("input", { id, name, type: "range", min: low, max: high, step: of.log ? "any" : of.step, value: at });
  const read = () => (of.log ? Math.exp(Number(input.value)) : Number(input.value));
  return { input, read, tell: () => short(read()) };
}

function chart(target, shown, colour) {
  const { series } = shown, text = colour("text"), line = colour("line");
  const data = window.uPlot.join(series.map((one) => [one.xs ?? shown.x, one.y]));
  const axis = (label) => ({ label, stroke: text, labelSize: 22, grid: { stroke: line, width: 1 }, ticks: { stroke: line }, font: "12px system-ui", labelFont: "13px system-ui" });
  const spread = (bounds) => (bounds ? { range: () => bounds, time: false } : { time: false });
  const options = {
    width: target.clientWidth, height: Math.min(360, Math.max(240, target.clientWidth * 0.6)),
    pxAlign: false, legend: { show: false }, cursor: { show: false }, scales: { x: spread(shown.xRange), y: spread(shown.yRange) },
    axes: [axis(shown.xLabel), { ...axis(shown.yLabel), size: 56 }],
    series: [{}, ...series.map((one) => ({
      stroke: colour(one.colour), width: one.dots ? 0 : one.width ?? 2, dash: one.dash, spanGaps: true,
      paths: one.dots ? () => null : undefined,
      points: { show: Boolean(one.dots || one.points), size: one.size ?? 7, fill: colour(one.colour), stroke: colour(one.colour) },
    }))],
  };
  target.replaceChildren();
  return new window.uPlot(options, data, target);
}

function begin(figure) {
  const explorable = EXPLORABLES[figure.dataset.explore], form = make("form"), told = make("p", { className: "told" }), chartBox = make("div", { className: "chart" });
  const legend = make("ul", { className: "legend" }), caption = make("figcaption", {}, told), controls = {};
  const id = `explore-${figure.dataset.explore}-`;
  told.setAttribute("aria-live", "polite");
  chartBox.setAttribute("role", "img");
  for (const [name, of] of Object.entries(explorable.controls)) {
    controls[name] = control(name, of, id + name);
    const value = make("output", { htmlFor: id + name });
    controls[name].output = value;
    form.append(make("div", { className: "control" }, make("label", { htmlFor: id + name }, of.label), controls[name].input, value));
  }
  figure.replaceChildren(form, caption, chartBox, legend);
  const colour = (name) => getComputedStyle(figure).getPropertyValue(`--${name}`).trim();
  const draw = () => {
    const values = Object.fromEntries(Object.entries(controls).map(([name, one]) => [name, one.read(one.input)]));
    for (const one of Object.values(controls)) one.output.textContent = one.tell();
    const shown = explorable.show(values);
    told.textContent = shown.told;
    chartBox.setAttribute("aria-label", `${shown.yLabel} over ${shown.xLabel}. ${shown.told}`);
    legend.replaceChildren(...shown.series.filter((one) => one.label).map((one) => {
      const mark = make("span", { className: one.dots ? "dot" : one.dash ? "dashed" : "line" });
      mark.style.setProperty("--tone", colour(one.colour));
      return make("li", {}, mark, one.label);
    }));
    chart(chartBox, shown, colour);
  };
  form.addEventListener("input", draw);
  form.addEventListener("submit", (event) => event.preventDefault());
  new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
  let width = 0;
  new ResizeObserver(() => { if (chartBox.clientWidth !== width) { width = chartBox.clientWidth; draw(); } }).observe(chartBox);
}

document.querySelectorAll("figure[data-explore]").forEach(begin);
