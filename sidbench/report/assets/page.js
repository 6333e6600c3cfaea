// Sorting, filtering, tabs, opening a row, pointing at a mark. Without it the page still holds everything.
"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  root.classList.add("js");

  // Light, dark, or as the reader's system has it; kept where the browser lets a page keep something.
  const themes = ["auto", "light", "dark"];
  const toggle = document.getElementById("theme");
  const kept = { get: () => { try { return localStorage.getItem("sidbench-theme"); } catch { return null; } },
    set: (v) => { try { localStorage.setItem("sidbench-theme", v); } catch { /* for this visit only */ } } };
  const dress = (theme) => {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    toggle.textContent = { auto: "Theme: auto", light: "Theme: light", dark: "Theme: dark" }[theme];
  };
  let theme = themes.includes(kept.get()) ? kept.get() : "auto";
  dress(theme);
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    kept.set(theme);
    dress(theme);
  });

  // Sorting: the better end first, then the other, then as it stood. What is missing stays last.
  for (const table of all("table.boardtable")) {
    const body = table.tBodies[0], stood = [...body.rows];
    all("thead th", table).forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      const first = head.dataset.first;
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const next = now === "none" ? first : now === first ? (first === "ascending" ? "descending" : "ascending") : "none";
        all("thead th[aria-sort]", table).forEach((h) => h.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", next);
        const key = (row) => row.cells[column].dataset.v;
        const way = next === "ascending" ? 1 : -1;
        const compare = (a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
          return way * (head.dataset.text === undefined ? x - y : x.localeCompare(y));
        };
        body.append(...(next === "none" ? stood : [...stood].sort(compare)));
      });
    });
  }

  // Filtering: every word must occur in the row's name or parameters, and its kind be ticked.
  const search = document.getElementById("filter"), count = document.getElementById("count");
  const kinds = all(".tools input[type=checkbox]");
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Set(kinds.filter((k) => k.checked).map((k) => k.value));
    const off = new Map();
    for (const row of all("tr[data-row]")) {
      const out = !wanted.has(row.dataset.kind) || words.some((w) => !row.dataset.find.includes(w));
      off.set(row.dataset.row, out);
      row.classList.toggle("off", out);
    }
    for (const mark of all("figure [data-row]")) mark.classList.toggle("off", off.get(mark.dataset.row) === true);
    for (const note of all(".none")) {
      note.hidden = all("tbody tr:not(.off)", note.parentElement).length > 0;
    }
    const shown = [...off.values()].filter((out) => !out).length;
    count.value = shown === off.size ? `${off.size} rows` : `${shown} of ${off.size} rows`;
  };
  for (const event of ["input", "change"]) search.addEventListener(event, filter);
  kinds.forEach((k) => k.addEventListener("change", filter));
  filter();

  // Tabs, with the arrow keys between them.
  for (const board of all(".board")) {
    const panels = all(".panel", board);
    if (panels.length < 2) continue;
    const list = document.createElement("div");
    list.className = "tabs";
    list.setAttribute("role", "tablist");
    list.setAttribute("aria-label", "What the table shows");
    const tabs = panels.map((panel, i) => {
      const tab = document.createElement("button");
      tab.type = "button";
      tab.textContent = panel.querySelector("h3").textContent;
      tab.id = `${panel.id}-tab`;
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-controls", panel.id);
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", tab.id);
      tab.addEventListener("click", () => show(i));
      tab.addEventListener("keydown", (e) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
        const to = step ? (i + step + tabs.length) % tabs.length : { Home: 0, End: tabs.length - 1 }[e.key];
        if (to === undefined) return;
        e.preventDefault();
        show(to);
        tabs[to].focus();
      });
      list.append(tab);
      return tab;
    });
    const show = (chosen) => panels.forEach((panel, i) => {
      panel.hidden = i !== chosen;
      tabs[i].setAttribute("aria-selected", String(i === chosen));
      tabs[i].tabIndex = i === chosen ? 0 : -1;
    });
    panels[0].before(list);
    show(0);
  }

  // A row opens beside the boards, with everything that the page says of it.
  const dialog = document.getElementById("row"), title = dialog.querySelector("h2"), room = dialog.querySelector(".room");
  const open = (id) => {
    const source = document.getElementById(id);
    if (!source) return;
    title.textContent = source.dataset.name;
    const copy = source.cloneNode(true);
    copy.removeAttribute("id");
    room.replaceChildren(copy);
    dialog.showModal();
    dialog.scrollTop = 0;
  };
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (e) => { if (e.target === dialog) dialog.close(); });
  document.addEventListener("click", (e) => {
    const link = e.target.closest("a.open"), mark = e.target.closest("figure [data-row]");
    if (link) { e.preventDefault(); open(link.hash.slice(1)); } else if (mark) open(mark.dataset.row);
  });

  // Pointing at a row or a mark shows the same row everywhere on its board.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  let hot = null;
  const point = (at) => {
    const id = at ? at.dataset.row : null;
    if (id === hot) return;
    hot = id;
    const board = at && at.closest(".board");
    all(".pointed").forEach((b) => b.classList.remove("pointed"));
    all(".hot").forEach((m) => m.classList.remove("hot"));
    if (!board) return;
    board.classList.add("pointed");
    all(`[data-row="${id}"]`, board).forEach((m) => m.classList.add("hot"));
  };
  document.addEventListener("pointerover", (e) => {
    const at = e.target.closest("tr[data-row], figure [data-row]");
    point(at);
    const said = e.pointerType !== "touch" && at && at.dataset.tip;
    tip.hidden = !said;
    if (said) tip.textContent = said;
  });
  document.addEventListener("pointermove", (e) => {
    if (tip.hidden) return;
    const left = Math.min(e.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const top = e.clientY + 18 + tip.offsetHeight > innerHeight ? e.clientY - tip.offsetHeight - 10 : e.clientY + 18;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${top}px`;
  });
  document.addEventListener("focusin", (e) => point(e.target.closest("tr[data-row]")));
})();
