"""web/panel/run_store.js by itself: what a browser knows of a run after lost, doubled and foreign events."""

import pytest

ID, OTHER = "0123456789abcdef", "fedcba9876543210"
SERVER = """
const ID = "0123456789abcdef", OTHER = "fedcba9876543210";
const { RunStore } = await import("/panel/run_store.js");
const asked = [];
const server = { revision: 3, last: 3, isSlow: false, isGone: false };
const light = (id, revision, last) => ({
    id, node: "5", workflow: "w", prompt: "p", name: "cat", state: "training",
    revision, step: last, num_steps: 50 });
const points = (first, last) => {
    const step = Array.from({ length: last - first + 1 }, (_, i) => first + i);
    return { step, loss: step.map((s) => s / 100), learning_rate: step.map(() => 1e-4) };
};
const curve = (last) => {
    const { step, loss, learning_rate } = points(1, last);
    return { step, loss, low: loss, high: loss, learning_rate };
};
const waiting = [];
async function fetchApi(path) {
    asked.push(path);
    const { revision, last } = server;
    if (server.isGone) throw new TypeError("no network");
    if (path.endsWith("/wishes")) return server.answer();
    if (path.endsWith("/runs") && server.isNew) return Response.json({ runs: [] });
    if (path.endsWith("/runs")) return Response.json({ runs: [light(ID, revision, last)] });
    if (server.isSlow) await new Promise((done) => waiting.push(done));
    const validation = { step: [], loss: [], best_step: null };
    const rest = { validation, checkpoints: [], previews: { prompts: [], steps: [] } };
    return Response.json({ ...light(ID, revision, last), history: curve(last), ...rest });
}
const events = new EventTarget();
const send = (detail) => events.dispatchEvent(new CustomEvent("sdxl_trainer.run", { detail }));
const step = (revision, first, last, id = ID) =>
    send({ ...light(id, revision, last), points: points(first, last) });
const idle = async () => { for (let i = 0; i < 20; i++) await new Promise((done) => setTimeout(done)); };
const wholes = () => asked.filter((path) => !path.endsWith("/runs")).length;
const steps = (id = ID) => [...store.run(id).history.column("step")];
const store = new RunStore({ fetchApi, events });
await store.start();
store.keep(ID);
await idle();
const known = wholes();
"""


@pytest.fixture
def in_store(web_tab):
    """A function that runs code beside a RunStore that keeps the run ID, known up to step 3."""
    return lambda code: web_tab.evaluate(f"async () => {{ {SERVER} {code} }}")


def upto(last):
    return list(range(1, last + 1))


def test_events_in_order_add_their_points_and_ask_for_nothing(in_store):
    found = in_store("step(4, 4, 5); step(5, 6, 6); await idle(); return [steps(), wholes() - known];")
    assert found == [upto(6), 0]


def test_a_missed_event_fetches_the_whole_curve(in_store):
    code = """server.revision = 6; server.last = 9; step(6, 8, 9); await idle();
        return [steps(), wholes() - known];"""
    assert in_store(code) == [upto(9), 1]


def test_doubled_and_late_events_change_nothing(in_store):
    code = """step(4, 4, 5); step(4, 4, 5); step(2, 2, 2); await idle();
        return [steps(), wholes() - known, store.run(ID).state.revision];"""
    assert in_store(code) == [upto(5), 0, 4]


def test_events_that_arrive_while_the_curve_is_fetched_are_not_lost(in_store):
    code = """server.revision = 6; server.last = 9; server.isSlow = true;
        step(6, 8, 9); await idle(); step(7, 10, 11); step(8, 12, 12);
        server.isSlow = false; waiting.forEach((done) => done()); await idle();
        step(9, 13, 13); await idle();
        return [steps(), store.run(ID).state.step];"""
    assert in_store(code) == [upto(13), 13]


def test_another_run_does_not_touch_this_one(in_store):
    code = """step(1, 1, 7, OTHER); await idle();
        return [steps(), wholes() - known, store.runs().map((run) => run.id)];"""
    assert in_store(code) == [upto(3), 0, [OTHER, ID]]


@pytest.mark.parametrize("detail", ["null", "{}", '{ id: "../x", revision: 1 }', "{ id: ID, revision: 'a' }"])
def test_a_malformed_event_is_left_alone(in_store, detail):
    code = f"send({detail}); await idle(); return [store.runs().length, steps(), wholes() - known];"
    assert in_store(code) == [1, upto(3), 0]


def test_a_lost_connection_is_caught_up_once_it_is_back(in_store):
    code = """server.revision = 30; server.last = 40;
        events.dispatchEvent(new Event("reconnected")); await idle();
        return [steps(), store.run(ID).state.revision];"""
    assert in_store(code) == [upto(40), 30]


def test_a_server_out_of_reach_leaves_what_is_known(in_store):
    code = """server.isGone = true; events.dispatchEvent(new Event("reconnected")); await idle();
        return [steps(), store.runs().length];"""
    assert in_store(code) == [upto(3), 1]


def test_a_run_that_nobody_looks_at_costs_no_curve(in_store):
    code = """store.release(ID); server.revision = 6; server.last = 9; step(6, 8, 9); await idle();
        return [wholes() - known, store.run(ID).state.step];"""
    assert in_store(code) == [0, 9]


def test_done_is_told_once_and_only_when_it_was_seen_alive(in_store):
    code = """const told = []; store.addEventListener("done", (event) => told.push(event.detail.id));
        send({ ...light(ID, 4, 5), state: "done", points: points(4, 5) });
        send({ ...light(ID, 5, 5), state: "done" });
        send({ ...light(OTHER, 1, 5), state: "done" });
        await idle(); return told;"""
    assert in_store(code) == [ID]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Response.json({ ...light(ID, 3, 3), wishes: ['save'] })", ""),
        ("Response.json({ error: 'It has ended.' }, { status: 409 })", "It has ended."),
        ("new Response('bad gateway', { status: 502 })", None),
        ("Promise.reject(new TypeError('no network'))", None),
    ],
)
def test_a_wish_is_taken_refused_with_a_sentence_or_not_answered(in_store, answer, said):
    assert in_store(f"server.answer = async () => {answer}; return store.wish(ID, 'save');") == said


def test_a_lost_connection_is_told_once_and_so_is_its_end(in_store):
    code = """const told = []; store.addEventListener("connection", () => told.push(store.isConnected));
        for (const name of ["reconnecting", "reconnecting", "reconnected"])
            events.dispatchEvent(new Event(name));
        await idle(); return told;"""
    assert in_store(code) == [False, True]


PANEL = """
const { RunPanel } = await import("/panel/run_panel.js");
const { Texts } = await import("/panel/texts.js");
const words = {
    unreachable: "no answer", restarted: "began anew", no_connection: "lost", state_training: "on" };
const panel = new RunPanel(store, new Texts({ panel: words }), {
    urlOf: (path) => path, openReport() {}, apply: null, openPicture: null });
document.body.append(panel.element);
panel.start();
panel.show(ID);
const drawn = async () => { for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame); };
const shown = (selector) => {
    const found = panel.element.querySelector(selector);
    return found.checkVisibility() ? found.textContent : null;
};
const words_of = () => shown(".sdxlt-near .sdxlt-message");
await drawn();
"""


def test_a_refusal_goes_once_the_run_has_something_new_to_say(in_store):
    code = """send({ ...light(ID, 4, 4), can: ["save"] }); await drawn(); server.isGone = true;
        panel.element.querySelector("[data-wish=save]").click(); await idle(); await drawn();
        const refused = words_of(); server.isGone = false;
        send({ ...light(ID, 5, 5), can: ["save"] }); await drawn(); const kept = words_of();
        send({ ...light(ID, 6, 5), state: "failed", message: "out of memory" }); await drawn();
        return [refused, kept, words_of()];"""
    assert in_store(PANEL + code) == ["no answer", "no answer", "out of memory"]


def test_a_run_lost_with_its_server_is_told_and_steered_no_more(in_store):
    code = """send({ ...light(ID, 4, 4), can: ["save"] }); await drawn();
        const button = panel.element.querySelector("[data-wish=save]"), before = button.disabled;
        events.dispatchEvent(new Event("reconnecting")); await drawn();
        const meanwhile = [shown(".sdxlt-state"), button.disabled];
        server.isNew = true; events.dispatchEvent(new Event("reconnected")); await idle(); await drawn();
        panel.show(""); return [before, meanwhile, shown(".sdxlt-notice"), panel.element.dataset.state];"""
    assert in_store(PANEL + code) == [False, ["lost", True], "began anew", "idle"]


def test_a_panel_that_was_stopped_hears_nothing_until_it_starts_again(in_store):
    code = """panel.stop(); const before = wholes(); step(9, 8, 9); await idle();
        const heard = wholes() - before; panel.start(); server.last = 9; server.revision = 9; panel.show(ID);
        await idle(); await drawn(); return [heard, panel.runId === ID, shown(".sdxlt-state")];"""
    assert in_store(PANEL + "store.release(ID);" + code) == [0, True, "on"]


def test_a_run_that_failed_before_its_first_step_shows_its_words_and_no_chart(in_store):
    code = """send({ ...light(OTHER, 1, 0), state: "failed", message: "no pictures" }); panel.show(OTHER);
        await drawn(); return [shown(".sdxlt-chart-box"), shown(".sdxlt-facts"), words_of()];"""
    assert in_store(PANEL + code) == [None, None, "no pictures"]


def test_a_sidebar_follows_the_run_under_way_until_a_row_is_clicked(in_store):
    code = """const { Sidebar } = await import("/panel/sidebar.js");
        const actions = { urlOf: (path) => path, openReport() {}, apply: null };
        const makePanel = (more) => new RunPanel(store, new Texts(), { ...actions, ...more });
        const sidebar = new Sidebar(store, new Texts(), makePanel, (path) => path);
        document.body.append(sidebar.element); await drawn();
        const seen = [sidebar.panel.runId];
        send({ ...light(ID, 4, 50), state: "done" }); send(light(OTHER, 1, 1)); await drawn();
        seen.push(sidebar.panel.runId, sidebar.chosen);
        sidebar.element.querySelectorAll(".sdxlt-run")[1].click();
        send({ ...light(OTHER, 2, 2), state: "failed" });
        send(light("00000000000000aa", 1, 1)); await drawn();
        return [...seen, sidebar.panel.runId, sidebar.chosen];"""
    assert in_store(PANEL + code) == [ID, OTHER, "", ID, ID]


@pytest.mark.parametrize(
    ("name", "is_asked"),
    [("cat", True), ("cat-2", True), ("cat-12", True), ("cat-old", False), ("dog", False), ("", True)],
)
def test_a_node_asks_for_a_run_by_its_name_or_one_with_a_number(web_tab, name, is_asked):
    node = {"widgets": [{"name": "steps", "value": 5}, {"name": "name", "value": "cat"}]}
    found = web_tab.evaluate(
        "async ([node, name]) => (await import('/panel/graph_nodes.js')).asksForName(node, name)",
        [node, name],
    )
    assert found is is_asked
