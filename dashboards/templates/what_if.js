(() => {
  "use strict";
  const levers = JSON.parse(document.getElementById("levers-data").textContent);
  const form = document.getElementById("levers");
  const { growth, limit, share, token_price, instance_price, utilisation } = form.elements;
  let shareMoved = false;
  const MONTH_H = 730, SURE = 1e-9;

  // The formulas of planner/levers.py, by the same names. null: they cannot say.
  const completionTokens = (at) => at.share === null ? levers.completion_tokens[at.limit]
    : levers.prompt_tokens * at.share / (1 - at.share);
  const tokensUsd = (completion) => {
    const usd = (tokens) => levers.prompt_tokens * (levers.input_usd_per_1k ?? 0) + tokens * (levers.output_usd_per_1k ?? 0);
    const planned = usd(levers.completion_tokens[levers.own_limit]);
    return planned ? usd(completion) / planned : 1;
  };
  const longerBy = (completion) => {
    const more = completion - levers.completion_tokens[levers.own_limit];
    if (!more) return 1;
    if (!levers.time_in_system_s || levers.time_per_token_s === null) return null;
    const longer = 1 + more * levers.time_per_token_s / levers.time_in_system_s;
    return longer > 0 ? longer : null;
  };
  const breakEven = (at, completion) => {
    const price = at.token_price * tokensUsd(completion);
    if (levers.break_even_requests_per_s === null || !price) return null;
    const even = levers.break_even_requests_per_s * (at.instance_price / price), longer = longerBy(completion);
    return levers.served_per_s !== null && longer !== null && even > levers.served_per_s * at.utilisation / longer ? null : even;
  };
  const instancesFor = (at, completion) => {
    const load = levers.loads[at.growth], longer = longerBy(completion);
    if (load === null || longer === null) return null;
    return Math.max(levers.min_instances, Math.max(1, Math.ceil(load * longer / at.utilisation - SURE)) + levers.spare);
  };
  const moved = (at) => {
    const completion = completionTokens(at), tokens = tokensUsd(completion), instances = instancesFor(at, completion);
    const times = levers.growths[at.growth] / levers.growths[levers.own_growth];
    const fits = at.share === null || (!levers.mix_matters && completion <= levers.limits[at.limit]);
    const hour = levers.usd_per_hour;
    return {
      completion_tokens: completion,
      output_share: completion / (levers.prompt_tokens + completion),
      serverless_usd: levers.serverless_usd === null ? null : levers.serverless_usd * times * at.token_price * tokens,
      deployments: fits ? levers.deployments[at.growth][at.limit] : null,
      instances,
      managed_usd: instances === null || hour === null ? null : instances * (hour * MONTH_H) * at.instance_price,
      break_even_requests_per_s: breakEven(at, completion),
    };
  };

  // Numbers are written as in the tables.
  const fixed = (value, places) => value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
  const known = (write) => (value) => value === null ? "–" : write(value);
  const count = known((value) => fixed(value, 0));
  const digits = known((value) => value === 0 ? "0" : fixed(value, value >= 99.95 ? 0 : value >= 9.995 ? 1 : value >= 0.9995 ? 2 : 3));
  const usd = known((value) => value >= 99.995 ? `$${fixed(value, 0)}` : value >= 0.1 || value === 0 ? `$${fixed(value, 2)}` : `$${value.toPrecision(2)}`);
  const percent = (share) => share > 0 && share < 0.0005 ? "<0.1 %" : share >= 0.9995 && share < 1 ? ">99.9 %"
    : `${fixed(100 * share, share === 0 || share === 1 ? 0 : 1)} %`;
  const many = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;
  const reached = (rate) => rate === null && levers.break_even_requests_per_s !== null && levers.served_per_s !== null
    ? `never: one instance serves ${digits(levers.served_per_s)}/s` : digits(rate);
  const writers = { serverless_usd: usd, deployments: count, managed_usd: usd, instances: count,
    break_even_requests_per_s: reached, completion_tokens: digits };

  const told = (found) => {
    const parts = [];
    if (found.serverless_usd !== null) parts.push(`Serverless ${usd(found.serverless_usd)} a month`);
    if (found.managed_usd !== null) parts.push(`managed ${usd(found.managed_usd)} with ${many(found.instances, "instance")}`);
    if (found.deployments !== null) parts.push(many(found.deployments, "deployment"));
    else if (levers.deployments[levers.own_growth][levers.own_limit] !== null) {
      parts.push("deployments were not replayed there: headroom plan says how many");
    }
    return `${parts.join("; ")}.`;
  };
  const write = (name, text) => {
    document.getElementById(`at-${name}`).textContent = text;
    form.elements[name].setAttribute("aria-valuetext", text);
  };
  const show = () => {
    const at = { growth: growth.valueAsNumber, limit: limit.valueAsNumber, share: shareMoved ? share.valueAsNumber / 100 : null,
      token_price: token_price.valueAsNumber / 100, instance_price: instance_price.valueAsNumber / 100,
      utilisation: utilisation.valueAsNumber / 100 };
    const found = moved(at);
    if (!shareMoved) share.value = Math.round(100 * found.output_share);
    write("growth", `${levers.growths[at.growth]} ×`);
    write("limit", count(levers.limits[at.limit]) + (at.limit === levers.own_limit ? ", as asked" : ""));
    write("share", percent(found.output_share));
    for (const input of [token_price, instance_price, utilisation]) write(input.name, `${input.value} %`);
    for (const [name, writer] of Object.entries(writers)) {
      const output = document.getElementById(name);
      output.textContent = writer(found[name]);
      output.dataset.value = JSON.stringify(found[name]);
    }
    document.getElementById("told").textContent = told(found);
  };
  form.addEventListener("input", (event) => { shareMoved ||= event.target === share; if (event.target === limit) shareMoved = false; show(); });
  form.addEventListener("reset", () => setTimeout(() => { shareMoved = false; show(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
})();
