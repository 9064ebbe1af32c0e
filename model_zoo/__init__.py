"""Model families. Adding one is one file and one line here; listing names imports nothing heavy."""

ADAPTERS = {
    "open_flamingo": "model_zoo.flamingo.toy:OpenFlamingo",
    "open_flamingo_hf": "model_zoo.flamingo.published:OpenFlamingoHf",
    "pix2seq": "model_zoo.pix2seq:Pix2Seq",
    "vlm": "model_zoo.vlm.adapter:Vlm",
    "oracle-uniform": "model_zoo.oracle:OracleUniform",
    "oracle-collapsed": "model_zoo.oracle:OracleCollapsed",
}
