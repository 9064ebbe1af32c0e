"""Model families. Adding one is one file and one line here; listing names imports nothing heavy."""

ADAPTERS = {
    "open_flamingo": "model_zoo.open_flamingo:OpenFlamingo",
    "oracle-uniform": "model_zoo.oracle:OracleUniform",
    "oracle-collapsed": "model_zoo.oracle:OracleCollapsed",
}
