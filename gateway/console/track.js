/**
 * The example track and its car: `examples/track.py`, step for step.
 *
 * Lengths are in metres, times in seconds, angles in radians counter-clockwise from +x.
 * Numbers are rounded to 32 bits where the environment does it, so that observations are the same.
 */

export const DT = 0.05;
export const SENSOR_REACH = 80.0;

const MAX_SPEED = 200.0 / 3.6;
const THROTTLE_ACCELERATION = 6.0;
const BRAKE_DECELERATION = 9.0;
const ROLLING_RESISTANCE = 0.2;
const DRAG = 0.0018;
const GRIP = 8.0;
const WHEELBASE = 2.6;
const REAR_AXLE = 1.3;
const CAR_WIDTH = 1.8;
const MAX_WHEEL_ANGLE = 0.4;
const STEERING_RATE = 4.0;
const SENSOR_ANGLES = [60.0, 30.0, 0.0, -30.0, -60.0].map((angle) => (angle * Math.PI) / 180);

const CONTROL_POINTS = [
  [30, -2], [60, -2], [95, -2], [135, 2], [172, 18], [186, 48], [168, 77], [132, 80],
  [108, 64], [84, 57], [60, 68], [34, 88], [0, 96], [-36, 94], [-57, 76], [-46, 57],
  [-20, 50], [2, 49], [11.2, 45.2], [15, 36], [11.2, 26.8], [2, 23], [-26, 23],
  [-34.8, 19.3], [-38.5, 10.5], [-34.8, 1.7], [-26, -2], [0, -2],
];

/** A closed track of constant width around a periodic cubic spline. */
export class Track {
  constructor(controlPoints = CONTROL_POINTS, width = 10.0, spacing = 1.5) {
    this.width = width;
    const curve = periodicSpline(controlPoints);
    const along = [0.0];
    for (let i = 1; i < curve.length; i++) {
      along.push(along[i - 1] + Math.hypot(...subtract(curve[i], curve[i - 1])));
    }
    this.length = along.at(-1);
    const count = Math.round(this.length / spacing);
    this.distance = Array.from({ length: count }, (_, i) => i * (this.length / count));
    this.distance.push(this.length);
    const axes = [0, 1].map((axis) => curve.map((point) => point[axis]));
    this.centre = this.distance.map((d) => axes.map((axis) => interpolate(d, along, axis)));

    const chords = this.centre.slice(0, -1).map((_, i) =>
      subtract(this.centre[(i + 1) % count], this.centre[(i - 1 + count) % count]),
    );
    const heading = unwrap(chords.map(([x, y]) => Math.atan2(y, x)));
    const turn = 2 * Math.PI * Math.round((heading.at(-1) - heading[0]) / (2 * Math.PI));
    this.heading = [...heading, heading[0] + turn];
    const before = [heading.at(-1) - turn, ...heading.slice(0, -1)];
    this.curvature = heading.map(
      (_, i) => (this.heading[i + 1] - before[i]) / ((2.0 * this.length) / count),
    );
    this.curvature.push(this.curvature[0]);

    const edge = (side) =>
      this.centre.map(([x, y], i) => [
        x - side * (width / 2) * Math.sin(this.heading[i]),
        y + side * (width / 2) * Math.cos(this.heading[i]),
      ]);
    this.left = edge(1);
    this.right = edge(-1);
  }

  /** Distance along and offset from the centre line, left positive. */
  locate(x, y) {
    let nearest = 0;
    let least = Infinity;
    for (let i = 0; i < this.centre.length - 1; i++) {
      const dx = this.centre[i][0] - x;
      const dy = this.centre[i][1] - y;
      const square = dx * dx + dy * dy;
      if (square < least) [least, nearest] = [square, i];
    }
    const dx = x - this.centre[nearest][0];
    const dy = y - this.centre[nearest][1];
    const cos = Math.cos(this.heading[nearest]);
    const sin = Math.sin(this.heading[nearest]);
    const offset = dy * cos - dx * sin;
    const along = (dx * cos + dy * sin) / (1.0 - this.curvature[nearest] * offset);
    return { distance: modulo(this.distance[nearest] + along, this.length), offset };
  }

  /** Position and heading of a point on the centre line. */
  pose(distance) {
    const at = modulo(distance, this.length);
    const of = (values) => interpolate(at, this.distance, values);
    const [x, y] = [0, 1].map((axis) => of(this.centre.map((point) => point[axis])));
    return { x, y, heading: of(this.heading) };
  }

  /** How far each ray from a pose goes before it meets an edge, at most `SENSOR_REACH`. */
  ranges({ x, y, heading }) {
    return SENSOR_ANGLES.map((angle) => {
      const cos = Math.cos(heading + angle);
      const sin = Math.sin(heading + angle);
      let range = SENSOR_REACH;
      for (const edge of [this.left, this.right]) {
        let [aheadBefore, leftBefore] = [0, 0];
        for (let i = 0; i < edge.length; i++) {
          const dx = edge[i][0] - x;
          const dy = edge[i][1] - y;
          const ahead = dx * cos + dy * sin;
          const left = dy * cos - dx * sin;
          if (i > 0 && left > 0 !== leftBefore > 0) {
            const fraction = leftBefore / (leftBefore - left);
            const hit = aheadBefore + fraction * (ahead - aheadBefore);
            if (hit >= 0 && hit < range) range = hit;
          }
          [aheadBefore, leftBefore] = [ahead, left];
        }
      }
      return range;
    });
  }

  /** Where the rays from a pose end. */
  hits(pose) {
    return this.ranges(pose).map((range, i) => [
      pose.x + range * Math.cos(pose.heading + SENSOR_ANGLES[i]),
      pose.y + range * Math.sin(pose.heading + SENSOR_ANGLES[i]),
    ]);
  }
}

/** A car that is put back on the centre line, at standstill, where it leaves the track. */
export class Car {
  /** It stands on the centre line, `start` metres from the start line. */
  constructor(track, start) {
    this.track = track;
    Object.assign(this, track.pose(start), { speed: 0, steering: 0 });
    this.distance = track.locate(this.x, this.y).distance;
    this.steps = 0;
    this.progress = 0;
    this.offTrack = 0;
    this.leftTrack = false;
    this.lapEnds = [0];
  }

  /** Seconds that each completed lap took. */
  get lapTimes() {
    return this.lapEnds.slice(1).map((end, i) => end - this.lapEnds[i]);
  }

  /** What the policy sees: speed in km/h, steering -1 to 1, sensors 0 to 1. */
  observation() {
    return {
      speed: clip(Math.fround(this.speed * 3.6), 0, 200),
      steering: clip(Math.fround(this.steering), -1, 1),
      sensors: this.track
        .ranges(this)
        .map((range) => clip(Math.fround(range / SENSOR_REACH), 0, 1)),
    };
  }

  /** Drive for `DT` seconds. */
  step(action) {
    const throttle = clip(Math.fround(action.throttle), 0, 1);
    const brake = clip(Math.fround(action.brake), 0, 1);
    this.#move(throttle, brake, clip(Math.fround(action.steer), -1, 1) - this.steering);
    this.steps += 1;

    const { length, width } = this.track;
    const { distance, offset } = this.track.locate(this.x, this.y);
    const gained = modulo(distance - this.distance + length / 2, length) - length / 2;
    this.distance = distance;
    this.progress += gained;
    const missing = this.lapEnds.length * length - this.progress;
    if (missing <= 0) this.lapEnds.push((this.steps + missing / gained) * DT);

    this.leftTrack = Math.abs(offset) > (width - CAR_WIDTH) / 2;
    if (this.leftTrack) {
      this.offTrack += 1;
      Object.assign(this, this.track.pose(distance), { speed: 0, steering: 0 });
    }
  }

  #move(throttle, brake, haste) {
    const acceleration =
      throttle * THROTTLE_ACCELERATION -
      brake * BRAKE_DECELERATION -
      ROLLING_RESISTANCE -
      DRAG * this.speed ** 2;
    this.speed = clip(this.speed + acceleration * DT, 0, MAX_SPEED);
    this.steering += clip(haste, -STEERING_RATE * DT, STEERING_RATE * DT);
    const wheelAngle = -this.steering * MAX_WHEEL_ANGLE;
    let slip = Math.atan((REAR_AXLE / WHEELBASE) * Math.tan(wheelAngle));
    let curvature = Math.sin(slip) / REAR_AXLE;
    if (Math.abs(curvature) * this.speed ** 2 > GRIP) {
      curvature = (Math.sign(curvature) * GRIP) / this.speed ** 2;
      slip = Math.asin(curvature * REAR_AXLE);
    }
    this.x += this.speed * Math.cos(this.heading + slip) * DT;
    this.y += this.speed * Math.sin(this.heading + slip) * DT;
    this.heading += this.speed * curvature * DT;
  }
}

function clip(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/** The remainder with the divisor's sign, as Python's `%`. */
function modulo(value, divisor) {
  return ((value % divisor) + divisor) % divisor;
}

function subtract(a, b) {
  return [a[0] - b[0], a[1] - b[1]];
}

/** Value at `x` on the line through the points (`xs`, `ys`), `xs` growing; `numpy.interp`. */
function interpolate(x, xs, ys) {
  let [low, high] = [0, xs.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle;
    else high = middle;
  }
  return ys[low] + ((ys[high] - ys[low]) / (xs[high] - xs[low])) * (x - xs[low]);
}

/** Angles without the jumps of whole turns between neighbours. */
function unwrap(angles) {
  let turns = 0;
  return angles.map((angle, i) => {
    if (i > 0) turns -= Math.round((angle - angles[i - 1]) / (2 * Math.PI));
    return angle + turns * 2 * Math.PI;
  });
}

/** The closed cubic spline through `points`, as `points.length * samples + 1` points. */
function periodicSpline(points, samples = 100) {
  const n = points.length;
  const next = (i) => (i + 1) % n;
  const last = (i) => (i - 1 + n) % n;
  const step = points.map((point, i) => Math.hypot(...subtract(points[next(i)], point)));
  const slope = points.map((point, i) => subtract(points[next(i)], point).map((d) => d / step[i]));
  const system = points.map((_, i) => {
    const row = new Array(n).fill(0);
    row[i] = 2 * (step[i] + step[last(i)]);
    row[next(i)] = step[i];
    row[last(i)] = step[last(i)];
    return row;
  });
  const bend = solve(
    system,
    slope.map((s, i) => subtract(s, slope[last(i)]).map((d) => 6 * d)),
  );
  const curve = [];
  for (let i = 0; i < n; i++) {
    for (let sample = 0; sample < samples; sample++) {
      const t = sample / samples;
      curve.push(
        [0, 1].map(
          (axis) =>
            (1 - t) * points[i][axis] +
            t * points[next(i)][axis] +
            (step[i] ** 2 / 6) *
              (((1 - t) ** 3 - (1 - t)) * bend[i][axis] + (t ** 3 - t) * bend[next(i)][axis]),
        ),
      );
    }
  }
  return [...curve, curve[0]];
}

/** Solve `system · x = right` by elimination with pivots. */
function solve(system, right) {
  const rows = system.map((row, i) => [...row, ...right[i]]);
  const n = rows.length;
  for (let column = 0; column < n; column++) {
    let pivot = column;
    for (let i = column + 1; i < n; i++) {
      if (Math.abs(rows[i][column]) > Math.abs(rows[pivot][column])) pivot = i;
    }
    [rows[column], rows[pivot]] = [rows[pivot], rows[column]];
    for (let i = 0; i < n; i++) {
      const factor = i === column ? 0 : rows[i][column] / rows[column][column];
      if (factor) rows[i] = rows[i].map((value, j) => value - factor * rows[column][j]);
    }
  }
  return rows.map((row, i) => row.slice(n).map((value) => value / row[i]));
}
