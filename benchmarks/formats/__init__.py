"""Reads data sets that come as other files than annotations of LVIS or COCO, and names from a file of one's own; and
writes any data set as annotations."""
