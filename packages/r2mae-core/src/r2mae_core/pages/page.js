"use strict";
// Draws the charts, and lets the legend show and hide a scheme in all of them and in the tables.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const data = (id) => JSON.parse(document.getElementById(id).textContent);
  const models = () => Bokeh.documents.flatMap((doc) => doc.roots().flatMap((root) => [...root.references()]));

  const paint = () => {
    const of = getComputedStyle(document.documentElement);
    const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => of.getPropertyValue(name).trim());
    for (const model of models()) {
      if (model.type.endsWith("Axis")) {
        model.setv({axis_label_text_color: ink, major_label_text_color: soft, axis_line_color: soft,
          major_tick_line_color: soft, minor_tick_line_color: null, axis_label_text_font_style: "normal"});
      } else if (model.type === "Grid") {
        model.grid_line_color = line;
      }
    }
  };

  const show = (number, shown) => {
    for (const model of models()) {
      if (model.type === "GlyphRenderer" && model.name === `scheme-${number}`) model.visible = shown;
    }
    for (const row of document.querySelectorAll(`tr[data-scheme="${number}"]`)) row.classList.toggle("hidden", !shown);
  };

  const sortable = (table) => {
    for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[column].dataset.value;
        const compare = (a, b) => {
          const [x, y] = [key(a), key(b)];
          if ((x === "") !== (y === "")) return x === "" ? 1 : -1;  // what was not measured comes last
          const order = column === 0 ? x.localeCompare(y) : Number(x) - Number(y);
          return down ? -order : order;
        };
        table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
      });
    }
  };

  document.addEventListener("DOMContentLoaded", async () => {
    document.querySelectorAll("table.sortable").forEach(sortable);
    const charts = document.getElementById("charts-data");
    if (charts) {
      await Promise.all(Object.entries(data("charts-data")).map(([id, item]) => Bokeh.embed.embed_item(item, id)));
      paint();
      dark.addEventListener("change", paint);
    }
    for (const chip of document.querySelectorAll(".chip")) {
      chip.addEventListener("click", () => {
        const shown = chip.getAttribute("aria-pressed") !== "true";
        chip.setAttribute("aria-pressed", String(shown));
        show(chip.dataset.scheme, shown);
      });
    }
    document.documentElement.dataset.drawn = "yes";
  });
})();
