"""The benchmarks by name, as strings, so that listing them imports nothing.

Adding a benchmark is one file (a class with the methods of `harness.protocols.Benchmark` and the constructor
`(settings, data)`) and one line here.
"""

BENCHMARKS = {
    # Rendered; needs no data. Settings: benchmarks.shapes_pictures.ShapesSettings.
    "shapes": "benchmarks.shapes:Shapes",
    # Annotation files. Settings: benchmarks.annotation_files.DataSetSettings. `split` names a published data set in its
    # usual layout (benchmarks.published says which, and where the files are published); or train, val and images name
    # files of one's own. train_images, val_images, calibration_images say how many images are used.
    "lvis": "benchmarks.lvis:Lvis",
    "coco": "benchmarks.coco:Coco",
    # Other formats, of one's own data. Settings: VocSettings, YoloSettings, HfSettings.
    "voc": "benchmarks.voc:Voc",
    "yolo": "benchmarks.yolo:Yolo",
    "hf": "benchmarks.hf:Hf",
}
