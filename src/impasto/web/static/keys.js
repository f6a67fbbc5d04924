// API keys: made here, shown once, revoked here; and what each of them has used.
import { useState } from "preact/hooks";
import * as api from "./api.js";
import { copy, html, say, seconds, Trouble, useAnswer, useBusy, when } from "./ui.js";

/** `usage`: what each key has used, by its id. */
export function Keys({ usage }) {
  const [keys, error, again] = useAnswer(() => api.pages("/v1/keys", "keys"), []);
  const [alias, setAlias] = useState("");
  const [scope, setScope] = useState("API");
  const [made, setMade] = useState("");
  const [asked, setAsked] = useState("");
  const [creating, create] = useBusy(async () => {
    try {
      const answer = await api.send("POST", "/v1/keys", { body: { alias, scope } });
      setMade((await answer.json()).key);
      setAlias("");
      again();
    } catch (problem) {
      say(problem.message);
    }
  });
  const revoke = async (id) => {
    if (asked !== id) return setAsked(id);
    try {
      await api.send("DELETE", `/v1/keys/${id}`);
      again();
    } catch (problem) {
      say(problem.message);
    }
  };
  const rows = [...(keys ?? []), ...callers(usage, keys)];
  return html`<h2 id="keys">Keys and their use</h2>
    ${error && html`<${Trouble} error=${error} retry=${again} />`}
    <form class="filters" onSubmit=${(event) => (event.preventDefault(), create())}>
      <label>Name of a new key <input type="text" required maxLength="255" value=${alias} onInput=${(event) => setAlias(event.target.value)} /></label>
      <label>Scope <select value=${scope} onChange=${(event) => setScope(event.target.value)}><option>API</option><option>ADMIN</option></select></label>
      <button type="submit" disabled=${creating}>Create</button>
    </form>
    ${made && html`<p class="warning" role="status">Shown this once: <code>${made}</code> <button type="button" onClick=${() => copy(made, "Key copied")}>Copy</button></p>`}
    ${keys && !rows.length && html`<p class="faint">There are none, and nobody has drawn in this time.</p>`}
    ${rows.length > 0 && html`<div class="table" tabindex="0" role="region" aria-label="Keys"><table>
      <thead><tr><th>Name</th><th>Id</th><th>Scope</th><th>Created</th><th class="number">Requests</th><th class="number">Failed</th><th class="number">Pictures</th><th class="number">Machine time</th>
        <th><span class="unseen">Revoke</span></th></tr></thead>
      <tbody>${rows.map((each) => html`<${Row} key=${each.key_id} each=${each} used=${usage?.find((row) => row.key_id === each.key_id)}
        asked=${asked === each.key_id} onRevoke=${() => revoke(each.key_id)} />`)}</tbody>
    </table></div>`}`;
}

/** Who has used the server without a live key: the caller of an open server, and keys that are revoked. */
function callers(usage, keys) {
  const live = new Set((keys ?? []).map((key) => key.key_id));
  return keys ? (usage ?? []).filter((row) => !live.has(row.key_id)) : [];
}

function Row({ each, used, asked, onRevoke }) {
  return html`<tr><td>${each.alias}</td><td><code>${each.key_id.slice(0, 8) || "–"}</code></td><td>${each.scope ?? (each.key_id ? "revoked" : "–")}</td>
    <td>${each.created_at ? when(each.created_at) : "–"}</td>
    <td class="number">${used?.request_count ?? 0}</td><td class="number">${used ? used.user_error_count + used.error_count : 0}</td>
    <td class="number">${used?.pictures ?? 0}</td><td class="number">${seconds(used?.inference_seconds ?? 0)}</td>
    <td>${each.created_at && html`<button type="button" class=${`small ${asked ? "danger" : ""}`} onClick=${onRevoke}>${asked ? "Really revoke" : "Revoke"}</button>`}</td></tr>`;
}
