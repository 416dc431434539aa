/** Making DOM elements. All text goes in as text, never as markup. */

/**
 * @param {string} tag
 * @param {Record<string, any>} [attributes] class, text, title, on (a map of listeners), data-*; null and
 *   undefined are left out.
 * @param {...(Node|string|null)} children
 * @returns {any} The element.
 */
export function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
        if (value === null || value === undefined) continue;
        if (name === "text") element.textContent = value;
        else if (name === "on") listen(element, value);
        else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
}

/**
 * @param {Element} element
 * @param {Record<string, (event: any) => void>} listeners
 */
export function listen(element, listeners) {
    for (const [name, listener] of Object.entries(listeners)) element.addEventListener(name, listener);
}

/**
 * Sets text only when it differs, so that a quiet panel costs no layout.
 *
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
}

/**
 * @param {HTMLElement} element
 * @param {boolean} isShown
 */
export function show(element, isShown) {
    if (element.hidden === isShown) element.hidden = !isShown;
}
