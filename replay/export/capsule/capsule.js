"use strict";
// What a capsule's page does: it shows what its data say. Texts of a history become text nodes and nothing else; keys of a
// history are keys of Maps; nothing is fetched, nothing is kept.
(() => {
  const $ = (id) => document.getElementById(id);
  const view = JSON.parse($("view").textContent);
  const events = view.events, texts = view.texts, last = events.length - 1;
  const place = new Map(events.map((event, index) => [event.v, index]));
  let now = last, panel = "state", side = "event";

  // --- making elements: text is only ever text

  const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}\p{Cn}]/gu, JOINING = new Set(["\n", "\t", "\u200c", "\u200d"]);
  function put(node, told) {
    const text = String(told);
    let from = 0;
    for (const found of text.matchAll(UNSEEN)) {
      if (JOINING.has(found[0])) continue;
      if (found.index > from) node.append(text.slice(from, found.index));
      const mark = document.createElement("span");
      mark.className = "ctl";
      mark.textContent = "U+" + found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      node.append(mark);
      from = found.index + found[0].length;
    }
    node.append(text.slice(from));
    return node;
  }
  function el(tag, kind, ...parts) {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    for (const part of parts) if (part instanceof Node) node.append(part); else if (part !== null && part !== undefined) put(node, String(part));
    return node;
  }
  function svg(tag, kind, named) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    if (kind) node.setAttribute("class", kind);
    for (const [name, value] of Object.entries(named || {})) node.setAttribute(name, value);
    return node;
  }
  function link(version, text) {
    const node = el("button", "link", text || "version " + version);
    node.type = "button";
    node.addEventListener("click", () => goto(version));
    return node;
  }
  const prose = (text, kind) => el("p", kind || "note", ...text.split("`").map((part, index) => (index % 2 ? el("code", "", part) : part)));
  const empty = (node) => (node.replaceChildren(), node);
  const many = (count, one, more) => count.toLocaleString("en") + " " + (count === 1 ? one : more || one + "s");

  // --- values: ["l" …] lists, ["d" key value …] dicts, ["f"|"i" text] numbers, ["b" …] bytes, ["s"|"t" index] texts

  class Plain { constructor(text, kind) { this.text = text; this.kind = kind; } }
  class Cut { constructor(text, length) { this.text = text; this.length = length; } }
  function value(raw) {
    if (!Array.isArray(raw)) return raw;
    switch (raw[0]) {
      case "l": return raw.slice(1).map(value);
      case "d": { const map = new Map(); for (let i = 1; i < raw.length; i += 2) map.set(key(raw[i]), value(raw[i + 1])); return map; }
      case "s": return texts[raw[1]];
      case "t": return new Cut(texts[raw[1]], raw[2]);
      case "b": return new Plain(raw[1] + (raw[2] > 3000 ? "…" : ""), many(raw[2], "byte") + ", base64");
      default: return new Plain(raw[1], "");
    }
  }
  const key = (raw) => { const found = value(raw); return found instanceof Cut ? found.text + "…" : found; };
  const fields = (index) => { const raw = events[index].fields; return raw === undefined ? null : value(raw); };
  const size = (held) => (held instanceof Map ? held.size : held.length);
  const holds = (held) => held instanceof Map || Array.isArray(held);

  // --- states: the last whole one before, and the patches since (RFC 6902)

  function state(index) {
    let from = index;
    while (from >= 0 && events[from].state === undefined) from--;
    if (from < 0 || events[from].state === null) return null;
    const found = value(events[from].state);
    for (let i = from + 1; i <= index; i++) if (events[i].patch) apply(found, events[i].patch);
    return found;
  }
  function apply(held, patch, changes) {
    for (const [op, pointer, raw] of patch) {
      const parts = pointer.split("/").slice(1).map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
      const name = parts.pop();
      let holder = held;
      for (const part of parts) holder = holder instanceof Map ? holder.get(part) : holder[Number(part)];
      const was = holder instanceof Map ? holder.get(name) : holder[Number(name)];
      const next = op === "remove" ? undefined : value(raw);
      if (holder instanceof Map) { if (op === "remove") holder.delete(name); else holder.set(name, next); }
      else if (op === "remove") holder.splice(Number(name), 1);
      else if (op === "add") holder.splice(Number(name), 0, next);
      else holder[Number(name)] = next;
      if (changes) note(changes, pointer, op, was);
    }
  }
  function note(changes, pointer, op, was) {
    const above = pointer.slice(0, pointer.lastIndexOf("/"));
    if (op === "remove") {
      if (!changes.gone.has(above)) changes.gone.set(above, []);
      changes.gone.get(above).push([pointer.slice(above.length + 1).replaceAll("~1", "/").replaceAll("~0", "~"), was]);
    } else changes.made.set(pointer, { op, was });
    for (let up = above; up; up = up.slice(0, up.lastIndexOf("/"))) changes.within.add(up);
  }

  // --- a value as a tree

  const SHOWN = 100, CLIP = 480;
  const calm = () => ({ made: new Map(), gone: new Map(), within: new Set() });
  function leaf(held) {
    if (typeof held === "string") return text(held, held.length, '"');
    if (held instanceof Cut) return text(held.text, held.length, '"');
    if (held instanceof Plain) return held.kind ? el("span", "", el("span", "number", held.text), el("span", "size", " " + held.kind)) : el("span", "number", held.text);
    if (typeof held === "number") return el("span", "number", held);
    return el("span", "word", held === null ? "null" : held);
  }
  function text(all, length, quote) {
    const clipped = all.length > CLIP, node = el("span", "text", quote + (clipped ? all.slice(0, CLIP) + "…" : all + (all.length < length ? "…" : "")) + quote);
    if (!clipped && all.length === length) return node;
    const told = el("span", "size", all.length < length ? " the first " + all.length.toLocaleString("en") + " of " + many(length, "character") + " are on this page" : "");
    const both = el("span", "", node, told);
    if (clipped) {
      const more = el("button", "more", "all " + many(all.length, "character"));
      more.type = "button";
      more.addEventListener("click", (event) => { event.preventDefault(); put(empty(node), quote + all + (all.length < length ? "…" : "") + quote); more.remove(); });
      both.append(more);
    }
    return both;
  }
  function row(name, held, pointer, changes, depth) {
    const made = changes.made.get(pointer), kind = made ? (made.op === "add" ? "added" : "other") : changes.within.has(pointer) ? "inside" : "";
    const sign = made ? el("span", "sign", made.op === "add" ? "+" : "~") : null;
    const was = made && made.op === "replace" && !holds(made.was) ? el("span", "was", leaf(made.was)) : null;
    if (!holds(held)) return el("div", "item " + kind, sign, el("span", "key", name), was, leaf(held));
    if (!size(held) && !changes.gone.has(pointer)) return el("div", "item " + kind, sign, el("span", "key", name), was, el("span", "word", held instanceof Map ? "{}" : "[]"));
    const node = el("details"), inside = kind === "inside" || changes.gone.has(pointer);
    node.append(el("summary", kind || (inside ? "inside" : ""), sign, el("span", "key", name), was, el("span", "size", many(size(held), held instanceof Map ? "field" : "item"))));
    const fill = () => { if (node.childElementCount === 1) node.append(tree(held, pointer, changes, depth + 1)); };
    node.addEventListener("toggle", fill);
    if (inside || (depth < 2 && size(held) <= 12) || made) { node.open = true; fill(); }
    return node;
  }
  function tree(held, pointer, changes, depth) {
    const node = el("div", "tree"), entries = held instanceof Map ? [...held] : held.map((item, index) => [index, item]);
    const isChanged = ([name]) => { const at = pointer + "/" + escaped(name); return changes.made.has(at) || changes.within.has(at) || changes.gone.has(at); };
    let shown = 0;
    const show = (upto) => { for (; shown < Math.min(upto, entries.length); shown++) node.append(row(entries[shown][0], entries[shown][1], pointer + "/" + escaped(entries[shown][0]), changes, depth)); };
    show(SHOWN);
    if (shown < entries.length) {
      const later = entries.slice(shown).filter(isChanged).slice(0, SHOWN), more = el("button", "more", "show more of " + many(entries.length, "entry", "entries"));
      more.type = "button";
      const ahead = later.map(([name, item]) => row(name, item, pointer + "/" + escaped(name), changes, depth));
      more.addEventListener("click", () => { ahead.forEach((one) => one.remove()); more.remove(); show(shown + SHOWN * 4); if (shown < entries.length) node.append(more); });
      node.append(...ahead, more);
    }
    const removed = changes.gone.get(pointer) || []; // a list loses its items from the end
    for (const [name, was] of held instanceof Map ? removed : [...removed].reverse()) {
      const gone = el("div", "item gone", el("span", "sign", "−"), el("span", "key", name));
      gone.append(holds(was) ? el("span", "was size", many(size(was), was instanceof Map ? "field" : "item")) : el("span", "was", leaf(was)));
      node.append(gone);
    }
    return node;
  }
  const escaped = (name) => String(name).replaceAll("~", "~0").replaceAll("/", "~1");
  const byName = (held) => (held instanceof Map ? new Map([...held].sort(([one], [other]) => (one < other ? -1 : 1))) : held);
  const whole = (held) => (holds(held) ? (size(held) ? tree(held, "", calm(), 0) : el("span", "word", held instanceof Map ? "{}" : "[]")) : leaf(held));

  // --- the parts of the page

  const KINDS = { RunStarted: "begin", Forked: "begin", Transitioned: "step", RunCompleted: "end", AttemptFailed: "fail", RunFailed: "fail", BranchFailed: "fail", EffectFailed: "fail", RunTimedOut: "fail", WaitOpened: "ask", WaitClosed: "ask", SignalReceived: "ask", SignalRefused: "ask" };
  const kindOf = (event) => KINDS[event.type] || (event.type.startsWith("Effect") ? "call" : "hand");
  const took = (us) => (us < 1000 ? us + " µs" : us < 1e6 ? (us / 1000).toFixed(1) + " ms" : us < 6e7 ? (us / 1e6).toFixed(1) + " s" : Math.round(us / 6e7).toLocaleString("en") + " min");
  const words = (type) => type.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase().replace(/^./, (one) => one.toUpperCase());

  function head() {
    put($("run"), view.run);
    $("status").classList.add(view.status);
    put($("status"), view.status.replace("_", " ") + (view.waiting_for ? ": " + view.waiting_for : ""));
    const about = ["workflow " + view.workflow, many(view.version, "version")];
    if (view.parent) about.push("forked from " + view.parent.run + "@" + view.parent.at);
    if (view.tags.length) about.push("tags " + view.tags.join(", "));
    if (view.subject) about.push("subject " + view.subject);
    if (view.redacted.length) about.push("redacted");
    put($("about"), about.join("  ·  "));
    $("slider").max = last;
    put($("of"), "of " + view.version.toLocaleString("en"));
    const ticks = $("ticks"), wide = 1000, buckets = new Map();
    events.forEach((event, index) => { const at = last ? Math.round(index / last * 500) : 0, kind = kindOf(event); if (!buckets.has(at) || kind === "fail" || kind === "end") buckets.set(at, kind); });
    ticks.setAttribute("viewBox", "0 0 " + wide + " 16");
    const tall = { step: 10, call: 7, hand: 6 };
    for (const [at, kind] of buckets) { const high = tall[kind] || 13; ticks.append(svg("rect", kind, { x: at * 2 - 1.3, y: 16 - high, width: 2.6, height: high, rx: 1, "data-at": at })); }
  }

  const HIGH = 46;
  let chosen = events.map((_, index) => index);
  function list() {
    const box = $("list"), from = Math.max(0, Math.floor(box.scrollTop / HIGH) - 6), upto = Math.min(chosen.length, from + Math.ceil((box.clientHeight || 800) / HIGH) + 12);
    const rows = document.createDocumentFragment(), stretch = el("div");
    stretch.style.height = chosen.length * HIGH + "px";
    rows.append(stretch);
    for (let at = from; at < upto; at++) {
      const event = events[chosen[at]], one = el("div", "entry " + kindOf(event) + (chosen[at] === now ? " here" : "") + (event.aside ? " aside" : ""));
      one.style.top = at * HIGH + "px";
      one.append(el("div", "", el("span", "v", event.v), el("span", "dot"), el("span", "k", words(event.type)), el("span", "n", event.node)));
      one.append(el("span", "d", key(event.detail) || (event.aside ? "on a line that was left" : "")));
      one.addEventListener("click", () => show(chosen[at]));
      rows.append(one);
    }
    box.replaceChildren(rows);
  }
  function follow() {
    const box = $("list"), at = chosen.indexOf(now) * HIGH;
    if (at >= 0 && (at < box.scrollTop || at + HIGH > box.scrollTop + box.clientHeight)) box.scrollTop = at - box.clientHeight / 2 + HIGH / 2;
    list();
  }
  function filter() {
    const wanted = $("filter").value.toLowerCase();
    chosen = [];
    events.forEach((event, index) => { if (!wanted || (event.type + " " + words(event.type) + " " + event.node + " " + key(event.detail)).toLowerCase().includes(wanted)) chosen.push(index); });
    follow();
  }

  function standing() {
    const event = events[now], changes = calm(), before = event.patch && now ? state(now - 1) : null;
    let held;
    if (before) { held = before; apply(held, event.patch, changes); } else held = state(now);
    put(empty($("digest")), event.digest);
    const where = empty($("stands"));
    where.append(el("b", "", event.status), " in ", el("b", "", event.at));
    if (event.wait) where.append(", waiting for ", put(el("b"), event.wait));
    if (event.attempt) where.append(", attempt " + event.attempt);
    if (event.run) put(where, ", in the history of " + event.run);
    if (event.aside) where.append(", on a line that was left");
    const count = changes.made.size + [...changes.gone.values()].reduce((sum, one) => sum + one.length, 0);
    put(empty($("changed")), count ? many(count, "change") + " since version " + (event.v - 1) : now ? "as before" : "");
    const box = $("state"), top = box.scrollTop;
    empty(box).append(held === null ? prose("This version's state is left out: the page would be too large. `replay show FILE@" + event.v + "` shows it.") : size(held) || changes.gone.size ? tree(byName(held), "", changes, 0) : el("p", "note", "The state is empty."));
    box.scrollTop = top;
    const marked = box.querySelector(".added, .other, .gone");
    if (marked && (marked.offsetTop < box.scrollTop || marked.offsetTop > box.scrollTop + box.clientHeight)) marked.scrollIntoView({ block: "center" });
  }

  // --- the workflow

  const nodes = new Map(), edges = [], taken = events.map((event) => event.edge && JSON.stringify(event.edge));
  function draw() {
    const graph = view.graph, box = $("graph"), root = svg("svg", "", { viewBox: "0 0 " + graph.width + " " + graph.height, width: graph.width, height: graph.height, role: "img", "aria-label": "The workflow" });
    for (const [source, target, labels, curve, x, y] of graph.edges) {
      const tip = curve.match(/([\d.-]+) ([\d.-]+)$/), down = !curve.includes("L"), [tx, ty] = [Number(tip[1]), Number(tip[2])];
      const path = svg("path", "", { d: curve }), point = svg("path", "tip", { d: down ? `M${tx - 4.5} ${ty - 5}L${tx + 4.5} ${ty - 5}L${tx} ${ty + 3}Z` : `M${tx + 5} ${ty - 4.5}L${tx + 5} ${ty + 4.5}L${tx - 3} ${ty}Z` });
      root.append(path, point);
      const label = labels.join(", ");
      edges.push({ name: JSON.stringify([source, target]), path, point, label: label && [label, x, y, down] });
    }
    for (const [name, kind, x, y, width] of graph.nodes) {
      const group = svg("g", ""), title = svg("title"), called = svg("text", "", { x, y: y + (kind && kind !== "function" ? 1 : 4.5) });
      put(title, name + (kind ? " (" + kind + ")" : ""));
      called.textContent = flat(name, Math.floor((width - 16) / 7.2));
      group.append(title, svg("rect", "", { x: x - width / 2, y: y - 18, width, height: 36, rx: 9 }), called);
      if (kind && kind !== "function") { const below = svg("text", "kind", { x, y: y + 13 }); below.textContent = flat(kind, 24); group.append(below); }
      root.append(group);
      nodes.set(name, group);
    }
    for (const one of edges) if (one.label) {
      const [label, x, y, down] = one.label, node = svg("text", "label", { x: down ? x : x + 7, y: y + 3 });
      if (!down) node.classList.add("beside");
      node.textContent = flat(label, down ? 20 : 28);
      root.append(node);
    }
    box.append(root);
    if (graph.left_out) $("node").append(many(graph.left_out, "node or edge", "nodes and edges") + " left out");
    fit();
  }
  const flat = (name, most) => { const seen = name.replace(UNSEEN, (one) => JOINING.has(one) && one.charCodeAt(0) > 32 ? one : "·"); return seen.length > most ? seen.slice(0, Math.max(most - 1, 1)) + "…" : seen; };
  function fit() {
    const box = $("graph"), root = box.firstElementChild;
    if (!root || !box.clientWidth) return;
    const scale = Math.min(1.15, Math.max(0.72, Math.min((box.clientWidth - 18) / view.graph.width, (box.clientHeight - 10) / view.graph.height)));
    root.setAttribute("width", view.graph.width * scale);
    root.setAttribute("height", view.graph.height * scale);
    const here = nodes.get(events[now].at);
    if (here && (root.clientHeight > box.clientHeight || root.clientWidth > box.clientWidth)) { const frame = here.getBoundingClientRect(), around = box.getBoundingClientRect(); box.scrollTop += frame.top - around.top - box.clientHeight / 2 + 20; box.scrollLeft += frame.left - around.left - box.clientWidth / 2 + 40; }
  }
  function lineOf(index) {
    const found = [];
    for (let at = index; at !== undefined && at >= 0; at = events[at].from !== undefined ? place.get(events[at].from) : at - 1) found.push(at);
    return found;
  }
  function light() {
    const been = new Set(), gone = new Set(), event = events[now], failed = kindOf(event) === "fail" || event.status === "failed";
    for (const at of lineOf(now)) { been.add(events[at].at); if (taken[at] !== undefined) { gone.add(taken[at]); been.add(events[at].edge[0]); } }
    for (const [name, group] of nodes) group.setAttribute("class", (name === event.at ? "lit" + (failed ? " bad" : "") : "") + (been.has(name) ? " seen" : ""));
    for (const { name, path, point } of edges) {
      const lit = taken[now] === name, kind = lit ? "lit" : gone.has(name) ? "seen" : "";
      path.setAttribute("class", kind);
      point.setAttribute("class", "tip");
      point.style.fill = lit ? "var(--accent)" : kind ? "var(--soft)" : "";
    }
    put(empty($("node")), event.at + (view.graph.left_out ? "; " + many(view.graph.left_out, "part") + " too many to draw" : ""));
    fit();
  }

  // --- one event, calls, decisions

  function facts(rows) {
    const node = el("dl", "facts");
    for (const [name, told] of rows) if (told !== null && told !== undefined && told !== "") node.append(el("dt", "", name), el("dd", "", told));
    return node;
  }
  function one() {
    const event = events[now], box = empty($("event")), held = fields(now);
    box.append(el("h3", "", words(event.type)));
    box.append(facts([["version", event.v], ["time", event.t], ["after", event.took === undefined ? null : took(event.took)], ["node", event.node], ["says", key(event.detail)], ["run", event.run], ["tokens", event.tokens || null]]));
    const call = view.calls.find((each) => each.began === now || each.ended === now);
    if (call) box.append(called(call, true));
    const asked = view.decisions.find((each) => each.opened === now || each.closed === now || each.message === now);
    if (asked) box.append(decided(asked, true));
    if (held === null) box.append(el("p", "note", "What this event says is left out: the page would be too large."));
    else if (!call && !asked && held.size) box.append(el("h4", "", "Recorded"), whole(held));
  }
  const get = (held, ...path) => path.reduce((at, step) => (at instanceof Map ? at.get(step) : Array.isArray(at) ? at[step] : undefined), held);
  function said(held) {
    if (typeof held === "string" || held instanceof Cut) return held;
    for (const path of [["choices", 0, "message", "content"], ["output_text"], ["text"], ["content"]]) { const found = get(held, ...path); if (typeof found === "string" || found instanceof Cut) return found; }
    const items = get(held, "output");
    if (Array.isArray(items)) for (const item of [...items].reverse()) { const found = get(item, "content", 0, "text"); if (typeof found === "string" || found instanceof Cut) return found; }
    return undefined;
  }
  function bubble(role, held, kind) {
    const words = said(held), node = el("div", "bubble " + (kind || ""), el("span", "role", role));
    if (words === undefined) node.append(whole(held)); else node.append(words instanceof Cut ? text(words.text, words.length, "") : text(words, words.length, ""));
    return node;
  }
  function prompt(asked) {
    const found = [], messages = get(asked, "messages") ?? get(asked, "input");
    if (!Array.isArray(messages)) return [bubble("asked", asked)];
    const told = get(asked, "instructions");
    if (typeof told === "string" || told instanceof Cut) found.push(bubble("instructions", told));
    for (const message of messages) found.push(bubble(String(get(message, "role") ?? get(message, "type") ?? "message"), get(message, "content") ?? message));
    return found;
  }
  function usageOf(call) {
    const usage = call.ended === null ? undefined : get(fields(call.ended), "usage");
    return usage instanceof Map ? [...usage].map(([name, count]) => [name.replaceAll("_", " "), count instanceof Plain ? count.text : holds(count) ? null : count]) : [];
  }
  function called(call, open) {
    const node = el("details", "card" + (call.began > now ? " after" : call.began <= now && (call.ended === null || call.ended >= now) ? " here" : ""));
    const tokens = call.ended !== null && events[call.ended].tokens;
    node.append(el("summary", "", el("b", "", call.kind === call.name ? call.name : call.kind + " " + call.name), el("span", "size", call.node + (call.branch ? ", branch " + call.branch : "") + " · " + call.outcome + (tokens ? " · " + many(tokens, "token") : "") + " · version " + events[call.began].v)));
    const fill = () => {
      if (node.childElementCount > 1) return;
      const body = el("div"), asked = get(fields(call.began), "input"), ended = call.ended === null ? null : fields(call.ended);
      body.append(el("div", "", link(events[call.began].v, "asked at " + events[call.began].v), call.ended === null ? " no end was recorded" : link(events[call.ended].v, call.outcome + " at " + events[call.ended].v)));
      if (asked !== undefined) { body.append(...(call.kind === "model" ? prompt(asked) : [bubble("given", asked)])); if (asked instanceof Map && get(asked, "model") !== undefined) body.append(facts([["model", String(said(get(asked, "model")) ?? "")]])); }
      if (ended && ended.has("output")) body.append(bubble(call.kind === "model" ? "answer" : "result", ended.get("output"), "answer"));
      if (ended && ended.has("error")) body.append(bubble("error", ended.get("error")));
      body.append(facts([...usageOf(call), ["key", call.key], ["attempt", call.attempt > 1 ? call.attempt : null], ["idempotency key", get(fields(call.began), "idempotency_key")]]));
      const raw = el("details", "", el("summary", "size", "all that was recorded"));
      raw.addEventListener("toggle", () => { if (raw.childElementCount === 1) raw.append(...[fields(call.began), ended].filter(Boolean).map(whole)); });
      body.append(raw);
      node.append(body);
    };
    node.addEventListener("toggle", fill);
    if (open) { node.open = true; fill(); }
    return node;
  }
  function decided(one, open) {
    const node = el("details", "card" + (one.opened > now ? " after" : one.closed === null || one.closed >= now ? " here" : ""));
    node.append(el("summary", "", el("b", "", one.kind + (one.name ? " " + one.name : "")), el("span", "size", one.node + " · " + one.outcome + " · version " + events[one.opened].v)));
    const fill = () => {
      if (node.childElementCount > 1) return;
      const body = el("div"), spec = get(fields(one.opened), "spec"), message = one.message === null ? null : fields(one.message);
      body.append(el("div", "", link(events[one.opened].v, "asked at " + events[one.opened].v), one.closed === null ? "" : link(events[one.closed].v, one.outcome + " at " + events[one.closed].v)));
      if (spec instanceof Map && spec.size) body.append(bubble("asked", spec));
      if (message) { body.append(bubble("answer", message.get("payload") ?? null, "answer")); body.append(facts([["by", said(message.get("actor"))], ["message", message.get("message")]])); }
      node.append(body);
    };
    node.addEventListener("toggle", fill);
    if (open) { node.open = true; fill(); }
    return node;
  }
  function cards(box, found, make, none) {
    empty(box);
    if (!found.length) box.append(el("p", "note", none));
    let shown = 0;
    const more = el("button", "more", "show more of " + found.length.toLocaleString("en"));
    more.type = "button";
    const show = () => { more.remove(); for (const upto = Math.min(shown + 200, found.length); shown < upto; shown++) box.append(make(found[shown])); if (shown < found.length) box.append(more); };
    more.addEventListener("click", show);
    show();
  }

  // --- proof: the history's own bytes, hashed here

  const chain = { state: "checking", told: "The digests are being computed." };
  const bytesOf = (id) => Uint8Array.from(atob($(id).textContent.trim()), (one) => one.charCodeAt(0));
  const hex = (bytes) => Array.from(bytes, (one) => one.toString(16).padStart(2, "0")).join("");
  function* items(data) { // of a CBOR sequence (RFC 8742): where each begins and ends, and its major type
    for (let at = 0, start = 0; at < data.length; start = at) {
      for (let left = 1; left; ) {
        left--;
        const major = data[at] >> 5, low = data[at] & 31;
        let count = low;
        at++;
        if (low >= 24) { count = 0; for (let i = 0; i < 1 << (low - 24); i++) count = count * 256 + data[at++]; }
        if (major === 2 || major === 3) at += count; else if (major === 4) left += count; else if (major === 5) left += 2 * count;
        if (!(at <= data.length)) throw new RangeError("cut");
      }
      yield [start, at, data[start] >> 5];
    }
  }
  async function sha(...parts) {
    const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) { all.set(part, at); at += part.length; }
    return new Uint8Array(await crypto.subtle.digest("SHA-256", all));
  }
  async function verify() {
    const data = bytesOf("history");
    if (!data.length) return ["warm", "redacted", "Values were taken out of this capsule, so it does not hold the history's own bytes: its digests can be compared with the store's, and prove nothing here."];
    if (!globalThis.crypto || !crypto.subtle) return ["warm", "not checked", "This browser offers no SHA-256 to a page from disk. `replay verify FILE` checks the chain."];
    const held = new Set(), before = new Map();
    for (const [start, end, major] of items(data)) if (major === 4) {
      const name = hex(await sha(data.subarray(start, end)));
      held.add(name);
      before.set(name, hex(data.subarray(end - 32, end)));
    }
    for (const [index, event] of events.entries()) {
      if (!held.has(event.digest)) return ["bad", "broken", "Version " + event.v + " has a digest that no event in this file has."];
      if (before.get(event.digest) !== event.before) return ["bad", "broken", "Version " + event.v + " says another event before it than its bytes do."];
      if (index && events[index - 1].v === event.v - 1 && event.before !== events[index - 1].digest) return ["bad", "broken", "Version " + event.v + " does not follow the version before it."];
    }
    return ["good", "chain holds", many(events.length, "event") + " hashed in this page: each has the digest that is shown, and names the digest of the one before."];
  }
  async function sealed() { // RFC 9162, 2.1.3.2, over SHA-256 of the event's digest
    const text = new TextDecoder().decode(bytesOf("proof"));
    if (!text) return null;
    const [proof, ...rest] = text.split("\n\n"), lines = proof.split("\n"), note = rest.join("\n\n").split("\n");
    const event = Uint8Array.from(atob(lines[1].slice(6)), (one) => one.charCodeAt(0)), path = lines.slice(3).map((line) => Uint8Array.from(atob(line), (one) => one.charCodeAt(0)));
    let index = BigInt(lines[2].slice(6)), width = BigInt(note[1]) - 1n;
    const name = await sha(event);
    let root = await sha(Uint8Array.of(0), name);
    for (const part of path) {
      if (!width) return { name: hex(name), note, text, holds: false };
      if (index & 1n || index === width) { root = await sha(Uint8Array.of(1), part, root); while (!(index & 1n) && index) { index >>= 1n; width >>= 1n; } } else root = await sha(Uint8Array.of(1), root, part);
      index >>= 1n;
      width >>= 1n;
    }
    return { name: hex(name), note, text, holds: !width && btoa(String.fromCharCode(...root)) === note[2] };
  }
  let seal = null;
  function proofs() {
    const box = empty($("proofs")), event = events[now];
    box.append(el("h4", "", "Chain"), prose(chain.told, "note" + (chain.state === "bad" ? " bad" : "")));
    box.append(facts([["version", event.v], ["digest", el("code", "", event.digest)], ["before it", el("code", "", event.before)], ["store", view.store], ["definition", el("code", "", view.definition)]]));
    if (view.problems.length) box.append(el("h4", "", "Found wrong when it was exported"), ...view.problems.map((one) => el("p", "note bad", one)));
    box.append(el("h4", "", "Seal"));
    if (!seal) box.append(el("p", "note", "No seal came with this capsule. Without one, nobody can tell a history that was rewritten as a whole."));
    else {
      const at = events.find((one) => one.digest === seal.name);
      box.append(prose(seal.holds && at ? "Version " + at.v + " and all before it are among the " + Number(seal.note[1]).toLocaleString("en") + " events that are sealed: the path to the root was computed here. Whose signature it is, `replay check-proof FILE --key KEY` tells." : "The proof in this capsule does not lead to what is sealed.", "note" + (seal.holds && at ? "" : " bad")));
      box.append(el("pre", "", seal.text));
    }
    const left = view.left_out, told = [[left.versions, "version"], [left.states, "state"], [left.fields, "event's content", "events' contents"], [left.texts, "text, after its first 40,000 characters,", "texts, after their first 40,000 characters,"]].filter(([count]) => count).map(([count, one, more]) => many(count, one, more));
    if (told.length) box.append(el("h4", "", "Left out of the page"), prose(told.join(", ") + " would make this page too large." + (view.redacted.length ? "" : " The history in this file has all of it: `replay show FILE@VERSION`.")));
    if (view.redacted.length) box.append(el("h4", "", "Redacted"), el("p", "note", "Values under " + view.redacted.join(", ") + " were taken out. Texts elsewhere may repeat them."));
    box.append(el("h4", "", "What a page can't prove"), prose("States were folded from the events when this page was made. `replay open FILE` folds them again from the bytes in it, and says if the page shows something else."));
  }

  // --- moving about

  const PARTS = [["events", "History"], ["state", "State"], ["graph", "Workflow"], ["event", "Event"], ["calls", "Calls", view.calls.length], ["decisions", "Decisions", view.decisions.length], ["proof", "Proof"]];
  function details() {
    if (side === "event") one();
    if (side === "calls") cards($("calls"), view.calls, (call) => called(call, view.calls.length === 1), "Nobody outside was called.");
    if (side === "decisions") cards($("decisions"), view.decisions, (each) => decided(each, view.decisions.length === 1), "Nobody was asked, and nothing was waited for.");
    if (side === "proof") proofs();
  }
  function choose(name) {
    panel = name;
    document.body.dataset.panel = name;
    if (["event", "calls", "decisions", "proof"].includes(name)) side = name;
    for (const node of document.querySelectorAll(".side .panel")) node.classList.toggle("shown", node.dataset.name === side);
    for (const node of document.querySelectorAll("#tabs button")) {
      node.setAttribute("aria-pressed", node.dataset.name === panel);
      if (node.dataset.name === panel && node.offsetParent) node.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
    for (const node of document.querySelectorAll("#sides button")) node.setAttribute("aria-pressed", node.dataset.name === side);
    details();
    follow();
    fit();
  }
  function show(index) {
    now = Math.min(Math.max(index, 0), last);
    const event = events[now];
    $("slider").value = now;
    $("slider").setAttribute("aria-valuetext", "version " + event.v);
    $("jump").value = event.v;
    for (const tick of $("ticks").children) tick.classList.toggle("after", Number(tick.dataset.at) > (last ? now / last * 500 : 0) + 0.5);
    put(empty($("now")).appendChild(el("b")), words(event.type));
    put($("now").appendChild(el("span")), " in " + event.node + (key(event.detail) ? " · " + key(event.detail) : "") + " · " + event.t.replace("T", " "));
    standing();
    light();
    follow();
    details();
    try { history.replaceState(null, "", "#" + event.v); } catch { /* a page from disk may not */ }
  }
  function goto(version) {
    if (place.has(version)) return show(place.get(version));
    let near = last; // versions that were left out lie between two that are here
    while (near > 0 && events[near].v > version) near--;
    show(near);
  }
  for (const nav of ["tabs", "sides"]) for (const [name, called, count] of nav === "tabs" ? PARTS : PARTS.slice(3)) {
    const button = el("button", "", called, count ? el("i", "", " " + count.toLocaleString("en")) : null);
    button.type = "button";
    button.dataset.name = name;
    button.addEventListener("click", () => choose(name));
    $(nav).append(button);
  }
  $("slider").addEventListener("input", () => show(Number($("slider").value)));
  for (const [id, step] of [["first", () => 0], ["back", () => now - 1], ["next", () => now + 1], ["last", () => last]]) $(id).addEventListener("click", () => show(step()));
  $("jump").addEventListener("change", () => { const wanted = Number($("jump").value.replace(/[^0-9]/g, "")); if (wanted) goto(wanted); else show(now); });
  $("filter").addEventListener("input", filter);
  $("list").addEventListener("scroll", list);
  const dark = () => document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; };
  $("theme").addEventListener("click", theme);
  addEventListener("resize", () => { list(); fit(); });
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || ["jump", "filter"].includes(event.target.id)) return;
    const steps = { ArrowLeft: now - 1, ArrowRight: now + 1, ArrowUp: now - 1, ArrowDown: now + 1, PageUp: now - 10, PageDown: now + 10, Home: 0, End: last };
    if (event.key === "t") theme();
    if (!Object.hasOwn(steps, event.key)) return;
    if (/^(Page|ArrowUp|ArrowDown)/.test(event.key) && event.target.closest(".panel:not([data-name=events])")) return; // scrolls
    event.preventDefault();
    show(steps[event.key]);
  });

  head();
  draw();
  choose("event");
  panel = "state";
  document.body.dataset.panel = "state";
  for (const node of document.querySelectorAll("#tabs button")) node.setAttribute("aria-pressed", node.dataset.name === "state");
  const asked = Number(location.hash.slice(1));
  if (asked) goto(asked); else show(last);
  verify().catch(() => ["bad", "broken", "The history in this file can't be taken apart."]).then(async ([kind, told, why]) => {
    chain.state = kind;
    chain.told = why;
    $("chain").className = "badge " + kind;
    put(empty($("chain")), told);
    $("chain").title = why;
    try { seal = await sealed(); } catch { seal = { note: ["", "0"], text: "", holds: false, name: "" }; }
    if (side === "proof") proofs();
    document.body.dataset.checked = kind;
  });
})();
