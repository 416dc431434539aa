/** All preview pictures of a run: a row for each prompt, a column for each step; the chosen one is large. */

import { make, setText, show } from "./elements.js";
import { countText } from "./format.js";
import { picturePath } from "./picture_strip.js";

const WALKS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

export class PictureGrid {
    #texts;
    #urlOf;
    #run = "";
    #prompts = [];
    #steps = [];
    #best = null;
    #chosen = null;
    #cells = new Map();

    /**
     * @param {import("./texts.js").Texts} texts
     * @param {(path: string) => string} urlOf
     */
    constructor(texts, urlOf) {
        this.#texts = texts;
        this.#urlOf = urlOf;
        this.grid = make("div", {
            class: "sdxlt-grid",
            role: "grid",
            "aria-label": texts.text("sidebar.pictures"),
            on: { keydown: (event) => this.#key(event) },
        });
        this.scroller = make("div", { class: "sdxlt-grid-scroller sdxlt-scroll" }, this.grid);
        this.image = make("img", { draggable: "false" });
        this.caption = make("figcaption", {});
        const close = make("button", {
            class: "sdxlt-close",
            type: "button",
            title: texts.text("sidebar.close_picture"),
            "aria-label": texts.text("sidebar.close_picture"),
            text: "×",
            on: { click: () => this.#leave() },
        });
        this.large = make(
            "figure",
            { class: "sdxlt-picture", tabindex: "-1", on: { keydown: (event) => this.#key(event) } },
            this.image,
            this.caption,
            close,
        );
        this.large.hidden = true;
        this.element = make(
            "section",
            { class: "sdxlt-pictures" },
            make("h3", { text: texts.text("sidebar.pictures") }),
            this.scroller,
            this.large,
        );
        this.element.hidden = true;
    }

    /** @param {object} state State of the run, with previews. @param {number|null} best The proposed step. */
    update(state, best) {
        const { prompts = [], steps = [] } = state.previews ?? {};
        const isOther = state.id !== this.#run;
        const ordered = [...steps].sort((a, b) => a - b);
        show(this.element, ordered.length > 0 && prompts.length > 0);
        if (isOther) this.#leave(false);
        const key = JSON.stringify([state.id, prompts, ordered, best]);
        if (key === this.grid.dataset.key) return;
        const [width, height] = state.picture_size ?? [1, 1];
        this.element.style.setProperty("--sdxlt-aspect", String(width / height || 1));
        const isAtEnd =
            isOther || this.scroller.scrollLeft + this.scroller.clientWidth >= this.scroller.scrollWidth - 8;
        Object.assign(this.grid.dataset, { key });
        this.#run = state.id;
        this.#prompts = prompts;
        this.#steps = ordered;
        this.#best = best;
        this.#fill();
        if (isAtEnd) requestAnimationFrame(() => this.#toEnd());
    }

    /** The newest pictures in view, but for who looks at another one. */
    #toEnd() {
        if (!this.#chosen) this.scroller.scrollLeft = this.scroller.scrollWidth;
    }

    /** Walks to a picture, as from the strip of a node. @param {number} step @param {number} prompt */
    open(step, prompt) {
        if (this.#cells.has(`${prompt}/${step}`)) this.#choose(prompt, step, true);
    }

    #fill() {
        const hadFocus = this.grid.contains(document.activeElement);
        const old = this.#cells;
        this.#cells = new Map();
        const rows = [this.#header()];
        this.#prompts.forEach((prompt, index) => {
            rows.push(
                make(
                    "div",
                    { class: "sdxlt-grid-prompt", role: "presentation", title: prompt },
                    make("span", { text: prompt }),
                ),
            );
            const cells = this.#steps.map((step) => this.#cell(old, index, step));
            rows.push(make("div", { class: "sdxlt-grid-row", role: "row", "aria-label": prompt }, ...cells));
        });
        this.grid.replaceChildren(...rows);
        const chosen = this.#chosen && this.#cells.get(`${this.#chosen.prompt}/${this.#chosen.step}`);
        const first = chosen ?? this.#cells.get(`0/${this.#steps[this.#steps.length - 1]}`);
        if (first) first.tabIndex = 0;
        if (hadFocus) first?.focus({ preventScroll: true });
    }

    #header() {
        const headers = this.#steps.map((step) => {
            const isBest = step === this.#best;
            const label = isBest ? `★ ${countText(step)}` : countText(step);
            const title = isBest ? this.#texts.text("sidebar.best_step") : null;
            return make("span", {
                class: `sdxlt-grid-step${isBest ? " sdxlt-best" : ""}`,
                role: "columnheader",
                text: label,
                title,
            });
        });
        return make("div", { class: "sdxlt-grid-row sdxlt-grid-header", role: "row" }, ...headers);
    }

    /** A picture's cell; one that was there is kept, as its picture is loaded. */
    #cell(old, prompt, step) {
        const key = `${prompt}/${step}`;
        const cell = old.get(key)?.dataset.run === this.#run ? old.get(key) : this.#newCell(prompt, step);
        cell.tabIndex = -1;
        cell.classList.toggle("sdxlt-best", step === this.#best);
        this.#cells.set(key, cell);
        return cell;
    }

    #newCell(prompt, step) {
        const image = make("img", {
            loading: "lazy",
            draggable: "false",
            src: this.#urlOf(`${picturePath(this.#run, step, prompt)}?small=1`),
            alt: this.#texts.text("panel.picture_alt", { step, prompt: this.#prompts[prompt] }),
            "data-step": String(step),
            "data-prompt": String(prompt),
        });
        const choose = () => this.#choose(prompt, step, true);
        return make(
            "div",
            {
                class: "sdxlt-grid-cell",
                role: "gridcell",
                "aria-selected": "false",
                "data-run": this.#run,
                on: { click: choose },
            },
            image,
        );
    }

    #choose(prompt, step, isFocused) {
        for (const cell of this.#cells.values()) {
            cell.setAttribute("aria-selected", "false");
            cell.tabIndex = -1;
        }
        const cell = this.#cells.get(`${prompt}/${step}`);
        this.#chosen = { prompt, step };
        cell.setAttribute("aria-selected", "true");
        cell.tabIndex = 0;
        if (isFocused) cell.focus({ preventScroll: true });
        cell.scrollIntoView({ block: "nearest", inline: "nearest" });
        this.image.src = this.#urlOf(picturePath(this.#run, step, prompt));
        this.image.alt = this.#texts.text("panel.picture_alt", { step, prompt: this.#prompts[prompt] });
        const at = this.#texts.text("panel.at_step", { step: countText(step) });
        const best = step === this.#best ? ` · ${this.#texts.text("sidebar.best_step")}` : "";
        setText(this.caption, `${at}${best}\n${this.#prompts[prompt]}`);
        show(this.large, true);
        this.#bringIntoView();
    }

    /** Once now, once when a sidebar that opens has its size, once when the picture has its own. */
    #bringIntoView() {
        const { src } = this.image;
        const scroll = () => {
            if (!this.large.hidden && this.image.src === src) this.large.scrollIntoView({ block: "nearest" });
        };
        scroll();
        requestAnimationFrame(() => requestAnimationFrame(scroll));
        if (!this.image.complete) this.image.addEventListener("load", scroll, { once: true });
    }

    #leave(isFocused = true) {
        const cell = this.#chosen && this.#cells.get(`${this.#chosen.prompt}/${this.#chosen.step}`);
        show(this.large, false);
        cell?.setAttribute("aria-selected", "false");
        this.#chosen = null;
        if (isFocused) cell?.focus({ preventScroll: true });
    }

    #key(event) {
        const { key } = event;
        const last = this.#steps.length - 1;
        const focused = document.activeElement?.querySelector?.("img")?.dataset;
        const at =
            this.#chosen ??
            (focused?.step ? { prompt: Number(focused.prompt), step: Number(focused.step) } : null);
        if (!at) return;
        const column = this.#steps.indexOf(at.step);
        let [row, next] = [at.prompt, column];
        if (WALKS[key]) [row, next] = [at.prompt + WALKS[key][0], column + WALKS[key][1]];
        else if (key === "Home") next = 0;
        else if (key === "End") next = last;
        else if (key === "Escape" && this.#chosen) return this.#handled(event, () => this.#leave());
        else if (key !== "Enter" && key !== " ") return;
        const inside = row >= 0 && row < this.#prompts.length && next >= 0 && next <= last;
        this.#handled(event, () => inside && this.#choose(row, this.#steps[next], true));
    }

    /** The canvas has its own use for these keys. */
    #handled(event, act) {
        event.preventDefault();
        event.stopPropagation();
        act();
    }
}
