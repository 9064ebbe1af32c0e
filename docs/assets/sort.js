// A click on a column's heading sorts its table: numbers by value, the rest by text.
document.addEventListener("click", (event) => {
  const heading = event.target.closest(".md-typeset th");
  if (!heading) return;
  const body = heading.closest("table").tBodies[0];
  const column = heading.cellIndex;
  const descending = heading.dataset.order === "ascending";
  const value = (row) => row.cells[column].textContent.trim();
  const number = (text) => Number.parseFloat(text.replace(/,/g, ""));
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [number(value(a)), number(value(b))];
    return Number.isNaN(x) || Number.isNaN(y) ? value(a).localeCompare(value(b)) : x - y;
  });
  heading.dataset.order = descending ? "descending" : "ascending";
  body.append(...(descending ? rows.reverse() : rows));
});
