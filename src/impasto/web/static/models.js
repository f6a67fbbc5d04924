// All endpoints of this server: what each does and what serves it.
import * as api from "./api.js";
import { html, Link, Trouble, useAnswer, Waiting } from "./ui.js";

export function Models() {
  const [models, error, again] = useAnswer(api.models, []);
  if (error) return html`<${Trouble} error=${error} retry=${again} />`;
  if (!models) return html`<${Waiting} />`;
  return html`<h1>Models</h1>
    <ul class="models">
      ${models.map(({ endpoint_id, metadata, impasto }) => html`<li>
        <h2><${Link} to=${`/models/${endpoint_id}`}>${metadata.display_name}<//></h2>
        <p class="id"><code>${endpoint_id}</code> <span class="badge">${metadata.category}</span></p>
        <p>${metadata.description}</p>
        <p class="faint">${impasto.served_by ? html`Served by <code>${impasto.served_by}</code>, ` : "Not served now, "}<${Link} to=${`/models/${endpoint_id}/api`}>API<//></p>
      </li>`)}
    </ul>`;
}
