// The page: it polls /status, draws what was measured, and asks for completions as an editor would.

const POLL = 1500;
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);
let key = null; // in this variable alone: nothing of the page is stored
let asking = null;
let timer = 0;

function element(tag, text, name) {
  const made = document.createElement(tag);
  made.textContent = text ?? "";
  if (name) made.className = name;
  return made;
}

function ask(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  return fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
}

function tell(id, text, bad = false) {
  at(id).textContent = text;
  at(id).classList.toggle("bad", bad);
  if (id === "state") at(id).setAttribute("aria-live", bad ? "polite" : "off"); // counts would be read out at every poll
}

function duration(seconds) {
  return seconds < 1 ? `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)}\u00a0ms` : `${seconds.toFixed(2)}\u00a0s`;
}

function facts(model) {
  const rows = {
    Name: model.name, Family: model.family, Parameters: model.parameters?.toLocaleString("en"), Scheme: model.scheme,
    Target: model.target, Context: `${model.context_size} tokens`, "FIM order": model.fim_order.toUpperCase(),
  };
  const list = element("dl");
  list.append(...Object.entries(rows).map(([name, value]) => {
    const row = element("div");
    row.append(element("dt", name), element("dd", value ?? "not said"));
    return row;
  }));
  return list;
}

let shownModels = "";
function showModels(models) {
  if (JSON.stringify(models) === shownModels) return; // else what is chosen would be lost at every poll
  shownModels = JSON.stringify(models);
  const chosen = at("model").value;
  at("name").textContent = models.map((model) => model.name).join(", ");
  at("models").replaceChildren(...models.map(facts));
  at("model").replaceChildren(...models.map((model) => element("option", model.name)));
  if (models.some((model) => model.name === chosen)) at("model").value = chosen;
}

function chart(title, values, say, top = 0) {
  const figure = element("figure");
  const known = values.filter((value) => value !== null);
  const most = Math.max(top, ...known);
  const middle = known.toSorted((a, b) => a - b)[known.length >> 1];
  const words = known.length ? `${title}: median ${say(middle)}, most ${say(Math.max(...known))}` : `${title}: nothing yet`;
  const drawn = document.createElementNS(SVG, "svg");
  const set = (node, attributes) => Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
  set(drawn, { viewBox: "0 0 60 100", preserveAspectRatio: "none", role: "img", "aria-label": words });
  values.forEach((value, number) => {
    const bar = document.createElementNS(SVG, "rect");
    const height = most ? Math.max(100 * (value ?? 0) / most, value === null ? 0 : 1) : 0;
    set(bar, { x: 60 - values.length + number + 0.1, y: 100 - height, width: 0.8, height });
    drawn.append(bar);
  });
  figure.append(drawn, element("figcaption", words));
  return figure;
}

function showCharts(recent) {
  const percent = (share) => `${Math.round(100 * share)}\u00a0%`;
  at("charts").replaceChildren(
    chart("First token", recent.map((one) => one.first_token_seconds), duration),
    chart("Each token after", recent.map((one) => one.token_seconds), duration),
    chart("Prompt from cache", recent.map((one) => one.prompt_tokens ? one.cached_tokens / one.prompt_tokens : 0), percent, 1),
  );
}

let shownEditors = "";
function showEditors(editors) {
  if (JSON.stringify(editors) === shownEditors) return; // else a selection in them would be lost at every poll
  shownEditors = JSON.stringify(editors);
  at("editors").replaceChildren(...editors.map(({ editor, where, text }, number) => {
    const block = element("pre", text);
    block.tabIndex = 0;
    block.setAttribute("aria-label", `Settings for ${editor}`);
    const copy = element("button", `Copy for ${editor}`);
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      } catch { // a page without TLS may not reach the clipboard
        getSelection().selectAllChildren(block);
      }
    });
    const details = element("details");
    details.open = number === 0;
    details.append(element("summary", editor), element("p", where, "hint"), block, copy);
    return details;
  }));
}

async function poll() {
  clearTimeout(timer);
  try {
    const reply = await ask("status");
    at("keyed").hidden = reply.status !== 401;
    if (reply.status === 401) {
      tell("state", key === null ? "an API key is needed" : "this key is not the server's", true);
      return;
    }
    if (!reply.ok) throw new Error(`status ${reply.status}`);
    const said = await reply.json();
    showModels(said.models);
    showCharts(said.recent);
    showEditors(said.editors);
    const total = (name) => said.totals[name] ?? 0;
    tell("state", `${total("num_requests_running")} running, ${total("num_requests_waiting")} waiting, ` +
      `${total("generation_tokens").toLocaleString("en")} tokens generated`);
  } catch (error) {
    tell("state", `the server does not answer (${error.message})`, true);
  }
  timer = setTimeout(() => document.hidden || poll(), POLL);
}

function events(text) {
  return text.split("\n\n").map((event) => event.replace(/^data: /, "")).filter((data) => data && data !== "[DONE]");
}

async function complete() {
  asking?.abort();
  const mine = asking = new AbortController();
  const [prefix, suffix, begun] = [at("prefix").value, at("suffix").value, performance.now()];
  const written = element("mark");
  at("output").replaceChildren(element("span", prefix, "given"), written, element("span", suffix, "given"));
  at("stop").disabled = false;
  tell("timing", "computing…");
  const since = () => duration((performance.now() - begun) / 1000);
  let first = null;
  try {
    const body = { model: at("model").value, prompt: prefix, suffix, max_tokens: Number(at("tokens").value), stream: true };
    const reply = await ask("v1/completions", { method: "POST", body: JSON.stringify(body), signal: mine.signal });
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = "";;) {
      const { done, value } = await reader.read();
      rest += value ?? "";
      const end = done ? rest.length : rest.lastIndexOf("\n\n") + 2;
      for (const data of end > 1 ? events(rest.slice(0, end)) : []) {
        const event = JSON.parse(data);
        if (event.error) throw new Error(event.error.message);
        first ??= since();
        written.textContent += event.choices[0].text;
      }
      rest = end > 1 ? rest.slice(end) : rest;
      if (done) break;
    }
    tell("timing", `first text after ${first}, all after ${since()}, ${written.textContent.length} characters`);
  } catch (error) {
    const left = error.name === "AbortError";
    if (asking === mine) tell("timing", left ? `stopped after ${since()}` : error.message, !left);
  }
  if (asking === mine) at("stop").disabled = true;
  poll();
}

at("keyed").addEventListener("submit", (event) => {
  event.preventDefault();
  key = at("key").value;
  at("key").value = "";
  poll();
});
at("playground").addEventListener("submit", (event) => { event.preventDefault(); complete(); });
at("playground").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); complete(); }
});
addEventListener("keydown", (event) => { if (event.key === "Escape") asking?.abort(); });
at("stop").addEventListener("click", () => asking?.abort());
document.addEventListener("visibilitychange", () => document.hidden || poll());
poll();
