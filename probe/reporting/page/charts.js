// Marks and axes: small functions that make SVG, canvas and table elements. Text goes in as text, never as markup.

const byId = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";
const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
const DIVERGING = [
  "#053061",
  "#2166ac",
  "#4393c3",
  "#92c5de",
  "#d1e5f0",
  "#f7f7f7",
  "#fddbc7",
  "#f4a582",
  "#d6604d",
  "#b2182b",
  "#67001f",
];

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element; attributes that start with "on" are listeners, children are nodes or texts. */
const html = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);

/** An SVG element. */
const svg = (name, attributes = {}, ...children) => filled(document.createElementNS(SVG, name), attributes, children);

// -------------------------------------------------------------------------------------------------- numbers

const range = (length) => Array.from({ length }, (_, i) => i);
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

/** The least and the most of many numbers, which may be too many to be arguments; `wanted` ones are always within. */
function extent(values, ...wanted) {
  let [low, high] = [Math.min(...wanted), Math.max(...wanted)];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

/** Four significant digits, with a true minus sign. */
function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const number = value + 0; // A rounded −0 is 0.
  const text = Number.isInteger(number) ? number.toLocaleString("en") : String(Number(number.toPrecision(4)));
  return text.replace("-", "−");
}

/** Round numbers from low to high, about `wanted` of them. */
function ticks(low, high, wanted = 5) {
  const raw = (high - low) / Math.max(1, wanted);
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return range(Math.floor(high / step + 1e-9) - first + 1).map((i) => (first + i) * step);
}

/** A colour of a map, for a value from 0 to 1. */
function colour(stops, value) {
  const place = Math.min(1, Math.max(0, value)) * (stops.length - 1);
  const below = Math.min(stops.length - 2, Math.floor(place));
  const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const [a, b] = [channels(stops[below]), channels(stops[below + 1])];
  return a.map((one, i) => Math.round(one + (b[i] - one) * (place - below)));
}

const rgb = (stops, value) => `rgb(${colour(stops, value).join(",")})`;

/** Base64 of little-endian numbers as a typed array. */
function decoded(text, Type) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Type(bytes.buffer);
}

// ---------------------------------------------------------------------------------------------------- charts

/**
 * A chart with axes. x and y are {low, high, label, ticks, format, log}; what it returns has X and Y, from numbers to
 * places, and `add`, for marks.
 */
function chart({ label, x, y, width = 420, height = 250, left = 58 }) {
  const [right, top, bottom] = [10, 10, 42];
  const along = (axis, from, to) => {
    const value = axis.log ? Math.log2 : (number) => number;
    const [low, high] = [value(axis.low), value(axis.high)];
    return (number) => from + ((value(number) - low) / (high - low || 1)) * (to - from);
  };
  const X = along(x, left, width - right);
  const Y = along(y, height - bottom, top);
  const marks = svg("g");
  const axes = svg("g", { class: "axes", "aria-hidden": "true" });
  const shown = (axis, tick) => (axis.format ? axis.format(tick) : short(tick));
  for (const tick of x.ticks ?? ticks(x.low, x.high, 6)) {
    axes.append(
      svg("line", { x1: X(tick), x2: X(tick), y1: height - bottom, y2: height - bottom + 4 }),
      svg("text", { x: X(tick), y: height - bottom + 17, "text-anchor": "middle" }, shown(x, tick)),
    );
  }
  for (const tick of y.ticks ?? ticks(y.low, y.high, 5)) {
    axes.append(
      svg("line", { class: "rule", x1: left, x2: width - right, y1: Y(tick), y2: Y(tick) }),
      svg("text", { x: left - 6, y: Y(tick) + 4, "text-anchor": "end" }, shown(y, tick)),
    );
  }
  axes.append(
    svg("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
    svg("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, x.label),
    svg("text", { x: -(top + height - bottom) / 2, y: 12, transform: "rotate(-90)", "text-anchor": "middle" }, y.label),
  );
  const node = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "chart" },
    axes,
    marks,
  );
  return {
    node,
    X,
    Y,
    add: (...children) => marks.append(...children.flat()),
    box: { left, right: width - right, top, bottom: height - bottom },
  };
}

/** A line through points, [[x, y], ...] in the units of the chart; what is no number is left out. */
function line(on, points, attributes) {
  const known = points.filter(([, y]) => Number.isFinite(y));
  const path = known.map(([x, y]) => `${on.X(x).toFixed(1)},${on.Y(y).toFixed(1)}`).join(" ");
  return svg("polyline", { points: path, fill: "none", "stroke-width": 2, ...attributes });
}

/** A bar from one corner to another, with what a pointer on it says. */
function bar(on, x0, x1, y0, y1, fill, said, attributes = {}) {
  const [left, right, low, high] = [on.X(x0), on.X(x1), on.Y(y0), on.Y(y1)];
  return svg(
    "rect",
    {
      x: Math.min(left, right),
      y: Math.min(low, high),
      width: Math.abs(right - left),
      height: Math.abs(low - high),
      fill,
      ...attributes,
    },
    svg("title", {}, said),
  );
}

/** The line that marks the t that is looked at. */
const cursor = (on, t) => svg("line", { class: "cursor", x1: on.X(t), x2: on.X(t), y1: on.box.top, y2: on.box.bottom });

/** An axis of timesteps; of curves that change most at first it is logarithmic where there are many. */
function timesteps(last, low = 1) {
  const log = last > 16 && low === 1;
  const powers = range(Math.floor(Math.log2(last)) + 1).map((i) => 2 ** i);
  const step = Math.ceil(last / 8);
  const every = range(last + 1).filter((t) => t >= low && t % step === 0);
  return {
    low,
    high: Math.max(last, low + 1e-9),
    log,
    label: "timestep t",
    ticks: log ? powers : every,
    format: String,
  };
}

/** A dashed line at one height, from t = 0 to T. */
const level = (on, height, T, stroke) =>
  line(on, [0, T].map((t) => [t, height]), { stroke, "stroke-dasharray": "4 3" }); // prettier-ignore

/** A line through values at t = 1, 2, ... */
const series = (on, values, stroke) => line(on, values.map((value, i) => [i + 1, value]), { stroke }); // prettier-ignore

/** The words for colours, [[name, colour], ...]. */
const legend = (entries) =>
  html(
    "ul",
    { class: "legend" },
    entries.map(([name, fill]) =>
      html(
        "li",
        {},
        svg(
          "svg",
          { viewBox: "0 0 10 10", class: "key", "aria-hidden": "true" },
          svg("rect", { width: 10, height: 10, fill }),
        ),
        name,
      ),
    ),
  );

/**
 * A matrix as a picture, a cell a pixel; what the pointer is on is its tooltip.
 *
 * @param value (row, column) -> number, or NaN where there is no cell
 * @param paint number -> [r, g, b]
 * @param told (row, column, number) -> text
 */
function heat({ label, rows, columns, value, paint, told, tall = false, press = null }) {
  const canvas = html("canvas", {
    width: columns,
    height: rows,
    role: "img",
    "aria-label": label,
    class: tall ? "heat tall" : "heat",
  });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  for (const row of range(rows)) {
    for (const column of range(columns)) {
      const number = value(row, column);
      const at = 4 * (row * columns + column);
      if (Number.isNaN(number)) continue;
      image.data.set([...paint(number), 255], at);
    }
  }
  context.putImageData(image, 0, 0);
  // A vector in one row would be a hair high.
  const thin = columns > 8 * rows;
  canvas.style.aspectRatio = tall || thin ? "auto" : `${columns} / ${rows}`;
  if (thin && !tall) canvas.classList.add("thin");
  const within = (share, cells) => Math.min(cells - 1, Math.max(0, Math.floor(share * cells)));
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [
      within((event.clientY - box.top) / box.height, rows),
      within((event.clientX - box.left) / box.width, columns),
    ];
  };
  canvas.addEventListener("pointermove", (event) => {
    const [row, column] = place(event);
    const number = value(row, column);
    canvas.title = Number.isNaN(number) ? "" : told(row, column, number);
  });
  if (press) canvas.addEventListener("click", (event) => press(...place(event)));
  return canvas;
}

/** What the colours of a heat map mean. */
function colourbar(stops, low, high, label) {
  const shown = html("span", { class: "gradient", "aria-hidden": "true" });
  shown.style.background = `linear-gradient(to right, ${stops.join(",")})`;
  return html(
    "p",
    { class: "colourbar" },
    html("span", {}, short(low)),
    shown,
    html("span", {}, short(high)),
    html("span", { class: "what" }, label),
  );
}

// ---------------------------------------------------------------------------------------------------- tables

/** What a table shows rounded and copies exactly: a share with four decimals, for example. */
const rounded = (value, text) => ({ value, text });
const fourDecimals = (value) => rounded(value, value.toFixed(4).replace("-", "−"));

/** A cell of a table: of a number it keeps the exact value, for copies. */
function cell(name, attributes, content) {
  if (content === null || content === undefined) return html(name, { ...attributes, "data-value": "" }, "–");
  const { value, text } = typeof content === "number" ? rounded(content, short(content)) : content;
  return value === undefined
    ? html(name, attributes, content)
    : html(name, { ...attributes, "data-value": String(value) }, text);
}

/** A table with a caption; the first cell of each row is its head. Cells are texts, numbers, `rounded` ones or null. */
function table(caption, header, rows) {
  const line = ([head, ...others]) =>
    html("tr", {}, cell("th", { scope: "row" }, head), others.map((one) => cell("td", {}, one))); // prettier-ignore
  const heads = header.map((name) => html("th", { scope: "col" }, name));
  return html(
    "table",
    {},
    html("caption", {}, caption),
    html("thead", {}, html("tr", {}, heads)),
    html("tbody", {}, rows.map(line)),
  );
}

/** A table's cells as copies have them. A text that a spreadsheet would run as a formula gets an apostrophe. */
const cellsOf = (node) =>
  [...node.rows].map((row) =>
    [...row.cells].map(({ dataset, textContent }) => {
      if (dataset.value !== undefined) return dataset.value;
      const text = textContent.trim();
      return /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    }),
  );

const asCsv = (cells) =>
  cells
    .map((row) => row.map((text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)).join(","))
    .join("\n") + "\n";

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages from a file may not be allowed to; a selected text may always be copied.
    const area = html("textarea", {}, text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** A table with buttons that copy it and save it as CSV. */
function withButtons(node, name) {
  const caption = node.caption.textContent;
  const button = (text, label, onclick) =>
    html("button", { type: "button", "aria-label": `${label}: ${caption}`, onclick }, text);
  const copy = button("Copy", "Copy the table", async () => {
    await copied(
      cellsOf(node)
        .map((row) => row.join("\t"))
        .join("\n"),
    );
    // The fallback has taken the focus.
    copy.focus({ preventScroll: true });
    copy.textContent = "Copied";
    byId("status").textContent = `Copied: ${caption}`;
    setTimeout(() => {
      copy.textContent = "Copy";
    }, 1500);
  });
  const save = button("CSV", "Save the table as CSV", () => {
    const url = URL.createObjectURL(new Blob([asCsv(cellsOf(node))], { type: "text/csv" }));
    html("a", { href: url, download: `${name}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });
  return html(
    "div",
    { class: "table" },
    html("div", { class: "buttons" }, copy, save),
    html("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption }, node),
  );
}

/** A table that is opened on demand. */
const folded = (node, name) => html("details", {}, html("summary", {}, "Table"), withButtons(node, name));
