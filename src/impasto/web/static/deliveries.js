// Webhook deliveries: where each stands, when it is tried again, and a button that sends it now.
import { useState } from "preact/hooks";
import * as api from "./api.js";
import { html, Link, say, Trouble, useBusy, useLive, Waiting, when } from "./ui.js";

const PAGE = 10;
const LOOK = 5000; // milliseconds
const STATES = [["", "All"], ["DUE", "Due"], ["DELIVERED", "Delivered"], ["DEAD", "Given up"]];

export function Deliveries() {
  const [state, setState] = useState("");
  const [cursors, setCursors] = useState([""]);
  const cursor = cursors.at(-1);
  const query = new URLSearchParams({ limit: PAGE, ...(state && { state }), ...(cursor && { cursor }) });
  const [page, error, again, stale] = useLive(() => api.get(`/v1/webhooks?${query}`), [query.toString()], () => LOOK);
  const choose = (next) => (setState(next), setCursors([""]));
  return html`<h2 id="webhooks">Webhooks</h2>
    <div class="segments" role="group" aria-label="State of the webhooks">
      ${STATES.map(([value, title]) => html`<button type="button" aria-pressed=${value === state ? "true" : "false"} onClick=${() => choose(value)}>${title}</button>`)}
    </div>
    ${error && html`<${Trouble} error=${error} retry=${again} />`}
    ${!error && (!page || (stale && !page.deliveries.length)) && html`<${Waiting} />`}
    ${!stale && page?.deliveries.length === 0 && html`<p class="faint">${state ? "None is in this state." : "No request has asked for one: add fal_webhook to a submit."}</p>`}
    ${page?.deliveries.length > 0 && html`<div class="table" tabindex="0" role="region" aria-label="Webhooks" aria-busy=${stale ? "true" : "false"}><table>
      <thead><tr><th>Request</th><th>To</th><th>State</th><th>Tries</th><th>Last answer</th><th>Next try</th><th><span class="unseen">Send again</span></th></tr></thead>
      <tbody>${page.deliveries.map((row) => html`<tr key=${row.request_id}>
        <td><${Link} to=${`/history/${row.request_id}`}><code>${row.request_id.slice(0, 8)}</code><//></td>
        <td class="words">${row.url}</td>
        <td><span class=${`badge ${{ DELIVERED: "good", DEAD: "bad" }[row.state] ?? ""}`}>${row.state.toLowerCase()}</span></td>
        <td>${row.attempts}</td>
        <td class="words">${row.last ? row.last.error ?? row.last.http_status : "–"}</td>
        <td>${row.next_try ? when(row.next_try) : "–"}</td>
        <td><${Deliver} requestId=${row.request_id} onDone=${again} small /></td>
      </tr>`)}</tbody></table></div>`}
    <nav class="row pager" aria-label="Pages of the webhooks">
      ${cursors.length > 1 && html`<button type="button" onClick=${() => setCursors(cursors.slice(0, -1))}>Newer</button>`}
      ${page?.has_more && html`<button type="button" disabled=${stale} onClick=${() => setCursors([...cursors, page.next_cursor])}>Older</button>`}
    </nav>`;
}

/** Sends the webhook of a request again. */
export function Deliver({ requestId, onDone, small = false }) {
  const [busy, send] = useBusy(async () => {
    try {
      await api.redeliver(requestId);
      say("It is sent again");
      onDone();
    } catch (error) {
      say(error.message);
    }
  });
  return html`<button type="button" class=${small ? "small" : ""} disabled=${busy} onClick=${send}>Send again</button>`;
}
