// Pictures drawn as SVG by hand: a ring of replicas, and a line over time. Nothing is fetched.

const NS = "http://www.w3.org/2000/svg";
export const still = matchMedia("(prefers-reduced-motion: reduce)");

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export const stateClass = (letter) => {
  const number = letter ? letter.charCodeAt(0) - 65 : -1;
  return number >= 0 && number < 6 ? `s${number}` : "";
};

// Children of `parent` follow `items`: those of known keys are kept, so focus and motion survive.
export function keyed(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = null;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = known.get(key);
    if (child) known.delete(key);
    else { child = make(item); child.dataset.key = key; }
    update(child, item);
    const next = place ? place.nextSibling : parent.firstChild;
    if (child !== next) parent.insertBefore(child, next);
    place = child;
  }
  for (const child of known.values()) child.remove();
}

const places = (count) => Array.from({ length: count }, (_, number) => {
  const turn = (2 * Math.PI * number) / Math.max(count, 1) - Math.PI / 2;
  const radius = count > 1 ? 104 : 0;
  return { x: 160 + radius * Math.cos(turn) * 1.22, y: 138 + radius * Math.sin(turn) };
});

export class Ring {
  constructor(element) {
    this.element = element;
    this.links = svg("g");
    this.nodes = svg("g");
    this.used = new Map();
    element.append(this.links, this.nodes);
  }

  draw(replicas, links) {
    const spots = places(replicas.length);
    const at = new Map(replicas.map((replica, number) => [replica.name, spots[number]]));
    const size = replicas.length > 12 ? 12 : replicas.length > 7 ? 17 : 24;
    const drawn = links.filter((link) => at.has(link.one) && at.has(link.other));
    keyed(this.links, drawn, (link) => `${link.one} ${link.other}`,
      () => svg("g", {}, svg("line"), svg("line", { class: "pulse" }), svg("text", { class: "digest" })),
      (group, link) => this.drawLink(group, link, at.get(link.one), at.get(link.other)));
    keyed(this.nodes, replicas, (replica) => replica.name,
      () => svg("g", {}, svg("circle"), svg("text", { class: "letter" }), svg("text", { class: "name" }), svg("text", { class: "digest" })),
      (group, replica) => drawNode(group, replica, at.get(replica.name), size));
    this.element.setAttribute("aria-label", said(replicas, drawn));
  }

  drawLink(group, link, one, other) {
    const [line, pulse, label] = group.children;
    for (const each of [line, pulse]) {
      each.setAttribute("x1", one.x); each.setAttribute("y1", one.y);
      each.setAttribute("x2", other.x); each.setAttribute("y2", other.y);
    }
    line.setAttribute("class", `link ${link.state}`);
    label.textContent = link.state === "slow" && link.delay_ms ? `${link.delay_ms} ms` : "";
    label.setAttribute("x", (one.x + other.x) / 2);
    label.setAttribute("y", (one.y + other.y) / 2 - 4);
    const key = group.dataset.key;
    const before = this.used.get(key);
    this.used.set(key, link.used);
    if (before !== undefined && link.used > before && link.state !== "cut") {
      group.dataset.pulses = Number(group.dataset.pulses || 0) + 1;
      if (!still.matches) pulse.animate([{ opacity: 0.75 }, { opacity: 0 }], { duration: 700, easing: "ease-out" });
    }
  }
}

function drawNode(group, replica, spot, size) {
  const [circle, letter, name, digest] = group.children;
  group.setAttribute("class", `node ${replica.state ? stateClass(replica.state) : "unknown"}`);
  group.dataset.state = replica.state;
  circle.setAttribute("cx", spot.x); circle.setAttribute("cy", spot.y); circle.setAttribute("r", size);
  letter.setAttribute("x", spot.x); letter.setAttribute("y", spot.y + 0.5);
  letter.textContent = replica.state || (replica.status === "alive" ? "?" : "\u2715");
  name.setAttribute("x", spot.x); name.setAttribute("y", spot.y + size + 15);
  name.textContent = replica.name.length > 14 ? `${replica.name.slice(0, 13)}\u2026` : replica.name;
  digest.setAttribute("x", spot.x); digest.setAttribute("y", spot.y + size + 28);
  digest.textContent = replica.digest ? replica.digest.slice(0, 6) : replica.status;
}

function said(replicas, links) {
  const groups = new Map();
  for (const { name, state, status } of replicas) {
    const what = state ? `state ${state}` : status === "alive" ? "unknown" : status;
    groups.set(what, [...(groups.get(what) || []), name]);
  }
  const cut = links.filter((link) => link.state === "cut").length;
  const slow = links.filter((link) => link.state === "slow").length;
  const parts = [...groups].map(([what, names]) => `${what}: ${names.join(", ")}`);
  if (cut) parts.push(`${cut} links cut`);
  if (slow) parts.push(`${slow} links slow`);
  return parts.join("; ") || "No replica is known yet";
}

// A line over time, [ms, number] by [ms, number]; the latest at the right edge, a peak is never lost.
export function drawLine(element, points, unit) {
  const [left, right, top, bottom] = [34, 314, 10, 66];
  const most = Math.max(1, ...points.map(([, number]) => number));
  const first = points.length ? points[0][0] : 0;
  const last = points.length ? points[points.length - 1][0] : 1;
  const x = (ms) => left + ((ms - first) / Math.max(1, last - first)) * (right - left);
  const y = (number) => bottom - (number / most) * (bottom - top);
  let path = "";
  points.forEach(([ms, number], index) => {
    path += index ? `H${x(ms).toFixed(1)}V${y(number).toFixed(1)}` : `M${x(ms).toFixed(1)} ${y(number).toFixed(1)}`;
  });
  const now = points.length ? points[points.length - 1][1] : 0;
  const text = (content, attributes) => { const made = svg("text", attributes); made.textContent = content; return made; };
  element.replaceChildren(
    svg("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
    ...(path ? [
      svg("path", { class: "area", d: `${path}V${bottom}H${left}Z` }),
      svg("path", { class: "line", d: path }),
    ] : []),
    text(short(most), { x: left - 5, y: top + 8, "text-anchor": "end" }),
    text("0", { x: left - 5, y: bottom, "text-anchor": "end" }),
    text(`${Math.round((last - first) / 1000)} s ago`, { x: left, y: 80 }),
    text(`now ${short(now)}`, { x: right, y: 80, "text-anchor": "end" }),
  );
  element.setAttribute("aria-label", `${short(now)} ${unit} now, at most ${short(most)} in ${Math.round((last - first) / 1000)} seconds`);
}

export const short = (number) =>
  number >= 1e6 ? `${(number / 1e6).toFixed(1)}M` : number >= 1e4 ? `${Math.round(number / 1e3)}k` : number >= 1e3 ? `${(number / 1e3).toFixed(1)}k` : String(Math.round(number));
