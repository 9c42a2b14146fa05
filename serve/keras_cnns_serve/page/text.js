// The texts that the page writes: numbers, code and CSV.

export function percent(probability) {
  if (probability >= 0.9995 && probability < 1) return "> 99.9 %";
  if (probability < 0.0005 && probability > 0) return "< 0.1 %";
  return `${(100 * probability).toFixed(1)} %`;
}

export function milliseconds(value) {
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;
}

// Return the text of a threshold in the list of thresholds.
export function thresholdText({ threshold, coverage, accuracy }) {
  const correct = accuracy === null ? "" : `, ${percent(accuracy)} correct`;
  return `${threshold} (${percent(coverage)} answered${correct})`;
}

function shellQuoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// Curl reads its standard input if the name is "-", so a name that begins with "-" gets a prefix.
function curlFile(name) {
  return shellQuoted(`@${name.startsWith("-") ? "./" : ""}${name}`);
}

export function curlCode(url, name, withToken) {
  const header = withToken ? ` \\\n  --header "Authorization: Bearer $TOKEN"` : "";
  return `curl --data-binary ${curlFile(name)}${header} \\\n  ${shellQuoted(url)}`;
}

export function pythonCode(url, name, withToken, withThreshold) {
  const headers = withToken ? `, headers={"Authorization": f"Bearer {os.environ['TOKEN']}"}` : "";
  return `import json
${withToken ? "import os\n" : ""}from pathlib import Path
from urllib.request import Request, urlopen

url = ${JSON.stringify(url)}
image = Path(${JSON.stringify(name)}).read_bytes()
with urlopen(Request(url, image${headers})) as answer:
    [prediction] = json.load(answer)["predictions"]
${withThreshold ? 'if prediction["unknown"]:\n    print("unknown")\n' : ""}for each in prediction["labels"]:
    print(f"{each['probability']:.4f}  {each['label']}")
`;
}

// Quote a text that begins like a formula, because a spreadsheet would evaluate it.
function csvText(text) {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

// Return a CSV file as RFC 4180 defines it. Its first row has the names of the columns.
export function csv(items) {
  const most = Math.max(1, ...items.map(({ answer }) => answer?.labels.length ?? 0));
  const header = ["file"];
  for (let k = 1; k <= most; k++) header.push(k > 1 ? `label_${k}` : "label", k > 1 ? `probability_${k}` : "probability");
  header.push("unknown", "queue_ms", "decode_ms", "inference_ms", "error");
  const rows = items.map(({ file, answer, error }) => {
    const row = [csvText(file.name)];
    for (let k = 0; k < most; k++) {
      const each = answer?.labels[k];
      const named = each && !(k === 0 && answer.unknown); // an unknown image has no first label
      row.push(named ? csvText(each.label) : "", each ? String(each.probability) : "");
    }
    const { queue = "", decode = "", compute = "" } = answer?.times ?? {};
    return [...row, String(answer?.unknown ?? ""), queue, decode, compute, csvText(error ?? "")];
  });
  return [header, ...rows].map((row) => `${row.join(",")}\r\n`).join("");
}
