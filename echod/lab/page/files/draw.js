// Bars and lines in SVG, made of numbers alone.

import { percent, t } from "./text.js";

const NS = "http://www.w3.org/2000/svg";
const SPAN = 300; // seconds
const WINDOW = 5; // seconds that a share in the chart is taken over

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function makeBar() {
  const band = svg("rect", { class: "band", y: 3, height: 16, rx: 2 });
  const seen = svg("line", { class: "seen", y1: 1, y2: 21 });
  const expected = svg("line", { class: "expected", y1: 0, y2: 22 });
  const root = svg("svg", { "aria-hidden": "true" },
    svg("rect", { class: "track", x: 0, y: 3, width: "100%", height: 16, rx: 2 }), band, expected, seen);
  const put = (line, share) => ["x1", "x2"].forEach((end) => line.setAttribute(end, `${100 * share}%`));
  return {
    root,
    show(row) {
      band.setAttribute("x", `${100 * row.low}%`);
      band.setAttribute("width", `${Math.max(0.3, 100 * (row.high - row.low))}%`);
      put(seen, row.share);
      put(expected, row.expected ?? 0);
      seen.setAttribute("visibility", row.seen || row.total ? "visible" : "hidden");
    },
  };
}

// A point: second, answers of v1, v2, failures, others, weights of v1, v2.
function shares(points) {
  return points.map((point, i) => {
    let one = 0;
    let two = 0;
    for (let j = i; j >= 0 && points[j][0] > point[0] - WINDOW; j--) {
      if (points[j][5] !== point[5] || points[j][6] !== point[6]) break; // not beyond a shift
      one += points[j][1];
      two += points[j][2];
    }
    const weights = point[5] + point[6] || 1;
    return {
      second: point[0], failed: point[3] + point[4],
      one: one + two ? one / (one + two) : null,
      want: point[5] + point[6] ? point[5] / weights : null,
    };
  });
}

export function makeChart(root) {
  const picture = svg("svg", { role: "img" });
  root.append(picture);
  let points = [];
  let said = 0;

  function line(found, x, y, value) {
    let path = "";
    let open = false;
    for (const point of found) {
      const share = value(point);
      if (share === null) { open = false; continue; }
      path += `${open ? "L" : "M"}${x(point.second).toFixed(1)} ${y(share).toFixed(1)}`;
      open = true;
    }
    return path;
  }

  function steps(found, x, y, value) {
    let path = "";
    let before = null;
    for (const point of found) {
      const share = value(point);
      if (share === null) { before = null; continue; }
      path += before === null ? `M${x(point.second - 1).toFixed(1)} ${y(share).toFixed(1)}` : `V${y(share).toFixed(1)}`;
      path += `H${x(point.second).toFixed(1)}`;
      before = share;
    }
    return path;
  }

  function draw() {
    const width = root.clientWidth;
    if (!width) return;
    const [left, right, top, bottom] = [44, width - 8, 10, 176];
    const now = points.length ? points[points.length - 1][0] : 0;
    const x = (second) => right - ((now - second) / SPAN) * (right - left);
    const y = (share) => bottom - share * (bottom - top);
    const found = shares(points);
    const made = [];
    for (const share of [0, 0.5, 1]) {
      made.push(svg("line", { class: "grid", x1: left, x2: right, y1: y(share), y2: y(share) }));
      made.push(svg("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, percent(share, 0)));
    }
    for (let minute = 0; minute <= 5; minute += width < 500 ? 5 : 1) {
      const word = minute ? `−${t.minutes(minute)}` : t.now;
      const anchor = minute === 0 ? "end" : minute === 5 ? "start" : "middle";
      made.push(svg("text", { x: x(now - 60 * minute), y: 194, "text-anchor": anchor }, word));
    }
    const rest = (value) => (value === null ? null : 1 - value);
    made.push(svg("path", { class: "weight two", d: steps(found, x, y, (p) => rest(p.want)) }));
    made.push(svg("path", { class: "weight one", d: steps(found, x, y, (p) => p.want) }));
    made.push(svg("path", { class: "share two", d: line(found, x, y, (p) => rest(p.one)) }));
    made.push(svg("path", { class: "share one", d: line(found, x, y, (p) => p.one) }));
    const fails = found.filter((p) => p.failed).map((p) => `M${x(p.second).toFixed(1)} ${bottom}v${-Math.min(30, 4 + p.failed)}`);
    made.push(svg("path", { class: "fails", d: fails.join("") }));
    picture.setAttribute("viewBox", `0 0 ${width} 200`);
    picture.replaceChildren(...made);
    const last = found[found.length - 1];
    if (last && now - said >= 5) {
      said = now;
      const failed = found.reduce((sum, p) => sum + p.failed, 0);
      const shown = (value) => (value === null ? "–" : percent(value, 0));
      picture.setAttribute("aria-label", t.chart(shown(last.one), shown(rest(last.one)), shown(last.want), shown(rest(last.want)), failed));
    }
  }

  picture.setAttribute("aria-label", t.time);
  new ResizeObserver(draw).observe(root);
  return {
    take(series, whole) {
      if (!whole && !series.length) return;
      points = whole ? series : [...points, ...series];
      const now = points.length ? points[points.length - 1][0] : 0;
      points = points.filter((point) => point[0] > now - SPAN);
      draw();
    },
    last: () => points[points.length - 1],
  };
}
