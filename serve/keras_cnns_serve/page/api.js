// Requests to the server. The token lives in this module's memory and nowhere else.

let token = "";

export function setToken(text) {
  token = text;
}

export function hasToken() {
  return token !== "";
}

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status; // status of the response; 0 if there was no response
  }
}

// Paths are relative to the page, which a proxy may serve under a prefix.
export function address(path) {
  return new URL(path, document.baseURI).href.replace(/#.*/, "");
}

export function modelPath(model, version) {
  const path = `v1/models/${encodeURIComponent(model)}`;
  return version ? `${path}/versions/${encodeURIComponent(version)}` : path;
}

async function call(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(address(path), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.", 0);
  }
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new ApiError(body.error || `The server answered ${response.status}.`, response.status);
  }
  return response;
}

async function json(path, options) {
  const text = await (await call(path, options)).text();
  try {
    return JSON.parse(text);
  } catch {
    // Like TensorFlow Serving, the server writes NaN, which JSON.parse rejects.
    throw new ApiError("The answer contains numbers that are NaN or infinite.", 200);
  }
}

export async function listModels() {
  return (await json("v1/models")).models;
}

export async function listVersions() {
  return json("v2/repository/index", { method: "POST" });
}

// Return {engine: {file, engine, precision, threads, side_by_side, reason}, outputs: [name], shape: [...],
// thresholds: [{threshold, coverage, accuracy or null}]}
export async function describe(model, version) {
  const { metadata } = await json(`${modelPath(model, version)}/metadata`);
  const { inputs, outputs } = metadata.signature_def.signature_def.serving_default;
  const shape = Object.values(inputs)[0].tensor_shape.dim.slice(1).map(({ size }) => size);
  return { engine: metadata.engine, outputs: Object.keys(outputs), shape, thresholds: metadata.thresholds ?? [] };
}

// The threshold is a probability as text, or "".
export function classifyPath(model, version, topK, threshold) {
  const path = `${modelPath(model, version)}:classify-image?top_k=${topK}`;
  return threshold ? `${path}&min_probability=${threshold}` : path;
}

// Return {labels: [{label, probability}], unknown, times: {queue, decode, compute, rest}}. If the request
// has a threshold, `unknown` is whether all probabilities are below it. The times are in milliseconds.
export async function classify(file, path, signal) {
  const started = performance.now();
  const response = await call(path, { method: "POST", body: file, signal });
  const text = await response.text();
  const total = performance.now() - started;
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new ApiError("The model's probabilities are not numbers (NaN).", 200);
  }
  const times = serverTiming(response.headers.get("Server-Timing") || "");
  const known = times.queue + times.decode + times.compute;
  const [{ labels, unknown }] = answer.predictions;
  return { labels, unknown, times: { ...times, rest: Math.max(0, total - known) } };
}

// Return a PNG: the pixels that the model gets, under their class activation map with this opacity, 0 to 1.
export async function activationMap(file, model, version, opacity, signal) {
  const path = `${modelPath(model, version)}:classify-image?cam=1&opacity=${opacity}`;
  return (await call(path, { method: "POST", body: file, signal })).blob();
}

function serverTiming(header) {
  const times = { queue: 0, decode: 0, compute: 0 };
  for (const [, name, duration] of header.matchAll(/(\w+);dur=([\d.]+)/g)) times[name] = Number(duration);
  return times;
}
