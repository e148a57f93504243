// The pictures of a layer's statistics at one t, one function each: from what the page holds to a list of nodes.
//
// Each is called with what is shown: {recording, layer, row (the layer's numbers at t, as `probe unevenness --json` has
// them), t, single ({traces, maps} of the chosen sample), head (of the sample), neuron (its place in the list), name (for
// files), pick (chooses a neuron), all (the same of both recordings, whose scales are one)}. A text in place of nodes is
// the reason why there is nothing to see.

const NO_PARTNER = "This layer has no ANN partner, so there is no error to speak of.";
const whyNothing = (layer) => (layer.paired ? "This recording keeps no statistics at this t." : NO_PARTNER);
const rowsOf = (all) => all.map((one) => one.row).filter(Boolean);
const placeOf = (flat, shape) =>
  shape
    .reduceRight(([left, place], size) => [Math.floor(left / size), [left % size, ...place]], [flat, []])[1]
    .join(",");

function drawCases({ layer, row, t, name }) {
  if (!row) return whyNothing(layer);
  const sides = [
    ["against the ANN's a", row.cases],
    ...(row.local_cases ? [["against θ·n_even/t", row.local_cases]] : []),
  ];
  const bars = sides.map(([label, cases]) => {
    const said = WORDS.cases.map(([key, text]) => `${text}: ${percent(cases[key] / row.count)}`).join("; ");
    let left = 0;
    const parts = WORDS.cases.map(([key, text, fill]) => {
      const share = cases[key] / row.count;
      const part = svg(
        "rect",
        { x: 100 * left, width: 100 * share, height: 10, fill },
        svg("title", {}, `${text}: ${percent(share, 2)}`),
      );
      left += share;
      return part;
    });
    return [
      html("p", { class: "label" }, label),
      svg(
        "svg",
        {
          viewBox: "0 0 100 10",
          preserveAspectRatio: "none",
          class: "shares",
          role: "img",
          "aria-label": `${label}: ${said}`,
        },
        parts,
      ),
    ];
  });
  const columns = sides.flatMap(([label]) => [`neurons ${label}`, "share"]);
  const rows = WORDS.cases.map(([key, text]) => [
    text,
    ...sides.flatMap(([, cases]) => [cases[key], fourDecimals(cases[key] / row.count)]),
  ]);
  const numbers = table(
    `Cases of layer ${layer.index} at t = ${t}: ${short(row.count)} neurons`,
    ["case", ...columns],
    rows,
  );
  const reason = row.reason ? [html("p", { class: "reason" }, `No local cases: ${row.reason}.`)] : [];
  return [bars, legend(WORDS.cases.map(([, text, fill]) => [text, fill])), reason, folded(numbers, `${name}-cases`)];
}

/** The t of the grid at which a layer's error is taken apart, and what each piece adds to it: [[t, [number, ...]], ...]. */
const piecesOverTime = ({ recording, layer }) =>
  recording.grid
    .filter((t) => layer.at[t]?.attribution)
    .map((t) => [t, WORDS.pieces.map(([key]) => contribution(layer.at[t], key))]);

function drawAttribution({ recording, layer, row, t, name, all }) {
  if (!row) return whyNothing(layer);
  if (!row.attribution) return `No attribution: ${row.reason}.`;
  const over = piecesOverTime({ recording, layer });
  const [known, parts] = [over.map(([at]) => at), over.map(([, part]) => part)];
  const every = all.flatMap(piecesOverTime).map(([, part]) => part);
  const [, up] = extent(every.map((part) => sum(part.filter((value) => value > 0))), 1e-12); // prettier-ignore
  const [down] = extent(every.map((part) => sum(part.filter((value) => value < 0))), 0); // prettier-ignore
  const total = row.attribution.total;
  const label =
    `What the mean square of φ − a is made of, at each t. At t = ${t}: ${short(total.mean_square)} θ². ` +
    pieceWords(row);
  const step = Math.max(1, Math.ceil(known.length / 12));
  const on = chart({
    label,
    x: {
      low: -0.6,
      high: known.length - 0.4,
      label: "timestep t",
      ticks: range(known.length).filter((i) => i % step === 0),
      format: (i) => String(known[i]),
    },
    y: { low: down, high: up, label: "share of mean square (θ²)" },
  });
  parts.forEach((part, i) => {
    let [above, below] = [0, 0];
    part.forEach((value, piece) => {
      const from = value > 0 ? above : below;
      if (value > 0) above += value;
      else below += value;
      on.add(
        bar(
          on,
          i - 0.4,
          i + 0.4,
          from,
          from + value,
          WORDS.pieces[piece][2],
          `t = ${known[i]}, ${WORDS.pieces[piece][1]}: ${short(value)} θ²`,
        ),
      );
    });
    if (known[i] === t)
      on.add(
        svg("rect", {
          class: "chosen",
          x: on.X(i - 0.45),
          y: on.Y(above),
          width: on.X(0.9) - on.X(0),
          height: Math.max(2, on.Y(below) - on.Y(above)),
          fill: "none",
        }),
      );
  });
  const rows = [
    ["total", total.mean, total.mean_square, null],
    ...WORDS.pieces.map(([key, text]) => {
      const piece = row.attribution[key];
      return [text, piece.mean, piece.mean_square, piece.share === null ? null : fourDecimals(piece.share)];
    }),
  ];
  const numbers = table(
    `Attribution of layer ${layer.index} at t = ${t}, units of θ`,
    ["piece", "mean", "mean square", "share"],
    rows,
  );
  return [on.node, legend(WORDS.pieces.map(([, text, fill]) => [text, fill])), folded(numbers, `${name}-attribution`)];
}

/** How far the cells of one histogram reach, in units of θ: [[lowest a, highest], [lowest φ, highest]]. */
function reachOf({ row, t }) {
  const { steps, block, cells } = row.phi;
  const along = (place, unit) => {
    const [low, high] = extent(cells.map((cell) => cell[place]), 0, unit - block + 1); // prettier-ignore
    return [(low - 0.5) / unit, (high + block - 0.5) / unit];
  };
  return [along(0, steps), along(1, t)];
}

/** Corners of what t spikes can make of each a at best: [[a, φ], ...] in units of θ. */
function stairsOf(layer, t, right) {
  const stairs = [];
  for (let count = Math.max(0, Math.floor(layer.start)); count <= t; count += 1) {
    const a = Math.max(0, (count - layer.start) / t);
    if (a > right) break;
    if (stairs.length) stairs.push([a, stairs.at(-1)[1]]);
    stairs.push([a, count / t]);
  }
  stairs.push([layer.levels ? 1 : right, stairs.at(-1)[1]]);
  return stairs;
}

function drawPhi({ layer, row, t, name, all }) {
  if (!row) return whyNothing(layer);
  if (!row.phi) return "The recording keeps no histogram at this t.";
  const { steps, block, cells } = row.phi;
  const drawn = all.filter((one) => one.row?.phi);
  const [, most] = extent(drawn.flatMap((one) => one.row.phi.cells.map((cell) => cell[2])), 10); // prettier-ignore
  const reach = drawn.map(reachOf);
  const [left, right] = extent(reach.flatMap(([a]) => a), 0); // prettier-ignore
  const [low, high] = extent(reach.flatMap(([, phi]) => phi), 0); // prettier-ignore
  const upTo = (first, unit) => (block > 1 ? ` to ${short((first + block - 1) / unit)}` : "");
  const several = block > 1 ? `, first of ${block}` : "";
  const on = chart({
    label: `How often each a and φ(t) occur together, at t = ${t}; ${percent(share(row, "equal"))} of the neurons have φ = a.`,
    height: 300,
    x: {
      low: left,
      high: right,
      label: layer.levels ? "activation a / θ" : "activation a / θ, to the nearest spike",
    },
    y: { low, high, label: "SNN output φ(t) / θ" },
  });
  for (const [column, count, number] of cells) {
    on.add(
      bar(
        on,
        (column - 0.5) / steps,
        (column + block - 0.5) / steps,
        (count - 0.5) / t,
        (count + block - 0.5) / t,
        rgb(VIRIDIS, Math.log(number) / Math.log(most)),
        `a = ${short(column / steps)} θ${upTo(column, steps)}, n = ${count}${upTo(count, 1)}: ${short(number)} neurons`,
      ),
    );
  }
  on.add(
    line(
      on,
      [
        [0, 0],
        [1, 1],
      ],
      { class: "ink", "stroke-dasharray": "4 3", "stroke-width": 1 },
    ),
    // Where no exact conversion is known, there is none to draw.
    ...(layer.reason ? [] : [line(on, stairsOf(layer, t, right), { stroke: COLOURS.negative, "stroke-width": 1.5 })]),
  );
  const numbers = table(
    `a and n of layer ${layer.index} at t = ${t}`,
    [`a / θ${several}`, `n${several}`, "neurons"],
    cells.map(([column, count, number]) => [column / steps, count, number]),
  );
  return [
    on.node,
    legend([["φ = a (dashed)", "currentColor"], ...(layer.reason ? [] : [["exact conversion", COLOURS.negative]])]),
    colourbar(VIRIDIS, 1, most, "neurons, logarithmic"),
    folded(numbers, `${name}-phi`),
  ];
}

function drawOffsets({ layer, row, t, name, all }) {
  if (!row) return whyNothing(layer);
  const keysOf = (one) => Object.keys(one.offset_spikes).map(Number);
  const keys = keysOf(row).sort((a, b) => a - b);
  const shares = keys.map((key) => row.offset_spikes[key] / row.count);
  const [low, high] = extent(rowsOf(all).flatMap(keysOf), -1, 1);
  const [, tallest] = extent(rowsOf(all).flatMap((one) => Object.values(one.offset_spikes).map((n) => n / one.count)), 0); // prettier-ignore
  const on = chart({
    label: `Offset spikes at t = ${t}: ` + keys.map((key, i) => `${key}: ${percent(shares[i])}`).join(", "),
    x: {
      low: low - 0.6,
      high: high + 0.6,
      label: "offset spikes ψ = n − t·a/θ, away from 0",
      ticks: ticks(low, high, 8).filter(Number.isInteger),
    },
    y: { low: 0, high: tallest, label: "share of neurons", format: (value) => percent(value, 0) },
  });
  keys.forEach((key, i) =>
    on.add(
      bar(
        on,
        key - 0.4,
        key + 0.4,
        0,
        shares[i],
        key > 0 ? COLOURS.over : key < 0 ? COLOURS.under : COLOURS.equal,
        `${key}: ${percent(shares[i], 2)}`,
      ),
    ),
  );
  const numbers = table(
    `Offset spikes of layer ${layer.index} at t = ${t}`,
    ["offset", "neurons", "share"],
    keys.map((key, i) => [key, row.offset_spikes[key], fourDecimals(shares[i])]),
  );
  return [on.node, folded(numbers, `${name}-offsets`)];
}

function drawResidual({ layer, row, t, name, all }) {
  if (!row) return whyNothing(layer);
  if (!row.bins) return `No residual potential: ${row.reason ?? "it is not kept"}.`;
  const width = 1 / WORDS.bins_per_threshold;
  const lefts = [WORDS.edges[0] - width, ...WORDS.edges];
  const number = Math.max(1, sum(row.bins));
  const beside = rowsOf(all).filter((one) => one.bins);
  const occupied = lefts.filter((_, i) => beside.some((one) => one.bins[i]));
  const [low, high] = extent([...occupied, ...occupied.map((left) => left + width)], -0.5, 1.5);
  const tallest = Math.max(...beside.map((one) => Math.max(...one.bins) / Math.max(1, sum(one.bins)))) || 1;
  const thirds = ["below", "inside", "above"];
  const texts = { below: "v < 0", inside: "0 ≤ v < θ", above: "v ≥ θ", silenced: "silenced" };
  const on = chart({
    label:
      `Residual potential at t = ${t}: ` +
      Object.entries(row.residual)
        .map(([key, number]) => `${texts[key]}: ${percent(number / row.count)}`)
        .join(", "),
    x: { low: low - width, high: high + width, label: "residual potential v(t) / θ" },
    y: {
      low: 0,
      high: tallest,
      label: "share of neurons",
      format: (value) => percent(value, 0),
    },
  });
  row.bins.forEach((bin, i) => {
    if (!bin) return;
    const beyond = i === 0 || i === row.bins.length - 1;
    const third = lefts[i] < 0 ? 0 : lefts[i] < 1 ? 1 : 2;
    on.add(
      bar(
        on,
        lefts[i],
        lefts[i] + width,
        0,
        bin / number,
        WORDS.residual[third],
        `${beyond ? "beyond ±4 θ" : `from ${lefts[i]} θ`}: ${percent(bin / number, 2)}`,
        beyond ? { class: "beyond" } : {},
      ),
    );
  });
  for (const edge of [0, 1])
    on.add(
      line(
        on,
        [
          [edge, 0],
          [edge, tallest],
        ],
        { class: "ink", "stroke-dasharray": "4 3", "stroke-width": 1 },
      ),
    );
  const shown = Object.entries(row.residual).map(([key, n]) => [texts[key], n, fourDecimals(n / row.count)]);
  const numbers = table(`Residual potential of layer ${layer.index} at t = ${t}`, ["v(t)", "neurons", "share"], shown);
  return [
    on.node,
    legend(thirds.map((key, i) => [texts[key], WORDS.residual[i]])),
    folded(numbers, `${name}-residual`),
  ];
}

function drawRates({ recording, layer, t, name, all }) {
  const { at, rows, columns, block, low, high, samples, values } = layer.rates;
  const known = all.map((one) => one.layer).filter(Boolean);
  const [least, most] = extent(known.flatMap(({ rates }) => [rates.low, rates.high]), 0); // prettier-ignore
  const flatOf = (row, column) => row * block[0] * layer.rates.width + column * block[1];
  const place = at.indexOf(t);
  const chosen = place < 0 ? at.length - 1 : place;
  const bytes = decoded(values, Uint8Array).subarray(chosen * rows * columns, (chosen + 1) * rows * columns);
  const averaged = block[0] > 1 || block[1] > 1 ? `, ${block[0]} × ${block[1]} neurons a cell` : "";
  const rate = (row, column) => low + ((high - low) * bytes[row * columns + column]) / 255;
  const map = heat({
    label: `Firing rate of layer ${layer.index} at t = ${at[chosen]}, from ${short(low)} to ${short(high)} spikes per timestep; rows are ${layer.shape.length > 1 ? "channels, columns places in them" : "neurons in their order"}.`,
    rows,
    columns,
    tall: true,
    // A vector may leave its last row unfilled.
    value: (row, column) => (flatOf(row, column) < layer.neurons ? rate(row, column) : NaN),
    paint: (value) => colour(VIRIDIS, (value - least) / (most - least || 1)),
    told: (row, column, value) =>
      `${averaged ? "from " : ""}neuron ${placeOf(flatOf(row, column), layer.shape)}${averaged ? " on" : ""}: ${value.toFixed(3)}`,
  });
  const [slowest, fastest] = extent(known.flatMap((one) => one.rate), 0, 1e-6); // prettier-ignore
  const over = chart({
    label: `Firing rate of layer ${layer.index} over t: ${percent(layer.rate[0])} at t = 1, ${percent(layer.rate.at(-1))} at T.`,
    height: 150,
    x: timesteps(recording.timesteps),
    y: {
      low: slowest,
      high: fastest,
      label: "rate",
      ticks: ticks(slowest, fastest, 3),
    },
  });
  over.add(cursor(over, t), series(over, layer.rate, COLOURS.snn));
  const still = place < 0 ? ` Below T it is not kept: record spikes.` : "";
  const numbers = table(
    `Firing rate of layer ${layer.index}`,
    ["t", "spikes per neuron"],
    layer.rate.map((value, i) => [i + 1, value]),
  );
  return [
    map,
    colourbar(VIRIDIS, least, most, `n(t)/t at t = ${at[chosen]}, mean of ${samples} samples${averaged}.${still}`),
    over.node,
    folded(numbers, `${name}-rates`),
  ];
}

function drawFigures({ layer, row, t, name }) {
  if (!row) return whyNothing(layer);
  const texts = {
    bias: "bias (θ)",
    rmse: "RMSE (θ)",
    relative_l2: "relative L2",
    sqnr_db: "SQNR (dB)",
    cosine: "cosine",
    pearson: "Pearson",
  };
  const within = (key, end) => row.figures.interval?.[key]?.[end] ?? null;
  const numbers = table(
    `φ against a in layer ${layer.index} at t = ${t}`,
    ["figure", "value", "95% from", "to"],
    Object.entries(texts).map(([key, text]) => [text, row.figures[key], within(key, "low"), within(key, "high")]),
  );
  const largest = row.largest_error;
  const told = [];
  if (largest)
    told.push(
      `Largest error: ${short(largest.error)} θ, sample ${largest.sample}, neuron ${largest.neuron.join(",")}.`,
    );
  if (row.oracle.applies)
    told.push(
      row.oracle.broken
        ? `ORACLE BROKEN: fed the same input at every t, yet ${short(row.oracle.violations)} neurons err.`
        : `The oracle holds: fed the same input at every t, no neuron errs (${row.oracle.ties} ties).`,
    );
  if (row.law.broken) told.push("CONSERVATION LAW BROKEN: these are no soft-reset neurons with this θ and v(0).");
  return [withButtons(numbers, `${name}-figures`), told.map((text) => html("p", {}, text))];
}
