// Past requests: thumbnails to look through, one opened to see all of it. The server keeps them; a restart loses none.
import { useState } from "preact/hooks";
import * as api from "./api.js";
import { open } from "./forms.js";
import { Large, Log } from "./result.js";
import { Code, copy, go, html, Link, say, seconds, shownUrl, Trouble, useAnswer, Waiting, when } from "./ui.js";

const PAGE = 24;
const STATUSES = [
  ["", "All"],
  ["success", "Done"],
  ["user_error", "Refused or cancelled"],
  ["error", "Failed"],
  ["in_progress", "Being drawn"],
  ["in_queue", "Waiting"],
];

export function History() {
  const [models] = useAnswer(api.models, []);
  const [endpoint, setEndpoint] = useState("");
  const [status, setStatus] = useState("");
  const [text, setText] = useState("");
  const [cursors, setCursors] = useState([""]);
  const cursor = cursors.at(-1);
  const query = new URLSearchParams({ limit: PAGE, expand: "payloads" });
  if (endpoint) query.set("endpoint_id", endpoint);
  if (status) query.set("status", status);
  if (text) query.set("q", text);
  if (cursor) query.set("cursor", cursor);
  const [page, error, again] = useAnswer(() => api.get(`/v1/requests?${query}`), [query.toString()]);
  const filter = (set) => (event) => (set(event.target.value), setCursors([""]));
  return html`<h1>History</h1>
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <label>Endpoint <select value=${endpoint} onChange=${filter(setEndpoint)}>
        <option value="">All</option>
        ${models?.map((model) => html`<option value=${model.endpoint_id}>${model.endpoint_id}</option>`)}
      </select></label>
      <label>Outcome <select value=${status} onChange=${filter(setStatus)}>
        ${STATUSES.map(([value, title]) => html`<option value=${value}>${title}</option>`)}
      </select></label>
      <label>Prompt <input type="search" placeholder="Words of the prompt" value=${text} onInput=${filter(setText)} /></label>
      <button type="button" onClick=${again}>Refresh</button>
    </form>
    ${error && html`<${Trouble} error=${error} retry=${again} />`}
    ${!error && !page && html`<${Waiting} />`}
    ${page && !page.items.length && html`<p class="empty">Nothing yet. <${Link} to="/">Draw something<//>; it will stand here.</p>`}
    ${page && html`<ul class="gallery">${page.items.map((item) => html`<${Card} key=${item.request_id} item=${item} />`)}</ul>`}
    <nav class="row" aria-label="Pages">
      ${cursors.length > 1 && html`<button type="button" onClick=${() => setCursors(cursors.slice(0, -1))}>Newer</button>`}
      ${page?.has_more && html`<button type="button" onClick=${() => setCursors([...cursors, page.next_cursor])}>Older</button>`}
    </nav>`;
}

function Card({ item }) {
  const first = item.json_output?.images?.[0];
  const source = first && shownUrl(first.url);
  const prompt = item.json_input?.prompt;
  return html`<li><${Link} to=${`/history/${item.request_id}`} class="card">
    ${source ? html`<img src=${source} alt="" loading="lazy" />` : html`<span class="no-picture">${outcome(item)}</span>`}
    <span class="card-text"><b>${prompt || (item.json_input ? "no words" : "not kept")}</b>
      <small>${item.endpoint_id}, ${when(item.sent_at)}</small></span>
  <//></li>`;
}

function outcome(item) {
  if (!item.ended_at) return item.started_at ? "being drawn" : "waiting";
  if (item.status_code === 499) return "cancelled";
  return item.status_code < 400 ? "done" : `failed, ${item.status_code}`;
}

// ---------------------------------------------------------------- one request

export function PastRequest({ requestId }) {
  const [answer, error, again] = useAnswer(() => everything(requestId), [requestId]);
  if (error) return html`<${Trouble} error=${error} retry=${again} />`;
  if (!answer) return html`<${Waiting} />`;
  const { item, status } = answer;
  return html`<p><${Link} to="/history">← History<//></p>
    <h1 class="clamped">${item.json_input?.prompt || item.endpoint_id}</h1>
    <p class="id"><code>${item.request_id}</code></p>
    <div class="bench">
      <section aria-label="Output">
        <${Shown} item=${item} />
        <${Actions} item=${item} />
      </section>
      <section aria-label="Facts">
        <dl class="times">
          <div><dt>Outcome</dt><dd>${outcome(item)}</dd></div>
          <div><dt>Endpoint</dt><dd><${Link} to=${`/models/${item.endpoint_id}`}>${item.endpoint_id}<//></dd></div>
          <div><dt>Submitted</dt><dd>${when(item.sent_at)}</dd></div>
          <div><dt>Waited</dt><dd>${between(item.sent_at, item.started_at)}</dd></div>
          <div><dt>Took</dt><dd>${seconds(item.duration)}</dd></div>
          <div><dt>Attempts</dt><dd>${item.attempts}</dd></div>
        </dl>
        <h2>Input</h2>
        ${item.json_input ? html`<${Code} label="Input">${JSON.stringify(item.json_input, null, 2)}<//>` : html`<p class="faint">Not kept, as its caller asked.</p>`}
        <h2>Output</h2>
        ${item.json_output ? html`<${Code} label="Output">${JSON.stringify(item.json_output, null, 2)}<//>` : html`<p class="faint">There is none.</p>`}
        <${Log} lines=${status.logs ?? []} />
        ${item.webhook_url && html`<${Delivery} item=${item} />`}
      </section>
    </div>`;
}

async function everything(requestId) {
  const query = new URLSearchParams({ request_id: requestId, expand: "payloads", limit: 1 });
  const page = await api.get(`/v1/requests?${query}`);
  const item = page.items[0];
  if (!item) throw new api.Problem(404, { detail: "The server no longer has this request." });
  return { item, status: await api.status(item.endpoint_id, requestId) };
}

function between(from, to) {
  return from && to ? seconds((new Date(to) - new Date(from)) / 1000) : "–";
}

function Shown({ item }) {
  const [large, setLarge] = useState("");
  const pictures = item.json_output?.images ?? [];
  if (!pictures.length) return html`<div class="canvas empty"><p>${outcome(item)}</p></div>`;
  const alt = item.json_input?.prompt ?? "A picture";
  return html`<div class=${`pictures n${pictures.length}`}>
    ${pictures.map((picture) => html`<figure>
      <button type="button" class="zoom" aria-label="Show it large" onClick=${() => setLarge(shownUrl(picture.url))}>
        <img src=${shownUrl(picture.url)} alt=${alt} width=${picture.width} height=${picture.height} /></button>
      <figcaption><span>${picture.width}×${picture.height}</span>
        <span class="row"><a class="button" href=${shownUrl(picture.url)} download>Download</a>
        <button type="button" onClick=${() => copy(picture.url, "Link copied")}>Copy link</button></span></figcaption>
    </figure>`)}
    ${large && html`<${Large} source=${large} alt=${alt} onClose=${() => setLarge("")} />`}
  </div>`;
}

function Actions({ item }) {
  const [asked, setAsked] = useState(false);
  const seed = item.json_output?.seed;
  const same = { ...item.json_input, ...(Number.isSafeInteger(seed) ? { seed } : {}) };
  const remove = async () => {
    if (!asked) return setAsked(true);
    try {
      await api.forget(item.request_id);
      say("Deleted: input, output and pictures");
      go("/history", { replace: true });
    } catch (error) {
      say(error.message);
    }
  };
  return html`<div class="row">
    ${item.json_input && html`<button type="button" class="primary" onClick=${() => open(item.endpoint_id, item.json_input)}>Run again</button>
    <button type="button" onClick=${() => open(item.endpoint_id, same)}>With the same seed</button>`}
    ${item.ended_at && item.json_input && html`<button type="button" class=${asked ? "danger" : ""} onClick=${remove}>${asked ? "Really delete it" : "Delete"}</button>`}
  </div>`;
}

function Delivery({ item }) {
  const [delivery, error, again] = useAnswer(() => api.delivery(item.endpoint_id, item.request_id), [item.request_id]);
  const resend = async () => {
    try {
      await api.redeliver(item.endpoint_id, item.request_id);
      say("It is sent again");
      again();
    } catch (problem) {
      say(problem.message);
    }
  };
  if (error) return html`<${Trouble} error=${error} retry=${again} />`;
  if (!delivery) return html`<${Waiting} />`;
  return html`<h2>Webhook</h2>
    <p><code>${delivery.url}</code>: ${delivery.state.toLowerCase()}${delivery.next_try && `, next try ${when(delivery.next_try)}`}</p>
    ${delivery.attempts.length > 0 && html`<div class="table"><table>
      <thead><tr><th>Try</th><th>At</th><th>Answer</th><th>Took</th></tr></thead>
      <tbody>${delivery.attempts.map((each) => html`<tr><td>${each.number}</td><td>${when(each.at)}</td>
        <td>${each.error ?? each.http_status}</td><td>${seconds(each.seconds)}</td></tr>`)}</tbody></table></div>`}
    <div class="row"><button type="button" onClick=${resend}>Send it again</button><button type="button" onClick=${again}>Refresh</button></div>`;
}
