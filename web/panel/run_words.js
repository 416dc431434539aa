/** The line of words under a run: why it refused a wish, else its last message, else how it went. */

import { make, setText, show } from "./elements.js";

const REFUSAL_MS = 8000;

export class RunWords {
    #onChange;
    #refusal = null;
    #timer = 0;

    /** @param {() => void} onChange Other words are due. */
    constructor(onChange) {
        this.#onChange = onChange;
        this.element = make("div", { class: "sdxlt-message" });
        this.element.hidden = true;
    }

    /** @param {object} state State of the run shown. */
    update(state) {
        if (this.#refusal && this.#refusal.key !== keyOf(state)) this.forget();
        const words = this.#refusal?.text || state.message || state.summary || "";
        setText(this.element, words);
        this.element.title = words;
        show(this.element, Boolean(words));
    }

    /** @param {object} state As it is when the answer came. @param {string} text Why; "" when it was granted. */
    refuse(state, text) {
        this.forget();
        if (!text) return;
        this.#refusal = { key: keyOf(state), text };
        this.#timer = setTimeout(() => {
            this.#refusal = null;
            this.#onChange();
        }, REFUSAL_MS);
    }

    forget() {
        clearTimeout(this.#timer);
        this.#refusal = null;
    }
}

/** What a refusal is about: it has nothing to say once the run is elsewhere or has something new to say. */
function keyOf({ id, state, message }) {
    return JSON.stringify([id, state, message]);
}
