/** All of one run: head, chart, pictures, message, buttons or result; drawn at most once a frame. */

import { WishButtons } from "./buttons.js";
import { ChartBox } from "./chart_box.js";
import { make, setText, show } from "./elements.js";
import { PictureStrip } from "./picture_strip.js";
import { ResultBox } from "./result_box.js";
import { RunHead } from "./run_head.js";
import { LIVE_STATES } from "./run_store.js";
import { RunWords } from "./run_words.js";
import { isLightTheme, watchTheme } from "./theme.js";

const LOOK_MS = 400;
const FAR_BELOW = 0.55;
const NEAR_ABOVE = 0.6;
const HEIGHTS = {
    head: 33,
    facts: 36,
    chart: 241,
    strip: 108,
    message: 36,
    failure: 150,
    buttons: 36,
    line: 24,
    narrow: 86,
};
/** As in panel.css, where lines are broken in two below it. */
const NARROW = 305;
const KEYS_OF_NODES = new Set(["Delete", "Backspace"]);

/**
 * @typedef {object} PanelActions
 * @property {(path: string) => string} urlOf From a route to what an <img> can fetch.
 * @property {(state: object) => void} openReport
 * @property {((state: object) => void)|null} apply Puts a node that applies the LoRA into the graph; null: cannot.
 * @property {((runId: string, step: number, prompt: number) => void)|null} openPicture null: no strip of pictures.
 * @property {() => void} [onHeight] The panel needs another height.
 * @property {() => void} [onTurn] What stands in `idle` came into view, or left it.
 */

export class RunPanel {
    #store;
    #texts;
    #actions;
    #id = "";
    #history = null;
    #frame = 0;
    #timer = 0;
    #wanted = 0;
    #isTurned = false;
    #isLive = false;
    #stops = [];

    /**
     * Does nothing until it is started.
     *
     * @param {import("./run_store.js").RunStore} store
     * @param {import("./texts.js").Texts} texts
     * @param {PanelActions} actions
     */
    constructor(store, texts, actions) {
        this.#store = store;
        this.#texts = texts;
        this.#actions = actions;
        this.head = new RunHead(texts, () => this.#turn());
        this.box = new ChartBox(texts);
        this.strip = new PictureStrip(texts, actions.urlOf, (step, prompt) =>
            actions.openPicture?.(this.#id, step, prompt),
        );
        this.words = new RunWords(() => this.#later());
        this.buttons = new WishButtons(texts, (wish) => this.#ask(wish));
        this.result = new ResultBox(texts, {
            openReport: actions.openReport,
            apply: (state) => actions.apply?.(state),
        });
        this.notice = make("div", { class: "sdxlt-message sdxlt-notice", role: "status" });
        this.idle = make("div", { class: "sdxlt-idle" });
        const strip = actions.openPicture ? this.strip.element : null;
        const parts = [this.box.element, strip, this.words.element, this.result.element, this.buttons.element];
        this.near = make("div", { class: "sdxlt-near" }, ...parts);
        this.element = make(
            "div",
            { class: "sdxlt sdxlt-panel", "data-run": "", "data-state": "idle" },
            this.notice,
            this.head.element,
            this.idle,
            this.near,
            this.head.far,
        );
        for (const part of [this.notice, this.head.element, this.near]) part.hidden = true;
        // the canvas deletes the chosen nodes with these, also when a button in one of them has the focus
        this.element.addEventListener("keydown", (event) => {
            if (KEYS_OF_NODES.has(event.key)) event.stopPropagation();
        });
    }

    /** Follows the runs, the theme and the zoom; start and stop may come many times. */
    start() {
        if (this.#stops.length) return;
        const changed = ({ detail }) => {
            if (detail.id !== this.#id) return;
            const { state } = this.#store.run(this.#id) ?? {};
            if (!state && this.#isLive) this.#tellRestart();
            this.#isLive = LIVE_STATES.has(state?.state);
            this.#later();
        };
        const later = () => this.#later();
        this.#store.addEventListener("run", changed);
        this.#store.addEventListener("connection", later);
        this.#stops.push(() => this.#store.removeEventListener("run", changed));
        this.#stops.push(() => this.#store.removeEventListener("connection", later));
        this.#stops.push(watchTheme(() => this.#theme()));
        this.#timer = setInterval(() => this.#look(), LOOK_MS);
        this.box.start();
        this.#look();
    }

    stop() {
        this.show("");
        cancelAnimationFrame(this.#frame);
        this.#frame = 0;
        clearInterval(this.#timer);
        for (const stop of this.#stops.splice(0)) stop();
        this.words.forget();
        this.box.stop();
    }

    destroy() {
        this.stop();
        this.element.remove();
    }

    /** @returns {string} Id of the run shown, "" when none is. */
    get runId() {
        return this.#id;
    }

    /** @returns {boolean} Whether what stands in `idle` is in view. */
    get showsIdle() {
        return this.#isTurned || !this.#store.run(this.#id);
    }

    /** @returns {boolean} Whether it tells of a run that was lost with its server. */
    get tellsRestart() {
        return !this.notice.hidden;
    }

    /** @param {string} id Of the run to show; "" for none. */
    show(id) {
        if (id === this.#id) return;
        if (this.#id) this.#store.release(this.#id);
        this.#id = id;
        this.#history = null;
        this.#isTurned = false;
        this.#isLive = LIVE_STATES.has(this.#store.run(id)?.state.state);
        if (id) show(this.notice, false);
        this.element.dataset.run = id;
        if (id) this.#store.keep(id);
        this.#draw();
    }

    /** @returns {number} Pixels that it needs, but for what stands in `idle`. */
    minHeight() {
        const isShown = (part) => !part.hidden;
        let height = isShown(this.notice) ? HEIGHTS.message : 0;
        if (isShown(this.head.element)) height += HEIGHTS.head;
        if (!isShown(this.near)) return height;
        if (isShown(this.head.facts)) height += HEIGHTS.facts + this.#narrow();
        if (isShown(this.box.element)) height += HEIGHTS.chart;
        if (this.#actions.openPicture && this.strip.hasPictures) height += HEIGHTS.strip;
        if (isShown(this.words.element)) height += this.#failsEarly() ? HEIGHTS.failure : HEIGHTS.message;
        if (isShown(this.buttons.element)) height += HEIGHTS.buttons;
        if (isShown(this.result.element)) {
            height += HEIGHTS.line * this.result.lineCount;
            if (isShown(this.result.actions)) height += HEIGHTS.buttons;
        }
        return height;
    }

    #narrow() {
        const { offsetWidth } = this.element;
        return offsetWidth > 0 && offsetWidth <= NARROW ? HEIGHTS.narrow : 0;
    }

    #failsEarly() {
        return this.element.dataset.empty === "true";
    }

    #later() {
        if (this.#frame || !this.#stops.length) return;
        this.#frame = requestAnimationFrame(() => {
            this.#frame = 0;
            this.#draw();
        });
    }

    #draw() {
        const run = this.#store.run(this.#id);
        const canTurn = Boolean(run) && !LIVE_STATES.has(run.state.state) && this.idle.childElementCount > 0;
        if (!canTurn) this.#isTurned = false;
        show(this.idle, this.showsIdle);
        show(this.head.element, Boolean(run));
        show(this.near, !this.showsIdle);
        this.head.offer(canTurn ? (this.#isTurned ? "run" : "settings") : "");
        this.element.dataset.state = run?.state.state ?? "idle";
        const isLost = !this.#store.isConnected && LIVE_STATES.has(run?.state.state);
        this.element.dataset.connection = isLost ? "lost" : "";
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
        const isEmpty = state.state === "failed" && history.length === 0;
        this.element.dataset.empty = String(isEmpty);
        show(this.head.facts, !isEmpty && !this.#isTurned);
        show(this.box.element, !isEmpty);
        this.head.update(state, this.#store.isConnected);
        this.strip.update(state);
        this.buttons.update(state, this.#store.isConnected);
        this.result.update(state, this.#actions.apply !== null);
        this.words.update(state);
        const chart = {
            history,
            validation: state.validation,
            checkpoints: state.checkpoints,
            numSteps: state.num_steps,
            // the step before any training is no proposal
            bestStep: state.validation?.best_step || null,
        };
        this.box.draw(chart, history !== this.#history);
        this.#history = history;
    }

    async #ask(wish) {
        const id = this.#id;
        const refusal = await this.#store.wish(id, wish);
        const { state } = this.#store.run(id) ?? {};
        if (!state || id !== this.#id) return;
        this.words.refuse(state, refusal ?? this.#texts.text("panel.unreachable"));
        this.#later();
    }

    #turn() {
        this.#isTurned = !this.#isTurned;
        this.#draw();
        this.#actions.onTurn?.();
    }

    #tellRestart() {
        setText(this.notice, this.#texts.text("panel.restarted"));
        show(this.notice, true);
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
        const canBeFar = Boolean(this.#id) && !this.showsIdle;
        this.element.dataset.far = String(canBeFar && scale < (isFar ? NEAR_ABOVE : FAR_BELOW));
        this.box.chart.setZoom(scale);
        this.#tellHeight();
    }
}
