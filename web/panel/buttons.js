/** The buttons that ask a run for something: to end now, to pause or go on, to draw pictures, to save. */

import { make, setText, show } from "./elements.js";
import { LIVE_STATES } from "./run_store.js";

const WISHES = ["pause", "go_on", "sample", "save", "finish"];
const ICONS = {
    pause: "pi-pause",
    go_on: "pi-play",
    sample: "pi-image",
    save: "pi-save",
    finish: "pi-flag-fill",
};
const SURE_MS = 3000;

export class WishButtons {
    #texts;
    #ask;
    #buttons = {};
    #sureTimer = 0;
    #sending = new Set();
    #state = null;
    #isConnected = true;

    /**
     * @param {import("./texts.js").Texts} texts
     * @param {(wish: string) => Promise<void>} ask
     */
    constructor(texts, ask) {
        this.#texts = texts;
        this.#ask = ask;
        this.element = make("div", { class: "sdxlt-buttons", role: "group" });
        for (const wish of WISHES) {
            const button = make(
                "button",
                {
                    class: "sdxlt-button",
                    type: "button",
                    "data-wish": wish,
                    title: texts.text(`panel.${wish}_tip`),
                    on: { click: () => this.#press(wish) },
                },
                make("i", { class: `pi ${ICONS[wish]}`, "aria-hidden": "true" }),
                make("span", { text: texts.text(`panel.${wish}`) }),
            );
            this.#buttons[wish] = button;
            this.element.append(button);
        }
    }

    /** @param {object} state Light state of the run. @param {boolean} isConnected Whether the server answers. */
    update(state, isConnected) {
        if (this.#state?.id !== state.id) this.#disarm();
        this.#state = state;
        this.#isConnected = isConnected;
        show(this.element, LIVE_STATES.has(state.state));
        const can = new Set(state.can ?? []);
        const asked = new Set([...(state.wishes ?? []), ...this.#sending]);
        const holds = state.state === "paused" || can.has("go_on") || asked.has("go_on");
        show(this.#buttons.pause, !holds);
        show(this.#buttons.go_on, holds);
        for (const wish of WISHES) {
            const button = this.#buttons[wish];
            button.disabled = !isConnected || !can.has(wish) || asked.has(wish);
            button.classList.toggle("sdxlt-asked", asked.has(wish));
        }
        if (this.#buttons.finish.disabled) this.#disarm();
    }

    async #press(wish) {
        if (wish === "finish" && !this.#buttons.finish.classList.contains("sdxlt-sure")) {
            this.#arm();
            return;
        }
        this.#disarm();
        this.#sending.add(wish);
        this.update(this.#state, this.#isConnected);
        await this.#ask(wish);
        this.#sending.delete(wish);
        this.update(this.#state, this.#isConnected);
    }

    /** Ending a training cannot be taken back: the first press asks, the second one does it. */
    #arm() {
        this.#buttons.finish.classList.add("sdxlt-sure");
        setText(this.#buttons.finish.lastChild, this.#texts.text("panel.finish_sure"));
        clearTimeout(this.#sureTimer);
        this.#sureTimer = setTimeout(() => this.#disarm(), SURE_MS);
    }

    #disarm() {
        clearTimeout(this.#sureTimer);
        this.#buttons.finish.classList.remove("sdxlt-sure");
        setText(this.#buttons.finish.lastChild, this.#texts.text("panel.finish"));
    }
}
