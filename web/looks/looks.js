/** Looks: what nodes show of their dataset and settings before anything runs. */

import { make } from "../panel/elements.js";
import { DatasetLook } from "./dataset_look.js";
import { Ticker } from "./follower.js";
import { isLoadDataset } from "./graph_links.js";
import { whileInGraph } from "./in_graph.js";
import { PresetLook } from "./preset_look.js";

const RUN_ENDED = ["execution_success", "execution_error", "execution_interrupted", "reconnected"];

/**
 * @param {any} app ComfyUI's app.
 * @param {any} api ComfyUI's api.
 * @param {(key: string, values?: object) => string} texts Words of locales main.json, as in "looks.report".
 * @returns {{nodeCreated: (node: any) => void,
 *     presetLook: (node: any, options?: {onHeight?: () => void}) => {element: HTMLElement,
 *     height: () => number, start: () => void, stop: () => void, show: (isShown: boolean) => void}}} The look of
 *     a trainer follows its node while it is shown, between start (in a graph) and stop (out of it).
 */
export function registerLooks(app, api, texts) {
    document.head.append(make("link", { rel: "stylesheet", href: new URL("./looks.css", import.meta.url).href }));
    const ticker = new Ticker();
    const looks = new Set();
    const tab = Math.random().toString(36).slice(2);
    let count = 0;
    const nextAsker = () => `${tab} ${(count += 1)}`;

    const start = (look) => {
        const tick = (now) => look.tick(now);
        look.start();
        looks.add(look);
        ticker.add(tick);
        return () => {
            ticker.remove(tick);
            looks.delete(look);
            look.stop();
        };
    };
    // files may have changed: by a run, or by the user in another window
    const refreshAll = () => looks.forEach((look) => look.refresh());
    for (const name of RUN_ENDED) api.addEventListener(name, refreshAll);
    window.addEventListener("focus", refreshAll);

    return {
        nodeCreated(node) {
            if (!isLoadDataset(node)) return;
            const look = new DatasetLook(app, api, node, texts, nextAsker());
            whileInGraph(node, () => start(look));
        },
        presetLook(node, { onHeight } = {}) {
            const look = new PresetLook(app, api, node, texts, { asker: nextAsker(), onHeight });
            let isStarted = false;
            let isShown = false;
            let end = null;
            const settle = () => {
                if (isStarted && isShown) {
                    end ??= start(look);
                } else {
                    end?.();
                    end = null;
                }
            };
            return {
                element: look.element,
                height: () => look.height(),
                start() {
                    isStarted = true;
                    settle();
                },
                stop() {
                    isStarted = false;
                    settle();
                },
                show(isWanted) {
                    isShown = isWanted;
                    settle();
                },
            };
        },
    };
}
