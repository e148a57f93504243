// The page: what is chosen (layer, t, sample, neuron), the network's pictures, and the layer's panels side by side.

const DATA = JSON.parse(document.getElementById("data").textContent);
const WORDS = DATA.words;
const RECORDINGS = DATA.recordings;
const GRID = [...new Set(RECORDINGS.flatMap((one) => one.grid))].sort((a, b) => a - b);
const LETTERS = ["A", "B"];
const byId = (id) => document.getElementById(id);
const sum = (values) => values.reduce((total, value) => total + value, 0);
const share = (row, comparison) => (row.cases[`zero_${comparison}`] + row.cases[`positive_${comparison}`]) / row.count;
/** What a piece adds to the mean square: its signed share of it. */
const contribution = (row, piece) => (row.attribution[piece].share ?? 0) * row.attribution.total.mean_square;
const pieceWords = (row) =>
  WORDS.pieces
    .filter(([key]) => Math.abs(row.attribution[key].share ?? 0) >= 0.005)
    .map(([key, text]) => `${text} ${percent(row.attribution[key].share, 0)}`)
    .join(", ");
/** A layer's error at the chosen t in words. */
function inWords(layer) {
  if (!layer) return "not recorded";
  const row = layer.at[chosen.t];
  if (!row) return layer.paired ? "no statistics at this t" : "no ANN partner";
  if (!row.attribution) return `mean square ${short(row.figures.rmse ** 2)} θ²`;
  return `mean square ${short(row.attribution.total.mean_square)} θ². ${pieceWords(row)}`;
}
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
  const [low, high] = [Math.max(0, Math.min(...values) - 0.02), Math.min(1, Math.max(...values) + 0.02)];
  const said = RECORDINGS.map(
    (one, i) =>
      `${RECORDINGS.length > 1 ? `${LETTERS[i]}: ` : ""}SNN ${percent(one.accuracy.snn[0])} at t = 1, ${percent(one.accuracy.snn.at(-1))} at T = ${one.timesteps}` +
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
    const of = RECORDINGS.length > 1 ? ` of ${LETTERS[i]}` : "";
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
  const header = [
    "t",
    ...RECORDINGS.flatMap((_, i) => {
      const of = RECORDINGS.length > 1 ? ` of ${LETTERS[i]}` : "";
      return [`SNN${of}`, "95% from", "to"];
    }),
  ];
  const cells = range(last).map((t) => [
    t + 1,
    ...RECORDINGS.flatMap(({ accuracy }) =>
      [accuracy.snn[t], accuracy.low[t], accuracy.high[t]].map((value) =>
        value === undefined ? "–" : value.toFixed(4),
      ),
    ),
  ]);
  keep(byId("accuracy-picture"), [on.node, legend(keys), folded(table("Accuracy over t", header, cells), "accuracy")]);
}

/** The strip: a column a layer, what its error is made of stacked up, and down where a piece offsets another. */
function drawMap() {
  const rows = range(DATA.rows.length);
  const sides = range(RECORDINGS.length);
  // Without an ANN there is no error to show, but still a rate.
  const erring = RECORDINGS.some((one) => one.layers.some((layer) => layer.paired));
  byId("map-help").hidden = !erring;
  byId("map-title").textContent = erring ? "Where the error starts, and how it grows" : "Firing rate of the layers";
  const parts = (layer) => {
    const row = layer?.at[chosen.t];
    if (!erring) return layer ? [["firing rate", sum(layer.rate.slice(0, chosen.t)) / chosen.t, COLOURS.snn]] : null;
    if (!row) return null;
    if (!row.attribution) return [["error", row.figures.rmse ** 2, "#8C8C8C"]];
    return WORDS.pieces.map(([key, text, fill]) => [text, contribution(row, key), fill]);
  };
  const all = sides.flatMap((side) => rows.map((row) => parts(layerOf(row, side)) ?? []));
  const up = Math.max(...all.map((part) => sum(part.map((one) => Math.max(0, one[1])))), 1e-12);
  const down = Math.min(...all.map((part) => sum(part.map((one) => Math.min(0, one[1])))), 0);
  const strips = sides.map((side) => {
    const buttons = rows.map((row) => {
      const layer = layerOf(row, side);
      const part = parts(layer);
      let [above, below] = [0, 0];
      const rects = (part ?? []).map(([, value, fill]) => {
        const from = value > 0 ? above + value : below;
        if (value > 0) above += value;
        else below += value;
        return svg("rect", {
          x: 0.08,
          width: 0.84,
          y: (up - from) / (up - down),
          height: Math.abs(value) / (up - down),
          fill,
        });
      });
      const said = inWords(layer);
      const name = anyLayer(row).name;
      return html(
        "button",
        {
          type: "button",
          class: "column",
          "data-row": row,
          tabindex: row === chosen.row ? 0 : -1,
          "aria-current": row === chosen.row ? "true" : null,
          title: `layer ${anyLayer(row).index} ${name}: ${said}`,
          "aria-label": `layer ${anyLayer(row).index} ${name}: ${said}`,
          disabled: !layer,
          onclick: () => choose({ row }),
        },
        svg(
          "svg",
          { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" },
          rects,
          svg("line", { class: "zero", x1: 0, x2: 1, y1: up / (up - down), y2: up / (up - down) }),
        ),
        html("span", { "aria-hidden": "true" }, String(anyLayer(row).index)),
      );
    });
    const group = html(
      "div",
      {
        class: "strip",
        role: "group",
        "aria-label": `Layers${RECORDINGS.length > 1 ? ` of ${LETTERS[side]}` : ""}: what the error is made of at t = ${chosen.t}; arrow keys move`,
      },
      buttons,
    );
    const scale = html(
      "div",
      { class: "scale", "aria-hidden": "true" },
      html("span", {}, `${short(Number(up.toPrecision(2)))}${erring ? " θ²" : ""}`),
      html("span", {}, down < 0 ? short(Number(down.toPrecision(2))) : "0"),
    );
    return [
      RECORDINGS.length > 1 ? html("p", { class: "label" }, `${LETTERS[side]}: ${RECORDINGS[side].file}`) : null,
      html("div", { class: "striprow" }, scale, html("div", { class: "scroll" }, group)),
    ];
  });
  const focused = document.activeElement?.classList?.contains("column");
  const scrolled = [...byId("map-picture").querySelectorAll(".scroll")].map((node) => node.scrollLeft);
  keep(byId("map-picture"), [strips, legend(WORDS.pieces.map(([, text, fill]) => [text, fill])), drawAllRates()]);
  [...byId("map-picture").querySelectorAll(".striprow .scroll")].forEach((node, i) => {
    node.scrollLeft = scrolled[i] ?? 0;
  });
  const current = byId("map-picture").querySelector("[aria-current]");
  if (focused) current?.focus({ preventScroll: true });
  const scroller = current?.closest(".scroll");
  if (
    scroller &&
    (current.offsetLeft < scroller.scrollLeft ||
      current.offsetLeft + current.offsetWidth > scroller.scrollLeft + scroller.clientWidth)
  )
    scroller.scrollLeft = current.offsetLeft - scroller.clientWidth / 2;
}

/** Firing rate of every layer at every t, as a heat map that can be pressed. */
function drawAllRates() {
  return html(
    "details",
    { "data-fold": "all-rates" },
    html("summary", {}, "Firing rate of every layer at every timestep"),
    html(
      "div",
      { class: "sides" },
      RECORDINGS.map((recording, side) => {
        const layers = recording.layers;
        const values = layers.flatMap((layer) => layer.rate);
        const [low, high] = [Math.min(0, ...values), Math.max(...values, 1e-9)];
        const map = heat({
          label: "Firing rate: a row a layer, a column a timestep",
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
          "Firing rate of every layer",
          ["layer", ...shown.map((t) => `t = ${t}`)],
          layers.map((layer) => [`${layer.index} ${layer.name}`, ...shown.map((t) => layer.rate[t - 1])]),
        );
        return html(
          "div",
          { class: "side" },
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
    "When neurons fired in the chosen sample: those with the largest error and the most active ones. Click a row to follow the neuron.",
    drawRaster,
  ],
  ["maps", "Feature maps", "The strongest channels of the chosen sample.", drawMaps],
  ["trace", "One neuron", "Its input, its potential between 0 and θ, and what its spikes add up to.", drawTrace],
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

function drawLayer() {
  const first = anyLayer(chosen.row);
  byId("layer-title").textContent = `Layer ${first.index}: ${first.name}`;
  keep(
    byId("layer-facts"),
    range(RECORDINGS.length).map((side) => {
      const layer = layerOf(chosen.row, side);
      return html(
        "dl",
        { class: "facts" },
        RECORDINGS.length > 1
          ? html("div", {}, html("dt", {}, LETTERS[side]), html("dd", {}, layer?.name ?? "not recorded"))
          : null,
        layer
          ? factsOf(layer).map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value)))
          : null,
      );
    }),
  );
  for (const [key, , , draw] of PANELS) {
    keep(
      byId(`panel-${key}`),
      range(RECORDINGS.length).map((side) => {
        const [recording, layer] = [RECORDINGS[side], layerOf(chosen.row, side)];
        const place = Math.min(chosen.sample, recording.shown.length - 1);
        const single = layer?.shown[place];
        const many = single?.traces?.neurons.length ?? 1;
        const letter = RECORDINGS.length > 1 ? `-${LETTERS[side]}` : "";
        const shown = {
          recording,
          layer,
          row: layer?.at[chosen.t],
          t: Math.min(chosen.t, recording.timesteps),
          single,
          head: recording.shown[place],
          neuron: Math.min(chosen.neuron, many - 1),
          name: `layer${first.index}-t${chosen.t}${letter}`,
          pick: (neuron) => choose({ neuron }),
        };
        const drawn = layer ? draw(shown) : "This recording has no such layer.";
        return html(
          "div",
          { class: "side" },
          RECORDINGS.length > 1 ? html("p", { class: "label" }, `${LETTERS[side]}: ${recording.file}`) : null,
          typeof drawn === "string" ? html("p", { class: "reason" }, drawn) : drawn.flat(3),
        );
      }),
    );
  }
  fillNeurons();
}

/** Replace what a node holds, keeping open what was opened. */
function keep(node, children) {
  const open = new Set([...node.querySelectorAll("details[open]")].map((one) => fold(one)));
  node.replaceChildren(...children.flat(3).filter(Boolean));
  for (const one of node.querySelectorAll("details")) one.open = open.has(fold(one));
}

const fold = (node) => `${[...node.closest("[id]").querySelectorAll("details")].indexOf(node)}`;

// -------------------------------------------------------------------------------------------------- choosing

function fillNeurons() {
  const layer = anyLayer(chosen.row);
  const side = layerOf(chosen.row, 0) ? 0 : 1;
  const shown = RECORDINGS[side].shown;
  const traces = layer.shown[Math.min(chosen.sample, shown.length - 1)]?.traces;
  const T = RECORDINGS[side].timesteps;
  const spikes = traces ? decoded(traces.spikes, Int8Array) : null;
  const options = (traces?.neurons ?? []).map((flat, i) => {
    const n = sum([...spikes.subarray(i * T, (i + 1) * T)]);
    const error = traces.a
      ? `, φ(T) − a = ${short(Number((n / T - traces.a[i] / traces.threshold[i]).toFixed(3)))} θ`
      : "";
    return html("option", { value: i }, `${placeOf(flat, layer.shape)}: n = ${n}${error}`);
  });
  byId("neuron").replaceChildren(...options);
  byId("neuron").disabled = !options.length;
  byId("neuron").value = String(Math.min(chosen.neuron, options.length - 1));
}

/** Change what is chosen, and show it. */
function choose(change) {
  if ("row" in change && change.row !== chosen.row && !("neuron" in change)) change.neuron = 0;
  if ("sample" in change && change.sample !== chosen.sample && !("neuron" in change)) change.neuron = 0;
  Object.assign(chosen, change);
  show();
  try {
    history.replaceState(
      null,
      "",
      `#layer=${anyLayer(chosen.row).index}&t=${chosen.t}&sample=${chosen.sample}&neuron=${chosen.neuron}`,
    );
  } catch {
    // Some browsers refuse it to pages from a file; then the address does not follow.
  }
}

function show() {
  const layer = anyLayer(chosen.row);
  byId("row").value = String(chosen.row);
  byId("timestep").value = String(GRID.indexOf(chosen.t));
  const told = `t = ${chosen.t} of T = ${Math.max(...GRID)}`;
  byId("timestep").setAttribute("aria-valuetext", told);
  byId("timestep-told").textContent = told;
  byId("sample").value = String(chosen.sample);
  byId("before").disabled = chosen.row === 0;
  byId("after").disabled = chosen.row === DATA.rows.length - 1;
  drawAccuracy();
  drawMap();
  drawLayer();
  byId("status").textContent = `Layer ${layer.index} ${layer.name}, ${told}, ${inWords(layer)}`;
}

/** Read a layer, t, sample and neuron from the address. */
function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (asked.has(name) && /^\d+$/.test(asked.get(name)) ? Number(asked.get(name)) : null);
  const row = range(DATA.rows.length).findIndex((place) => anyLayer(place).index === number("layer"));
  if (row >= 0) chosen.row = row;
  if (GRID.includes(number("t"))) chosen.t = number("t");
  const samples = Math.max(...RECORDINGS.map((one) => one.shown.length));
  if (number("sample") !== null && number("sample") < samples) chosen.sample = number("sample");
  if (number("neuron") !== null) chosen.neuron = number("neuron");
}

function start() {
  const option = (row) => {
    const layer = anyLayer(row);
    return html("option", { value: row }, `${layer.index}  ${layer.name}`);
  };
  byId("row").append(...range(DATA.rows.length).map(option));
  byId("row").addEventListener("change", (event) => choose({ row: Number(event.target.value) }));
  byId("timestep").max = String(GRID.length - 1);
  byId("timestep").addEventListener("input", (event) => choose({ t: GRID[Number(event.target.value)] }));
  const samples = RECORDINGS.find((one) => one.shown.length)?.shown ?? [];
  byId("sample").append(
    ...samples.map((one, i) =>
      html(
        "option",
        { value: i },
        `${one.sample}: class ${one.label}, ${one.ann === null ? "" : `ANN ${one.ann}, `}SNN ${one.snn}`,
      ),
    ),
  );
  byId("sample").disabled = !samples.length;
  byId("sample").addEventListener("change", (event) => choose({ sample: Number(event.target.value) }));
  byId("neuron").addEventListener("change", (event) => choose({ neuron: Number(event.target.value) }));
  const move = (by) => {
    const row = chosen.row + by;
    if (row >= 0 && row < DATA.rows.length) choose({ row });
  };
  byId("before").addEventListener("click", () => move(-1));
  byId("after").addEventListener("click", () => move(1));
  document.addEventListener("keydown", (event) => {
    const busy =
      event.ctrlKey ||
      event.altKey ||
      event.metaKey ||
      event.target.closest("input, select, textarea, .scroll[tabindex]");
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (busy || !by) return;
    event.preventDefault();
    move(by);
  });
  window.addEventListener("hashchange", () => {
    fromAddress();
    show();
    byId("layer").scrollIntoView();
  });
  for (const [key, title, help] of PANELS) {
    byId("panels").append(
      html(
        "figure",
        { class: "card", id: key, "aria-labelledby": `title-${key}` },
        html("figcaption", {}, html("h3", { id: `title-${key}` }, title), html("p", { class: "help" }, help)),
        html("div", { class: "sides", id: `panel-${key}` }),
      ),
    );
  }
  for (const node of document.querySelectorAll("main table")) {
    if (!node.closest(".table")) node.replaceWith(withButtons(node.cloneNode(true), node.dataset.name ?? "table"));
  }
  byId("controls").hidden = false;
  fromAddress();
  show();
  document.documentElement.dataset.ready = "true";
}

start();
