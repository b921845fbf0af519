"use strict";
(() => {
  const form = document.querySelector(".filter");
  const cases = [...document.querySelectorAll("details.case[data-v]")];
  const checks = [...document.querySelectorAll("details.check")];
  const groups = [...document.querySelectorAll(".group")];
  const empty = document.querySelector(".empty");
  const words = new Map();
  const text = (item) => {
    if (!words.has(item)) words.set(item, item.textContent.toLowerCase());
    return words.get(item);
  };

  const filter = () => {
    const { s, f, v, q } = form.elements;
    const query = q.value.trim().toLowerCase();
    let shown = 0;
    for (const item of cases) {
      const d = item.dataset;
      const hit = (!s.value || d.s === s.value) && (!f.value || d.f === f.value) && (!v.value || d.v === v.value)
        && (!query || text(item).includes(query));
      item.hidden = !hit;
      shown += hit;
    }
    const some = s.value || f.value || v.value || query;
    for (const check of checks) {
      check.hidden = !check.querySelector("details[data-v]:not([hidden])");
      if (some && shown <= 60) check.open = true;
    }
    for (const group of groups) group.hidden = !group.querySelector("details.case:not([hidden])");
    form.querySelector("output").textContent = shown === cases.length ? `${shown} cases` : `${shown} of ${cases.length} cases`;
    empty.hidden = shown > 0;
  };

  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const holder = target && target.closest("details");
    if (!holder) return;
    if (holder.hidden) { form.reset(); filter(); }
    for (let up = holder; up; up = up.parentElement.closest("details")) up.open = true;
    holder.scrollIntoView({ block: "start" });
    holder.querySelector("summary").focus({ preventScroll: true });
  };

  const copied = (button, done) => {
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    button.classList.toggle("done", done);
    setTimeout(() => { button.textContent = "Copy"; button.classList.remove("done"); }, 1600);
  };
  const select = (node) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    const chosen = getSelection();
    chosen.removeAllRanges();
    chosen.addRange(range);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (button) {
      const code = button.previousElementSibling;
      const fallback = () => { select(code); copied(button, document.execCommand("copy")); };
      if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(() => copied(button, true), fallback);
      else fallback();
    } else if (event.target.closest(".reset")) {
      form.reset();
      filter();
    } else {
      const link = event.target.closest('a[href^="#"]');
      if (link && link.hash === location.hash) reveal();
    }
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  addEventListener("hashchange", reveal);
  form.hidden = false;
  for (const line of document.querySelectorAll(".cmd")) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "copy", textContent: "Copy" });
    line.append(button);
  }
  filter();
  reveal();
  addEventListener("load", () => setTimeout(reveal)); // the browser's own jump to the anchor drops the focus
})();
