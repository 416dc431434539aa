/** The tab "SDXL Trainer" of the sidebar: all runs, the chosen one large, and all of its pictures. */

import { make, setText, show } from "./elements.js";
import { countText } from "./format.js";
import { PictureGrid } from "./picture_grid.js";
import { progressOf, stateText } from "./run_head.js";
import { LIVE_STATES } from "./run_store.js";
import { isLightTheme, watchTheme } from "./theme.js";

export const TAB = "sdxl-trainer";

export class Sidebar {
    #store;
    #texts;
    #rows = new Map();
    #stops = [];
    #frame = 0;
    #wanted = null;
    #chosen = "";

    /**
     * @param {import("./run_store.js").RunStore} store
     * @param {import("./texts.js").Texts} texts
     * @param {(actions: object) => import("./run_panel.js").RunPanel} makePanel
     * @param {(path: string) => string} urlOf
     */
    constructor(store, texts, makePanel, urlOf) {
        this.#store = store;
        this.#texts = texts;
        this.panel = makePanel({ openPicture: null });
        this.grid = new PictureGrid(texts, urlOf);
        this.empty = make("p", { class: "sdxlt-empty", text: texts.text("sidebar.empty") });
        this.list = make("div", {
            class: "sdxlt-runs sdxlt-scroll-down",
            role: "listbox",
            "aria-label": texts.text("sidebar.runs"),
        });
        const title = make("h2", { text: texts.text("sidebar.title") });
        this.element = make(
            "div",
            { class: "sdxlt sdxlt-sidebar", on: { keydown: keepFromCanvas } },
            title,
            this.list,
            this.empty,
            this.panel.element,
            this.grid.element,
        );
        this.panel.start();
        this.#listen();
        this.#draw();
        this.#later();
    }

    /** @returns {string} Id of the run that the user chose, "" while the newest one is followed. */
    get chosen() {
        return this.#chosen;
    }

    /** Shows one run, and one of its pictures when a step is given. */
    open(runId, step = null, prompt = 0) {
        this.#chosen = runId;
        this.panel.show(runId);
        this.#wanted = step === null ? null : { runId, step, prompt };
        this.#draw();
    }

    destroy() {
        cancelAnimationFrame(this.#frame);
        for (const stop of this.#stops) stop();
        this.panel.destroy();
        this.element.remove();
    }

    #theme() {
        if (this.element.isConnected)
            this.element.dataset.theme = isLightTheme(this.element) ? "light" : "dark";
    }

    #listen() {
        this.#stops.push(watchTheme(() => this.#theme()));
        for (const type of ["run", "runs"]) {
            const later = () => this.#later();
            this.#store.addEventListener(type, later);
            this.#stops.push(() => this.#store.removeEventListener(type, later));
        }
    }

    #later() {
        if (this.#frame) return;
        this.#frame = requestAnimationFrame(() => {
            this.#frame = 0;
            this.#draw();
        });
    }

    #draw() {
        if (!this.element.dataset.theme) this.#theme();
        const states = this.#store.runs();
        this.#follow(states);
        show(this.empty, states.length === 0);
        show(this.list, states.length > 0);
        show(this.panel.element, states.length > 0 || this.panel.tellsRestart);
        this.#drawList(states);
        const state = this.#store.run(this.panel.runId)?.state;
        if (!state) show(this.grid.element, false);
        if (!state) return;
        this.grid.update(state, state.validation?.best_step || null);
        if (this.#wanted?.runId === state.id && state.previews?.steps.includes(this.#wanted.step)) {
            const { step, prompt } = this.#wanted;
            this.#wanted = null;
            this.grid.open(step, prompt);
        }
    }

    /** Shows the run that was chosen, else the one that is under way, else the newest. */
    #follow(states) {
        if (this.#chosen && this.#store.run(this.#chosen)) return;
        if (states.length) this.#chosen = "";
        const shown = this.#store.run(this.panel.runId)?.state;
        if (shown && LIVE_STATES.has(shown.state)) return;
        const live = states.find((state) => LIVE_STATES.has(state.state));
        if (live) this.panel.show(live.id);
        else if (!shown) this.panel.show(this.panel.tellsRestart ? "" : (states[0]?.id ?? ""));
    }

    #drawList(states) {
        const known = new Set(states.map((state) => state.id));
        for (const [id, row] of this.#rows) {
            if (known.has(id)) continue;
            row.element.remove();
            this.#rows.delete(id);
        }
        states.forEach((state, index) => {
            const row = this.#rows.get(state.id) ?? this.#makeRow(state.id);
            if (this.list.children[index] !== row.element)
                this.list.insertBefore(row.element, this.list.children[index] ?? null);
            this.#fillRow(row, state);
        });
    }

    #makeRow(id) {
        const name = make("span", { class: "sdxlt-run-name" });
        const detail = make("span", { class: "sdxlt-run-detail sdxlt-dim" });
        const dot = make("span", { class: "sdxlt-dot" });
        const row = make(
            "button",
            { class: "sdxlt-run", type: "button", role: "option", on: { click: () => this.open(id) } },
            dot,
            name,
            detail,
        );
        const made = { element: row, name, detail };
        this.#rows.set(id, made);
        return made;
    }

    #fillRow({ element, name, detail }, state) {
        element.dataset.state = state.state;
        element.setAttribute("aria-selected", String(state.id === this.panel.runId));
        setText(name, state.name || this.#texts.text("sidebar.no_name"));
        name.title = name.textContent;
        const isLive = LIVE_STATES.has(state.state);
        const parts = isLive
            ? [stateText(this.#texts, state), `${progressOf(state)} %`]
            : [this.#stepsText(state)];
        setText(detail, parts.filter(Boolean).join(" · "));
        const when = state.started ? shortTime(new Date(1000 * state.started)) : "";
        detail.title = [stateText(this.#texts, state), when].filter(Boolean).join(" · ");
    }

    /** The steps of a run that has ended; of all that were planned, where it did not come so far. */
    #stepsText({ step, num_steps: all }) {
        if (!(all > 0)) return "";
        if (step >= all) return this.#texts.text("sidebar.steps", { steps: countText(step) });
        return this.#texts.text("sidebar.steps_of", { steps: countText(step ?? 0), all: countText(all) });
    }
}

/** The canvas deletes the chosen nodes with these keys. */
function keepFromCanvas(event) {
    if (event.key === "Delete" || event.key === "Backspace") event.stopPropagation();
}

/** The time of a run of today, the day of an older one. */
function shortTime(date) {
    const isToday = date.toDateString() === new Date().toDateString();
    return isToday
        ? date.toLocaleTimeString([], { timeStyle: "short" })
        : date.toLocaleDateString([], { dateStyle: "short" });
}
