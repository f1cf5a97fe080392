// Fills a [data-live] section from its feed of server-sent events. All that comes is written as text.
"use strict";
(() => {
  const root = document.querySelector("[data-live]");
  if (root === null) return;

  const KEPT = 900; // as many points as the feed keeps
  const WIDTH = 300, HEIGHT = 84, PAD = 4;
  const SHORTEST_S = 30; // that a chart spans, unless the load is shorter
  const SVG = "http://www.w3.org/2000/svg";
  const NONE = "–";
  const find = (selector) => root.querySelector(selector);
  const finite = (value) => typeof value === "number" && Number.isFinite(value);

  const whole = (value) => (finite(value) ? Math.round(value).toLocaleString("en") : NONE);
  const digits = (value) => {
    if (!finite(value)) return NONE;
    const places = value >= 99.95 || value === 0 ? 0 : value >= 9.995 ? 1 : 2;
    return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
  };
  const dollars = (value) => `$${value >= 0.1 || value === 0 ? value.toFixed(2) : value.toPrecision(2)}`;
  // Names come from servers and users: nothing in them may turn the text around.
  const plain = (text) => String(text).replace(/[\p{Cc}\p{Cs}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu, " ");
  const write = (name, raw) => {
    const text = plain(raw);
    const element = find(`[data-text="${name}"]`);
    if (element.textContent !== text) element.textContent = text;
  };

  let about = {};
  let points = [];

  // What the charts show: the value, what stands beside it, and a second line.
  const CHARTS = {
    rate: { of: (p) => p.requests_per_s, also: (p) => `${whole(p.requests_per_minute)} in the last minute` },
    in_flight: { of: (p) => p.in_flight, also: (p) => `${whole(p.waiting)} waiting for the quota${points.some((q) => q.waiting > 0) ? " (dashed)" : ""}`,
      second: (p) => p.waiting },
    ttft: { of: (p) => p.ttft_p50_ms, also: (p) => `median; p95 ${digits(p.ttft_p95_ms)} (dashed)`, second: (p) => p.ttft_p95_ms },
    itl: { of: (p) => p.itl_p50_ms, also: () => "median" },
  };

  const state = (name, said) => {
    const badge = find("[data-state]");
    badge.dataset.state = name;
    badge.textContent = name.toUpperCase();
    write("said", said);
  };

  const fill = (bar, share) => {
    const percent = Math.max(0, Math.min(100, 100 * share));
    bar.firstElementChild.style.width = `${percent.toFixed(1)}%`;
    bar.classList.toggle("full", bar.dataset.bar !== "time" && share >= 1);
    bar.setAttribute("aria-valuenow", percent.toFixed(0));
  };

  const path = (name, d) => {
    const element = document.createElementNS(SVG, "path");
    element.setAttribute("class", name);
    element.setAttribute("d", d);
    return element;
  };

  // Lines break where nothing is known.
  const line = (of, x, y) => {
    let d = "", pen = "M";
    for (const point of points) {
      const value = of(point);
      if (!finite(value)) { pen = "M"; continue; }
      d += `${pen}${x(point.t_s).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
    }
    return d;
  };

  const under = (of, x, y) => {
    const known = points.filter((point) => finite(of(point)));
    if (known.length < 2) return "";
    const top = known.map((point) => `L${x(point.t_s).toFixed(1)} ${y(of(point)).toFixed(1)}`).join("");
    return `M${x(known[0].t_s).toFixed(1)} ${HEIGHT}${top}L${x(known[known.length - 1].t_s).toFixed(1)} ${HEIGHT}Z`;
  };

  const draw = (name, last) => {
    const { of, also, second } = CHARTS[name];
    const figure = find(`[data-chart="${name}"]`), svg = figure.querySelector("svg");
    const shown = name === "in_flight" ? whole : digits;
    const values = points.flatMap((point) => [of(point), second ? second(point) : NaN]).filter(finite);
    const most = values.reduce((a, b) => Math.max(a, b), 0);
    const begin = points[0].t_s < 2 ? 0 : points[0].t_s;
    const end = Math.max(last.t_s, begin + Math.min(SHORTEST_S, last.duration_s));
    const x = (t) => (WIDTH * (t - begin)) / (end - begin);
    const y = (value) => HEIGHT - ((HEIGHT - PAD) * value) / (most || 1);
    svg.replaceChildren(path("under", under(of, x, y)), path("now", line(of, x, y)),
      ...(second && points.some((point) => second(point) > 0) ? [path("also", line(second, x, y))] : []));
    figure.querySelector("[data-now]").textContent = shown(of(last));
    figure.querySelector("[data-also]").textContent = finite(of(last)) ? also(last) : "";
    figure.querySelector("[data-from]").textContent = `${whole(Math.max(0, begin))} to ${whole(end)} s`;
    figure.querySelector("[data-top]").textContent = values.length ? `highest ${shown(most)}` : "";
    const label = figure.querySelector("figcaption").firstChild.textContent.trim();
    svg.setAttribute("aria-label", `${label}: ${shown(of(last))} ${figure.dataset.unit} now, ${shown(most)} at most`);
  };

  const gauge = (label, words, share) => {
    const box = document.createElement("div"), text = document.createElement("p");
    const value = document.createElement("span");
    box.className = "gauge";
    text.textContent = label;
    value.textContent = words;
    text.append(value);
    box.append(text);
    if (share !== null) {
      const bar = document.createElement("div");
      bar.className = "bar";
      bar.setAttribute("role", "meter");
      for (const [key, content] of [["label", label], ["valuemin", "0"], ["valuemax", "100"], ["valuetext", words]])
        bar.setAttribute(`aria-${key}`, content);
      bar.append(document.createElement("i"));
      fill(bar, share);
      box.append(bar);
    }
    return box;
  };

  const gauges = (last) => {
    const rows = [["Tokens reserved, a minute", last.tokens_per_minute, about.tokens_per_minute],
      ["Requests a minute", last.requests_per_minute, about.requests_per_minute]];
    const limits = rows.map(([label, rate, limit]) => limit
      ? gauge(label, `${whole(rate)} of ${whole(limit)}`, rate / limit)
      : gauge(label, `${whole(rate)}, no limit`, null));
    const budgets = Object.entries(last.budget || {}).map(([name, { used, limit }]) => {
      const show = name === "usd" ? dollars : whole;
      const unit = name === "usd" ? "" : name === "wall_s" ? " s" : ` ${name}`;
      return gauge("Budget used", `${show(used)} of ${show(limit)}${unit}`, used / limit);
    });
    find("[data-gauges]").replaceChildren(...limits, ...budgets);
  };

  const errors = (last) => {
    const rows = Object.entries(last.errors || {}).map(([code, n]) => {
      const row = document.createElement("div"), term = document.createElement("dt"), value = document.createElement("dd");
      term.textContent = plain(code);
      value.textContent = whole(n);
      row.append(term, value);
      return row;
    });
    find("[data-errors]").replaceChildren(...rows);
    write("no_errors", rows.length ? "" : "None so far.");
  };

  const counts = (last) => {
    for (const element of root.querySelectorAll("[data-count]")) {
      const name = element.dataset.count, n = last[name];
      element.textContent = whole(n);
      element.classList.toggle("care", name === "throttled" && n > 0);
      element.classList.toggle("bad", (name === "failed" || name === "dropped") && n > 0);
    }
  };

  const show = () => {
    const last = points[points.length - 1];
    if (last === undefined) return;
    const left = last.duration_s - last.t_s;
    const rest = left > 0 ? `${whole(left)} s left` : "waiting for the last answers";
    const ended = find("[data-state]").dataset.state === "ended";
    write("time", `${whole(Math.min(Math.max(0, last.t_s), last.duration_s))} of ${whole(last.duration_s)} s${ended ? "" : `, ${rest}`}`);
    fill(find('[data-bar="time"]'), last.t_s / last.duration_s);
    for (const name of Object.keys(CHARTS)) draw(name, last);
    gauges(last);
    counts(last);
    errors(last);
  };

  // Of what comes at once, as after a return, only the last is drawn.
  let due = false;
  const soon = () => {
    if (due) return;
    due = true;
    setTimeout(() => { due = false; show(); }, 50);
  };

  const source = new EventSource(root.dataset.events);
  const on = (name, act) => source.addEventListener(name, (event) => { act(JSON.parse(event.data)); soon(); });
  let said = "";
  on("started", (values) => {
    about = values;
    points = [];
    said = "";
    write("title", values.title);
    write("folder", `Its record is in ${values.folder}.`);
    state("running", "");
  });
  on("progress", (values) => {
    if (points.length && values.t_s < points[points.length - 1].t_s) points = [];
    points.push(values);
    if (points.length > KEPT) points.shift();
  });
  on("ended", (values) => {
    said = values.reason ? `The load has ended: ${values.reason}.` : "The load has ended, and all of it was played.";
    state("ended", said);
  });
  on("closed", () => {
    source.close();
    state("ended", `${said || "The command has ended."} Nothing more will come.`);
  });
  source.onopen = () => { if (find("[data-state]").dataset.state === "lost") state("running", ""); };
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) state("lost", "The connection is lost. Load this page again.");
    else state("lost", "The connection is lost; this page tries again.");
  };
})();
