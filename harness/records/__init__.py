"""Reads and writes what a cell leaves behind: its record, tables, gallery and log, and where they are."""

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
