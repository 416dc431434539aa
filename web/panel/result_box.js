/** What a finished run leaves: the LoRA's name, its trigger words, and what to do with them. */

import { make, setText, show } from "./elements.js";

const THANKS_MS = 1500;

/** Copies by the clipboard, or where a page without https has none, by a selection. */
async function copyText(text) {
    if (navigator.clipboard?.writeText) {
        await navigator.clipboard.writeText(text);
        return;
    }
    const field = make("textarea", { style: "position:fixed;opacity:0" });
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
}

export class ResultBox {
    #texts;
    #state = {};

    /**
     * @param {import("./texts.js").Texts} texts
     * @param {{openReport: (state: object) => void, apply: (state: object) => void}} actions
     */
    constructor(texts, actions) {
        this.#texts = texts;
        this.file = make("span", { class: "sdxlt-file" });
        this.embeddingFile = make("span", { class: "sdxlt-file" });
        this.words = make("span", { class: "sdxlt-words" });
        this.copy = this.#button("copy", "pi-copy", () => this.#copyWords());
        this.report = this.#button("report", "pi-file", () => actions.openReport(this.#state));
        this.apply = this.#button("apply", "pi-plus", () => actions.apply(this.#state));
        this.trigger = this.#line("panel.trigger_words", this.words, this.copy);
        this.name = this.#line("panel.lora_file", this.file);
        this.embedding = this.#line("panel.embedding_file", this.embeddingFile);
        this.actions = make("div", { class: "sdxlt-buttons" }, this.report, this.apply);
        this.element = make("div", { class: "sdxlt-result" }, ...this.#lines(), this.actions);
    }

    /** @returns {number} How many of its lines show. */
    get lineCount() {
        return this.#lines().filter((line) => !line.hidden).length;
    }

    /**
     * @param {object} state Light state of the run.
     * @param {boolean} canApply Whether a node can be put beside the trainer.
     */
    update(state, canApply) {
        this.#state = state;
        const texts = [state.lora_file, state.embedding, state.trigger_words];
        [this.file, this.embeddingFile, this.words].forEach((element, i) => {
            setText(element, texts[i] ?? "");
            element.title = texts[i] ?? "";
            show(element.parentElement, Boolean(texts[i]));
        });
        show(this.report, Boolean(state.has_report));
        show(this.apply, canApply && Boolean(state.lora_file));
        show(this.actions, Boolean(state.has_report) || (canApply && Boolean(state.lora_file)));
        show(
            this.element,
            ["done", "earlier", "cancelled", "failed"].includes(state.state) &&
                !(this.lineCount === 0 && this.actions.hidden),
        );
    }

    #lines() {
        return [this.name, this.embedding, this.trigger];
    }

    #line(key, ...parts) {
        const label = make("span", { class: "sdxlt-dim", text: this.#texts.text(key) });
        return make("div", { class: "sdxlt-result-line" }, label, ...parts);
    }

    #button(action, icon, press) {
        const label = make("span", { text: this.#texts.text(`panel.${action}`) });
        const title = this.#texts.text(`panel.${action}_tip`);
        return make(
            "button",
            { class: "sdxlt-button", type: "button", "data-action": action, title, on: { click: press } },
            make("i", { class: `pi ${icon}`, "aria-hidden": "true" }),
            label,
        );
    }

    async #copyWords() {
        const isCopied = await copyText(this.#state.trigger_words ?? "").then(
            () => true,
            () => false,
        );
        if (!isCopied) return;
        setText(this.copy.lastChild, this.#texts.text("panel.copied"));
        setTimeout(() => setText(this.copy.lastChild, this.#texts.text("panel.copy")), THANKS_MS);
    }
}
