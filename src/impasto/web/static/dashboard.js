// What the server is doing: queue, running work, runners, pictures an hour, latencies, keys. For keys of the scope ADMIN.
import { useEffect, useState } from "preact/hooks";
import * as api from "./api.js";
import { copy, count, html, Link, say, seconds, Trouble, useAnswer, Waiting, when } from "./ui.js";

const LOOK = 2000; // milliseconds between looks
const HOURS = 24;

export function Dashboard() {
  const [system, setSystem] = useState(null);
  const [error, setError] = useState(null);
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let wanted = true;
    const look = async () => {
      try {
        const found = await api.get("/v1/system");
        if (wanted) (setSystem(found), setError(null));
      } catch (problem) {
        if (wanted) setError(problem);
      }
      if (wanted) timer = setTimeout(look, document.hidden ? 5 * LOOK : LOOK);
    };
    let timer = setTimeout(look, 0);
    return () => ((wanted = false), clearTimeout(timer));
  }, [turn]);
  if (error && !system) return html`<${Trouble} error=${error} retry=${() => setTurn(turn + 1)} />`;
  if (!system) return html`<${Waiting} />`;
  return html`<h1>Dashboard</h1>
    ${error && html`<${Trouble} error=${error} />`}
    ${!system.ready && html`<p class="warning">${system.reason}</p>`}
    <${Tiles} system=${system} />
    <${Running} system=${system} />
    <${Runners} system=${system} />
    <${Plots} />
    <${Models} />
    <${Keys} />`;
}

function Tiles({ system }) {
  const waiting = system.queue.reduce((sum, row) => sum + row.waiting, 0);
  const slots = system.runners.reduce((sum, runner) => sum + runner.slots, 0);
  return html`<div class="tiles">
    <div class="tile"><b>${waiting}</b><span>waiting</span></div>
    <div class="tile"><b>${system.running.length}</b><span>being drawn, of ${count(slots, "slot")}</span></div>
    <div class="tile"><b>${system.runners.length}</b><span>${system.runners.length === 1 ? "runner" : "runners"}</span></div>
    <div class="tile"><b>${system.version}</b><span>since ${when(system.started_at)}</span></div>
  </div>
  ${system.queue.length > 0 && html`<p>${system.queue.map((row) => `${row.endpoint_id}: ${row.waiting}`).join(", ")}</p>`}`;
}

function Running({ system }) {
  return html`<h2>Running</h2>
    ${system.running.length === 0
      ? html`<p class="faint">Nothing is being drawn.</p>`
      : html`<div class="table"><table>
          <thead><tr><th>Request</th><th>Endpoint</th><th>Runner</th><th>Attempt</th><th>For</th><th>How far</th></tr></thead>
          <tbody>${system.running.map((row) => html`<tr key=${row.request_id}>
            <td><${Link} to=${`/history/${row.request_id}`}><code>${row.request_id.slice(0, 8)}</code><//></td>
            <td>${row.endpoint_id}</td><td>${row.runner_id}</td><td>${row.attempt}</td><td>${seconds(row.seconds)}</td>
            <td><progress max="1" value=${row.progress} aria-label=${`Request ${row.request_id.slice(0, 8)}`}></progress></td>
          </tr>`)}</tbody>
        </table></div>`}`;
}

function Runners({ system }) {
  const memory = (bytes) => (bytes === null ? "–" : `${(bytes / 2 ** 30).toFixed(2)} GiB`);
  return html`<h2>Runners</h2>
    <div class="table"><table>
      <thead><tr><th>Name</th><th>Model</th><th>Device</th><th>Numbers</th><th>Memory</th><th>Loaded in</th><th>Busy</th></tr></thead>
      <tbody>${system.runners.map((runner) => html`<tr key=${runner.runner_id}>
        <td>${runner.runner_id}</td><td>${runner.models.join(", ")}</td><td>${runner.device}</td><td>${runner.dtype}</td>
        <td>${memory(runner.resident_bytes)}</td><td>${seconds(runner.load_seconds)}</td><td>${runner.busy} of ${runner.slots}</td>
      </tr>`)}</tbody>
    </table></div>`;
}

// ---------------------------------------------------------------- over time

function Plots() {
  const expand = ["time_series", "request_count", "error_count", "user_error_count", "p50_duration", "p90_duration"].join(",");
  const [answer, error] = useAnswer(
    () => Promise.all([api.get(`/v1/models/analytics?timeframe=hour&limit=100&expand=${expand}`), api.get("/v1/models/usage?timeframe=hour&limit=100")]),
    [],
  );
  if (error) return html`<h2>The last ${HOURS} hours</h2><${Trouble} error=${error} />`;
  if (!answer) return html`<${Waiting} />`;
  const [analytics, usage] = answer;
  const hours = lastHours();
  const at = (series, value, nothing = 0) => {
    const found = new Map(series.map((row) => [new Date(row.bucket).getTime(), value(row.results)]));
    return hours.map((hour) => found.get(hour.getTime()) ?? nothing);
  };
  const sum = (name) => (results) => results.reduce((total, row) => total + (row[name] ?? 0), 0);
  const worst = (name) => (results) => Math.max(0, ...results.map((row) => row[name] ?? 0));
  return html`<h2>The last ${HOURS} hours</h2>
    <div class="columns" style="--columns:2">
      <${Bars} title="Pictures an hour" hours=${hours} values=${at(usage.time_series, sum("quantity"))} />
      <${Lines} title="Seconds to draw: the median and, dashed, nine of ten" hours=${hours}
        first=${at(analytics.time_series, worst("p50_duration"), null)} second=${at(analytics.time_series, worst("p90_duration"), null)} />
    </div>
    <p class="faint">${at(analytics.time_series, sum("request_count")).reduce((a, b) => a + b, 0)} requests,
      ${" "}${at(analytics.time_series, sum("user_error_count")).reduce((a, b) => a + b, 0)} refused or cancelled,
      ${" "}${at(analytics.time_series, sum("error_count")).reduce((a, b) => a + b, 0)} failed.</p>`;
}

function lastHours() {
  const now = new Date();
  now.setUTCMinutes(0, 0, 0);
  return Array.from({ length: HOURS }, (_, n) => new Date(now.getTime() - (HOURS - 1 - n) * 3_600_000));
}

const WIDTH = 480, HEIGHT = 180, LEFT = 38, BOTTOM = 24, TOP = 12;

function Axes({ most, hours }) {
  const height = HEIGHT - BOTTOM - TOP;
  const marks = [0, 0.5, 1];
  return html`${marks.map((share) => html`<g>
      <line class="axis" x1=${LEFT} x2=${WIDTH - 8} y1=${TOP + height * (1 - share)} y2=${TOP + height * (1 - share)} />
      <text x=${LEFT - 6} y=${TOP + height * (1 - share) + 4} text-anchor="end">${round(most * share)}</text></g>`)}
    ${hours.map((hour, n) => n % 6 === 5 && html`<text x=${x(n, hours.length)} y=${HEIGHT - 8} text-anchor="middle">${hour.getHours()}:00</text>`)}`;
}

const x = (n, of) => LEFT + ((WIDTH - 8 - LEFT) * (n + 0.5)) / of;
const round = (value) => (value >= 10 || value === 0 ? Math.round(value) : value.toFixed(1));

function Frame({ title, children }) {
  return html`<figure><svg class="plot" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${title}>${children}</svg><figcaption>${title}</figcaption></figure>`;
}

function Bars({ title, hours, values }) {
  const most = Math.max(1, ...values), height = HEIGHT - BOTTOM - TOP, width = (WIDTH - 8 - LEFT) / values.length;
  return html`<${Frame} title=${`${title}, at most ${most}`}>
    <${Axes} most=${most} hours=${hours} />
    ${values.map((value, n) => html`<rect class="bar" x=${LEFT + n * width + 1} width=${width - 2} y=${TOP + height * (1 - value / most)} height=${(height * value) / most}>
      <title>${hours[n].getHours()}:00: ${value}</title></rect>`)}
  <//>`;
}

function Lines({ title, hours, first, second }) {
  const most = Math.max(0.1, ...first, ...second), height = HEIGHT - BOTTOM - TOP;
  const place = (values) => values.map((value, n) => value !== null && [x(n, values.length), TOP + height * (1 - value / most)]).filter(Boolean);
  const curve = (values, name) => html`<polyline class=${`line ${name}`} points=${place(values).map((point) => point.join(",")).join(" ")} />
    ${place(values).map(([left, top]) => html`<circle class=${name} cx=${left} cy=${top} r="3" />`)}`;
  return html`<${Frame} title=${title}>
    <${Axes} most=${most} hours=${hours} />
    ${curve(second, "second")}${curve(first, "first")}
  <//>`;
}

// ---------------------------------------------------------------- models, keys

function Models() {
  const [models] = useAnswer(api.models, []);
  if (!models) return null;
  const serving = Map.groupBy(models, (model) => model.impasto.served_by ?? "nothing");
  return html`<h2>Models</h2>
    ${[...serving].map(([name, rows]) => html`<p><b>${name}</b> serves ${rows.map((row, n) => html`${n > 0 && ", "}<${Link} to=${`/models/${row.endpoint_id}`}>${row.endpoint_id}<//>`)}</p>`)}`;
}

function Keys() {
  const [keys, error, again] = useAnswer(() => api.pages("/v1/keys", "keys"), []);
  const [alias, setAlias] = useState("");
  const [scope, setScope] = useState("API");
  const [made, setMade] = useState("");
  const [asked, setAsked] = useState("");
  const create = async (event) => {
    event.preventDefault();
    try {
      const answer = await api.send("POST", "/v1/keys", { body: { alias, scope } });
      setMade((await answer.json()).key);
      setAlias("");
      again();
    } catch (problem) {
      say(problem.message);
    }
  };
  const revoke = async (id) => {
    if (asked !== id) return setAsked(id);
    try {
      await api.send("DELETE", `/v1/keys/${id}`);
      again();
    } catch (problem) {
      say(problem.message);
    }
  };
  return html`<h2>Keys</h2>
    ${error && html`<${Trouble} error=${error} retry=${again} />`}
    <form class="filters" onSubmit=${create}>
      <label>Name of a new key <input type="text" required maxLength="255" value=${alias} onInput=${(event) => setAlias(event.target.value)} /></label>
      <label>Scope <select value=${scope} onChange=${(event) => setScope(event.target.value)}><option>API</option><option>ADMIN</option></select></label>
      <button type="submit">Create</button>
    </form>
    ${made && html`<p class="warning" role="status">Shown this once: <code>${made}</code> <button type="button" onClick=${() => copy(made, "Key copied")}>Copy</button></p>`}
    ${keys?.length === 0 && html`<p class="faint">There are none.</p>`}
    ${keys?.length > 0 && html`<div class="table"><table>
      <thead><tr><th>Name</th><th>Id</th><th>Scope</th><th>Created</th><th></th></tr></thead>
      <tbody>${keys.map((each) => html`<tr key=${each.key_id}><td>${each.alias}</td><td><code>${each.key_id.slice(0, 8)}</code></td><td>${each.scope}</td>
        <td>${when(each.created_at)}</td>
        <td><button type="button" class=${asked === each.key_id ? "danger" : ""} onClick=${() => revoke(each.key_id)}>${asked === each.key_id ? "Really revoke" : "Revoke"}</button></td></tr>`)}</tbody>
    </table></div>`}`;
}
