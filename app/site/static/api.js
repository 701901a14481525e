// Calls the service: with the key, with problems as sentences, and its streams of events.

const KEY = "clipcanvas.key";
const RETRY_MS = 1000, LONGEST_RETRY_MS = 10000;

/** What the service refused, or why it could not be asked; `message` is for people. */
export class Problem extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** The answer to a request, read as JSON; `body` is sent as JSON unless it is a form. */
export async function call(method, path, body, headers = {}) {
  const isForm = body instanceof FormData;
  if (body !== undefined && !isForm) headers = { ...headers, "Content-Type": "application/json" };
  const response = await send(path, { method, headers, body: isForm || body === undefined ? body : JSON.stringify(body) });
  return response.status === 204 ? null : response.json();
}

/** An image or film of the service, as an address that this page may show; free it with URL.revokeObjectURL. */
export async function fetched(path) {
  return URL.createObjectURL(await (await send(path)).blob());
}

/** A job's events, over broken connections and restarts of the service, until the stream is complete or aborted.
 *
 * Yields `{type, data}`; `{type: "lost"}` while the service cannot be reached. */
export async function* events(path, signal) {
  let last = null, pause = RETRY_MS;
  while (!signal.aborted) {
    try {
      const response = await send(path, { signal, headers: last === null ? {} : { "Last-Event-ID": last } });
      if (response.status === 204) return;
      for await (const event of parsed(response.body)) {
        pause = RETRY_MS;
        last = event.id ?? last;
        yield event;
        if (event.type === "completed") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
      yield { type: "lost" };
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(2 * pause, LONGEST_RETRY_MS);
  }
}

async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Problem("The service cannot be reached. Is it running?");
  }
  if (!response.ok) throw await problem(response);
  return response;
}

async function problem(response) {
  const { status } = response;
  if (status === 401) {
    document.dispatchEvent(new Event("key-wanted"));
    return new Problem(key.get() ? "The service does not know this API key." : "The service asks for an API key.", 401);
  }
  const told = await response.json().catch(() => ({}));
  const faults = (told.errors ?? []).map((fault) => sentence(`${place(fault.pointer)}${fault.detail}`));
  const wait = response.headers.get("Retry-After");
  const again = wait && (status === 503 || status === 429) ? ` Try again in ${wait} s.` : "";
  const said = faults.length ? faults.slice(0, 5).join(" ") : sentence(told.detail || told.title || `the service answered ${status}`);
  return new Problem(said + again, status);
}

/** `#/options/learning_rate` -> `learning rate: `, `#/images/0` -> `image 1: `; places nobody sees say nothing */
function place(pointer) {
  const seen = pointer.replace(/^#\//, "").replace(/^images\/(\d+)(\/image)?/, (_, index) => `image ${Number(index) + 1}`);
  const words = seen.split("/").filter((step) => step && !/^(options|\d+)$/.test(step));
  return words.length ? `${words.join(" ").replaceAll("_", " ")}: ` : "";
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** Server-sent events of a body (https://html.spec.whatwg.org/multipage/server-sent-events.html). */
async function* parsed(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = {};
      for (const line of block.split("\n")) {
        const [name, ...rest] = line.split(":");
        if (name) fields[name] = rest.join(":").replace(/^ /, "");
      }
      if (fields.data !== undefined) yield { id: fields.id, type: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
