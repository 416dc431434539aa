"""How much the texts of a page stand out from what is behind them."""

CONTRASTS = """(root) => {
    const channels = (color) => {
        const [r, g, b, a = 1] = color.match(/-?[\\d.e-]+/g).map(Number);
        const scale = color.startsWith("color(") ? 255 : 1;
        return [r * scale, g * scale, b * scale, a];
    };
    const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const light = (rgb) => {
        const [r, g, b] = rgb.map((v) => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        const layers = [];
        for (let at = element; at && at !== root.parentElement; at = at.parentElement) {
            const color = channels(getComputedStyle(at).backgroundColor);
            layers.push(color);
            if (color[3] === 1) break;
        }
        const node = document.createElement("i");
        // a node's body, which the canvas draws under the panel
        node.style.color = LiteGraph.NODE_DEFAULT_BGCOLOR;
        document.body.append(node);
        const body = channels(getComputedStyle(node).color).slice(0, 3);
        node.remove();
        return layers.reverse().reduce((below, layer) => over(layer, below), body);
    };
    const opacity = (element) => {
        let product = 1;
        for (let at = element; at && at !== document.body; at = at.parentElement) {
            product *= getComputedStyle(at).opacity;
        }
        return product;
    };
    const found = {};
    for (const element of root.querySelectorAll("*")) {
        const own = [...element.childNodes].filter((child) => child.nodeType === Node.TEXT_NODE);
        const words = own.map((text) => text.data.trim()).join("");
        if (!words || element.closest(":disabled")) continue;
        if (!element.checkVisibility({ visibilityProperty: true })) continue;
        const below = ground(element), color = channels(getComputedStyle(element).color);
        color[3] *= opacity(element);
        const [a, b] = [light(over(color, below)), light(below)];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        found[`${element.className}: ${words}`] = ratio;
    }
    return found;
}"""


def contrasts(locator):
    """How much each visible text under an element stands out from its ground (WCAG ratio), by text."""
    return locator.evaluate(CONTRASTS)
