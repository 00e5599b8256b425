"use strict";
// Sorting, filtering, sliders and the theme work on whatever is in the page, so that they survive an update of it.
const number = (text) => (text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text === "inf" ? Infinity : null);

function compare(one, other) {
  const a = number(one), b = number(other);
  return a !== null && b !== null ? (a === b ? 0 : a - b) : String(one).localeCompare(String(other), undefined, { numeric: true });
}

function sort(table, column, direction) {
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((x, y) => direction * compare(x.cells[column].dataset.key, y.cells[column].dataset.key));
  rows.forEach((row) => body.append(row));
  [...table.tHead.rows[0].cells].forEach((cell, place) => {
    if (place === column) cell.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
  });
}

function filter(input) {
  const table = document.getElementById(`table-${input.dataset.table}`);
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of table.tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  const count = document.querySelector(`.count[data-table="${input.dataset.table}"]`);
  count.textContent = words.length ? `${shown} of ${table.tBodies[0].rows.length}` : "";
}

function slide(input) {
  const figure = input.closest(".slider");
  const images = [...figure.querySelectorAll("img")];
  images.forEach((image, place) => { image.hidden = place !== Number(input.value); });
  figure.querySelector("output").textContent = images[Number(input.value)].dataset.step;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "theme") {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  } else if (button.classList.contains("sort")) {
    const cell = button.closest("th");
    sort(cell.closest("table"), cell.cellIndex, cell.getAttribute("aria-sort") === "ascending" ? -1 : 1);
  }
});
document.addEventListener("input", (event) => {
  if (event.target.matches(".filter")) filter(event.target);
  if (event.target.matches(".slider input")) slide(event.target);
});

// Live: fetch the content, and replace only the sections that differ, keeping what the reader has opened, typed or moved.
const raw = new Map();

const focusable = (section) => [...section.querySelectorAll("button, input, summary, [tabindex]")];

function remember(section) {
  const active = focusable(section).indexOf(document.activeElement);
  const typing = active >= 0 && document.activeElement.matches(".filter");
  return {
    active,
    caret: typing ? [document.activeElement.selectionStart, document.activeElement.selectionEnd] : null,
    open: [...section.querySelectorAll("details[open]")].map((item) => item.id).filter(Boolean),
    typed: [...section.querySelectorAll(".filter")].map((item) => [item.dataset.table, item.value]),
    sorted: [...section.querySelectorAll("th[aria-sort]")].map((cell) => [cell.closest("table").id, cell.cellIndex, cell.getAttribute("aria-sort")]),
    moved: [...section.querySelectorAll(".slider input")].map((item) => [item.closest(".slider").id, item.value, item.max]),
  };
}

function recall(section, state) {
  state.open.forEach((id) => { const item = document.getElementById(id); if (item) item.open = true; });
  state.sorted.forEach(([id, column, way]) => { const table = document.getElementById(id); if (table) sort(table, column, way === "ascending" ? 1 : -1); });
  state.typed.forEach(([name, value]) => {
    const input = section.querySelector(`.filter[data-table="${name}"]`);
    if (input && value) { input.value = value; filter(input); }
  });
  state.moved.forEach(([id, value, max]) => {
    const input = document.querySelector(`#${id} input`);
    if (input && value !== max) { input.value = value; slide(input); }
  });
  const again = state.active >= 0 ? focusable(section)[state.active] : null;
  if (again) {
    again.focus({ preventScroll: true });
    if (state.caret) again.setSelectionRange(...state.caret);
  }
}

function update(text) {
  const fresh = new DOMParser().parseFromString(`<main>${text}</main>`, "text/html").querySelector("main");
  const main = document.querySelector("main");
  const wanted = new Set([...fresh.children].map((section) => section.id));
  let before = null;
  for (const section of [...fresh.children]) {
    const old = document.getElementById(section.id);
    const markup = section.innerHTML;
    if (!old) {
      if (before) before.after(section); else main.prepend(section);
      before = section;
    } else {
      if (raw.get(section.id) !== markup) {
        const state = remember(old);
        old.replaceWith(section);
        recall(section, state);
        before = section;
      } else before = old;
    }
    raw.set(section.id, markup);
  }
  for (const section of [...main.children]) if (!wanted.has(section.id)) section.remove();
}

async function poll() {
  const sign = document.getElementById("live");
  try {
    const answer = await fetch("content", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    update(await answer.text());
    sign.textContent = `live: ${answer.headers.get("X-State") || "no state"}`;
  } catch (error) {
    sign.textContent = "no answer: is mae-lite watch still running?";
  }
  setTimeout(poll, 2000);
}
if (document.body.hasAttribute("data-live")) {
  document.querySelectorAll("main > section").forEach((section) => raw.set(section.id, section.innerHTML));
  setTimeout(poll, 1000);
}
