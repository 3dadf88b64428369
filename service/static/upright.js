// Photos as they are meant to be seen: the server turns all by EXIF, browsers not those in WebP.

/** An ImageBitmap or canvas of an image file, upright; throws where the browser cannot read it. */
export async function upright(blob) {
  const image = await createImageBitmap(blob);
  const orientation = orientationOf(new DataView(await blob.arrayBuffer()));
  if (orientation === 1 || (await turnsWebp)) return image;
  const turned = document.createElement("canvas");
  const onItsSide = orientation > 4;
  turned.width = onItsSide ? image.height : image.width;
  turned.height = onItsSide ? image.width : image.height;
  const context = turned.getContext("2d");
  const [a, b, c, d] = WAYS[orientation];
  // Corners that the map takes to negative places are moved back to the edge.
  const x = Math.min(a, c) < 0 ? turned.width : 0;
  const y = Math.min(b, d) < 0 ? turned.height : 0;
  context.setTransform(a, b, c, d, x, y);
  context.drawImage(image, 0, 0);
  image.close();
  return turned;
}

// [a, b, c, d] of x' = ax + cy, y' = bx + dy, by EXIF's number.
const WAYS = {
  2: [-1, 0, 0, 1],
  3: [-1, 0, 0, -1],
  4: [1, 0, 0, -1],
  5: [0, 1, 1, 0],
  6: [0, 1, -1, 0],
  7: [0, -1, -1, 0],
  8: [0, -1, 1, 0],
};

/** What the EXIF chunk of a WebP file says, 1 to 8; 1 for all other files. */
export function orientationOf(file) {
  const word = (at) => String.fromCharCode(...[0, 1, 2, 3].map((n) => file.getUint8(at + n)));
  if (file.byteLength < 16 || word(0) !== "RIFF" || word(8) !== "WEBP") return 1;
  for (let at = 12; at + 8 <= file.byteLength; ) {
    const length = file.getUint32(at + 4, true);
    if (word(at) === "EXIF") {
      const end = Math.min(at + 8 + length, file.byteLength);
      return tiffOrientation(new DataView(file.buffer, at + 8, end - at - 8));
    }
    at += 8 + length + (length % 2);
  }
  return 1;
}

function tiffOrientation(exif) {
  try {
    const start = exif.getUint32(0) === 0x45786966 ? 6 : 0; // "Exif", which some put before
    const little = exif.getUint16(start) === 0x4949;
    const directory = start + exif.getUint32(start + 4, little);
    for (let n = 0; n < exif.getUint16(directory, little); n++) {
      const entry = directory + 2 + 12 * n;
      if (exif.getUint16(entry, little) !== 0x0112) continue;
      const value = exif.getUint16(entry + 8, little);
      return value in WAYS ? value : 1;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // cut short
  }
  return 1;
}

// Two pixels side by side that EXIF stands on end: whoever turns WebP finds one above the other.
const PROBE = "UklGRk4AAABXRUJQVlA4WAoAAAAIAAAAAQAAAAAAVlA4TA4AAAAvAQAAAAcQEf0PRET/A0VYSUYaAAAATU0AKgAAAAgAAQESAAMAAAABAAYAAAAAAAA=";
const turnsWebp = createImageBitmap(
  new Blob([Uint8Array.from(atob(PROBE), (letter) => letter.charCodeAt(0))], { type: "image/webp" }),
).then(({ width }) => width === 1, () => false);
