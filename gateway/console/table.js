/** The table of all cars, with the buttons that select one. */

const element = (id) => document.getElementById(id);
const seconds = (value) => (value === undefined ? "–" : `${value.toFixed(2)} s`);

export class CarTable {
  #body = element("fleet").tBodies[0];
  #chosen;

  /** `chosen(number)` is called with the number of the car that a button selects. */
  constructor(chosen) {
    this.#chosen = chosen;
  }

  /** Have a row for each of so many cars. */
  resize(count) {
    while (this.#body.rows.length > count) this.#body.deleteRow(-1);
    while (this.#body.rows.length < count) {
      const row = this.#body.insertRow();
      const number = this.#body.rows.length;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = number;
      button.setAttribute("aria-label", `Select car ${number}`);
      button.addEventListener("click", () => this.#chosen(number));
      row.insertCell().append(button);
      for (let i = 0; i < 7; i++) row.insertCell();
    }
  }

  mark(number) {
    [...this.#body.rows].forEach((row, i) => {
      row.classList.toggle("chosen", i + 1 === number);
      row.querySelector("button").setAttribute("aria-pressed", i + 1 === number);
    });
  }

  show(drivers) {
    drivers.forEach((driver, i) => {
      const { laps, lap, last, best, off, speed, version } = told(driver);
      [laps, lap, last, best, off, speed, version].forEach((text, cell) => {
        const place = this.#body.rows[i].cells[cell + 1];
        if (place.textContent !== text) place.textContent = text;
      });
    });
  }
}

/** What is told of a car, as texts. */
export function told({ car, version }) {
  const { lapTimes } = car;
  const share = Math.max(0, car.progress / car.track.length - lapTimes.length);
  return {
    laps: String(lapTimes.length),
    lap: `${Math.floor(share * 100)} %`,
    last: seconds(lapTimes.at(-1)),
    best: seconds(lapTimes.length ? Math.min(...lapTimes) : undefined),
    off: String(car.offTrack),
    speed: (car.speed * 3.6).toFixed(0),
    version: version || "–",
  };
}
