// Dials impasto's TLS port ($FAL_TLS_ADDRESS, host:port) instead of fal's hosts. Loaded by `node --require`, before the program.
// One seam, tls.connect, carries fetch, https, undici and ws alike, in every Node; older ones ignore HTTPS_PROXY.
"use strict";

const FAL = /(^|\.)(fal\.run|fal\.ai|fal\.media|falrun\.com)\.?$/i;
const address = process.env.FAL_TLS_ADDRESS;

if (address) {
  const tls = require("node:tls");
  const original = tls.connect;
  const [, host, port] = /^\[?(.+?)\]?:(\d+)$/.exec(address);
  // connect(options[, callback]) or connect(port[, host][, options][, callback]), which is how node:http2 calls it
  tls.connect = function (...args) {
    const options = args.find((argument) => argument !== null && typeof argument === "object") ?? {};
    const name = options.servername || (typeof args[1] === "string" ? args[1] : options.host);
    if (options.socket || options.path || !FAL.test(String(name ?? ""))) return original.apply(this, args);
    const led = { ...options, servername: name, host, port: Number(port), lookup: undefined };
    return original.call(this, led, args.find((argument) => typeof argument === "function"));
  };
  require("node:module").syncBuiltinESMExports();
}
