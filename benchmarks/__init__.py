"""The benchmarks by name, as strings, so that listing them imports nothing.

Adding a benchmark is one file (a class with the methods of `harness.protocols.Benchmark` and the constructor
`(settings, data)`) and one line here.
"""

BENCHMARKS = {
    "shapes": "benchmarks.shapes:Shapes",
    "lvis": "benchmarks.lvis:Lvis",
}
