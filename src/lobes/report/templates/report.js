"use strict";
// Links the heat maps: the head under the pointer or the focus is shown in every task.
// The page reads without this script; names reach the page only as text, never as markup.
(() => {
  const maps = Array.from(document.querySelectorAll("table.heat[data-task]"));
  const readout = document.getElementById("readout");
  if (!maps.length || !readout) return;
  document.querySelectorAll(".js-only").forEach((element) => { element.hidden = false; });
  const where = readout.querySelector(".where");
  const list = readout.querySelector("ul");
  const announce = document.getElementById("announce");
  const rows = maps.map((map) => Array.from(map.tBodies[0].rows));
  const total = maps[0].querySelectorAll("td[data-rank]").length;
  let shown = null;

  const cellAt = (map, site, head) => rows[map][site]?.cells[head + 1];
  const placeOf = (cell) => [cell.parentElement.sectionRowIndex, cell.cellIndex - 1];

  const isLesioned = (cell) => {
    const chosen = document.querySelector("input[name=fraction]:checked");
    return Boolean(chosen) && cell.classList.contains("f" + chosen.id.split("-")[1]);
  };

  const describe = (map, cell) => {
    const lesioned = isLesioned(cell) ? ", lesioned" : "";
    return `rank ${cell.dataset.rank} of ${total}, score ${cell.dataset.score}${lesioned}`;
  };

  const clear = () => {
    document.querySelectorAll("td.here").forEach((cell) => cell.classList.remove("here"));
  };

  const show = (site, head, aloud) => {
    clear();
    shown = [site, head];
    const name = rows[0][site].cells[0].title;
    where.textContent = `Head ${site}:${head}`;
    where.title = name;
    list.replaceChildren();
    const spoken = [`Head ${head} of site ${site}`];
    maps.forEach((map, index) => {
      const cell = cellAt(index, site, head);
      if (!cell || !cell.dataset.rank) return;
      cell.classList.add("here");
      const item = document.createElement("li");
      const task = document.createElement("bdi");
      task.textContent = map.dataset.task;
      const text = document.createElement("span");
      text.textContent = describe(index, cell);
      item.append(task, " ", text);
      list.append(item);
      spoken.push(`${map.dataset.task}: ${describe(index, cell)}`);
    });
    readout.hidden = false;
    if (aloud) announce.textContent = spoken.join(". ");
  };

  const enter = (cell) => {
    maps.forEach((map) => map.querySelectorAll("td[tabindex='0']").forEach((other) => {
      if (map.contains(cell)) other.tabIndex = -1;
    }));
    cell.tabIndex = 0;
    cell.focus();
  };

  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  maps.forEach((map, index) => {
    map.querySelectorAll("td[data-rank]").forEach((cell) => { cell.tabIndex = -1; });
    const first = map.querySelector("td[data-rank]");
    if (first) first.tabIndex = 0;
    map.closest(".scroll").removeAttribute("tabindex");
    map.addEventListener("pointerover", (event) => {
      const cell = event.target.closest("td[data-rank]");
      if (cell) show(...placeOf(cell), false);
    });
    map.addEventListener("focusin", (event) => {
      const cell = event.target.closest("td[data-rank]");
      if (cell) show(...placeOf(cell), true);
    });
    map.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td[data-rank]");
      const step = steps[event.key];
      if (!cell || !step) return;
      const [site, head] = placeOf(cell);
      const next = cellAt(index, site + step[0], head + step[1]);
      event.preventDefault();
      if (next && next.dataset.rank) enter(next);
    });
  });

  const section = document.getElementById("importance");
  section.addEventListener("pointerleave", () => {
    if (section.contains(document.activeElement) && document.activeElement.dataset.rank) return;
    clear();
    readout.hidden = true;
  });
  document.querySelectorAll("input[name=fraction]").forEach((input) => {
    input.addEventListener("change", () => {
      if (shown && !readout.hidden) show(...shown, false);
    });
  });
})();
