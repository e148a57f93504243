// Marks and axes: small functions that make SVG, canvas and table elements. Text goes in as text, never as markup.

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

/** Four significant digits, with a true minus sign. */
function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const text = Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4)));
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

/** A line through points, [[x, y], ...] in the units of the chart. */
function line(on, points, attributes) {
  const path = points.map(([x, y]) => `${on.X(x).toFixed(1)},${on.Y(y).toFixed(1)}`).join(" ");
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

/** An axis of timesteps, logarithmic where there are many. */
function timesteps(last, low = 1) {
  const log = last > 16 && low > 0;
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
 * A matrix as a picture, a cell a pixel; what the pointer is on is told below it.
 *
 * @param value (row, column) -> number or NaN
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
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [
      Math.min(rows - 1, Math.floor(((event.clientY - box.top) / box.height) * rows)),
      Math.min(columns - 1, Math.floor(((event.clientX - box.left) / box.width) * columns)),
    ];
  };
  canvas.addEventListener("pointermove", (event) => {
    const [row, column] = place(event);
    canvas.title = row >= 0 && column >= 0 ? told(row, column, value(row, column)) : "";
  });
  if (press) canvas.addEventListener("click", (event) => press(...place(event)));
  return canvas;
}

/** What the colours of a heat map mean. */
function colourbar(stops, low, high, label) {
  const name = `g${(colourbar.made = (colourbar.made ?? 0) + 1)}`;
  const steps = range(17).map((i) => svg("stop", { offset: i / 16, "stop-color": rgb(stops, i / 16) }));
  return html(
    "p",
    { class: "colourbar" },
    html("span", {}, short(low)),
    svg(
      "svg",
      { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("defs", {}, svg("linearGradient", { id: name }, steps)),
      svg("rect", { width: 100, height: 8, fill: `url(#${name})` }),
    ),
    html("span", {}, short(high)),
    html("span", { class: "what" }, label),
  );
}

// ---------------------------------------------------------------------------------------------------- tables

/** A table with a caption; the first cell of each row is its head. */
function table(caption, header, rows) {
  const cell = (value, i) =>
    html(i ? "td" : "th", i ? {} : { scope: "row" }, typeof value === "number" ? short(value) : value);
  return html(
    "table",
    {},
    html("caption", {}, caption),
    html(
      "thead",
      {},
      html(
        "tr",
        {},
        header.map((name) => html("th", { scope: "col" }, name)),
      ),
    ),
    html(
      "tbody",
      {},
      rows.map((row) => html("tr", {}, row.map(cell))),
    ),
  );
}

const cellsOf = (node) => [...node.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim()));

/** A text that a spreadsheet would run as a formula gets an apostrophe; numbers get a plain minus sign. */
function plain(text) {
  const number = text.replace("−", "-");
  if (/^-?[\d.,]+(e-?\d+)?( %)?$/.test(number)) return number;
  return /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
}

const asCsv = (cells) =>
  cells
    .map((row) =>
      row
        .map(plain)
        .map((text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text))
        .join(","),
    )
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
  const copy = html(
    "button",
    {
      type: "button",
      "aria-label": `Copy the table: ${caption}`,
      onclick: async () => {
        await copied(
          cellsOf(node)
            .map((row) => row.map(plain).join("\t"))
            .join("\n"),
        );
        copy.textContent = "Copied";
        setTimeout(() => {
          copy.textContent = "Copy";
        }, 1500);
      },
    },
    "Copy",
  );
  const save = html(
    "button",
    {
      type: "button",
      "aria-label": `Save the table as CSV: ${caption}`,
      onclick: () => {
        const url = URL.createObjectURL(new Blob([asCsv(cellsOf(node))], { type: "text/csv" }));
        html("a", { href: url, download: `${name}.csv` }).click();
        setTimeout(() => URL.revokeObjectURL(url), 1000);
      },
    },
    "CSV",
  );
  return html(
    "div",
    { class: "table" },
    html("div", { class: "buttons" }, copy, save),
    html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, node),
  );
}

/** A table that is opened on demand. */
const folded = (node, name) =>
  html("details", { "data-fold": name }, html("summary", {}, "Table"), withButtons(node, name));
