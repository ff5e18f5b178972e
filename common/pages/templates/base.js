const data = JSON.parse(document.getElementById("data").textContent);

/** An element with properties, and children that are elements or text; text stays text. */
function el(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

const whole = (value) => value.toLocaleString("en-US");
const fixed = (value, digits) => (value === null ? "not finite" : value.toFixed(digits).replace("-", "−"));
const signed = (value, digits) => (value > 0 ? "+" : "") + fixed(value, digits);

/** A table from [title, class] for each column and rows of cells, which are text or elements. */
function table(columns, rows) {
  const head = el("tr", {}, ...columns.map(([title, className]) => el("th", { className, scope: "col" }, title)));
  const body = rows.map((row) =>
    el("tr", {}, ...row.map((cell, i) => el("td", { className: columns[i][1] }, cell))));
  return el("table", {}, el("thead", {}, head), el("tbody", {}, ...body));
}
