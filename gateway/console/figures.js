/** What is counted and measured while the cars drive. */

const KEPT = 1000;
const SLOT_MS = 250;
const SLOTS = 120;

export class Figures {
  constructor() {
    this.clear();
  }

  clear() {
    this.skipped = 0;
    this.late = 0;
    this.fallback = 0;
    this.errors = 0;
    this.count = 0;
    this.roundTrips = [];
    this.timings = [];
    this.slots = []; // of SLOT_MS each, the last SLOTS of them: {at, values}
  }

  /** Count one answer; both times in milliseconds. */
  answered(roundTripMs, timingMs) {
    const at = Math.floor(performance.now() / SLOT_MS);
    this.roundTrips[this.count % KEPT] = roundTripMs;
    this.timings[this.count % KEPT] = timingMs;
    this.count++;
    if (this.slots.at(-1)?.at !== at) this.slots.push({ at, values: [] });
    this.slots.at(-1).values.push(roundTripMs);
    if (this.slots.length > SLOTS) this.slots.shift();
  }

  /** Median and maximum of each slot up to now, oldest first; null where nothing was answered. */
  history() {
    const newest = Math.floor(performance.now() / SLOT_MS) - 1; // the last that is full
    const line = new Array(SLOTS).fill(null);
    for (const { at, values } of this.slots) {
      const index = SLOTS - 1 - (newest - at);
      if (index < 0 || index >= SLOTS) continue;
      line[index] = { median: percentiles(values, [50])[0], most: Math.max(...values) };
    }
    return line;
  }
}

/** Nearest-rank percentiles of some values; null for each where there are none. */
export function percentiles(values, ranks) {
  const sorted = Float64Array.from(values).sort();
  return ranks.map((rank) => sorted[Math.ceil((rank / 100) * sorted.length) - 1] ?? null);
}
