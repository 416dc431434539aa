/** The lines above a run's chart: its state, how far it is, how long it takes and how much memory it holds. */

import { make, setText, show } from "./elements.js";
import { bytes, countText, duration, percent, secondsPerStep } from "./format.js";
import { LIVE_STATES } from "./run_store.js";

/** Share of the bar that is full: of the steps, or of the phase before them. */
export function progressOf(state) {
    if (state.state === "done") return 100;
    if (state.state === "preparing" && state.total > 0) return percent(state.done, state.total);
    return percent(state.step ?? 0, state.num_steps ?? 0);
}

/**
 * @param {import("./texts.js").Texts} texts
 * @param {object} state
 * @returns {string} As in "training", or the phase with its count while it is prepared.
 */
export function stateText(texts, state) {
    if (state.state !== "preparing" || !state.phase) return texts.text(`panel.state_${state.state}`);
    const count = state.total > 0 ? ` ${countText(state.done)}/${countText(state.total)}` : "";
    return texts.phase(state.phase) + count;
}

export class RunHead {
    #texts;
    #facts = {};

    /**
     * @param {import("./texts.js").Texts} texts
     * @param {() => void} onTurn The other side is wanted: the settings, or the run again.
     */
    constructor(texts, onTurn) {
        this.#texts = texts;
        this.pill = make("span", { class: "sdxlt-state" });
        // counts in the pill would be read out at each of them
        this.announcer = make("span", { class: "sdxlt-unseen", role: "status" });
        this.name = make("span", { class: "sdxlt-name sdxlt-dim" });
        this.turn = make("button", { class: "sdxlt-toggle", type: "button", on: { click: onTurn } });
        this.turn.hidden = true;
        this.step = make("span", { class: "sdxlt-step" });
        this.epoch = make("span", { class: "sdxlt-epoch sdxlt-dim" });
        this.bar = make(
            "div",
            {
                class: "sdxlt-bar",
                role: "progressbar",
                "aria-label": texts.text("panel.progress"),
                "aria-valuemin": "0",
                "aria-valuemax": "100",
            },
            make("div"),
        );
        const facts = ["pace", "elapsed", "left", "memory"].map((name) => this.#makeFact(name));
        this.facts = make("div", { class: "sdxlt-facts" }, ...facts);
        this.element = make(
            "div",
            { class: "sdxlt-head" },
            make(
                "div",
                { class: "sdxlt-line" },
                this.pill,
                this.announcer,
                this.step,
                this.name,
                this.epoch,
                this.turn,
            ),
            this.bar,
            this.facts,
        );
        this.far = make(
            "div",
            { class: "sdxlt-far" },
            make("div", { class: "sdxlt-far-state" }),
            make("div", { class: "sdxlt-far-percent" }),
        );
    }

    /** @param {"settings"|"run"|""} side What the button turns to; "" for no button. */
    offer(side) {
        show(this.turn, Boolean(side));
        if (!side) return;
        setText(this.turn, this.#texts.text(`panel.show_${side}`));
        this.turn.title = this.#texts.text(`panel.show_${side}_tip`);
    }

    /** @param {object} state Light state of the run. @param {boolean} isConnected Whether events of it arrive. */
    update(state, isConnected) {
        const isLost = !isConnected && LIVE_STATES.has(state.state);
        const lost = this.#texts.text("panel.no_connection");
        setText(this.pill, isLost ? lost : stateText(this.#texts, state));
        setText(this.announcer, isLost ? lost : this.#texts.text(`panel.state_${state.state}`));
        setText(this.name, state.name ?? "");
        this.name.title = state.name ?? "";
        const hasSteps = state.num_steps > 0;
        setText(this.step, hasSteps ? `${countText(state.step)} / ${countText(state.num_steps)}` : "");
        this.step.title = this.#texts.text("panel.step_tip");
        setText(
            this.epoch,
            hasSteps && state.epoch > 0
                ? this.#texts.text("panel.epoch", { epoch: state.epoch.toFixed(1) })
                : "",
        );
        const full = progressOf(state);
        this.bar.firstChild.style.width = `${full}%`;
        this.bar.setAttribute("aria-valuenow", String(full));
        const [stateLine, percentLine] = this.far.children;
        setText(stateLine, this.pill.textContent);
        setText(percentLine, `${full} %`);
        this.#setFact(
            "pace",
            state.seconds_per_step
                ? this.#texts.text("panel.pace_value", { seconds: secondsPerStep(state.seconds_per_step) })
                : "",
        );
        this.#setFact("elapsed", duration(state.elapsed));
        this.#setFact("left", LIVE_STATES.has(state.state) ? duration(state.left) : "");
        this.#setMemory(state.memory);
    }

    #setMemory(memory) {
        const used = memory?.used ?? memory?.peak;
        this.#setFact("memory", memory ? [bytes(used), bytes(memory.total)].filter(Boolean).join(" / ") : "");
        const peak = bytes(memory?.peak);
        const where = memory?.where ?? "";
        const { box, label } = this.#facts.memory;
        setText(label, peak ? this.#texts.text("panel.memory_peak", { where, peak }) : where);
        box.title = this.#texts.text("panel.memory_tip");
    }

    #makeFact(name) {
        const value = make("span", { class: "sdxlt-fact-value" });
        const label = make("span", { class: "sdxlt-fact-label", text: this.#texts.text(`panel.${name}`) });
        const box = make(
            "div",
            { class: `sdxlt-fact sdxlt-fact-${name}`, title: this.#texts.text(`panel.${name}_tip`) },
            label,
            value,
        );
        this.#facts[name] = { box, label, value };
        return box;
    }

    #setFact(name, text) {
        setText(this.#facts[name].value, text);
        show(this.#facts[name].box, Boolean(text));
    }
}
