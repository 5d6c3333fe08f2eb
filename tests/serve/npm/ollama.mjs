// Ollama's client. Arguments: the server's address, the key.
import { Ollama } from "ollama";
import { all, drive } from "./drive.mjs";

const [host, key] = process.argv.slice(2);
const client = new Ollama({ host, headers: key ? { Authorization: `Bearer ${key}` } : {} });

await drive({
  generate: (body) => client.generate({ ...body, stream: false }),
  stream: (body) => all(client.generate({ ...body, stream: true })),
  chat: (body) => client.chat({ ...body, stream: false }),
  streamChat: (body) => all(client.chat({ ...body, stream: true })),
  // Reads one piece and leaves.
  leave: async (body) => {
    const stream = await client.generate({ ...body, stream: true });
    const { value } = await stream[Symbol.asyncIterator]().next();
    stream.abort();
    return value;
  },
  list: () => client.list(),
  ps: () => client.ps(),
  show: (body) => client.show(body),
  version: () => client.version(),
});
