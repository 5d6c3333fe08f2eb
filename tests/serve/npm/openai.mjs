// OpenAI's client. Arguments: the server's address, the key.
import OpenAI from "openai";
import { all, drive } from "./drive.mjs";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

await drive({
  complete: (body) => client.completions.create(body),
  stream: (body) => all(client.completions.create({ ...body, stream: true })),
  // How each of several at once ended.
  burst: async (body, count) => {
    const ended = await Promise.allSettled(Array.from({ length: count }, () => client.completions.create(body)));
    return ended.map(({ reason }) => reason?.constructor.name ?? "done");
  },
  chat: (body) => client.chat.completions.create(body),
  streamChat: (body) => all(client.chat.completions.create({ ...body, stream: true })),
  helpedChat: (body) => client.chat.completions.stream(body).finalChatCompletion(),
  models: () => all(client.models.list()),
  model: (name) => client.models.retrieve(name),
});
