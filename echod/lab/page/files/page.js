// The page: one stream of events from the lab in, commands out. All text goes in as text.

import { makeBar, makeChart } from "./draw.js";
import { makePath } from "./path.js";
import { clock, note, number, percent, t, translate } from "./text.js";

const $ = (id) => document.getElementById(id);
const STEPS = ["100/0", "80/20", "50/50", "0/100"];
const RATES = [1, 5, 10, 20, 50, 100, 200, 350, 500];
const RETRY = 3000; // ms
const PREFIXES = { one: "v1", two: "v2" };

translate();
const path = makePath($("path"));
const chart = makeChart($("chart"));

function el(name, properties = {}, ...children) {
  const { dataset, ...rest } = properties;
  const made = Object.assign(document.createElement(name), rest);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

function put(one, text) { // only what has changed, so that screen readers are left alone
  if (one.textContent !== text) one.textContent = text;
}

// Commands.

async function send(command) { // true: done, false: refused, null: no answer
  let [done, text] = [null, t.unanswered];
  put($("answer"), ""); // so that the same answer is read out again
  try {
    const response = await fetch("/command", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ command }),
    });
    const json = response.headers.get("Content-Type") === "application/json";
    text = json ? (await response.json()).answer : await response.text();
    done = response.ok;
  } catch { /* the connection is lost */ }
  if (!done) put($("answer"), text);
  showLast(command, done);
  return done;
}

document.addEventListener("click", (event) => {
  const command = event.target.closest("button[data-command]")?.dataset.command;
  if (!command) return;
  if (/^(shift|drain) /.test(command)) choose(null); // its weights are newer than the slider's
  send(command);
});

for (const step of STEPS) {
  $("steps").append(el("button", { type: "button", textContent: step, dataset: { command: `shift ${step}` } }));
}

const slider = $("slider");
let weights = {}; // as the lab has them
let chosen = null; // on the slider, from the first input until the command is answered
let sliding = 0;

function choose(some) { // null: the slider follows the lab again
  clearTimeout(sliding);
  chosen = some;
  showSlider();
}

slider.addEventListener("input", () => {
  const mine = { v1: Number(slider.value), v2: 100 - slider.value };
  choose(mine);
  sliding = setTimeout(async () => {
    const done = await send(`shift ${mine.v1}/${mine.v2}`);
    if (chosen !== mine) return; // another one since
    if (done) weights = mine;
    choose(null);
  }, 350);
});

let rate = null;
$("traffic").addEventListener("click", () => send(rate ? "traffic off" : `traffic ${$("rate").value}`));
let asked = 0; // chosen rates without an answer
$("rate").addEventListener("change", async () => {
  asked++;
  await send(`traffic ${$("rate").value}`);
  asked--;
});
$("judge").addEventListener("click", () => send("judge"));
for (const one of RATES) $("rate").append(el("option", { value: one, textContent: one }));
$("rate").value = 20;

// What the lab says.

const shareOf = ({ v1, v2 }) => (v1 === undefined ? null : v1 / (v1 + v2));

function showSlider() { // text, value and thumb say the same
  const shown = chosen ?? weights;
  const share = shareOf(shown);
  const text = share === null ? t.unknown : t.weightsNow(number(shown.v1), number(shown.v2));
  put($("weights"), text);
  if (slider.getAttribute("aria-valuetext") !== text) slider.setAttribute("aria-valuetext", text);
  if (share === null) return;
  const value = String(Math.round(100 * share));
  if (slider.value !== value) slider.value = value;
}

function showWeights() {
  const share = shareOf(weights);
  for (const button of $("steps").children) {
    const [v1, v2] = button.textContent.split("/").map(Number);
    button.setAttribute("aria-pressed", String(share === shareOf({ v1, v2 })));
  }
  put($("t-envoy"), share === null ? "" : `${weights.v1} : ${weights.v2}`);
  showSlider();
}

function showTraffic(traffic) {
  rate = traffic.rate;
  put($("traffic"), rate ? t.trafficOff : t.trafficOn);
  put($("t-client"), traffic.problem || (rate ? t.newly(rate) : t.off));
  const select = $("rate");
  if (rate && !asked && select.value !== String(rate)) {
    if (![...select.options].some((one) => one.value === String(rate))) {
      select.append(el("option", { value: rate, textContent: rate }));
    }
    select.value = rate;
  }
}

const MARKS = { unsure: "…", holds: "✓", differs: "✗", errors: "✗", inconclusive: "?" };
const bars = new Map();
let spoken = { status: "", at: 0 };

function showVerdict(verdict, problem, now) {
  if (!verdict) {
    put($("headline"), problem);
    return;
  }
  const { status, at, total, failed } = verdict;
  const headline = status === "unsure"
    ? (total ? t.unsure(number(total)) : t.waiting)
    : t[status](number(at));
  $("headline").className = `headline ${status}`;
  put($("headline"), `${MARKS[status]} ${headline}`);
  const lines = [...verdict.lines];
  const list = $("lines");
  while (list.children.length < lines.length + 1) list.append(el("li"));
  while (list.children.length > lines.length + 1) list.lastChild.remove();
  lines.forEach((line, i) => put(list.children[i], line));
  const more = list.lastChild;
  more.lang = document.documentElement.lang;
  put(more, at === null ? "" : t.since(number(total), number(failed)));
  if (status !== spoken.status || (status === "unsure" && now - spoken.at > 15)) {
    spoken = { status, at: now };
    put($("said"), headline);
  }
  showRows(verdict.rows, total);
}

function showRows(rows, total) {
  const names = new Set(rows.map((row) => row.name));
  for (const [name, bar] of bars) {
    if (!names.has(name)) {
      bar.root.remove();
      bars.delete(name);
    }
  }
  for (const row of rows) {
    let bar = bars.get(row.name);
    if (!bar) {
      const version = PREFIXES[row.name];
      const picture = makeBar();
      const name = el("b", { textContent: version ? `${version} (${row.name})` : row.name });
      const text = el("span");
      const root = el("div", { className: `row ${version ? row.name : "other"}` }, el("p", {}, name, text), picture.root);
      bar = { root, text, picture };
      bars.set(row.name, bar);
      $("rows").append(root);
    }
    bar.picture.show({ ...row, total });
    const seen = total ? percent(row.share) : "–";
    put(bar.text, t.row(percent(row.expected ?? 0), seen, percent(row.low), percent(row.high)));
  }
}

let stayed = "";
let stayedAt = 0;
function showStays(stays, now) {
  const list = $("stays");
  while (list.children.length < stays.length) list.append(el("li"));
  const counts = { one: 0, two: 0, cut: 0, other: 0 };
  let cuts = 0;
  stays.forEach((stay, i) => {
    const item = list.children[i];
    const version = PREFIXES[stay.version];
    const kind = stay.version === null ? "cut" : version ? stay.version : "other";
    counts[kind]++;
    cuts += stay.cuts;
    if (item.className !== kind) item.className = kind;
    put(item, { one: "1", two: "2", cut: "×", other: "?" }[kind]);
    const where = version ?? t[kind];
    item.title = t.stay(i + 1, where, stay.age, stay.cuts) + (stay.why ? `: ${stay.why}` : "");
  });
  const text = t.staying(counts.one, counts.two, counts.cut + counts.other, cuts);
  if (text !== stayed && now - stayedAt > 1) { // a drain moves twenty: not a word for each
    [stayed, stayedAt] = [text, now];
    put($("staying"), text);
  }
}

const cards = {};
function card(name) {
  const line = (key) => {
    const value = el("dd");
    return [value, el("dt", { textContent: key }), value];
  };
  const made = {};
  const list = el("dl");
  for (const [key, word] of [["state", t.state], ["ready", "/readyz"], ["counted", t.counted], ["seen", t.seen], ["requests", t.requests]]) {
    const [value, ...both] = line(word);
    made[key] = value;
    list.append(...both);
  }
  const controls = el("div", { className: "controls" });
  for (const verb of ["stop", "kill", "start"]) {
    made[verb] = el("button", { type: "button", textContent: t[verb](name), dataset: { command: `${verb} ${name}` } });
    controls.append(made[verb]);
  }
  made.pid = el("small");
  const title = el("h3", {}, el("i", { className: `shape ${name === "v1" ? "one" : "two"}` }), `${name} `, made.pid);
  $("versions").append(el("div", { className: `version ${name === "v1" ? "one" : "two"}` }, title, list, controls));
  return made;
}

function showVersions(versions, weights) {
  for (const [name, one] of Object.entries(versions)) {
    const shown = (cards[name] ??= card(name));
    put(shown.state, t[one.state]);
    put(shown.pid, one.state === "ended" ? "" : `pid ${one.pid}`);
    shown.state.className = one.state === "running" ? "good" : "bad";
    put(shown.ready, one.ready ? `${one.ready} ${one.text}` : t.silent);
    shown.ready.className = one.ready === 200 ? "good" : "bad";
    const count = (value) => (value === null ? "–" : number(value));
    put(shown.counted, count(one.connections));
    put(shown.seen, number(one.seen));
    put(shown.requests, count(one.requests));
    const ended = one.state === "ended";
    shown.stop.disabled = shown.kill.disabled = $(`drain-${name}`).disabled = ended;
    shown.start.disabled = !ended;
    $(`n-${name}`).classList.toggle("down", one.state !== "running" || one.ready !== 200);
    const total = (weights.v1 ?? 0) + (weights.v2 ?? 0);
    const share = total ? percent(weights[name] / total, 0) : "";
    put($(`t-${name}`), one.state === "running" ? (one.ready === 503 ? `503 ${one.text}` : share) : t[one.state]);
  }
}

// Commands to copy.

function copyable(label, text) {
  const button = el("button", { type: "button", textContent: t.copy, ariaLabel: t.copyOf(label) });
  const code = el("pre", { textContent: text, tabIndex: 0, role: "group", ariaLabel: label });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = t.copied;
      setTimeout(() => { button.textContent = t.copy; }, 1500);
    } catch { // not allowed: at least it is selected
      getSelection().selectAllChildren(code);
    }
  });
  return el("div", { className: "copy" }, el("span", { textContent: label }), code, button);
}

const clusterOf = (fault) => (fault.do.startsWith("drain ") ? t.istio : t.cluster); // a drain shifts

let commands = null;
let commandsText = "";

function showCommands(given) {
  const text = JSON.stringify(given);
  if (text === commandsText) return;
  [commands, commandsText] = [given, text];
  const open = [...$("commands").querySelectorAll("details")].map((one) => one.open);
  const group = (title, ...items) => el("details", { open: open.shift() ?? false }, el("summary", { textContent: title }), ...items);
  const faults = (version) => given.faults.filter((one) => one.do.endsWith(version)).flatMap((one) => [
    copyable(`${t[one.do.split(" ")[0]](version)} · ${t.terminal}`, one.terminal),
    copyable(`${t[one.do.split(" ")[0]](version)} · ${clusterOf(one)}`, one.cluster),
  ]);
  $("commands").replaceChildren(
    group(t.shiftCommands, copyable(t.terminal, given.shift), copyable(t.service, given.virtual_service), copyable(t.route, given.tcp_route)),
    group(t.trafficCommands, copyable(t.probe, given.probe), copyable(t.judge, given.judge), copyable(t.rate, given.traffic)),
    group(t.faultCommands("v1"), ...faults("v1")),
    group(t.faultCommands("v2"), ...faults("v2")),
  );
}

function showLast(command, done) {
  if (!commands) return;
  const label = done ? t.done : done === null ? t.perhaps : t.notDone;
  const suffix = commands.judge.slice("echod lab judge".length);
  const known = commands.faults.find((one) => one.do === command);
  const items = [copyable(`${label} · ${t.terminal}`, `echod lab ${command}${suffix}`)];
  if (known) items.push(copyable(`${label} · ${clusterOf(known)}`, known.cluster));
  $("last").replaceChildren(...items);
}

let noted = "";
function showNotes(notes) {
  const text = JSON.stringify(notes);
  if (text === noted) return;
  noted = text;
  $("notes").replaceChildren(...[...notes].reverse().map(([at, words]) => {
    const { text, lang } = note(words);
    return el("li", {}, el("time", { textContent: clock(at) }), el("span", { textContent: text, ...(lang ? { lang } : {}) }));
  }));
}

let before = 0;
function show(event) {
  weights = event.weights;
  showWeights();
  showTraffic(event.traffic);
  path.add(event.dots, 1000 * (event.time - before));
  before = event.time;
  put($("each"), event.each > 1 ? t.each(event.each) : "");
  showVerdict(event.verdict, event.problem, event.time);
  chart.take(event.series, event.whole);
  const last = chart.last();
  if (last && event.series.length) put($("second"), t.second(number(last[1]), number(last[2]), number(last[3] + last[4])));
  showStays(event.stays, event.time);
  showVersions(event.versions, event.weights);
  showNotes(event.notes);
  if (event.commands) showCommands(event.commands);
}

// The stream. A hidden tab has none.

let stream = null;
let retry = 0;

function say(text, good) {
  put($("link"), text);
  $("link").className = good ? "" : "lost";
}

function connect() {
  clearTimeout(retry);
  if (stream || document.hidden) return;
  stream = new EventSource("/events");
  let began = false;
  stream.onmessage = (event) => {
    if (!began) say(t.connected, true);
    began = true;
    show(JSON.parse(event.data));
  };
  stream.addEventListener("end", (event) => {
    say(t.over(JSON.parse(event.data).reason), false);
    disconnect();
    retry = setTimeout(connect, RETRY);
  });
  stream.onerror = () => {
    if (stream?.readyState === EventSource.CLOSED) { // refused: it does not try again itself
      say(t.full, false);
      disconnect();
      retry = setTimeout(connect, RETRY);
    } else if (began) {
      began = false;
      say(t.lost, false);
    }
  };
}

function disconnect() {
  clearTimeout(retry);
  stream?.close();
  stream = null;
  path.clear();
}

document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
addEventListener("pagehide", disconnect);
addEventListener("pageshow", connect);
connect();
