"""Model families. Adding one is one file and one line here; listing names imports nothing heavy."""

ADAPTERS = {
    "open_flamingo": "model_zoo.open_flamingo:OpenFlamingo",
    "pix2seq": "model_zoo.pix2seq:Pix2Seq",
    "oracle-uniform": "model_zoo.oracle:OracleUniform",
    "oracle-collapsed": "model_zoo.oracle:OracleCollapsed",
}
