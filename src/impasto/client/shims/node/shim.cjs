// Sends what a Node.js program says to fal to the server at $FAL_BASE_URL. Loaded by `node --require`, before the program.
// Only fal's hosts are touched: global fetch and WebSocket, and https.request/get (axios, got, ws and the like stand on
// those). Another way to them, such as the undici package, fails instead of reaching fal.
//
//   FAL_BASE_URL=http://127.0.0.1:8000   https://queue.fal.run/x  ->  http://127.0.0.1:8000/@queue.fal.run/x
//   FAL_FILE_URLS=fal                    https://queue.fal.run/x  ->  http://127.0.0.1:8000/@queue.fal.run+files/x
//
// The server reads from the path which host was meant, and puts fal's names into the URLs of its answer as fal does; files are
// named by the server's own address, which a browser can open, unless FAL_FILE_URLS asks for fal's.
//
// CommonJS and --require instead of --import: every Node has it.
"use strict";

const FAL = /(^|\.)(fal\.run|fal\.ai|fal\.media|falrun\.com)\.?$/i;
const files = process.env.FAL_FILE_URLS === "fal" ? "+files" : "";
const base = process.env.FAL_BASE_URL ? new URL(process.env.FAL_BASE_URL) : null;

function reroute(address) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return null; // relative or malformed: the original function words that error best
  }
  if (!FAL.test(url.hostname) || !/^(https?|wss?):$/.test(url.protocol)) return null;
  const scheme = url.protocol.startsWith("ws") ? base.protocol.replace("http", "ws") : base.protocol;
  const meant = `/@${url.hostname.replace(/\.$/, "")}${files}`;
  return `${scheme}//${base.host}${base.pathname.replace(/\/+$/, "")}${meant}${url.pathname}${url.search}`;
}

function replaceGlobal(name, make) {
  const before = Object.getOwnPropertyDescriptor(globalThis, name);
  if (!before || !before.configurable) return;
  const read = () => ("value" in before ? before.value : before.get.call(globalThis));
  let made;
  const set = (value) =>
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: before.enumerable });
  Object.defineProperty(globalThis, name, {
    // Node loads these on first use; a getter keeps it so.
    get: () => (made ??= make(read())),
    set,
    configurable: true,
    enumerable: before.enumerable,
  });
}

function wrapFetch(original) {
  return function fetch(input, init) {
    const isRequest = typeof Request !== "undefined" && input instanceof Request;
    const target = reroute(isRequest ? input.url : String(input));
    if (target === null) return original(input, init);
    if (!isRequest) return original(target, init);
    if (!input.body) return original(new Request(target, input), init);
    // A body handed from Request to Request is a stream of unknown length; fal's own uploads do not take those.
    const { method, headers, redirect, signal } = input;
    return input.arrayBuffer().then((body) => original(new Request(target, { method, headers, redirect, signal, body }), init));
  };
}

function wrapWebSocket(Original) {
  return class WebSocket extends Original {
    constructor(address, protocols) {
      super(reroute(String(address)) ?? address, protocols);
    }
  };
}

const hostOf = (options) => options.hostname ?? String(options.host ?? "").replace(/:\d+$/, "");

// https.request(url[, options][, callback]) or https.request(options[, callback])
function httpsArguments(args) {
  const [first, second] = args;
  const callback = args.find((argument) => typeof argument === "function");
  if (typeof first === "string" || first instanceof URL) {
    const options = typeof second === "object" && second ? second : {};
    let url;
    try {
      url = new URL(first);
    } catch {
      return { address: String(first), options, callback };
    }
    // Node lets the options win over the URL's parts.
    return { address: `https://${hostOf(options) || url.hostname}${options.path ?? url.pathname + url.search}`, options, callback };
  }
  const options = first ?? {};
  return { address: `https://${hostOf(options)}${options.path ?? "/"}`, options, callback };
}

function wrapHttps(https, http, name) {
  const original = https[name];
  https[name] = function (...args) {
    const { address, options, callback } = httpsArguments(args);
    const target = reroute(address);
    if (target === null) return original.apply(this, args);
    const url = new URL(target);
    const {
      agent, createConnection, defaultPort, host, hostname, href, lookup, origin, path, port, protocol, servername, socketPath, ...rest
    } = options;
    if (rest.headers && !Array.isArray(rest.headers)) {
      rest.headers = Object.fromEntries(Object.entries(rest.headers).filter(([key]) => key.toLowerCase() !== "host"));
    }
    const module = url.protocol === "https:" ? { request: originals.request, get: originals.get } : http;
    return module[name](
      { ...rest, protocol: url.protocol, hostname: url.hostname.replace(/^\[|\]$/g, ""), port: url.port || undefined, path: url.pathname + url.search },
      callback,
    );
  };
}

// tls.connect(options[, callback]) or tls.connect(port[, host][, options][, callback]), which is how node:http2 calls it
function tlsOptions(args) {
  const options = args.find((argument) => argument !== null && typeof argument === "object") ?? {};
  if (typeof args[0] === "object") return options;
  return { ...options, port: args[0], ...(typeof args[1] === "string" && { host: args[1] }) };
}

function refuseTls(tls) {
  const original = tls.connect;
  tls.connect = function (...args) {
    const options = tlsOptions(args);
    const name = !options.socket && (options.servername || options.host);
    if (!name || !FAL.test(name)) return original.apply(this, args);
    const text =
      `impasto: this program's way to ${name} is not one that the shim leads to ${base.origin}; ` +
      "run it with `impasto exec --method connect`";
    const lookup = (_host, _options, callback) => process.nextTick(callback, new Error(text));
    return original.call(this, { ...options, lookup }, args.find((argument) => typeof argument === "function"));
  };
}

// Guards look a name up before they fetch from it, and refuse private addresses. fal's names must not be looked up outside, so
// they get a public address that is routed nowhere (of the returned 6bone network): whatever dials it by itself fails.
const NOWHERE = { address: "3ffe:ffff::1", family: 6 };

function answerLookups(dns) {
  const original = dns.lookup;
  dns.lookup = function (name, ...more) {
    if (typeof name !== "string" || !FAL.test(name)) return original.call(this, name, ...more);
    const callback = more.find((argument) => typeof argument === "function");
    const answer = more[0]?.all ? [[NOWHERE]] : [NOWHERE.address, NOWHERE.family];
    process.nextTick(callback, null, ...answer);
  };
  const promised = dns.promises.lookup;
  dns.promises.lookup = function (name, options) {
    if (typeof name !== "string" || !FAL.test(name)) return promised.call(this, name, options);
    return Promise.resolve(options?.all ? [{ ...NOWHERE }] : { ...NOWHERE });
  };
}

const originals = {};

if (base) {
  replaceGlobal("fetch", wrapFetch);
  replaceGlobal("WebSocket", wrapWebSocket);
  const http = require("node:http");
  const https = require("node:https");
  Object.assign(originals, { request: https.request, get: https.get });
  wrapHttps(https, http, "request");
  wrapHttps(https, http, "get");
  refuseTls(require("node:tls"));
  answerLookups(require("node:dns"));
  require("node:module").syncBuiltinESMExports();
}
