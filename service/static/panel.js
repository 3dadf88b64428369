// The words beside the photo: which network, which boxes, how long, and who was found.

import { sideOf } from "./draw.js";

const $ = (id) => document.getElementById(id);
const PHASES = ["decode", "detect", "queue", "network"];

function element(tag, { text = "", className = "" } = {}, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  made.append(...children);
  return made;
}

const DOES = { people: ["pose", "people"], classify: ["classify"], segment: ["segment"] };

/** Networks for the task whose weights are here; the empty value is the server's default. */
export function fillModels(select, { models, default: standard }, task) {
  const chosen = select.value;
  const usable = models.filter(
    (model) => model.state !== "weights-missing" && DOES[task].includes(model.task),
  );
  const others = usable.filter((model) => model.name !== standard);
  const first = usable.length > others.length ? [new Option(`${standard} (default)`, "")] : [];
  select.replaceChildren(...first, ...others.map(named));
  const values = [...select.options].map(({ value }) => value);
  select.value = values.includes(chosen) ? chosen : (values[0] ?? "");
}

function named({ name, random_weights: random }) {
  return new Option(random ? `${name} (random weights)` : name, name);
}

/** What to do where no network for the task is here. */
export function howToGet({ models }, task) {
  const commands = models
    .filter((model) => model.command && DOES[task].includes(model.task))
    .map(({ command }) => command);
  const ways = [...commands, "hrpose serve --model CHECKPOINT"].join(" or ");
  return `No network for this is here. On the server: ${ways}.`;
}

export function showAnswer(answer) {
  $("summary").textContent = answer ? inWords(answer) : "";
  $("bar").replaceChildren();
  $("timing").textContent = "";
  if (!answer) return;
  const times = answer.timing_ms;
  const parts = PHASES.filter((phase) => times[phase] >= 0.05);
  for (const phase of parts) {
    const part = element("span", { className: phase });
    part.style.flex = `${times[phase]} 1 0`;
    $("bar").append(part);
  }
  const listed = parts.map((phase) => `${phase} ${times[phase].toFixed(1)}`).join(", ");
  $("timing").textContent = `${times.total.toFixed(1)} ms on the server${listed && `: ${listed}`}`;
}

function inWords(answer) {
  const { people, classes, model, boxes_from: source, image } = answer;
  if (classes) {
    const [first] = classes;
    const share = Math.round(100 * (first.probability ?? first.share));
    const untrained = answer.random_weights ? "Random weights, so this means nothing: " : "";
    return `${untrained}${first.name} ${share} %, by ${model}, ${image.width} × ${image.height} pixels`;
  }
  const count = people.length === 1 ? "1 person" : `${people.length || "No"} people`;
  const [kind, name] = source.split(":");
  let boxes = "boxes drawn by you";
  if (kind === "image") boxes = "the whole image as one box";
  if (kind === "detector") boxes = name === model ? "boxes of its own" : `boxes from ${name}`;
  return `${count} by ${model}, ${boxes}, ${image.width} × ${image.height} pixels`;
}

/** Classes as bars: how likely each is, or how much of the picture it covers. */
export function showClasses(list, answer) {
  list.replaceChildren(
    ...(answer?.classes ?? []).map(({ name, probability, share, colour }) => {
      const value = probability ?? share;
      const bar = element("span");
      bar.style.width = `${100 * value}%`;
      if (colour) bar.style.background = `rgb(${colour.join(" ")})`;
      return element(
        "li",
        {},
        element(
          "div",
          { className: "row" },
          element("span", { className: "name", text: name }),
          element("span", { className: "facts", text: `${(100 * value).toFixed(1)} %` }),
        ),
        element("div", { className: "share" }, bar),
      );
    }),
  );
}

/** A list that opens to every keypoint; `light(index or null)` is told what is pointed at. */
export function showPeople(list, answer, threshold, light) {
  const people = answer?.people ?? [];
  const open = new Set([...list.querySelectorAll("details[open]")].map(({ dataset }) => dataset.index));
  $("nobody").hidden = people.length > 0;
  const rows = [...list.children];
  if (rows.length === people.length) {
    // Kept: a webcam's next frame must not take away what is being clicked or has the focus.
    people.forEach((person, index) => update(rows[index], person, threshold));
    return;
  }
  list.replaceChildren(
    ...people.map((person, index) => {
      const row = element("li", {}, details(person, index, threshold, open.has(String(index))));
      row.addEventListener("pointerenter", () => light(index));
      row.addEventListener("pointerleave", () => light(null));
      row.addEventListener("focusin", () => light(index));
      row.addEventListener("focusout", () => light(null));
      return row;
    }),
  );
}

function update(row, person, threshold) {
  row.querySelector(".facts").textContent = factsOf(person, threshold);
  row.querySelector("table").replaceWith(table(person.keypoints, threshold));
}

function factsOf(person, threshold) {
  const sure = person.keypoints.filter((point) => point.score >= threshold).length;
  return `score ${person.score.toFixed(2)}, ${sure}/${person.keypoints.length} points`;
}

function details(person, index, threshold, open) {
  const made = element(
    "details",
    {},
    element(
      "summary",
      {},
      element("span", { className: "name", text: `Person ${index + 1}` }),
      element("span", { className: "facts", text: factsOf(person, threshold) }),
    ),
    table(person.keypoints, threshold),
  );
  made.dataset.index = index;
  made.open = open;
  return made;
}

function table(keypoints, threshold) {
  const head = ["keypoint", "x", "y", "score"].map((text) => {
    const cell = element("th", { text });
    cell.scope = "col";
    return cell;
  });
  const rows = keypoints.map(({ name, x, y, score }) => {
    const title = element("th", { text: name.replaceAll("_", " "), className: `side-${sideOf(name)}` });
    title.scope = "row";
    const cells = [x.toFixed(1), y.toFixed(1), score.toFixed(2)];
    const row = element("tr", {}, title, ...cells.map((text) => element("td", { text })));
    if (score < threshold) row.className = "unsure";
    return row;
  });
  return element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
}
