/** A loss chart with what belongs to it: the values read off it, a smoothing slider and a switch for the axis. */

import { LossChart } from "./chart.js";
import { make, setText, show } from "./elements.js";
import { countText, lossText, rateText } from "./format.js";
import { watchTheme } from "./theme.js";

const SMOOTHING_KEY = "sdxl_trainer.smoothing";
const LOG_KEY = "sdxl_trainer.log_axis";
const FIRST_SMOOTHING = 0.95;
const boxes = new Set();

/** What the browser remembers; private windows may forbid it. */
function remembered(key) {
    try {
        return window.localStorage.getItem(key);
    } catch {
        return null;
    }
}

function remember(key, value) {
    try {
        window.localStorage.setItem(key, value);
    } catch {
        // a choice that is not remembered is still a choice
    }
}

function firstSmoothing() {
    const value = Number.parseFloat(remembered(SMOOTHING_KEY) ?? "");
    return Number.isFinite(value) ? Math.min(0.99, Math.max(0, value)) : FIRST_SMOOTHING;
}

export class ChartBox {
    #texts;
    #values = {};
    #boxes = {};
    #observer;
    #stopTheme = null;

    /** @param {import("./texts.js").Texts} texts */
    constructor(texts) {
        this.#texts = texts;
        this.host = make("div", {});
        this.#makeControls();
        const legend = ["loss", "smoothed", "held", "rate"].map((name) => this.#makeValue(name));
        this.element = make(
            "div",
            { class: "sdxlt-chart-box" },
            make("div", { class: "sdxlt-values" }, ...legend),
            this.host,
            this.controls,
        );
        this.chart = new LossChart(this.host, { onPoint: (point) => this.#showPoint(point) });
        this.#observer = new ResizeObserver(() => this.chart.resize());
    }

    /** Follows its size, the theme and the smoothing of other charts; start and stop may come many times. */
    start() {
        if (this.#stopTheme) return;
        this.setSmoothing(firstSmoothing(), false);
        const isLog = remembered(LOG_KEY) === "true";
        this.log.setAttribute("aria-pressed", String(isLog));
        this.chart.setLog(isLog);
        this.#observer.observe(this.host);
        this.#stopTheme = watchTheme(() => this.chart.redraw());
        boxes.add(this);
    }

    stop() {
        boxes.delete(this);
        this.#observer.disconnect();
        this.#stopTheme?.();
        this.#stopTheme = null;
        this.chart.rest();
    }

    /** @param {import("./chart.js").ChartRun} run @param {boolean} isOther Another run, or one fetched anew. */
    draw(run, isOther) {
        show(this.#boxes.held, (run.validation?.step ?? []).length > 0);
        if (isOther) this.chart.setRun(run);
        else this.chart.update(run);
    }

    #makeValue(name) {
        const value = make("span", { class: "sdxlt-value-number", text: "–" });
        this.#values[name] = value;
        const label = make("span", { class: "sdxlt-value-label", text: this.#texts.text(`panel.${name}`) });
        const box = make(
            "div",
            { class: `sdxlt-value sdxlt-value-${name}`, title: this.#texts.text(`panel.${name}_tip`) },
            label,
            value,
        );
        this.#boxes[name] = box;
        return box;
    }

    #makeControls() {
        const text = (key) => this.#texts.text(key);
        this.slider = make("input", {
            class: "sdxlt-smoothing",
            type: "range",
            min: "0",
            max: "0.99",
            step: "0.01",
            title: text("panel.smoothing_tip"),
            "aria-label": text("panel.smoothing"),
            on: {
                input: () =>
                    boxes.forEach((box) => box.setSmoothing(Number(this.slider.value), box === this)),
            },
        });
        this.slider.value = String(firstSmoothing());
        this.log = make("button", {
            class: "sdxlt-toggle",
            type: "button",
            text: text("panel.log"),
            title: text("panel.log_tip"),
            "aria-pressed": String(remembered(LOG_KEY) === "true"),
            on: { click: () => this.setLog(this.log.getAttribute("aria-pressed") !== "true") },
        });
        this.hint = make("span", { class: "sdxlt-hint" });
        const label = make(
            "label",
            { class: "sdxlt-smoothing-label" },
            make("span", { text: text("panel.smoothing") }),
            this.slider,
        );
        this.controls = make("div", { class: "sdxlt-controls" }, label, this.hint, this.log);
    }

    /** @param {number} weight @param {boolean} isRemembered */
    setSmoothing(weight, isRemembered) {
        this.slider.value = String(weight);
        if (isRemembered) remember(SMOOTHING_KEY, String(weight));
        this.chart.setSmoothing(weight);
    }

    /** @param {boolean} isLog */
    setLog(isLog) {
        this.log.setAttribute("aria-pressed", String(isLog));
        remember(LOG_KEY, String(isLog));
        this.chart.setLog(isLog);
    }

    #showPoint({ step, loss, smoothed, rate, heldOut, checkpoint, isHovered }) {
        setText(this.#values.loss, lossText(loss) || "–");
        setText(this.#values.smoothed, lossText(smoothed) || "–");
        setText(this.#values.held, lossText(heldOut) || "–");
        setText(this.#values.rate, rateText(rate) || "–");
        const at = isHovered ? this.#texts.text("panel.at_step", { step: countText(step) }) : "";
        setText(
            this.hint,
            checkpoint
                ? `${this.#texts.text("panel.at_step", { step: countText(checkpoint.step) })} · ${checkpoint.file}`
                : at,
        );
    }
}
