// Hugging Face's client. Arguments: the address of an endpoint, the key.
import { InferenceClient } from "@huggingface/inference";
import { all, drive } from "./drive.mjs";

const [endpointUrl, token] = process.argv.slice(2);
const client = new InferenceClient(token, { endpointUrl, retry_on_error: false });

await drive({
  generate: (given) => client.textGeneration(given),
  stream: (given) => all(client.textGenerationStream(given)),
  chat: (given) => client.chatCompletion(given),
  streamChat: (given) => all(client.chatCompletionStream(given)),
});
