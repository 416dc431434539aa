/** The preview pictures of one prompt in a row, from the first step to the newest; others by their numbers. */

import { make, setText, show } from "./elements.js";
import { countText } from "./format.js";

const NEAR_END = 24;

/**
 * @param {string} id Of the run.
 * @param {number} step
 * @param {number} prompt Index.
 * @returns {string} Route of the picture.
 */
export function picturePath(id, step, prompt) {
    return `/sdxl_trainer/runs/${encodeURIComponent(id)}/pictures/${step}/${prompt}`;
}

export class PictureStrip {
    #texts;
    #urlOf;
    #onPick;
    #run = "";
    #prompt = 0;
    #prompts = [];
    #images = new Map();

    /**
     * @param {import("./texts.js").Texts} texts
     * @param {(path: string) => string} urlOf
     * @param {(step: number, prompt: number) => void} onPick
     */
    constructor(texts, urlOf, onPick) {
        this.#texts = texts;
        this.#urlOf = urlOf;
        this.#onPick = onPick;
        this.label = make("span", { class: "sdxlt-strip-prompt" });
        this.numbers = make("div", { class: "sdxlt-strip-numbers", role: "group" });
        this.row = make("div", { class: "sdxlt-strip-row sdxlt-scroll" });
        this.element = make(
            "div",
            { class: "sdxlt-strip" },
            make("div", { class: "sdxlt-strip-head" }, this.label, this.numbers),
            this.row,
        );
        this.element.hidden = true;
    }

    /** @returns {boolean} Whether there is any picture to show. */
    get hasPictures() {
        return this.#images.size > 0;
    }

    /** @param {object} state State of the run, with previews once they are known. */
    update(state) {
        const { prompts = [], steps = [] } = state.previews ?? {};
        if (state.id !== this.#run || this.#prompt >= Math.max(1, prompts.length)) {
            this.#run = state.id;
            this.#prompt = 0;
            this.#clear();
        }
        this.#showPrompts(prompts);
        const isAtEnd = this.row.scrollLeft + this.row.clientWidth >= this.row.scrollWidth - NEAR_END;
        const [width, height] = state.picture_size ?? [1, 1];
        this.row.style.setProperty("--sdxlt-aspect", String(width / height || 1));
        for (const [step, cell] of this.#images) if (!steps.includes(step)) this.#drop(step, cell);
        const isNew = steps.some((step) => !this.#images.has(step));
        for (const step of steps) if (!this.#images.has(step)) this.#add(step);
        show(this.element, this.hasPictures);
        if (isNew && isAtEnd) requestAnimationFrame(() => (this.row.scrollLeft = this.row.scrollWidth));
    }

    #showPrompts(prompts) {
        if (
            prompts.length !== this.#prompts.length ||
            prompts.some((prompt, i) => prompt !== this.#prompts[i])
        ) {
            this.#prompts = [...prompts];
            this.numbers.replaceChildren(
                ...(prompts.length > 1 ? prompts.map((prompt, i) => this.#number(prompt, i)) : []),
            );
        }
        const prompt = prompts[this.#prompt] ?? "";
        setText(this.label, prompt);
        this.label.title = prompt;
        [...this.numbers.children].forEach((button, i) =>
            button.setAttribute("aria-pressed", String(i === this.#prompt)),
        );
    }

    #number(prompt, index) {
        const choose = () => {
            this.#prompt = index;
            this.#showPrompts(this.#prompts);
            for (const [step, cell] of this.#images) this.#point(cell.querySelector("img"), step);
        };
        return make("button", {
            class: "sdxlt-number",
            type: "button",
            text: String(index + 1),
            title: prompt,
            on: { click: choose },
        });
    }

    #add(step) {
        const image = make("img", { loading: "lazy", draggable: "false", decoding: "async" });
        this.#point(image, step);
        const caption = make("span", { class: "sdxlt-strip-step", text: countText(step) });
        const pick = () => this.#onPick(step, this.#prompt);
        const title = this.#texts.text("panel.picture_tip", { step: countText(step) });
        const cell = make(
            "button",
            { class: "sdxlt-strip-cell", type: "button", title, on: { click: pick } },
            image,
            caption,
        );
        const later = [...this.#images.keys()].filter((other) => other > step);
        const next = later.length ? this.#images.get(Math.min(...later)) : null;
        this.row.insertBefore(cell, next);
        this.#images.set(step, cell);
    }

    #point(image, step) {
        image.dataset.step = String(step);
        image.dataset.prompt = String(this.#prompt);
        image.alt = this.#texts.text("panel.picture_alt", {
            step,
            prompt: this.#prompts[this.#prompt] ?? "",
        });
        image.src = this.#urlOf(`${picturePath(this.#run, step, this.#prompt)}?small=1`);
    }

    #drop(step, cell) {
        cell.remove();
        this.#images.delete(step);
    }

    #clear() {
        this.row.replaceChildren();
        this.#images.clear();
    }
}
