#!/usr/bin/env node
// A custom runtime for Node: its own http module and nothing else.
import http from "node:http";

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(":");
const call = (method, path, body) =>
  new Promise((resolve, reject) => {
    const request = http.request({ host, port, method, path, agent }, (reply) => {
      const parts = [];
      reply.on("data", (part) => parts.push(part));
      reply.on("end", () => resolve({ headers: reply.headers, body: Buffer.concat(parts) }));
    });
    request.on("error", reject);
    request.end(body);
  });

const base = "/2018-06-01/runtime/invocation/";
for (;;) {
  const work = await call("GET", `${base}next`);
  const event = JSON.parse(work.body);
  await call("POST", `${base}${work.headers["lambda-runtime-aws-request-id"]}/response`, JSON.stringify({ node: event }));
}
