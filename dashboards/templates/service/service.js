// Figures of a running job, by server-sent events. All texts go through textContent: none is ever read as markup.
(() => {
  "use strict";
  const UNKNOWN = "–";
  const MOST_POINTS = 600;
  const LOG_EVERY_MS = 5000;

  const digits = (value) => {
    if (value === null || value === undefined) return UNKNOWN;
    const places = value === 0 || Math.abs(value) >= 99.95 ? 0 : Math.abs(value) >= 9.995 ? 1 : 2;
    return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
  };
  const whole = (value) => (value ?? null) === null ? UNKNOWN : Math.round(value).toLocaleString("en");
  const ms = (value) => (value ?? null) === null ? UNKNOWN : `${digits(value)} ms`;

  // At most so many points, the older ones halved: each pair keeps the greater, so that a peak stays.
  const kept = (points, point) => {
    points.push(point);
    if (points.length <= MOST_POINTS) return points;
    return points.filter((_, at) => at % 2 === 1).map((each, at) => each.value > points[2 * at].value ? each : points[2 * at]);
  };

  // Over the whole run from left to right; where there was no figure, the line has a gap.
  const path = (points, top, duration_s) => {
    let line = "", drawing = false;
    for (const { t_s, value } of points) {
      if (value === null) { drawing = false; continue; }
      line += `${drawing ? "L" : "M"}${(Math.min(1, t_s / duration_s) * 600).toFixed(1)} ${(98 - (value / top) * 94).toFixed(1)}`;
      drawing = true;
    }
    return line;
  };

  const spent = (name, { used, limit }) =>
    name === "usd" ? `$${digits(used)} of $${digits(limit)}` : `${whole(used)} of ${whole(limit)} ${name === "wall_s" ? "s" : name}`;

  const watch = (place) => {
    const points = { rate: [], ttft: [] };
    let limits = {}, before = null;

    const show = (name, text) => { const found = place.querySelector(`[data-live="${name}"]`); if (found) found.textContent = text; };
    const fill = (name, used, limit, text) => {
      const meter = place.querySelector(`[data-meter="${name}"]`);
      if (!meter) return;
      meter.hidden = false;
      meter.querySelector("progress").value = limit ? Math.min(1, used / limit) : 0;
      meter.querySelector("progress").hidden = !limit;
      show(name, text);
    };
    const trace = (name, now, value) => {
      points[name] = kept(points[name], { t_s: now.t_s, value: value ?? null });
      const svg = document.querySelector(`[data-trace="${name}"]`);
      if (!svg) return;
      const top = Math.max(...points[name].map((each) => each.value ?? 0)) || 1;
      svg.querySelector("path").setAttribute("d", path(points[name], top, now.duration_s));
      document.querySelector(`[data-top="${name}"]`).textContent = `at most ${digits(top)}`;
      document.querySelector(`[data-end="${name}"]`).textContent = `${whole(now.duration_s)} s`;
    };

    const progress = (now) => {
      const since = before === null ? null : now.t_s - before.t_s;
      const rate = since > 0 ? (now.sent - before.sent) / since : null;
      if (since === null || since > 0) before = now;
      if (rate !== null) { show("rate", digits(rate)); trace("rate", now, rate); trace("ttft", now, now.ttft_p50_ms); }
      show("in_flight", whole(now.in_flight));
      show("ttft", ms(now.ttft_p50_ms));
      show("itl", ms(now.itl_p50_ms));
      show("ok", whole(now.ok));
      show("amiss", `${whole(now.failed)}, ${whole(now.throttled)}, ${whole(now.dropped)}`);
      fill("time", now.t_s, now.duration_s, `${whole(now.t_s)} of ${whole(now.duration_s)} s`);
      for (const name of ["tokens", "requests"]) {
        const used = now[`${name}_per_minute`], limit = limits[`${name}_per_minute`];
        fill(name, used, limit, limit ? `${whole(used)} of ${whole(limit)}` : whole(used));
      }
      const budget = Object.entries(now.budget ?? {}).sort(([, one], [, two]) => two.used / two.limit - one.used / one.limit)[0];
      if (budget) fill("budget", budget[1].used, budget[1].limit, spent(...budget));
    };

    const source = new EventSource(place.dataset.events);
    const moved = (job) => {
      if (job.state === place.dataset.state) return;
      source.close();
      location.reload();
    };
    const on = (kind, take) => source.addEventListener(kind, (event) => take(JSON.parse(event.data)));
    on("about", (about) => { limits = about; });
    on("progress", progress);
    on("job", moved);
    on("end", (job) => { source.close(); moved(job); });
    addEventListener("pagehide", () => source.close());
  };

  const follow = (log) => setInterval(async () => {
    const answer = await fetch(log.dataset.log);
    const said = answer.ok ? (await answer.json()).log : "";
    if (said && said !== log.textContent) { log.textContent = said; log.scrollTop = log.scrollHeight; }
  }, LOG_EVERY_MS);

  document.querySelectorAll("[data-events]").forEach(watch);
  if (document.querySelector("[data-events]")) document.querySelectorAll("[data-log]").forEach(follow);
  document.getElementById("refused")?.focus();
})();
