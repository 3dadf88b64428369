// A photo and its skeletons on a canvas. Image points are pixel centres: 0 is drawn at 0.5.

const SIDES = { left: "#ff8c00", right: "#1e90ff", middle: "#32cd32" };
const OUTLINE = "rgb(20 20 24 / 85%)";

/** Which side of the body a keypoint is on, by its name. */
export function sideOf(name) {
  if (name.startsWith("left")) return "left";
  return name.startsWith("right") ? "right" : "middle";
}

/**
 * Draws everything, `scale` canvas pixels to an image pixel, lines for screens of `unit` to their own.
 * view: { image, overlay: canvas or null, people, edges, threshold, lit: index or null, boxes, pending: box or null }
 */
export function draw(context, view, scale, unit) {
  const { canvas } = context;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(view.image, 0, 0, canvas.width, canvas.height);
  if (view.overlay) {
    context.globalAlpha = 0.5;
    context.drawImage(view.overlay, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
  }
  view.people.forEach((person, index) => {
    if (index !== view.lit) drawPerson(context, person, view, scale, unit, false);
  });
  if (view.lit !== null && view.people[view.lit]) {
    drawPerson(context, view.people[view.lit], view, scale, unit, true);
  }
  for (const box of view.boxes) drawBox(context, box, scale, unit, "#ffffff", [8, 5]);
  if (view.pending) drawBox(context, view.pending, scale, unit, "#ffd60a", [6, 4]);
}

function drawPerson(context, person, view, scale, unit, lit) {
  const width = limbWidth(person, view.threshold, scale, unit) * (lit ? 1.35 : 1);
  const at = ({ x, y }) => [(x + 0.5) * scale, (y + 0.5) * scale];
  const points = person.keypoints;
  const shown = (index) => points[index].score >= view.threshold;
  const edges = view.edges.filter(([a, b]) => shown(a) && shown(b));
  context.lineCap = "round";
  drawBox(context, person.box, scale, unit, lit ? "#ffffff" : "rgb(255 255 255 / 60%)", []);
  for (const outline of [true, false]) {
    for (const [a, b] of edges) {
      context.beginPath();
      context.moveTo(...at(points[a]));
      context.lineTo(...at(points[b]));
      context.lineWidth = outline ? width + Math.max(2, width * 0.5) : width;
      context.strokeStyle = outline ? OUTLINE : SIDES[sideOf(points[b].name)];
      context.stroke();
    }
  }
  points.forEach((point, index) => {
    if (!shown(index)) return;
    context.beginPath();
    context.arc(...at(point), Math.max(2.5, width * 0.95), 0, 2 * Math.PI);
    context.fillStyle = SIDES[sideOf(point.name)];
    context.fill();
    context.lineWidth = Math.max(1, width * 0.3);
    context.strokeStyle = "#ffffff";
    context.stroke();
  });
}

function drawBox(context, [left, top, width, height], scale, unit, colour, dash) {
  context.save();
  context.setLineDash(dash.map((length) => length * unit));
  for (const [line, style] of [[3, OUTLINE], [1.5, colour]]) {
    context.lineWidth = line * unit;
    context.strokeStyle = style;
    context.strokeRect(left * scale, top * scale, width * scale, height * scale);
  }
  context.restore();
}

/** A canvas of the image's size in which each pixel has the colour of its class. */
export function overlayOf({ image, classes, runs }) {
  const made = document.createElement("canvas");
  [made.width, made.height] = [image.width, image.height];
  const context = made.getContext("2d");
  const pixels = context.createImageData(image.width, image.height);
  const colours = new Map(classes.map(({ index, colour }) => [index, colour]));
  const words = new Uint32Array(pixels.data.buffer); // red is the lowest byte
  let at = 0;
  for (const [index, length] of runs) {
    const [red, green, blue] = colours.get(index);
    words.fill(((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0, at, at + length);
    at += length;
  }
  context.putImageData(pixels, 0, 0);
  return made;
}

/** Follows the size of the person, so that faces in a crowd and portraits both stay legible. */
function limbWidth(person, threshold, scale, unit) {
  const sure = person.keypoints.filter((point) => point.score >= threshold);
  const spread = (axis) => {
    const values = sure.map((point) => point[axis]);
    return Math.max(...values) - Math.min(...values);
  };
  const size = sure.length > 2 ? Math.max(spread("x"), spread("y")) : Math.max(...person.box.slice(2));
  return Math.min(Math.max(size * scale * 0.016, 1.5 * unit), 7 * unit);
}

/** The sure keypoint next to a point of the image, no farther than `reach` pixels, or null. */
export function nearest(people, threshold, x, y, reach) {
  let found = null;
  people.forEach((person, index) => {
    for (const point of person.keypoints) {
      const distance = Math.hypot(point.x - x, point.y - y);
      if (point.score >= threshold && distance < reach) {
        reach = distance;
        found = { person: index, point };
      }
    }
  });
  return found;
}
