/** The sentences of arithmetic, from the numbers of the backend's answers, in the reader's language. */

const COUNTED = {
    picture: ["looks.picture", "looks.pictures"],
    repeat: ["looks.repeat", "looks.repeats"],
    sample: ["looks.sample", "looks.samples"],
    step: ["looks.step", "looks.steps"],
    epoch: ["looks.epoch", "looks.epochs"],
};

/** @typedef {(key: string, values?: object) => string} Words */

/**
 * @param {number} value
 * @returns {string} As in "1,200", "7.5" and "110".
 */
function numberText(value) {
    return Number(value).toLocaleString("en-US", { maximumFractionDigits: 1 });
}

/**
 * @param {Words} texts
 * @param {keyof COUNTED} what
 * @param {number} count
 * @returns {string} As in "1 picture" and "12 pictures".
 */
function counted(texts, what, count) {
    const [one, many] = COUNTED[what];
    return texts(count === 1 ? one : many, { count: numberText(count) });
}

/**
 * @param {Words} texts
 * @param {{repeats: [number, number][], samples: number}} answer
 * @returns {string} From the pictures of a dataset to the samples of an epoch.
 */
export function samplesSentence(texts, { repeats, samples }) {
    const terms = repeats.map(([pictures, times]) =>
        texts("looks.term", {
            pictures: counted(texts, "picture", pictures),
            repeats: counted(texts, "repeat", times),
        }),
    );
    return texts("looks.samples_of", { terms: terms.join(" + "), samples: counted(texts, "sample", samples) });
}

/**
 * @param {Words} texts
 * @param {{batch: number, accumulation: number, an_epoch: number}} numbers
 * @returns {string} Steps of an epoch, as in "at batch 4: 3 steps an epoch".
 */
export function epochText(texts, { batch, accumulation, an_epoch }) {
    return texts("looks.at_batch", {
        batch: batchText(texts, batch, accumulation),
        steps: counted(texts, "step", an_epoch),
    });
}

function batchText(texts, batch, accumulation) {
    return texts(accumulation > 1 ? "looks.batch_accumulated" : "looks.batch", { batch, accumulation });
}

/**
 * @param {Words} texts
 * @param {{steps: number, epochs: number}} answer
 * @returns {string} How long a run is, as in "240 steps = 10 epochs".
 */
export function lengthText(texts, { steps, epochs }) {
    return texts("looks.length", { steps: counted(texts, "step", steps), epochs: counted(texts, "epoch", epochs) });
}

/**
 * @param {Words} texts
 * @param {{steps: number, epochs: number, numbers: null|{pictures: number, samples: number, batch: number,
 *     accumulation: number, an_epoch: number}}} answer
 * @returns {string} From the pictures trained on to the steps and epochs of a run; "" where they are not known.
 */
export function runSentence(texts, answer) {
    if (!answer.numbers) return "";
    const { pictures, samples, batch, accumulation, an_epoch } = answer.numbers;
    return texts("looks.run_of", {
        pictures: counted(texts, "picture", pictures),
        samples: counted(texts, "sample", samples),
        batch: batchText(texts, batch, accumulation),
        steps: counted(texts, "step", an_epoch),
        length: lengthText(texts, answer),
    });
}
