/** What nodes are set to, in the form that the backend's looks are asked in. */

import { datasetOf, originOf, titleOf, typeOf } from "./graph_links.js";

const TITLES = {
    lora: "LoRA",
    optimizer: "Optimizer",
    schedule: "Schedule",
    prodigy: "Prodigy",
    objective: "Objective",
    noise: "Noise",
    prior: "Prior",
    preview: "Preview",
    validation: "Validation",
    run: "Run",
    logging: "Logging",
    text_encoder: "TextEncoder",
    pivotal: "Pivotal",
};
const PLAIN = new Set(["number", "string", "boolean"]);

/**
 * @param {any} app
 * @param {any} node
 * @returns {{values: Record<string, any>, wired: Record<string, string>}} The widgets that the backend knows, and
 *     for each that another node fills in a way nobody can tell before a run, the title of that node.
 */
export function widgetsOf(app, node) {
    const spec = node.constructor?.nodeData?.input ?? {};
    const known = new Set([...Object.keys(spec.required ?? {}), ...Object.keys(spec.optional ?? {})]);
    const values = {};
    const wired = {};
    for (const widget of node.widgets ?? []) {
        if (!known.has(widget.name)) continue;
        const origin = originOf(app, node, widget.name);
        const value = origin ? primitiveValue(origin.node) : widget.value;
        if (PLAIN.has(typeof value) && !Number.isNaN(value)) values[widget.name] = value;
        else if (origin) wired[widget.name] = titleOf(origin.node);
    }
    return { values, wired };
}

/** The value of a node that holds one value and nothing else. */
function primitiveValue(node) {
    return typeOf(node).startsWith("Primitive") ? node.widgets?.[0]?.value : undefined;
}

/**
 * @param {any} app
 * @param {any} node A Load Dataset node.
 * @returns {{folder: string, fields: Record<string, any>}|null} Null where the folder is not set, or not here.
 */
export function datasetAsk(app, node) {
    const { values, wired } = widgetsOf(app, node);
    const { folder, ...fields } = values;
    const isSet = typeof folder === "string" && folder && !folder.startsWith("(");
    return isSet && Object.keys(wired).length === 0 ? { folder, fields } : null;
}

/**
 * @param {any} app
 * @param {any} trainer
 * @returns {{ask: object, wired: Record<string, string>, dataset: {sources: any[], other: any}}} The body of a request
 *     for its settings; the titles of nodes that set what cannot be told; where its pictures come from.
 */
export function settingsAsk(app, trainer) {
    const own = widgetsOf(app, trainer);
    const { name, preset, ...widgets } = own.values;
    const wired = { ...own.wired };
    delete wired.name;
    const settings = {};
    for (const [section, title] of Object.entries(TITLES)) {
        const origin = originOf(app, trainer, `${section}_settings`);
        if (!origin) continue;
        const isOurs = typeOf(origin.node) === `SDXLTrainer_${title}Settings`;
        const plugged = isOurs ? widgetsOf(app, origin.node) : null;
        if (plugged && Object.keys(plugged.wired).length === 0) settings[section] = plugged.values;
        else wired[section] = titleOf(origin.node);
    }
    const dataset = datasetOf(app, trainer);
    const asked = dataset.sources.map((source) => datasetAsk(app, source));
    const pictures = asked.length && !asked.includes(null) ? asked : null;
    const unknown = Object.keys(wired).filter((key) => key !== "preset");
    return { ask: { preset, widgets, settings, dataset: pictures, unknown }, wired, dataset };
}
