// The page: takes a photo or the webcam, asks the server, shows what it answered.

import { Problem, curlCommand, listModels, look, sampleFile, setKey } from "./api.js";
import { fillModels, howToGet, showAnswer, showClasses, showPeople } from "./panel.js";
import { stage } from "./stage.js";
import { upright } from "./upright.js";
import { Webcam } from "./webcam.js";

const $ = (id) => document.getElementById(id);
const webcam = new Webcam();
let models = null;
let task = "people"; // or classify, segment
let opening = null; // what is being read, and will be the photo
let asking = null; // AbortController of the request in flight
let frame = null; // the same of the webcam's

/* ------------------------------------------------------------------ settings */

function options() {
  return {
    task,
    model: $("model").value,
    threshold: $("threshold").dataset.set ? Number($("threshold").value) : null,
    flipTest: $("flip-test").checked && !$("flip-test").disabled,
    boxes: stage.boxes,
  };
}

async function loadModels() {
  try {
    models = await listModels();
    fillModels($("model"), models, task);
    showModel();
  } catch (error) {
    showProblem(error);
  }
}

/** What the chosen network is; one that finds people by itself takes no boxes and no flip test. */
function showModel() {
  const name = $("model").value || models.default;
  const model = models.models.find((entry) => entry.name === name);
  if (!$("model").options.length) $("model-facts").textContent = howToGet(models, task);
  if (!model || !$("model").options.length) return;
  const onePass = model.task !== "pose";
  const size = model.input_size ? `, input ${model.input_size.join(" × ")}` : "";
  const how = HOW[model.task];
  $("model-facts").textContent = `${model.backbone} + ${model.head}${size}: ${how}. ${model.licence}.`;
  $("flip-test").disabled = onePass;
  $("draw-box").disabled = onePass;
  if (onePass) {
    stage.boxes = [];
    setDrawing(false);
  }
}

const HOW = {
  people: "everybody in one pass",
  pose: "one person a box",
  classify: "what the middle of the photo shows",
  segment: "the class of every pixel",
};

function setTask(chosen) {
  task = chosen;
  document.body.dataset.task = task;
  for (const tab of document.querySelectorAll("[data-task].button")) {
    tab.setAttribute("aria-pressed", String(tab.dataset.task === task));
  }
  $("people-title").textContent = { people: "People", classify: "Classes", segment: "Regions" }[task];
  $("classes").hidden = task === "people";
  const seen = { people: "The photo with skeletons", classify: "The photo", segment: "The photo under the colours of its regions" };
  $("canvas").setAttribute("aria-label", seen[task]);
  forget();
  stage.boxes = [];
  setDrawing(false);
  frame?.abort();
  if (models) {
    fillModels($("model"), models, task);
    showModel();
  }
  askAgain();
}

function setThreshold(value) {
  if (value === null) delete $("threshold").dataset.set;
  else $("threshold").dataset.set = "yes";
  const words = value === null ? "network's own" : value.toFixed(2);
  $("threshold-value").textContent = words;
  $("threshold").setAttribute("aria-valuetext", words);
  $("threshold-reset").hidden = value === null;
}

function setDrawing(on) {
  stage.setDrawing(on);
  $("draw-box").setAttribute("aria-pressed", String(on));
  $("box-help").hidden = !on;
}

/* ---------------------------------------------------------- photo and answer */

/** Shows what a file, or a promise of one, holds, and asks about it. */
async function openPhoto(file, name) {
  stopWebcam();
  asking?.abort();
  const mine = {};
  opening = mine;
  stage.boxes = [];
  setDrawing(false);
  forget();
  setBusy(true);
  let photo = null;
  let problem = null;
  try {
    const given = await file;
    // Kept, for the file itself may be gone when a setting is changed.
    const blob = new Blob([await given.arrayBuffer()], { type: given.type });
    // The server says better than the browser what is wrong with a file.
    photo = { image: await upright(blob).catch(() => null), blob, name };
  } catch (error) {
    problem = error instanceof Problem ? error : new Error(`${name} cannot be read.`);
  }
  if (opening !== mine) return; // a smaller photo, opened later, was faster
  opening = null;
  if (problem) {
    setBusy(false);
    showProblem(problem);
    return;
  }
  stage.show(photo);
  await ask();
}

/** Takes the last answer off the page. */
function forget() {
  stage.setAnswer(null);
  stage.light(null);
  showAnswer(null);
  showPeople($("people"), null, stage.threshold, (person) => stage.light(person));
  showClasses($("classes"), null);
  showProblem(null);
  $("save").hidden = true;
}

/** Asks for the people in the photo; a newer question takes the place of an older one. */
async function ask() {
  if (!stage.photo || opening) return; // which will ask, with the settings of then
  asking?.abort();
  const mine = new AbortController();
  asking = mine;
  setBusy(true);
  showCurl();
  let answer = null;
  let problem = null;
  try {
    answer = await look(stage.photo.blob, stage.photo.name, options(), mine.signal);
  } catch (error) {
    problem = error;
  }
  if (asking !== mine) return;
  asking = null;
  setBusy(false);
  showProblem(problem);
  showResult(answer);
  if (answer && !models) loadModels(); // which failed at the start
}

/** After a setting changed; the webcam's next frame takes it by itself. */
function askAgain() {
  if (webcam.running) return;
  if (stage.photo) ask();
  else showCurl();
}

function showResult(answer) {
  const image = stage.photo.image;
  const turned = answer && image && (image.width !== answer.image.width || image.height !== answer.image.height);
  if (turned) showProblem(new Error("This browser does not turn the photo upright, so nothing is drawn on it."));
  stage.setAnswer(turned ? null : answer);
  $("result").hidden = stage.photo.image === null;
  $("clear-boxes").hidden = stage.boxes.length === 0;
  $("save").hidden = answer === null || turned;
  showAnswer(answer);
  showPeople($("people"), answer, stage.threshold, (person) => stage.light(person));
  showClasses($("classes"), answer);
  showCurl();
}

function showCurl() {
  $("curl").textContent = curlCommand(stage.photo?.name ?? "photo.jpg", options());
}

function setBusy(busy) {
  $("drop").setAttribute("aria-busy", String(busy));
  $("busy").hidden = !busy;
}

/** Shows an error in words, or (null) takes the last one away. */
function showProblem(error) {
  $("problem").hidden = error === null;
  $("problem").textContent = error?.message ?? "";
  const needsKey = error instanceof Problem && [401, 403].includes(error.status);
  $("key-form").hidden = !needsKey;
}

/* -------------------------------------------------------------------- webcam */

async function startWebcam() {
  $("webcam").disabled = true;
  try {
    await webcam.start();
  } catch (error) {
    showProblem(error);
    return;
  } finally {
    $("webcam").disabled = false;
  }
  $("webcam").setAttribute("aria-pressed", "true");
  $("webcam").textContent = "Stop webcam";
  asking?.abort();
  opening = asking = null;
  setBusy(false);
  stage.boxes = [];
  setDrawing(false);
  await watch(webcam.session);
}

function stopWebcam() {
  if (!webcam.running) return;
  webcam.stop();
  frame?.abort();
  $("webcam").setAttribute("aria-pressed", "false");
  $("webcam").textContent = "Webcam";
}

/** One request in flight, each with the newest frame; a frame and its skeletons show together. */
async function watch(session) {
  const stopped = () => !webcam.running || webcam.session !== session;
  while (!stopped()) {
    const { image, blob } = await webcam.frame();
    if (stopped()) break;
    if (!blob) {
      stopWebcam();
      showProblem(new Error("The camera shows nothing any more."));
      break;
    }
    try {
      const asked = options();
      frame = new AbortController();
      const answer = await look(blob, "frame.jpg", asked, frame.signal);
      if (stopped()) break;
      if (asked.task !== task) continue;
      stage.answer = null;
      stage.show({ image, blob, name: "frame.jpg" });
      showProblem(null);
      showResult(answer);
    } catch (error) {
      if (stopped()) break;
      if (error.name === "AbortError") continue; // another task was chosen
      showProblem(error);
      if (![429, 503].includes(error.status)) stopWebcam();
      await new Promise((done) => setTimeout(done, 1000 * (error.retryAfter ?? 1)));
    }
    // A hidden page rests: the browser gives it no frames to animate.
    await new Promise((done) => requestAnimationFrame(done));
  }
}

/* -------------------------------------------------------------------- wiring */

stage.onLight = (person) =>
  [...$("people").children].forEach((row, index) => row.classList.toggle("lit", index === person));
stage.onBox = ask;

for (const id of ["file", "camera"]) {
  $(id).addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) openPhoto(file, file.name);
    event.target.value = "";
  });
}

const drop = $("drop");
drop.addEventListener("click", () => {
  if (drop.classList.contains("waiting")) $("file").click();
});
// The whole window takes drops, so that a near miss does not leave the page.
addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
addEventListener("dragleave", () => drop.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) openPhoto(file, file.name);
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
  if (file) openPhoto(file, file.name);
});

$("sample").addEventListener("click", () => openPhoto(sampleFile(), "sample.jpg"));
$("webcam").addEventListener("click", () => (webcam.running ? stopWebcam() : startWebcam()));
$("draw-box").addEventListener("click", () => {
  stopWebcam();
  setDrawing(!stage.isDrawing);
});
$("clear-boxes").addEventListener("click", () => {
  stage.boxes = [];
  ask();
});
$("save").addEventListener("click", async () => {
  const picture = await stage.picture();
  if (!picture) {
    showProblem(new Error("This browser cannot write a picture of that size."));
    return;
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(picture);
  link.download = `${stage.photo.name.replace(/\.\w+$/, "")}-${task === "people" ? "keypoints" : task}.png`;
  link.click();
  URL.revokeObjectURL(link.href);
});

for (const tab of document.querySelectorAll("[data-task].button")) {
  tab.addEventListener("click", () => setTask(tab.dataset.task));
}
$("model").addEventListener("change", () => {
  showModel();
  askAgain();
});
$("flip-test").addEventListener("change", askAgain);
$("threshold").addEventListener("input", () => setThreshold(Number($("threshold").value)));
$("threshold").addEventListener("change", askAgain);
$("threshold-reset").addEventListener("click", () => {
  setThreshold(null);
  askAgain();
});
$("keypoint-threshold").addEventListener("input", () => {
  stage.threshold = Number($("keypoint-threshold").value);
  $("keypoint-threshold-value").textContent = stage.threshold.toFixed(2);
  showPeople($("people"), stage.answer, stage.threshold, (person) => stage.light(person));
  stage.paint();
});

$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    setKey($("key").value);
  } catch (error) {
    showProblem(error);
    return;
  }
  showProblem(null);
  await loadModels();
  askAgain();
});

$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    $("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("curl"));
    $("copy").textContent = "Press Ctrl+C";
  }
  setTimeout(() => ($("copy").textContent = "Copy"), 1800);
});

document.body.dataset.task = task;
setThreshold(null);
showCurl();
loadModels();
