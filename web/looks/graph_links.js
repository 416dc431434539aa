/** Where a wire comes from: through reroutes, bypassed nodes and the borders of subgraphs. */

import { eachNode } from "../panel/graph_nodes.js";

const SUBGRAPH_INPUT = -10;
const NEVER = 2;
const BYPASS = 4;
const DEEPEST = 100;

/** Nodes that give on the pictures of the dataset they take. */
const PASS_ON = new Set(
    ["CaptionImages", "CaptionVariants", "AugmentDataset", "DatasetDoctor", "DatasetMasks", "ClassImages"].map(
        (name) => `SDXLTrainer_${name}`,
    ),
);
const JOIN_DATASETS = "SDXLTrainer_JoinDatasets";
const MOST_JOINED = 4; // the backend keeps no more of them read
const LOAD_DATASET = "SDXLTrainer_LoadDataset";
const TRAINERS = new Set(["SDXLTrainer_TrainSDXLLoRA", "SDXLTrainer_PivotalTuning"]);

/** @param {any} node @returns {boolean} */
export function isLoadDataset(node) {
    return typeOf(node) === LOAD_DATASET;
}

/** @param {any} node @returns {boolean} */
function isTrainer(node) {
    return TRAINERS.has(typeOf(node));
}

/** @param {any} node @returns {string} The name that the backend knows the node by. */
export function typeOf(node) {
    return node?.comfyClass ?? node?.type ?? "";
}

/** @param {any} node @returns {string} The title as the user sees it. */
export function titleOf(node) {
    return String(node?.title || typeOf(node));
}

/**
 * @param {any} app ComfyUI's app.
 * @param {any} node
 * @param {string} name Name of the input.
 * @returns {{node: any, slot: number}|null} Node and output that the input gets its value from; null without one.
 */
export function originOf(app, node, name) {
    const index = (node.inputs ?? []).findIndex((input) => input.name === name);
    return index < 0 ? null : follow(app, node, index, DEEPEST);
}

function follow(app, node, index, left) {
    const link = linkOf(node.graph, node.inputs?.[index]?.link);
    if (!link || left <= 0) return null;
    if (Number(link.origin_id) === SUBGRAPH_INPUT) return followOut(app, node.graph, link.origin_slot, left);
    return settle(app, nodeAt(node.graph, link.origin_id), link.origin_slot, left);
}

/** From the border of a subgraph to what is plugged into the node that stands for it. */
function followOut(app, graph, slot, left) {
    const name = graph.inputs?.[slot]?.name;
    let container = null;
    eachNode(app, (node) => {
        if (node.subgraph === graph) container ??= node;
    });
    const index = (container?.inputs ?? []).findIndex((input) => input.name === name);
    return index < 0 ? null : follow(app, container, index, left - 1);
}

function settle(app, node, slot, left) {
    if (!node || node.mode === NEVER) return null;
    if (node.subgraph && node.mode !== BYPASS) {
        const link = linkOf(node.subgraph, node.subgraph.outputs?.[slot]?.linkIds?.[0]);
        return link ? settle(app, nodeAt(node.subgraph, link.origin_id), link.origin_slot, left - 1) : null;
    }
    if (typeOf(node) === "Reroute") return follow(app, node, 0, left - 1);
    if (node.mode !== BYPASS) return { node, slot };
    const type = node.outputs?.[slot]?.type;
    const index = (node.inputs ?? []).findIndex((input) => input.type === type && input.link != null);
    return index < 0 ? null : follow(app, node, index, left - 1);
}

/** Ids are numbers in some versions and texts in others. */
function nodeAt(graph, id) {
    return graph.getNodeById(id) ?? graph.getNodeById(Number(id)) ?? null;
}

function linkOf(graph, id) {
    if (id === null || id === undefined || !graph) return null;
    return graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id] ?? null;
}

/**
 * @param {any} app
 * @param {any} trainer
 * @returns {{sources: any[], other: any|null}} The Load Dataset nodes whose pictures it trains on, or the node at
 *     which nobody can tell before a run; none and null without a wire.
 */
export function datasetOf(app, trainer) {
    let left = DEEPEST; // of all branches together: joins of joins may share their parts
    const collect = (node, name) => {
        const origin = originOf(app, node, name)?.node;
        if (!origin) return { sources: [], other: node === trainer ? null : node };
        if (isLoadDataset(origin)) return { sources: [origin], other: null };
        const names = inputsOf(origin);
        left -= 1;
        if (!names.length || left < 0) return { sources: [], other: origin };
        const parts = names.map((each) => collect(origin, each));
        const other = parts.find((part) => part.other)?.other ?? null;
        const sources = parts.flatMap((part) => part.sources);
        const isKnown = !other && sources.length <= MOST_JOINED;
        return isKnown ? { sources, other: null } : { sources: [], other: other ?? origin };
    };
    return collect(trainer, "dataset");
}

/** Inputs of the datasets that a node gives on, as many pictures as they are. */
function inputsOf(node) {
    if (typeOf(node) === JOIN_DATASETS) return ["dataset_1", "dataset_2"];
    return PASS_ON.has(typeOf(node)) ? ["dataset"] : [];
}

/**
 * @param {any} app
 * @param {any} source A Load Dataset node.
 * @returns {any|null} The first trainer that trains on it.
 */
export function trainerOf(app, source) {
    let found = null;
    eachNode(app, (node) => {
        if (!found && isTrainer(node) && !node.mode && datasetOf(app, node).sources.includes(source)) found = node;
    });
    return found;
}
