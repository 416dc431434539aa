/** The colours of ComfyUI's theme, and when they change. */

const DARK = { loss: "#56b4e9", held: "#f0a830", rate: "#9aa0a8", best: "#3ecf9b" };
const LIGHT = { loss: "#0068a8", held: "#c25700", rate: "#767d87", best: "#00805a" };
const SETTLE_MS = 60;

const watchers = new Set();
let observer = null;
let timer = 0;

/** Share of light, 0 to 1, in a colour as computed styles write it. */
function lightness(color) {
    const parts = color.match(/[\d.]+/g)?.map(Number) ?? [255, 255, 255];
    const scale = color.startsWith("color(") ? 1 : 1 / 255;
    return scale * (0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]);
}

/** @param {Element} element @returns {boolean} Whether dark text stands on light ground there. */
export function isLightTheme(element) {
    return lightness(getComputedStyle(element).color) < 0.5;
}

/**
 * @param {Element} element An element of a panel, in the page.
 * @returns {Record<"text"|"dim"|"grid"|"font"|"loss"|"held"|"rate"|"best", string>} Colours of a chart; those of
 *   the curves are told apart by people who are colour-blind as well.
 */
export function chartColors(element) {
    const style = getComputedStyle(element);
    const read = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
    return {
        text: style.color,
        dim: read("--descrip-text", "#999"),
        grid: read("--border-color", "#4e4e4e"),
        font: style.fontFamily,
        ...(isLightTheme(element) ? LIGHT : DARK),
    };
}

/**
 * @param {() => void} callback Called after the theme has changed.
 * @returns {() => void} Ends the watch.
 */
export function watchTheme(callback) {
    watchers.add(callback);
    if (!observer) {
        observer = new MutationObserver(() => {
            clearTimeout(timer);
            timer = setTimeout(() => watchers.forEach((watcher) => watcher()), SETTLE_MS);
        });
        const attributes = { attributes: true, attributeFilter: ["class", "style"] };
        observer.observe(document.documentElement, attributes);
        observer.observe(document.body, attributes);
    }
    return () => {
        watchers.delete(callback);
        if (watchers.size === 0) {
            observer?.disconnect();
            observer = null;
        }
    };
}
