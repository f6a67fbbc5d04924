// The wire, as the pages use it: fal's own HTTP and nothing else. Every answer is JSON or a `Problem`.
import { signal } from "@preact/signals-core";
import { recall, remember } from "./storage.js";

const KEY = "impasto.key";

export const key = signal(recall(KEY));
export const asksForKey = signal(""); // why the server refused a call for want of a key; "": it did not

export function keepKey(text) {
  key.value = text.trim();
  remember(KEY, key.value);
  asksForKey.value = "";
}

/** What the server refused: `status`, and per field or as one sentence why. */
export class Problem extends Error {
  constructor(status, body, requestId) {
    const detail = body?.detail ?? body?.error?.message ?? body?.status;
    const items = Array.isArray(detail) ? detail : [];
    super(items.length ? items.map((item) => item.msg).join("; ") : String(detail ?? `HTTP status ${status}`));
    this.status = status;
    this.body = body;
    this.requestId = requestId;
    this.items = items;
  }

  /** The same without what it says of the field `name`; null: nothing is left. `seen`: nobody is led to the rest of it again. */
  without(name) {
    const detail = this.items.filter((item) => item.loc?.[1] !== name);
    return detail.length ? Object.assign(new Problem(this.status, { detail }, this.requestId), { seen: true }) : null;
  }

  /** Messages of one input field; "" for what belongs to none of `names`. */
  at(name, names = []) {
    return this.items
      .filter((item) => {
        const field = item.loc?.[1] ?? "";
        return name ? field === name : !names.includes(field);
      })
      .map((item) => `${within(item.loc ?? [])}${item.msg}`);
  }
}

/** Where inside its field an error lies: `["body", "loras", 0, "path"]` → "1, path: "; names of types say nothing to people. */
function within(loc) {
  const steps = loc.slice(2).map(String).filter((step) => step !== "str" && /^(\d+|[a-z]\w*)$/.test(step));
  const shown = steps.map((step) => (/^\d/.test(step) ? Number(step) + 1 : step));
  return shown.length ? `${shown.join(", ")}: ` : "";
}

function headers(more) {
  return { ...(key.value ? { authorization: `Key ${key.value}` } : {}), ...more };
}

async function refuse(response) {
  let body;
  try {
    body = await response.json();
  } catch {
    body = { detail: `${response.status} ${response.statusText}` };
  }
  if (response.status === 401) asksForKey.value = key.value ? "The server does not know this key." : "This server asks for a key.";
  throw new Problem(response.status, body, response.headers.get("x-fal-request-id"));
}

export async function send(method, path, { body, more, signal: abort } = {}) {
  let response;
  try {
    response = await fetch(path, {
      method,
      signal: abort,
      headers: headers({ ...(body === undefined ? {} : { "content-type": "application/json" }), ...more }),
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The server does not answer. Is it running?" });
  }
  return response.ok ? response : refuse(response);
}

export const get = async (path, options) => (await send("GET", path, options)).json();

// ---------------------------------------------------------------- models

const documents = new Map();

/** The queue's OpenAPI document of an endpoint; asked for once. `app`: with the types of its app's other endpoints. */
export function openapi(id, { app = false } = {}) {
  const place = `/api/openapi/queue/openapi.json?endpoint_id=${encodeURIComponent(id)}${app ? "&expand=app" : ""}`;
  if (!documents.has(place)) {
    const asked = get(place);
    documents.set(place, asked);
    asked.catch(() => documents.delete(place));
  }
  return documents.get(place);
}

let listed;

/** All models of `/v1/models`, in the order of the server's table. `fresh`: as it is now, not as it was a moment ago. */
export function models({ fresh = false } = {}) {
  if (fresh || !listed) listed = pages("/v1/models?limit=100", "models");
  const asked = listed;
  asked.catch(() => listed === asked && (listed = undefined));
  return asked;
}

/** One model as it is now; undefined: there is none of that id. */
export const model = async (id) => (await get(`/v1/models?endpoint_id=${encodeURIComponent(id)}`)).models[0];

/** Every item of a list that comes in pages. */
export async function pages(path, name, most = 1000) {
  const items = [];
  for (let cursor = ""; items.length < most; ) {
    const page = await get(cursor ? `${path}${path.includes("?") ? "&" : "?"}cursor=${encodeURIComponent(cursor)}` : path);
    items.push(...page[name]);
    if (!page.has_more || !page.next_cursor) break;
    cursor = page.next_cursor;
  }
  return items;
}

// ---------------------------------------------------------------- the queue

/** owner/alias of an endpoint id: what status, result and cancel URLs carry. */
export function appOf(id) {
  const parts = id.split("/");
  return parts.slice(0, ["workflows", "comfy"].includes(parts[0]) ? 3 : 2).join("/");
}

const request = (id, requestId) => `/queue/${appOf(id)}/requests/${requestId}`;

export async function submit(id, input) {
  const response = await send("POST", `/queue/${id}`, { body: input, more: { "x-impasto-previews": "1" } });
  return response.json();
}

/** Status objects as they change, until COMPLETED; logs are only the new ones. */
export async function* statuses(id, requestId, abort) {
  const response = await send("GET", `${request(id, requestId)}/status/stream?logs=1&previews=1`, { signal: abort });
  yield* events(response);
}

/** {output, warnings}; throws the stored `Problem` of a request that failed. */
export async function result(id, requestId) {
  const response = await send("GET", request(id, requestId));
  const warnings = response.headers.get("x-impasto-warnings");
  return { output: await response.json(), warnings: warnings ? JSON.parse(warnings) : [] };
}

export const cancel = (id, requestId) => send("PUT", `${request(id, requestId)}/cancel`);

/** The same of anybody's request, for an ADMIN key. */
export const stop = (requestId) => send("PUT", `/v1/requests/${requestId}/cancel`);

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block
          .split("\n")
          .filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5).trim())
          .join("\n");
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// ---------------------------------------------------------------- files

/** Upload as fal's own JavaScript client does: initiate, then PUT at the signed URL. → the file's URL. */
export async function upload(file, abort) {
  const initiated = await send("POST", "/storage/upload/initiate?storage_type=fal-cdn-v3", {
    body: { content_type: file.type || "application/octet-stream", file_name: file.name || "pasted.png" },
    signal: abort,
  });
  const { upload_url, file_url } = await initiated.json();
  // By the name that this page was opened under: the server says its public one, which a page may not call.
  const { pathname, search } = new URL(upload_url);
  const put = await fetch(pathname + search, { method: "PUT", body: file, headers: { "content-type": file.type }, signal: abort });
  if (!put.ok) await refuse(put);
  return file_url;
}

// ---------------------------------------------------------------- what the server keeps

/** A past request with all that is kept of it: input, output, log, webhook. */
export async function past(requestId) {
  const query = new URLSearchParams({ request_id: requestId, expand: "payloads,logs,webhook", limit: 1 });
  const { items } = await get(`/v1/requests?${query}`);
  if (!items.length) throw new Problem(404, { detail: "The server has no such request, or not for this key." });
  return items[0];
}

export const redeliver = (requestId) => send("POST", `/v1/webhooks/${requestId}/redeliver`);

/** Erase what went in and came out of a request, its pictures included. */
export const forget = (requestId) => send("DELETE", `/v1/models/requests/${requestId}/payloads`);
