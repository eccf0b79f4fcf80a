"""The command ``espnet-prune``: a module per verb, with ``get_parser`` and ``main``."""

VERBS = {
    "say": "say texts in the voice of a recording",
    "score": "score speech: error rate, similarity, predicted MOS, with intervals",
    "listen": "make a listening test, or collect its ratings",
    "report": "thresholds, losses, scores and speech of experiments on one page",
    "attention": "draw attention before and after the mask",
    "sweep": "put the experiments of a sweep side by side",
    "card": "write the model card of an experiment",
    "check": "check that a packed model says the same as before",
    "align": "find where each token of recordings ends, for given durations",
    "durations": "durations in seconds to durations in frames",
    "bpe": "train a sentencepiece model and its token list",
    "voice": "keep the voice of recordings in a file",
    "vocode": "send recordings through a mel and a vocoder",
    "merge": "merge YAML files of settings into one",
    "plan": "check a training configuration and plan its phases",
    "benchmark": "measure what pruning costs in time",
}
