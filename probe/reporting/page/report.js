// The page: what is chosen (layer, t, sample, neuron), the network's pictures, and the layer's panels side by side.

const DATA = JSON.parse(document.getElementById("data").textContent);
const WORDS = DATA.words;
const COLOURS = WORDS.colours;
const RECORDINGS = DATA.recordings;
const GRID = [...new Set(RECORDINGS.flatMap((one) => one.grid))].sort((a, b) => a - b);
const LETTERS = ["A", "B"];
const sum = (values) => values.reduce((total, value) => total + value, 0);
const share = (row, comparison) => (row.cases[`zero_${comparison}`] + row.cases[`positive_${comparison}`]) / row.count;
/** What a piece adds to the mean square: its signed share of it. */
const contribution = (row, piece) => (row.attribution[piece].share ?? 0) * row.attribution.total.mean_square;
const pieceWords = (row) =>
  WORDS.pieces
    .filter(([key]) => Math.abs(row.attribution[key].share ?? 0) >= 0.005)
    .map(([key, text]) => `${text} ${percent(row.attribution[key].share, 0)}`)
    .join(", ");
/** A layer's error at the chosen t in words; without an ANN its rate. */
function inWords(layer) {
  if (!layer) return "not recorded";
  const row = layer.at[chosen.t];
  if (!layer.paired) return `firing rate ${percent(rateUpTo(layer))}, no ANN partner`;
  if (!row) return "no statistics at this t";
  if (!row.attribution) return `mean square ${short(row.figures.rmse ** 2)} θ²`;
  return `mean square ${short(row.attribution.total.mean_square)} θ². ${pieceWords(row)}`;
}
/** Spikes per neuron and timestep up to the chosen t, or to T where that is earlier. */
function rateUpTo(layer) {
  const rates = layer.rate.slice(0, chosen.t);
  return sum(rates) / rates.length;
}
const TWO = RECORDINGS.length > 1;
/** A or B before what is said of a recording, where there are two. */
const lettered = (side, text) => (TWO ? `${LETTERS[side]}: ${text}` : text);
const ofLetter = (side) => (TWO ? ` of ${LETTERS[side]}` : "");
const layerOf = (row, side) => {
  const place = DATA.rows[row][side];
  return place === null || place === undefined ? null : RECORDINGS[side].layers[place];
};
const anyLayer = (row) => layerOf(row, 0) ?? layerOf(row, 1);

const chosen = { row: 0, t: Math.min(...RECORDINGS.map((one) => one.timesteps)), sample: 0, neuron: 0 };

// -------------------------------------------------------------------------------------------------- network

function drawAccuracy() {
  const last = Math.max(...RECORDINGS.map((one) => one.timesteps));
  const values = RECORDINGS.flatMap(({ accuracy }) => [
    ...accuracy.low,
    ...accuracy.high,
    accuracy.ann ?? accuracy.snn[0],
  ]);
  const [least, most] = extent(values, values[0]);
  const [low, high] = [Math.max(0, least - 0.02), Math.min(1, most + 0.02)];
  const said = RECORDINGS.map(
    (one, i) =>
      lettered(i, `SNN ${percent(one.accuracy.snn[0])} at t = 1, `) +
      `${percent(one.accuracy.snn.at(-1))} at T = ${one.timesteps}` +
      (one.accuracy.ann === null ? "" : `; ANN ${percent(one.accuracy.ann)}`),
  ).join(". ");
  const on = chart({
    label: said,
    width: Math.min(640, Math.max(360, byId("accuracy-picture").clientWidth)),
    height: 280,
    x: timesteps(last),
    y: { low, high, label: "accuracy", format: (value) => percent(value, 0) },
  });
  on.add(cursor(on, chosen.t));
  const keys = [];
  RECORDINGS.forEach(({ accuracy }, i) => {
    const stroke = [COLOURS.snn, COLOURS.other][i];
    const of = ofLetter(i);
    const points = (list) => list.map((value, t) => [t + 1, value]);
    if (accuracy.snn.length > 1)
      on.add(
        line(on, [...points(accuracy.low), ...points(accuracy.high).reverse()], {
          fill: stroke,
          "fill-opacity": 0.15,
          stroke: "none",
        }),
      );
    on.add(line(on, points(accuracy.snn), { stroke }));
    if (last <= 64)
      points(accuracy.snn).forEach(([t, value]) =>
        on.add(
          svg(
            "circle",
            { cx: on.X(t), cy: on.Y(value), r: 3, fill: stroke },
            svg("title", {}, `SNN${of} at t = ${t}: ${percent(value, 2)}`),
          ),
        ),
      );
    keys.push([`SNN${of}, with 95% intervals`, stroke]);
    if (accuracy.ann !== null) {
      on.add(
        line(
          on,
          [
            [1, accuracy.ann],
            [Math.max(last, 1.001), accuracy.ann],
          ],
          { stroke: COLOURS.ann, "stroke-dasharray": i ? "2 4" : "6 3" },
        ),
      );
      keys.push([`ANN${of} (dashed)`, COLOURS.ann]);
    }
  });
  const header = ["t", ...RECORDINGS.flatMap((_, i) => [`SNN${ofLetter(i)}`, `95%${ofLetter(i)} from`, "to"])];
  const cells = range(last).map((t) => [
    t + 1,
    ...RECORDINGS.flatMap(({ accuracy }) =>
      [accuracy.snn[t], accuracy.low[t], accuracy.high[t]].map((value) =>
        value === undefined ? null : fourDecimals(value),
      ),
    ),
  ]);
  keep(byId("accuracy-picture"), [on.node, legend(keys), folded(table("Accuracy over t", header, cells), "accuracy")]);
}

/** Some layer has an ANN partner: then there is an error to show, and else only a rate. */
const ERRING = RECORDINGS.some((one) => one.layers.some((layer) => layer.paired));

/** What a layer's column in the strip is stacked of, [[number, colour], ...]. */
function partsOf(layer) {
  const row = layer?.at[chosen.t];
  if (!ERRING && layer) return [[rateUpTo(layer), COLOURS.snn]];
  if (!row) return [];
  if (!row.attribution) return [[row.figures.rmse ** 2, COLOURS.unknown]];
  return WORDS.pieces.map(([key, , fill]) => [contribution(row, key), fill]);
}

/** A layer's column, a button: parts above zero stacked up, those that offset others stacked down. */
function column(row, side, up, down) {
  const layer = layerOf(row, side);
  const height = up - down;
  let [above, below] = [0, 0];
  const rects = partsOf(layer).map(([value, fill]) => {
    const top = value > 0 ? above + value : below;
    if (value > 0) above += value;
    else below += value;
    return svg("rect", { x: 0.08, width: 0.84, y: (up - top) / height, height: Math.abs(value) / height, fill });
  });
  const { index, name } = anyLayer(row);
  const said = `layer ${index} ${name}: ${inWords(layer)}`;
  return html(
    "button",
    {
      type: "button",
      class: "column",
      tabindex: row === chosen.row ? 0 : -1,
      "aria-current": row === chosen.row ? "true" : null,
      title: said,
      "aria-label": said,
      onclick: () => choose({ row }),
    },
    svg(
      "svg",
      { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" },
      rects,
      svg("line", { class: "zero", x1: 0, x2: 1, y1: up / height, y2: up / height }),
    ),
    html("span", { "aria-hidden": "true" }, inAddress(row)),
  );
}

/** The strip: a column a layer, on one scale for both recordings. */
function drawMap() {
  const rows = range(DATA.rows.length);
  const sides = range(RECORDINGS.length);
  byId("map-help").hidden = !ERRING;
  byId("map-title").textContent = ERRING ? "Where the error starts, and how it grows" : "Firing rate of the layers";
  const all = sides.flatMap((side) => rows.map((row) => partsOf(layerOf(row, side)).map(([value]) => value)));
  const [, up] = extent(all.map((values) => sum(values.filter((value) => value > 0))), 1e-12); // prettier-ignore
  const [down] = extent(all.map((values) => sum(values.filter((value) => value < 0))), 0); // prettier-ignore
  const what = ERRING ? "what the error is made of" : "firing rate";
  const strips = sides.map((side) => {
    const label = `Layers${ofLetter(side)}: ${what} at t = ${chosen.t}; arrow keys move`;
    const columns = rows.map((row) => column(row, side, up, down));
    const scale = html(
      "div",
      { class: "scale", "aria-hidden": "true" },
      html("span", {}, `${short(Number(up.toPrecision(2)))}${ERRING ? " θ²" : ""}`),
      html("span", {}, down < 0 ? short(Number(down.toPrecision(2))) : "0"),
    );
    const strip = html("div", { class: "strip", role: "group", "aria-label": label }, columns);
    return [
      TWO ? html("p", { class: "label" }, lettered(side, RECORDINGS[side].file)) : null,
      html("div", { class: "striprow" }, scale, html("div", { class: "scroll" }, strip)),
    ];
  });
  const node = byId("map-picture");
  const from = [...node.querySelectorAll(".strip")].findIndex((strip) => strip.contains(document.activeElement));
  const unknown = sides.some((side) => rows.some((row) => partsOf(layerOf(row, side)).length === 1));
  const words = WORDS.pieces.map(([, text, fill]) => [text, fill]);
  if (unknown) words.push(["of unknown kind", COLOURS.unknown]);
  keep(node, [html("p", { class: "label" }, `at ${tOfT()}`), strips, ERRING ? legend(words) : null, ALL_RATES]);
  for (const [side, strip] of [...node.querySelectorAll(".strip")].entries()) {
    const current = strip.querySelector("[aria-current]");
    if (side === from) current.focus({ preventScroll: true });
    bringIntoView(current, strip.parentElement);
  }
}

/** Scroll sideways until a column is seen. */
function bringIntoView(column, scroller) {
  const [left, right] = [column.offsetLeft, column.offsetLeft + column.offsetWidth];
  if (left < scroller.scrollLeft || right > scroller.scrollLeft + scroller.clientWidth)
    scroller.scrollLeft = left - scroller.clientWidth / 2;
}

/** Firing rate of every layer at every t, as a heat map that can be pressed. */
function drawAllRates() {
  return html(
    "details",
    {},
    html("summary", {}, "Firing rate of every layer at every timestep"),
    html(
      "div",
      { class: "sides" },
      RECORDINGS.map((recording, side) => {
        const layers = recording.layers;
        const values = layers.flatMap((layer) => layer.rate);
        const [low, high] = extent(values, 0, 1e-6);
        const map = heat({
          label: `Firing rate${ofLetter(side)}: a row a layer, a column a timestep, from ${short(low)} to ${short(high)}`,
          rows: layers.length,
          columns: recording.timesteps,
          tall: true,
          value: (row, column) => layers[row].rate[column],
          paint: (value) => colour(VIRIDIS, (value - low) / (high - low)),
          told: (row, column, value) =>
            `layer ${layers[row].index} ${layers[row].name}, t = ${column + 1}: ${short(value)}`,
          press: (row) => choose({ row: DATA.rows.findIndex((pair) => pair[side] === row) }),
        });
        const shown = recording.grid;
        const numbers = table(
          `Firing rate of every layer${ofLetter(side)}`,
          ["layer", ...shown.map((t) => `t = ${t}`)],
          layers.map((layer) => [`${layer.index} ${layer.name}`, ...shown.map((t) => layer.rate[t - 1])]),
        );
        return html(
          "div",
          { class: "side" },
          TWO ? html("p", { class: "label" }, lettered(side, recording.file)) : null,
          map,
          colourbar(
            VIRIDIS,
            low,
            high,
            "spikes per neuron and timestep; layers from top to bottom, t from left to right",
          ),
          folded(numbers, "firing-rates"),
        );
      }),
    ),
  );
}

/** Drawn once, for nothing that is chosen changes it. */
const ALL_RATES = drawAllRates();

// ---------------------------------------------------------------------------------------------------- layer

/** What a layer's page shows: the key of each picture, its title, what it says, and the function that draws it. */
const PANELS = [
  [
    "cases",
    "Cases",
    "Sign of a, and φ(t) over, under or equal: as the field counts, and against what the same input spread evenly would give.",
    drawCases,
  ],
  [
    "attribution",
    "Attribution over t",
    "What the error is made of. The pieces add up to φ − a exactly; one may be negative where it offsets another.",
    drawAttribution,
  ],
  [
    "phi",
    "φ(t) against a",
    "On the dashed line the two agree; on the stairs they agree as well as t spikes can.",
    drawPhi,
  ],
  ["offsets", "Offset spikes", "Spikes too many (positive) or too few, rounded away from 0.", drawOffsets],
  [
    "residual",
    "Residual potential",
    "What is left on the membranes: below 0 a neuron has fired too often for its input, from θ on it owes spikes.",
    drawResidual,
  ],
  ["figures", "Figures", "φ against a, with 95% intervals over samples.", drawFigures],
  ["rates", "Firing rate", "By channel and place, and over t.", drawRates],
  [
    "raster",
    "Raster",
    "When neurons fired in the chosen sample: those with the largest error and the most active ones. Click a row, or choose under Neuron, to follow one.",
    drawRaster,
  ],
  ["trace", "One neuron", "Its input, its potential between 0 and θ, and what its spikes add up to.", drawTrace],
  ["maps", "Feature maps", "The strongest channels of the chosen sample.", drawMaps],
];

const factsOf = (layer) => {
  const theta =
    typeof layer.threshold === "number"
      ? short(layer.threshold)
      : `${short(layer.threshold.min)} to ${short(layer.threshold.max)}, by channel`;
  return [
    ["neuron", layer.neuron],
    ["shape", layer.shape.join(" × ")],
    ["θ", theta],
    ["L", layer.levels === null ? (layer.paired ? "none (ReLU)" : "–") : String(layer.levels)],
    ["v(0)", `${short(layer.start)} θ`],
    ["firing rate", percent(layer.firing_rate, 2)],
    ["silent", percent(layer.silent)],
    ["saturated", percent(layer.saturated)],
    [
      "synaptic operations",
      layer.synaptic_operations === null ? "–" : `${short(Math.round(layer.synaptic_operations))} a sample`,
    ],
  ];
};

/** What is shown of one recording, as the functions of the panels take it. */
function shownOf(side) {
  const [recording, layer] = [RECORDINGS[side], layerOf(chosen.row, side)];
  const place = Math.min(chosen.sample, recording.shown.length - 1);
  const single = layer?.shown[place];
  return {
    recording,
    layer,
    row: layer?.at[chosen.t],
    t: Math.min(chosen.t, recording.timesteps),
    single,
    head: recording.shown[place],
    neuron: Math.min(chosen.neuron, (single?.traces?.neurons.length ?? 1) - 1),
    name: `layer${anyLayer(chosen.row).index}-t${chosen.t}${TWO ? `-${LETTERS[side]}` : ""}`,
    pick: (neuron) => choose({ neuron }),
  };
}

function drawLayer() {
  const { index, name } = anyLayer(chosen.row);
  byId("layer-title").textContent = `Layer ${index}: ${name}, at t = ${chosen.t}`;
  const sides = range(RECORDINGS.length).map(shownOf);
  const facts = sides.map(({ layer }, side) => {
    const own = TWO ? [[LETTERS[side], layer?.name ?? "not recorded"]] : [];
    const entries = [...own, ...(layer ? factsOf(layer) : [])];
    return html("dl", { class: "facts" }, entries.map(([key, value]) => html("div", {}, html("dt", {}, key), html("dd", {}, value)))); // prettier-ignore
  });
  const known = sides.filter(({ layer }) => layer);
  const partner = known.some(({ layer }) => layer.paired);
  keep(byId("layer-facts"), [facts, partner ? null : html("p", { class: "reason" }, NO_PARTNER)]);
  for (const [key, , , draw] of PANELS) {
    const drawn = sides.map((one) => (one.layer ? draw({ ...one, all: known }) : "This recording has no such layer."));
    // One line says it for all of them.
    byId(key).hidden = !partner && drawn.some((nodes) => nodes === NO_PARTNER);
    keep(
      byId(`panel-${key}`),
      drawn.map((nodes, side) =>
        html(
          "div",
          { class: "side" },
          TWO ? html("p", { class: "label" }, lettered(side, RECORDINGS[side].file)) : null,
          typeof nodes === "string" ? html("p", { class: "reason" }, nodes) : nodes.flat(3),
        ),
      ),
    );
  }
  fillNeurons();
}

/** Replace what a node holds; what was opened, scrolled or had the focus still is, has or does. */
function keep(node, children) {
  const all = (selector) => [...node.querySelectorAll(selector)];
  const reached = "summary, button, [tabindex]";
  const open = all("details").map((one) => one.open);
  const scrolled = all(".scroll").map((one) => [one.scrollLeft, one.scrollTop]);
  const focused = all(reached).indexOf(document.activeElement);
  node.replaceChildren(...children.flat(3).filter(Boolean));
  all("details").forEach((one, i) => {
    one.open = open[i] ?? false;
  });
  all(".scroll").forEach((one, i) => {
    [one.scrollLeft, one.scrollTop] = scrolled[i] ?? [0, 0];
  });
  // A picture may have given way to a reason; then there is nothing here that could have the focus.
  if (focused >= 0) (all(reached)[focused] ?? byId("row")).focus({ preventScroll: true });
}

// -------------------------------------------------------------------------------------------------- choosing

/** The neurons to choose from: those of the first recording that has some. */
function fillNeurons() {
  const sides = range(RECORDINGS.length).map(shownOf);
  const options = (sides.find(({ single }) => single?.traces) ? neuronsOf(sides) : []).map((text, i) =>
    html("option", { value: i }, text),
  );
  byId("neuron").replaceChildren(...options);
  byId("neuron").disabled = !options.length;
  byId("neuron").value = String(Math.min(chosen.neuron, options.length - 1));
}

/** What each neuron does in the chosen sample, in words; where two recordings show other neurons, those of both. */
function neuronsOf(sides) {
  const told = sides.map(({ recording, layer, single }) => {
    if (!single?.traces) return null;
    const { neurons, a, threshold, spikes } = single.traces;
    const [T, fired] = [recording.timesteps, decoded(spikes, Int8Array)];
    return neurons.map((flat, i) => {
      const n = sum([...fired.subarray(i * T, (i + 1) * T)]);
      const error = a ? `, φ(T) − a = ${short(Number((n / T - a[i] / threshold[i]).toFixed(3)))} θ` : "";
      return [placeOf(flat, layer.shape), `n = ${n}${error}`];
    });
  });
  const [first, second] = told[0] ? told : told.slice(1);
  return first.map(([place, text], i) => {
    const other = second?.[i];
    if (!other) return `${place}: ${text}`;
    return place === other[0] ? `${place}: ${text}; B: ${other[1]}` : `${place}: ${text}; B ${other[0]}: ${other[1]}`;
  });
}

const tOfT = () => `t = ${chosen.t} of T = ${Math.max(...GRID)}`;

/** Change what is chosen, show it, and let the address say it. */
function choose(change) {
  const other = ["row", "sample"].some((key) => key in change && change[key] !== chosen[key]);
  Object.assign(chosen, other ? { neuron: 0 } : {}, change);
  show();
  try {
    history.replaceState(null, "", `#layer=${inAddress(chosen.row)}&t=${chosen.t}&sample=${chosen.sample}&neuron=${chosen.neuron}`); // prettier-ignore
  } catch {
    // Some browsers refuse it to pages from a file; then the address does not follow.
  }
}

function show() {
  byId("row").value = String(chosen.row);
  byId("timestep").value = String(GRID.indexOf(chosen.t));
  byId("timestep").setAttribute("aria-valuetext", tOfT());
  byId("timestep-told").textContent = tOfT();
  byId("sample").value = String(chosen.sample);
  // Not disabled, for that would take the focus away.
  byId("before").setAttribute("aria-disabled", String(chosen.row === 0));
  byId("after").setAttribute("aria-disabled", String(chosen.row === DATA.rows.length - 1));
  drawAccuracy();
  drawMap();
  drawLayer();
  const { index, name } = anyLayer(chosen.row);
  const words = RECORDINGS.map((_, side) => lettered(side, inWords(layerOf(chosen.row, side))));
  byId("status").textContent = `Layer ${index} ${name}, ${tOfT()}, ${words.join("; ")}`;
}

/** A row's layer in the address: its index, with a B before it where only the second recording has one. */
const inAddress = (row) => (layerOf(row, 0) ? "" : "B") + anyLayer(row).index;

/** Read a layer, t, sample and neuron from the address; what is none stays as it is. */
function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (/^\d+$/.test(asked.get(name) ?? "") ? Number(asked.get(name)) : null);
  const [, letter, index] = /^([AB]?)(\d+)$/.exec(asked.get("layer") ?? "") ?? [];
  const side = letter === "B" ? 1 : 0;
  const row = range(DATA.rows.length).findIndex((place) => layerOf(place, side)?.index === Number(index));
  const found = {};
  if (row >= 0) found.row = row;
  if (GRID.includes(number("t"))) found.t = number("t");
  const samples = Math.max(...RECORDINGS.map((one) => one.shown.length));
  if (number("sample") !== null && number("sample") < samples) found.sample = number("sample");
  if (number("neuron") !== null) found.neuron = number("neuron");
  return found;
}

// -------------------------------------------------------------------------------------------------- the start

/** Samples to choose from, with what each network says of them; where two recordings show others, those of both. */
function fillSamples() {
  const words = ({ sample, label, ann, snn }) =>
    `${sample}: class ${label}, ${ann === null ? "" : `ANN ${ann}, `}SNN ${snn}`;
  const shown = RECORDINGS.map((one) => one.shown).filter((samples) => samples.length);
  const most = Math.max(0, ...shown.map((samples) => samples.length));
  const texts = range(most).map((i) => shown.map((samples) => samples[i]).filter(Boolean).map(words).join("; B ")); // prettier-ignore
  byId("sample").append(...texts.map((text, i) => html("option", { value: i }, text)));
  byId("sample").disabled = !most;
}

function fillPanels() {
  for (const [key, title, help] of PANELS) {
    const caption = html("figcaption", {}, html("h3", { id: `title-${key}` }, title), html("p", { class: "help" }, help)); // prettier-ignore
    const sides = html("div", { class: "sides", id: `panel-${key}` });
    byId("panels").append(html("figure", { class: "card", id: key, "aria-labelledby": `title-${key}` }, caption, sides)); // prettier-ignore
  }
}

function listen() {
  const on = (name, event, change) => byId(name).addEventListener(event, ({ target }) => choose(change(Number(target.value)))); // prettier-ignore
  on("row", "change", (row) => ({ row }));
  on("timestep", "input", (place) => ({ t: GRID[place] }));
  on("sample", "change", (sample) => ({ sample }));
  on("neuron", "change", (neuron) => ({ neuron }));
  const move = (by) => {
    const row = chosen.row + by;
    if (row >= 0 && row < DATA.rows.length) choose({ row });
  };
  byId("before").addEventListener("click", () => move(-1));
  byId("after").addEventListener("click", () => move(1));
  document.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const held = event.ctrlKey || event.altKey || event.metaKey || event.shiftKey;
    // They have a use of the arrow keys of their own.
    if (!by || held || event.target.closest("input, select, .scroll[tabindex]")) return;
    event.preventDefault();
    move(by);
  });
  // Links of findings, and the one that skips to the layer.
  window.addEventListener("hashchange", () => {
    choose(fromAddress());
    byId("layer-title").focus({ preventScroll: true });
    byId("layer").scrollIntoView();
  });
}

function start() {
  const rows = range(DATA.rows.length);
  byId("row").append(...rows.map((row) => html("option", { value: row }, `${inAddress(row)}  ${anyLayer(row).name}`))); // prettier-ignore
  byId("timestep").max = String(GRID.length - 1);
  fillSamples();
  fillPanels();
  for (const node of document.querySelectorAll("main table"))
    node.replaceWith(withButtons(node.cloneNode(true), node.dataset.name));
  byId("controls").hidden = false;
  Object.assign(chosen, fromAddress());
  listen();
  show();
  document.documentElement.dataset.ready = "true";
}

start();
