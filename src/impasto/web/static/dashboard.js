// What the server is doing: queue, running work, runners, activity, webhooks, models, keys. For keys of the scope ADMIN.
import { useState } from "preact/hooks";
import * as api from "./api.js";
import { Deliveries } from "./deliveries.js";
import { Keys } from "./keys.js";
import { Bars, Lines } from "./plots.js";
import { count, html, Link, seconds, Trouble, useAnswer, useLive, useTitle, Waiting, when } from "./ui.js";

const LOOK = 2000; // milliseconds between looks
const CALM = 30_000; // and between those at what is over
const HOUR = 3_600_000;
const SPANS = [["day", "24 hours", "hour", 24], ["week", "7 days", "day", 7], ["month", "30 days", "day", 30]];

export function Dashboard() {
  useTitle("Dashboard");
  const [system, error, again] = useLive(() => api.get("/v1/system"), [], () => LOOK);
  if (error && !system) return html`<${Trouble} title="Dashboard" error=${error} retry=${again} />`;
  if (!system) return html`<${Waiting} />`;
  return html`<h1>Dashboard</h1>
    ${error && html`<${Trouble} error=${error} />`}
    ${!system.ready && html`<p class="warning" role="status">${system.reason}</p>`}
    <${Tiles} system=${system} />
    <${Running} system=${system} />
    <${Runners} system=${system} />
    <${Activity} />
    <${Deliveries} />
    <${Models} />`;
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
  ${system.queue.length > 0 && html`<p class="faint">Waiting: ${system.queue.map((row) => `${row.endpoint_id} ${row.waiting}`).join(", ")}</p>`}`;
}

function Running({ system }) {
  return html`<h2>Running</h2>
    ${system.running.length === 0
      ? html`<p class="faint">Nothing is being drawn.</p>`
      : html`<div class="table" tabindex="0" role="region" aria-label="Running work"><table>
          <thead><tr><th>Request</th><th>Endpoint</th><th>Runner</th><th class="number">Attempt</th><th class="number">For</th><th>How far</th></tr></thead>
          <tbody>${system.running.map((row) => html`<tr key=${row.request_id}>
            <td><${Link} to=${`/history/${row.request_id}`}><code>${row.request_id.slice(0, 8)}</code><//></td>
            <td>${row.endpoint_id}</td><td>${row.runner_id}</td><td class="number">${row.attempt}</td><td class="number">${seconds(row.seconds)}</td>
            <td class="far"><progress max="1" value=${row.progress} aria-label=${`Request ${row.request_id.slice(0, 8)}`}></progress> ${Math.round(row.progress * 100)} %</td>
          </tr>`)}</tbody>
        </table></div>`}`;
}

const memory = (bytes) => (bytes === null ? "–" : `${(bytes / 2 ** 30).toFixed(bytes < 10 * 2 ** 30 ? 1 : 0)} GiB`);

function Runners({ system }) {
  const rate = (runner) => (runner.pictures ? `${((runner.pictures / runner.work_seconds) * 60).toFixed(1)}` : "–");
  return html`<h2>Runners</h2>
    ${system.runners.length === 0 && html`<p class="faint">None is ready.</p>`}
    ${system.runners.length > 0 && html`<div class="table" tabindex="0" role="region" aria-label="Runners"><table>
      <thead><tr><th>Name</th><th>Model</th><th>Device</th><th>Numbers</th><th class="number">Memory</th><th class="number">Loaded in</th><th class="number">Busy</th>
        <th class="number">Steps/s</th><th class="number">Pictures/min</th></tr></thead>
      <tbody>${system.runners.map((runner) => html`<tr key=${runner.runner_id}>
        <td>${runner.runner_id}</td><td>${runner.models.join(", ")}</td><td>${runner.device}</td><td>${runner.dtype}</td>
        <td class="number">${memory(runner.resident_bytes)}</td><td class="number">${seconds(runner.load_seconds)}</td><td class="number">${runner.busy} of ${runner.slots}</td>
        <td class="number">${runner.steps_per_second?.toFixed(1) ?? "–"}</td><td class="number">${rate(runner)}</td>
      </tr>`)}</tbody>
    </table></div>
    <p class="faint">Steps a second while it draws; pictures a minute of work, everything included. Pauses count nowhere.</p>`}`;
}

// ---------------------------------------------------------------- over time

function Activity() {
  const [span, setSpan] = useState("day");
  const [endpoint, setEndpoint] = useState("");
  const [models] = useAnswer(api.models, []);
  const [, title, timeframe, length] = SPANS.find(([name]) => name === span);
  const times = buckets(timeframe, length);
  const query = new URLSearchParams({ timeframe, start: times[0].toISOString(), ...(endpoint && { endpoint_id: endpoint }) });
  // The answer keeps what it was asked for: until the next one arrives, the plots bear the title of their own time.
  const ask = async () => ({ activity: await api.get(`/v1/system/activity?${query}`), times, timeframe, title });
  const [answer, error, again, stale] = useLive(ask, [query.toString()], () => CALM);
  return html`<h2 id="activity">Activity</h2>
    <div class="filters">
      <div class="segments" role="group" aria-label="Time">
        ${SPANS.map(([name, words]) => html`<button type="button" aria-pressed=${name === span ? "true" : "false"} onClick=${() => setSpan(name)}>${words}</button>`)}
      </div>
      <label>Endpoint <select value=${endpoint} onChange=${(event) => setEndpoint(event.target.value)}>
        <option value="">All</option>
        ${models?.map((model) => html`<option value=${model.endpoint_id}>${model.endpoint_id}</option>`)}
      </select></label>
    </div>
    ${error && html`<${Trouble} error=${error} retry=${again} />`}
    ${!answer && !error && html`<${Waiting} />`}
    <div aria-busy=${stale ? "true" : "false"}>${answer && html`<${Plots} ...${answer} />`}</div>
    <${Keys} usage=${answer?.activity.keys} />`;
}

/** The starts of the last `length` hours or days of UTC, as the server counts them. */
function buckets(timeframe, length) {
  const size = timeframe === "hour" ? HOUR : 24 * HOUR;
  const last = Math.floor(Date.now() / size) * size;
  return Array.from({ length }, (_, n) => new Date(last - (length - 1 - n) * size));
}

function Plots({ activity, times, timeframe, title }) {
  const { summary } = activity;
  const found = new Map(activity.time_series.map((row) => [new Date(row.bucket).getTime(), row]));
  const of = (name, nothing) => times.map((time) => found.get(time.getTime())?.[name] ?? nothing);
  const below = times.map((time) => timeframe === "hour"
    ? time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false })
    : time.toLocaleDateString([], { day: "numeric", month: "short", timeZone: "UTC" }));
  const percentiles = (name) => (summary[`p50_${name}`] === null ? "nothing yet" : `median ${seconds(summary[`p50_${name}`])}, 90 % within ${seconds(summary[`p90_${name}`])} (dashed)`);
  const lines = (name) => ({ median: of(`p50_${name}`, null), "90 %": of(`p90_${name}`, null) });
  return html`<div class="plots">
      <${Bars} title=${`Pictures ${timeframe === "hour" ? "an hour" : "a day"}`} summary=${`${summary.pictures} in ${title}`} times=${below} values=${of("pictures", 0)} />
      <${Lines} title="Time to draw" summary=${percentiles("duration")} times=${below} lines=${lines("duration")} />
      <${Lines} title="Wait in the queue" summary=${percentiles("prepare_duration")} times=${below} lines=${lines("prepare_duration")} />
    </div>
    <p class="faint">${count(summary.request_count, "request")} in ${title}: ${summary.success_count} done, ${summary.user_error_count} refused or cancelled,
      ${" "}${summary.error_count} failed; ${seconds(summary.inference_seconds)} of the machine.</p>`;
}

// ---------------------------------------------------------------- models

function Models() {
  const [models, error, again] = useAnswer(() => api.pages("/v1/system/models?limit=100", "models"), []);

  return html`<h2 id="models">Models</h2>
    ${error && html`<${Trouble} error=${error} retry=${again} />`}
    ${models && html`<div class="table" tabindex="0" role="region" aria-label="Models"><table>
      <thead><tr><th>Name</th><th>Licence</th><th class="number">Memory</th><th>State</th><th>Serves</th></tr></thead>
      <tbody>${models.map((model) => html`<tr key=${model.name}><td>${model.name}${model.model && model.model !== model.name ? html` <span class="faint">(${model.model})</span>` : ""}</td>
        <td>${model.licence ?? "–"}</td><td class="number">${memory(model.memory_bytes)}</td>
        <td>${model.loaded ? html`<span class="badge good">loaded</span>` : model.here ? html`<span class="badge">here</span>` : html`<code>impasto models pull ${model.name}</code>`}</td>
        <td>${model.serves.length ? html`<details><summary>${count(model.serves.length, "endpoint")}</summary>
          ${model.serves.map((id) => html`<div><${Link} to=${`/models/${id}`}>${id}<//></div>`)}</details>` : "–"}</td></tr>`)}</tbody>
    </table></div>`}`;
}
