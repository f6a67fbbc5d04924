// Past requests: thumbnails to look through, one opened to see all of it. The server keeps them; a restart loses none.
import { useEffect, useRef, useState } from "preact/hooks";
import * as api from "./api.js";
import { open, openWithPicture } from "./forms.js";
import { Large, Log } from "./result.js";
import { Deliver } from "./deliveries.js";
import { Code, copy, count, go, html, Link, say, seconds, shownUrl, Trouble, useAnswer, useBusy, useLive, useTitle, Waiting, when } from "./ui.js";

const PAGE = 24;
const LOOK = 2500; // milliseconds between looks while something is being drawn
const CALM = 10_000; // and while nothing is
const TYPING = 250; // milliseconds without a key until words are searched for
const STATUSES = [
  ["", "All"],
  ["success", "Done"],
  ["user_error", "Refused or cancelled"],
  ["error", "Failed"],
  ["in_progress", "Being drawn"],
  ["in_queue", "Waiting"],
];

export function History() {
  useTitle("History");
  const [models] = useAnswer(api.models, []);
  const [wanted, setWanted] = useState(() => fromAddress());
  const [cursors, setCursors] = useState([""]);
  const cursor = cursors.at(-1);
  const query = new URLSearchParams({ limit: PAGE, expand: "summary", ...wanted, ...(cursor ? { cursor } : {}) });
  const [page, error, again, stale] = useLive(() => api.get(`/v1/requests?${query}`), [query.toString()], ({ items }) =>
    items.some((item) => !item.ended_at) ? LOOK : cursor ? 0 : CALM);
  const typed = useRef();
  const set = (name, value) => {
    setWanted((now) => Object.fromEntries(Object.entries({ ...now, [name]: value.trim() }).filter(([, each]) => each)));
    setCursors([""]);
  };
  const chosen = (name) => (event) => set(name, event.target.value);
  const searched = ({ target }) => {
    clearTimeout(typed.current);
    typed.current = setTimeout(() => set("q", target.value), TYPING);
  };
  useEffect(() => {
    const search = new URLSearchParams(wanted).toString();
    history.replaceState(null, "", `/history${search && `?${search}`}`);
  }, [wanted]);
  const filtered = Object.keys(wanted).length > 0;
  return html`<h1>History</h1>
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <label>Endpoint <select value=${wanted.endpoint_id ?? ""} onChange=${chosen("endpoint_id")}>
        <option value="">All</option>
        ${models?.map((model) => html`<option value=${model.endpoint_id} selected=${model.endpoint_id === wanted.endpoint_id}>${model.endpoint_id}</option>`)}
      </select></label>
      <label>Outcome <select value=${wanted.status ?? ""} onChange=${chosen("status")}>
        ${STATUSES.map(([value, title]) => html`<option value=${value} selected=${value === (wanted.status ?? "")}>${title}</option>`)}
      </select></label>
      <label>Prompt <input type="search" placeholder="Words of the prompt" defaultValue=${wanted.q ?? ""} onInput=${searched} /></label>
      <button type="button" onClick=${again}>Refresh</button>
    </form>
    ${error && html`<${Trouble} error=${error} retry=${again} />`}
    ${!error && (!page || (stale && !page.items.length)) && html`<${Waiting} />`}
    ${page && !stale && !page.items.length && html`<div class="canvas empty none">${filtered
      ? html`<p>Nothing matches these filters.</p>`
      : html`<p>Nothing yet. <${Link} to="/">Draw something<//>; it will stand here.</p>`}</div>`}
    ${page && html`<ul class="gallery" aria-busy=${stale ? "true" : "false"}>${page.items.map((item) => html`<${Card} key=${item.request_id} item=${item} />`)}</ul>`}
    <nav class="row pager" aria-label="Pages of the history">
      ${cursors.length > 1 && html`<button type="button" onClick=${() => setCursors(cursors.slice(0, -1))}>Newer</button>`}
      ${(cursors.length > 1 || page?.has_more) && html`<span class="faint">Page ${cursors.length}</span>`}
      ${page?.has_more && html`<button type="button" disabled=${stale} onClick=${() => setCursors([...cursors, page.next_cursor])}>Older</button>`}
    </nav>`;
}

/** The filters that stand in the page's address: a reload and the way back keep them. */
function fromAddress() {
  const query = new URLSearchParams(location.search);
  return Object.fromEntries(["endpoint_id", "status", "q"].map((name) => [name, query.get(name)]).filter(([, value]) => value));
}

const EDGE = 480; // pixels: the width of a thumbnail that is made here
const MOST = 200; // thumbnails kept
const thumbnails = new Map(); // request id → a promise of the thumbnail of a result that is a data URI

/** A small image of a result that came as data (`sync_mode`); the list itself carries none. "": it is gone. */
async function thumbnail(requestId) {
  const found = await api.past(requestId);
  const url = found.json_output?.images?.[0]?.url ?? "";
  if (!url.startsWith("data:")) return "";
  const image = new Image();
  image.src = url;
  await image.decode();
  const scale = Math.min(1, EDGE / image.naturalWidth);
  const canvas = Object.assign(document.createElement("canvas"), { width: Math.ceil(image.naturalWidth * scale), height: Math.ceil(image.naturalHeight * scale) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.8);
}

function thumbnailOf(requestId) {
  if (!thumbnails.has(requestId)) {
    const made = thumbnail(requestId);
    thumbnails.set(requestId, made);
    made.catch(() => thumbnails.delete(requestId));
    if (thumbnails.size > MOST) thumbnails.delete(thumbnails.keys().next().value);
  }
  return thumbnails.get(requestId);
}

/** The image of a card: its URL, or, once the card comes into view, one made from the data of the result. */
function useThumbnail(item, card) {
  const { picture, pictures } = item.summary;
  const inline = !picture && pictures > 0;
  const [made, setMade] = useState("");
  useEffect(() => {
    if (!inline) return;
    const seen = new IntersectionObserver((entries) => {
      if (!entries.some((each) => each.isIntersecting)) return;
      seen.disconnect();
      thumbnailOf(item.request_id).then(setMade, () => {}); // without it the card says "done"
    }, { rootMargin: "200px" });
    seen.observe(card.current);
    return () => seen.disconnect();
  }, [inline, item.request_id]);
  return inline ? made : picture && shownUrl(picture);
}

function Card({ item }) {
  const { prompt, pictures, kept } = item.summary;
  const card = useRef();
  const source = useThumbnail(item, card);
  return html`<li ref=${card}><${Link} to=${`/history/${item.request_id}`} class="card">
    ${source ? html`<img loading="lazy" decoding="async" src=${source} alt="" />` : html`<span class="no-picture">${outcome(item)}</span>`}
    <span class="card-text"><b>${prompt || (kept ? "no words" : "not kept")}</b>
      <small>${item.endpoint_id}${pictures > 1 ? `, ${count(pictures, "image")}` : ""}<br />${when(item.sent_at)}${item.duration ? `, ${seconds(item.duration)}` : ""}</small></span>
  <//></li>`;
}

function outcome(item) {
  if (!item.ended_at) return item.started_at ? "being drawn" : "waiting";
  if (item.status_code === 499) return "cancelled";
  return item.status_code < 400 ? "done" : `failed, ${item.status_code}`;
}

// ---------------------------------------------------------------- one request

export function PastRequest({ requestId }) {
  const [item, error, again] = useLive(() => api.past(requestId), [requestId], (found) => (found.ended_at ? 0 : LOOK));
  const prompt = item?.json_input?.prompt;
  useTitle(prompt || "A request");
  if (error && !item) return html`<${Trouble} title="Request" error=${error} retry=${again} />`;
  if (!item) return html`<${Waiting} />`;
  const timings = Object.entries(item.json_output?.timings ?? {});
  return html`<p><${Link} to="/history">← History<//></p>
    <h1 class="clamped">${prompt || item.endpoint_id}</h1>
    <p class="id"><code>${item.request_id}</code></p>
    <div class="past">
      <section aria-label="Output">
        <${Shown} item=${item} />
        <${Refusal} item=${item} />
        <${Actions} item=${item} again=${again} />
        <dl class="times">
          <div><dt>Outcome</dt><dd>${outcome(item)}</dd></div>
          <div><dt>Endpoint</dt><dd><${Link} to=${`/models/${item.endpoint_id}`}>${item.endpoint_id}<//></dd></div>
          <div><dt>Submitted</dt><dd>${when(item.sent_at)}</dd></div>
          <div><dt>Waited</dt><dd>${between(item.sent_at, item.started_at)}</dd></div>
          <div><dt>Took</dt><dd>${seconds(item.duration)}</dd></div>
          <div><dt>Attempts</dt><dd>${item.attempts}</dd></div>
          ${timings.map(([name, value]) => html`<div><dt>${name}</dt><dd>${seconds(value)}</dd></div>`)}
        </dl>
      </section>
      <section aria-label="Facts">
        <h2>Input</h2>
        ${item.json_input && Object.keys(item.json_input).length > 0
          ? html`<${Code} label="Input">${JSON.stringify(item.json_input, null, 2)}<//>`
          : html`<p class="faint">Not kept.</p>`}
        <h2>Output</h2>
        ${item.json_output ? html`<${Code} label="Output">${JSON.stringify(item.json_output, null, 2)}<//>` : html`<p class="faint">There is none${item.ended_at ? "" : " yet"}.</p>`}
        <${Log} lines=${item.logs} />
        ${item.webhook && html`<${Webhook} webhook=${item.webhook} again=${again} />`}
      </section>
    </div>`;
}

/** Why there is no picture, in words. */
function Refusal({ item }) {
  if (!item.error) return null;
  const problem = new api.Problem(item.status_code, item.json_output);
  const lines = problem.items.length ? problem.items.map(({ loc, msg }) => `${loc?.[1] ? `${loc[1]}: ` : ""}${msg}`) : [item.json_output ? problem.message : item.error];
  return html`<div class="trouble">${lines.map((line) => html`<p>${line}</p>`)}</div>`;
}

function between(from, to) {
  return from && to ? seconds((new Date(to) - new Date(from)) / 1000) : "–";
}

function Shown({ item }) {
  const [large, setLarge] = useState("");
  const pictures = item.json_output?.images ?? [];
  if (!pictures.length) return html`<div class="canvas empty none"><p>${outcome(item)}</p></div>`;
  const alt = item.json_input?.prompt || "A picture without words";
  return html`<div class=${`pictures n${pictures.length}`}>
    ${pictures.map((picture) => html`<figure>
      <button type="button" class="zoom" title="Show it large" onClick=${() => setLarge(shownUrl(picture.url))}>
        <img src=${shownUrl(picture.url)} alt=${alt} width=${picture.width} height=${picture.height} /></button>
      <figcaption><span>${picture.width}×${picture.height}</span>
        <span class="row"><a class="button" href=${shownUrl(picture.url)} download>Download</a>
        <button type="button" onClick=${() => copy(picture.url, "Link copied")}>Copy link</button>
        <button type="button" onClick=${async () => openWithPicture(await api.models(), item.endpoint_id, picture.url, item.json_input?.prompt)}>Use as input</button></span></figcaption>
    </figure>`)}
    ${large && html`<${Large} source=${large} alt=${alt} onClose=${() => setLarge("")} />`}
  </div>`;
}

function Actions({ item, again }) {
  const [asked, setAsked] = useState(false);
  const seed = item.json_output?.seed;
  // A seed that a browser cannot hold is refused by the form in words, not left out.
  const same = { ...item.json_input, ...(seed === undefined ? {} : { seed }) };
  const [removing, remove] = useBusy(async () => {
    if (!asked) return setAsked(true);
    try {
      await api.forget(item.request_id);
      thumbnails.delete(item.request_id);
      say("Deleted: input, output and pictures");
      go("/history", { replace: true });
    } catch (error) {
      say(error.message);
    }
  });
  const [stopping, stop] = useBusy(async () => {
    try {
      await api.stop(item.request_id);
      again();
    } catch (error) {
      say(error.message);
    }
  });
  const kept = item.json_input && Object.keys(item.json_input).length > 0;
  return html`<div class="actions">
    ${kept && html`<button type="button" class="primary" onClick=${() => open(item.endpoint_id, item.json_input)}>Run again</button>
    <button type="button" onClick=${() => open(item.endpoint_id, same)}>With the same seed</button>`}
    ${!item.ended_at && html`<button type="button" disabled=${stopping} onClick=${stop}>Cancel</button>`}
    ${item.ended_at && kept && html`<button type="button" class=${asked ? "danger" : ""} disabled=${removing} onClick=${remove}>${asked ? "Really delete it" : "Delete"}</button>`}
  </div>`;
}

function Webhook({ webhook, again }) {
  return html`<h2>Webhook</h2>
    <p><code>${webhook.url}</code>: ${webhook.state.toLowerCase()}${webhook.next_try && `, next try ${when(webhook.next_try)}`}</p>
    ${webhook.attempts.length > 0 && html`<div class="table" tabindex="0" role="region" aria-label="Tries of the webhook"><table>
      <thead><tr><th>Try</th><th>At</th><th>Answer</th><th>Took</th></tr></thead>
      <tbody>${webhook.attempts.map((each) => html`<tr><td>${each.number}</td><td>${when(each.at)}</td>
        <td class="words">${each.error ?? each.http_status}</td><td>${seconds(each.seconds)}</td></tr>`)}</tbody></table></div>`}
    <div class="actions">${webhook.state !== "WAITING" && html`<${Deliver} requestId=${webhook.request_id} onDone=${again} />`}
      <button type="button" onClick=${again}>Refresh</button></div>`;
}
