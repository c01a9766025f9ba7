"use strict";
{
  const viewer = document.getElementById("viewer");
  const pictures = [...document.querySelectorAll(".gallery button")];
  let shown = 0;
  const show = (index) => {
    shown = (index + pictures.length) % pictures.length;
    const source = pictures[shown].querySelector("img");
    viewer.querySelector("img").src = source.src;
    viewer.querySelector("img").alt = source.alt;
    viewer.querySelector("span").textContent = `${source.alt} (${shown + 1} of ${pictures.length}, ← → to leaf)`;
    if (!viewer.open) viewer.showModal();
  };
  pictures.forEach((button, index) => button.addEventListener("click", () => show(index)));
  if (viewer) {
    viewer.addEventListener("keydown", (event) => {
      if (event.key === "ArrowRight") show(shown + 1);
      if (event.key === "ArrowLeft") show(shown - 1);
    });
    viewer.addEventListener("click", (event) => { if (event.target !== viewer.querySelector("img")) viewer.close(); });
    viewer.addEventListener("close", () => pictures[shown].focus());
  }
  document.querySelectorAll("table.sortable").forEach((table) => {
    table.querySelectorAll("th").forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const text = (row) => row.cells[column].textContent;
      [...body.rows]
        .sort((a, b) => text(a).localeCompare(text(b), "en", { numeric: true }) * (down ? -1 : 1))
        .forEach((row) => body.append(row));
    }));
  });
}
