// The page of `edge-fer explore`. The token comes in the address after #, which browsers send to nobody.
"use strict";

const LARGEST_PX = 1600;   // a picture's longer side as it is sent
const at = (id) => document.getElementById(id);
const token = location.hash.slice(1);
let network = null;
let view = null;
let picture = null;        // { picture, shown, faces } of the server
let heat = null;           // the newest answer about a face
let curves = null;         // of the newest check
let asked = 0;             // answers to older questions are dropped

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function state(text, kind) {
  at("state").textContent = text;
  at("state").dataset.kind = kind;
}

class Told extends Error {}  // a sentence of the server's

async function post(path, body) {
  const bytes = body instanceof Blob;
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST",
      headers: { "X-Edge-Fer-Token": token, "Content-Type": bytes ? "application/octet-stream" : "application/json" },
      body: bytes ? body : JSON.stringify(body),
    });
  } catch {
    throw new Told("There is no connection to edge-fer any more.");
  }
  const text = await answer.text();
  if (!answer.ok) throw new Told(answer.headers.get("Content-Type") === "application/json" ? JSON.parse(text).error : text.trim());
  return JSON.parse(text);
}

// Runs something that asks the server; what goes wrong is shown.
async function busy(text, work) {
  state(text, "waiting");
  try {
    await work();
    state("ready", "ready");
  } catch (error) {
    if (!(error instanceof Told)) throw error;
    state("see below", "lost");
    verdict("fails", error.message);
  }
}

// Pixels.

const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// Colour maps by a few of their points: black-purple-orange-yellow for heat, blue-green-yellow for features.
const HEAT = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];
const FEATURE = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];

function coloured(map, value) {
  const place = value / 255 * (map.length - 1);
  const low = Math.min(map.length - 2, Math.floor(place));
  return map[low].map((v, i) => v + (map[low + 1][i] - v) * (place - low));
}

function paintPixels(canvas, { width, height, rgb }) {
  [canvas.width, canvas.height] = [width, height];
  const [image, bytes] = [new ImageData(width, height), bytesOf(rgb)];
  for (let i = 0; i < width * height; i++) {
    image.data.set([bytes[3 * i], bytes[3 * i + 1], bytes[3 * i + 2], 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function paintPlane(canvas, { width, height, values }) {
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  bytesOf(values).forEach((value, i) => image.data.set([...coloured(FEATURE, value), 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function paintHeat() {
  if (!heat) return;
  const canvas = at("heat");
  const { width, height, rgb } = heat.face;
  [canvas.width, canvas.height] = [width, height];
  const [image, face] = [new ImageData(width, height), bytesOf(rgb)];
  const strength = heat.evidence ? at("strength").value / 100 : 0;
  bytesOf(heat.heat.values).forEach((value, i) => {
    const weight = strength * (0.25 + 0.75 * value / 255);
    coloured(HEAT, value).forEach((v, k) => { image.data[4 * i + k] = face[3 * i + k] * (1 - weight) + v * weight; });
    image.data[4 * i + 3] = 255;
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// The picture.

async function send(file) {
  if (!file) return;
  await busy("reading the picture", async () => {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      throw new Told(`${file.name || "That"} is no picture that this browser can read.`);
    }
    // PNG whatever it was: turned upright, of a sane size, and nothing but pixels.
    const scale = Math.min(1, LARGEST_PX / Math.max(bitmap.width, bitmap.height));
    const canvas = element("canvas");
    [canvas.width, canvas.height] = [Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale))];
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
    await received(await post("picture", blob));
  });
}

async function received(told) {
  picture = told;
  const faces = at("face");
  faces.replaceChildren(
    ...told.faces.map((_, i) => new Option(`face ${i + 1}${i ? "" : " (largest)"}`, i)),
    new Option(told.faces.length ? "the whole picture as a face" : "no face found: the whole picture", ""),
  );
  at("which").hidden = at("shown").hidden = at("drop").hidden = false;
  at("drop").hidden = true;
  at("explained").value = "";
  drawShown();
  await explain();
}

function drawShown() {
  const canvas = at("shown");
  paintPixels(canvas, picture.shown);
  const pen = canvas.getContext("2d");
  picture.faces.forEach(([x1, y1, x2, y2], i) => {
    const chosen = at("face").value === String(i);
    pen.lineWidth = Math.max(2, canvas.width / 200) * (chosen ? 1.6 : 1);
    for (const [colour, dash] of [["#000", []], [chosen ? "#fac83c" : "#fff", chosen ? [] : [6, 4]]]) {
      pen.strokeStyle = colour;
      pen.setLineDash(dash);
      pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
  });
  canvas.setAttribute("aria-label", `The picture; ${picture.faces.length} faces found`);
}

function question() {
  const face = at("face").value;
  return {
    picture: picture.picture, face: face === "" ? null : Number(face),
    explained: at("explained").value || null, layer: at("layer").value || null,
  };
}

async function explain() {
  const mine = ++asked;
  verdict("none", "Looking …");
  curves = null;
  drawCurves();
  const told = await post("heat", question());
  if (mine !== asked) return;
  heat = told;
  paintPixels(at("input"), heat.face);
  paintHeat();
  at("heat").setAttribute("aria-label", `Grad-CAM: where the network sees ${heat.explained}`);
  at("explained").disabled = at("layer").disabled = false;
  at("explained").options[0].text = `${heat.predicted} (best)`;
  drawScores();
  drawStages();
  await showLayerMaps();
  verdict("none", "Testing the heat: deleting what it marks, and as much elsewhere …");
  state("testing the heat", "waiting");
  const check = await post("check", question());
  if (mine !== asked) return;
  verdict(check.holds ? "holds" : "fails", check.sentence);
  curves = check.curves;
  drawCurves();
}

function verdict(kind, text) {
  at("verdict").dataset.kind = kind;
  at("outcome").textContent = text;
}

function drawScores() {
  const rows = network.labels.map(({ name, colour }) => {
    const fill = element("i");
    fill.style.background = colour;
    fill.style.transform = `scaleX(${heat.scores[name]})`;
    const bar = element("div", "bar", fill);
    const percent = Math.round(100 * heat.scores[name]);
    for (const [key, value] of Object.entries({
      role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": percent,
      "aria-valuetext": `${percent} percent`,
    })) bar.setAttribute(key, value);
    return element("div", name === heat.predicted ? "row top" : "row", element("span", "", name), bar, element("span", "", `${percent} %`));
  });
  at("scores").replaceChildren(...rows);
}

function drawCurves() {
  const canvas = at("curves");
  canvas.hidden = !curves;
  if (!curves) return;
  const dense = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  [canvas.width, canvas.height] = [width * dense, height * dense];
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  pen.scale(dense, dense);
  const [left, right, top, bottom] = [38, width - 8, 8, height - 34];
  const most = Math.max(0.05, ...curves.marked, ...curves.elsewhere);
  const x = (share) => left + (right - left) * share;
  const y = (score) => bottom - (bottom - top) * score / most;
  pen.font = "12px system-ui, sans-serif";
  pen.fillStyle = colour("muted");
  pen.strokeStyle = colour("rule");
  for (const share of [0, 0.5, 1]) pen.fillText(`${100 * share} %`, x(share) - (share ? 36 * share : 0), bottom + 15);
  for (const score of [0, most]) {
    pen.fillText(score.toFixed(2), 4, y(score) + 4);
    pen.beginPath(); pen.moveTo(left, y(score)); pen.lineTo(right, y(score)); pen.stroke();
  }
  const lines = [["marked", "bad", "what the heat marks"], ["elsewhere", "accent", "as much elsewhere"]];
  lines.forEach(([key, name, text], i) => {
    pen.strokeStyle = pen.fillStyle = colour(name);
    pen.lineWidth = 2;
    pen.beginPath();
    curves.fractions.forEach((share, k) => (k ? pen.lineTo : pen.moveTo).call(pen, x(share), y(curves[key][k])));
    pen.stroke();
    pen.fillText(`— ${text}`, left + i * (right - left) / 2, height - 4);
  });
  const told = (key) => curves[key].map((v) => v.toFixed(2)).join(", ");
  canvas.setAttribute("aria-label", `Score as more of the picture is deleted. What the heat marks: ${told("marked")}. As much elsewhere: ${told("elsewhere")}.`);
}

function mapCanvas(map, layer) {
  const canvas = paintPlane(element("canvas"), map);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `channel ${map.channel} of ${layer}, from ${map.low.toPrecision(3)} to ${map.high.toPrecision(3)}`);
  canvas.title = canvas.getAttribute("aria-label");
  return canvas;
}

function drawStages() {
  view.textures.clear();
  at("stages").replaceChildren(...heat.stages.map((stage) => {
    const canvases = stage.maps.map((map) => mapCanvas(map, stage.layer));
    const index = network.layers.findLastIndex((layer) => layer.name === stage.layer || layer.name.startsWith(`${stage.layer}.`));
    if (index >= 0) view.dress(index, canvases[0]);
    return element("div", "", element("h3", "", `${stage.layer}: ${stage.shape.join(" × ")}`), element("div", "maps", ...canvases));
  }));
  const input = element("canvas");
  paintPixels(input, heat.face);
  view.dress(0, input);
  view.draw();
}

// The network.

async function choose(index) {
  const layer = network.layers[index];
  view.choose(index);
  at("layers").value = String(index);
  const rows = {
    layer: layer.name || (index ? "–" : "input"), kind: layer.kind, output: layer.shape.join(" × "),
    then: layer.follows.join(", ") || "–",
    "fed by": layer.inputs.map((i) => network.layers[i].name || network.layers[i].kind).join(", ") || "–",
    parameters: layer.parameters.toLocaleString("en"), "multiply-adds": layer.macs.toLocaleString("en"),
  };
  at("details").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]));
  await showLayerMaps();
}

async function showLayerMaps() {
  const target = at("layer-maps");
  const layer = network.layers[view.chosen];
  if (!layer || !heat || !layer.map) { target.replaceChildren(); return; }
  const { picture: number, face } = question();
  const told = await post("maps", { picture: number, face, layer: layer.name });
  if (network.layers[view.chosen] !== layer) return;
  const canvases = told.maps.map((map) => mapCanvas(map, told.layer));
  target.replaceChildren(...canvases);
  if (canvases.length) { view.dress(view.chosen, canvases[0]); view.draw(); }
}

function short(count) {
  return count >= 1e9 ? `${(count / 1e9).toFixed(2)} G` : count >= 1e6 ? `${(count / 1e6).toFixed(2)} M` : count.toLocaleString("en");
}

async function begin() {
  if (!token) {
    state("no token", "lost");
    verdict("fails", "Open the address that edge-fer printed, with all that follows the #.");
    return;
  }
  await busy("loading the network", async () => {
    network = await post("network", {});
    at("model").textContent = `${network.model} (${network.arch}): ${short(network.parameters)} parameters, ${short(network.macs)} multiply-adds`;
    at("camera").hidden = !network.camera;
    at("explained").append(...network.labels.map(({ name }) => new Option(name, name)));
    const maps = [...new Set([network.layer, ...network.stages, ...network.layers.filter((l) => l.map).map((l) => l.name)])];
    at("layer").replaceChildren(...maps.map((name) => new Option(name, name === network.layer ? "" : name)));
    at("layers").replaceChildren(...network.layers.map((layer, i) =>
      new Option(`${layer.name || layer.kind} · ${layer.kind} · ${layer.shape.join(" × ")}`, i)));
    const families = new Map(network.layers.map(({ kind }) => [Network3d.family(kind), kind]));
    const words = { convolution: "convolution", pooling: "pooling", dense: "dense", join: "sum, product, concatenation", attention: "attention", other: "input, other" };
    at("legend").replaceChildren(...Object.keys(words).filter((name) => families.has(name)).map((name) => {
      const sample = element("i");
      sample.style.background = `var(--${name})`;
      return element("li", "", sample, words[name]);
    }));
    view = new Network3d(at("network"), (index) => void busy("looking into a layer", () => choose(index)));
    view.show(network.layers);
    await choose(0);
  });
}

at("file").addEventListener("change", (event) => void send(event.target.files[0]));
at("camera").addEventListener("click", () => void busy("taking the camera's picture", async () => received(await post("camera", {}))));
at("face").addEventListener("change", () => { drawShown(); void busy("looking", explain); });
at("explained").addEventListener("change", () => void busy("looking", explain));
at("layer").addEventListener("change", () => void busy("looking", explain));
at("strength").addEventListener("input", paintHeat);
at("layers").addEventListener("change", (event) => void busy("looking into a layer", () => choose(Number(event.target.value))));
at("shown").addEventListener("click", (event) => {
  const scale = event.target.width / event.target.clientWidth;
  const [x, y] = [event.offsetX * scale, event.offsetY * scale];
  const index = picture.faces.findIndex(([x1, y1, x2, y2]) => x1 <= x && x <= x2 && y1 <= y && y <= y2);
  if (index >= 0) { at("face").value = String(index); drawShown(); void busy("looking", explain); }
});
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
document.addEventListener("dragleave", () => document.body.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  void send(event.dataTransfer.files[0]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCurves);
void begin();
