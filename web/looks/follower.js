/** Follows what nodes are set to, and asks the backend when it has stood still for a moment. */

const TICK = 250; // milliseconds between two looks at the widgets
const STILL = 400; // milliseconds without a change before the backend is asked
const MARGIN = 300; // pixels around the window in which a node counts as in view

/** One timer for all followers; it rests while there is none, and does nothing while the tab is hidden. */
export class Ticker {
    #members = new Set();
    #timer = null;

    /** @param {(now: number) => void} member Called about four times a second. */
    add(member) {
        this.#members.add(member);
        this.#timer ??= setInterval(() => this.#tick(), TICK);
    }

    /** @param {(now: number) => void} member */
    remove(member) {
        this.#members.delete(member);
        if (this.#members.size === 0) {
            clearInterval(this.#timer);
            this.#timer = null;
        }
    }

    #tick() {
        if (document.hidden) return;
        for (const member of [...this.#members]) member(performance.now());
    }
}

/**
 * @param {Element} element
 * @returns {boolean} Whether it is laid out, and in or near the window.
 */
export function isInView(element) {
    const box = element.getBoundingClientRect();
    if (!element.isConnected || (box.width === 0 && box.height === 0)) return false;
    const isAcross = box.right > -MARGIN && box.left < window.innerWidth + MARGIN;
    return isAcross && box.bottom > -MARGIN && box.top < window.innerHeight + MARGIN;
}

/**
 * Answers that come after something changed again are dropped.
 *
 * `read()` gives what to ask, as `{path, body}`, or null when there is nothing to ask; `onChange(question)` is told
 * of every new question before it is asked; `onAnswer(answer)` gets the answer, `{error}` where it is a sentence.
 */
export class Follower {
    #options;
    #signature = undefined;
    #question = null;
    #since = 0;
    #isAsked = true;
    #abort = null;

    /**
     * @param {{api: any, asker: string, read: () => {path: string, body: object}|null,
     *     onChange: (question: any) => void, onAnswer: (answer: any) => void, unreachable: () => string}} options
     */
    constructor(options) {
        this.#options = options;
    }

    /** @param {number} now Milliseconds. */
    tick(now) {
        const question = this.#options.read();
        const signature = JSON.stringify(question);
        if (signature !== this.#signature) {
            this.#signature = signature;
            this.#question = question;
            this.#since = now;
            this.#isAsked = question === null;
            this.#abort?.abort();
            this.#options.onChange(question);
        }
        if (!this.#isAsked && now - this.#since >= STILL) this.#ask();
    }

    /** Ask again at the next tick though nothing changed here: the files may have. */
    refresh() {
        if (this.#question !== null && this.#isAsked) this.#isAsked = false;
    }

    stop() {
        this.#abort?.abort();
        this.#signature = undefined;
    }

    async #ask() {
        this.#isAsked = true;
        this.#abort?.abort();
        const abort = (this.#abort = new AbortController());
        const answer = await this.#fetch(abort.signal);
        if (answer !== null && !abort.signal.aborted) this.#options.onAnswer(answer);
    }

    async #fetch(signal) {
        const { api, asker, unreachable } = this.#options;
        const { path, body } = this.#question;
        try {
            const response = await api.fetchApi(path, {
                method: "POST",
                headers: { "Content-Type": "application/json" },
                body: JSON.stringify({ ...body, asker }),
                signal,
            });
            return await response.json();
        } catch {
            return signal.aborted ? null : { error: unreachable() };
        }
    }
}
