/** What a Load Dataset node shows of its folder: the arithmetic, the sheet, and what the report warns of. */

import { make, setText, show } from "../panel/elements.js";
import { isLightTheme, watchTheme } from "../panel/theme.js";
import { titleOf, trainerOf } from "./graph_links.js";
import { Follower, isInView } from "./follower.js";
import { datasetAsk, settingsAsk, widgetsOf } from "./node_values.js";
import { openSheet } from "./sheet_layer.js";
import { epochText, lengthText, samplesSentence } from "./words.js";

const WIDGET = "sdxl_trainer_look";
const SHEET_CAP = 280; // pixels of a sheet's height
const REPORT_HEIGHT = 170;
const ROW_GAP = 6;
const FIRST_HEIGHT = 44; // before anything was laid out
const INPUT_FOLDER = /^input\/(?!.*\.\.)/;
const REMOVING = new Set(["Delete", "Backspace"]);

export class DatasetLook {
    #app;
    #node;
    #texts;
    #parts;
    #aspect = 0;
    #answer = null;
    #folder = undefined;
    #busy = new Set();
    #followers;
    #observer;
    #isThemeOld = true;
    #unwatch = () => {};
    #closeSheet = () => {};

    /**
     * @param {any} app ComfyUI's app.
     * @param {any} api ComfyUI's api.
     * @param {any} node A Load Dataset node.
     * @param {(key: string, values?: object) => string} texts
     * @param {string} asker Who asks, in a word no other node of any tab has.
     */
    constructor(app, api, node, texts, asker) {
        this.#app = app;
        this.#node = node;
        this.#texts = texts;
        this.#parts = this.#make();
        const unreachable = () => texts("looks.unreachable");
        this.#followers = [
            new Follower({
                api,
                asker,
                unreachable,
                read: () => this.#question(),
                onChange: (question) => this.#changed(question),
                onAnswer: (answer) => this.#answered(answer),
            }),
            new Follower({
                api,
                asker: `${asker} steps`,
                unreachable,
                read: () => this.#stepsQuestion(),
                onChange: (question) => this.#stepsChanged(question),
                onAnswer: (answer) => this.#stepsAnswered(answer),
            }),
        ];
        this.#addWidget();
        this.#observer = new ResizeObserver(() => this.#fit());
    }

    /** From now on it follows the widgets, with each tick. */
    start() {
        this.#observer.observe(this.#parts.root);
        this.#observer.observe(this.#parts.text);
        this.#unwatch = watchTheme(() => {
            this.#isThemeOld = true;
        });
    }

    /** @param {number} now */
    tick(now) {
        if (!isInView(this.#parts.root)) return;
        if (this.#isThemeOld) this.#theme();
        for (const follower of this.#followers) follower.tick(now);
    }

    refresh() {
        for (const follower of this.#followers) follower.refresh();
    }

    stop() {
        for (const follower of this.#followers) follower.stop();
        this.#observer.disconnect();
        this.#unwatch();
        this.#closeSheet();
    }

    /** Colours can be read only while the look is in the page. */
    #theme() {
        this.#isThemeOld = false;
        this.#parts.root.dataset.theme = isLightTheme(this.#parts.root) ? "light" : "dark";
    }

    #make() {
        const tag = (name) => ({ "data-sdxl-trainer": name });
        const parts = {
            sentence: make("span", tag("arithmetic")),
            steps: make("span", { class: "sdxlt-look-steps", ...tag("steps") }),
            error: make("div", { class: "sdxlt-look-error", role: "status", ...tag("error") }),
            sheet: make("img", { ...tag("sheet"), alt: "", draggable: "false" }),
            report: make("pre", { class: "sdxlt-look-report", tabindex: "0", ...tag("report") }),
            notes: make("button", { class: "sdxlt-look-notes", type: "button", "aria-expanded": "false" }),
        };
        parts.notes.addEventListener("click", () => this.#toggleReport());
        const line = make("div", { class: "sdxlt-look-line" }, parts.sentence, " ", parts.steps);
        parts.text = make("div", { class: "sdxlt-look-text" }, line, parts.error, parts.notes);
        parts.frame = make("button", { class: "sdxlt-look-sheet", type: "button" }, parts.sheet);
        parts.frame.addEventListener("click", () => this.#enlarge());
        const attributes = { class: "sdxlt sdxlt-look", "data-busy": "false", ...tag("dataset-look") };
        parts.root = make("div", attributes, parts.text, parts.report, parts.frame);
        for (const part of [parts.error, parts.report, parts.notes, parts.frame]) show(part, false);
        // the wheel scrolls the report, not the canvas below it
        parts.report.addEventListener("wheel", (event) => event.stopPropagation());
        // ComfyUI would remove the node
        parts.root.addEventListener("keydown", (event) => {
            if (REMOVING.has(event.key)) event.stopPropagation();
        });
        return parts;
    }

    #addWidget() {
        const widget = this.#node.addDOMWidget(WIDGET, WIDGET, this.#parts.root, {
            serialize: false,
            hideOnZoom: false,
            getMinHeight: () => this.#height(),
            getValue: () => "",
            setValue: () => {},
        });
        widget.serialize = false;
    }

    #question() {
        const body = datasetAsk(this.#app, this.#node);
        return body && { path: "/sdxl_trainer/looks/dataset", body };
    }

    /** The run's length, once the pictures are known. */
    #stepsQuestion() {
        if (!this.#answer || this.#answer.error) return null;
        const trainer = trainerOf(this.#app, this.#node);
        if (!trainer) return null;
        const { ask } = settingsAsk(this.#app, trainer);
        return { path: "/sdxl_trainer/looks/settings", body: ask };
    }

    /** What was known stays to be seen, pale, until more is known of the same folder. */
    #changed(question) {
        const folder = question?.body.folder;
        const isOther = folder !== this.#folder;
        this.#folder = folder;
        this.#answer = null;
        this.#setBusy("pictures", question !== null);
        show(this.#parts.error, false);
        if (question && !isOther && this.#aspect) return;
        setText(this.#parts.sentence, this.#texts(question ? "looks.scanning" : this.#whyNothing()));
        this.#showNotes(null);
        this.#showSheet("");
        setText(this.#parts.steps, "");
        this.#fit();
    }

    #whyNothing() {
        const folder = widgetsOf(this.#app, this.#node).values.folder ?? "";
        return folder && !folder.startsWith("(") ? "looks.set_elsewhere" : "looks.choose_folder";
    }

    #answered(answer) {
        this.#answer = answer;
        this.#setBusy("pictures", false);
        const isBad = typeof answer.error === "string";
        setText(this.#parts.sentence, isBad ? "" : samplesSentence(this.#texts, answer));
        setText(this.#parts.error, isBad ? this.#whatIsBad(answer) : "");
        this.#parts.error.classList.toggle("sdxlt-look-todo", Boolean(answer.is_missing));
        show(this.#parts.error, isBad);
        if (isBad) setText(this.#parts.steps, "");
        else if (!trainerOf(this.#app, this.#node)) this.#showStepsAlone();
        this.#showNotes(isBad ? null : answer);
        this.#showSheet(isBad ? "" : answer.sheet);
        this.#fit();
    }

    /** A folder that is not there yet is nothing wrong: every shipped workflow opens with one. */
    #whatIsBad({ error, is_missing: isMissing }) {
        const isPlain = isMissing && INPUT_FOLDER.test(this.#folder);
        return isPlain ? this.#texts("looks.put_pictures", { folder: this.#folder }) : error;
    }

    #showNotes(answer) {
        const counts = { left_out: answer?.left_out ?? 0, to_check: answer?.warnings ?? 0 };
        const words = Object.entries(counts)
            .filter(([, count]) => count > 0)
            .map(([key, count]) => this.#texts(`looks.${key}`, { count }));
        this.#parts.notes.classList.toggle("sdxlt-look-warns", words.length > 0);
        setText(this.#parts.notes, words.join(", ") || this.#texts("looks.report"));
        setText(this.#parts.report, answer?.report ?? "");
        show(this.#parts.notes, answer !== null);
        show(this.#parts.report, answer !== null && this.#isReportOpen());
    }

    #isReportOpen() {
        return this.#parts.notes.getAttribute("aria-expanded") === "true";
    }

    #showSheet(uri) {
        const { frame, sheet } = this.#parts;
        show(frame, Boolean(uri) && !this.#isReportOpen());
        if (!uri) {
            this.#aspect = 0;
            this.#closeSheet();
            sheet.removeAttribute("src");
            return;
        }
        sheet.onload = () => {
            this.#aspect = sheet.naturalHeight / sheet.naturalWidth;
            this.#fit();
        };
        sheet.src = uri;
        sheet.alt = this.#texts("looks.sheet");
        frame.title = this.#texts("looks.larger");
    }

    #stepsChanged(question) {
        this.#setBusy("steps", question !== null);
        const isTrained = trainerOf(this.#app, this.#node) !== null;
        if (this.#answer && !isTrained) this.#showStepsAlone();
    }

    /** What an epoch is for a trainer that nothing is known of: at batch 1. */
    #showStepsAlone() {
        if (typeof this.#answer.error === "string") return;
        const numbers = { batch: 1, accumulation: 1, an_epoch: this.#answer.steps };
        setText(this.#parts.steps, epochText(this.#texts, numbers));
    }

    #stepsAnswered(answer) {
        this.#setBusy("steps", false);
        const trainer = trainerOf(this.#app, this.#node);
        const parts = answer.numbers ? [epochText(this.#texts, answer.numbers)] : [];
        if (answer.steps) parts.push(`→ ${lengthText(this.#texts, answer)}`);
        setText(this.#parts.steps, parts.join(" "));
        this.#parts.steps.title = trainer ? this.#texts("looks.steps_of", { title: titleOf(trainer) }) : "";
        this.#fit();
    }

    #setBusy(what, isBusy) {
        if (isBusy) this.#busy.add(what);
        else this.#busy.delete(what);
        this.#parts.root.dataset.busy = String(this.#busy.size > 0);
    }

    /** The report takes the place of the sheet, so that the node keeps its size. */
    #toggleReport() {
        const { notes, report, frame, sheet } = this.#parts;
        const isOpen = !this.#isReportOpen();
        notes.setAttribute("aria-expanded", String(isOpen));
        show(report, isOpen);
        show(frame, !isOpen && sheet.hasAttribute("src"));
        this.#fit();
    }

    #enlarge() {
        const { root, sheet } = this.#parts;
        const words = { title: sheet.alt, close: this.#texts("looks.close_sheet") };
        this.#closeSheet = openSheet(sheet.src, { ...words, theme: root.dataset.theme });
    }

    /** Pixels the look needs: its texts as they wrap now, and the sheet at the node's width up to a cap. */
    #height() {
        const { root, text, report } = this.#parts;
        const width = (root.clientWidth || this.#node.size[0] - 20) - 2;
        const sheet = this.#aspect ? Math.min(width * this.#aspect, SHEET_CAP) + ROW_GAP : 0;
        const opened = report.hidden ? 0 : REPORT_HEIGHT + ROW_GAP;
        return Math.ceil((text.offsetHeight || FIRST_HEIGHT) + Math.max(opened, sheet) + 2 * ROW_GAP);
    }

    /** Grow the node where the look needs it; never shrink what the user made larger. */
    #fit() {
        this.#parts.root.style.setProperty("--sdxlt-look-height", `${this.#height()}px`);
        const least = this.#node.computeSize()[1];
        if (this.#node.size[1] < least) this.#node.setSize([this.#node.size[0], least]);
        this.#app.canvas?.setDirty?.(true, true);
    }
}
