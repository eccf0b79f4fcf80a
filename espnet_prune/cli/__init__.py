"""The command ``espnet-prune``: a module for each verb, with ``main``."""

VERBS = {
    "say": "speak texts in the voice of a recording",
    "demo": "serve a web page that speaks",
    "score": "score speech: error rate, similarity, predicted MOS, with intervals",
    "listen": "make a listening test, or collect its ratings",
    "report": "thresholds, losses, scores and speech of experiments on one page",
    "attention": "draw attention before and after the mask",
    "sweep": "compare the experiments of a sweep",
    "mismatch": "compare systems against the distance of the speakers",
    "card": "write the model card of an experiment",
    "check": "check that a packed model produces the same samples",
    "align": "find where each token of recordings ends, for given durations",
    "durations": "convert durations from seconds to frames",
    "bpe": "train a sentencepiece model and its token list",
    "voice": "save the voice of recordings in a file",
    "vocode": "send recordings through a mel and a vocoder",
    "export": "write a model in the ONNX format, to speak without torch",
    "merge": "merge YAML files of settings into one",
    "plan": "check a training configuration and plan its phases",
    "benchmark": "measure what pruning costs in time",
}
