// The page: all queues at `/`, one at `/queue/NAME`. It polls; texts are inserted as text only.

import { Plot, short } from "./plot.js";

const POLL_MS = 1000;
const HISTORY_MS = 5000;
/** Dead letters that are shown at first. */
const FEW = 10;
const main = document.getElementById("main");
const live = document.getElementById("live");
const notice = document.getElementById("notice");

// The token is behind the `#` of the printed address, which a browser sends to no server.
const given = location.hash.match(/^#token=([0-9a-f]+)$/);
if (given) {
  sessionStorage.setItem("ipc-token", given[1]);
  history.replaceState(null, "", location.pathname);
}
const token = sessionStorage.getItem("ipc-token");

// ---- Elements and words

/** An element with attributes, and children: elements, or texts. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = units.findIndex(([size]) => seconds >= size);
  const [size, unit] = units[at];
  const more = units[at + 1];
  const rest = more ? Math.floor((seconds % size) / more[0]) : 0;
  return `${Math.floor(seconds / size)} ${unit}` + (rest ? ` ${rest} ${more[1]}` : "");
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
}

const perSecond = (rate) => (rate === null ? "–" : `${short(rate)}/s`);
const count = (number) => number.toLocaleString("en-US");

function state(text) {
  const kinds = { open: "good", alive: "good", dead: "bad", unreadable: "bad" };
  return make("span", { class: `state ${kinds[text] || "warn"}` }, text);
}

/** A bar of the places that are taken; full only when none is free. */
function capacity(used, all) {
  const share = all ? used / all : 0;
  const fill = make("i", { class: share >= 1 ? "bad" : share >= 0.8 ? "warn" : "" });
  fill.style.width = `${used ? Math.max(3, share * 100) : 0}%`;
  const label = `${count(used)} of ${count(all)} places are taken`;
  const track = make("span", { class: "track", role: "img", "aria-label": label, title: label }, fill);
  return make("span", { class: "depth" }, track, make("span", {}, `${short(used)}/${short(all)}`));
}

function tile(name, figure, value, unit, isBad) {
  const dd = make("dd", { "data-figure": figure, class: isBad ? "bad" : undefined }, value);
  if (unit) dd.append(" ", make("small", {}, unit));
  return make("div", { class: "tile" }, make("dt", {}, name), dd);
}

function table(columns, rows, attributes) {
  const head = columns.map(([name, kind]) =>
    make("th", { class: kind.includes("num") ? "num" : undefined, scope: "col" }, name));
  const body = rows.map((cells) =>
    make("tr", {}, ...cells.map((cell, at) =>
      make("td", { class: columns[at][1], "data-label": columns[at][0] }, inCell(columns[at][1], cell)))));
  return make("table", attributes, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

/** A name is an element of its own, so that it wraps only when it is long. */
function inCell(kind, cell) {
  return kind.includes("name") && typeof cell === "string" ? make("span", {}, cell) : cell;
}

function card(title, ...content) {
  return make("section", { class: "card" }, make("h2", {}, title), ...content);
}

function tableCard(title, columns, rows, none) {
  const content = rows.length
    ? table(columns, rows, { class: "stack" })
    : make("p", { class: "empty" }, none);
  return make("section", { class: "card flush" }, make("h2", {}, title), content);
}

function say(text) {
  notice.textContent = text;
  notice.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (notice.hidden = true), 6000);
}

// ---- Requests

async function ask(path, options = {}) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(30000), ...options });
  const value = await answer.json();
  if (!answer.ok) throw new Refused(value.error || answer.statusText);
  return value;
}

/** The server answered, and says why not. */
class Refused extends Error {}

const at = (kind, name) => `/api/${kind}/${encodeURIComponent(name)}`;

// ---- All queues

const COLUMNS = [
  ["queue", "Queue", "name", (line) => line.queue],
  ["in_use", "Places taken", "row", (line) => line.in_use / line.capacity],
  ["ready", "Ready", "num", (line) => line.ready],
  ["held", "Held", "num", (line) => line.held],
  ["dead", "Dead", "num", (line) => line.dead],
  ["oldest", "Oldest", "num", (line) => line.oldest_seconds ?? -1],
  ["sent", "Sent", "num", (line) => line.sent_per_second],
  ["acked", "Acked", "num", (line) => line.acked_per_second],
  ["state", "State", "corner", (line) => line.state],
];

class AllQueues {
  constructor() {
    document.title = "Queues";
    this.sort = "queue";
    this.isDown = false;
    this.tiles = make("dl", { class: "tiles" });
    this.filter = make("input", { type: "search", placeholder: "Filter by name", "aria-label": "Filter by name" });
    this.filter.addEventListener("input", () => this.draw());
    this.shown = make("p", { class: "faint", role: "status" });
    this.body = make("tbody");
    this.heads = COLUMNS.map(([key, name, kind]) => {
      const button = make("button", { type: "button" }, name);
      button.addEventListener("click", () => this.order(key));
      return make("th", { class: kind === "num" ? "num" : undefined, scope: "col" }, button);
    });
    const head = make("thead", {}, make("tr", {}, ...this.heads));
    this.table = make("table", { class: "stack", id: "queues" }, head, this.body);
    this.none = make("p", { class: "empty", hidden: "" });
    this.nodes = make("div");
    main.replaceChildren(
      this.tiles,
      make("div", { class: "tools" }, this.filter, this.shown),
      make("section", { class: "card flush" }, this.table, this.none),
      this.nodes,
    );
  }

  order(key) {
    // Names first in the order of the alphabet, figures with the largest first.
    this.isDown = this.sort === key ? !this.isDown : key !== "queue" && key !== "state";
    this.sort = key;
    this.draw();
  }

  async poll() {
    this.all = await ask("/api/queues");
    this.draw();
    return this.all.sampled_ago_seconds;
  }

  draw() {
    if (!this.all) return;
    const { queues, unreadable, nodes } = this.all;
    const sum = (key) => queues.reduce((all, line) => all + line[key], 0);
    this.tiles.replaceChildren(
      tile("Queues", "queues", count(queues.length + unreadable.length)),
      tile("Ready", "ready", short(sum("ready"))),
      tile("Held", "held", short(sum("held"))),
      tile("Dead letters", "dead", short(sum("dead")), "", sum("dead") > 0),
      tile("Sent", "sent", short(sum("sent_per_second")), "/s"),
      tile("Acked", "acked", short(sum("acked_per_second")), "/s"),
    );
    COLUMNS.forEach(([key], index) => {
      if (key === this.sort) this.heads[index].setAttribute("aria-sort", this.isDown ? "descending" : "ascending");
      else this.heads[index].removeAttribute("aria-sort");
    });
    const wanted = this.filter.value.toLowerCase();
    const isWanted = (line) => line.queue.toLowerCase().includes(wanted);
    const [, , , by] = COLUMNS.find(([key]) => key === this.sort);
    const compare = (one, other) => {
      const [a, b] = [by(one), by(other)];
      const order = typeof a === "string" ? a.localeCompare(b) : a - b;
      return (this.isDown ? -order : order) || one.queue.localeCompare(other.queue);
    };
    const lines = queues.filter(isWanted).sort(compare);
    const bad = unreadable.filter(isWanted);
    // What needs a person comes first.
    this.body.replaceChildren(...bad.map((line) => this.badRow(line)), ...lines.map((line) => this.row(line)));
    const all = queues.length + unreadable.length;
    this.shown.textContent = wanted ? `${lines.length + bad.length} of ${all} queues` : "";
    this.none.hidden = lines.length + bad.length > 0;
    this.none.textContent = all
      ? "No queue has this in its name."
      : this.all.sampled_ago_seconds === null
        ? "Taking the first sample…"
        : "There is no queue yet. A program makes one when it opens it; so does: ipc create jobs";
    this.nodes.replaceChildren(...(nodes.length ? [nodesCard(nodes)] : []));
  }

  row(line) {
    const cells = {
      queue: make("a", { href: `/queue/${encodeURIComponent(line.queue)}`, "data-link": "" }, line.queue),
      in_use: capacity(line.in_use, line.capacity),
      ready: count(line.ready),
      held: count(line.held),
      dead: count(line.dead),
      oldest: duration(line.oldest_seconds),
      sent: perSecond(line.sent_per_second),
      acked: perSecond(line.acked_per_second),
      state: state(line.state),
    };
    const row = make("tr", { class: "choose", "data-queue": line.queue });
    for (const [key, name, kind] of COLUMNS) {
      const isBad = key === "dead" && line.dead > 0;
      const label = key === "queue" || key === "in_use" ? undefined : name;
      row.append(make("td", { class: kind + (isBad ? " bad" : ""), "data-figure": key, "data-label": label }, cells[key]));
    }
    row.addEventListener("click", (event) => {
      if (!event.target.closest("a") && !getSelection().toString()) cells.queue.click();
    });
    return row;
  }

  badRow(line) {
    const error = make("td", { class: "break bad row", colspan: COLUMNS.length - 2, "data-figure": "error" }, line.error);
    return make("tr", { "data-queue": line.queue },
      make("td", { class: "name" }, make("span", {}, line.queue)), error, make("td", { class: "corner" }, state("unreadable")));
  }
}

function nodesCard(nodes) {
  const columns = [["Node", "name"], ["Process", "num"], ["Last beat", "num"], ["Health", "corner"]];
  const rows = nodes.map((node) => [
    node.node, String(node.pid), `${duration(node.last_beat_ago_seconds)} ago`, state(node.health),
  ]);
  return tableCard("Nodes", columns, rows, "");
}

// ---- One queue

const REASONS = {
  nacked: "nacked too often",
  expired: "lease ended too often",
  crashed: "workers died over it",
  buried: "buried",
};

class OneQueue {
  constructor(name) {
    this.name = name;
    document.title = `${name} – queue`;
    this.plotsFrom = 0;
    this.lettersOf = null;
    this.letters = [];
    this.areAllShown = false;
    this.state = make("span");
    this.actions = make("div", { class: "actions" });
    this.problem = make("section", { class: "card bad", hidden: "" });
    this.tiles = make("dl", { class: "tiles" });
    this.tables = make("div");
    this.plots = [
      new Plot("Depth", "messages", [
        ["ready", "ready", "blue"], ["held", "held", "orange"], ["delayed", "delayed", "purple"]], true),
      new Plot("Rates", "messages per second", [
        ["sent_per_second", "sent", "blue"],
        ["delivered_per_second", "delivered", "orange"],
        ["acked_per_second", "acked", "green"]], false),
      new Plot("Dead letters", "dead letters", [["dead", "dead", "red"]], true),
    ];
    main.replaceChildren(
      make("div", { class: "head" },
        make("a", { class: "back", href: "/", "data-link": "" }, "← All queues"),
        make("h1", {}, name), this.state, this.actions),
      this.problem,
      this.tiles,
      make("div", { class: "plots" }, ...this.plots.map((plot) => plot.element)),
      this.tables,
    );
  }

  async poll() {
    const all = ask("/api/queues");
    const [stat, list] = await Promise.allSettled([ask(at("queues", this.name)), all]);
    if (list.status === "rejected") throw list.reason;
    const problem = stat.status === "rejected" ? stat.reason : null;
    if (problem && !(problem instanceof Refused)) throw problem;
    const bad = list.value.unreadable.find((line) => line.queue === this.name);
    this.problem.hidden = !problem;
    this.problem.textContent = problem ? (bad ? bad.error : problem.message) : "";
    const line = list.value.queues.find((one) => one.queue === this.name);
    if (!problem && line) await this.draw(stat.value, line, list.value.actions);
    await this.history();
    return list.value.sampled_ago_seconds;
  }

  async history() {
    if (performance.now() < this.plotsFrom) return;
    this.plotsFrom = performance.now() + HISTORY_MS;
    try {
      const data = await ask(at("history", this.name));
      for (const plot of this.plots) plot.show(data);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
    }
  }

  async draw(stat, line, canAct) {
    const { stats } = stat;
    this.state.replaceChildren(state(line.state));
    this.drawActions(stats, canAct);
    const taken = line.in_use;
    this.tiles.replaceChildren(
      tile("Ready", "ready", count(stats.ready)),
      tile("Held", "held", count(stats.leased)),
      tile("Delayed", "delayed", count(stats.delayed)),
      tile("Dead letters", "dead", count(stats.dead), "", stats.dead > 0),
      tile("Oldest", "oldest", duration(stat.oldest_seconds)),
      tile("Sent", "sent", perSecond(line.sent_per_second)),
      tile("Acked", "acked", perSecond(line.acked_per_second)),
    );
    // Read again only when the number changed, and now and then.
    const version = `${stats.dead} ${stats.buried} ${stats.nacked} ${Math.floor(performance.now() / HISTORY_MS)}`;
    if (stats.dead === 0) this.letters = [];
    else if (version !== this.lettersOf) this.letters = await ask(at("dead", this.name));
    this.lettersOf = version;
    const facts = make("div", { class: "columns" }, this.counters(stats), this.settings(stat, taken, line.capacity));
    this.tables.replaceChildren(...[
      this.holders(stat), this.dead(stats), this.participants(stat), facts].filter(Boolean));
  }

  drawActions(stats, canAct) {
    if (!canAct) return;
    const isDrawn = `${stats.paused} ${stats.dead > 0}`;
    if (isDrawn === this.actionsOf) return;
    this.actionsOf = isDrawn;
    const button = (name, action, question, isOff) => {
      const element = make("button", { type: "button" }, name);
      element.disabled = isOff || !token;
      if (!token) element.title = "Open the address that ipc web printed: it ends with the token";
      element.addEventListener("click", () => this.act(action, question, element));
      return element;
    };
    this.actions.replaceChildren(
      stats.paused
        ? button("Resume", "resume", `Resume ${this.name}?`, false)
        : button("Pause", "pause", `Pause ${this.name}? It delivers nothing until it is resumed.`, false),
      button("Requeue dead letters", "requeue", `Deliver all dead letters of ${this.name} again?`, !stats.dead),
    );
  }

  async act(action, question, button) {
    if (!confirm(question)) return;
    button.disabled = true;
    try {
      const headers = { "X-Ipc-Token": token };
      say((await ask(at(action, this.name), { method: "POST", headers })).done);
    } catch (error) {
      say(error.message);
    }
    this.actionsOf = null;
    refresh();
  }

  holders(stat) {
    if (stat.leases === null) return null;
    const columns = [
      ["Message", "mono name"], ["Holder", ""], ["Process", "num"], ["Attempt", "num"],
      ["Held for", "num"], ["Lease ends in", "num"], ["Health", "corner"]];
    const most = 100;
    const rows = stat.leases.slice(0, most).map((held) => [
      held.message, held.holder, String(held.pid), String(held.attempt),
      heldFor(held),
      held.health === null ? "–" : held.lease_left_seconds === null ? "no limit" : duration(held.lease_left_seconds),
      held.health === null ? "" : state(held.health),
    ]);
    const title = stat.leases.length > most ? `Held messages: ${most} of ${count(stat.leases.length)}` : "Held messages";
    return tableCard(title, columns, rows, "No receiver holds a message.");
  }

  dead(stats) {
    const columns = [
      ["Letter", "mono name"], ["Why", ""], ["Attempts", "num"], ["Sent", "num"],
      ["Last held by", "num"], ["Error", "break row"], ["Payload", "break mono row"]];
    const most = this.areAllShown ? this.letters.length : FEW;
    const rows = this.letters.slice(0, most).map((letter) => [
      letter.letter,
      REASONS[letter.reason] || String(letter.reason),
      String(letter.attempts),
      `${duration(letter.age_seconds)} ago`,
      letter.last_worker === null ? "–" : String(letter.last_worker),
      letter.error || (letter.signal ? `ended by signal ${letter.signal}` : "–"),
      `${letter.payload.excerpt} (${bytes(letter.payload.bytes)})`,
    ]);
    const isPart = rows.length && rows.length < stats.dead;
    const title = isPart ? `Dead letters: the youngest ${rows.length} of ${count(stats.dead)}` : "Dead letters";
    const section = tableCard(title, columns, rows, "No message was given up.");
    if (this.letters.length > FEW) {
      const name = this.areAllShown ? "Show fewer" : `Show all ${this.letters.length}`;
      const button = make("button", { type: "button", class: "more" }, name);
      button.addEventListener("click", () => {
        this.areAllShown = !this.areAllShown;
        refresh();
      });
      section.append(button);
    }
    return section;
  }

  participants(stat) {
    if (!stat.participants) return null;
    const columns = [["Process", "name"], ["Number", "num"], ["Blocked", ""], ["Health", "corner"]];
    const rows = stat.participants.map((one) => [
      one.name || "–", String(one.pid), blockedWords(one) || "–", state(one.alive ? one.health : "dead")]);
    return tableCard("Attached processes", columns, rows, "No process has the queue open.");
  }

  counters(stats) {
    const facts = [
      ["Sent", stats.sent], ["Delivered", stats.received], ["Delivered again", stats.redelivered],
      ["Acked", stats.acked], ["Nacked", stats.nacked], ["Buried", stats.buried],
      ["Leases ended", stats.expiries], ["Receivers died", stats.crashes], ["Settled too late", stats.leases_lost],
      ["Refused, no room", stats.refused], ["Expired", stats.expired], ["Purged", stats.purged],
      ["Pushed out", stats.overflowed], ["Duplicates", stats.duplicates]];
    return card("Since it was made", list(facts.filter(([, value]) => value !== undefined && value !== null)
      .map(([name, value]) => [name, count(value)])));
  }

  settings(stat, taken, places) {
    const facts = [["Type", stat.type], ["Places", capacity(taken, places)]];
    if (stat.pool) {
      const { used_bytes, total_bytes, largest_fit_bytes } = stat.pool;
      facts.push(["Payload pool", `${bytes(used_bytes)} of ${bytes(total_bytes)} used`]);
      facts.push(["Largest payload now", bytes(largest_fit_bytes)]);
      facts.push(["Memory", bytes(stat.bytes)], ["File", stat.file]);
      const blocked = blockedWords(stat);
      facts.push(["Blocked now", blocked || "nothing"]);
    }
    for (const [name, value] of Object.entries(stat.settings)) {
      if (value === null || name === "capacity") continue;
      const words = name.replace(/_(seconds|bytes)$/, "").replaceAll("_", " ");
      facts.push([words[0].toUpperCase() + words.slice(1), setting(name, value)]);
    }
    return card("The queue", list(facts));
  }
}

/** The time for which a message has been held, as exactly as it is known. */
function heldFor({ held_at_least_seconds: least, held_at_most_seconds: most }) {
  if (most === null) return "–";
  const [from, to] = [duration(least), duration(most)];
  return !least ? `up to ${to}` : from === to ? from : `${from} to ${to}`;
}

/** The handles that sleep, of a queue or of one process. */
function blockedWords({ blocked_senders: senders, blocked_receivers: receivers }) {
  const some = (number, name, what) => number && `${count(number)} ${name}${number === 1 ? "" : "s"}${what}`;
  const all = [some(senders, "sender", ", waiting for room"), some(receivers, "receiver", "")];
  return all.filter(Boolean).join("; ");
}

/** A setting in words. The names in the JSON say which values are times or sizes. */
function setting(name, value) {
  if (name === "backoff") {
    const between = value.kind === "exponential" ? " to " : ", ";
    return [value.kind, value.delays_seconds.map(duration).join(between)].filter(Boolean).join(": ");
  }
  if (name.endsWith("_bytes")) return bytes(value);
  if (name.endsWith("_seconds")) return duration(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? count(value) : String(value);
}

function list(facts) {
  const parts = facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  return make("dl", { class: "facts" }, ...parts);
}

// ---- The loop

let view = null;
let timer = null;
let polled = 0;

function open() {
  const match = location.pathname.match(/^\/queue\/(.+)$/);
  view = match ? new OneQueue(decodeURIComponent(match[1])) : new AllQueues();
  scrollTo(0, 0);
  refresh();
}

async function refresh() {
  clearTimeout(timer);
  const [mine, round] = [view, ++polled];
  try {
    const behind = await mine.poll();
    if (round !== polled) return;
    if (behind === null) showLive("", "Taking the first sample…");
    else if (behind > 5) showLive("off", `Last sample ${duration(behind)} ago`);
    else showLive("on", "Live");
  } catch (error) {
    if (round !== polled) return;
    showLive("off", error instanceof Refused ? error.message : "No answer from ipc web");
  }
  // A page that is not seen asks nothing.
  if (!document.hidden) timer = setTimeout(refresh, POLL_MS);
}

function showLive(kind, text) {
  live.className = `live ${kind}`;
  if (live.textContent !== text) live.textContent = text;
}

addEventListener("popstate", open);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-link]");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
  event.preventDefault();
  history.pushState(null, "", link.getAttribute("href"));
  open();
});
open();
