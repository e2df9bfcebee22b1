/** The bars of an action: throttle, brake, and steer to both sides of the middle. */

const RANGES = { throttle: [0, 1], brake: [0, 1], steer: [-1, 1] };

export class ActionBars {
  #rows = [];

  constructor(parent) {
    for (const [name, [low, high]] of Object.entries(RANGES)) {
      const row = document.createElement("div");
      const [label, bar, fill, value] = ["span", "div", "div", "span"].map((tag) =>
        document.createElement(tag),
      );
      label.textContent = name[0].toUpperCase() + name.slice(1);
      bar.className = `bar ${name}`;
      bar.setAttribute("role", "meter");
      bar.setAttribute("aria-label", label.textContent);
      bar.setAttribute("aria-valuemin", low);
      bar.setAttribute("aria-valuemax", high);
      value.className = "value";
      bar.append(fill);
      row.append(label, bar, value);
      parent.append(row);
      this.#rows.push({ name, bar, fill, value });
    }
    this.show(null);
  }

  /** Show an action, or with null that there is none. */
  show(action) {
    for (const { name, bar, fill, value } of this.#rows) {
      const number = action ? action[name] : 0;
      const text = action ? number.toFixed(3).replace("-", "−") : "–";
      if (value.textContent === text) continue;
      value.textContent = text;
      bar.setAttribute("aria-valuenow", number.toFixed(3));
      bar.setAttribute("aria-valuetext", text);
      fill.style.transform = `scaleX(${number})`;
    }
  }
}
