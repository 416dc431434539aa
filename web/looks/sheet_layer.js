/** The sheet of a dataset over the whole page, at a size at which captions can be read. */

import { make } from "../panel/elements.js";

/**
 * A click or Escape closes it, and the focus goes back to where it was.
 *
 * @param {string} uri Data URI of the sheet.
 * @param {{title: string, close: string, theme: string}} words What the sheet is, what a click does; the theme.
 * @returns {() => void} Closes it, however often it is called.
 */
export function openSheet(uri, { title, close, theme }) {
    const picture = make("img", { src: uri, alt: title, draggable: "false" });
    const button = make("button", { class: "sdxlt-sheet-close", type: "button", title: close, "aria-label": close, text: "×" });
    const attributes = { class: "sdxlt sdxlt-sheet-layer", "data-theme": theme, "aria-label": title };
    const layer = make("dialog", { ...attributes, "data-sdxl-trainer": "sheet-layer" }, button, picture);
    layer.addEventListener("click", () => layer.close());
    layer.addEventListener("close", () => layer.remove());
    // the page below hears nothing: its keys change the graph
    for (const name of ["keydown", "wheel", "contextmenu"]) {
        layer.addEventListener(name, (event) => event.stopPropagation());
    }
    document.body.append(layer);
    layer.showModal();
    return () => layer.close();
}
