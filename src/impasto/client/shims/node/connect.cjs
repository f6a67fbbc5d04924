// Dials impasto's TLS port ($FAL_TLS_ADDRESS, host:port) instead of fal's hosts. Loaded by `node --require`, before the program.
// One seam, tls.connect, carries fetch, https, undici and ws alike, in every Node; older ones ignore HTTPS_PROXY.
"use strict";

const FAL = /(^|\.)(fal\.run|fal\.ai|fal\.media|falrun\.com)\.?$/i;
const address = process.env.FAL_TLS_ADDRESS;

if (address) {
  const tls = require("node:tls");
  const original = tls.connect;
  const [, host, port] = /^\[?(.+?)\]?:(\d+)$/.exec(address);
  tls.connect = function (options, ...rest) {
    if (options === null || typeof options !== "object" || options.socket || options.path) {
      return original.call(this, options, ...rest);
    }
    const name = options.servername || options.host;
    if (!FAL.test(String(name ?? ""))) return original.call(this, options, ...rest);
    return original.call(this, { ...options, servername: name, host, port: Number(port), lookup: undefined }, ...rest);
  };
  require("node:module").syncBuiltinESMExports();
}
