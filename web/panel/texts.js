/** The words of the panels, from locales/<language>/main.json through ComfyUI's own /i18n route. */

const FALLBACK = "en";
const SECTION = "sdxlTrainer";

export class Texts {
    #tables;

    /** @param {...object} tables Nested tables of words, the first that knows a key wins. */
    constructor(...tables) {
        this.#tables = tables.filter((table) => table && typeof table === "object");
    }

    /**
     * @param {string} key As in "panel.left".
     * @param {Record<string, string|number>} [values] What stands in {braces}.
     * @returns {string} The words, or the key's last part where no language knows it.
     */
    text(key, values = {}) {
        const words = this.find(key) ?? key.slice(key.lastIndexOf(".") + 1);
        return words.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
    }

    /**
     * @param {string} name What the backend calls a phase, as in "encoding pictures".
     * @returns {string} In the reader's language where it is known.
     */
    phase(name) {
        return this.#lookUp(["phases", name]) ?? name;
    }

    /** @param {string} key @returns {string|undefined} */
    find(key) {
        return this.#lookUp(key.split("."));
    }

    #lookUp(path) {
        for (const table of this.#tables) {
            const found = path.reduce(
                (inner, part) => (Object.hasOwn(inner ?? {}, part) ? inner[part] : undefined),
                table,
            );
            if (typeof found === "string") return found;
        }
        return undefined;
    }
}

/**
 * @param {(path: string) => Promise<Response>} fetchApi
 * @param {string} language As in "zh"; the value of the setting Comfy.Locale.
 * @returns {Promise<Texts>} Knows no words at all when the route does not answer: keys are shown then.
 */
export async function readTexts(fetchApi, language) {
    const response = await fetchApi("/i18n").catch(() => null);
    if (!response?.ok) return new Texts();
    const all = await response.json().catch(() => ({}));
    return new Texts(all?.[language]?.[SECTION], all?.[FALLBACK]?.[SECTION]);
}
