// One of the servers that npm has, or plain Node: node node.js <name>. All have
// the routes of ../spellings.go and say in X-Took which of them took a request.
"use strict";

const http = require("node:http");

const took = (route) => (request, response) => {
  response.setHeader("X-Took", route);
  response.statusCode = 200;
  response.end();
};

// Express, by its major version; /api is a router that is mounted there.
const express = (name, rest) => {
  const module = require(name);
  const app = module();
  app.post("/beacon", took("/beacon"));
  app.get("/pixel.gif", took("/pixel.gif"));
  app.patch("/patch", took("/patch"));
  app.post("/a/:id/b", took("/a/*/b"));
  app.post("/t/keep", took("/t/keep"));
  app.post(rest, took("/t/*"));
  const api = module.Router();
  api.post("/beacon", took("/api/beacon"));
  app.use("/api", api);
  return http.createServer(app);
};

const fastify = async (name) => {
  const app = require(name)();
  const takes = (route) => (request, reply) => reply.header("X-Took", route).send();
  app.post("/beacon", takes("/beacon"));
  app.get("/pixel.gif", takes("/pixel.gif"));
  app.patch("/patch", takes("/patch"));
  app.post("/a/:id/b", takes("/a/*/b"));
  app.post("/t/keep", takes("/t/keep"));
  app.post("/t/*", takes("/t/*"));
  app.register(async (api) => api.post("/beacon", takes("/api/beacon")), { prefix: "/api" });
  await app.ready();
  return app.server;
};

const koa = () => {
  const Koa = require("koa");
  const Router = require("@koa/router");
  const takes = (route) => (context) => {
    context.set("X-Took", route);
    context.body = "";
  };
  const router = new Router();
  router.post("/beacon", takes("/beacon"));
  router.get("/pixel.gif", takes("/pixel.gif"));
  router.patch("/patch", takes("/patch"));
  router.post("/a/:id/b", takes("/a/*/b"));
  router.post("/t/keep", takes("/t/keep"));
  router.post("/t/{*rest}", takes("/t/*"));
  const api = new Router({ prefix: "/api" });
  api.post("/beacon", takes("/api/beacon"));
  const app = new Koa();
  app.use(router.routes()).use(api.routes());
  return http.createServer(app.callback());
};

// What people write who need no framework.
const plain = () =>
  http.createServer((request, response) => {
    let path;
    try {
      path = new URL(request.url, `http://${request.headers.host}`).pathname;
    } catch {
      response.statusCode = 400;
      return response.end();
    }
    const of = `${request.method === "HEAD" ? "GET" : request.method} ${path}`;
    for (const [pattern, route] of [
      [/^POST \/beacon$/, "/beacon"],
      [/^GET \/pixel\.gif$/, "/pixel.gif"],
      [/^PATCH \/patch$/, "/patch"],
      [/^POST \/a\/[^/]+\/b$/, "/a/*/b"],
      [/^POST \/t\/keep$/, "/t/keep"],
      [/^POST \/t\//, "/t/*"],
      [/^POST \/api\/beacon$/, "/api/beacon"],
    ]) {
      if (pattern.test(of)) {
        return took(route)(request, response);
      }
    }
    response.statusCode = 404;
    response.end();
  });

const servers = {
  express4: () => express("express4", "/t/*"),
  express5: () => express("express5", "/t/{*rest}"),
  fastify4: () => fastify("fastify4"),
  fastify5: () => fastify("fastify5"),
  koa,
  node: plain,
};

const version = (module) => require(`${module}/package.json`).version;
const titles = {
  express4: () => `Express ${version("express4")}`,
  express5: () => `Express ${version("express5")}`,
  fastify4: () => `Fastify ${version("fastify4")}`,
  fastify5: () => `Fastify ${version("fastify5")}`,
  koa: () => `Koa ${version("koa")}`,
  node: () => "new URL",
};

(async () => {
  const name = process.argv[2];
  const server = await servers[name]();
  server.listen(0, "127.0.0.1", () =>
    console.log(`127.0.0.1:${server.address().port} ${titles[name]()} on Node ${process.versions.node}`),
  );
})();
