// Draw: the form of a job, from what the generators tell of themselves.

import { call } from "./api.js";
import { py, showCode } from "./code.js";
import { byId, choose, complain, h, onSubmit } from "./dom.js";
import { Live } from "./live.js";
import { Options } from "./options.js";
import { refreshHistory } from "./history.js";

const THUMBNAIL = 160;
const NUMBERS = { width: "width", height: "height", steps: "steps", seed: "seed", num_images: "count" };

let generators = [], options = null;
const live = new Live({ redraw, ended: refreshHistory });

export function startDraw() {
  onSubmit(byId("draw-form"), byId("drawing"), draw);
  byId("generator").addEventListener("change", showGenerator);
  for (const id of ["quality", "aspect"]) byId(id).addEventListener("change", showDefaults);
}

/** Ask which generators there are, unless it is known. */
export async function refreshGenerators() {
  if (generators.length) return;
  try {
    generators = (await call("GET", "/v1/generators")).data;
  } catch (error) {
    return complain(byId("drawing"), error);
  }
  const names = generators.map(({ name }) => name);
  const first = names.includes("vqgan_clip") ? "vqgan_clip" : names[0];
  choose(byId("generator"), names.map((name) => [name, name]), byId("generator").value || first);
  showGenerator();
}

/** Show a job, whoever asked for it, and go on with it until it ends. */
export const showJob = (id) => live.follow(id);

const chosen = () => generators.find(({ name }) => name === byId("generator").value);

function showGenerator() {
  const generator = chosen();
  if (!generator) return;
  byId("about").textContent = generator.description;
  for (const id of ["quality", "aspect"]) {
    const names = Object.keys(generator.presets[id] ?? {});
    choose(byId(id), [["", "as it is"], ...names.map((name) => [name, name])]);
  }
  options = new Options(byId("options"), generator.options, generator.defaults.options);
  showDefaults();
}

/** What is drawn where nothing is said, under the presets that are chosen. */
function showDefaults() {
  const { defaults, presets, limits } = chosen();
  const changed = ["quality", "aspect"].map((id) => presets[id]?.[byId(id).value] ?? {});
  for (const name of ["width", "height", "steps"]) {
    byId(name).placeholder = changed.reduce((value, change) => change[name] ?? value, defaults[name]);
  }
  for (const name of ["width", "height"]) {
    byId(name).min = byId(name).step = limits.size_multiple;
  }
}

async function draw() {
  const asked = { generator: byId("generator").value, prompt: byId("prompt").value.trim() };
  for (const id of ["quality", "aspect"]) if (byId(id).value) asked[id] = byId(id).value;
  for (const [name, id] of Object.entries(NUMBERS)) if (byId(id).value !== "") asked[name] = Number(byId(id).value);
  const changed = options ? await options.read() : {};
  if (Object.keys(changed).length) asked.options = changed;
  asked.save = { thumbnail: THUMBNAIL, ...(byId("film").value ? { video: byId("film").value } : {}) };
  // sent again after a lost answer, it is still one job
  const job = await call("POST", "/v1/jobs", asked, { "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()) });
  location.hash = `#draw/${job.id}`;
  const { prompt, ...rest } = asked;
  const more = Object.entries(rest).map(([name, value]) => `, ${name}=${py(value)}`).join("");
  showCode(
    "draw-code",
    { path: "/v1/jobs", json: asked },
    [`client.draw(${py(prompt)}${more}).save("image.png")`],
    { then: `curl -H 'Prefer: wait=60' ${location.origin}/v1/jobs/ID   # until it has ended\ncurl -O ${location.origin}/v1/jobs/ID/outputs/image-0.png` },
  );
  await refreshHistory();
}

/** The settings of a job into the form, its seed among them. */
function redraw(job, seed) {
  const { request } = job;
  byId("generator").value = request.generator;
  byId("quality").value = byId("aspect").value = "";
  showGenerator();
  byId("prompt").value = line(request.prompts);
  for (const name of ["width", "height", "steps"]) byId(name).value = request[name];
  byId("seed").value = seed;
  byId("count").value = "";
  byId("film").value = ["mp4", "webp"].includes(request.save.video) ? request.save.video : "";
  options.write(request.options);
  byId("prompt").focus();
  byId("prompt").scrollIntoView({ block: "center" });
}

/** Prompts as one line, as far as a line can say them; `^` parts what pulls at different times. */
export function line(prompts) {
  const phases = new Map();
  for (const { text, weight, stop, begin = 0 } of prompts) {
    if (text === undefined) continue;
    const end = stop === undefined || stop === null ? "" : `:${stop}`;
    const said = text + (weight !== 1 || end ? `:${weight}${end}` : "");
    phases.set(begin, [...(phases.get(begin) ?? []), said]);
  }
  return [...phases.keys()].sort((a, b) => a - b).map((begin) => phases.get(begin).join(" | ")).join(" ^ ");
}
