"use strict";
// Links the heat maps: the head under the pointer or the focus is shown in every task.
// The page reads without this script; names reach the page only as text, never as markup.
(() => {
  // a link to a folded part unfolds it, also in browsers that do not do so by themselves
  const unfold = () => {
    const part = document.getElementById(location.hash.slice(1))?.closest("details.part");
    if (part && !part.open) { part.open = true; part.scrollIntoView(); }
  };
  addEventListener("hashchange", unfold);
  unfold();

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
    const lesioned = isLesioned(cell) ? `, ${maps[map].dataset.done}` : "";
    return `rank ${cell.dataset.rank} of ${total}, score ${cell.dataset.score}${lesioned}`;
  };

  const clear = () => {
    document.querySelectorAll("td.here").forEach((cell) => cell.classList.remove("here"));
  };

  const hide = () => {
    clear();
    readout.hidden = true;
    announce.textContent = "";
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
    cell.closest("table").querySelectorAll("td[tabindex='0']").forEach((other) => {
      other.tabIndex = -1;
    });
    cell.tabIndex = 0;
    cell.focus();
  };

  // The next head in this direction; rows of other lengths leave gaps, which are jumped over.
  const beside = (map, site, head, step) => {
    for (let s = site + step[0], h = head + step[1]; ; s += step[0], h += step[1]) {
      const cell = cellAt(map, s, h);
      if (!cell || h < 0) return null;
      if (cell.dataset.rank) return cell;
    }
  };

  const ends = (map, event, site) => {
    const all = event.ctrlKey || event.metaKey;
    const heads = Array.from((all ? maps[map] : rows[map][site]).querySelectorAll("td[data-rank]"));
    return event.key === "Home" ? heads[0] : event.key === "End" ? heads[heads.length - 1] : null;
  };

  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  maps.forEach((map, index) => {
    map.querySelectorAll("td[data-rank]").forEach((cell) => { cell.tabIndex = -1; });
    const first = map.querySelector("td[data-rank]");
    if (first) first.tabIndex = 0;
    map.closest(".scroll").removeAttribute("tabindex");
    map.setAttribute("role", "grid");
    map.setAttribute("aria-readonly", "true");
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
      if (!cell) return;
      if (event.key === "Escape") hide();
      const [site, head] = placeOf(cell);
      const next = step ? beside(index, site, head, step) : ends(index, event, site);
      if (step || next) event.preventDefault();
      if (next) enter(next);
    });
    map.addEventListener("focusout", (event) => {
      if (!maps.some((other) => other.contains(event.relatedTarget))) hide();
    });
  });

  const section = document.getElementById("importance");
  section.addEventListener("pointerleave", () => {
    if (section.contains(document.activeElement) && document.activeElement.dataset.rank) return;
    hide();
  });
  document.querySelectorAll("input[name=fraction]").forEach((input) => {
    input.addEventListener("change", () => {
      if (shown && !readout.hidden) show(...shown, false);
    });
  });
})();
