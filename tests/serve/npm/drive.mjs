// A client that is told what to do on stdin, a line of JSON a call: `[id, {"func": name, "args": [given]}]`.
// The outcome is a line `[id, {"value": …}]`, or `[id, {"error": …}]` with what the client's exception says.
import { createInterface } from "node:readline";

export async function drive(functions) {
  for await (const line of createInterface({ input: process.stdin })) {
    const [id, { func, args }] = JSON.parse(line);
    const outcome = await functions[func](...args).then((value) => ({ value }), (error) => ({ error: told(error) }));
    process.stdout.write(JSON.stringify([id, outcome]) + "\n");
  }
}

// All that a stream yields.
export async function all(stream) {
  const events = [];
  for await (const event of await stream) events.push(event);
  return events;
}

function told(error) {
  return { ...error, name: error.constructor.name, message: error.message };
}
