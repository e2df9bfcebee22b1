/** What is drawn: the track with its cars, and the line of round trips. */

const CAR_LENGTH = 4.4; // metres
const CAR_WIDTH = 1.8;
const SHORTEST_CAR_PX = 15;
const MARGIN = 6; // metres around the track

/** A canvas with as many pixels as its place on the screen has. */
class Sheet {
  constructor(canvas, resized) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    new ResizeObserver(() => this.#resize(resized)).observe(canvas);
    addEventListener("resize", () => this.#resize(resized)); // the pixel ratio may be another
    this.#resize(() => {});
  }

  #resize(resized) {
    const ratio = window.devicePixelRatio;
    const { clientWidth, clientHeight } = this.canvas;
    if (ratio === this.ratio && clientWidth === this.width && clientHeight === this.height) return;
    Object.assign(this, { ratio, width: clientWidth, height: clientHeight });
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    resized();
  }

  colour(name) {
    return getComputedStyle(this.canvas).getPropertyValue(`--${name}`).trim();
  }
}

/** The cars, on a canvas of their own above the track, which stays as it is. */
export class TrackView {
  #sheet;
  #ground;
  #track;
  #colours = {};

  constructor(ground, canvas, track) {
    this.#track = track;
    this.#sheet = new Sheet(canvas, () => {});
    this.#ground = new Sheet(ground, () => this.#drawTrack());
    this.restyle();
  }

  /** Read the colours again: the scheme has changed. */
  restyle() {
    for (const name of ["surface", "edge", "dash", "ink", "car", "accent", "brake", "panel"]) {
      this.#colours[name] = this.#sheet.colour(name);
    }
    this.#drawTrack();
  }

  /** Draw the cars of the fleet, `chosen` among them with its sensors and its way. */
  draw(fleet, chosen, now) {
    const { context, width, height } = this.#sheet;
    context.clearRect(0, 0, width, height);
    const { car, marks, trail } = chosen;
    const at = chosen.poseAt(now);
    this.#drawTrail([...trail, [at.x, at.y]]);
    for (const mark of marks) this.#drawMark(mark);
    for (const driver of fleet.drivers) {
      if (driver !== chosen) this.#drawCar(driver, driver.poseAt(now), this.#colours.car);
    }
    this.#drawRays(at, car.track.hits(at));
    this.#drawCar(chosen, at, this.#colours.accent);
  }

  /** The driver whose car is nearest to a place on the canvas. */
  nearest(drivers, clientX, clientY, now) {
    const box = this.#sheet.canvas.getBoundingClientRect();
    const away = (driver) => {
      const { x, y } = driver.poseAt(now);
      const [px, py] = this.#at([x, y]);
      return Math.hypot(px - (clientX - box.left), py - (clientY - box.top));
    };
    return drivers.reduce((best, driver) => (away(driver) < away(best) ? driver : best));
  }

  #fit() {
    const points = [...this.#track.left, ...this.#track.right];
    const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
    const [left, right] = [Math.min(...xs) - MARGIN, Math.max(...xs) + MARGIN];
    const [bottom, top] = [Math.min(...ys) - MARGIN, Math.max(...ys) + MARGIN];
    const { width, height } = this.#ground;
    this.#scale = Math.min(width / (right - left), height / (top - bottom));
    this.#offset = [
      width / 2 - (this.#scale * (left + right)) / 2,
      height / 2 + (this.#scale * (bottom + top)) / 2,
    ];
    this.#ribbon = new Path2D();
    for (const edge of [this.#track.left, this.#track.right]) {
      edge.forEach((point, i) => this.#ribbon[i ? "lineTo" : "moveTo"](...this.#at(point)));
      this.#ribbon.closePath();
    }
    this.#centre = new Path2D();
    this.#track.centre.forEach((point, i) =>
      this.#centre[i ? "lineTo" : "moveTo"](...this.#at(point)),
    );
  }

  #scale = 1;
  #offset = [0, 0];
  #ribbon;
  #centre;

  #at([x, y]) {
    return [this.#offset[0] + this.#scale * x, this.#offset[1] - this.#scale * y];
  }

  #drawTrack() {
    this.#fit();
    const { context, width, height } = this.#ground;
    context.clearRect(0, 0, width, height);
    context.fillStyle = this.#colours.surface;
    context.fill(this.#ribbon, "evenodd");
    context.strokeStyle = this.#colours.dash;
    context.lineWidth = 1;
    context.setLineDash([8, 8]);
    context.stroke(this.#centre);
    context.setLineDash([]);
    context.strokeStyle = this.#colours.edge;
    context.lineWidth = 1.5;
    context.stroke(this.#ribbon);
    context.strokeStyle = this.#colours.ink;
    context.lineWidth = 3;
    context.beginPath();
    context.moveTo(...this.#at(this.#track.left[0]));
    context.lineTo(...this.#at(this.#track.right[0]));
    context.stroke();
  }

  #drawTrail(points) {
    const { context } = this.#sheet;
    context.strokeStyle = this.#colours.accent;
    context.lineWidth = 2.5;
    context.lineCap = "butt";
    for (let i = 1; i < points.length; i++) {
      context.globalAlpha = (0.6 * i) / points.length;
      context.beginPath();
      context.moveTo(...this.#at(points[i - 1]));
      context.lineTo(...this.#at(points[i]));
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  #drawMark(mark) {
    const { context } = this.#sheet;
    const [x, y] = this.#at(mark);
    context.strokeStyle = this.#colours.brake;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x - 4, y - 4);
    context.lineTo(x + 4, y + 4);
    context.moveTo(x + 4, y - 4);
    context.lineTo(x - 4, y + 4);
    context.stroke();
  }

  #drawRays(from, ends) {
    const { context } = this.#sheet;
    context.strokeStyle = context.fillStyle = this.#colours.accent;
    context.lineWidth = 1;
    for (const end of ends) {
      context.globalAlpha = 0.45;
      context.beginPath();
      context.moveTo(...this.#at([from.x, from.y]));
      context.lineTo(...this.#at(end));
      context.stroke();
      context.globalAlpha = 1;
      context.beginPath();
      context.arc(...this.#at(end), 2.5, 0, 2 * Math.PI);
      context.fill();
    }
  }

  /** A car is drawn larger than it is where it would hardly be seen, and hollow without answers. */
  #drawCar({ action, isBraking }, { x, y, heading }, colour) {
    const { context } = this.#sheet;
    const length = Math.max(SHORTEST_CAR_PX, CAR_LENGTH * this.#scale);
    const width = length * (CAR_WIDTH / CAR_LENGTH) * 1.1;
    context.save();
    context.translate(...this.#at([x, y]));
    context.rotate(-heading);
    context.beginPath();
    context.roundRect(-length / 2, -width / 2, length, width, [
      width * 0.2,
      width * 0.45,
      width * 0.45,
      width * 0.2,
    ]);
    context.lineWidth = 1.5;
    context.strokeStyle = isBraking ? colour : this.#colours.panel;
    context.fillStyle = isBraking ? this.#colours.panel : colour;
    context.stroke();
    context.fill();
    if (action.brake > 0.1) {
      context.fillStyle = this.#colours.brake;
      context.fillRect(-length / 2 - 1, -width / 2, 3, width);
    }
    context.restore();
  }
}

export class Sparkline {
  #sheet;
  #colours = {};
  #line = [];

  constructor(canvas) {
    this.#sheet = new Sheet(canvas, () => this.draw(this.#line));
    this.restyle();
  }

  restyle() {
    for (const name of ["muted", "accent", "line"]) this.#colours[name] = this.#sheet.colour(name);
  }

  /** Draw a line of {median, most} in milliseconds, null where there was nothing. */
  draw(line) {
    this.#line = line;
    const { context, width, height } = this.#sheet;
    const top = ceiling(Math.max(1, ...line.map((slot) => slot?.most ?? 0)));
    const [above, below] = [14, 2];
    const x = (i) => (i / (line.length - 1)) * width;
    const y = (value) => height - below - (value / top) * (height - above - below);
    context.clearRect(0, 0, width, height);

    context.strokeStyle = this.#colours.line;
    context.lineWidth = 1;
    for (const value of [0, top / 2, top]) {
      context.beginPath();
      context.moveTo(0, Math.round(y(value)) + 0.5);
      context.lineTo(width, Math.round(y(value)) + 0.5);
      context.stroke();
    }
    context.fillStyle = this.#colours.muted;
    context.font = `11px ${getComputedStyle(this.#sheet.canvas).fontFamily}`;
    context.textAlign = "right";
    context.fillText("last 30 s", width, above - 4);
    context.textAlign = "left";
    const empty = line.every((one) => one === null);
    context.fillText(empty ? "no answers" : `${top} ms`, 0, above - 4);

    context.fillStyle = context.strokeStyle = this.#colours.accent;
    const slot = width / (line.length - 1);
    line.forEach((one, i) => {
      if (!one) return;
      context.globalAlpha = 0.22;
      context.fillRect(x(i) - slot / 2, y(one.most), slot, height - below - y(one.most));
    });
    context.globalAlpha = 1;
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.beginPath();
    line.forEach((one, i) => {
      if (one) context[line[i - 1] ? "lineTo" : "moveTo"](x(i), y(one.median));
    });
    context.stroke();
  }
}

/** The next of 1, 2, 5, 10, 20, 50 … */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value * 0.999);
}
