"""Lists the model families by name. Adding one is one file and one line here; listing names imports nothing heavy."""

ADAPTERS = {
    "open_flamingo": "model_zoo.flamingo.toy:OpenFlamingo",
    "open_flamingo_hf": "model_zoo.flamingo.published:OpenFlamingoHf",
    "pix2seq": "model_zoo.pix2seq:Pix2Seq",
    "vlm": "model_zoo.vlm.adapter:Vlm",
    "oracle-uniform": "model_zoo.oracle:OracleUniform",
    "oracle-collapsed": "model_zoo.oracle:OracleCollapsed",
}

SETTINGS = {
    "open_flamingo": "model_zoo.settings.open_flamingo",
    "open_flamingo_hf": "model_zoo.settings.open_flamingo_hf",
    "pix2seq": "model_zoo.settings.pix2seq",
    "vlm": "model_zoo.settings.vlm",
}
"""The module that answers for a model's settings without importing the model, by functions of the names that
harness.protocols gives to methods (`problems`, `places`, ...). Models that are not here are asked themselves."""
