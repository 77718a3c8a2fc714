// A plot of the last hour, as SVG. Everything is inserted as text or as elements.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 190;
const LEFT = 46;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 36;
/** The axis of time covers at least this. */
const LEAST_MS = 300000;

function make(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** A number in few characters. */
export function short(number) {
  if (number === null || number === undefined) return "–";
  const size = Math.abs(number);
  if (size >= 1e6) return trim(number / 1e6) + "M";
  if (size >= 1e4) return trim(number / 1e3) + "k";
  if (size >= 100 || Number.isInteger(number)) return Math.round(number).toLocaleString("en-US");
  return trim(number);
}

function trim(number) {
  const digits = Math.abs(number) >= 100 ? 0 : Math.abs(number) >= 1 ? 1 : 2;
  return String(Number(number.toFixed(digits)));
}

/** Round steps up to at least `most`, at most five of them. */
function steps(most, whole) {
  let step = Math.pow(10, Math.floor(Math.log10(Math.max(most, 1e-9) / 4)));
  for (const factor of [1, 2, 5, 10]) {
    if (most / (step * factor) <= 4) {
      step *= factor;
      break;
    }
  }
  if (whole) step = Math.max(1, Math.round(step));
  const end = Math.max(step, Math.ceil(most / step - 1e-9) * step);
  const ticks = [];
  for (let tick = 0; tick <= end + step / 2; tick += step) ticks.push(Number(tick.toPrecision(6)));
  return ticks;
}

function clock(ms, seconds) {
  const options = { hour: "2-digit", minute: "2-digit", hour12: false };
  if (seconds) options.second = "2-digit";
  return new Date(ms).toLocaleTimeString("en-GB", options);
}

/**
 * A plot in an element of its own. `curves`: key of a column, name, ink. `whole`: only whole
 * numbers have a grid line.
 */
export class Plot {
  constructor(title, unit, curves, whole) {
    Object.assign(this, { title, unit, curves, whole, data: null, at: null });
    this.element = document.createElement("section");
    this.element.className = "card";
    const head = document.createElement("div");
    head.className = "plot-head";
    const heading = document.createElement("h2");
    heading.textContent = title;
    this.legend = document.createElement("ul");
    this.legend.className = "legend";
    this.values = curves.map(([, name, ink]) => {
      const item = document.createElement("li");
      item.className = `ink-${ink}`;
      const value = document.createElement("b");
      item.append(name + " ", value);
      this.legend.append(item);
      return value;
    });
    this.svg = make("svg", { class: "plot", role: "img", tabindex: "0" });
    head.append(heading, this.legend);
    this.element.append(head, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerdown", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.choose(null));
    this.svg.addEventListener("blur", () => this.choose(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  show(data) {
    const now_ms = Date.now();
    const at_ms = data.ago_seconds.map((ago) => now_ms - ago * 1000);
    this.data = {
      ...data, now_ms, at_ms, kept_ms: data.kept_seconds * 1000, gap_ms: data.gap_seconds * 1000,
    };
    if (this.at !== null && this.at >= at_ms.length) this.at = null;
    this.draw();
  }

  x(ms) {
    return LEFT + ((ms - this.from) / (this.data.now_ms - this.from)) * (this.width - LEFT - RIGHT);
  }

  y(value) {
    return TOP + (1 - value / this.top) * (HEIGHT - TOP - BOTTOM);
  }

  draw() {
    if (!this.data || !this.element.isConnected) return;
    this.width = Math.max(240, this.svg.clientWidth || 360);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    const { now_ms, kept_ms, at_ms } = this.data;
    // The last hour, or what there is of it.
    const first = at_ms.length ? at_ms[0] : now_ms;
    this.from = Math.max(now_ms - kept_ms, Math.min(first, now_ms - LEAST_MS));
    const columns = this.curves.map(([key]) => this.data[key]);
    const most = Math.max(0, ...columns.map((column) => Math.max(0, ...column)));
    const ticks = steps(most || 1, this.whole);
    this.top = ticks[ticks.length - 1];
    const parts = [];
    for (const tick of ticks) {
      const y = this.y(tick);
      parts.push(make("line", { class: tick ? "grid" : "axis", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }));
      parts.push(make("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, short(tick)));
    }
    parts.push(...this.times());
    // Sideways, in the middle of the axis.
    const middle = (TOP + HEIGHT - BOTTOM) / 2;
    const aside = { x: 0, y: 0, "text-anchor": "middle", transform: `translate(10 ${middle}) rotate(-90)` };
    parts.push(make("text", aside, this.unit));
    this.curves.forEach(([, , ink], index) => {
      parts.push(make("path", { class: `curve ink-${ink}`, d: this.path(columns[index]) }));
    });
    this.svg.replaceChildren(...parts);
    this.mark();
  }

  /** The axis of time, with a label at each round time that has room. */
  times() {
    const { now_ms } = this.data;
    const parts = [];
    const span = now_ms - this.from;
    const labels = (this.width - LEFT - RIGHT) / 56;
    const every = [1, 2, 5, 10, 15, 20, 30].map((minutes) => minutes * 60000).find((ms) => span / ms <= labels) || 1.8e6;
    const zone = new Date(now_ms).getTimezoneOffset() * 60000;
    const y = HEIGHT - BOTTOM;
    for (let ms = Math.ceil((this.from - zone) / every) * every + zone; ms <= now_ms; ms += every) {
      const x = this.x(ms);
      parts.push(make("line", { class: "axis", x1: x, x2: x, y1: y, y2: y + 4 }));
      if (x > LEFT + 14 && x < this.width - RIGHT - 12) {
        parts.push(make("text", { x, y: y + 16, "text-anchor": "middle" }, clock(ms)));
      }
    }
    const center = (LEFT + this.width - RIGHT) / 2;
    const minutes = Math.round(span / 60000);
    const name = minutes >= 60 ? "time of day, last hour" : `time of day, last ${minutes} minutes`;
    parts.push(make("text", { x: center, y: HEIGHT - 3, "text-anchor": "middle" }, name));
    return parts;
  }

  /** Lines between samples; none where something is missing. */
  path(column) {
    const { at_ms, gap_ms } = this.data;
    let path = "";
    let last = null;
    column.forEach((value, index) => {
      if (value === null) {
        last = null;
        return;
      }
      const joins = last !== null && at_ms[index] - last <= gap_ms;
      const at = `${this.x(at_ms[index]).toFixed(1)} ${this.y(value).toFixed(1)}`;
      // A sample alone is seen, too.
      path += joins ? `L${at}` : `M${at}h.01`;
      last = at_ms[index];
    });
    return path;
  }

  point(event) {
    if (!this.data || !this.data.at_ms.length) return;
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.width;
    let nearest = 0;
    this.data.at_ms.forEach((ms, index) => {
      if (Math.abs(this.x(ms) - x) < Math.abs(this.x(this.data.at_ms[nearest]) - x)) nearest = index;
    });
    this.choose(nearest);
  }

  key(event) {
    const count = this.data ? this.data.at_ms.length : 0;
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -count, End: count }[event.key];
    if (!count || move === undefined) return;
    event.preventDefault();
    const at = this.at === null ? count - 1 : this.at + move;
    this.choose(Math.min(count - 1, Math.max(0, at)));
  }

  choose(index) {
    this.at = index;
    this.mark();
  }

  /** Values at the chosen sample, or the last ones. */
  mark() {
    if (!this.data) return;
    this.svg.querySelectorAll(".cursor, .dot, .when").forEach((part) => part.remove());
    const { at_ms } = this.data;
    const index = this.at === null ? at_ms.length - 1 : this.at;
    const values = this.curves.map(([key]) => (index < 0 ? null : this.data[key][index]));
    this.values.forEach((element, curve) => (element.textContent = short(values[curve])));
    const words = this.curves.map(([, name], curve) => `${name} ${short(values[curve])}`);
    this.svg.setAttribute("aria-label", `${this.title}, ${this.unit}: ${words.join(", ")}`);
    if (this.at === null || index < 0) return;
    const x = this.x(at_ms[index]);
    this.svg.append(make("line", { class: "cursor", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }));
    values.forEach((value, curve) => {
      if (value === null) return;
      this.svg.append(make("circle", { class: `dot ink-${this.curves[curve][2]}`, cx: x, cy: this.y(value), r: 3.5 }));
    });
    const right = x > this.width / 2;
    const when = { class: "when", x: right ? x - 6 : x + 6, y: TOP + 8, "text-anchor": right ? "end" : "start" };
    this.svg.append(make("text", when, clock(at_ms[index], true)));
  }
}
