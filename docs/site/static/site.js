// The ledger's filters, the graph's neighbors, and keyboard access to what scrolls. The pages read without it.
document$.subscribe(() => {
  const form = document.getElementById("filters");
  if (form) filters(form);
  const graph = document.querySelector(".graph");
  if (graph) neighbours(graph);
  for (const box of document.querySelectorAll(".formula")) {  // a long formula is set smaller before it scrolls
    if (box.scrollWidth > box.clientWidth) box.firstChild.style.fontSize = `${Math.max(70, (98 * box.clientWidth) / box.scrollWidth)}%`;
  }
  for (const nav of document.querySelectorAll(".md-nav[aria-labelledby]")) {  // the theme names these by labels without words
    nav.setAttribute("aria-label", nav.querySelector(".md-nav__title").textContent.trim());
    nav.removeAttribute("aria-labelledby");
  }
  setTimeout(() => {  // the theme's buttons to copy code are landmarks of one name
    for (const [i, nav] of document.querySelectorAll(".md-code__nav").entries()) nav.setAttribute("aria-label", `Block ${i + 1}`);
  });
  for (const box of document.querySelectorAll(".formula, .md-typeset pre, .md-typeset pre > code, .md-typeset__scrollwrap, .md-typeset__table")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
});

// Every group that asks for something must be met.
function filters(form) {
  const cards = [...document.querySelectorAll(".card")], by = (name) => form.querySelector(`#${name}`);
  const apply = () => {
    const words = by("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdicts = [...form.querySelectorAll("[name=verdict]:checked")].map((box) => box.value);
    let count = 0;
    for (const card of cards) {
      const { part, paper, verdict } = card.dataset, text = card.textContent.toLowerCase();
      card.hidden = !((!by("part").value || part === by("part").value) && (!by("paper").value || paper === by("paper").value)
        && (!verdicts.length || verdicts.includes(verdict)) && words.every((word) => text.includes(word)));
      count += !card.hidden;
    }
    for (const part of document.querySelectorAll(".part")) part.hidden = !part.querySelector(".card:not([hidden])");
    by("shown").textContent = `${count} of ${cards.length} claims shown`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  form.hidden = false;
  apply();
}

// Pointing at a claim, or reaching it by keyboard, brings out its arcs and dims the others.
function neighbours(graph) {
  const arcs = [...graph.querySelectorAll("path")];
  const light = (claim) => {
    graph.classList.toggle("pointed", Boolean(claim));
    for (const arc of arcs) arc.classList.toggle("near", claim === arc.dataset.from || claim === arc.dataset.to);
  };
  for (const line of graph.querySelectorAll("a")) {
    for (const begin of ["mouseenter", "focus"]) line.addEventListener(begin, () => light(line.dataset.claim));
    for (const end of ["mouseleave", "blur"]) line.addEventListener(end, () => light(null));
  }
}
