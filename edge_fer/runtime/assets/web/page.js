// The page of `edge-fer run --web`: the picture is an MJPEG stream, everything else comes as server-sent events.
"use strict";

const MOST_FACES = 8;      // cards; the picture shows all
const SPEAK_MS = 4000;     // how often a screen reader is told at most

const at = (id) => document.getElementById(id);
const video = at("video");
const still = at("still");
const cards = new Map();   // track -> { root, label, rows }
let labels = [];
let events = null;
let newest = null;         // the newest record, drawn with the next repaint
let paused = false;
let ended = false;
let spokenAt = 0;
let spoken = "";

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function state(text, kind) {
  const shown = at("state");
  if (shown.textContent === text && shown.dataset.kind === kind) return;
  shown.textContent = text;
  shown.dataset.kind = kind;
}

function connect() {
  events = new EventSource("scores");
  events.addEventListener("run", (event) => {
    const run = JSON.parse(event.data);
    // Also after a loss. A new address each time: a browser may hold on to the stream that ended.
    video.src = `video?${Date.now()}`;
    labels = run.labels;
    forgetFaces();
    at("run").textContent = `${run.model} on ${run.backend} ${run.precision} · ${run.source}`;
    state(run.state || "waiting for a frame", run.state ? "lost" : "waiting");
  });
  events.addEventListener("state", (event) => {
    const told = JSON.parse(event.data).state;
    if (newest !== null) newest.state = told;  // it came before, and is still to be drawn
    state(told || "live", told ? "lost" : "live");
  });
  events.addEventListener("frame", (event) => {
    const first = newest === null;
    newest = JSON.parse(event.data);
    if (first) requestAnimationFrame(draw);
  });
  events.addEventListener("end", (event) => {
    ended = true;
    events.close();
    state(JSON.parse(event.data).complete ? "the run has ended" : "the run ended with an error", "ended");
    at("pause").disabled = true;
  });
  events.onerror = () => {
    if (ended) return;
    state("no connection to edge-fer", "lost");
    // The browser connects again by itself, unless it was refused.
    if (events.readyState === EventSource.CLOSED) setTimeout(reconnect, 2000);
  };
}

function reconnect() {
  if (!paused && !ended) connect();
}

function draw() {
  const record = newest;
  newest = null;
  if (record === null || paused) return;
  if (!ended) state(record.state || "live", record.state ? "lost" : "live");
  at("fps").textContent = record.fps.toFixed(record.fps < 10 ? 1 : 0);
  at("age").textContent = `${record.age_ms.toFixed(record.age_ms < 10 ? 1 : 0)} ms`;
  at("dropped").textContent = record.dropped;
  at("missed").textContent = record.missed;
  at("frame").textContent = record.frame;
  drawFaces(record.faces);
}

function drawFaces(faces) {
  const shown = faces.slice(0, MOST_FACES);
  const seen = new Set(shown.map((face) => face.track));
  for (const [track, card] of cards) {
    if (!seen.has(track)) { card.root.remove(); cards.delete(track); }
  }
  for (const face of shown) {
    if (!cards.has(face.track)) cards.set(face.track, newCard(face.track));
    drawFace(cards.get(face.track), face);
  }
  at("none").hidden = faces.length > 0;
  at("more").hidden = faces.length <= MOST_FACES;
  at("more").textContent = `and ${faces.length - MOST_FACES} more in the picture`;
  speak(faces);
}

function forgetFaces() {
  cards.clear();
  at("faces").replaceChildren();
}

function newCard(track) {
  const title = element("h3", "", element("span", "", `face ${track}`));
  const label = element("span");
  title.append(label);
  const root = element("article", "face", title);
  root.setAttribute("aria-label", `face ${track}`);
  const rows = new Map();
  for (const { name, colour } of labels) {
    const fill = element("i");
    fill.style.background = colour;
    const bar = element("div", "bar", fill);
    bar.setAttribute("role", "meter");
    bar.setAttribute("aria-label", name);
    bar.setAttribute("aria-valuemin", "0");
    bar.setAttribute("aria-valuemax", "100");
    const value = element("span");
    const row = element("div", "row", element("span", "", name), bar, value);
    rows.set(name, { row, bar, fill, value });
    root.append(row);
  }
  at("faces").append(root);
  return { root, label, rows };
}

function drawFace(card, face) {
  card.label.textContent = face.uncertain ? `${face.label}? (uncertain)` : face.label;
  for (const [name, { row, bar, fill, value }] of card.rows) {
    const score = face.scores[name];
    const percent = Math.round(100 * score);
    row.classList.toggle("top", name === face.label);
    fill.style.transform = `scaleX(${score})`;
    value.textContent = `${percent} %`;
    bar.setAttribute("aria-valuenow", percent);
    bar.setAttribute("aria-valuetext", `${percent} percent`);
  }
}

// Tells a screen reader what changed, and leaves it alone otherwise.
function speak(faces) {
  const now = performance.now();
  if (now - spokenAt < SPEAK_MS) return;
  const text = faces.length === 0
    ? "no face"
    : faces.slice(0, MOST_FACES).map((f) => `face ${f.track}: ${f.uncertain ? "uncertain, perhaps " : ""}${f.label}`).join("; ");
  if (text === spoken) return;
  at("spoken").textContent = text;
  [spoken, spokenAt] = [text, now];
}

function pause() {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  if (!paused) {
    still.hidden = true;
    video.hidden = false;
    connect();
    return;
  }
  if (video.naturalWidth) {
    still.width = video.naturalWidth;
    still.height = video.naturalHeight;
    still.getContext("2d").drawImage(video, 0, 0);
    still.hidden = false;
    video.hidden = true;
  }
  events.close();
  video.removeAttribute("src");
  newest = null;
  state("paused", "waiting");
}

at("pause").addEventListener("click", pause);
video.addEventListener("load", () => { at("empty").hidden = true; });
// Started when all else is loaded: a stream never finishes loading.
if (document.readyState === "complete") connect();
else window.addEventListener("load", connect, { once: true });
