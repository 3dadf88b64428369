// The photo on its canvas: painted with its skeletons, pointed at, and drawn boxes on.

import { draw, nearest, overlayOf } from "./draw.js";

const canvas = document.getElementById("canvas");
const drop = document.getElementById("drop");
const tip = document.getElementById("tip");
const MOST_ENLARGED = 3;
const SMALLEST_BOX_PX = 4;

export const stage = {
  photo: null, // { image, blob, name }; image is null where the browser cannot show it
  answer: null,
  threshold: 0.2, // keypoints with a lower score are not drawn
  boxes: [], // drawn by hand: [left, top, width, height] in image pixels
  overlay: null, // a canvas of the photo's size, coloured by class
  lit: null, // index of the person that is pointed at
  onLight: () => {},
  onBox: () => {},

  show(photo) {
    if (this.photo?.image !== photo.image) this.photo?.image?.close?.(); // it holds all its pixels
    this.photo = photo;
    const shown = photo.image !== null;
    canvas.hidden = !shown;
    document.getElementById("empty").hidden = shown;
    drop.classList.toggle("waiting", !shown);
    this.paint();
  },

  setAnswer(answer) {
    this.answer = answer;
    this.overlay = answer?.runs ? overlayOf(answer) : null;
    this.paint();
  },

  light(person) {
    if (person === this.lit) return;
    this.lit = person;
    this.onLight(person);
    this.paint();
  },

  get isDrawing() {
    return canvas.classList.contains("drawing");
  },

  setDrawing(on) {
    canvas.classList.toggle("drawing", on);
  },

  /** Fits the photo into its room, sharp on dense screens too. */
  paint() {
    const image = this.photo?.image;
    if (!image) return;
    const ratio = window.devicePixelRatio || 1;
    const height = Math.max(240, innerHeight * 0.76);
    const fit = Math.min(drop.clientWidth / image.width, height / image.height, MOST_ENLARGED);
    canvas.style.width = `${Math.round(image.width * fit)}px`;
    canvas.width = Math.max(1, Math.round(image.width * fit * ratio));
    canvas.height = Math.max(1, Math.round(image.height * fit * ratio));
    draw(canvas.getContext("2d"), this.view(), canvas.width / image.width, ratio);
  },

  view() {
    return {
      image: this.photo.image,
      people: this.answer?.people ?? [],
      edges: this.answer?.skeleton?.edges ?? [],
      overlay: this.overlay,
      threshold: this.threshold,
      lit: this.lit,
      boxes: this.boxes,
      pending: pendingBox(),
    };
  },

  /** The photo in its own size with everything drawn as it is shown; a PNG, or null. */
  async picture() {
    const whole = document.createElement("canvas");
    [whole.width, whole.height] = [this.photo.image.width, this.photo.image.height];
    draw(whole.getContext("2d"), this.view(), 1, whole.width / Math.max(1, canvas.clientWidth));
    return new Promise((done) => whole.toBlob(done, "image/png"));
  },
};

/* ------------------------------------------------------------------ pointing */

/** Where a pointer is, in image pixels, and how far a finger or a cursor reaches there. */
function pointerAt(event) {
  const area = canvas.getBoundingClientRect();
  const scale = stage.photo.image.width / area.width;
  const reach = (event.pointerType === "touch" ? 28 : 16) * scale;
  const x = (event.clientX - area.left) * scale - 0.5;
  const y = (event.clientY - area.top) * scale - 0.5;
  return { x, y, reach };
}

function showTip(event) {
  const { x, y, reach } = pointerAt(event);
  const found = stage.answer?.people && nearest(stage.answer.people, stage.threshold, x, y, reach);
  tip.hidden = !found;
  stage.light(found ? found.person : null);
  if (!found) return;
  const name = found.point.name.replaceAll("_", " ");
  tip.textContent = `${name} ${found.point.score.toFixed(2)} (person ${found.person + 1})`;
  const area = drop.getBoundingClientRect();
  const left = event.clientX - area.left + 14;
  const top = event.clientY - area.top - 38;
  tip.style.left = `${Math.max(4, Math.min(left, area.width - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function hideTip() {
  tip.hidden = true;
  stage.light(null);
}

/* --------------------------------------------------------------- drawing boxes */

let stretched = null; // the two corners of the box that is being drawn, in image pixels

function pendingBox() {
  if (!stretched) return null;
  const { image } = stage.photo;
  const inside = (value, most) => Math.round(Math.min(Math.max(value, 0), most));
  const xs = stretched.map(({ x }) => inside(x, image.width)).sort((a, b) => a - b);
  const ys = stretched.map(({ y }) => inside(y, image.height)).sort((a, b) => a - b);
  return [xs[0], ys[0], xs[1] - xs[0], ys[1] - ys[0]];
}

function startBox(event) {
  canvas.setPointerCapture(event.pointerId);
  stretched = [pointerAt(event), pointerAt(event)];
}

function stretchBox(event) {
  stretched[1] = pointerAt(event);
  stage.paint();
}

function endBox() {
  const box = pendingBox();
  stretched = null;
  if (box && Math.min(box[2], box[3]) > SMALLEST_BOX_PX) {
    stage.boxes.push(box);
    stage.onBox();
  }
  stage.paint();
}

canvas.addEventListener("pointerdown", (event) => (stage.isDrawing ? startBox : showTip)(event));
canvas.addEventListener("pointermove", (event) => (stretched ? stretchBox : showTip)(event));
canvas.addEventListener("pointerup", () => stretched && endBox());
canvas.addEventListener("pointercancel", () => stretched && endBox());
canvas.addEventListener("pointerleave", hideTip);
new ResizeObserver(() => stage.paint()).observe(drop);
