/** All of one run: head, chart, pictures, message, buttons or result; drawn at most once a frame. */

import { WishButtons } from "./buttons.js";
import { ChartBox } from "./chart_box.js";
import { make, setText, show } from "./elements.js";
import { PictureStrip } from "./picture_strip.js";
import { ResultBox } from "./result_box.js";
import { RunHead } from "./run_head.js";
import { isLightTheme, watchTheme } from "./theme.js";

const LOOK_MS = 400;
const FAR_BELOW = 0.55;
const NEAR_ABOVE = 0.6;
const HEIGHTS = { base: 310, strip: 108, message: 36, buttons: 36, line: 24, narrow: 86 };
/** As in panel.css, where lines are broken in two below it. */
const NARROW = 305;

/**
 * @typedef {object} PanelActions
 * @property {(path: string) => string} urlOf From a route to what an <img> can fetch.
 * @property {(state: object) => void} openReport
 * @property {((state: object) => void)|null} apply Puts a node that applies the LoRA into the graph; null: cannot.
 * @property {((runId: string, step: number, prompt: number) => void)|null} openPicture null: no strip of pictures.
 * @property {() => void} [onHeight] The panel needs another height.
 */

export class RunPanel {
    #store;
    #actions;
    #id = "";
    #history = null;
    #frame = 0;
    #timer = 0;
    #refusal = { id: "", text: "" };
    #wanted = 0;
    #stops = [];

    /**
     * @param {import("./run_store.js").RunStore} store
     * @param {import("./texts.js").Texts} texts
     * @param {PanelActions} actions
     */
    constructor(store, texts, actions) {
        this.#store = store;
        this.#actions = actions;
        this.head = new RunHead(texts);
        this.box = new ChartBox(texts);
        this.strip = new PictureStrip(texts, actions.urlOf, (step, prompt) =>
            actions.openPicture?.(this.#id, step, prompt),
        );
        this.message = make("div", { class: "sdxlt-message" });
        this.buttons = new WishButtons(texts, (wish) => this.#ask(wish));
        this.result = new ResultBox(texts, {
            openReport: actions.openReport,
            apply: (state) => actions.apply?.(state),
        });
        const strip = actions.openPicture ? this.strip.element : null;
        const parts = [
            this.head.element,
            this.box.element,
            strip,
            this.message,
            this.result.element,
            this.buttons.element,
        ];
        this.near = make("div", { class: "sdxlt-near" }, ...parts);
        this.idle = make("div", { class: "sdxlt-idle" });
        this.element = make(
            "div",
            { class: "sdxlt sdxlt-panel", "data-run": "", "data-state": "idle" },
            this.idle,
            this.near,
            this.head.far,
        );
        this.near.hidden = true;
        this.#listen();
        this.#look();
    }

    /** @returns {string} Id of the run shown, "" when none is. */
    get runId() {
        return this.#id;
    }

    /** @param {string} id Of the run to show; "" for none. */
    show(id) {
        if (id === this.#id) return;
        if (this.#id) this.#store.release(this.#id);
        this.#id = id;
        this.#history = null;
        this.element.dataset.run = id;
        if (id) this.#store.keep(id);
        this.#draw();
    }

    /** @returns {number} Pixels that the panel needs to show a run's parts. */
    minHeight() {
        const state = this.#store.run(this.#id)?.state;
        if (!state) return 0;
        let height = HEIGHTS.base;
        if (this.element.offsetWidth > 0 && this.element.offsetWidth <= NARROW) height += HEIGHTS.narrow;
        if (this.#actions.openPicture && this.strip.hasPictures) height += HEIGHTS.strip;
        if (!this.message.hidden) height += HEIGHTS.message;
        if (!this.buttons.element.hidden) height += HEIGHTS.buttons;
        if (!this.result.element.hidden) {
            height +=
                HEIGHTS.line * [this.result.name, this.result.trigger].filter((line) => !line.hidden).length;
            if (!this.result.actions.hidden) height += HEIGHTS.buttons;
        }
        return height;
    }

    destroy() {
        if (this.#id) this.#store.release(this.#id);
        this.#id = "";
        cancelAnimationFrame(this.#frame);
        clearInterval(this.#timer);
        for (const stop of this.#stops) stop();
        this.box.destroy();
        this.element.remove();
    }

    #listen() {
        const changed = (event) => {
            if (event.detail.id === this.#id) this.#later();
        };
        this.#store.addEventListener("run", changed);
        this.#stops.push(() => this.#store.removeEventListener("run", changed));
        this.#stops.push(watchTheme(() => this.#theme()));
        this.#timer = setInterval(() => this.#look(), LOOK_MS);
    }

    #later() {
        if (this.#frame) return;
        this.#frame = requestAnimationFrame(() => {
            this.#frame = 0;
            this.#draw();
        });
    }

    #draw() {
        const run = this.#store.run(this.#id);
        show(this.idle, !run);
        show(this.near, Boolean(run));
        this.element.dataset.state = run?.state.state ?? "idle";
        if (run) this.#drawRun(run);
        else this.element.dataset.far = "false";
        this.#tellHeight();
    }

    #tellHeight() {
        const wanted = this.minHeight();
        if (wanted === this.#wanted) return;
        this.#wanted = wanted;
        this.#actions.onHeight?.();
    }

    #drawRun({ state, history }) {
        this.element.dataset.node = state.node ?? "";
        this.head.update(state);
        this.strip.update(state);
        this.buttons.update(state);
        this.result.update(state, this.#actions.apply !== null);
        const refusal = this.#refusal.id === state.id ? this.#refusal.text : "";
        const words = refusal || state.message || state.summary || "";
        setText(this.message, words);
        this.message.title = words;
        show(this.message, Boolean(words));
        const best = state.validation?.best_step ?? null;
        const chart = {
            history,
            validation: state.validation,
            checkpoints: state.checkpoints,
            numSteps: state.num_steps,
            bestStep: best,
        };
        if (history === this.#history) this.box.chart.update(chart);
        else this.box.chart.setRun(chart);
        this.#history = history;
    }

    async #ask(wish) {
        const id = this.#id;
        const refusal = await this.#store.wish(id, wish);
        this.#refusal = { id, text: refusal };
        this.#later();
    }

    #theme() {
        this.element.dataset.theme = isLightTheme(this.element) ? "light" : "dark";
    }

    /** How large the page shows the panel: the canvas's zoom is a transform of some parent, which tells nobody. */
    #look() {
        if (!this.element.isConnected || document.hidden || this.element.offsetWidth === 0) return;
        if (!this.element.dataset.theme) this.#theme();
        const scale = this.element.getBoundingClientRect().width / this.element.offsetWidth;
        const isFar = this.element.dataset.far === "true";
        this.element.dataset.far = String(Boolean(this.#id) && scale < (isFar ? NEAR_ABOVE : FAR_BELOW));
        this.box.chart.setZoom(scale);
        this.#tellHeight();
    }
}
