/** What a trainer's preset, widgets and settings nodes come to: its values in two columns, and the arithmetic. */

import { make, setText, show } from "../panel/elements.js";
import { titleOf } from "./graph_links.js";
import { Follower, isInView } from "./follower.js";
import { settingsAsk } from "./node_values.js";
import { runSentence } from "./words.js";

const KINDS = ["preset", "widget", "settings", "usual"];
const LENGTH = new Set(["steps", "epochs", "batch_size", "run", "validation"]);

export class PresetLook {
    #app;
    #node;
    #texts;
    #parts;
    #onHeight;
    #follower;
    #observer;
    #wired = {};
    #dataset = { sources: [], other: null };
    #preset = "";

    /**
     * @param {any} app ComfyUI's app.
     * @param {any} api ComfyUI's api.
     * @param {any} node A trainer node.
     * @param {(key: string, values?: object) => string} texts
     * @param {{asker: string, onHeight?: () => void}} options Who asks, and who is told when the height changed.
     */
    constructor(app, api, node, texts, { asker, onHeight }) {
        this.#app = app;
        this.#node = node;
        this.#texts = texts;
        this.#onHeight = onHeight ?? (() => {});
        this.#parts = this.#make();
        this.#follower = new Follower({
            api,
            asker,
            unreachable: () => texts("looks.unreachable"),
            read: () => this.#question(),
            onChange: (question) => this.#setBusy(question !== null),
            onAnswer: (answer) => this.#answered(answer),
        });
        this.#observer = new ResizeObserver(() => this.#onHeight());
    }

    /** @returns {HTMLElement} */
    get element() {
        return this.#parts.root;
    }

    /** @returns {number} Natural height in pixels, at the present width. */
    height() {
        return this.#parts.inner.offsetHeight;
    }

    /** @param {number} now */
    tick(now) {
        if (isInView(this.#parts.root)) this.#follower.tick(now);
    }

    refresh() {
        this.#follower.refresh();
    }

    /** From now on it follows the widgets, with each tick. */
    start() {
        this.#observer.observe(this.#parts.inner);
    }

    stop() {
        this.#follower.stop();
        this.#observer.disconnect();
    }

    #make() {
        const tag = (name) => ({ "data-sdxl-trainer": name });
        const parts = {
            arithmetic: make("div", { class: "sdxlt-preset-arithmetic", ...tag("arithmetic") }),
            error: make("div", { class: "sdxlt-look-error", role: "alert", ...tag("error") }),
            rows: make("div", { class: "sdxlt-preset-rows" }),
            legend: make("div", { class: "sdxlt-preset-legend" }),
            note: make("div", { class: "sdxlt-preset-note", ...tag("note") }),
        };
        const order = [parts.arithmetic, parts.error, parts.rows, parts.legend, parts.note];
        parts.inner = make("div", { class: "sdxlt-preset-inner" }, ...order);
        for (const part of [parts.error, parts.note]) show(part, false);
        const attributes = { class: "sdxlt-preset sdxl-trainer-preset-look", "data-busy": "false" };
        parts.root = make("div", { ...attributes, ...tag("settings-look") }, parts.inner);
        return parts;
    }

    #question() {
        const { ask, wired, dataset } = settingsAsk(this.#app, this.#node);
        this.#wired = wired;
        this.#dataset = dataset;
        this.#preset = ask.preset ?? "";
        if (wired.preset || !ask.preset) return null;
        // told apart though the backend is asked the same: what is shown beside its answer differs
        const beside = { wired, sources: dataset.sources.map((each) => each.id), other: dataset.other?.id };
        return { path: "/sdxl_trainer/looks/settings", body: ask, beside };
    }

    #answered(answer) {
        this.#setBusy(false);
        const isBad = typeof answer.error === "string";
        setText(this.#parts.error, isBad ? answer.error : "");
        show(this.#parts.error, isBad);
        show(this.#parts.arithmetic, !isBad);
        if (isBad) return;
        const arithmetic = runSentence(this.#texts, answer);
        setText(this.#parts.arithmetic, arithmetic || this.#whyNoArithmetic());
        this.#parts.arithmetic.classList.toggle("sdxlt-preset-unknown", !arithmetic);
        const others = Object.entries(this.#wired).map(([name, title]) => ({
            setting: name.replaceAll("_", " "),
            value: this.#texts("looks.set_by", { title }),
            kind: "settings",
        }));
        const rows = [...answer.rows, ...others];
        this.#parts.rows.replaceChildren(...rows.map((row) => this.#row(row)));
        this.#showLegend(new Set(rows.map((row) => row.kind)));
        setText(this.#parts.note, answer.note);
        show(this.#parts.note, Boolean(answer.note));
    }

    #row({ setting: words, value, kind }) {
        const setting = words.replace(/:$/, "");
        const known = KINDS.includes(kind) ? kind : "usual";
        const origin = this.#texts(`looks.from_${known}`, { preset: this.#preset });
        return make(
            "div",
            { class: `sdxlt-preset-row sdxlt-from-${known}`, title: `${setting}: ${value} (${origin})`, "data-setting": setting },
            make("span", { class: "sdxlt-preset-setting", text: setting }),
            make("span", { class: "sdxlt-preset-value", text: value, "data-sdxl-trainer": "value" }),
        );
    }

    #showLegend(kinds) {
        const shown = KINDS.filter((kind) => kinds.has(kind));
        this.#parts.legend.replaceChildren(
            ...shown.map((kind) => {
                const text = this.#texts(`looks.from_${kind}`, { preset: this.#preset });
                return make("span", { class: `sdxlt-preset-origin sdxlt-from-${kind}`, text });
            }),
        );
    }

    #whyNoArithmetic() {
        if (Object.keys(this.#wired).some((name) => LENGTH.has(name))) return this.#texts("looks.length_later");
        const { sources, other } = this.#dataset;
        if (other) return this.#texts("looks.pictures_later", { title: titleOf(other) });
        return this.#texts(sources.length ? "looks.no_folder" : "looks.no_dataset");
    }

    #setBusy(isBusy) {
        this.#parts.root.dataset.busy = String(isBusy);
    }
}
