/** SDXL Trainer in the browser: the one module that knows ComfyUI's app; the others are given what they need. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { registerLooks } from "./looks/looks.js";
import { addApplyNode } from "./panel/apply_node.js";
import { NodePanels } from "./panel/node_panels.js";
import { RunPanel } from "./panel/run_panel.js";
import { RunStore } from "./panel/run_store.js";
import { Sidebar, TAB } from "./panel/sidebar.js";
import { readTexts } from "./panel/texts.js";
import { tellWhenDone } from "./panel/toast.js";

const STYLES = ["./vendor/uplot/uPlot.min.css", "./panel/panel.css", "./panel/sidebar.css"];
const ICON = "pi pi-chart-line";

const fetchApi = (path, options) => api.fetchApi(path, options);
const urlOf = (path) => api.apiURL(path);

let panels = null;
let looks = null;

function linkStyles() {
    for (const path of STYLES) {
        const link = document.createElement("link");
        link.rel = "stylesheet";
        link.href = new URL(path, import.meta.url).href;
        document.head.append(link);
    }
}

function openReport(state) {
    window.open(urlOf(`/sdxl_trainer/runs/${encodeURIComponent(state.id)}/report`), "_blank", "noopener");
}

/** The sidebar tab, which ComfyUI makes when it is opened and drops when it is closed. */
class SidebarTab {
    #make;
    #sidebar = null;
    #wanted = null;

    /** @param {() => Sidebar} make */
    constructor(make) {
        this.#make = make;
    }

    render(element) {
        this.#sidebar = this.#make();
        element.append(this.#sidebar.element);
        if (this.#wanted) this.#sidebar.open(...this.#wanted);
    }

    destroy() {
        this.#wanted = this.#sidebar?.chosen ? [this.#sidebar.chosen] : null;
        this.#sidebar?.destroy();
        this.#sidebar = null;
    }

    open(runId, step, prompt) {
        this.#wanted = [runId, step, prompt];
        if (this.#sidebar) this.#sidebar.open(runId, step, prompt);
        else app.extensionManager.sidebarTab.activeSidebarTabId = TAB;
    }
}

function registerTab(tab, texts) {
    app.extensionManager.registerSidebarTab({
        id: TAB,
        icon: ICON,
        title: texts.text("sidebar.title"),
        tooltip: texts.text("sidebar.tooltip"),
        type: "custom",
        render: (element) => tab.render(element),
        destroy: () => tab.destroy(),
    });
}

app.registerExtension({
    name: "sdxl_trainer",

    async init() {
        linkStyles();
        const texts = await readTexts(fetchApi, app.extensionManager.setting.get("Comfy.Locale") ?? "en");
        const store = new RunStore({ fetchApi, events: api });
        const makePanel = (actions) => new RunPanel(store, texts, { urlOf, openReport, apply, ...actions });
        const tab = new SidebarTab(() => new Sidebar(store, texts, makePanel, urlOf));
        const openPicture = (runId, step, prompt) => tab.open(runId, step, prompt);
        looks = registerLooks(app, api, (key, values) => texts.text(key, values));
        panels = new NodePanels(
            app,
            store,
            (_node, actions) => makePanel({ openPicture, ...actions }),
            looks.presetLook,
        );
        registerTab(tab, texts);
        tellWhenDone(app, store, texts);
        store.start();
    },

    nodeCreated(node) {
        looks?.nodeCreated(node);
        panels?.nodeCreated(node);
    },

    afterConfigureGraph() {
        panels?.bind();
    },
});

function apply(state) {
    addApplyNode(app, panels.nodeOf(state.id), state.lora_file);
}
