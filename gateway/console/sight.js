/** What the policy sees: the images of an observation, drawn, and files in their place. */

const ORDERS = { RGB: [0, 1, 2], BGR: [2, 1, 0] };

export class Sight {
  #section = document.getElementById("sight");
  #pictures = [];
  #changed;

  /** `changed()` is called when a file has taken the place of an image. */
  constructor(changed) {
    this.#changed = changed;
  }

  /** Have a picture for each image in the active policy's observations. */
  offer({ observationSpace, images }) {
    const told = new Map(images.map((one) => [one.leaf, one]));
    this.#pictures = imagesOf(observationSpace).map(
      (leaf) => new Picture(leaf, told.get(leaf.path.join(".")), this.#changed),
    );
    document.getElementById("sight-images").replaceChildren(...this.#pictures.map((one) => one.figure));
    this.#section.hidden = this.#pictures.length === 0;
  }

  /** Show the images of an observation; return it with null in their place. */
  take(observation) {
    return this.#replace(observation, (picture, value) => {
      if (value !== null) picture.show(value);
      return null;
    });
  }

  /** Return an observation with the images that are shown in the place of null. */
  fill(observation) {
    return this.#replace(observation, (picture, value) => value ?? picture.value);
  }

  #replace(observation, change) {
    return this.#pictures.reduce(
      (whole, picture) => replace(whole, picture.path, (value) => change(picture, value)),
      observation,
    );
  }
}

/** One image: drawn in colours, or each of its channels in grey. */
class Picture {
  figure = document.createElement("figure");
  value = null;
  #leaf;
  #planes; // a canvas, and the channels that are its red, green and blue

  /** `told` is what `/metadata` has of the leaf if it takes files. */
  constructor(leaf, told, changed) {
    this.#leaf = leaf;
    const { channels, width, height } = leaf;
    const name = leaf.path.join(".") || "observation";
    const colours = told?.channels ?? (channels === 1 ? "grey" : `${channels} channels`);
    const each = Array.from({ length: channels }, (_, i) => [i, i, i]);
    this.#planes = (channels === 3 ? [ORDERS[colours] ?? ORDERS.RGB] : each).map((order, i) => {
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", channels === order.length ? name : `${name}, channel ${i + 1}`);
      return { canvas, order };
    });
    const caption = document.createElement("figcaption");
    const title = document.createElement("strong");
    const planes = document.createElement("div");
    title.textContent = name;
    caption.append(title, ` ${width} × ${height}, ${colours}`);
    planes.append(...this.#planes.map((one) => one.canvas));
    this.figure.append(caption, planes);
    if (told) this.#listen(name, changed);
  }

  get path() {
    return this.#leaf.path;
  }

  /** Show an image in its JSON form: nested lists, base64 of the bytes, or a file. */
  async show(value) {
    this.value = value;
    const shown = await pixels(value, this.#leaf).catch(() => null); // the gateway says what is wrong
    if (this.value !== value) return;
    for (const { canvas, order } of this.#planes) this.#draw(canvas, order, shown);
  }

  #draw(canvas, order, shown) {
    const { low, high } = this.#leaf;
    const { width, height, data, steps } = shown ?? { ...this.#leaf, data: [] };
    Object.assign(canvas, { width, height }); // and empty
    const drawn = new ImageData(width, height);
    for (let i = 0; shown && i < width * height; i++) {
      order.forEach((channel, colour) => {
        const number = data[i * steps[0] + channel * steps[1]];
        drawn.data[4 * i + colour] = ((number - low) * 255) / (high - low);
      });
      drawn.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(drawn, 0, 0);
  }

  #listen(name, changed) {
    const input = document.createElement("input");
    Object.assign(input, { type: "file", accept: "image/png,image/jpeg" });
    input.setAttribute("aria-label", `PNG or JPEG for ${name}`);
    input.addEventListener("change", async () => {
      if (!input.files.length) return;
      const content = new Uint8Array(await input.files[0].arrayBuffer());
      const text = btoa(content.reduce((all, byte) => all + String.fromCharCode(byte), ""));
      await this.show({ [content[0] === 0x89 ? "png" : "jpeg"]: text });
      changed();
    });
    this.figure.addEventListener("dragover", (event) => event.preventDefault());
    this.figure.addEventListener("drop", (event) => {
      event.preventDefault();
      input.files = event.dataTransfer.files;
      input.dispatchEvent(new Event("change"));
    });
    this.figure.append(input);
  }
}

/** Return the images of a space, the uint8 leaves of `[H, W]`, `[H, W, C]` or `[C, H, W]`. */
function imagesOf(space, path = []) {
  if (space.subspaces) {
    return Object.entries(space.subspaces).flatMap(([key, part]) => imagesOf(part, [...path, key]));
  }
  const { dtype, shape } = space;
  if (dtype !== "uint8" || shape.length < 2 || shape.length > 3) return [];
  const first = shape.length === 3 && shape[0] < Math.min(shape[1], shape[2]);
  const [height, width, channels] = first ? [shape[1], shape[2], shape[0]] : [...shape, 1];
  const bounded = typeof space.low === "number" && typeof space.high === "number";
  const [low, high] = bounded ? [space.low, space.high] : [0, 255];
  const steps = first ? [1, width * height] : [channels, 1]; // to the next pixel, the next channel
  return [{ path, width, height, channels, low, high, steps }];
}

/** Return a value with another part at a path, if it has one there. */
function replace(value, [key, ...inner], change) {
  if (key === undefined) return change(value);
  if (value === null || typeof value !== "object" || !(key in value)) return value;
  const copy = Array.isArray(value) ? [...value] : { ...value };
  copy[key] = replace(value[key], inner, change);
  return copy;
}

const bytes = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));

/** Return the numbers of an image in its JSON form, and the steps between them. */
async function pixels(value, leaf) {
  if (typeof value === "string") return { ...leaf, data: bytes(atob(value)) };
  if (Array.isArray(value)) return { ...leaf, data: value.flat(2) };
  const file = atob(value.png ?? value.jpeg).replace("Exif\0", "none\0"); // it would be turned
  const blob = new Blob([bytes(file)]);
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return { width, height, data: context.getImageData(0, 0, width, height).data, steps: [4, 1] };
}
