// A network as boxes in space, drawn on a 2-D canvas: perspective, faces towards the eye, far ones first.
"use strict";

class Network3d {
  // canvas: where to draw; onPick(index): a layer was chosen here.
  constructor(canvas, onPick) {
    this.canvas = canvas;
    this.onPick = onPick;
    this.boxes = [];
    this.links = [];
    this.textures = new Map(); // layer's index -> canvas with its map
    this.chosen = -1;
    this.hits = [];
    this.home();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    canvas.addEventListener("pointerdown", (event) => this.#grab(event));
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  home() {
    this.yaw = -0.72;
    this.pitch = 0.34;
    this.zoom = 1;
  }

  // layers: as the server tells them. A box's sizes: along x its channels, y its height, z its width.
  show(layers) {
    const tallest = Math.max(...layers.map(({ shape }) => (shape.length === 3 ? Math.max(shape[1], shape[2]) : 1)), 2);
    const side = (count) => 0.1 + 1.5 * Math.log2(1 + count) / Math.log2(1 + tallest);
    const gap = Math.min(0.6, Math.max(0.18, 9 / layers.length));
    const thick = (channels) => 0.06 + 0.075 * Math.log2(1 + channels);
    let x = 0;
    this.boxes = layers.map((layer, index) => {
      const { shape } = layer;
      const size = shape.length === 3 ? [thick(shape[0]), side(shape[1]), side(shape[2])]
        : shape.length === 2 ? [thick(shape[1]), side(Math.min(shape[0], tallest)), 0.12]
        : [0.08, 0.12 + 0.1 * Math.log2(1 + (shape[0] || 1)), 0.12];
      const box = { index, kind: layer.kind, size, at: [x + size[0] / 2, 0, 0] };
      x += size[0] + gap;
      return box;
    });
    this.length = x - gap;
    for (const box of this.boxes) box.at[0] -= this.length / 2;
    this.links = layers.flatMap((layer, to) => layer.inputs.filter((from) => from !== to - 1).map((from) => [from, to]));
    this.layers = layers;
    this.draw();
  }

  choose(index) {
    this.chosen = index;
    this.draw();
  }

  // A map on the front of a layer's box; null takes it away.
  dress(index, texture) {
    if (texture) this.textures.set(index, texture); else this.textures.delete(index);
  }

  static family(kind) {
    if (kind.includes("convolution")) return "convolution";
    if (kind.includes("pooling") || kind === "average" || kind === "maximum") return "pooling";
    if (kind === "dense") return "dense";
    if (kind === "attention" || kind === "matrix product") return "attention";
    if (kind === "sum" || kind === "product" || kind === "concatenation") return "join";
    return "other";
  }

  #camera() {
    const { width, height } = this;
    const [sy, cy, sp, cp] = [Math.sin(this.yaw), Math.cos(this.yaw), Math.sin(this.pitch), Math.cos(this.pitch)];
    const eye = 4 + 1.6 * this.length;
    const seen = ([x, y, z]) => {
      const [x1, z1] = [x * cy + z * sy, z * cy - x * sy];
      const [y2, z2] = [y * cp + z1 * sp, z1 * cp - y * sp];
      const near = eye / (eye + z2);
      return [near * x1, near * y2, z2];
    };
    // All of it fits the canvas, whichever way it is turned; zooming is around its middle.
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const { at: [x, y, z], size: [w, h, d] } of this.boxes) {
      for (let i = 0; i < 8; i++) {
        const [px, py] = seen([x + (i & 1 ? w : -w) / 2, y + (i & 2 ? h + 0.3 : -h) / 2, z + (i & 4 ? d : -d) / 2]);
        [left, right, low, high] = [Math.min(left, px), Math.max(right, px), Math.min(low, py), Math.max(high, py)];
      }
    }
    const scale = this.zoom * Math.min((width - 40) / (right - left), (height - 70) / (high - low));
    const [mx, my] = [(left + right) / 2, (low + high) / 2];
    return (point) => {
      const [x, y, far] = seen(point);
      return [width / 2 + scale * (x - mx), height / 2 + 12 - scale * (y - my), far];
    };
  }

  draw() {
    const { canvas } = this;
    const dense = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width || !this.layers) return;
    Object.assign(this, { width, height });
    if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
      [canvas.width, canvas.height] = [Math.round(width * dense), Math.round(height * dense)];
    }
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    pen.clearRect(0, 0, width, height);
    const project = this.#camera();
    this.hits = [];
    const far = this.boxes.map((box) => [project(box.at)[2], box]).sort((a, b) => b[0] - a[0]);
    for (const [, box] of far) this.#box(pen, project, box, dense, colour);
    this.#links(pen, project, colour("ink"));
    this.#label(pen, project, colour);
  }

  #links(pen, project, ink) {
    pen.strokeStyle = ink;
    pen.lineWidth = 1.2;
    const path = (points) => {
      pen.beginPath();
      points.forEach((point, i) => { const [x, y] = project(point); if (i) pen.lineTo(x, y); else pen.moveTo(x, y); });
      pen.stroke();
    };
    for (const [from, to] of this.links) {
      const [a, b] = [this.boxes[from], this.boxes[to]];
      const tallest = Math.max(...this.boxes.slice(from, to + 1).map((box) => box.size[1]));
      const top = tallest / 2 + 0.14 + Math.min(0.5, 0.02 * (to - from));
      const arc = [];
      for (let i = 0; i <= 16; i++) {
        const t = i / 16;
        const rise = Math.sqrt(Math.max(0, 1 - (2 * t - 1) ** 4));
        const foot = (a.size[1] * (1 - t) + b.size[1] * t) / 2;
        arc.push([a.at[0] + (b.at[0] - a.at[0]) * t, foot + (top - foot) * rise, 0]);
      }
      path(arc);
    }
  }

  #box(pen, project, box, dense, colour) {
    const [[x, y, z], [w, h, d]] = [box.at, box.size.map((s) => s / 2)];
    const corner = (i, j, k) => project([x + i * w, y + j * h, z + k * d]);
    const faces = [ // each counter-clockwise from outside; the brightness stands for a light from above
      { light: 0.86, front: true, points: [corner(-1, 1, 1), corner(-1, 1, -1), corner(-1, -1, -1), corner(-1, -1, 1)] },
      { light: 0.86, front: true, points: [corner(1, 1, -1), corner(1, 1, 1), corner(1, -1, 1), corner(1, -1, -1)] },
      { light: 1.0, points: [corner(-1, 1, 1), corner(1, 1, 1), corner(1, 1, -1), corner(-1, 1, -1)] },
      { light: 0.6, points: [corner(-1, -1, -1), corner(1, -1, -1), corner(1, -1, 1), corner(-1, -1, 1)] },
      { light: 0.72, points: [corner(-1, 1, -1), corner(1, 1, -1), corner(1, -1, -1), corner(-1, -1, -1)] },
      { light: 0.72, points: [corner(1, 1, 1), corner(-1, 1, 1), corner(-1, -1, 1), corner(1, -1, 1)] },
    ];
    const base = colour(Network3d.family(box.kind));
    const chosen = box.index === this.chosen;
    for (const { light, front, points: [a, b, c, e] } of faces) {
      if ((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) <= 0) continue; // turned away
      const shape = new Path2D();
      [a, b, c, e].forEach(([px, py], i) => (i ? shape.lineTo(px, py) : shape.moveTo(px, py)));
      shape.closePath();
      pen.fillStyle = `color-mix(in srgb, ${base} ${100 * light}%, black)`;
      pen.fill(shape);
      const texture = front && this.textures.get(box.index);
      if (texture) this.#paint(pen, shape, texture, a, b, e, dense);
      pen.strokeStyle = chosen ? colour("ink") : "rgb(0 0 0 / .35)";
      pen.lineWidth = chosen ? 2.5 : 0.8;
      pen.stroke(shape);
      this.hits.push([shape, box.index]);
    }
  }

  // The map on a face; a parallelogram is near enough to so shallow a perspective.
  #paint(pen, shape, texture, a, b, e, dense) {
    pen.save();
    pen.clip(shape);
    pen.imageSmoothingEnabled = false;
    const [tw, th] = [texture.width, texture.height];
    pen.setTransform(
      dense * (b[0] - a[0]) / tw, dense * (b[1] - a[1]) / tw,
      dense * (e[0] - a[0]) / th, dense * (e[1] - a[1]) / th, dense * a[0], dense * a[1],
    );
    pen.drawImage(texture, 0, 0);
    pen.restore();
  }

  #label(pen, project, colour) {
    const box = this.boxes[this.chosen];
    if (!box) return;
    const { name, kind, shape } = this.layers[this.chosen];
    const text = `${name || kind}  ${shape.join(" × ")}`;
    const [x, y] = project([box.at[0], box.at[1] + box.size[1] / 2, 0]);
    pen.font = "600 14px system-ui, sans-serif";
    const wide = pen.measureText(text).width;
    const left = Math.min(Math.max(8, x - wide / 2), this.width - wide - 8);
    const top = Math.max(20, y - 30);
    pen.fillStyle = colour("card");
    pen.globalAlpha = 0.9;
    pen.fillRect(left - 6, top - 15, wide + 12, 22);
    pen.globalAlpha = 1;
    pen.fillStyle = colour("ink");
    pen.fillText(text, left, top);
    pen.strokeStyle = colour("ink");
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x, top + 8);
    pen.lineTo(x, y);
    pen.stroke();
  }

  #turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.min(1.4, Math.max(-1.4, this.pitch + pitch));
    this.draw();
  }

  #grow(factor) {
    this.zoom = Math.min(8, Math.max(0.4, this.zoom * factor));
    this.draw();
  }

  #grab(event) {
    const { canvas } = this;
    canvas.setPointerCapture(event.pointerId);
    let [x, y, way] = [event.clientX, event.clientY, 0];
    const move = (moved) => {
      way += Math.abs(moved.clientX - x) + Math.abs(moved.clientY - y);
      this.#turn((moved.clientX - x) * 0.008, (moved.clientY - y) * 0.008);
      [x, y] = [moved.clientX, moved.clientY];
    };
    const end = (ended) => {
      canvas.removeEventListener("pointermove", move);
      canvas.removeEventListener("pointerup", end);
      canvas.removeEventListener("pointercancel", end);
      if (way < 5 && ended.type === "pointerup") this.#pick(ended);
    };
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
  }

  #pick(event) {
    const frame = this.canvas.getBoundingClientRect();
    const dense = window.devicePixelRatio || 1;
    const pen = this.canvas.getContext("2d");
    const [x, y] = [(event.clientX - frame.left) * dense, (event.clientY - frame.top) * dense];
    // The shapes are in CSS pixels: the pen's scale brings the point to them.
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    for (const [shape, index] of [...this.hits].reverse()) {
      if (pen.isPointInPath(shape, x, y)) { this.onPick(index); return; }
    }
  }

  #wheel(event) {
    if (document.activeElement !== this.canvas) return; // the page itself should scroll
    event.preventDefault();
    this.#grow(Math.exp(-event.deltaY * 0.0015));
  }

  #key(event) {
    const step = 0.12;
    const actions = {
      ArrowLeft: () => this.#turn(-step, 0), ArrowRight: () => this.#turn(step, 0),
      ArrowUp: () => this.#turn(0, -step), ArrowDown: () => this.#turn(0, step),
      "+": () => this.#grow(1.15), "=": () => this.#grow(1.15), "-": () => this.#grow(1 / 1.15),
      Home: () => { this.home(); this.draw(); },
      ",": () => this.onPick(Math.max(0, this.chosen - 1)),
      ".": () => this.onPick(Math.min(this.boxes.length - 1, this.chosen + 1)),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }
}
