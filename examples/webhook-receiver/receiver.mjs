// Receives webhooks, checks their signatures the way fal documents it (libsodium), prints one JSON line for each.
//
//     npm install libsodium-wrappers
//     node receiver.mjs 9000 http://127.0.0.1:8000/.well-known/jwks.json
//
// The same code accepts fal's own webhooks: only the address of the key set differs.

import { createHash } from "node:crypto";
import { createServer } from "node:http";
import sodium from "libsodium-wrappers";

const [port = "9000", jwksUrl = "http://127.0.0.1:8000/.well-known/jwks.json"] = process.argv.slice(2);
const KEEP_KEYS = 24 * 3600 * 1000; // fal's advice
const TOLERANCE = 300; // seconds between the sender's clock and ours
const MAX_BODY = 64 * 1024 * 1024;

let keys = [];
let fetchedAt = 0;

/** The public keys of the key set, fetched once a day. */
async function publicKeys() {
  if (keys.length === 0 || Date.now() - fetchedAt > KEEP_KEYS) {
    const answer = await fetch(jwksUrl, { signal: AbortSignal.timeout(10_000) });
    if (!answer.ok) throw new Error(`${jwksUrl}: ${answer.status}`);
    keys = (await answer.json()).keys.map((key) => Buffer.from(key.x, "base64url"));
    fetchedAt = Date.now();
  }
  return keys;
}

/** Whether one of the keys signed this body, for this request, within the last five minutes. */
async function isGenuine(headers, body) {
  await sodium.ready;
  const [requestId, userId, timestamp, signature] = ["request-id", "user-id", "timestamp", "signature"].map(
    (name) => headers[`x-fal-webhook-${name}`],
  );
  if (!requestId || !userId || !timestamp || !signature) return false;
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) <= TOLERANCE)) return false;
  const digest = createHash("sha256").update(body).digest("hex");
  const message = Buffer.from([requestId, userId, timestamp, digest].join("\n"), "utf-8");
  const signed = Buffer.from(signature, "hex");
  return (await publicKeys()).some((key) => {
    try {
      return sodium.crypto_sign_verify_detached(signed, message, key);
    } catch {
      return false; // not of the right length
    }
  });
}

async function read(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > MAX_BODY) throw new Error("too large");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

const seen = new Set(); // a webhook may come twice; a real program keeps this in its database

const server = createServer(async (request, response) => {
  try {
    const body = await read(request); // the raw bytes: parsed and printed again they would be others
    if (request.method !== "POST" || !(await isGenuine(request.headers, body))) {
      response.writeHead(401).end();
      return;
    }
    const webhook = JSON.parse(body);
    if (!seen.has(webhook.request_id)) {
      seen.add(webhook.request_id);
      console.log(JSON.stringify(webhook));
    }
    response.writeHead(200).end(); // anything but 2xx: it comes again
  } catch (error) {
    console.error(error);
    if (!response.headersSent) response.writeHead(500);
    response.end();
  }
});

server.listen(Number(port), "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
