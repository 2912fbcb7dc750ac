// A client that shares nothing with Outrider but the .proto files: submits a command, watches it, reads its result.
// Usage: node client.js HOST:PORT PROTOS
"use strict";
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, protos] = process.argv.slice(2);
const options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true, includeDirs: [protos] };
const definition = loader.loadSync("outrider/v1/task_service.proto", options);
const { TaskService } = grpc.loadPackageDefinition(definition).outrider.v1;
const client = new TaskService(address, grpc.credentials.createInsecure());

const ENDINGS = new Set(["TASK_SUCCEEDED", "TASK_FAILED", "TASK_CANCELLED", "TASK_EXPIRED", "TASK_SKIPPED"]);
const unary = (method, request) =>
  new Promise((resolve, reject) =>
    client[method](request, (error, response) => (error ? reject(error) : resolve(response))));

async function refused() {
  try {
    await unary("Submit", { request_id: "interop-bad", spec: {} });
    return null;
  } catch (error) {
    return { code: grpc.status[error.code], details: error.details };
  }
}

function watched(taskId) {
  const types = [];
  const call = client.Watch({ task_ids: [taskId], after_cursor: "0", include_results: true });
  return new Promise((resolve, reject) => {
    call.on("error", reject);
    call.on("data", (response) => {
      for (const event of response.events ? response.events.events : []) {
        const type = event.type.replace("EVENT_TYPE_", "");
        types.push(type);
        if (ENDINGS.has(type)) {
          call.removeAllListeners("error");
          call.on("error", () => {}); // of our own cancel
          call.cancel();
          resolve({ types, result: JSON.parse(event.completed.result.data.toString() || "null") });
        }
      }
    });
  });
}

async function main() {
  const spec = { title: "from Node", command: { argv: ["echo", "hello from Node"] } };
  const { task_id: taskId, created } = await unary("Submit", { request_id: "interop-1", spec });
  const again = await unary("Submit", { request_id: "interop-1", spec });
  const seen = await watched(taskId);
  console.log(JSON.stringify({ taskId, created, createdAgain: again.created, sameTask: again.task_id === taskId, ...seen, refused: await refused() }));
  client.close();
}

main().catch((error) => {
  console.error(String(error));
  process.exit(1);
});
