// The page of a team: follows the stream of pictures, draws them, and passes orders on.

import { Ring, drawLine, keyed, short, stateClass } from "/ui/charts.js";

const $ = (id) => document.getElementById(id);
const MOMENTS_MAX = 600;
const REMARKS_MAX = 200;
const ROWS_MAX = 30;
const THIN_PX = 48;
const STALE_MS = 20000;
const HOURS_MIN_MS = 4 * 3600 * 1000;

// The token stands behind the `#`, which no browser sends; it is kept for this tab, not in the URL.
const shown = new URLSearchParams(location.hash.slice(1)).get("token");
if (shown) {
  sessionStorage.setItem("token", shown);
  history.replaceState(null, "", location.pathname);
}
const token = sessionStorage.getItem("token");
const headers = token ? { Authorization: `Bearer ${token}` } : {};

let look = null;
let moments = [];
let remarks = [];
let clockSkew = 0;
const ring = new Ring($("ring"));

const element = (name, className = "", text = "") => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== "") made.textContent = text;
  return made;
};
const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });
const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };

function rows(body, items, keyOf, cells, nothing) {
  if (!items.length) {
    const columns = body.parentElement.querySelectorAll("thead th").length;
    const cell = element("td", "empty", nothing);
    cell.colSpan = columns;
    const row = element("tr");
    row.append(cell);
    row.dataset.key = "";
    body.replaceChildren(row);
    return;
  }
  if (body.firstElementChild?.dataset.key === "") body.replaceChildren();
  keyed(body, items, keyOf,
    (item) => { const row = element("tr"); cells(item).forEach((_, number) => row.append(element(number ? "td" : "th"))); row.firstElementChild.scope = "row"; return row; },
    (row, item) => cells(item).forEach((cell, number) => {
      const [text, className] = Array.isArray(cell) ? cell : [cell, ""];
      setText(row.children[number], String(text));
      row.children[number].className = className;
    }));
}

// ---------------------------------------------------------------- drawing

function draw() {
  if (!look) return;
  document.title = `${look.title} \u2014 convoca`;
  setText($("title"), `convoca / ${look.title}`);
  drawSummary();
  drawOrders();
  $("tab-replicas").hidden = $("tab-members").hidden = !look.replicas;
  for (const name of ["bookings", "sagas", "queues"]) $(`tab-${name}`).hidden = !look.has_store;
  const chosen = document.querySelector("[role=tab][aria-selected=true]");
  if (chosen.hidden) choose(document.querySelector("[role=tab]:not([hidden])"));
  if (look.replicas) drawReplicas();
}

function drawSummary() {
  const parts = [];
  if (look.replicas) {
    const alive = look.replicas.filter((replica) => replica.state).length;
    parts.push(`${alive} replica${alive === 1 ? "" : "s"}`, `${look.states} state${look.states === 1 ? "" : "s"}`);
    parts.push(look.diverged ? `${look.diverged} document${look.diverged === 1 ? "" : "s"} diverged` : "nothing diverged");
  }
  setText($("summary"), parts.join(" \u00b7 "));
}

function drawOrders() {
  $("orders").hidden = !look.orders.length;
  for (const button of $("orders").querySelectorAll("button")) {
    button.hidden = !look.orders.includes(button.dataset.verb);
    button.disabled = !look.may_order;
    button.title = look.may_order ? "" : "Orders need the link with its token, as the terminal shows it";
  }
}

function drawReplicas() {
  ring.draw(look.replicas, look.links);
  rows($("ring-rows"), look.replicas, (r) => r.name, (r) => [r.name, r.state ? `${r.state} (${r.digest.slice(0, 8)})` : "unknown", r.status, `${short(r.bytes)} B`], "Nobody is there yet");
  rows($("link-rows"), look.links, (l) => `${l.one} ${l.other}`, (l) => [`${l.one} \u2013 ${l.other}`, l.state === "slow" ? `slow, ${l.delay_ms} ms` : l.state, String(l.used)], "No link is known");
  drawDocuments();
  drawCharts();
  rows($("member-rows"), look.replicas, (r) => r.name, (r) => [
    r.name, r.status, r.heard_s == null ? "\u2013" : `${r.heard_s.toFixed(1)} s ago`, r.lag == null ? "\u2013" : r.lag ? `${r.lag} events` : "nothing",
    r.journalled == null ? "\u2013" : r.journalled ? "yes" : "memory only", [r.address || "\u2013", "mono"], [r.id || "\u2013", "mono"],
  ], "Nobody is there yet");
}

function drawDocuments() {
  const seen = look.replicas.filter((replica) => replica.state);
  keyed($("documents-head"), [{ name: "" }, ...seen], (r) => r.name,
    (r) => { const head = element("th"); head.scope = "col"; head.append(...(r.name ? [element("span", "chip"), element("span")] : [element("span", "", "Document")])); return head; },
    (head, r) => {
      if (!r.name) return;
      setText(head.children[0], r.state);
      head.children[0].className = `chip ${stateClass(r.state)}`;
      setText(head.children[1], r.name);
    });
  const body = $("documents-rows");
  if (!look.documents.length) { rows(body, [], null, null, "No document holds anything yet"); return; }
  if (body.firstElementChild?.dataset.key === "") body.replaceChildren();
  keyed(body, look.documents, (d) => d.name, (d) => {
    const row = element("tr"), head = element("th");
    head.scope = "row";
    head.append(element("span", "", d.name), element("span", "type"));
    row.append(head);
    return row;
  }, (row, d) => {
    setText(row.firstElementChild.children[1], d.type);
    while (row.children.length > seen.length + 1) row.lastElementChild.remove();
    seen.forEach((replica, number) => {
      let cell = row.children[number + 1];
      if (!cell) { cell = element("td"); const button = element("button"); button.type = "button"; cell.append(button); row.append(cell); }
      const button = cell.firstElementChild;
      const value = d.values[replica.name] ?? "\u2013";
      const differs = d.differs.includes(replica.name);
      setText(button, value);
      cell.className = differs ? "differs" : "";
      button.dataset.replica = replica.name;
      button.dataset.document = d.name;
      const label = `${d.name} on ${replica.name}: ${value}${differs ? ", differs" : ""}`;
      if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
    });
  });
  setText($("documents-note"), (look.left_out ? `${look.left_out} more documents are not shown. ` : "") + "Choose a value to see who wrote it, when, and what it replaced.");
}

function drawCharts() {
  const points = moments.map((m) => [m.now_ms, m.diverged]);
  drawLine($("diverged"), points, "documents diverged");
  const rates = [];
  const second = 4;
  for (let i = second; i < moments.length; i += 1) {
    const [before, after] = [moments[i - second], moments[i]];
    const seconds = Math.max(0.001, (after.now_ms - before.now_ms) / 1000);
    rates.push([after.now_ms, Math.max(0, after.bytes - before.bytes) / seconds]);
  }
  drawLine($("bytes"), rates, "bytes a second");
  const latest = moments.slice(-ROWS_MAX).reverse();
  if ($("diverged-rows").closest("details").open) rows($("diverged-rows"), latest, (m) => m.now_ms, (m) => [clock(m.now_ms), m.diverged, m.states], "Nothing yet");
  if ($("bytes-rows").closest("details").open) rows($("bytes-rows"), rates.slice(-ROWS_MAX).reverse(), ([ms]) => ms, ([ms, rate]) => [clock(ms), short(rate)], "Nothing yet");
}

function drawLog() {
  keyed($("log"), [...remarks].reverse(), (r) => r.key, (r) => {
    const line = element("li");
    line.append(element("time", "", clock(r.at_ms)), element("span", "", r.text));
    return line;
  }, () => {});
}

const ENDED = new Set(["expired", "released", "cancelled", "moved"]);
const SAID = { released: "given back" };

// What stands where there is nothing: why the store does not answer, that it is being read, or that.
const nothing = (part, text) => look.store[`${part}_error`] || (look.store[part] ? text : "Reading the store \u2026");

function drawStore() {
  const store = look.store;
  if (!store) return;
  // Only what is looked at is drawn: a conference has a thousand bookings.
  if (!$("bookings").hidden) drawTimeline(store.rooms || []);
  if (!$("sagas").hidden) drawSagas(store.sagas || []);
  if (!$("queues").hidden) drawQueues(store);
}

function drawQueues(store) {
  const queues = store.queues || [];
  rows($("queue-rows"), queues, (q) => q.name, (q) => [q.name, ...["waiting", "ready", "claimed", "done", "parked", "cancelled"].map((state) => q.depths[state] ?? "0")], nothing("queues", "No queue holds a job"));
  const jobs = queues.flatMap((queue) => queue.jobs.map((job) => ({ ...job, queue: queue.name })));
  rows($("job-rows"), jobs, (j) => `${j.queue} ${j.id}`, (j) => [j.queue, j.id, j.state, j.worker || "\u2013", j.attempts, j.error || "\u2013"], "None");
}

const left = (booking) => Math.max(0, Math.ceil((booking.expires_ms - Date.now() - clockSkew) / 1000));
const stateOf = (booking) => (booking.state === "held" && left(booking) === 0 ? "expired" : booking.state);
const saidState = (booking) => {
  const state = stateOf(booking);
  return state === "held" ? `held, ${left(booking)} s left` : SAID[state] || state;
};
const when = (ms) => new Date(ms).toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false });

function drawTimeline(rooms) {
  const place = $("timeline");
  const all = rooms.flatMap((room) => room.bookings.map((booking) => ({ ...booking, room: room.name })));
  if ($("bookings-behind").open) rows($("booking-rows"), all, (b) => `${b.room} ${b.id}`, (b) => [b.room, when(b.start_ms), when(b.end_ms), b.holder, saidState(b)], nothing("rooms", "No room was booked yet"));
  if (!all.length) { place.replaceChildren(element("p", "nothing", nothing("rooms", "No room was booked yet"))); return; }
  if (place.querySelector(".nothing")) place.replaceChildren();
  const first = Math.min(...all.map((b) => b.start_ms)), last = Math.max(first + HOURS_MIN_MS, ...all.map((b) => b.end_ms));
  const lanes = [...rooms.filter((room) => room.bookings.length), null];
  keyed(place, lanes, (room) => (room ? `room ${room.name}` : "ticks"), (room) => {
    if (!room) return element("div", "ticks");
    const lane = element("div", "lane");
    lane.append(element("h3", "", room.name), element("div", "track"));
    return lane;
  }, (lane, room) => {
    if (room) { drawTrack(lane.children[1], room, first, last); return; }
    const count = innerWidth < 700 ? 2 : 4;
    const texts = Array.from({ length: count + 1 }, (_, number) => when(first + ((last - first) * number) / count));
    if (lane.dataset.said !== texts.join()) { lane.dataset.said = texts.join(); lane.replaceChildren(...texts.map((text) => element("span", "", text))); }
  });
}

function drawTrack(track, room, first, last) {
  const ends = [];
  const placed = room.bookings.map((booking) => {
    let row = ends.findIndex((end) => end <= booking.start_ms);
    if (row < 0) row = ends.length;
    ends[row] = booking.end_ms;
    return { booking, row };
  });
  track.style.height = `${Math.max(1, ends.length) * 2.6}rem`;
  keyed(track, placed, ({ booking }) => booking.id, () => {
    const slot = element("div");
    slot.append(element("b"), element("span"));
    return slot;
  }, (slot, { booking, row }) => {
    const share = (booking.end_ms - booking.start_ms) / (last - first);
    const thin = share * track.clientWidth < THIN_PX ? " thin" : ""; // its words stand in its title, and in the table
    slot.className = `slot ${stateOf(booking)}${thin}`;
    slot.style.left = `${((booking.start_ms - first) / (last - first)) * 100}%`;
    slot.style.width = `calc(${share * 100}% - 1px)`;
    slot.style.top = `${row * 2.6}rem`;
    setText(slot.children[0], booking.holder);
    setText(slot.children[1], saidState(booking).replace("held, ", ""));
    slot.title = `${booking.holder}: ${saidState(booking)}, ${when(booking.start_ms)} to ${when(booking.end_ms)}${booking.note ? `; ${booking.note}` : ""}`;
  });
}

const MARKS = { done: "\u2713", skipped: "\u2713", undone: "\u21a9", undoing: "\u21a9", failed: "\u2717", refused: "\u2717", running: "\u2026", waiting: "\u2026", asking: "?" };

function drawSagas(runs) {
  const list = $("saga-rows");
  if (!runs.length) { list.replaceChildren(element("li", "nothing", nothing("sagas", "No saga was begun yet"))); return; }
  if (list.querySelector(":scope > .nothing")) list.replaceChildren();
  keyed(list, runs, (run) => run.id, () => {
    const item = element("li", "run"), top = element("div", "top");
    top.append(element("b"), element("span", "who"), element("span", "state"));
    const steps = element("ol", "steps");
    item.append(top, steps, element("p", "error"));
    return item;
  }, (item, run) => {
    const [top, steps, error] = item.children;
    setText(top.children[0], run.id);
    setText(top.children[1], [run.saga, run.owner && `by ${run.owner}`].filter(Boolean).join(" "));
    setText(top.children[2], run.state.replace("_", " "));
    top.children[2].className = `state ${run.state}`;
    keyed(steps, run.steps, (step) => step.name, () => element("li"), (chip, step) => {
      chip.className = `step ${step.state}`;
      setText(chip, `${MARKS[step.state]} ${step.name}${step.attempts > 1 ? ` \u00d7${step.attempts}` : ""}`);
      const label = `${step.name}: ${step.state}, ${step.attempts} attempts`;
      chip.title = label;
      if (chip.getAttribute("aria-label") !== label) chip.setAttribute("aria-label", label);
    });
    setText(error, run.error);
    error.hidden = !run.error;
  });
}

// ---------------------------------------------------------------- provenance

$("documents-rows").addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { replica, document: name } = button.dataset;
  setText($("provenance-title"), `${name} on ${replica}`);
  setText($("provenance-note"), "Asking \u2026");
  $("provenance-rows").replaceChildren();
  $("provenance").showModal();
  try {
    const answer = await fetch(`/ui/explain?${new URLSearchParams({ replica, name })}`, { headers });
    const told = answer.headers.get("Content-Type")?.startsWith("application/json") ? await answer.json() : {};
    if (!answer.ok) throw new Error(told.error || `the page answered ${answer.status}`);
    setText($("provenance-note"), told.lines.length ? "What is shown, what lost against it at the same time, and what was replaced by somebody who had seen it." : "Nothing is known of its writes any more.");
    rows($("provenance-rows"), told.lines.map((line, number) => ({ ...line, number })), (l) => l.number, (l) => [
      [l.fate + (l.by ? ` ${l.fate === "lost" ? "to" : "by"} ${writer(l.by)}` : ""), `fate ${l.fate}`], [(l.place ? `${l.place}: ` : "") + (l.missing || l.value), "mono"],
      l.writer ? writer(`${l.writer}:${l.seq}`) : "\u2013", l.written_ms ? clock(l.written_ms) : l.durable_here_ms ? `here ${clock(l.durable_here_ms)}` : "\u2013",
    ], "None");
  } catch (error) {
    setText($("provenance-note"), error.message);
  }
});
const writer = (dot) => dot.replace(/~[^:]*/, "").replace(":", " #");

// ---------------------------------------------------------------- orders

$("orders").addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button || button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true"); // not disabled: the focus would be lost
  try {
    const answer = await fetch("/ui/orders", { method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify({ verb: button.dataset.verb }) });
    const told = answer.headers.get("Content-Type")?.startsWith("application/json") ? await answer.json() : {};
    say(told.done || told.error || `the order was refused (${answer.status})`, !answer.ok);
  } catch (error) {
    say(`the order was not sent: ${error.message}`, true);
  }
  button.removeAttribute("aria-busy");
});

function say(text, bad = false) {
  setText($("told"), text);
  $("told").className = bad ? "told bad" : "told";
}

// ---------------------------------------------------------------- tabs

function choose(tab) {
  for (const each of document.querySelectorAll("[role=tab]")) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", chosen);
    each.tabIndex = chosen ? 0 : -1;
    $(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (look) drawStore();
}
for (const details of document.querySelectorAll("details.behind")) details.addEventListener("toggle", () => { draw(); if (look) drawStore(); });
$("tabs").addEventListener("click", (event) => { const tab = event.target.closest("[role=tab]"); if (tab) choose(tab); });
$("tabs").addEventListener("keydown", (event) => {
  const tabs = [...document.querySelectorAll("[role=tab]:not([hidden])")];
  const now = tabs.indexOf(document.activeElement);
  const to = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const tab = tabs[(to + tabs.length) % tabs.length];
  choose(tab);
  tab.focus();
});

// ---------------------------------------------------------------- the stream

function take(text) {
  const before = look?.store;
  look = JSON.parse(text);
  const fresh = look.store !== undefined; // sent only where something of it changed
  if (!fresh) look.store = before || {};
  moments = [...moments, ...look.moments].slice(-MOMENTS_MAX);
  if (look.remarks.length) {
    remarks = [...remarks, ...look.remarks.map((r) => ({ ...r, key: crypto.randomUUID?.() ?? `${r.at_ms} ${Math.random()}` }))].slice(-REMARKS_MAX);
    drawLog();
  }
  draw();
  if (fresh) {
    if (look.store.now_ms) clockSkew = look.store.now_ms - Date.now();
    drawStore();
  }
}

async function follow() {
  const watchdog = new AbortController();
  let timer = 0;
  const alive = () => { clearTimeout(timer); timer = setTimeout(() => watchdog.abort(), STALE_MS); };
  try {
    alive();
    const answer = await fetch("/ui/stream", { headers, signal: watchdog.signal });
    if (answer.status === 403) { say("This page wants the link with its token, as the terminal shows it; after a restart there is a new one.", true); return false; }
    if (!answer.ok) return true;
    look = null;
    moments = [];
    remarks = [];
    say("");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return true;
      alive();
      buffer += value;
      const parts = buffer.split("\n\n");
      buffer = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        if (data) take(data);
      }
    }
  } catch {
    return true;
  } finally {
    clearTimeout(timer);
  }
}

(async () => {
  for (let pause = 500; ; pause = Math.min(pause * 2, 5000)) {
    const before = Date.now();
    if (!(await follow())) return;
    if (Date.now() - before > 5000) pause = 500;
    say("The page does not answer; trying again \u2026", true);
    setText($("summary"), "not connected");
    await new Promise((resolve) => { setTimeout(resolve, pause); });
  }
})();
setInterval(() => { // what is held counts down
  if (look?.store?.rooms?.some((room) => room.bookings.some((booking) => booking.state === "held"))) drawStore();
}, 1000);
