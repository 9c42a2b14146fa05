// The state of the page: the view that is shown, the images, and the answers of the server.

import * as api from "./api.js";
import { offerCamera } from "./camera.js";
import { $, element, fillSelect, show, write } from "./dom.js";
import { startStatus, stopStatus } from "./status.js";
import { csv, curlCode, milliseconds, percent, pythonCode, thresholdText } from "./text.js";

const PARALLEL = 4; // requests at the same time
const SMALL = 160; // pixels; smaller images are enlarged with visible pixels

const TIMES = [
  ["queue", "Queue"],
  ["decode", "Decoding"],
  ["compute", "Inference"],
  ["rest", "Network and other"],
];

let models = [];
let description = null; // of the chosen version
let items = []; // {file, url, row, cells, answer, error, maps}
let selected = null;
let work = new AbortController(); // aborts requests whose results are no longer needed

// Views

async function showView() {
  const status = location.hash === "#status";
  show($("try-view"), !status);
  show($("status-view"), status);
  for (const [id, current] of [["to-try", !status], ["to-status", status]]) {
    if (current) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
  if (status) startStatus((error) => (error ? failed(error) : write($("alert"), "")));
  else stopStatus();
}

function askForToken(wrong) {
  stopStatus();
  for (const id of ["try-view", "status-view"]) show($(id), false);
  for (const node of document.querySelectorAll("nav, footer")) show(node, false);
  show($("token-view"), true);
  write($("alert"), wrong ? "The server does not know this token." : "");
  $("token").focus();
}

function failed(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401) askForToken(api.hasToken());
  else write($("alert"), error.message);
}

async function start() {
  let problem = null;
  try {
    await loadModels();
  } catch (error) {
    problem = error;
  }
  if (problem?.status === 401) return failed(problem);
  write($("alert"), problem?.message ?? (models.length ? "" : "No model is ready. The page Status shows the reasons."));
  show($("token-view"), false);
  for (const node of document.querySelectorAll("nav")) show(node, true);
  show(document.querySelector("footer"), !api.hasToken()); // a browser follows links without the token
  await showView();
}

// Model and version

async function loadModels() {
  const before = JSON.stringify(models);
  models = await api.listModels();
  if (JSON.stringify(models) === before) return;
  fillSelect($("model"), models.map(({ name }) => ({ value: name, text: name })));
  try {
    await chooseModel();
  } catch (error) {
    models = []; // so that the next attempt describes the model
    throw error;
  }
}

async function chooseModel() {
  const versions = (models.find(({ name }) => name === $("model").value)?.versions ?? []).toReversed();
  fillSelect($("version"), [
    { value: "", text: versions.length ? `newest (${versions[0]})` : "newest" },
    ...versions.map((version) => ({ value: version, text: version })),
  ]);
  await chooseVersion();
}

async function chooseVersion() {
  const chosen = [$("model").value, $("version").value];
  forgetAnswers();
  description = null; // it describes the version that was chosen before
  const found = models.length ? await api.describe(...chosen) : null;
  if (chosen[0] !== $("model").value || chosen[1] !== $("version").value) return; // another version was chosen meanwhile
  description = found;
  $("input-shape").textContent = description ? `Input: ${description.shape.join(" × ")}` : "";
  fillThresholds(description?.thresholds ?? []);
  classifyAll();
}

function fillThresholds(thresholds) {
  const ascending = thresholds.toSorted((a, b) => a.threshold - b.threshold);
  fillSelect($("threshold"), [
    { value: "", text: "none: always answer" },
    ...ascending.map((each) => ({ value: String(each.threshold), text: thresholdText(each) })),
  ]);
  show($("threshold-line"), ascending.length > 0);
}

function path() {
  const [model, version, topK, threshold] = ["model", "version", "top-k", "threshold"].map((id) => $(id).value);
  return api.classifyPath(model, version, topK, threshold);
}

// Images

function add(files) {
  if (!files.length) return;
  write($("alert"), "");
  const added = [...files].map((file) => {
    const item = { file, url: URL.createObjectURL(file), answer: null, error: null, maps: null };
    addRow(item);
    return item;
  });
  items.push(...added);
  select(added[0]);
  classify(added);
}

function clear() {
  cancel();
  for (const item of items) {
    URL.revokeObjectURL(item.url);
    forgetMaps(item);
  }
  items = [];
  $("rows").replaceChildren();
  select(null);
  $("files").focus();
}

function select(item) {
  selected = item;
  for (const { row, button } of items) {
    button.removeAttribute("aria-current");
    row.classList.remove("selected");
  }
  item?.button.setAttribute("aria-current", "true");
  item?.row.classList.add("selected");
  render();
}

function cancel() {
  work.abort();
  work = new AbortController();
}

// Remove the answers of another version, or of other options.
function forgetAnswers() {
  cancel();
  for (const item of items) {
    Object.assign(item, { answer: null, error: null });
    forgetMaps(item);
    renderRow(item);
  }
  render();
}

function classifyAll() {
  forgetAnswers();
  classify(items);
}

async function classify(list) {
  const queue = [...list];
  const { signal } = work;
  const chosen = path();
  async function worker() {
    for (let item = queue.shift(); item && !signal.aborted; item = queue.shift()) {
      try {
        item.answer = await api.classify(item.file, chosen, signal);
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === 401) return failed(error);
        item.error = error.message;
      }
      if (signal.aborted) return;
      renderRow(item);
      if (item === selected) {
        render();
        announce(item);
      } else renderImages();
    }
  }
  renderImages();
  await Promise.all(Array.from({ length: PARALLEL }, worker));
}

function announce({ file, answer, error }) {
  const best = answer?.labels[0];
  const text = answer?.unknown ? "unknown" : best ? `${best.label}, ${percent(best.probability)}` : error;
  $("announcement").textContent = `${file.name}: ${text}`;
}

function forgetMaps(item) {
  for (const url of Object.values(item.maps ?? {})) URL.revokeObjectURL(url);
  item.maps = null;
}

// Load the pixels that the model gets, and the colours of its map. The slider blends them as the
// server would.
async function loadMaps(item) {
  const { signal } = work;
  const [model, version] = [$("model").value, $("version").value];
  try {
    const [pixels, heat] = await Promise.all(
      [0, 1].map((opacity) => api.activationMap(item.file, model, version, opacity, signal)),
    );
    if (signal.aborted || !items.includes(item)) return;
    item.maps = { pixels: URL.createObjectURL(pixels), heat: URL.createObjectURL(heat) };
    if (item === selected) renderPicture();
  } catch (error) {
    if (!signal.aborted) failed(error);
  }
}

// What is shown

function render() {
  renderPicture();
  renderPrediction();
  renderImages();
  renderCode();
}

function renderPicture() {
  const maps = selected?.maps;
  show($("empty"), !selected);
  show($("clear"), Boolean(selected));
  const picture = $("picture");
  show(picture, Boolean(selected));
  if (selected) {
    const url = maps?.pixels ?? selected.url;
    if (picture.src !== url) {
      picture.classList.remove("broken");
      picture.src = url;
    }
    picture.alt = maps ? `The model's input of ${selected.file.name}` : selected.file.name;
  } else picture.removeAttribute("src");
  show($("heat"), Boolean(maps));
  if (maps) $("heat").src = maps.heat;
  else $("heat").removeAttribute("src");
  show($("opacity-line"), Boolean(maps));
  write($("caption"), selected?.file.name ?? "");
  if (!maps && selected?.answer && description?.outputs.includes("cam")) {
    if (!selected.loading) {
      selected.loading = true;
      const item = selected;
      loadMaps(item).finally(() => (item.loading = false));
    }
  }
}

function renderPrediction() {
  const { answer, error } = selected ?? {};
  write($("failure"), error ?? "");
  show($("prediction"), Boolean(answer));
  show($("placeholder"), !answer && !error);
  $("placeholder").textContent = selected ? "The model is computing ..." : "The labels and their probabilities appear here.";
  if (!answer) return;
  show($("unknown"), Boolean(answer.unknown));
  $("bars").classList.toggle("weak", Boolean(answer.unknown));
  $("bars").replaceChildren(...answer.labels.map(({ label, probability }) => {
    const fill = element("span");
    fill.style.width = `${100 * probability}%`;
    return element(
      "li",
      {},
      element("span", { className: "name" }, label),
      element("span", { className: "value", title: String(probability) }, percent(probability)),
      element("span", { className: "bar", ariaHidden: "true" }, fill),
    );
  }));
  $("time-bar").replaceChildren(...TIMES.map(([key]) => {
    const part = element("span", { className: key });
    part.style.flexGrow = answer.times[key];
    return part;
  }));
  $("times").replaceChildren(...TIMES.map(([key, name]) =>
    element("div", { className: key }, element("dt", {}, name), element("dd", {}, milliseconds(answer.times[key])))));
}

function renderImages() {
  show($("images"), items.length > 1);
  const done = items.filter(({ answer, error }) => answer || error).length;
  const wrong = items.filter(({ error }) => error).length;
  $("progress").textContent = `${done} of ${items.length}${wrong ? `, ${wrong} failed` : ""}`;
  $("csv").disabled = done < items.length;
}

function addRow(item) {
  const thumbnail = element("img", { src: item.url, alt: "", loading: "lazy", decoding: "async" });
  thumbnail.addEventListener("error", () => thumbnail.classList.add("broken"));
  item.button = element("button", { type: "button", className: "pick" }, thumbnail, element("span", {}, item.file.name));
  item.button.addEventListener("click", () => select(item));
  item.cells = ["", "number", "number"].map((className) => element("td", { className }));
  item.row = element("tr", {}, element("th", { scope: "row" }, item.button), ...item.cells);
  $("rows").append(item.row);
}

function renderRow({ answer, error, cells: [label, probability, time] }) {
  const best = answer?.labels[0];
  label.textContent = answer?.unknown ? "unknown" : best?.label ?? error ?? "";
  label.classList.toggle("no-label", Boolean(answer?.unknown));
  label.classList.toggle("wrong", Boolean(error));
  label.colSpan = error ? 3 : 1;
  for (const cell of [probability, time]) show(cell, !error);
  probability.textContent = best ? percent(best.probability) : "";
  time.textContent = answer ? milliseconds(Object.values(answer.times).reduce((sum, each) => sum + each)) : "";
}

function renderCode() {
  const name = selected?.file.name ?? "image.png";
  const url = api.address(path());
  $("curl").textContent = curlCode(url, name, api.hasToken());
  $("python").textContent = pythonCode(url, name, api.hasToken(), $("threshold").value !== "");
}

async function copy(button) {
  const source = $(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  } catch {
    getSelection().selectAllChildren(source); // for Ctrl+C, because a page without HTTPS cannot write to the clipboard
  }
}

function downloadCsv() {
  const url = URL.createObjectURL(new Blob([csv(items)], { type: "text/csv" }));
  element("a", { href: url, download: `${$("model").value}-predictions.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// Events

const guarded = (action) => () => Promise.resolve(action()).catch(failed);

$("model").addEventListener("change", guarded(() => {
  $("version").value = ""; // the newest
  return chooseModel();
}));
$("version").addEventListener("change", guarded(chooseVersion));
for (const id of ["top-k", "threshold"]) $(id).addEventListener("change", classifyAll);
$("choices").addEventListener("submit", (event) => event.preventDefault());
$("csv").addEventListener("click", downloadCsv);
$("clear").addEventListener("click", clear);
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(button));
}
for (const input of [$("files"), $("capture")]) {
  input.addEventListener("change", () => {
    add(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
}
$("opacity").addEventListener("input", () => {
  const { value } = $("opacity");
  $("heat").style.opacity = value / 100;
  $("opacity-value").textContent = `${value} %`;
});
$("picture").addEventListener("error", () => $("picture").classList.add("broken")); // not an image
$("picture").addEventListener("load", () => {
  const { naturalWidth, naturalHeight } = $("picture");
  $("picture").classList.toggle("pixels", Math.max(naturalWidth, naturalHeight) < SMALL);
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  $("token").value = "";
  if (!/^[\x21-\x7e]+$/.test(token)) return askForToken(true);
  api.setToken(token);
  models = [];
  start();
});

document.addEventListener("paste", (event) => {
  if (!$("try-view").hidden) add(event.clipboardData?.files ?? []);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (!$("try-view").hidden) add(event.dataTransfer.files);
});
addEventListener("hashchange", () => {
  // The link that skips to the content does not change the view.
  if ($("token-view").hidden && location.hash !== "#main") showView();
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && $("token-view").hidden) guarded(loadModels)();
});

offerCamera((photo) => add([photo]), (message) => write($("alert"), message));
start();
