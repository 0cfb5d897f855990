"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { columns, texts, labels, epochs } = data;
  const total = texts.length;
  const courses = Uint8Array.from(atob(data.courses), (character) => character.charCodeAt(0));
  const byId = (id) => document.getElementById(id);
  const PAGE = 50;
  const SVG = "http://www.w3.org/2000/svg";
  const marked = new Set();
  let shown = [];
  let selected = null;
  let start = 0;

  // Cartography's regions: thirds by variability and confidence.
  const sorted = (values) => Float64Array.from(values).sort();
  const upperThird = (values) => sorted(values)[Math.floor((2 * values.length) / 3)];
  const variable = upperThird(columns.variability);
  const middle = sorted(columns.confidence)[Math.floor(columns.confidence.length / 2)];
  const regionOf = (row) =>
    columns.variability[row] > variable ? "ambiguous" : columns.confidence[row] >= middle ? "easy" : "hard";

  const lowered = texts.map((text) => text.toLowerCase());

  function matches(row) {
    const region = byId("region").value;
    const given = byId("given").value;
    const words = byId("search").value.toLowerCase();
    if (region === "disagree" ? columns.given[row] === columns.believed[row] : region && regionOf(row) !== region) return false;
    if (given !== "" && columns.given[row] !== Number(given)) return false;
    return !words || lowered[row].includes(words);
  }

  function element(name, content, className) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (content !== undefined) made.textContent = content;
    return made;
  }

  function sparkline(row) {
    const width = 110, height = 22;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "course");
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    const x = (epoch) => (epochs > 1 ? (epoch * (width - 2)) / (epochs - 1) + 1 : width / 2);
    const [first, last] = data.window;
    const band = document.createElementNS(SVG, "rect");
    band.setAttribute("x", x(first - 1) - 1);
    band.setAttribute("width", Math.max(2, x(last - 1) - x(first - 1) + 2));
    band.setAttribute("height", height);
    band.setAttribute("fill", "#9994");
    svg.append(band);
    // The line of what was said in `source(epoch)`, drawn at each epoch from `begin` on.
    const draw = (name, colour, begin, source) => {
      const points = [];
      for (let epoch = begin; epoch < epochs; epoch += 1) {
        const step = courses[row * epochs + source(epoch)];
        if (step) points.push(`${x(epoch).toFixed(1)},${(height - 1 - ((step - 1) / 254) * (height - 2)).toFixed(1)}`);
      }
      const line = document.createElementNS(SVG, "polyline");
      line.setAttribute("class", name);
      line.setAttribute("points", points.join(" "));
      line.setAttribute("fill", "none");
      line.setAttribute("stroke", colour);
      line.setAttribute("stroke-width", name === "own" ? "1.5" : "1");
      svg.append(line);
    };
    const title = document.createElementNS(SVG, "title");
    title.textContent = "probability of the given label over the epochs (blue)";
    const length = data.mini_generation_epochs;
    if (length) {
      draw("long", "#dc2626", length, (epoch) => Math.floor(epoch / length) * length - 1);
      draw("short", "#16a34a", length, (epoch) => epoch - 1);
      title.textContent += ", and what the short-term (green) and the long-term teacher (red) said";
    }
    draw("own", "#2563eb", 0, (epoch) => epoch);
    svg.append(title);
    return svg;
  }

  function drawTable() {
    const body = byId("rows");
    body.replaceChildren();
    for (const row of shown.slice(start, start + PAGE)) {
      const line = element("tr", undefined, columns.given[row] === columns.believed[row] ? "" : "disagrees");
      const box = element("input");
      box.type = "checkbox";
      box.checked = marked.has(row);
      box.setAttribute("aria-label", `mark row ${columns.index[row]}`);
      box.addEventListener("change", () => {
        if (box.checked) marked.add(row); else marked.delete(row);
        byId("export").textContent = `Export marked rows (${marked.size})`;
      });
      const cell = element("td");
      cell.append(box);
      const course = element("td");
      course.append(sparkline(row));
      const text = element("td", undefined, "text");
      text.append(element("div", texts[row]));
      line.append(
        cell,
        element("td", columns.index[row]),
        element("td", columns.suspicion[row].toFixed(3)),
        element("td", labels[columns.given[row]]),
        element("td", labels[columns.believed[row]], "believed"),
        course,
        text,
      );
      body.append(line);
    }
    byId("place").textContent = shown.length ? `${start + 1}–${Math.min(start + PAGE, shown.length)} of ${shown.length}` : "none";
    byId("count").textContent = `${shown.length.toLocaleString("en")} of ${total.toLocaleString("en")} examples`;
  }

  const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;

  function exportMarked() {
    const lines = ["index,given,believed,suspicion,text"];
    for (const row of [...marked].sort((a, b) => columns.suspicion[b] - columns.suspicion[a])) {
      lines.push([columns.index[row], quoted(labels[columns.given[row]]), quoted(labels[columns.believed[row]]),
        columns.suspicion[row], quoted(texts[row])].join(","));
    }
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = "suspects.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  // Hover texts are built when they are looked at: plotly reads tags in them.
  const escaped = (text) => text.slice(0, 300).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const layout = {
    margin: { l: 50, r: 10, t: 10, b: 40 }, font: { family: "system-ui, sans-serif", size: 12 }, hovermode: "closest",
  };
  const config = { responsive: true, displayModeBar: false };
  const withTools = {
    responsive: true, displaylogo: false, modeBarButtons: [["select2d", "lasso2d", "zoom2d", "pan2d", "resetScale2d"]],
  };

  function mapTrace() {
    return {
      type: "scattergl", mode: "markers", name: "",
      x: shown.map((row) => columns.variability[row]),
      y: shown.map((row) => columns.confidence[row]),
      customdata: shown,
      text: shown.map((row) => `row ${columns.index[row]}: given ${escaped(labels[columns.given[row]])}, believed ` +
        `${escaped(labels[columns.believed[row]])}<br>${escaped(texts[row].slice(0, 120))}`),
      hovertemplate: "%{text}<extra></extra>",
      marker: {
        size: total > 10000 ? 3 : 5, color: shown.map((row) => columns.correctness[row] / columns.epochs_seen[row]),
        colorscale: "RdBu", reversescale: true, cmin: 0, cmax: 1, opacity: 0.7,
        colorbar: { title: { text: "share of epochs with the given label as answer", side: "right" }, thickness: 10 },
      },
    };
  }

  function update(keepMap) {
    shown = [];
    for (let row = 0; row < total; row += 1) if ((!selected || selected.has(row)) && matches(row)) shown.push(row);
    start = 0;
    drawTable();
    if (!keepMap) {
      const axes = { xaxis: { title: { text: "variability" } }, yaxis: { title: { text: "confidence" }, range: [-0.02, 1.02] } };
      Plotly.react("map", [mapTrace()], { ...layout, ...axes, dragmode: "select", uirevision: "map" }, withTools);
    }
  }

  function drawOthers() {
    const x = Array.from({ length: epochs }, (_, epoch) => epoch + 1);
    const curves = Object.entries(data.curves).map(([name, y]) => ({ name, x, y, mode: "lines" }));
    const [first, last] = data.window;
    Plotly.newPlot("curves", curves, {
      ...layout, xaxis: { title: { text: "epoch" } }, yaxis: { range: [0, 1] }, legend: { orientation: "h", y: 1.15 },
      shapes: [{ type: "rect", x0: first - 0.5, x1: last + 0.5, y0: 0, y1: 1, fillcolor: "#9994", line: { width: 0 } }],
    }, config);
    Plotly.newPlot("reliability", [
      { x: [0, 1], y: [0, 1], mode: "lines", line: { dash: "dot", color: "gray" }, hoverinfo: "skip" },
      { x: data.reliability.map((bin) => bin[0]), y: data.reliability.map((bin) => bin[1]), mode: "lines+markers",
        text: data.reliability.map((bin) => `${bin[2]} examples`) },
    ], { ...layout, showlegend: false, xaxis: { title: { text: "mean probability of the answer" }, range: [0, 1] },
      yaxis: { title: { text: "answer = given label" }, range: [0, 1] } }, config);
    const names = labels.map((label) => escaped(label));
    Plotly.newPlot("confusion", [{ type: "heatmap", z: data.confusion, x: names, y: names, texttemplate: "%{z}",
      colorscale: "Blues", reversescale: true, showscale: false }],
    { ...layout, margin: { ...layout.margin, l: 110 }, xaxis: { title: { text: "believed" }, type: "category" },
      yaxis: { title: { text: "given" }, type: "category", autorange: "reversed" } }, config);
  }

  const disagreeing = columns.given.filter((label, row) => label !== columns.believed[row]).length;
  const [first, last] = data.window;
  const windowName = first === last ? `epoch ${first}` : `epochs ${first} to ${last}`;
  byId("sample").textContent = data.out_of_sample ? "Out of sample: by models that did not train on these examples."
    : "In-sample, so too good to be true: the model trained on these examples.";
  byId("summary").textContent = `${total.toLocaleString("en")} examples, ${data.out_of_sample ? "cross-validated" : `${epochs} epochs`}, ${labels.length} labels. ` +
    `For ${disagreeing.toLocaleString("en")} examples ${data.out_of_sample ? "a model that did not train on them" : windowName} believed another label than the given one.`;
  labels.forEach((label, number) => {
    const option = element("option", label);
    option.value = number;
    byId("given").append(option);
  });
  for (const id of ["region", "given"]) byId(id).addEventListener("change", () => update(false));
  let waiting = 0;
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => update(false), 150);
  });
  byId("clear").addEventListener("click", () => { selected = null; update(false); });
  byId("previous").addEventListener("click", () => { start = Math.max(0, start - PAGE); drawTable(); });
  byId("next").addEventListener("click", () => { if (start + PAGE < shown.length) start += PAGE; drawTable(); });
  byId("export").addEventListener("click", exportMarked);

  update(true);
  // The table is there at once; the drawings follow.
  requestAnimationFrame(() => setTimeout(() => {
    update(false);
    byId("map").on("plotly_selected", (event) => {
      if (!event) return;
      selected = new Set(event.points.map((point) => point.customdata));
      update(true);
    });
    drawOthers();
    document.body.dataset.ready = "yes";
  }));
})();
