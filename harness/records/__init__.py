"""What a cell leaves behind: its record, its tables, its gallery, its log, and where they lie."""

from harness.records.record import (
    FORMAT,
    GALLERY,
    GREEDY,
    PUBLISHED_TABLES,
    RECORD,
    TABLES,
    CategoryInfo,
    CellInfo,
    EvaluationInfo,
    Figures,
    Record,
    digest_of,
    read_record,
    record_time,
    verify_files,
    write_record,
)

__all__ = [
    "FORMAT",
    "GALLERY",
    "GREEDY",
    "PUBLISHED_TABLES",
    "RECORD",
    "TABLES",
    "CategoryInfo",
    "CellInfo",
    "EvaluationInfo",
    "Figures",
    "Record",
    "digest_of",
    "read_record",
    "record_time",
    "verify_files",
    "write_record",
]
