// Talking to the server: requests, problems in words, and the curl command for the same.

const KEY = "hrpose-key";

/** An answer that is no success, in the words of its RFC 9457 body. */
export class Problem extends Error {
  constructor(status, title, detail, retryAfter) {
    super(detail ? `${title}: ${detail}.` : title);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Keeps the key for this tab; throws in words where it can be none. */
export function setKey(key) {
  const plain = key.replace(/[\s\u200b-\u200d\u2060\ufeff]/g, ""); // copied along, not seen
  if (!/^[\x21-\x7e]*$/.test(plain)) {
    throw new Problem(401, "This is no key", "keys are of letters, digits and signs without accents");
  }
  sessionStorage.setItem(KEY, plain);
}

function headers() {
  const key = sessionStorage.getItem(KEY);
  return { Accept: "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

/** The answer to a request; throws in words where there is none, or a refusal. */
async function answerOf(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer", "is it running, and is the network up");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const wait = Number(response.headers.get("Retry-After")) || 1;
  throw new Problem(response.status, body.title ?? `Status ${response.status}`, body.detail, wait);
}

async function ask(path, options) {
  return (await answerOf(path, { ...options, headers: headers() })).json();
}

export function listModels() {
  return ask("models", {});
}

/** The photo that comes with the page. */
export async function sampleFile() {
  return (await answerOf("static/sample.jpg")).blob();
}

/** Options as the form fields that are sent, in order; what has its default is left out. */
export function fieldsOf({ task, model, threshold, flipTest, boxes }) {
  const fields = [];
  if (model) fields.push(["model", model]);
  if (task !== "people") return fields;
  if (threshold !== null) fields.push(["threshold", String(threshold)]);
  if (flipTest) fields.push(["flip_test", "true"]);
  if (boxes.length) fields.push(["boxes", JSON.stringify(boxes)]);
  return fields;
}

const PATHS = { people: "pose", classify: "classify", segment: "segment" };

/** What the server answers about a photo, by the task that is asked for. */
export function look(blob, name, options, signal) {
  const form = new FormData();
  form.append("image", blob, name);
  for (const [field, value] of fieldsOf(options)) form.append(field, value);
  return ask(PATHS[options.task], { method: "POST", body: form, signal });
}

/** The shell command that asks the same. */
export function curlCommand(name, options) {
  const url = new URL(PATHS[options.task], document.baseURI).href;
  // curl itself takes commas and semicolons apart, but not in quotes.
  const file = !/[,;"\\]/.test(name) ? name : `"${name.replace(/[\\"]/g, "\\$&")}"`;
  const parts = [`-F ${quote(`image=@${file}`)}`];
  for (const [field, value] of fieldsOf(options)) parts.push(`-F ${quote(`${field}=${value}`)}`);
  if (sessionStorage.getItem(KEY)) parts.push('-H "Authorization: Bearer $HRPOSE_KEY"');
  return ["curl", ...parts, quote(url)].join(" \\\n  ").replace("curl \\\n  ", "curl ");
}

function quote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
