// The way of new connections: a dot for each, on a canvas behind the boxes.

const TRAVEL = 1000; // ms from the client to the version
const SPREAD = 400; // ms over which the dots of one event begin, at most
const MOST = 900;
const still = matchMedia("(prefers-reduced-motion: reduce)");

export function makePath(root) {
  const canvas = root.querySelector("canvas");
  const pen = canvas.getContext("2d");
  const node = (id) => document.getElementById(id);
  const nodes = { client: node("n-client"), envoy: node("n-envoy"), 1: node("n-v1"), 2: node("n-v2") };
  let dots = [];
  let colours = {};
  let places = {};
  let frame = 0;

  function measure() {
    const box = root.getBoundingClientRect();
    const scale = Math.min(2, devicePixelRatio || 1);
    canvas.width = Math.round(box.width * scale);
    canvas.height = Math.round(box.height * scale);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    colours = { 1: colour("--one"), 2: colour("--two"), x: colour("--bad"), "?": colour("--dim"), line: colour("--line") };
    const edge = (one, right) => {
      const at = one.getBoundingClientRect();
      return { x: (right ? at.right : at.left) - box.left, y: at.top + at.height / 2 - box.top };
    };
    places = {
      from: edge(nodes.client, true), in: edge(nodes.envoy, false), out: edge(nodes.envoy, true),
      1: edge(nodes[1], false), 2: edge(nodes[2], false), width: box.width, height: box.height,
    };
    draw(performance.now());
  }

  const mix = (a, b, part) => a + (b - a) * part;

  function curve(part, to) { // from Envoy to a version
    const ease = part * part * (3 - 2 * part);
    return { x: mix(places.out.x, to.x, part), y: mix(places.out.y, to.y, ease) };
  }

  function at(dot, now) {
    const part = (now - dot.start) / TRAVEL;
    if (part < 0.45) return { x: mix(places.from.x, places.in.x, part / 0.45), y: places.from.y, part };
    if (part < 0.55) return null; // inside Envoy
    if (dot.kind === "x" || dot.kind === "?") return { x: places.out.x + 10, y: places.out.y, part };
    return { ...curve((part - 0.55) / 0.45, places[dot.kind]), part };
  }

  function draw(now) {
    pen.clearRect(0, 0, places.width, places.height);
    pen.strokeStyle = colours.line;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(places.from.x, places.from.y);
    pen.lineTo(places.in.x, places.in.y);
    for (const version of [1, 2]) {
      pen.moveTo(places.out.x, places.out.y);
      for (let step = 1; step <= 16; step++) {
        const point = curve(step / 16, places[version]);
        pen.lineTo(point.x, point.y);
      }
    }
    pen.stroke();
    dots = dots.filter((dot) => now - dot.start < TRAVEL);
    for (const kind of ["1", "2", "x", "?"]) {
      pen.beginPath();
      for (const dot of dots) {
        if (dot.kind !== kind || dot.start > now) continue;
        const point = at(dot, now);
        if (!point) continue;
        const { x, y } = point;
        if (kind === "2") pen.rect(x - 4, y - 4, 8, 8);
        else if (kind === "1") { pen.moveTo(x + 4.5, y); pen.arc(x, y, 4.5, 0, 7); }
        else { pen.moveTo(x - 5, y - 5); pen.lineTo(x + 5, y + 5); pen.moveTo(x - 5, y + 5); pen.lineTo(x + 5, y - 5); }
      }
      if (kind === "1" || kind === "2") { pen.fillStyle = colours[kind]; pen.fill(); }
      else { pen.strokeStyle = colours[kind]; pen.lineWidth = 2.5; pen.stroke(); }
    }
  }

  function tick(now) {
    draw(now);
    frame = dots.length && !still.matches ? requestAnimationFrame(tick) : 0;
  }

  new ResizeObserver(measure).observe(root);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", measure);
  return {
    add(kinds, since) { // ms since the last ones
      if (still.matches || document.hidden) return;
      const now = performance.now();
      for (let i = 0; i < kinds.length && dots.length < MOST; i++) {
        dots.push({ kind: kinds[i], start: now + (Math.min(SPREAD, since) * i) / kinds.length });
      }
      if (!frame && dots.length) frame = requestAnimationFrame(tick);
    },
    clear() {
      dots = [];
    },
  };
}
