// The pictures of a layer that show a single sample: raster, feature maps, and one neuron over time.

const notKept = (what, presets) =>
  `The report holds no ${what} of this layer: they are recorded with ${presets}, and shown while they fit into its size.`;
const SPIKES = "--record spikes or full";

function drawRaster({ recording, layer, single, head, t, neuron, pick, name }) {
  if (!single?.traces) return notKept("spikes", SPIKES);
  const { neurons } = single.traces;
  const [T, spikes] = [recording.timesteps, decoded(single.traces.spikes, Int8Array)];
  const places = neurons.map((flat) => placeOf(flat, layer.shape));
  const each = Math.max(6, Math.min(14, 420 / neurons.length));
  const height = 52 + each * neurons.length;
  const step = Math.max(1, Math.ceil(11 / each));
  const fired = (i) => range(T).filter((at) => spikes[i * T + at]);
  const on = chart({
    label: `${short(sum(neurons.map((_, i) => fired(i).length)))} spikes of ${neurons.length} neurons of layer ${layer.index}, sample ${head.sample}.`,
    height,
    left: 66,
    x: { ...timesteps(T, 0.5), high: T + 0.5 },
    y: {
      low: neurons.length - 0.5,
      high: -0.5,
      label: "neuron",
      ticks: range(neurons.length).filter((i) => i % step === 0),
      format: (i) => places[i],
    },
  });
  neurons.forEach((_, i) => {
    const row = svg(
      "g",
      { class: i === neuron ? "row current" : "row", onclick: () => pick(i) },
      svg("title", {}, `neuron ${places[i]}`),
      bar(on, 0.5, T + 0.5, i - 0.5, i + 0.5, "transparent", `neuron ${places[i]}`, { class: "back" }),
    );
    for (const at of fired(i)) {
      const spike = spikes[i * T + at];
      const half = spike < 0 ? 0.25 : 0.4;
      row.append(
        svg("line", {
          x1: on.X(at + 1),
          x2: on.X(at + 1),
          y1: on.Y(i - half),
          y2: on.Y(i + half),
          stroke: spike < 0 ? COLOURS.negative : COLOURS.snn,
          // Of several spikes in a step the mark is broader.
          "stroke-width": Math.min(4, Math.max(1, 110 / T)) * Math.min(3, Math.abs(spike)),
        }),
      );
    }
    on.add(row);
  });
  on.add(cursor(on, t));
  const words = (at, spike) =>
    `${spike < 0 ? "−" : ""}${at + 1}${Math.abs(spike) > 1 ? ` (${Math.abs(spike)} times)` : ""}`;
  const rows = neurons.map((_, i) => [
    places[i],
    fired(i)
      .map((at) => words(at, spikes[i * T + at]))
      .join(" "),
  ]);
  return [
    on.node,
    legend([["spike", COLOURS.snn], ...(spikes.some((one) => one < 0) ? [["negative spike", COLOURS.negative]] : [])]),
    folded(
      table(`Spikes of layer ${layer.index}, sample ${head.sample}`, ["neuron", "fired at t"], rows),
      `${name}-raster`,
    ),
  ];
}

function drawMaps({ layer, single, head, t }) {
  const maps = single?.maps;
  if (!maps) return notKept("feature maps", "--record counts, spikes or full");
  const place = maps.at.indexOf(t);
  const chosen = place < 0 ? maps.at.length - 1 : place;
  const [cells, at] = [maps.rows * maps.columns, maps.at[chosen]];
  const all = range(cells * maps.channels.length);
  const n = decoded(maps.n, { 1: Int8Array, 2: Int16Array, 4: Int32Array }[maps.bytes]).subarray(chosen * all.length);
  const a = maps.a ? decoded(maps.a, Float32Array) : null;
  const flatOf = (i) => {
    const [channel, row, column] = [maps.channels[Math.floor(i / cells)], Math.floor((i % cells) / maps.columns), i % maps.columns]; // prettier-ignore
    return (channel * maps.height + row * maps.stride) * maps.width + column * maps.stride;
  };
  // A vector may leave its last row unfilled.
  const known = all.filter((i) => flatOf(i) < layer.neurons);
  const phi = (i) => n[i] / at;
  const error = (i) => phi(i) - a[i];
  const [low, high] = extent([...known.map(phi), ...(a ? known.map((i) => a[i]) : [])], 0, 1 / at);
  const most = a ? extent(known.map((i) => Math.abs(error(i))), 1 / at)[1] : 1; // prettier-ignore
  const byValue = (value) => colour(VIRIDIS, (value - low) / (high - low));
  const byError = (value) => colour(DIVERGING, 0.5 + value / (2 * most));
  const kinds = a
    ? [["a", (i) => a[i], byValue], ["φ(t)", phi, byValue], ["φ(t) − a", error, byError]] // prettier-ignore
    : [["φ(t)", phi, byValue]];
  const named = layer.shape.length > 2;
  const picture = ([kind, value, paint], channel, c) => {
    const own = known.filter((i) => Math.floor(i / cells) === c).map(value);
    const [least, largest] = extent(own, own[0]);
    const at = (row, column) => c * cells + row * maps.columns + column;
    return heat({
      label: `${kind} of ${named ? `channel ${channel}` : "the neurons"}: from ${short(least)} to ${short(largest)} θ, mean ${short(sum(own) / own.length)} θ`,
      rows: maps.rows,
      columns: maps.columns,
      value: (row, column) => (flatOf(at(row, column)) < layer.neurons ? value(at(row, column)) : NaN),
      paint,
      told: (row, column, number) => `${placeOf(flatOf(at(row, column)), layer.shape)}: ${short(number)} θ`,
    });
  };
  const rows = kinds.map((kind) => {
    const pictures = maps.channels.map((channel, c) => html("td", {}, picture(kind, channel, c)));
    return html("tr", {}, html("th", { scope: "row" }, kind[0]), pictures);
  });
  const heads = maps.channels.map((channel) => html("th", { scope: "col" }, String(channel)));
  const grid = html(
    "table",
    { class: "maps", "aria-label": `Feature maps of layer ${layer.index}, sample ${head.sample}, t = ${at}` },
    named ? html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "channel"), heads)) : null,
    html("tbody", {}, rows),
  );
  const thin = maps.stride > 1 ? ` One neuron of every ${maps.stride} is shown, down and across.` : "";
  const still = place < 0 ? " n below T is not kept: record spikes." : "";
  return [
    html("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Feature maps" }, grid),
    colourbar(VIRIDIS, low, high, `${a ? "a and " : ""}φ(t) in θ, at t = ${at}.${thin}${still}`),
    a ? colourbar(DIVERGING, -most, most, "φ(t) − a in θ") : null,
  ];
}

function drawTrace({ recording, layer, single, head, t, neuron, name }) {
  const traces = single?.traces;
  if (!traces) return notKept("spikes", SPIKES);
  const T = recording.timesteps;
  const of = (array) => range(T).map((i) => array[neuron * T + i]);
  const [theta, start, a] = [traces.threshold[neuron], traces.start[neuron], traces.a?.[neuron] ?? null];
  const spikes = of(decoded(traces.spikes, Int8Array));
  let total = 0;
  const n = spikes.map((spike) => (total += spike));
  const phi = n.map((count, i) => (theta * count) / (i + 1));
  const x = traces.x ? of(decoded(traces.x, Float32Array)) : null;
  const v = traces.v ? of(decoded(traces.v, Float32Array)) : null;
  const place = placeOf(traces.neurons[neuron], layer.shape);
  const span = (...values) => {
    const known = values.flat().filter(Number.isFinite);
    const [low, high] = [Math.min(0, ...known), Math.max(...known, 1e-9)];
    return { low: low - 0.05 * (high - low), high: high + 0.05 * (high - low) };
  };
  const panel = (label, y, height = 130) =>
    chart({ label, height, x: timesteps(T, 0), y: { ...y, ticks: ticks(y.low, y.high, 3) } });
  const nodes = [
    html(
      "p",
      {},
      `Neuron ${place}, sample ${head.sample}: θ = ${short(theta)}, v(0) = ${short(start)}` +
        (a === null ? "" : `, a = ${short(a)}, φ(T) − a = ${short(Number(((phi.at(-1) - a) / theta).toFixed(4)))} θ`) +
        (traces.silenced?.[neuron] ? ", silenced by SRP" : ""),
    ),
  ];
  if (x) {
    const on = panel(`Input x(t) of neuron ${place}, mean ${short(sum(x) / T)}`, { ...span(x), label: "x(t)" });
    on.add(cursor(on, t), series(on, x, COLOURS.input));
    nodes.push(on.node);
  }
  if (v) {
    // Charged to v(t − 1) + x(t), then reset by θ: as long as the conservation law holds, both can be drawn.
    const before = [start, ...v];
    const charged = v.map((value, i) => (traces.lawful && x ? before[i] + x[i] : value));
    const steps = charged.flatMap((value, i) => [[i + 1, value], [i + 1, v[i]]]); // prettier-ignore
    const on = panel(
      `Membrane potential v(t) of neuron ${place}, ${short(v.at(-1))} at T, threshold ${short(theta)}`,
      { ...span(charged, v, [start, theta]), label: "v(t)" },
      170,
    );
    on.add(cursor(on, t), level(on, theta, T, COLOURS.threshold));
    on.add(line(on, [[0, start], ...steps], { class: "ink", "stroke-width": 1.5 }));
    spikes.forEach((spike, i) => {
      const fill = spike < 0 ? COLOURS.negative : COLOURS.snn;
      const said = svg("title", {}, `${spike < 0 ? "negative spike" : "spike"} at t = ${i + 1}`);
      if (spike && Number.isFinite(charged[i]))
        on.add(svg("circle", { cx: on.X(i + 1), cy: on.Y(charged[i]), r: 4, fill }, said));
    });
    nodes.push(on.node);
  }
  const on = panel(
    `Output φ(t) of neuron ${place}, ${short(phi.at(-1))} at T` + (a === null ? "" : `, against a = ${short(a)}`),
    { ...span(phi, [theta], a === null ? [] : [a]), label: "φ(t)" },
  );
  on.add(cursor(on, t), series(on, phi, COLOURS.snn));
  if (a !== null) on.add(level(on, a, T, COLOURS.ann));
  nodes.push(
    on.node,
    legend([
      ...(x ? [["x(t)", COLOURS.input]] : []),
      ...(v
        ? [
            ["v(t)", "currentColor"],
            ["θ", COLOURS.threshold],
          ]
        : []),
      ["φ(t), spikes", COLOURS.snn],
      ...(a === null ? [] : [["a", COLOURS.ann]]),
    ]),
  );
  if (!x) nodes.push(html("p", { class: "reason" }, "Inputs and potentials are recorded with --record full."));
  const header = ["t", ...(x ? ["x(t)"] : []), ...(v ? ["v(t)"] : []), "s(t)", "n(t)", "φ(t)"];
  const rows = range(T).map((i) => [i + 1, ...(x ? [x[i]] : []), ...(v ? [v[i]] : []), spikes[i], n[i], phi[i]]);
  nodes.push(
    folded(table(`Neuron ${place} of layer ${layer.index}, sample ${head.sample}`, header, rows), `${name}-neuron`),
  );
  return nodes;
}
