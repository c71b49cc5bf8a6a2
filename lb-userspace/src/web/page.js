"use strict";

// The page asks for what `podway get` prints as JSON, and draws it. All text goes in as text, never as markup.

const INTERVAL_MS = 2000;
const LISTED_MAX = 200;
const DRAWN_MAX = 60;
const COLUMN_PX = 250;
const BOX = { width: 210, height: 40, gap: 10 };
const SVG = "http://www.w3.org/2000/svg";

const part = (id) => document.getElementById(id);

/** Numbers of the time before, for rates: by name, the value and when it was. */
const before = new Map();

/** What is counted in a second, since the last time that it was told. */
function rate(name, value, now) {
  const last = before.get(name);
  before.set(name, { value, now });
  if (!last || now <= last.now || value < last.value) return null;
  return (value - last.value) / ((now - last.now) / 1000);
}

function text(amount) {
  if (amount === null) return "–";
  if (amount >= 1e6) return (amount / 1e6).toFixed(1) + " M";
  if (amount >= 1e4) return (amount / 1e3).toFixed(1) + " k";
  return amount >= 10 || Number.isInteger(amount) ? amount.toFixed(0) : amount.toFixed(1);
}

async function ask(resource, filter) {
  const query = filter ? "?filter=" + encodeURIComponent(filter) : "";
  const answer = await fetch("api/" + resource + query);
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

/** What the address says is chosen: `#map=NAME`, `#service=NAME`, and `&endpoint=ADDRESS` in either. */
function chosen() {
  return new URLSearchParams(location.hash.slice(1));
}

function choose(changes) {
  const next = chosen();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) next.delete(name);
    else next.set(name, value);
  }
  location.hash = next.toString();
}

function element(parent, name, attributes, content) {
  const made = parent instanceof SVGElement || name === "svg"
    ? document.createElementNS(SVG, name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  if (content !== undefined) made.textContent = content;
  parent.append(made);
  return made;
}

/** A link of the chain: where it stands, what it says, and what it leads to. */
class Chain {
  constructor() { this.columns = []; this.lines = []; }

  add(column, key, title, note, style, onChoice) {
    const boxes = (this.columns[column] ||= []);
    const known = boxes.find((box) => box.key === key);
    if (known) return known;
    const box = { key, title, note, style, onChoice, column, row: boxes.length };
    boxes.push(box);
    return box;
  }

  join(from, to) { this.lines.push([from, to]); }

  draw(parent) {
    const rows = Math.max(1, ...this.columns.map((column) => (column ? column.length : 0)));
    const height = rows * (BOX.height + BOX.gap) + 24;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("width", this.columns.length * COLUMN_PX);
    svg.setAttribute("height", height);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "chain");
    const x = (box) => box.column * COLUMN_PX;
    const y = (box) => 24 + box.row * (BOX.height + BOX.gap);
    for (const [from, to] of this.lines) {
      const [x1, y1, x2, y2] = [x(from) + BOX.width, y(from) + BOX.height / 2, x(to), y(to) + BOX.height / 2];
      const middle = (x1 + x2) / 2;
      element(svg, "path", { d: `M${x1} ${y1} C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}` });
    }
    const headings = ["VIP", "URL map", "backend service", "NEG", "endpoint"];
    this.columns.forEach((boxes, column) => {
      element(svg, "text", { x: column * COLUMN_PX, y: 14, class: "soft" }, headings[column]);
      for (const box of boxes || []) {
        const group = element(svg, "g", { class: box.style || "", "data-key": box.key });
        element(group, "rect", { x: x(box), y: y(box), width: BOX.width, height: BOX.height });
        element(group, "title", {}, box.title + "\n" + box.note);
        element(group, "text", { x: x(box) + 8, y: y(box) + 16 }, shortened(box.title));
        element(group, "text", { x: x(box) + 8, y: y(box) + 32, class: "soft" }, shortened(box.note));
        if (!box.onChoice) continue;
        group.classList.add("choice");
        group.setAttribute("tabindex", "0");
        group.setAttribute("role", "link");
        group.addEventListener("click", box.onChoice);
        group.addEventListener("keydown", (event) => { if (event.key === "Enter") box.onChoice(); });
      }
    });
    parent.replaceChildren(svg);
  }
}

function shortened(words) {
  return words.length > 32 ? words.slice(0, 31) + "…" : words;
}

/** A backend service with its NEGs and endpoints; what leads to it joins the box that is returned. */
async function addService(chain, name, facts, now) {
  const service = facts.services.find((one) => one.name === name);
  const flows = service ? rate("flows " + name, service.newFlows, now) : null;
  const note = service ? `${service.healthy} of ${service.endpoints} healthy, ${text(flows)} flows/s` : "not in the maps";
  const box = chain.add(2, name, name, note, service && service.healthy === 0 ? "unhealthy" : "",
    () => choose({ service: name, map: null, endpoint: null }));
  if (!service) return box;
  const [negs, endpoints] = await Promise.all([ask("negs", name), ask("endpoints", name)]);
  const own = (rows) => rows.filter((row) => row.backendService === name);
  const boxes = own(negs).map((neg) => {
    const panic = neg.panic ? ", panic" : "";
    const made = chain.add(3, name + " " + neg.kind, neg.kind,
      `${neg.healthy} of ${neg.endpoints}, ring of ${neg.ringLength}${panic}`, neg.panic ? "unhealthy" : "");
    chain.join(box, made);
    return [neg, made];
  });
  const ofService = own(endpoints);
  for (const endpoint of ofService.slice(0, DRAWN_MAX)) {
    const packets = rate("packets " + name + " " + endpoint.address, endpoint.packets, now);
    const made = chain.add(4, name + " " + endpoint.address, endpoint.address,
      `${endpoint.state}, ${text(packets)} packets/s`, endpoint.state,
      () => choose({ endpoint: endpoint.address }));
    const isSix = endpoint.address.startsWith("[");
    for (const [neg, from] of boxes) {
      const isOf = neg.kind.endsWith("V6") === isSix && (endpoint.local || !neg.kind.startsWith("local"));
      if (isOf && endpoint.slots > 0) chain.join(from, made);
    }
  }
  if (ofService.length > DRAWN_MAX) {
    chain.add(4, name + " others", `${ofService.length - DRAWN_MAX} more`, "podway get endpoints " + name, "");
  }
  const wanted = ofService.find((one) => one.address === chosen().get("endpoint"));
  if (wanted) facts.endpoint = wanted;
  return box;
}

async function drawService(chain, name, facts, now) {
  const box = await addService(chain, name, facts, now);
  const frontends = (await ask("frontends", name)).filter((one) => one.backendService === name);
  for (const frontend of frontends.slice(0, DRAWN_MAX)) {
    const place = `${frontend.address}:${frontend.port}/${frontend.protocol}`;
    const vip = chain.add(0, place, place, frontend.kind, "");
    chain.join(vip, box);
  }
  if (frontends.length > DRAWN_MAX) chain.add(0, "others", `${frontends.length - DRAWN_MAX} more`, "", "");
}

async function drawMap(chain, map, facts, now) {
  const vips = map.vips.map((vip) => chain.add(0, vip.address, vip.address, vip.source, ""));
  const rules = map.hosts.flatMap((host) => host.paths.map((path) => ({ host: host.host, path: path.path, to: path }))
    .concat(host.default ? [{ host: host.host, path: "default", to: host.default }] : []));
  if (map.default) rules.push({ host: "*", path: "default", to: map.default });
  const missing = (to) => to.missing || to.reason || "no backend service";
  for (const [index, rule] of rules.slice(0, DRAWN_MAX).entries()) {
    const name = rule.to.backendService;
    const made = chain.add(1, "rule " + index, rule.host + " " + rule.path, name || missing(rule.to), name ? "" : "unhealthy");
    for (const vip of vips) chain.join(vip, made);
    if (name) chain.join(made, await addService(chain, name, facts, now));
  }
  if (rules.length > DRAWN_MAX) chain.add(1, "others", `${rules.length - DRAWN_MAX} more rules`, "podway get url-maps", "");
}

function list(facts) {
  const wanted = part("search").value.trim().toLowerCase();
  const has = (words) => !wanted || words.some((word) => word.toLowerCase().includes(wanted));
  const maps = facts.maps
    .filter((map) => has([map.name, ...map.vips.map((vip) => vip.address), ...map.hosts.map((host) => host.host)]))
    .map((map) => ({ hash: "map=" + encodeURIComponent(map.name), name: map.name, note: "URL map" }));
  const services = facts.services.filter((one) => has([one.name])).map((one) => ({
    hash: "service=" + encodeURIComponent(one.name), name: one.name, note: `${one.healthy} of ${one.endpoints} healthy`,
  }));
  const all = maps.concat(services);
  const now = chosen();
  part("list").replaceChildren(...all.slice(0, LISTED_MAX).map((one) => {
    const item = document.createElement("li");
    const link = element(item, "a", { href: "#" + one.hash }, one.name + " ");
    element(link, "small", {}, one.note);
    if (one.name === (now.get("map") || now.get("service"))) link.classList.add("chosen");
    return item;
  }));
  part("more").textContent = all.length > LISTED_MAX ? `${all.length - LISTED_MAX} more: search for them` : "";
}

function table(id, rows) {
  part(id).replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    cells.forEach((cell, index) => element(row, index === 0 ? "th" : "td", index === 0 ? {} : { class: "number" }, cell));
    return row;
  }));
}

function details(endpoint) {
  const rows = [];
  const flat = (prefix, value) => {
    for (const [name, one] of Object.entries(value)) {
      if (one !== null && typeof one === "object") flat(prefix + name + " ", one);
      else if (one !== null) rows.push([prefix + name, String(one)]);
    }
  };
  const box = part("details");
  box.replaceChildren();
  if (!endpoint) return;
  flat("", endpoint);
  element(box, "h2", {}, "Endpoint " + endpoint.address);
  element(box, "table", { id: "endpoint" });
  table("endpoint", rows);
}

async function refresh() {
  const now = performance.now();
  const facts = { maps: [], services: [], endpoint: null };
  let fault = "";
  try {
    facts.services = await ask("backend-services");
    // A node without an agent has maps, but nobody who knows of Ingresses.
    facts.maps = await ask("url-maps").catch((error) => { fault = error.message; return []; });
    list(facts);
    const chain = new Chain();
    const [service, name] = [chosen().get("service"), chosen().get("map")];
    const map = facts.maps.find((one) => one.name === name);
    if (service) await drawService(chain, service, facts, now);
    else if (map) await drawMap(chain, map, facts, now);
    else if (name) fault ||= `there is no URL map ${name}`;
    if (service || map) part("title").textContent = service || map.name;
    chain.draw(part("chain"));
    details(facts.endpoint);
    const counters = await ask("counters");
    const lost = counters.filter((one) => one.outcome === "drop" || one.outcome === "refuse");
    const told = lost.map((one) => [one, rate("reason " + one.reason, one.packets, now)]);
    table("drops", told.filter(([one]) => one.packets > 0).map(([one, perSecond]) =>
      [one.reason, one.outcome, String(one.packets), text(perSecond) + "/s"]));
    part("age").textContent = "as of " + new Date().toLocaleTimeString();
  } catch (error) {
    fault = error.message;
  }
  part("fault").textContent = fault;
}

let running = null;

/** One look at a time; what was asked for meanwhile is one more. */
function look() {
  running = (running || Promise.resolve()).then(refresh);
  return running;
}

async function follow() {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((resume) => setTimeout(resume, INTERVAL_MS));
  }
}

addEventListener("hashchange", look);
part("search").addEventListener("input", look);
follow();
