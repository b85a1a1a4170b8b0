// A stand-in for Firefox Accounts' auth server, as far as the gate needs one:
// node auth-server.js <public-url>. It verifies sessions as the servers before
// 2024 did (a whole Hawk header, by npm's hawk, for the public URL) and as those
// since May 2026 do (Bearer fxs_<id>), and logs nothing. It prints its port.
//
// GET <public-url>'s path + /session/status
// PUT /sessions/<session token>/<uid>, DELETE /sessions/<session token>
"use strict";

const crypto = require("node:crypto");
const http = require("node:http");
const hawk = require("hawk");

const publicURL = new URL(process.argv[2]);
const host = publicURL.hostname;
const port = Number(publicURL.port) || (publicURL.protocol === "https:" ? 443 : 80);

const sessions = new Map(); // by id

// Servers keep the id and the key, and not the token.
const credentials = (token) => {
  const derived = Buffer.from(crypto.hkdfSync("sha256", Buffer.from(token, "hex"), "", "identity.mozilla.com/picl/v1/sessionToken", 96));
  return { id: derived.subarray(0, 32).toString("hex"), key: derived.subarray(32, 64), algorithm: "sha256" };
};

const refusal = (errno, message) => ({ code: 401, errno, error: "Unauthorized", message });

// The session that a request proves, or throws a refusal.
const prove = async (request) => {
  const unknown = refusal(110, "Invalid authentication token in request signature");
  const authorization = request.headers.authorization || "";
  const [, bearer] = /^Bearer fxs_([0-9a-f]{64})$/.exec(authorization) || [];
  if (bearer) {
    if (!sessions.has(bearer)) throw unknown;
    return sessions.get(bearer);
  }
  if (!authorization.startsWith("Hawk ")) throw unknown;
  try {
    return (await hawk.server.authenticate(request, (id) => sessions.get(id), { host, port })).credentials;
  } catch (error) {
    const { message } = error;
    if (message === "Stale timestamp") throw { ...refusal(111, "Invalid timestamp in request signature"), serverTime: Math.floor(Date.now() / 1000) };
    throw message === "Bad mac" ? refusal(109, "Invalid request signature") : unknown;
  }
};

const answer = async (request) => {
  const [, control, token, uid] = /^\/(sessions)\/([0-9a-f]{64})(?:\/([0-9a-f]{32}))?$/.exec(request.url) || [];
  if (control) {
    const known = credentials(token);
    if (request.method === "PUT") sessions.set(known.id, { ...known, uid });
    else sessions.delete(known.id);
    return {};
  }
  if (request.method !== "GET" || request.url !== publicURL.pathname + "/session/status") {
    throw { code: 404, errno: 116, error: "Not Found", message: "This endpoint is no longer supported" };
  }
  const { uid: proven } = await prove(request);
  return { state: "verified", uid: proven, details: { accountEmailVerified: true, sessionVerified: true } };
};

const server = http.createServer((request, response) => {
  const send = (status, body) => {
    response.writeHead(status, { "Content-Type": "application/json; charset=utf-8" });
    response.end(JSON.stringify(body));
  };
  request.resume();
  answer(request).then((body) => send(200, body), (error) => send(error.code || 500, error));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume(); // whoever started it has gone
