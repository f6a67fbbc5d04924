// All endpoints of this server: what each does, what serves it and under which licence.
import { useState } from "preact/hooks";
import * as api from "./api.js";
import { count, html, Link, Trouble, useAnswer, useTitle, Waiting } from "./ui.js";

export function Models() {
  useTitle("Models");
  const [models, error, again] = useAnswer(() => api.models({ fresh: true }), []);
  const [text, setText] = useState("");
  const [category, setCategory] = useState("");
  if (error) return html`<${Trouble} title="Models" error=${error} retry=${again} />`;
  if (!models) return html`<${Waiting} />`;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = models.filter(({ endpoint_id, metadata }) =>
    (!category || metadata.category === category) &&
    words.every((word) => `${endpoint_id} ${metadata.display_name} ${metadata.description}`.toLowerCase().includes(word)));
  const categories = [...new Set(models.map((model) => model.metadata.category))];
  return html`<h1>Models</h1>
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <label>Find <input type="search" placeholder="redux, schnell, lora …" value=${text} onInput=${(event) => setText(event.target.value)} /></label>
      <div class="segments" role="group" aria-label="Category">
        ${["", ...categories].map((each) => html`<button type="button" aria-pressed=${each === category ? "true" : "false"} onClick=${() => setCategory(each)}>${each || "All"}</button>`)}
      </div>
      <span class="faint" role="status">${count(found.length, "endpoint")}</span>
    </form>
    ${found.length === 0 && html`<p class="empty">No endpoint has these words. <button type="button" onClick=${() => (setText(""), setCategory(""))}>Show all</button></p>`}
    <ul class="models">
      ${found.map((model) => html`<${Card} key=${model.endpoint_id} ...${model} />`)}
    </ul>`;
}

function Card({ endpoint_id, metadata, impasto }) {
  const { served_by, licence, availability } = impasto;
  const unsupported = availability.status === "unsupported";
  return html`<li>
    <h2><${Link} to=${`/models/${endpoint_id}`}>${metadata.display_name}<//></h2>
    <p class="id"><code>${endpoint_id}</code></p>
    <p>${metadata.description}</p>
    <p class="faint foot"><span class="badge">${metadata.category}</span>
      <span>${unsupported ? html`<span class="badge bad" title=${availability.reason}>Not with the loaded model</span>` : served_by ? html`<code>${served_by}</code>${licence && `, ${licence}`}` : "Not served now"}</span>
      <${Link} to=${`/models/${endpoint_id}/api`} aria-label=${`API of ${endpoint_id}`}>API<//></p>
  </li>`;
}
