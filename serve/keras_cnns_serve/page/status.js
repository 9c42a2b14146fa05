// The status view: every version with its state, the reason for the state, and the engine that runs it.

import { describe, listVersions } from "./api.js";
import { $, element } from "./dom.js";

const REFRESH = 3000; // milliseconds
const WORDS = { READY: "ready", LOADING: "loading", UNLOADING: "unloading", UNAVAILABLE: "unavailable" };

const WIDE = new Set(["Choice", "Reason"]);

let timer = 0;
let shown = "";

// Show the status, and update it every few seconds until `stopStatus`.
export async function startStatus(failed) {
  stopStatus();
  const mine = (timer = setTimeout(() => startStatus(failed), REFRESH));
  if (document.visibilityState !== "visible") return;
  try {
    const entries = await Promise.all((await listVersions()).map(withDescription));
    const text = JSON.stringify(entries);
    if (mine !== timer) return;
    failed(null);
    if (text === shown) return; // keep the nodes, because the user may have selected text in them
    shown = text;
    $("models").replaceChildren(...byModel(entries).map(card));
  } catch (error) {
    if (mine === timer) failed(error);
  }
}

export function stopStatus() {
  clearTimeout(timer);
  timer = 0;
}

async function withDescription(entry) {
  if (entry.state !== "READY") return entry;
  // A version can be unloaded between the two requests.
  return { ...entry, ...(await describe(entry.name, entry.version).catch(() => ({}))) };
}

function byModel(entries) {
  const models = new Map();
  for (const entry of entries) models.set(entry.name, [...(models.get(entry.name) ?? []), entry]);
  return [...models].map(([name, versions]) => ({ name, versions }));
}

function card({ name, versions }) {
  const newest = versions.toSorted((a, b) => b.version - a.version);
  return element("section", { className: "card" }, element("h3", {}, name), ...newest.map(version));
}

function version({ version, state, reason, engine, shape, outputs }) {
  const word = WORDS[state] ?? state.toLowerCase();
  const facts = [];
  if (engine) {
    const atOnce = engine.side_by_side > 1 ? `, ${engine.side_by_side} runs at once` : "";
    facts.push(
      ["Engine", engine.engine],
      ["Precision", engine.precision],
      ["Threads", `${engine.threads} per image${atOnce}`],
      ["File", engine.file],
      ["Input", shape.join(" × ")],
      ["Outputs", outputs.join(", ")],
      ["Choice", engine.reason],
    );
  }
  if (reason) facts.push(["Reason", reason]);
  const title = version ? `Version ${version}` : "No version";
  return element(
    "div",
    { className: "version" },
    element("p", { className: "heading" }, element("strong", {}, title), element("span", { className: `pill ${word}` }, word)),
    element("dl", { className: "facts" }, ...facts.map(([term, text]) =>
      element("div", { className: WIDE.has(term) ? "wide" : "" }, element("dt", {}, term), element("dd", {}, text)))),
  );
}
