"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const form = by("filters"), words = by("words"), part = by("part"), paper = by("paper"), shown = by("shown"), unfold = by("unfold");
  const claims = [...document.querySelectorAll(".claim")];
  const details = [...document.querySelectorAll(".claim details")];
  const root = document.documentElement;

  // Filters: every group that asks for something must be met.
  function apply() {
    const asked = words.value.toLowerCase().replaceAll("ς", "σ").split(/\s+/).filter(Boolean);
    const verdicts = [...form.querySelectorAll("[name=verdict]:checked")].map((box) => box.value);
    let count = 0;
    for (const claim of claims) {
      const data = claim.dataset;
      const wanted = (!part.value || data.part === part.value)
        && (!paper.value || data.paper.startsWith(paper.value))
        && (!verdicts.length || verdicts.includes(data.verdict))
        && asked.every((word) => data.search.includes(word));
      claim.hidden = !wanted;
      count += wanted;
    }
    for (const section of document.querySelectorAll(".part")) {
      section.hidden = !section.querySelector(".claim:not([hidden])");
    }
    by("none").hidden = count > 0;
    shown.textContent = `${count} of ${claims.length} claims shown`;
  }
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));

  unfold.addEventListener("click", () => {
    const open = unfold.getAttribute("aria-pressed") !== "true";
    unfold.setAttribute("aria-pressed", String(open));
    for (const each of details) each.open = open;
  });

  // A link to a claim shows it, whatever is filtered.
  function follow() {
    const target = by(decodeURIComponent(location.hash.slice(1)));
    if (!target || !target.closest(".part")) return;
    if (target.hidden || target.closest(".part").hidden) {
      form.reset();
      apply();
    }
    if (target.matches(".claim")) target.querySelector("details").open = true;
    target.scrollIntoView();
  }
  addEventListener("hashchange", follow);

  // Dark or light: the system's choice until the button is pressed; kept where the browser keeps anything.
  const toggle = by("theme");
  const store = {
    read() { try { return localStorage.getItem("theme"); } catch { return null; } },
    write(value) { try { localStorage.setItem("theme", value); } catch { /* not kept */ } },
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const tell = () => toggle.setAttribute("aria-pressed", String(dark()));
  if (["dark", "light"].includes(store.read())) root.dataset.theme = store.read();
  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    store.write(root.dataset.theme);
    tell();
  });
  system.addEventListener("change", tell);

  form.hidden = toggle.hidden = false;
  tell();
  apply();
  follow();
})();
