// Keeps a page live and draws its charts. Data comes from the server; text is only ever set as text.
"use strict";

const REFRESH_MS = 1000;
const plots = new Map(); // chart key -> {plot, names}

// Live parts: every element with [data-live] hears `refresh` at most once a second, and once more after the last event.
function follow(url) {
  const source = new EventSource(url);
  let due = null;
  const refresh = () => {
    due = null;
    document.querySelectorAll("[data-live]").forEach((part) => htmx.trigger(part, "refresh"));
  };
  const hear = () => { due ??= setTimeout(refresh, REFRESH_MS); };
  source.addEventListener("status", hear);
  source.addEventListener("training", hear);
  source.addEventListener("end", () => { source.close(); hear(); });
  addEventListener("pagehide", () => source.close());
}

function style(name) { // the colour that a custom property stands for in the scheme of the moment
  const probe = document.body.appendChild(document.createElement("span"));
  probe.style.color = `var(${name})`;
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}
const veil = (colour, alpha) => colour.replace("rgb(", "rgba(").replace(")", `, ${alpha})`);
const shown = (chart, value) =>
  value == null ? "" : chart.percent ? `${(100 * value).toFixed(1)} %` : Number(value.toPrecision(4)).toString();
const place = (chart, position) =>
  chart.ticks ? chart.ticks[position] : chart.time ? new Date(1000 * chart.x[position]).toLocaleTimeString() : chart.x[position];

function figureOf(chart, gallery) {
  let figure = gallery.querySelector(`figure[data-key="${CSS.escape(chart.key)}"]`);
  if (figure) return figure;
  gallery.querySelector(":scope > p")?.remove();
  figure = document.getElementById("figure").content.firstElementChild.cloneNode(true);
  figure.dataset.key = chart.key;
  figure.querySelector("figcaption").textContent = chart.title;
  figure.querySelector("details").addEventListener("toggle", () => tabulate(figure));
  figure.querySelector("[data-save=csv]").addEventListener("click", () => save(csv(figure.chart), "text/csv", `${chart.key}.csv`));
  figure.querySelector("[data-save=png]").addEventListener("click", () =>
    figure.querySelector("canvas").toBlob((image) => save(image, "image/png", `${chart.key}.png`)));
  gallery.append(figure);
  return figure;
}

function draw(chart, gallery) {
  const figure = figureOf(chart, gallery);
  figure.chart = chart;
  const names = chart.series.map((series) => series.label).join("\n");
  const columns = [chart.x];
  for (const series of chart.series) {
    columns.push(series.values);
    if (series.low) columns.push(series.low, series.high);
  }
  const last = chart.series.map((series) => `${series.label} ${shown(chart, series.values.findLast((value) => value != null))}`);
  figure.querySelector(".canvas").setAttribute("aria-label", `${chart.title}. Last values: ${last.join(", ")}.`);
  const held = plots.get(figure);
  if (held && held.names === names) held.plot.setData(columns);
  else {
    held?.plot.destroy();
    const box = figure.querySelector(".canvas");
    plots.set(figure, { names, plot: new uPlot(options(chart, figure, box.clientWidth), columns, box) });
  }
  label(figure, null);
  tabulate(figure);
}

// The legend names every series with its value under the pointer, else its last one.
function label(figure, position) {
  const chart = figure.chart, legend = figure.querySelector(".legend");
  const entries = chart.series.map((series) => [series.label, position == null
    ? (chart.kind === "bars" ? null : series.values.findLast((value) => value != null)) : series.values[position]]);
  if (position != null) entries.push([chart.x_label, null, place(chart, position)]);
  while (legend.children.length > entries.length) legend.lastChild.remove();
  entries.forEach(([name, value, said], number) => {
    let item = legend.children[number];
    if (!item) {
      item = legend.appendChild(document.createElement("li"));
      item.append(swatch(number), document.createElement("span"), " ", document.createElement("strong"));
    }
    item.querySelector("svg").style.display = said === undefined ? "" : "none";
    item.querySelector("span").textContent = name;
    item.querySelector("strong").textContent = said ?? shown(chart, value);
  });
}

function swatch(number) {
  const dot = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const circle = dot.appendChild(document.createElementNS(dot.namespaceURI, "circle"));
  dot.setAttribute("viewBox", "0 0 10 10");
  dot.setAttribute("aria-hidden", "true");
  for (const [name, value] of Object.entries({ cx: 5, cy: 5, r: 5, fill: style(`--series-${(number % 6) + 1}`) })) circle.setAttribute(name, value);
  return dot;
}

function clock(value, chart) { // as exact as the chart's span asks for
  const span = chart.x.at(-1) - chart.x[0], time = new Date(1000 * value);
  const hour = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (span > 86_400) return time.toLocaleString([], { month: "short", day: "numeric", ...hour });
  return time.toLocaleTimeString([], span < 300 ? { ...hour, second: "2-digit" } : hour);
}

function sideBySide(chart, number) {
  const wide = 0.8 / chart.series.length;
  return uPlot.paths.bars({ disp: {
    x0: { unit: 1, values: () => chart.x.map((x) => x - 0.4 + number * wide) },
    size: { unit: 1, values: () => [wide] },
  } });
}

function options(chart, figure, width) {
  const palette = [1, 2, 3, 4, 5, 6].map((number) => style(`--series-${number}`));
  const axis = { stroke: style("--ink-2"), font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", grid: { stroke: style("--line"), width: 1 }, ticks: { show: false } };
  const series = [{}], bands = [];
  chart.series.forEach((each, number) => {
    const stroke = palette[number % palette.length];
    const bars = chart.kind === "bars"
      ? { paths: sideBySide(chart, number), width: 0, fill: veil(stroke, 0.75), points: { show: false } } : {};
    series.push({ stroke, width: 2, points: { show: chart.x.length < 20, size: 6, fill: stroke }, ...bars });
    if (each.low) {
      for (let bound = 0; bound < 2; bound++) series.push({ stroke: "transparent", points: { show: false } });
      bands.push({ series: [series.length - 1, series.length - 2], fill: veil(stroke, 0.15) });
    }
  });
  const room = Math.ceil(chart.x.length / Math.max(1, Math.floor(width / 56))); // so many categories share one label
  const whole = (_, splits) => splits.map((value) => (Number.isInteger(value) ? (chart.ticks ? (value % room ? "" : chart.ticks[value] ?? "") : value) : ""));
  return {
    width, height: 220, series, bands, legend: { show: false }, cursor: { y: false, points: { size: 7 } },
    hooks: { setCursor: [(plot) => label(figure, plot.cursor.idx)] },
    scales: { x: { time: chart.time, range: chart.kind === "bars" ? [-0.6, chart.x.length - 0.4] : undefined },
              y: { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? (chart.percent ? Math.min(1, high * 1.1) : high * 1.1) : 1] } },
    axes: [{ ...axis, size: 28, ...(chart.time ? { space: 90, values: (_, splits) => splits.map((value) => clock(value, chart)) } : { label: chart.x_label, labelSize: 18, values: whole, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }) },
           { ...axis, size: 60, values: (_, splits) => splits.map((value) => (chart.percent ? `${Math.round(100 * value)} %` : shown(chart, value))) }],
  };
}

function tabulate(figure) {
  const details = figure.querySelector("details"), chart = figure.chart;
  if (!details.open || !chart) return;
  const table = details.querySelector("table");
  table.replaceChildren();
  const row = (cells, tag) => {
    const line = table.insertRow();
    cells.forEach((text) => { const cell = document.createElement(tag); cell.textContent = text; line.append(cell); });
  };
  row([chart.x_label, ...chart.series.map((series) => series.label)], "th");
  chart.x.forEach((_, position) => row([place(chart, position), ...chart.series.map((series) => shown(chart, series.values[position]))], "td"));
}

function csv(chart) {
  const quote = (cell) => `"${String(cell ?? "").replaceAll('"', '""')}"`;
  const lines = [[chart.x_label, ...chart.series.map((series) => series.label)]];
  chart.x.forEach((x, position) => lines.push([chart.ticks ? chart.ticks[position] : x, ...chart.series.map((series) => series.values[position])]));
  return lines.map((cells) => cells.map(quote).join(",")).join("\n") + "\n";
}

function save(content, type, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

// A gallery fetches its charts as JSON; a fragment may carry them in a <script type="application/json">.
document.addEventListener("htmx:beforeSwap", (event) => {
  const gallery = event.detail.target;
  if (!gallery.matches("[data-gallery]")) return;
  event.detail.shouldSwap = false;
  if (event.detail.xhr.status === 200) JSON.parse(event.detail.xhr.responseText).forEach((chart) => draw(chart, gallery));
});

document.addEventListener("htmx:afterSwap", (event) => {
  event.detail.target.querySelectorAll("script[data-charts]").forEach((script) => {
    const gallery = document.getElementById(script.dataset.charts);
    JSON.parse(script.textContent).forEach((chart) => draw(chart, gallery));
  });
});

// The tab's title says how far the job is.
function entitle() {
  const told = document.querySelector("[data-title]");
  if (told) document.title = told.dataset.title;
}
document.addEventListener("htmx:afterSwap", entitle);
entitle();

// What the API says of a refused request is shown as it says it.
document.addEventListener("htmx:afterRequest", (event) => {
  const notice = document.getElementById("notice"), { xhr, successful } = event.detail;
  notice.hidden = successful;
  if (successful) return;
  let problem = {};
  try { problem = JSON.parse(xhr.responseText); } catch { /* not from the API */ }
  notice.textContent = [problem.detail ?? "The service does not answer.", problem.remedy].filter(Boolean).join(" ");
});

function redraw() {
  for (const [figure, { plot }] of plots) {
    plot.destroy();
    plots.delete(figure);
    if (figure.isConnected) draw(figure.chart, figure.parentElement);
  }
}

addEventListener("resize", () => { for (const [figure, { plot }] of plots) plot.setSize({ width: figure.querySelector(".canvas").clientWidth, height: 220 }); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
const followed = document.querySelector("[data-events]");
if (followed) follow(followed.dataset.events);
